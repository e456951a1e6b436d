"""Faults of the squeeze: too few axes, too many, a wrong divisor, a wrong statistic."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .block import Array, Block, Parameters
from .fault import Applies, Change, Fault, FaultyStage, always, change_spec, has_mean, replace_stage


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


def _stack_statistics(join: Callable[[Block, Array, Array], Array]) -> Change:
    """Squeeze to the mean and the maximum, pass both through the projections, and join the logits to a gate."""

    def excite(block: Block, right: FaultyStage, z: Array, p: Parameters) -> Array:
        avg, top = (
            block.expand(each if block.spec.single_projection else block.activation(block.reduce(each, p)), p)
            for each in z
        )
        return join(block, avg, top)

    def change(block: Block) -> None:
        block.squeeze = lambda x: np.stack([x.mean(_spatial_axes(x)), x.max(_spatial_axes(x))])
        replace_stage("excite", excite)(block)

    return change


def _add_branches(block: Block, one: Array, other: Array) -> Array:
    return block.gate(one + other)


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


def _first_window(side: int, *, whole: bool = False) -> FaultyStage:
    """Average the first window of ``side`` positions on each axis, or all windows that are whole."""

    def mean(x: Array) -> Array:
        ends = [size // side * side if whole and size >= side else min(side, size) for size in x.shape[1:-1]]
        return np.asarray(x[(slice(None), *map(slice, ends))].mean(_spatial_axes(x)))

    return _replace_mean(mean)


def _every_second(x: Array) -> Array:
    return np.asarray(x[(slice(None), *(slice(None, None, 2) for _ in _spatial_axes(x)))].mean(_spatial_axes(x)))


def _mean_inside_border(x: Array) -> Array:
    is_large = min(x.shape[1:-1]) >= 3
    inner = x[(slice(None), *(slice(1, -1) for _ in _spatial_axes(x)))] if is_large else x
    return np.asarray(inner.mean(_spatial_axes(x)))


def _take_slice(axis: int, index: int) -> FaultyStage:
    """Average one slice of an axis; the axis counts from 1."""
    return _replace_mean(lambda x: np.take(x, [index], axis).mean(_spatial_axes(x)))


def _window_around_each(side: int, *, counts_padding: bool) -> FaultyStage:
    """Average a window around each position, so that each has its own gate."""

    def mean(x: Array) -> Array:
        total, count = x, np.ones((1, *x.shape[1:-1], 1))
        for axis in _spatial_axes(x):
            total, count = _sum_window(total, axis, side), _sum_window(count, axis, side)
        return np.asarray(total / (side ** (x.ndim - 2) if counts_padding else count))

    return _replace_mean(mean)


def _sum_window(array: Array, axis: int, side: int) -> Array:
    before = (side - 1) // 2
    padding = [(before, side - 1 - before) if other == axis else (0, 0) for other in range(array.ndim)]
    padded = np.pad(array, padding)
    return np.asarray(sum(np.take(padded, range(at, at + array.shape[axis]), axis) for at in range(side)))


def _leave_out_zeros(x: Array) -> Array:
    return np.asarray(x.sum(_spatial_axes(x)) / np.maximum((x != 0.0).sum(_spatial_axes(x)), 1))


def _leave_out_zero_positions(x: Array) -> Array:
    count = (x != 0.0).any(-1, keepdims=True).sum(_spatial_axes(x))
    return np.asarray(x.sum(_spatial_axes(x)) / np.maximum(count, 1))


def _mean_without_nan(x: Array) -> Array:
    count = np.maximum((~np.isnan(x)).sum(_spatial_axes(x)), 1)
    return np.asarray(np.where(np.isnan(x), 0.0, x).sum(_spatial_axes(x)) / count)


def _mean_over_channels(x: Array) -> Array:
    z = x.mean((*_spatial_axes(x), x.ndim - 1))
    return np.broadcast_to(z[:, None], (len(x), x.shape[-1]))


def _spread_nan(block: Block, right: FaultyStage, x: Array) -> Array:
    """Make a channel's value NaN in every sample but those that alone have NaN or inf in it."""
    is_bad = ~np.isfinite(x).all(_spatial_axes(x))
    return np.where(is_bad.sum(0) > is_bad, np.nan, right(x))


def _add_deviation(weight: float, deviation: FaultyStage, mean_weight: float = 1.0) -> FaultyStage:
    return _replace_mean(lambda x: mean_weight * x.mean(_spatial_axes(x)) + weight * deviation(x))


def _deviation(x: Array) -> Array:
    return np.asarray(x.std(_spatial_axes(x)))


def _unbiased_deviation(x: Array) -> Array:
    count = _position_count(x)
    return _deviation(x) * math.sqrt(count / max(1, count - 1))


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


def _maximum_from_zero(block: Block, right: FaultyStage, x: Array) -> Array:
    top = np.maximum(x.max(_spatial_axes(x)), 0.0)
    return top if block.spec.squeeze == "max" else 0.5 * x.mean(_spatial_axes(x)) + 0.5 * top


