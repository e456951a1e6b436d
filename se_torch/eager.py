"""Four shorter ways through memory, for PyTorch that runs op by op; a compiler finds them itself.

Training: autograd makes four arrays of x's size on the way to dx, and scales and sums in passes of their own. Here dx
is the only one: dy and x are multiplied and summed in pieces that stay in the cache, and dx is written once. What is
small, from the mean to the gate, is left to autograd.

bfloat16: x is summed and scaled as it is, not widened before; the mean is rounded once, and the gate (SPEC N-1).

Channels last: the positions are summed by PyTorch's pooling, which reads them as they lie in memory; its mean does not.

In place, where it is asked for: y is written over x, which nobody reads afterwards.

``fits`` is the rule, ``overwrites`` that of the last. Whatever else asks for derivatives (twice, forwards, of a batch
of gradients) has the formula's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from se_spec import SESpec

LARGE = 1 << 19
"""Elements of x from which gradients by hand are faster."""
PIECE = 1 << 19
"""Elements of dy and x that are multiplied at a time; their product stays in a processor's cache."""
MANY = 256
"""Channels from which pooling is faster than a mean."""

Weights = tuple[Tensor | None, ...]
"""Of each projection weight and bias."""


class Formula(NamedTuple):
    """The block by operations that PyTorch differentiates, and what becomes of the mean: of z and the weights s, both
    (N, C), in float32 or float64; of x and s y, which may be written over x.
    """

    spec: SESpec
    whole: Callable[[Tensor, Weights], Tensor]
    factors: Callable[[Tensor, Weights], Tensor]
    scale: Callable[[Tensor, Tensor, bool], Tensor]
    inplace: bool


def widened(x: Tensor) -> Tensor:
    """x in the type that the block computes in."""
    return x if x.dtype.itemsize >= 4 else x.float()


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, which takes two microseconds to find that there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def fits(x: Tensor, spec: SESpec, weights: Weights) -> bool:
    """Whether ``run`` is right for them, and faster."""
    if torch.compiler.is_compiling() or spec.squeeze != "avg" or _is_transformed(x):
        return False
    large, better = x.numel() >= LARGE, _narrow(x, spec) or _pools(x)
    if not (large or better):
        return False
    tensors = [one for one in (x, *weights) if one is not None]
    trained = torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
    if not (large if trained else better):
        return False
    pushed = any(forward_ad.unpack_dual(one).tangent is not None for one in tensors)
    return not pushed and (not trained or _is_dense(x))


def overwrites(x: Tensor, spec: SESpec) -> bool:
    """Whether y may be written over x."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or spec.residual:
        return False
    return not _is_transformed(x) and _is_dense(x)


def run(x: Tensor, formula: Formula, weights: Weights) -> Tensor:
    """``formula.whole(x, weights)``."""
    if torch.is_grad_enabled():
        return _Scaled.apply(x, formula, *weights)
    return _forward(x, formula, weights)[0]


def _forward(x: Tensor, formula: Formula, weights: Weights) -> tuple[Tensor, Tensor]:
    """y and z."""
    wide = x if _narrow(x, formula.spec) else widened(x)
    z = _mean(wide)
    s = formula.factors(z, weights)
    return cast(formula.scale(wide, cast(s, wide.dtype), formula.inplace), x.dtype), z


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, formula: Formula, *weights: Tensor | None) -> Tensor:
        y, z = _forward(x, formula, weights)
        ctx.formula = formula
        ctx.save_for_backward(x, z, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, z, *weights = ctx.saved_tensors
        formula, (wanted, _, *others) = ctx.formula, ctx.needs_input_grad
        if torch.is_grad_enabled() or _is_transformed(dy):
            with torch.enable_grad():
                y = formula.whole(x, tuple(weights))
                dx, *dweights = _gradients(y, [x, *weights], [wanted, *others], dy, create_graph=True)
            return dx, None, *dweights
        with torch.enable_grad():
            small = [None if one is None else one.detach().requires_grad_() for one in (z, *weights)]
            s = formula.factors(small[0], tuple(small[1:]))
        dz, *dweights = _gradients(s, small, [wanted, *others], _dot(dy, x))
        return _dx(dy, s.detach() + formula.spec.residual, dz, x) if wanted else None, None, *dweights


def _gradients(y: Tensor, inputs: list[Any], wanted: list[bool], dy: Tensor, **options: bool) -> list[Tensor | None]:
    """Of the inputs that are wanted; None of the others."""
    chosen = [one for one, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(y, chosen, dy, **options))
    return [next(found) if want else None for want in wanted]


def _dot(dy: Tensor, x: Tensor) -> Tensor:
    """The sum of dy * x over space, (N, C); every piece's product takes the same room."""
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


def _dx(dy: Tensor, s: Tensor, dz: Tensor, x: Tensor) -> Tensor:
    """dy * s + dz / positions, rounded once, in x's memory format."""
    dx, last = torch.empty_like(x), not x.is_contiguous()
    dz = dz * (s.numel() / x.numel())
    dy, s, dz, rows = _rows(dy, last), *(_rows(one[:, :, None], last) for one in (s, dz)), _rows(dx, last)
    pieces = _pieces(dy, s, dz, rows)
    room = None if x.dtype == s.dtype else s.new_empty(pieces[0][0].shape)
    for a, f, c, out in pieces:
        here = out if room is None else room[: len(a)]
        torch.mul(_into(here, a), f, out=here).add_(c)
        _into(out, here)
    return dx


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


def _narrow(x: Tensor, spec: SESpec) -> bool:
    """Whether x may be scaled without being widened."""
    return x.dtype == torch.bfloat16 and not spec.residual


def _pools(x: Tensor) -> bool:
    """Whether x is better summed by pooling."""
    if x.ndim != 4 or x.shape[1] < MANY or x.device.type != "cpu":
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _mean(x: Tensor) -> Tensor:
    """Over space; of bfloat16 accumulated in float32 and rounded once, where ``mean`` would write x down in float32."""
    narrow, axes = x.dtype == torch.bfloat16, tuple(range(2, x.ndim))
    if _pools(x):
        # One number is added after another; in float32 to no more than 64 of them, or a row.
        window = x.shape[2:] if narrow or x.shape[2:].numel() <= 64 else (1, x.shape[3])
        rows = F.avg_pool2d(x, window)
        return rows.flatten(1).float() if narrow else rows.mean(axes)
    return x.sum(axes).float() / x.shape[2:].numel() if narrow else x.mean(axes)


def _is_dense(x: Tensor) -> bool:
    """Whether the positions are one axis in memory: x is contiguous, or channels last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return x.is_contiguous() or (last is not None and x.is_contiguous(memory_format=last))


def _is_transformed(x: Tensor) -> bool:
    """Within torch.func, or of a batch of gradients: not what it seems."""
    return torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(x)
