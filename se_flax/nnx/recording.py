"""The gates of every SE block of a model, recorded while it runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from se_spec import InputError
from se_spec.records import Record, name_call

from ..ops import record_call
from .block import SqueezeExcitation
from .replacement import call_module
from .variables import list_parts


def gates(model: nnx.Module, images: Any) -> dict[str, np.ndarray]:
    """Compute the gates of every block of a model.

    Args:
        model: holds our blocks; ``replace`` puts them in the place of others'.
        images: what the model is called with: an array, a tuple of arguments or a dict of keywords.

    Returns:
        The gates (N, C) by the block's path, without the gain, in the order of the calls; float32, or float64 if the
        map is.

    Raises:
        InputError: the model has no block, called none, or called one under a transformation such as ``nnx.jit``.

    >>> model = nnx.Sequential(nnx.Conv(3, 8, (1, 1), rngs=nnx.Rngs(0)), SqueezeExcitation(8, hidden=2))
    >>> {path: g.shape for path, g in gates(model, jnp.ones((4, 5, 5, 3))).items()}
    {'layers.1': (4, 8)}
    """
    return {path: entry.gates for path, entry in record(model, images).items()}


def record(model: nnx.Module, images: Any) -> dict[str, Record]:
    """Record what every block of a model does to images, in evaluation mode; a copy of the model is called.

    Args:
        model: as in ``gates``.
        images: as in ``gates``.

    Returns:
        A record by the block's path: its gates, and how strong its map was at each position before and after.

    Raises:
        InputError: as ``gates``.

    >>> model = nnx.Sequential(nnx.Conv(3, 8, (1, 1), rngs=nnx.Rngs(0)), SqueezeExcitation(8, hidden=2))
    >>> record(model, jnp.ones((4, 5, 7, 3)))["layers.1"].after.shape
    (4, 5, 7)
    """
    twin = nnx.clone(model)
    twin.eval()
    blocks = {path: part for path, part in list_parts(twin).items() if isinstance(part, SqueezeExcitation)}
    if not blocks:
        raise InputError(
            f"{type(model).__name__} has no SqueezeExcitation; replace(model) puts it in the place of others"
        )
    records: dict[str, Record] = {}
    for path, block in blocks.items():
        object.__setattr__(block, "__class__", _make_recorder(type(block), records, path))
    call_module(twin, images)
    if not records:
        raise InputError(f"the model called none of its blocks: {', '.join(blocks)}")
    return records


def _make_recorder(kind: type[SqueezeExcitation], records: dict[str, Record], path: str) -> type[SqueezeExcitation]:
    """Make a class of a block that writes a record at each call."""

    class Recorder(kind):  # type: ignore[misc, valid-type]
        def __call__(self, x: jax.Array) -> jax.Array:
            is_first = getattr(self, "data_format", "channels_last") == "channels_first"
            records[name_call(path, records)] = record_call(self, jnp.moveaxis(x, 1, -1) if is_first else x, path)
            return super().__call__(x)

    return Recorder
