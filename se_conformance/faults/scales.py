"""Wrong ways to put the gate on the feature map."""

from typing import Any

import numpy as np

from se_spec import SESpec

from .block import Array, Block, over
from .fault import Applies, Fault, Wrong, always, fields, stage


def _on_width(block: Block, right: Wrong, x: Array, g: Array, z: Array) -> Array:
    """(N, C) against (N, *space, C) without new axes: NumPy's rule lines it up with the last axes."""
    y = x * block.spec.gain * g
    return y + x if block.spec.residual else y


def _on_axis_one(block: Block, right: Wrong, x: Array, g: Array, z: Array) -> Array:
    """g[:, :, None, None] on a channels-last map: the gates go along axis 1."""
    y = x * block.spec.gain * g.reshape(*g.shape, *(1 for _ in range(x.ndim - 2)))
    return y + x if block.spec.residual else y


def _beyond(limit: int) -> Wrong:
    def wrong(block: Block, right: Wrong, v: Array) -> Array:
        g = right(v).copy()
        g[..., limit:] = 1.0
        return g

    return wrong


def _part(keep: Wrong) -> Wrong:
    """The block on a part of the map, x itself on the rest."""

    def wrong(block: Block, right: Wrong, y: Array, x: Array) -> Array:
        return np.where(keep(x), right(y, x), x)

    return wrong


def _not_last_sample(x: Array) -> Array:
    return (np.arange(len(x)) < max(1, len(x) - 1)).reshape(-1, *(1 for _ in x.shape[1:]))


def _not_odd_edge(x: Array) -> Array:
    inside: Any = np.ones(x.shape[1:-1], bool)
    for axis, size in enumerate(x.shape[1:-1]):
        if size % 2 and size > 1:
            inside[(*[slice(None)] * axis, -1)] = False
    return inside[None, ..., None]


def _fault(name: str, sentence: str, source: str, remedy: str, change: Wrong, applies: Applies = always) -> Fault:
    return Fault(name, "scale", sentence, source, remedy, change, applies)


def _small(spec: SESpec) -> bool:
    return 1 < spec.channels <= 64


SCALES = (
    _fault(
        "gate broadcast along the width",
        "x (N, H, W, C) times g (N, C): right for one sample, silent where N = W",
        "a Keras tutorial of this block",
        "reshape the gate to (N, 1, 1, C)",
        stage("scale", _on_width),
    ),
    _fault(
        "gate broadcast along axis 1",
        "g[:, :, None, None] on a channels-last map: silent where H = C",
        "keras#18485, tensorflow#43880",
        "name the data format",
        stage("scale", _on_axis_one),
        _small,
    ),
    _fault(
        "gate added instead of multiplied",
        "x + g",
        "Add for Multiply",
        "multiply",
        stage("scale", lambda block, right, x, g, z: x + block.spec.gain * over(g, x)),
    ),
    _fault(
        "gate applied twice",
        "x g g: once in the block, once by its caller",
        "nfnets and mmcls return the gate",
        "scale once",
        stage("scale", lambda block, right, x, g, z: right(x, g * g, z)),
    ),
    _fault(
        "squeezed values scaled instead of x",
        "z g, broadcast",
        "the wrong variable",
        "scale x",
        stage("scale", lambda block, right, x, g, z: right(np.broadcast_to(over(z, x), x.shape), g, z)),
    ),
    _fault(
        "gate returned instead of the scaled map",
        "y = g",
        "nfnets' convention",
        "multiply x by it",
        stage("scale", lambda block, right, x, g, z: np.broadcast_to(block.spec.gain * over(g, x), x.shape)),
    ),
    _fault(
        "block not applied",
        "y = x",
        "keras-team/keras-cv#1502: built and never called",
        "call it",
        stage("output", lambda block, right, y, x: x),
    ),
    _fault(
        "output is zero",
        "y = 0",
        "an uninitialised buffer",
        "write the result",
        stage("output", lambda block, right, y, x: 0.0 * x),
    ),
    _fault(
        "gain missing",
        "the gate without its gain",
        "NFNet ports",
        "multiply the gate by the gain",
        fields(gain=1.0),
        lambda spec: spec.gain != 1.0,
    ),
    _fault(
        "gain applied twice",
        "the gain in the gate and in the product",
        "NFNet ports",
        "apply it once",
        fields(gain=lambda spec: spec.gain**2),
        lambda spec: spec.gain not in (1.0, 0.0),
    ),
    _fault(
        "gain of 2 where there is none",
        "NFNet's factor",
        "NFNet code used for another net",
        "drop it",
        fields(gain=lambda spec: 2.0 * spec.gain),
        lambda spec: spec.gain == 1.0,
    ),
    _fault(
        "residual missing",
        "x g without + x",
        "MONAI ports",
        "add x",
        fields(residual=False),
        lambda spec: spec.residual,
    ),
    _fault(
        "residual added",
        "x g + x",
        "MONAI's residual block",
        "drop the addition",
        fields(residual=True),
        lambda spec: not spec.residual,
    ),
    _fault(
        "square root of the gate",
        "x sqrt(g): half the exponent",
        "a gate applied by halves",
        "scale by g",
        stage("scale", lambda block, right, x, g, z: right(x, np.sqrt(np.abs(g)), z)),
    ),
    _fault(
        "channels beyond 512 not gated",
        "a fixed buffer",
        "fixed-size kernels",
        "loop over all channels",
        stage("gate", _beyond(512)),
        lambda spec: spec.channels > 512,
    ),
    _fault(
        "channels beyond 32 not gated",
        "one warp of channels",
        "fixed-size kernels",
        "loop over all channels",
        stage("gate", _beyond(32)),
        lambda spec: spec.channels > 32,
    ),
    _fault(
        "last channel not gated",
        "range(C - 1)",
        "off by one",
        "loop over all channels",
        stage("gate", _beyond(-1)),
        lambda spec: spec.channels > 1,
    ),
    _fault(
        "last sample not scaled",
        "range(N - 1)",
        "the rest of a batch",
        "loop over all samples",
        stage("output", _part(_not_last_sample)),
    ),
    _fault(
        "last row and column not scaled on odd sizes",
        "vectors of two without the rest",
        "unrolled loops",
        "treat the rest",
        stage("output", _part(_not_odd_edge)),
    ),
)
