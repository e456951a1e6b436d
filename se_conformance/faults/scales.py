"""Faults of the scaling: the gate is applied to the feature map in a wrong way."""

from typing import Any

import numpy as np

from se_numpy.nonlinearities import activate
from se_spec import SESpec
from se_spec.nonlinearities import Activation

from .block import Array, Block, Parameters, broadcast_gate
from .fault import Applies, Change, Fault, FaultyStage, always, change_spec, replace_stage


def _broadcast_along_width(block: Block, right: FaultyStage, x: Array, g: Array, z: Array) -> Array:
    """Multiply (N, *space, C) by (N, C) without new axes, which NumPy aligns with the last axes."""
    y = x * block.spec.gain * g
    return y + x if block.spec.residual else y


def _broadcast_along_axis_one(block: Block, right: FaultyStage, x: Array, g: Array, z: Array) -> Array:
    """Apply g[:, :, None, None] to a channels-last map, so that gates lie along axis 1."""
    y = x * block.spec.gain * g.reshape(*g.shape, *(1 for _ in range(x.ndim - 2)))
    return y + x if block.spec.residual else y


def _leave_ungated_from(limit: int) -> FaultyStage:
    def wrong(block: Block, right: FaultyStage, v: Array) -> Array:
        g = right(v).copy()
        g[..., limit:] = 1.0
        return g

    return wrong


def _scale_where(keep: FaultyStage) -> FaultyStage:
    """Scale a part of the map and returns x on the rest."""

    def wrong(block: Block, right: FaultyStage, y: Array, x: Array) -> Array:
        return np.where(keep(x), right(y, x), x)

    return wrong


def _mask_without_last_sample(x: Array) -> Array:
    return (np.arange(len(x)) < max(1, len(x) - 1)).reshape(-1, *(1 for _ in x.shape[1:]))


def _mask_without_odd_edges(x: Array) -> Array:
    inside: Any = np.ones(x.shape[1:-1], bool)
    for axis, size in enumerate(x.shape[1:-1]):
        if size % 2 and size > 1:
            inside[(*[slice(None)] * axis, -1)] = False
    return inside[None, ..., None]


def _multiply_channels_first(block: Block, right: FaultyStage, x: Array, g: Array, z: Array) -> Array:
    """Multiply (N, C, *space) by (N, C) without new axes."""
    moved = np.moveaxis(x, -1, 1)
    y = moved * block.spec.gain * g
    return np.moveaxis(y + moved if block.spec.residual else y, 1, -1)


def _leave_samples_from(limit: int) -> Change:
    return replace_stage(
        "output",
        lambda block, right, y, x: np.concatenate([right(y, x)[:limit], x[limit:]]),
    )


def _repeat_gates_from(limit: int) -> Change:
    return replace_stage("gate", lambda block, right, v: right(v)[np.arange(len(v)) % limit])


def _activate_product(kind: Activation) -> Change:
    return replace_stage("output", lambda block, right, y, x: activate(right(y, x), kind))


def _add_logits(block: Block) -> None:
    """Add the logits to the scaled map; the expansion keeps them for the scaling of the same call."""
    logits: list[Array] = []
    expand, scale = block.expand, block.scale

    def keep(h: Array, p: Parameters) -> Array:
        logits[:] = [expand(h, p)]
        return logits[0]

    block.expand = keep
    block.scale = lambda x, g, z: scale(x, g, z) + broadcast_gate(logits[0], x)


def _fault(
    name: str,
    sentence: str,
    source: str,
    remedy: str,
    change: FaultyStage,
    applies: Applies = always,
    forms: tuple[Change, ...] = (),
) -> Fault:
    return Fault(name, "scale", sentence, source, remedy, change, applies, forms=forms)


def _has_few_channels(spec: SESpec) -> bool:
    return 1 < spec.channels <= 64


