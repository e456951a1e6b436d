"""The gates of every SE block of a model, recorded while it runs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from se_spec import InputError
from se_spec.records import Record, name_call

from ..ops import record_call
from .block import SqueezeExcitation
from .recognition import call_model

METHODS = "__call__", "excitation"


def gates(model: nn.Module, variables: Mapping[str, Any], images: Any) -> dict[str, np.ndarray]:
    """Compute the gates of every block of a model.

    Args:
        model: holds our blocks; ``replace`` puts them in the place of others'.
        variables: its variables.
        images: what it is called with: an array, a tuple of arguments or a dict of keywords.

    Returns:
        The gates (N, C) by the block's path, without the gain, in the order of the calls; float32, or float64 if the
        map is.

    Raises:
        InputError: the model calls no block, or calls one under a transformation such as ``nn.jit``.

    >>> import jax, jax.numpy as jnp
    >>> model, x = nn.Sequential([nn.Conv(8, (1, 1)), SqueezeExcitation(8, hidden=2)]), jnp.ones((4, 5, 5, 3))
    >>> variables = model.init(jax.random.key(0), x)
    >>> {path: g.shape for path, g in gates(model, variables, x).items()}
    {'layers_1': (4, 8)}
    """
    return {path: entry.gates for path, entry in record(model, variables, images).items()}


def record(model: nn.Module, variables: Mapping[str, Any], images: Any) -> dict[str, Record]:
    """Record what every block of a model does to images.

    Args:
        model: as in ``gates``.
        variables: as in ``gates``.
        images: as in ``gates``.

    Returns:
        A record by the block's path: its gates, and how strong its map was at each position before and after.

    Raises:
        InputError: as ``gates``.

    >>> import jax, jax.numpy as jnp
    >>> model, x = nn.Sequential([nn.Conv(8, (1, 1)), SqueezeExcitation(8, hidden=2)]), jnp.ones((4, 5, 7, 3))
    >>> record(model, model.init(jax.random.key(0), x), x)["layers_1"].after.shape
    (4, 5, 7)
    """
    records: dict[str, Record] = {}
    is_recording = False

    def intercept(call: Callable[..., Any], arguments: Any, options: Any, context: Any) -> Any:
        nonlocal is_recording
        block = context.module  # a block that stands for a gate alone is asked for its excitation, as the record is
        if isinstance(block, SqueezeExcitation) and context.method_name in METHODS and not is_recording:
            path, x, is_recording = "/".join(block.path), arguments[0] if arguments else options["x"], True
            try:
                records[name_call(path, records)] = record_call(block, x, path)
            finally:
                is_recording = False
        return call(*arguments, **options)

    with nn.intercept_methods(intercept):
        call_model(model, variables, images)
    if not records:
        raise InputError(f"{type(model).__name__} calls no SqueezeExcitation; replace puts it in the place of others")
    return records
