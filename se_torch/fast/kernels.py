"""Passes over maps, as their numbers lie in memory: contiguous, or channels last.

Batch normalization by mean 0 and variance 1 is ``x * weight + bias``, and on its way back a weight gets the sum of
``dy * x``: one pass each, in float32 where x is half precision. Samples that lie channels first are to it one sample
of many channels; channels last, they are taken one by one.

Where that is not faster, products are made in pieces that stay in a processor's cache.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PIECE = 1 << 19
"""Elements of dy and x that are multiplied at a time; their product stays in a processor's cache."""
SHORT = 128
"""Positions below which a row takes longer than its numbers: to be broadcast to, or to be summed by a normalization."""
SAMPLE = 1 << 16
"""Elements of a sample from which batch normalization is worth its call."""
MANY = 256
"""Channels from which pooling is faster than a mean."""


def widened(x: Tensor) -> Tensor:
    """x in the type that the block computes in."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, which takes two microseconds to find that there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def multiply(x: Tensor, s: Tensor, residual: bool = False, inplace: bool = False) -> Tensor:
    """x * s (+ x), written over x where ``inplace``; s is (N, C)."""
    for _ in range(x.dim() - 2):
        s = s.unsqueeze(-1)
    y = x.mul_(s) if inplace else x * s  # C-1
    return y + x if residual else y  # C-3


def mean(x: Tensor) -> Tensor:
    """Over space; of bfloat16 accumulated in float32 and rounded once, where ``mean`` would write x down in float32."""
    narrow, axes = x.dtype == torch.bfloat16, tuple(range(2, x.ndim))
    if pools(x):
        # One number is added after another; in float32 to no more than 64 of them, or a row.
        window = x.shape[2:] if narrow or x.shape[2:].numel() <= 64 else (1, x.shape[3])
        rows = F.avg_pool2d(x, window)
        return rows.flatten(1).float() if narrow else rows.mean(axes)
    return x.sum(axes).float() / x.shape[2:].numel() if narrow else x.mean(axes)


def pools(x: Tensor) -> bool:
    """Whether x is better summed by pooling."""
    if x.ndim != 4 or x.shape[1] < MANY or x.device.type != "cpu":
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def scales(x: Tensor) -> bool:
    """Whether half precision is better scaled by ``scaled``."""
    return x.device.type == "cpu" and x.is_contiguous() and x.shape[2:].numel() < SHORT and x.numel() > 0


def scaled(x: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """x * s, rounded once, in y, which may be x; s is (N, C), in float32 and finite or NaN."""
    return _normalized(x, s, torch.zeros_like(s), y)


def dot(dy: Tensor, x: Tensor) -> Tensor:
    """The sum of dy * x over space, (N, C)."""
    first = x.is_contiguous()
    if x.dtype.itemsize >= 4 or (first and x.shape[2:].numel() < SHORT) or not _normalizes(x):
        return _dot_in_pieces(dy, x)
    sums, back = [], torch.ops.aten.native_batch_norm_backward.default
    mean, variance = _mean_and_variance(x, first)
    for a, b in zip(_maps(dy, first), _maps(x, first), strict=True):
        sums.append(back(a, b, None, mean, variance, None, None, False, 0.0, [False, True, False])[1])
    return torch.cat(sums).view(x.shape[:2])


def dx(dy: Tensor, s: Tensor, dz: Tensor, x: Tensor) -> Tensor:
    """dy * s + dz / positions, rounded once, in x's memory format."""
    dz = dz * (s.numel() / x.numel())
    way = _normalized if _normalizes(x) else _scaled_in_pieces
    return way(dy, s, dz, torch.empty_like(x))


def _normalizes(x: Tensor) -> bool:
    """Whether batch normalization is faster than pieces."""
    if x.device.type != "cpu":
        return False
    return x.is_contiguous() or (x.dtype.itemsize < 4 and x[0].numel() >= SAMPLE)


def _normalized(x: Tensor, s: Tensor, term: Tensor, y: Tensor) -> Tensor:
    """x * s + term in y, in y's memory format."""
    first = y.is_contiguous()
    s, term = (one.reshape(1, -1) if first else one.contiguous() for one in (s, term))
    mean, variance = _mean_and_variance(y, first)
    none = mean.new_empty(0)
    for a, f, c, out in zip(_maps(x, first), s, term, _maps(y, first), strict=True):
        torch.native_batch_norm(a, f, c, mean, variance, False, 0.0, 0.0, out=(out, none, none))
    return y


def _maps(x: Tensor, first: bool) -> tuple[Tensor, ...]:
    """As batch normalization reads them, channels first: (1, N C, positions); or last, for each sample
    (1, C, positions, 1).
    """
    if first:
        return (x.reshape(1, x.shape[0] * x.shape[1], -1).contiguous(),)
    return x.flatten(2)[..., None].contiguous(memory_format=torch.channels_last).split(1)


def _mean_and_variance(x: Tensor, first: bool) -> tuple[Tensor, Tensor]:
    channels, dtype = x.shape[:2].numel() if first else x.shape[1], torch.promote_types(x.dtype, torch.float32)
    return torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype)


def _dot_in_pieces(dy: Tensor, x: Tensor) -> Tensor:
    """``dot``; every piece's product takes the same room."""
    shape, last = x.shape[:2], not x.is_contiguous()
    dy, x = _rows(dy, last), _rows(x, last)
    total = torch.empty(x.shape[:1] + x.shape[2:], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    pieces = _pieces(dy, x, total)
    room = total.new_empty(pieces[0][0].shape)
    other = room if x.dtype == total.dtype else torch.empty_like(room)
    for a, b, out in pieces:
        here = room[: len(a)]
        torch.sum(torch.mul(_into(here, a), _into(other[: len(b)], b), out=here), 1, out=out)
    return total.view(shape)


def _scaled_in_pieces(x: Tensor, s: Tensor, term: Tensor, y: Tensor) -> Tensor:
    """x * s + term in y, in y's memory format."""
    last = not y.is_contiguous()
    pieces = _pieces(_rows(x, last), *(_rows(one[:, :, None], last) for one in (s, term)), _rows(y, last))
    room = None if y.dtype == s.dtype else s.new_empty(pieces[0][0].shape)
    for a, f, c, out in pieces:
        here = out if room is None else room[: len(a)]
        torch.mul(_into(here, a), f, out=here).add_(c)
        _into(out, here)
    return y


def _into(room: Tensor, x: Tensor) -> Tensor:
    """x in the room's type: as it is, or written there."""
    return x if x.dtype == room.dtype else room.copy_(x)


def _rows(x: Tensor, last: bool) -> Tensor:
    """Positions on the second axis: (N, positions, C) or (N C, positions), as x lies in memory."""
    return x.flatten(2).transpose(1, 2) if last else x.flatten(2).flatten(0, 1)


def _pieces(*arrays: Tensor) -> list[tuple[Tensor, ...]]:
    """The same rows of each, the first piece the longest; all at once where there is no such cache."""
    if arrays[0].device.type != "cpu":
        return [arrays]
    count = max(1, PIECE // max(1, arrays[0][:1].numel()))
    return list(zip(*(one.split(count) for one in arrays), strict=True))
