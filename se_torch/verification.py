"""A block that was recognised on maps of one size, compared with ours on other maps, in gradients and in float32."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from se_spec import SESpec, live
from se_spec.live import Reading

from .block import SqueezeExcitation
from .forms import AdaptedSqueezeExcitation
from .layout import Layout

GRADIENT_TOLERANCE = 1e-6
"""The largest relative error of gradients in float64; torch's own of the hard sigmoid has errors of 3e-8."""
FLOAT32_TOLERANCE = 1e-4


def make_ours(spec: SESpec, tensors: Mapping[str, nn.Parameter], result: str, data_format: str) -> SqueezeExcitation:
    """Make a block of ours that holds the given parameters, by canonical name."""
    if (result, data_format) == ("map", "channels_first"):
        ours = SqueezeExcitation(spec, device="meta")
    else:
        ours = AdaptedSqueezeExcitation(spec, result=result, data_format=data_format, device="meta")
    for name, value in tensors.items():
        layer, _, kind = name.partition(".")
        setattr(getattr(ours, layer), kind, value)
    return ours


def describe_departure(
    theirs: nn.Module,
    spec: SESpec,
    reading: Reading,
    layout: Layout,
    result: str,
    tolerance: float,
) -> str | None:
    """Describe where a copy of a block with drawn parameters answers otherwise than ours; None if nowhere.

    Args:
        theirs: the copy, in evaluation mode, whose parameters may change their dtype.
        spec: what it computes on the maps on which it was recognised.
        reading: how its parameters are read.
        layout: the layout of its maps.
        result: the kind of its result.
        tolerance: the largest relative error.
    """
    own = {name: theirs.get_parameter(tensor.name) for name, tensor in reading.tensors.items()}
    values = {name: _to_ours(value, reading.tensors[name].is_transposed) for name, value in own.items()}
    first = next(iter(values.values()))
    zeros = {name: first.new_zeros(shape) for name, shape in spec.parameter_shapes().items() if name not in values}
    tensors = {name: nn.Parameter(value, False) for name, value in (values | zeros).items()}
    ours = make_ours(spec, tensors, result, layout.data_format).eval()
    for name, x in _list_maps(layout, spec.channels, first.dtype):
        try:
            with torch.no_grad():
                got = layout.call(theirs, x.clone())
        except Exception:  # a map that it refuses; ours accepts more
            continue
        with torch.no_grad():
            want = layout.call(ours, x)
        if not _is_near(got, want, tolerance):
            return f"on {name} its answer is another than that of {spec}"
    x = layout.draw(4, spec.channels, 7, first.dtype)
    if not _have_equal_gradients(theirs, ours, own, layout, x, reading):
        return "its gradients are others than ours"
    if first.dtype == torch.float64:
        with torch.no_grad():
            got, want = (layout.call(module.float(), x.float()) for module in (theirs, ours))
        if not _is_near(got, want, FLOAT32_TOLERANCE):
            return "in float32 its answer has errors that are larger than those of rounding"
    return None


def _list_maps(layout: Layout, channels: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    yield "one sample", layout.draw(1, channels, 4, dtype)
    if not layout.is_fixed:
        yield "a larger map", layout.enlarge().draw(2, channels, 5, dtype)
        if channels <= live.MOST_WIDTH:
            square = layout._replace(size=(channels,) * len(layout.size))
            yield "a map that is as wide as it has channels", square.draw(1, channels, 8, dtype)
    x = layout.draw(3, channels, 6, dtype)
    yield "large values", 50 * x
    x[:, :, 0] = 0.0
    yield "a map with zeros", x


def _to_ours(value: Tensor, is_transposed: bool) -> Tensor:
    value = value.detach().flatten(1) if value.ndim > 1 else value.detach()
    return (value.T if is_transposed else value).contiguous()


def _is_near(got: Any, want: Tensor, tolerance: float) -> bool:
    if not isinstance(got, Tensor) or got.shape != want.shape:
        return False
    return bool((got - want).abs().max() <= tolerance * max(1.0, want.abs().max().item()))


def _have_equal_gradients(
    theirs: nn.Module, ours: nn.Module, own: Mapping[str, Tensor], layout: Layout, x: Tensor, reading: Reading
) -> bool:
    """Return whether both have the same gradients of the map and of the parameters."""
    leaves = {name: value.requires_grad_() for name, value in own.items()}
    canonical = {name: ours.get_parameter(name).requires_grad_() for name in own}
    gradients = []
    try:
        for module, parameters in ((theirs, leaves), (ours, canonical)):
            leaf = x.clone().requires_grad_()
            with torch.enable_grad():
                y = layout.call(module, leaf * 1.0)  # a block may write into its map
                loss = (y * torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()
                gradients.append(
                    torch.autograd.grad(loss, [leaf, *parameters.values()], allow_unused=True, materialize_grads=True)
                )
    except Exception:  # a module that cannot be differentiated
        return False
    finally:
        for value in (*leaves.values(), *canonical.values()):
            value.requires_grad_(False)
    tolerance = GRADIENT_TOLERANCE if x.dtype == torch.float64 else FLOAT32_TOLERANCE
    turned = [False, *(reading.tensors[name].is_transposed for name in own)]
    pairs = zip(gradients[0], gradients[1], turned, strict=True)
    first, *others = pairs
    is_near = _is_near(first[0], first[1], tolerance)
    return is_near and all(_is_near(_to_ours(a, is_turned), b, tolerance) for a, b, is_turned in others)
