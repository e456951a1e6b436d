"""Faults of weights and biases whose shapes fit: transposed, reshaped, swapped, dropped, permuted."""

import numpy as np

from se_spec import SESpec

from .block import Array, Parameters
from .fault import Applies, Change, Fault, FaultyStage, always, combine, has_two_projections, replace_stage


def _change_parameter(name: str, wrong: FaultyStage) -> Change:
    """Change one parameter."""
    return replace_stage("parameters", lambda block, right, p: {**right(p), name: wrong(right(p)[name])})


def _change_parameters(wrong: FaultyStage) -> Change:
    return replace_stage("parameters", lambda block, right, p: {**right(p), **wrong(right(p))})


def _reshape_transpose(w: Array) -> Array:
    """Reshape the transpose to the shape of the original."""
    return w.T.reshape(w.shape)


def _transpose_reshaped(w: Array) -> Array:
    """Reshape the original to the shape of the transpose, and transposes that."""
    return w.reshape(w.shape[::-1]).T


def _sort_by_size(p: Parameters) -> Parameters:
    """Sort reduce's hidden units by the size of their weights, as for pruning, and leaves expand's."""
    order = np.argsort(-np.abs(p["reduce.weight"]).sum(1), kind="stable")
    return {name: p[name][order] for name in ("reduce.weight", "reduce.bias") if name in p}


def _shuffle_by_groups(w: Array) -> Array:
    """Shuffle rows by groups of two, as a channel shuffle does."""
    half = (len(w) + 1) // 2
    order = np.argsort(np.concatenate([2 * np.arange(half), 2 * np.arange(len(w) - half) + 1]), kind="stable")
    return w[order]


def _swap_weights(p: Parameters) -> Parameters:
    return {"reduce.weight": p["expand.weight"], "expand.weight": p["reduce.weight"]}


def _fault(
    name: str, where: str, sentence: str, source: str, remedy: str, change: Change, applies: Applies, *forms: Change
) -> Fault:
    return Fault(name, where, sentence, source, remedy, change, applies, forms=forms)


def _has_channels(spec: SESpec) -> bool:
    return spec.channels > 1


