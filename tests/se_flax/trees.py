"""Trees of JAX arrays in tests: compared bit by bit, saved and restored."""

from pathlib import Path
from typing import Any

import numpy as np

from ..conftest import OnDemand

jax, nnx, orbax, serialization = (
    OnDemand(name) for name in ("jax", "flax.nnx", "orbax.checkpoint", "flax.serialization")
)


def bits(tree: Any) -> list[tuple[np.dtype, bytes]]:
    """List the paths, dtypes and bytes of a tree, so that NaN equals itself and -0.0 is not 0.0."""
    return [(leaf.dtype, leaf.tobytes()) for leaf in map(np.asarray, jax.tree.leaves(tree))]


def assert_restored_to_the_bit(api: str, saved: Any, other: Any, path: Path) -> None:
    """Save a tree by Orbax and as Flax's bytes, and restore it into the structure of another."""
    assert bits(saved) != bits(other)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, saved)
        checkpointer.wait_until_finished()
        assert bits(checkpointer.restore(path, other)) == bits(saved)
    if api == "nnx":  # to Flax's bytes through plain dicts
        saved, other = nnx.to_pure_dict(saved), nnx.to_pure_dict(other)
    assert bits(serialization.from_bytes(other, serialization.to_bytes(saved))) == bits(saved)
