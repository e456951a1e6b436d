"""Squeeze-and-Excitation as a PyTorch module, channels first.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507.
docs/SPEC.md numbers the clauses. Half precision is computed in float32 and rounded once, under autocast too; ``fast``
computes bfloat16, channels_last and large maps in faster ways.

``reduce`` and ``expand`` are plain ``nn.Linear`` layers. Where one of them has hooks, or is replaced, wrapped or
sharded, it is called like any layer of PyTorch; otherwise its weight and bias are used without the call.
"""

import contextlib
from typing import Any, Never, Unpack

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

import se_spec
from se_spec import InputError, SESpec, SpecFields

from .fast import when
from .fast.gpu import Weights
from .fast.loops import cast, multiply, widen
from .nonlinearities import activate, apply_gate, spell_activation, spell_gate


class SqueezeExcitation(nn.Module):
    """``y = x * (gain * g)`` (+ x), with g = ``excitation(x)``.

    Args:
        spec: an ``SESpec``, or the channel count C with the spec's other fields as keywords.
        device: device of the parameters.
        dtype: dtype of the parameters, or its name; the output has the dtype of x.
        inplace: whether y may be written over x where nothing is differentiated, as under ``torch.no_grad()``.

    Input shape: (N, C, L), (N, C, H, W) or (N, C, D, H, W); any float dtype and memory format.
    Output shape: that of x; its dtype and memory format too.

    Raises:
        SpecError: on construction, a field is not allowed.
        InputError: x is not a tensor of floats, or is not on the device of the parameters.
        ShapeError: wrong rank, wrong channel count, or an empty spatial axis.

    >>> block = SqueezeExcitation(64, reduction=16, bias=True)
    >>> {name: tuple(value.shape) for name, value in block.state_dict().items()}
    {'reduce.weight': (4, 64), 'reduce.bias': (4,), 'expand.weight': (64, 4), 'expand.bias': (64,)}
    >>> block(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    __jit_unused_properties__ = ("spec",)

    def __init__(
        self,
        spec: SESpec | int,
        *positional: Never,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        inplace: bool = False,
        **fields: Unpack[SpecFields],
    ) -> None:
        super().__init__()
        self.inplace = inplace
        self._spec = spec = SESpec.coerce(spec, *positional, **fields)
        self._squeeze, self._gain, self._residual = spec.squeeze, spec.gain, spec.residual
        self._activation, self._gate = spell_activation(spec.activation), spell_gate(spec.gate)
        options: dict[str, Any] = {"bias": spec.bias, "device": device, "dtype": parse_dtype(dtype)}
        if not spec.single_projection:  # E-4
            self.reduce = nn.Linear(spec.channels, spec.hidden, **options)
        self.expand = nn.Linear(spec.hidden, spec.channels, **options)

    def reset_parameters(self) -> None:
        """Draw all parameters anew (SPEC K-4), as needed after ``block.to_empty(device=...)``."""
        for layer in self.children():
            layer.reset_parameters()

    @property
    def spec(self) -> SESpec:
        """The spec of the block; its widths are those of the layers, which a pruning tool may have changed."""
        channels = getattr(self.expand, "out_features", self._spec.channels)
        hidden = getattr(self.expand, "in_features", self._spec.hidden)
        if (channels, hidden) == (self._spec.channels, self._spec.hidden):
            return self._spec
        single = self._spec.single_projection
        return self._spec.replace(channels=channels, **({} if single else {"hidden": hidden}))

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._record(x)
        else:  # torch.jit.script would compile code after the return; it omits this branch
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return self._record(x)
        self._check(x)
        weights = self._collect_weights(x)
        inplace = self.inplace and when.can_write_in_place(x, self._spec)
        way = when.choose_way(x, self._spec, weights)
        if way is not None:
            return when.run(self, x, weights, inplace, way)
        return self._apply_formula(x, weights, inplace)

    def _record(self, x: Tensor) -> Tensor:
        """Compute y for ``torch.jit.script`` and ``torch.fx``, which know neither rank nor dtype; z has x's dtype."""
        h = squeeze(x, self._squeeze)
        if hasattr(self, "reduce"):
            h = activate(self.reduce(h), self._activation)
        g = apply_gate(self.expand(h), self._gate)
        return scale(x, g if self._gain == 1.0 else self._gain * g, self._residual)

    def excitation(self, x: Tensor) -> Tensor:
        """Compute the gate g, without the gain.

        Args:
            x: shape (N, C, *spatial), the feature map.

        Returns:
            Shape (N, C); float32, or float64 if x is float64.

        Raises:
            InputError, ShapeError: as a call of the block.
        """
        self._check(x)
        return self._excite(squeeze(widen(x), self._squeeze), self._collect_weights(x))

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise se_spec.inputs.foreign_array_error(x, "torch.Tensor", "convert it with torch.as_tensor")
        if torch.jit.is_tracing():
            return  # sizes are tensors there, and a trace is for any size
        spec = self._spec if x.ndim > 1 and x.shape[1] == self._spec.channels else self.spec
        se_spec.inputs.check(x.shape, x.dtype, spec, "channels_first")

    def _apply_formula(self, x: Tensor, weights: Weights | None, inplace: bool = False) -> Tensor:
        wide = widen(x)  # N-1
        s = self._scale_factors(squeeze(wide, self._squeeze), weights)
        return cast(multiply(wide, s, self._residual, inplace), x.dtype)  # N-2

    def _collect_weights(self, x: Tensor) -> Weights | None:
        """Return weight and bias of each projection; None if the layers must be called, since a call may move them."""
        modules = self._modules  # a plain attribute of a module costs a microsecond
        expand, reduce = modules["expand"], modules.get("reduce")
        if not (_is_plain(expand) and (reduce is None or _is_plain(reduce))):
            return None
        weights: tuple[Any, ...] = expand._parameters["weight"], expand._parameters["bias"]
        if reduce is not None:
            weights = reduce._parameters["weight"], reduce._parameters["bias"], *weights
        if weights[0].device != x.device or weights[-2].device != x.device:
            raise _mixed_devices_error(x, self)
        return weights

    def _excite(self, z: Tensor, weights: Weights | None) -> Tensor:
        with _without_autocast(z.device.type):  # N-4
            if not self._spec.single_projection:  # E-4
                u = _call(self.reduce, z) if weights is None else _project(z, *weights[:2])  # E-1
                z = activate(u, self._activation)  # E-2
            v = _call(self.expand, z) if weights is None else _project(z, *weights[-2:])  # E-3
            return apply_gate(v, self._gate)

    def _scale_factors(self, z: Tensor, weights: Weights | None) -> Tensor:
        g = self._excite(z, weights)
        return g if self._gain == 1.0 else self._gain * g  # C-2

    def extra_repr(self) -> str:
        return f"{self.spec!r}, inplace=True" if self.inplace else repr(self.spec)


