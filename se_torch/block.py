"""Squeeze-and-Excitation as a PyTorch module, channels first.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507.
docs/SPEC.md numbers the clauses. Half precision is computed in float32 and rounded once, under autocast too; what
``eager`` does otherwise with bfloat16, channels_last and large maps, it says.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import se_spec
from se_spec import SESpec

from . import eager
from .eager import Formula, Weights
from .nonlinearities import activate, gate
from .passes import cast, widened


class SqueezeExcitation(nn.Module):
    """``y = x * (gain * g)`` (+ x), with g = ``excitation(x)``.

    Args:
        spec: an ``SESpec``, or the channel count C with the spec's other fields as keywords.
        device: of the parameters.
        dtype: of the parameters; the output has the dtype of x.
        inplace: whether y may be written over x where nothing is differentiated, as under ``torch.no_grad()``.

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
        inplace: bool = False,
        **fields: Any,
    ) -> None:
        super().__init__()
        self.inplace = inplace
        self.spec = spec = SESpec.of(spec, **fields)
        options: dict[str, Any] = {"bias": spec.bias, "device": device, "dtype": dtype}
        if not spec.single_projection:  # E-4
            self.reduce = nn.Linear(spec.channels, spec.hidden, **options)
        self.expand = nn.Linear(spec.hidden, spec.channels, **options)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        weights = self._weights()
        inplace = self.inplace and eager.overwrites(x, self.spec)
        if eager.fits(x, self.spec, weights):
            return eager.run(x, Formula(self.spec, self._formula, self._factors, self._scale, inplace), weights)
        return self._formula(x, weights, inplace)

    def excitation(self, x: Tensor) -> Tensor:
        """The gate g, shape (N, C), without the gain; float32, or float64 where x is."""
        self._check(x)
        return self._gate(self._squeeze(widened(x)), self._weights())

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise se_spec.inputs.refuse_type(x, "torch.Tensor", "convert it with torch.as_tensor")
        se_spec.inputs.check(x.shape, x.dtype, self.spec, "channels_first")

    def _formula(self, x: Tensor, weights: Weights, inplace: bool = False) -> Tensor:
        wide = widened(x)  # N-1
        y = self._scale(wide, self._factors(self._squeeze(wide), weights), inplace)
        return cast(y, x.dtype)  # N-2

    def _weights(self) -> Weights:
        expand, biased = self._modules["expand"], self.spec.bias  # each plain attribute of a module costs a microsecond
        last = expand.weight, expand.bias if biased else None
        if self.spec.single_projection:
            return last
        reduce = self._modules["reduce"]
        return reduce.weight, reduce.bias if biased else None, *last

    def _squeeze(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        if self.spec.squeeze == "avg":
            return x.mean(axes)  # S-1
        highest = x.amax(axes).masked_fill(x.isnan().any(axes), torch.nan)  # S-2; exported, amax would drop NaN
        return highest if self.spec.squeeze == "max" else 0.5 * x.mean(axes) + 0.5 * highest  # S-3

    def _gate(self, z: Tensor, weights: Weights) -> Tensor:
        with _without_autocast(z.device.type):  # N-4
            if not self.spec.single_projection:  # E-4
                z = activate(_project(z, *weights[:2]), self.spec.activation)  # E-1, E-2
            return gate(_project(z, *weights[-2:]), self.spec.gate)  # E-3

    def _factors(self, z: Tensor, weights: Weights) -> Tensor:
        g = self._gate(z, weights)
        return g if self.spec.gain == 1.0 else self.spec.gain * g  # C-2

    def _scale(self, x: Tensor, s: Tensor, inplace: bool) -> Tensor:
        s = s.view(*s.shape, *(1,) * (x.ndim - 2))
        y = x.mul_(s) if inplace else x * s  # C-1
        return y + x if self.spec.residual else y  # C-3

    def extra_repr(self) -> str:
        return f"{self.spec!r}, inplace=True" if self.inplace else repr(self.spec)


def _project(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The projection in z's dtype, whatever the parameters are stored in."""
    return F.linear(z, cast(weight, z.dtype), None if bias is None else cast(bias, z.dtype))


def _without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast off, where it is on; the meta device has none."""
    if torch.amp.autocast_mode.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
