"""The gates of every SE block of a model, recorded while it runs."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from se_spec import InputError
from se_spec.records import Record, name_call, summarize

from .block import SqueezeExcitation
from .ops import widen
from .replacement import call_model


def gates(model: keras.Layer, images: Any) -> dict[str, np.ndarray]:
    """Compute the gates of every block of a model.

    Args:
        model: holds our blocks; ``replace`` puts them in the place of others'.
        images: what the model is called with: an array, or a list or dict of arrays.

    Returns:
        The gates (N, C) by the layer's name, without the gain, in the order of the calls; float32, or float64 if the
        layer computes in it.

    Raises:
        InputError: the model has no block, or called none.

    >>> layers = [keras.layers.Conv2D(8, 1), SqueezeExcitation(8, hidden=2, name="se")]
    >>> model = keras.Sequential([keras.Input((5, 5, 3)), *layers])
    >>> {name: g.shape for name, g in gates(model, np.ones((4, 5, 5, 3))).items()}
    {'se': (4, 8)}
    """
    return {name: entry.gates for name, entry in record(model, images).items()}


def record(model: keras.Layer, images: Any) -> dict[str, Record]:
    """Record what every block of a model does to images, in inference mode.

    Args:
        model: as in ``gates``.
        images: as in ``gates``.

    Returns:
        A record by the layer's name: its gates, and how strong its map was at each position before and after.

    Raises:
        InputError: as ``gates``.

    >>> model = keras.Sequential([keras.Input((5, 7, 8)), SqueezeExcitation(8, hidden=2, name="se")])
    >>> record(model, np.ones((4, 5, 7, 8)))["se"].after.shape
    (4, 5, 7)
    """
    blocks = [layer for layer in model._flatten_layers() if isinstance(layer, SqueezeExcitation)]
    if not blocks:
        raise InputError(
            f"{type(model).__name__} has no SqueezeExcitation; replace(model) puts it in the place of others"
        )
    names = [block.name for block in blocks]
    records: dict[str, Record] = {}
    for block in blocks:
        name = block.name if names.count(block.name) == 1 else block.path
        block.__dict__["call"] = _record_calls(records, name, block)
    try:
        call_model(model, images)
    finally:
        for block in blocks:
            del block.__dict__["call"]
    if not records:
        raise InputError(f"the model called none of its blocks: {', '.join(names)}")
    return records


def _record_calls(records: dict[str, Record], name: str, block: SqueezeExcitation) -> Callable[..., Any]:
    """Return the block's call, which also writes a record."""
    call = block.call

    def call_and_record(x: Any, gate_only: bool = False) -> Any:
        if not gate_only:
            g = ops.convert_to_numpy(call(x, gate_only=True))
            s = block.spec.gain * g + float(block.spec.residual)
            records[name_call(name, records)] = summarize(ops.convert_to_numpy(widen(x)), g, s)
        return call(x, gate_only=gate_only)

    return call_and_record
