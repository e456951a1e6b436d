"""Loops over maps in the order of memory, contiguous or channels last.

Batch normalization with mean 0 and variance 1 computes ``x * weight + bias``, and its backward pass the sum of
``dy * x`` for the weight: one pass each, in float32 where x is half precision. Contiguous samples are passed to it as
one sample of N C channels, channels-last samples one by one.

Where that is not faster, products are computed in chunks that stay in a processor's cache.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_ELEMENTS_MEAN = 1 << 17
"""Elements of float16 that are converted at a time, to be summed."""
CHUNK_ELEMENTS = 1 << 19
"""Elements of dy and x that are multiplied at a time; their product stays in a processor's cache."""
MIN_SPATIAL_POSITIONS = 128
"""Spatial positions below which per-row overhead exceeds the arithmetic."""
MIN_SAMPLE_ELEMENTS = 1 << 16
"""Elements of a sample from which batch normalization is worth its call."""
MIN_CHANNELS_POOLING = 256
"""Channels from which pooling is faster than a mean."""


def widen(x: Tensor) -> Tensor:
    """Convert half precision to float32, in which the block computes."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert x; ``x.to`` takes two microseconds to find that there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def multiply(x: Tensor, s: Tensor, residual: bool = False, inplace: bool = False) -> Tensor:
    """Compute x * s (+ x), over x where ``inplace``; s is (N, C)."""
    for _ in range(x.dim() - 2):
        s = s.unsqueeze(-1)
    y = x.mul_(s) if inplace else x * s  # C-1
    return y + x if residual else y  # C-3


def mean(x: Tensor) -> Tensor:
    """Average over space; bfloat16 is summed in float32 and rounded once, without ``Tensor.mean``'s copy of x."""
    is_bfloat16, axes = x.dtype == torch.bfloat16, tuple(range(2, x.ndim))
    if x.dtype == torch.float16 and not x.is_cuda and x.numel() > CHUNK_ELEMENTS_MEAN:
        return _mean_in_chunks(x)
    if x.is_cuda or x.dtype == torch.float16:
        return x.mean(axes, dtype=torch.promote_types(x.dtype, torch.float32))  # a GPU makes no copy for that
    if is_pooled(x):
        # Pooling adds sequentially: in float32 at most 64 numbers, or a row, so that the error stays small.
        window = x.shape[2:] if is_bfloat16 or x.shape[2:].numel() <= 64 else (1, x.shape[3])
        rows = F.avg_pool2d(x, window)
        return rows.flatten(1).float() if is_bfloat16 else rows.mean(axes)
    return x.sum(axes).float() / x.shape[2:].numel() if is_bfloat16 else x.mean(axes)