SCALES = (
    _fault(
        "gate broadcast along the width",
        "x (N, H, W, C) times g (N, C): right for one sample, silent where N = W",
        "a Keras tutorial of this block",
        "reshape the gate to (N, 1, 1, C)",
        replace_stage("scale", _broadcast_along_width),
    ),
    _fault(
        "gate broadcast along axis 1",
        "g[:, :, None, None] on a channels-last map: silent where H = C",
        "keras#18485, tensorflow#43880",
        "name the data format",
        replace_stage("scale", _broadcast_along_axis_one),
        _has_few_channels,
    ),
    _fault(
        "map of channels first times the gate (N, C)",
        "x (N, C, H, W) times g (N, C): the gate lies along the last two axes",
        "PaddlePaddle/PaddleSeg#1332",
        "reshape the gate to (N, C, 1, 1)",
        replace_stage("scale", _multiply_channels_first),
    ),
    _fault(
        "activation on the product",
        "relu(x g), or another activation after the product",
        "d-li14/mobilenetv3.pytorch#18: SE before or after the activation",
        "return the product",
        _activate_product("relu"),
        lambda spec: spec.gain != 0.0 or spec.residual,
        forms=tuple(map(_activate_product, ("silu", "hard_swish", "relu6", "gelu"))),
    ),
    _fault(
        "logits added as a shift",
        "x g + v, as in units with two outputs",
        "LeelaChessZero/lc0#459, tensorflow/minigo#683",
        "multiply alone",
        _add_logits,
    ),
    _fault(
        "residual added twice",
        "x g + x + x: in the block and after it",
        "Project-MONAI/MONAI, a residual layer in a residual unit",
        "add x once",
        replace_stage("scale", lambda block, right, x, g, z: right(x, g, z) + x),
        lambda spec: spec.residual,
    ),
    _fault(
        "gate applied to the residual too",
        "(x + x) g instead of x g + x",
        "SE after the sum, the SE-POST of the paper",
        "add x after the product",
        replace_stage("scale", lambda block, right, x, g, z: (x + x) * (block.spec.gain * broadcast_gate(g, x))),
        lambda spec: spec.residual,
    ),
    _fault(
        "gates of other samples",
        "sample i is scaled by the gate of another sample",
        "flips applied to the wrong axis; an index that is off by one",
        "one gate per sample, in order",
        replace_stage("gate", lambda block, right, v: right(v)[::-1]),
        forms=(
            replace_stage("gate", lambda block, right, v: np.roll(right(v), 1, 0)),
            replace_stage("gate", lambda block, right, v: np.roll(right(v), -1, 0)),
        ),
    ),
    _fault(
        "batches above a fixed size not scaled",
        "samples beyond a buffer's size stay as they are, or get the first gates again",
        "TadaoYamaoka/DeepLearningShogi, Tencent/TNN#977",
        "loop over all samples",
        _leave_samples_from(8),
        lambda spec: spec.hidden != 1,
        forms=(_leave_samples_from(4), _repeat_gates_from(5), _repeat_gates_from(4), _repeat_gates_from(8)),
    ),
    _fault(
        "gate added instead of multiplied",
        "x + g",
        "Add for Multiply",
        "multiply",
        replace_stage("scale", lambda block, right, x, g, z: x + block.spec.gain * broadcast_gate(g, x)),
    ),
    _fault(
        "gate applied twice",
        "x g g: once in the block, once by its caller",
        "nfnets and mmcls return the gate",
        "scale once",
        replace_stage("scale", lambda block, right, x, g, z: right(x, g * g, z)),
    ),
    _fault(
        "squeezed values scaled instead of x",
        "z g, broadcast",
        "the wrong variable",
        "scale x",
        replace_stage(
            "scale", lambda block, right, x, g, z: right(np.broadcast_to(broadcast_gate(z, x), x.shape), g, z)
        ),
        forms=(
            replace_stage("scale", lambda block, right, x, g, z: block.spec.gain * z * g),
            replace_stage("scale", lambda block, right, x, g, z: block.spec.gain * broadcast_gate(z * g, x)),
        ),
    ),
    _fault(
        "gate returned instead of the scaled map",
        "y = g",
        "nfnets' convention",
        "multiply x by it",
        replace_stage(
            "scale", lambda block, right, x, g, z: np.broadcast_to(block.spec.gain * broadcast_gate(g, x), x.shape)
        ),
        forms=(
            replace_stage("scale", lambda block, right, x, g, z: block.spec.gain * broadcast_gate(g, x)),
            replace_stage("scale", lambda block, right, x, g, z: block.spec.gain * g),
            replace_stage("scale", lambda block, right, x, g, z: broadcast_gate(g, x)),
        ),
    ),
    _fault(
        "block not applied",
        "y = x",
        "keras-team/keras-cv#1502: built and never called",
        "call it",
        replace_stage("output", lambda block, right, y, x: x),
    ),
    _fault(
        "output is zero",
        "y = 0",
        "an uninitialised buffer",
        "write the result",
        replace_stage("output", lambda block, right, y, x: 0.0 * x),
    ),
    _fault(
        "gain missing",
        "the gate without its gain",
        "NFNet ports",
        "multiply the gate by the gain",
        change_spec(gain=1.0),
        lambda spec: spec.gain != 1.0,
    ),
    _fault(
        "gain applied twice",
        "the gain in the gate and in the product",
        "NFNet ports",
        "apply it once",
        change_spec(gain=lambda spec: spec.gain**2),
        lambda spec: spec.gain not in (1.0, 0.0),
    ),
    _fault(
        "gain of 2 where there is none",
        "NFNet's factor",
        "NFNet code used for another net",
        "drop it",
        change_spec(gain=lambda spec: 2.0 * spec.gain),
        lambda spec: spec.gain == 1.0,
    ),
    _fault(
        "residual missing",
        "x g without + x",
        "MONAI ports",
        "add x",
        change_spec(residual=False),
        lambda spec: spec.residual,
    ),
    _fault(
        "residual added",
        "x g + x",
        "MONAI's residual block",
        "drop the addition",
        change_spec(residual=True),
        lambda spec: not spec.residual,
    ),
    _fault(
        "square root of the gate",
        "x sqrt(g): half the exponent",
        "a gate applied by halves",
        "scale by g",
        replace_stage("scale", lambda block, right, x, g, z: right(x, np.sqrt(np.abs(g)), z)),
    ),
    _fault(
        "channels beyond 512 not gated",
        "a fixed buffer",
        "fixed-size kernels",
        "loop over all channels",
        replace_stage("gate", _leave_ungated_from(512)),
        lambda spec: spec.channels > 512,
    ),
    _fault(
        "channels beyond 32 not gated",
        "one warp of channels",
        "fixed-size kernels",
        "loop over all channels",
        replace_stage("gate", _leave_ungated_from(32)),
        lambda spec: spec.channels > 32,
    ),
    _fault(
        "last channel not gated",
        "range(C - 1)",
        "off by one",
        "loop over all channels",
        replace_stage("gate", _leave_ungated_from(-1)),
        lambda spec: spec.channels > 1,
    ),
    _fault(
        "last sample not scaled",
        "range(N - 1)",
        "the rest of a batch",
        "loop over all samples",
        replace_stage("output", _scale_where(_mask_without_last_sample)),
    ),
    _fault(
        "last row and column not scaled on odd sizes",
        "vectors of two without the rest",
        "unrolled loops",
        "treat the rest",
        replace_stage("output", _scale_where(_mask_without_odd_edges)),
    ),
)