@torch.fx.wrap
def squeeze(x: Tensor, kind: str) -> Tensor:
    """Compute z, shape (N, C), in the dtype of x; half precision is accumulated in float32."""
    wide, axes = widen(x), list(range(2, x.dim()))
    if kind == "avg":
        return cast(wide.mean(axes), x.dtype)  # S-1
    highest = wide.amax(axes)  # S-2
    if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        # onnxruntime's maximum drops NaN. A mean restores it: a constant NaN would ruin the ranges of int8.
        highest = torch.where(wide.isnan().any(axes), wide.mean(axes), highest)
    return cast(highest if kind == "max" else 0.5 * wide.mean(axes) + 0.5 * highest, x.dtype)  # S-3


@torch.fx.wrap
def scale(x: Tensor, s: Tensor, residual: bool) -> Tensor:
    """Compute x * s (+ x) in the dtype of x; s has shape (N, C)."""
    return cast(multiply(widen(x), s, residual), x.dtype)


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return the dtype of a name such as ``"bfloat16"``; return anything else unchanged."""
    if not isinstance(dtype, str):
        return dtype
    se_spec.inputs.check_dtype("dtype", dtype)
    found: torch.dtype = getattr(torch, dtype.removeprefix("torch."))
    return found


def _mixed_devices_error(x: Tensor, block: nn.Module) -> InputError:
    devices = ", ".join(sorted({str(value.device) for value in block.parameters()}))
    return InputError(f"x is on {x.device}, and the parameters are on {devices}; move one, as by block.to(x.device)")


def _is_plain(layer: nn.Module) -> bool:
    """Return whether a call of the layer computes only ``F.linear`` of its weight and bias."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    if type(layer) is not nn.Linear or hooks or _has_any_global_hook():
        return False
    return "forward" not in layer.__dict__ and type(layer._parameters.get("weight")) is nn.Parameter


def _call(layer: nn.Module, z: Tensor) -> Tensor:
    """Call the layer on z in the dtype of its parameters; return the result in z's dtype."""
    dtype = next((value.dtype for value in layer.parameters() if value.is_floating_point()), z.dtype)
    return cast(layer(cast(z, dtype)), z.dtype)


def _project(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Project z in z's dtype, whatever the dtype of the parameters."""
    return F.linear(z, cast(weight, z.dtype), None if bias is None else cast(bias, z.dtype))


def _without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Switch autocast off if it is on; the meta device has none."""
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
