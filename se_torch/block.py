"""Squeeze-and-Excitation as a PyTorch module, channels first.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507.
docs/SPEC.md numbers the clauses. Half precision is computed in float32 and rounded once, under autocast too.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import se_spec
from se_spec import SESpec

from .nonlinearities import activate, gate


class SqueezeExcitation(nn.Module):
    """``y = x * (gain * g)`` (+ x), with g = ``excitation(x)``.

    Args:
        spec: an ``SESpec``, or the channel count C with the spec's other fields as keywords.
        device: of the parameters.
        dtype: of the parameters; the output has the dtype of x.

    Input shape: (N, C, L), (N, C, H, W) or (N, C, D, H, W); any float dtype and memory format.
    Output shape: that of x; its dtype and memory format too.

    Raises:
        SpecError: on construction, a field is not allowed.
        InputError: x is not a tensor of floats.
        ShapeError: wrong rank, wrong channel count, or an empty spatial axis.

    >>> block = SqueezeExcitation(64, reduction=16, bias=True)
    >>> {name: tuple(value.shape) for name, value in block.state_dict().items()}
    {'reduce.weight': (4, 64), 'reduce.bias': (4,), 'expand.weight': (64, 4), 'expand.bias': (64,)}
    >>> block(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    def __init__(
        self,
        spec: SESpec | int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **fields: Any,
    ) -> None:
        super().__init__()
        self.spec = spec = SESpec.of(spec, **fields)
        options: dict[str, Any] = {"bias": spec.bias, "device": device, "dtype": dtype}
        if not spec.single_projection:  # E-4
            self.reduce = nn.Linear(spec.channels, spec.hidden, **options)
        self.expand = nn.Linear(spec.hidden, spec.channels, **options)

    def forward(self, x: Tensor) -> Tensor:
        wide = self._widened(x)
        y = wide * _over_space(self.spec.gain * self._gate(wide), x.ndim)  # C-1, C-2
        if self.spec.residual:
            y = y + wide  # C-3
        return y.to(x.dtype)  # N-2

    def excitation(self, x: Tensor) -> Tensor:
        """The gate g, shape (N, C), without the gain; float32, or float64 where x is."""
        return self._gate(self._widened(x))

    def _widened(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise se_spec.inputs.refuse_type(x, "torch.Tensor", "convert it with torch.as_tensor")
        se_spec.inputs.check(x.shape, x.dtype, self.spec, "channels_first")
        return x.to(torch.promote_types(x.dtype, torch.float32))  # N-1

    def _gate(self, x: Tensor) -> Tensor:
        with _without_autocast(x.device.type):  # N-4
            z = _squeeze(x, self.spec.squeeze)
            if not self.spec.single_projection:  # E-4
                z = activate(_project(z, self.reduce), self.spec.activation)  # E-1, E-2
            return gate(_project(z, self.expand), self.spec.gate)  # E-3

    def extra_repr(self) -> str:
        return repr(self.spec)


def _squeeze(x: Tensor, kind: str) -> Tensor:
    axes = tuple(range(2, x.ndim))
    if kind == "avg":
        return x.mean(axes)  # S-1
    highest = x.amax(axes).masked_fill(x.isnan().any(axes), torch.nan)  # S-2; exported, amax would drop NaN
    return highest if kind == "max" else 0.5 * x.mean(axes) + 0.5 * highest  # S-3


def _project(z: Tensor, linear: nn.Linear) -> Tensor:
    """The projection in z's dtype, whatever the parameters are stored in."""
    return F.linear(z, linear.weight.to(z.dtype), None if linear.bias is None else linear.bias.to(z.dtype))


def _over_space(g: Tensor, rank: int) -> Tensor:
    return g.reshape(g.shape + (1,) * (rank - 2))


def _without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast off, on devices that have it (the meta device has not)."""
    available = torch.amp.autocast_mode.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()
