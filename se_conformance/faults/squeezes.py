"""Faults of the squeeze: too few axes, too many, a wrong divisor, a wrong statistic."""

import math
from typing import Any

import numpy as np

from .block import Array, Block, Parameters
from .fault import Applies, Fault, FaultyStage, always, change_spec, has_mean, replace_stage


def _replace_mean(wrong: FaultyStage) -> FaultyStage:
    """Replace the mean in a squeeze that has one."""

    def change(block: Block) -> None:
        right = block.squeeze

        def squeeze(x: Array) -> Array:
            if block.spec.squeeze == "max":
                return right(x)
            mean = wrong(x)
            return mean if block.spec.squeeze == "avg" else 0.5 * mean + 0.5 * x.max(_spatial_axes(x))

        block.squeeze = squeeze

    return change


def _spatial_axes(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def _position_count(x: Array) -> int:
    return int(np.prod(x.shape[1:-1]))


def _divide_sum_by(by: FaultyStage) -> FaultyStage:
    return _replace_mean(lambda x: x.sum(_spatial_axes(x)) / by(x))


def _two_branches(block: Block, right: FaultyStage, z: Array, p: Parameters) -> Array:
    avg, top = z[0], z[1]
    if block.spec.single_projection:
        return block.gate(block.expand(avg, p) + block.expand(top, p))
    one, other = (block.expand(block.activation(block.reduce(each, p)), p) for each in (avg, top))
    return block.gate(one + other)


def _stack_statistics(block: Block) -> None:
    block.squeeze = lambda x: np.stack([x.mean(_spatial_axes(x)), x.max(_spatial_axes(x))])
    replace_stage("excite", _two_branches)(block)


def _mean_of_square(x: Array) -> Array:
    side = min(x.shape[1:-1])
    window = x[(slice(None), *(slice(0, side) for _ in _spatial_axes(x)))]
    return window.mean(_spatial_axes(x))


def _mean_over_trailing_axes(x: Array) -> Array:
    return x.mean(tuple(range(2, x.ndim)))


def _misread_layout(block: Block) -> None:
    """Take axis 1 for the channels, in the squeeze and in the scaling."""
    block.squeeze = _mean_over_trailing_axes
    block.scale = lambda x, g, z: (
        x * block.spec.gain * g.reshape(*g.shape, *(1 for _ in range(x.ndim - 2))) + (x if block.spec.residual else 0.0)
    )


def _pool_quarters(x: Array) -> Array:
    """Pools each axis to two parts; each position is gated by its part."""
    z = x
    for axis in _spatial_axes(x):
        size = x.shape[axis]
        part = np.minimum(np.arange(size) * 2 // size, 1)
        means = [np.take(z, np.flatnonzero(part == each), axis).mean(axis, keepdims=True) for each in np.unique(part)]
        z = np.concatenate([np.repeat(m, int((part == i).sum()), axis) for i, m in enumerate(means)], axis)
    return z


def _keep_mean_over(axis: int | tuple[int, ...]) -> FaultyStage:
    return _replace_mean(lambda x: np.broadcast_to(x.mean(axis, keepdims=True), x.shape))


def _mean_over_batch(block: Block, right: FaultyStage, x: Array) -> Array:
    z = right(x)
    return np.broadcast_to(z.mean(0, keepdims=True), z.shape) if len(z) else z


def _first_sample(block: Block, right: FaultyStage, x: Array) -> Array:
    z = right(x)
    return np.broadcast_to(z[:1], z.shape)


def _mean_of_even_part(x: Array) -> Array:
    window = x[(slice(None), *(slice(0, max(1, x.shape[axis] // 2 * 2)) for axis in _spatial_axes(x)))]
    return window.mean(_spatial_axes(x))


def _reshape_channels_first(x: Array) -> Array:
    """Reshape (N, C, *space) to (N, positions, C), which mixes the pixels of several channels."""
    moved = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    return moved.reshape(len(x), _position_count(x), x.shape[-1]).mean(1)


def _reshape_channels_last(x: Array) -> Array:
    """Reshape (N, *space, C) to (N, C, positions)."""
    return x.reshape(len(x), x.shape[-1], _position_count(x)).mean(2)


def _mean_without_last(x: Array) -> Array:
    flat = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])
    return flat[:, : max(1, flat.shape[1] - 1)].mean(1)


def _fault(
    name: str, sentence: str, source: str, remedy: str, change: FaultyStage, applies: Applies = has_mean, **more: Any
) -> Fault:
    return Fault(name, "squeeze", sentence, source, remedy, change, applies, **more)


SQUEEZES = (
    _fault(
        "squeeze is the maximum",
        "maximum over space",
        "CBAM code",
        "take what the spec says",
        change_spec(squeeze="max"),
        has_mean,
    ),
    _fault(
        "squeeze is the mean",
        "mean over space",
        "a block without the maximum",
        "take what the spec says",
        change_spec(squeeze="avg"),
        lambda spec: spec.squeeze != "avg",
    ),
    _fault(
        "squeeze is half mean, half maximum",
        "timm's add_maxpool switched on",
        "timm SEModule(add_maxpool=True)",
        "take what the spec says",
        change_spec(squeeze="avg_max"),
        lambda spec: spec.squeeze != "avg_max",
    ),
    _fault(
        "mean plus maximum without the half",
        "avg + max instead of their mean",
        "timm's add_maxpool copied",
        "halve both",
        replace_stage("squeeze", lambda block, right, x: x.mean(_spatial_axes(x)) + x.max(_spatial_axes(x))),
        lambda spec: spec.squeeze == "avg_max",
    ),
    _fault(
        "two branches of mean and maximum (CBAM)",
        "both statistics through both projections, logits added",
        "Woo et al., CBAM",
        "combine the statistics before the projections",
        _stack_statistics,
        lambda spec: spec.squeeze == "avg_max",
    ),
    _fault(
        "sum instead of mean",
        "no division by the number of positions",
        "a squeeze written as reduce_sum",
        "divide by H W",
        _divide_sum_by(lambda x: 1),
    ),
    _fault(
        "mean over the first spatial axis only",
        "one gate per column",
        "axis=1 for axis=(1, 2)",
        "reduce all spatial axes",
        _keep_mean_over(1),
    ),
    _fault(
        "mean over the last spatial axis only",
        "one gate per row",
        "axis=-2 for axis=(1, 2)",
        "reduce all spatial axes",
        _keep_mean_over(-2),
    ),
    _fault(
        "mean over the first two axes of a volume",
        "one gate for each position of the last axis",
        "timm's SqueezeExciteCl: x.mean((1, 2)) whatever the rank",
        "reduce all spatial axes",
        _keep_mean_over((1, 2)),
        rank=3,
    ),
    _fault(
        "no squeeze: projections on the feature map",
        "each position has its own gate",
        "KichangKim/DeepDanbooru#55",
        "pool first",
        replace_stage("squeeze", lambda block, right, x: x),
        always,
    ),
    _fault(
        "adaptive pool to 2 x 2 instead of 1 x 1",
        "each quarter has its own gate",
        "AdaptiveAvgPool2d(2)",
        "pool to one position",
        _replace_mean(_pool_quarters),
    ),
    _fault(
        "square window of the shorter side",
        "AvgPool2d(x.shape[2]): right where H = W",
        "DavidLandup0/deepvision#50",
        "pool over both sizes",
        _replace_mean(_mean_of_square),
    ),
    _fault(
        "divided by H H instead of H W",
        "right where H = W",
        "one size read twice",
        "divide by H W",
        _divide_sum_by(lambda x: x.shape[1] ** (x.ndim - 2)),
    ),
    _fault(
        "map reshaped where it must be transposed",
        "x.view(N, H W, C) of a map that is (N, C, H, W): pixels and channels are mixed",
        "ohtlab/headpose-fsanet-pytorch#10, ACheun9/Pytorch-implementation-of-Mobile-Former#3",
        "flatten(2), or permute before the reshape",
        _replace_mean(_reshape_channels_first),
        lambda spec: has_mean(spec) and spec.channels > 1,
        forms=(_replace_mean(_reshape_channels_last),),
    ),
    _fault(
        "divided by 49",
        "the sum over 49, the positions of a 7 x 7 map, whatever the size",
        "a size of the network's last stage written as a constant",
        "divide by H W",
        _divide_sum_by(lambda x: 49),
    ),
    _fault(
        "divided by n - 1",
        "an unbiased statistic's divisor",
        "ddof",
        "divide by n",
        _divide_sum_by(lambda x: max(1, _position_count(x) - 1)),
    ),
    _fault(
        "divided by n + 1",
        "a count that begins at one",
        "off by one",
        "divide by n",
        _divide_sum_by(lambda x: _position_count(x) + 1),
    ),
    _fault(
        "padding averaged in",
        "one row of zeros on each axis is counted",
        "NVIDIA/NeMo#3216, k2-fsa/icefall#663",
        "divide by what is there",
        _divide_sum_by(lambda x: np.prod([x.shape[axis] + 1 for axis in _spatial_axes(x)])),
    ),
    _fault(
        "padding of both sides averaged in",
        "a border of zeros all around is counted",
        "count_include_pad=True",
        "divide by what is there",
        _divide_sum_by(lambda x: np.prod([x.shape[axis] + 2 for axis in _spatial_axes(x)])),
    ),
    _fault(
        "last row and column left out on odd sizes",
        "pooling by twos without the rest",
        "VALID padding",
        "cover the whole map",
        _replace_mean(_mean_of_even_part),
    ),
    _fault(
        "last position left out",
        "the mean of all but one",
        "range(n - 1)",
        "cover the whole map",
        _replace_mean(_mean_without_last),
    ),
    _fault(
        "mean over the batch too",
        "all samples share one gate",
        "axis=(0, 1, 2); keras batch statistics",
        "reduce spatial axes only",
        replace_stage("squeeze", _mean_over_batch),
        always,
    ),
    _fault(
        "gate of the first sample for all",
        "z[0] used for every sample",
        "a gate kept outside the loop",
        "one gate per sample",
        replace_stage("squeeze", _first_sample),
        always,
    ),
    _fault(
        "channels_last read as channels_first",
        "statistics and gate along axis 1; silent where H = C",
        "keras-applications#155, tensorflow/tpu#751",
        "name the data format",
        _misread_layout,
        lambda spec: spec.squeeze == "avg" and 1 < spec.channels <= 64,
    ),
    _fault(
        "standard deviation instead of mean",
        "the second moment",
        "style statistics",
        "take the mean",
        _replace_mean(lambda x: x.std(_spatial_axes(x))),
    ),
    _fault(
        "root mean square instead of mean",
        "global L2 pooling",
        "GRN and GCT blocks",
        "take the mean",
        _replace_mean(lambda x: np.sqrt((x * x).mean(_spatial_axes(x)))),
    ),
    _fault(
        "mean of |x|",
        "the sign is lost",
        "L1 pooling",
        "take the mean of x",
        _replace_mean(lambda x: np.abs(x).mean(_spatial_axes(x))),
    ),
    _fault(
        "mean of relu(x)",
        "negative values are dropped",
        "SE after an activation: xiaolai-sqlai/mobilenetv3#26",
        "squeeze x itself",
        _replace_mean(lambda x: np.maximum(x, 0.0).mean(_spatial_axes(x))),
    ),
    _fault(
        "median instead of mean",
        "a robust statistic",
        "habit",
        "take the mean",
        _replace_mean(lambda x: np.median(x, _spatial_axes(x))),
    ),
    _fault(
        "centre position instead of mean",
        "x[H // 2, W // 2]",
        "a crop that was meant to be a pool",
        "pool",
        _replace_mean(lambda x: x[(slice(None), *(x.shape[axis] // 2 for axis in _spatial_axes(x)))]),
    ),
    _fault(
        "one tile of 8 x 8 only",
        "positions beyond the eighth on an axis are not read",
        "tiled kernels",
        "loop over all tiles",
        _replace_mean(lambda x: x[(slice(None), *(slice(0, 8) for _ in _spatial_axes(x)))].mean(_spatial_axes(x))),
    ),
)