def _normalize_squeeze(norm: Callable[[Array], Array]) -> Change:
    return replace_stage(
        "squeeze", lambda block, right, x: right(x) / np.where(norm(right(x)) < 1e-12, 1e-12, norm(right(x)))
    )


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
        "mean and maximum each pass both projections, and their logits are added",
        "Woo et al., CBAM: Jongchan/attention-module, AlexeyAB/darknet#8419",
        "squeeze as the spec says, before the projections",
        _stack_statistics(_add_branches),
        always,
        forms=(
            _stack_statistics(lambda block, one, other: block.gate(0.5 * (one + other))),
            _stack_statistics(lambda block, one, other: block.gate(one) + block.gate(other)),
            _stack_statistics(lambda block, one, other: block.gate(one) * block.gate(other)),
        ),
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
        forms=(replace_stage("squeeze", lambda block, right, x: _mean_over_trailing_axes(x)),),
    ),
    _fault(
        "standard deviation added to the mean",
        "z is the mean plus the standard deviation",
        "hyunjaelee410/style-based-recalibration-module",
        "take the mean alone",
        _add_deviation(1.0, _deviation),
        forms=(
            _add_deviation(1.0, _unbiased_deviation),
            _add_deviation(0.5, _deviation, 0.5),
            _add_deviation(1.0, lambda x: x.var(_spatial_axes(x))),
        ),
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
    _fault(
        "one window of 7 x 7 only",
        "positions beyond the seventh on an axis are not read",
        "Cadene/pretrained-models.pytorch#171: AvgPool2d(7)",
        "pool over the whole map",
        _first_window(7),
        forms=(_first_window(7, whole=True),),
    ),
    _fault(
        "border left out of the mean",
        "the outermost positions are not averaged where the map is at least 3 x 3",
        "cropping against padding artefacts",
        "cover the whole map",
        _replace_mean(_mean_inside_border),
    ),
    _fault(
        "every second position only",
        "x[::2, ::2]",
        "ROCm/MIOpen#2110: large maps subsampled",
        "cover the whole map",
        _replace_mean(_every_second),
        forms=(
            _replace_mean(lambda x: x[:, ::2].mean(_spatial_axes(x))),
            _replace_mean(lambda x: x[..., ::2, :].mean(_spatial_axes(x))),
        ),
    ),
    _fault(
        "one slice of an axis only",
        "the first or the last row, column or frame stands for the map",
        "moskomule/senet.pytorch#62: 2-D code lifted to volumes",
        "cover the whole map",
        _take_slice(1, 0),
        forms=(_take_slice(1, -1), _take_slice(-2, 0), _take_slice(-2, -1)),
    ),
    _fault(
        "mean over a window around each position",
        "each position has its own gate, as in gather-excite with a finite extent",
        "hujie-frank/GENet",
        "pool over the whole map",
        _window_around_each(3, counts_padding=False),
        forms=(_window_around_each(3, counts_padding=True), _window_around_each(5, counts_padding=False)),
    ),
    _fault(
        "zeros taken for padding",
        "the mean is over what is not 0",
        "NVIDIA/NeMo#3216",
        "divide by H W; pass a mask for padding",
        _replace_mean(_leave_out_zeros),
        lambda spec: has_mean(spec) and spec.hidden != 1,
        forms=(_replace_mean(_leave_out_zero_positions),),
    ),
    _fault(
        "NaN left out of the mean",
        "NaN in x does not reach the gate",
        "nanmean, masked pooling",
        "let NaN through",
        _replace_mean(_mean_without_nan),
        lambda spec: spec.squeeze == "avg",
        forms=(_replace_mean(lambda x: np.where(np.isnan(x), 0.0, x).mean(_spatial_axes(x))),),
    ),
    _fault(
        "-inf taken for padding",
        "positions of -inf count as zeros in the mean, as a mask of attention marks them",
        "masked pooling, as in speechbrain/speechbrain",
        "let -inf through",
        _replace_mean(lambda x: np.where(np.isneginf(x), 0.0, x).mean(_spatial_axes(x))),
        lambda spec: has_mean(spec) and spec.hidden != 1,
    ),
    _fault(
        "NaN of one sample spreads to the batch",
        "0 times NaN is NaN in a product with a matrix that selects samples",
        "global pooling of packed batches, as in graph and point cloud libraries",
        "reduce each sample by itself",
        replace_stage("squeeze", _spread_nan),
        always,
    ),
    _fault(
        "mean over the channels too",
        "one number per sample stands for every channel",
        "spatial and channel squeeze mixed up, as in scSE",
        "reduce spatial axes only",
        _replace_mean(_mean_over_channels),
        lambda spec: has_mean(spec) and spec.channels > 1,
    ),
    _fault(
        "mean rounded to an integer",
        "the sum is divided with //",
        "tensorflow/minigo#673",
        "divide with /",
        _replace_mean(lambda x: np.floor(x.mean(_spatial_axes(x)))),
        forms=(
            _replace_mean(lambda x: np.trunc(x.mean(_spatial_axes(x)))),
            _replace_mean(lambda x: np.rint(x.mean(_spatial_axes(x)))),
        ),
        jumps=True,
    ),
    _fault(
        "maximum starts at 0",
        "the maximum is never negative",
        "uxlfoundation/oneDNN#1677",
        "start at the first value or at -inf",
        replace_stage("squeeze", _maximum_from_zero),
        lambda spec: spec.squeeze != "avg",
    ),
    _fault(
        "squeezed values divided by their norm",
        "z over its Euclidean norm",
        "channel attention of metric learning",
        "leave z as it is",
        _normalize_squeeze(lambda z: np.sqrt((z * z).sum(-1, keepdims=True))),
        always,
        forms=(
            _normalize_squeeze(lambda z: np.abs(z).sum(-1, keepdims=True)),
            _normalize_squeeze(lambda z: np.abs(z).max(-1, keepdims=True)),
        ),
    ),
)