def _mean_in_chunks(x: Tensor) -> Tensor:
    """Average over space; each chunk is converted into one float32 buffer."""
    rows = _rows(x, not x.is_contiguous())
    z = torch.empty(rows.shape[:1] + rows.shape[2:])
    count = max(1, CHUNK_ELEMENTS_MEAN // rows[0].numel())
    buffer = torch.empty(min(count, len(rows)), *rows.shape[1:])
    for a, out in zip(rows.split(count), z.split(count), strict=True):
        torch.mean(buffer[: len(a)].copy_(a), 1, out=out)
    return z.view(x.shape[:2])


def squeeze_maximum(x: Tensor, kind: str) -> Tensor:
    """Squeeze by the maximum, which half precision has exactly, or by the average of mean and maximum."""
    highest = widen(x.amax(tuple(range(2, x.ndim))))  # S-2
    return highest if kind == "max" else 0.5 * mean(x) + 0.5 * highest  # S-3


def is_pooled(x: Tensor) -> bool:
    """Decide whether pooling sums x faster than a mean."""
    if x.ndim != 4 or x.shape[1] < MIN_CHANNELS_POOLING or x.device.type != "cpu":
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def is_normalized(x: Tensor) -> bool:
    """Decide whether batch normalization (``scale``) multiplies half precision faster than a product."""
    return (
        x.device.type == "cpu" and x.is_contiguous() and x.shape[2:].numel() < MIN_SPATIAL_POSITIONS and x.numel() > 0
    )


def scale(x: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """Write x * s, rounded once, to y, which may be x; s is (N, C), in float32 and finite or NaN."""
    return _normalize(x, s, torch.zeros_like(s), y)


def sum_of_products(dy: Tensor, x: Tensor) -> Tensor:
    """Sum dy * x over space: (N, C)."""
    channels_first = x.is_contiguous()
    if (
        x.dtype.itemsize >= 4
        or (channels_first and x.shape[2:].numel() < MIN_SPATIAL_POSITIONS)
        or not _is_worth_normalizing(x)
    ):
        return _sum_of_products_in_chunks(dy, x)
    sums, backward = [], torch.ops.aten.native_batch_norm_backward.default
    mean, variance = _mean_and_variance(x, channels_first)
    for a, b in zip(_normalization_inputs(dy, channels_first), _normalization_inputs(x, channels_first), strict=True):
        sums.append(backward(a, b, None, mean, variance, None, None, False, 0.0, [False, True, False])[1])
    return torch.cat(sums).view(x.shape[:2])


def dx(dy: Tensor, s: Tensor, dz: Tensor, x: Tensor) -> Tensor:
    """Compute dy * s + dz / positions, rounded once, in x's memory format."""
    dz = dz * (s.numel() / x.numel())
    multiply_add = _normalize if _is_worth_normalizing(x) else _multiply_add_in_chunks
    return multiply_add(dy, s, dz, torch.empty_like(x))


def _is_worth_normalizing(x: Tensor) -> bool:
    """Decide whether batch normalization is faster than chunks."""
    if x.device.type != "cpu":
        return False
    return x.is_contiguous() or (x.dtype.itemsize < 4 and x[0].numel() >= MIN_SAMPLE_ELEMENTS)


def _normalize(x: Tensor, s: Tensor, term: Tensor, y: Tensor) -> Tensor:
    """Write x * s + term to y, in y's memory format."""
    channels_first = y.is_contiguous()
    s, term = (value.reshape(1, -1) if channels_first else value.contiguous() for value in (s, term))
    mean, variance = _mean_and_variance(y, channels_first)
    unused = mean.new_empty(0)
    inputs, outputs = (_normalization_inputs(value, channels_first) for value in (x, y))
    for a, factor, offset, out in zip(inputs, s, term, outputs, strict=True):
        torch.native_batch_norm(a, factor, offset, mean, variance, False, 0.0, 0.0, out=(out, unused, unused))
    return y


def _normalization_inputs(x: Tensor, channels_first: bool) -> tuple[Tensor, ...]:
    """View x as batch normalization takes it: (1, N C, positions); channels last, (1, C, positions, 1) a sample."""
    if channels_first:
        return (x.reshape(1, x.shape[0] * x.shape[1], -1).contiguous(),)
    return x.flatten(2)[..., None].contiguous(memory_format=torch.channels_last).split(1)


def _mean_and_variance(x: Tensor, channels_first: bool) -> tuple[Tensor, Tensor]:
    channels, dtype = x.shape[:2].numel() if channels_first else x.shape[1], torch.promote_types(x.dtype, torch.float32)
    return torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype)


def _sum_of_products_in_chunks(dy: Tensor, x: Tensor) -> Tensor:
    """Sum dy * x over space; the products of all chunks are written to one buffer."""
    shape, channels_last = x.shape[:2], not x.is_contiguous()
    dy, x = _rows(dy, channels_last), _rows(x, channels_last)
    total = torch.empty(x.shape[:1] + x.shape[2:], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    chunks = _chunks(dy, x, total)
    buffer = total.new_empty(chunks[0][0].shape)
    cast_buffer = buffer if x.dtype == total.dtype else torch.empty_like(buffer)
    for a, b, out in chunks:
        product = buffer[: len(a)]
        torch.sum(torch.mul(_cast_into(product, a), _cast_into(cast_buffer[: len(b)], b), out=product), 1, out=out)
    return total.view(shape)


def _multiply_add_in_chunks(x: Tensor, s: Tensor, term: Tensor, y: Tensor) -> Tensor:
    """Write x * s + term to y, in y's memory format."""
    channels_last = not y.is_contiguous()
    factors, terms = (_rows(value[:, :, None], channels_last) for value in (s, term))
    chunks = _chunks(_rows(x, channels_last), factors, terms, _rows(y, channels_last))
    buffer = None if y.dtype == s.dtype else s.new_empty(chunks[0][0].shape)
    for a, factor, offset, out in chunks:
        product = out if buffer is None else buffer[: len(a)]
        torch.mul(_cast_into(product, a), factor, out=product).add_(offset)
        _cast_into(out, product)
    return y


def _cast_into(buffer: Tensor, x: Tensor) -> Tensor:
    """Return x if it has the buffer's dtype; otherwise convert it into the buffer."""
    return x if x.dtype == buffer.dtype else buffer.copy_(x)


def _rows(x: Tensor, channels_last: bool) -> Tensor:
    """View x with positions on the second axis: (N, positions, C) or (N C, positions), in the order of memory."""
    return x.flatten(2).transpose(1, 2) if channels_last else x.flatten(2).flatten(0, 1)


def _chunks(*arrays: Tensor) -> list[tuple[Tensor, ...]]:
    """Split all arrays at the same rows, the first chunk the longest; a GPU takes everything at once."""
    if arrays[0].device.type != "cpu":
        return [arrays]
    rows = max(1, CHUNK_ELEMENTS // max(1, arrays[0][:1].numel()))
    return list(zip(*(array.split(rows) for array in arrays), strict=True))