def _zero_columns_beyond(name: str, block_size: int) -> Change:
    """Ignore the columns of a weight beyond the last whole block."""
    return _change_parameter(name, lambda w: w * (np.arange(w.shape[1]) < w.shape[1] // block_size * block_size))


def _keep_groups(name: str, groups: int) -> Change:
    """Keep the blocks of a weight that a convolution of so many groups has."""

    def keep(w: Array) -> Array:
        rows, columns = (np.arange(size) * groups // size for size in w.shape)
        return w * (rows[:, None] == columns)

    return _change_parameter(name, keep)


def _keep_band(width: int) -> Change:
    """Keep the weights of each channel and its neighbours, ``width`` channels in all."""
    half = width // 2
    return _change_parameter(
        "expand.weight", lambda w: w * (np.abs(np.arange(len(w))[:, None] - np.arange(w.shape[1])) <= half)
    )


def _reorder_gates(order: FaultyStage) -> Change:
    return replace_stage("gate", lambda block, right, v: right(v)[..., order(v.shape[-1])])


_TRANSPOSE = "transpose, do not reshape; torch and the paper store (out, in), Keras, Flax and Paddle (in, out)"
_LAYOUT = "PaddlePaddle/docs#5945, zsef123/EfficientNets-PyTorch#4, hujie-frank/SENet#36"

WEIGHTS = (
    _fault(
        "reduce.weight transposed",
        "reduce",
        "(in, out) loaded as (out, in); silent where hidden = channels",
        _LAYOUT,
        _TRANSPOSE,
        _change_parameter("reduce.weight", np.transpose),
        lambda spec: has_two_projections(spec) and spec.hidden == spec.channels and _has_channels(spec),
    ),
    _fault(
        "expand.weight transposed",
        "expand",
        "(in, out) loaded as (out, in); silent where hidden = channels",
        _LAYOUT,
        _TRANSPOSE,
        _change_parameter("expand.weight", np.transpose),
        lambda spec: spec.hidden == spec.channels and _has_channels(spec),
    ),
    _fault(
        "both weights transposed",
        "reduce",
        "(in, out) loaded as (out, in), twice",
        _LAYOUT,
        _TRANSPOSE,
        combine(_change_parameter("reduce.weight", np.transpose), _change_parameter("expand.weight", np.transpose)),
        lambda spec: has_two_projections(spec) and spec.hidden == spec.channels and _has_channels(spec),
    ),
    _fault(
        "reduce.weight reshaped instead of transposed",
        "reduce",
        "the buffer of (C, R) read as (R, C)",
        _LAYOUT,
        _TRANSPOSE,
        _change_parameter("reduce.weight", _reshape_transpose),
        lambda spec: has_two_projections(spec) and 1 < spec.hidden != spec.channels > 1,
        _change_parameter("reduce.weight", _transpose_reshaped),
    ),
    _fault(
        "expand.weight reshaped instead of transposed",
        "expand",
        "the buffer of (R, C) read as (C, R)",
        _LAYOUT,
        _TRANSPOSE,
        _change_parameter("expand.weight", _reshape_transpose),
        lambda spec: 1 < spec.hidden != spec.channels > 1,
        _change_parameter("expand.weight", _transpose_reshaped),
    ),
    _fault(
        "both weights reshaped instead of transposed",
        "reduce",
        "buffers read in the other order, twice",
        _LAYOUT,
        _TRANSPOSE,
        combine(
            _change_parameter("reduce.weight", _reshape_transpose),
            _change_parameter("expand.weight", _reshape_transpose),
        ),
        lambda spec: has_two_projections(spec) and 1 < spec.hidden != spec.channels > 1,
        combine(
            _change_parameter("reduce.weight", _transpose_reshaped),
            _change_parameter("expand.weight", _transpose_reshaped),
        ),
    ),
    _fault(
        "weights swapped",
        "reduce",
        "reduce holds expand's weights; silent where hidden = channels",
        "two tensors of one shape in creation order",
        "map by name",
        _change_parameters(_swap_weights),
        lambda spec: has_two_projections(spec) and spec.hidden == spec.channels,
    ),
    _fault(
        "weights tied: expand is reduce transposed",
        "expand",
        "one tensor for both projections",
        "autoencoder habit; a converter that aliases",
        "two tensors",
        _change_parameters(lambda p: {"expand.weight": p["reduce.weight"].T}),
        has_two_projections,
    ),
    _fault(
        "reduce.bias ignored",
        "reduce",
        "no bias is added to the hidden values",
        "moskomule/senet.pytorch#44",
        "build reduce with a bias",
        _change_parameters(lambda p: {"reduce.bias": 0.0 * p["reduce.bias"]}),
        lambda spec: has_two_projections(spec) and spec.bias,
    ),
    _fault(
        "expand.bias ignored",
        "expand",
        "no bias is added to the logits",
        "moskomule/senet.pytorch#44",
        "build expand with a bias",
        _change_parameters(lambda p: {"expand.bias": 0.0 * p["expand.bias"]}),
        lambda spec: spec.bias,
    ),
    _fault(
        "biases ignored",
        "reduce",
        "strict=False, or a block built without biases",
        "moskomule/senet.pytorch#44, titu1994/keras-squeeze-excite-network#5",
        "build both projections with biases",
        _change_parameters(lambda p: {name: 0.0 * p[name] for name in p if name.endswith("bias")}),
        lambda spec: has_two_projections(spec) and spec.bias,
    ),
    _fault(
        "biases swapped",
        "reduce",
        "reduce holds expand's bias; silent where hidden = channels",
        "two tensors of one shape in creation order",
        "map by name",
        _change_parameters(lambda p: {"reduce.bias": p["expand.bias"], "expand.bias": p["reduce.bias"]}),
        lambda spec: has_two_projections(spec) and spec.bias and spec.hidden == spec.channels,
    ),
    _fault(
        "reduce.bias added twice",
        "reduce",
        "a layer's own bias and one by hand",
        "folded batch norm",
        "add it once",
        _change_parameter("reduce.bias", lambda b: 2.0 * b),
        lambda spec: has_two_projections(spec) and spec.bias,
    ),
    _fault(
        "expand.bias added twice",
        "expand",
        "a layer's own bias and one by hand",
        "folded batch norm",
        "add it once",
        _change_parameter("expand.bias", lambda b: 2.0 * b),
        lambda spec: spec.bias,
    ),
    _fault(
        "bias subtracted",
        "expand",
        "the sign of the biases",
        "thresholds stored as negative biases",
        "add them",
        _change_parameters(lambda p: {name: -p[name] for name in p if name.endswith("bias")}),
        lambda spec: spec.bias,
    ),
    _fault(
        "channels of reduce.weight reversed",
        "reduce",
        "columns in the opposite order",
        "BGR habit; flipped buffers",
        "keep the source's channel order",
        _change_parameter("reduce.weight", lambda w: w[:, ::-1]),
        lambda spec: has_two_projections(spec) and _has_channels(spec),
    ),
    _fault(
        "channels of expand.weight reversed",
        "expand",
        "rows in the opposite order",
        "flipped buffers",
        "keep the source's channel order",
        _change_parameter("expand.weight", lambda w: w[::-1]),
        _has_channels,
    ),
    _fault(
        "channels of expand.weight shuffled by groups",
        "expand",
        "rows interleaved",
        "channel shuffle of ShuffleNet",
        "keep the source's channel order",
        _change_parameter("expand.weight", _shuffle_by_groups),
        lambda spec: spec.channels > 2,
    ),
    _fault(
        "channels shifted by one",
        "expand",
        "the gate of channel c scales channel c + 1",
        "an index that begins at one",
        "align gate and channel",
        replace_stage("gate", lambda block, right, v: np.roll(right(v), 1, -1)),
        _has_channels,
    ),
    _fault(
        "hidden units of one weight permuted",
        "expand",
        "expand's columns reversed, reduce's rows not",
        "two tensors in different orders",
        "permute both or none",
        _change_parameter("expand.weight", lambda w: w[:, ::-1]),
        lambda spec: has_two_projections(spec) and spec.hidden > 1,
        _change_parameters(_sort_by_size),
        _change_parameter("expand.weight", lambda w: np.roll(w, 1, 1)),
        _change_parameter("expand.weight", lambda w: np.roll(w, -1, 1)),
    ),
    _fault(
        "last hidden unit ignored",
        "expand",
        "a width of one less",
        "braindecode#955; floor for round",
        "use all hidden units",
        _change_parameter("expand.weight", lambda w: w * (np.arange(w.shape[1]) < w.shape[1] - 1)),
        lambda spec: has_two_projections(spec) and spec.hidden > 1,
    ),
    _fault(
        "first hidden unit ignored",
        "reduce",
        "an index that begins at one",
        "off by one",
        "use all hidden units",
        _change_parameter("expand.weight", lambda w: w * (np.arange(w.shape[1]) > 0)),
        lambda spec: has_two_projections(spec) and spec.hidden > 1,
    ),
    _fault(
        "reduce missing",
        "reduce",
        "expand sees the squeezed values; silent where hidden = channels",
        "one Dense of two",
        "two projections",
        replace_stage("excite", lambda block, right, z, p: block.gate(block.expand(z, p))),
        lambda spec: has_two_projections(spec) and spec.hidden == spec.channels,
    ),
    _fault(
        "expand missing",
        "expand",
        "the gate sees the hidden values; silent where hidden = channels",
        "effective SE read from the weights of SE",
        "two projections",
        replace_stage("excite", lambda block, right, z, p: block.gate(block.activation(block.reduce(z, p)))),
        lambda spec: has_two_projections(spec) and spec.hidden == spec.channels,
        replace_stage("excite", lambda block, right, z, p: block.gate(block.reduce(z, p))),
    ),
    _fault(
        "projections missing: gate of the squeezed values",
        "reduce",
        "the gate sees the squeezed values, and no weight is used",
        "mnikitin/channel-attention, SEv1",
        "apply the projections",
        replace_stage("excite", lambda block, right, z, p: block.gate(z)),
        always,
        replace_stage("excite", lambda block, right, z, p: block.gate(block.activation(z))),
    ),
    _fault(
        "reduce is grouped",
        "reduce",
        "each group of hidden units sees its group of channels alone",
        "zhanghang1989/ResNeSt, split attention",
        "use one group",
        _keep_groups("reduce.weight", 4),
        lambda spec: has_two_projections(spec) and spec.channels > 1 and spec.hidden > 1,
        _keep_groups("reduce.weight", 2),
        _keep_groups("reduce.weight", 8),
    ),
    _fault(
        "expand is grouped",
        "expand",
        "each group of channels sees its group of hidden units alone",
        "zhanghang1989/ResNeSt, split attention",
        "use one group",
        _keep_groups("expand.weight", 4),
        lambda spec: spec.channels > 1 and (spec.single_projection or spec.hidden > 1),
        _keep_groups("expand.weight", 2),
        _keep_groups("expand.weight", 8),
    ),
    _fault(
        "expand sees neighbouring channels only",
        "expand",
        "a band of the weight is used, as by a convolution over the channels",
        "BangguWu/ECANet",
        "use the whole weight",
        _keep_band(3),
        lambda spec: spec.single_projection and spec.channels > 2,
        _keep_band(1),
    ),
    _fault(
        "channels beyond a multiple of 8 left out of reduce",
        "reduce",
        "the product takes channels by eight, or by four, and leaves out the rest",
        "stew675/llama-cpp-rdna-boosts#19",
        "treat the rest",
        _zero_columns_beyond("reduce.weight", 8),
        lambda spec: has_two_projections(spec) and spec.channels % 8 > 0,
    ),
    _fault(
        "channels beyond a multiple of 16 left out of reduce",
        "reduce",
        "the product takes channels by sixteen and leaves out the rest",
        "stew675/llama-cpp-rdna-boosts#19",
        "treat the rest",
        _zero_columns_beyond("reduce.weight", 16),
        lambda spec: has_two_projections(spec) and spec.channels % 16 > 0 and spec.channels % 8 == 0,
    ),
    _fault(
        "gate in another order of the channels",
        "expand",
        "the gate of a channel scales another one, as after a channel shuffle or exchanged halves",
        "ShuffleNet blocks with SE",
        "align gate and channel",
        _reorder_gates(lambda channels: np.roll(np.arange(channels), channels // 2)),
        lambda spec: spec.channels > 2,
        _reorder_gates(lambda channels: np.arange(channels)[::-1]),
        _reorder_gates(lambda channels: np.roll(np.arange(channels), -1)),
        _reorder_gates(lambda channels: np.argsort(np.arange(channels) % 2, kind="stable")),
        _reorder_gates(lambda channels: np.argsort(np.arange(channels) * 2 % channels, kind="stable")),
    ),
    _fault(
        "weights scaled by 1/sqrt(fan_in)",
        "reduce",
        "an equalised learning rate at run time",
        "StyleGAN layers",
        "use the weights as they are",
        _change_parameters(
            lambda p: {name: p[name] / np.sqrt(p[name].shape[1]) for name in p if name.endswith("weight")}
        ),
        _has_channels,
    ),
)
