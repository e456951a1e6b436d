"""Examination of one module: is it an SE block by what it computes, and if not, why not?

The parameters of a copy of the module are drawn, the copy is called on drawn maps, and its factors y / x are compared
with those of every spec that ``se_spec.live`` allows, in float64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from se_spec import SESpec, live
from se_spec.live import LiveBlock, Reading

from .layout import Layout
from .matching import Factors, match_spec
from .obstacles import copy_with, list_layer_shapes, list_obstacles, list_shapes, trace_call
from .tensors import to_array
from .verification import describe_departure

PRECISIONS = ((torch.float64, 1e-9), (torch.float32, 2e-5))
"""Dtypes in which a module is called, and the largest relative error; the second if it does not run in the first."""


@dataclass(frozen=True)
class Recognized:
    """A block, the module that is the block, and how its tensors are read."""

    block: LiveBlock
    module: nn.Module
    reading: Reading
    layout: Layout


def examine_module(
    module: nn.Module, hint: SESpec | None = None, *, is_named: bool | None = None
) -> Recognized | str | None:
    """Examine one module.

    Args:
        module: of any class.
        hint: the spec to try first.
        is_named: whether the module is expected to be a block; None judges by the name of its class.

    Returns:
        The block; or the reason why it is none, although it resembles one; or None.
    """
    if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        return None
    is_named = _is_named(module) if is_named is None else is_named
    shapes = list_shapes(module)
    if len(shapes) + sum(1 for _ in module.buffers()) > live.MOST_TENSORS:
        return None
    readings = live.list_readings(shapes)
    obstacles = list_obstacles(module)
    if not readings or obstacles:
        return _describe_failure(module, shapes, obstacles, is_named)
    for dtype, tolerance in PRECISIONS:
        found, was_called = _recognize(module, readings, hint, is_named, dtype, tolerance)
        if was_called:
            break
    return found


def _recognize(
    module: nn.Module,
    readings: list[Reading],
    hint: SESpec | None,
    is_named: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> tuple[Recognized | str | None, bool]:
    """Return the block or the reason, and whether a call succeeded."""
    values = _draw_parameters(module, readings, dtype)
    try:
        drawn = copy_with(module, values)
    except Exception as error:  # whatever the module's own __deepcopy__ raises
        return (f"copy.deepcopy of it raises {type(error).__name__}: {error}" if is_named else None), True
    reason, fault, was_called = None, "", False
    for channels in dict.fromkeys(reading.channels for reading in readings):
        fitting = [reading for reading in readings if reading.channels == channels]
        has_mismatch = False
        for layout in list_layouts(module, (channels, fitting[0].hidden)):
            if has_mismatch and not layout.is_square:
                return reason, True
            try:
                seen = _observe(drawn, layout, channels, dtype)
            except Exception as error:  # a layout for which the module was not made; whatever its code raises
                fault = fault or f"{type(error).__name__}: {error}"
                continue
            was_called = True
            x, s, result, trace = seen
            if s is None:
                resembles = (trace.pools and trace.is_scaled) or is_named
                reason = reason or ("it does not scale each channel of a map by one number" if resembles else None)
                continue
            matched = match_spec(Factors(x, s, values), fitting, tolerance, hint, trace.slopes)
            if matched is None or (result != "map" and matched[0].gate in ("identity", "relu")):
                is_like = trace.pools and (result == "map" or matched is None)
                reason = "its factors are those of no spec" if is_like or is_named else None
                if layout.is_square or len(layout.size) == 1:
                    return reason, True
                has_mismatch = True
                continue
            spec, reading = matched
            changes = _compare_training(drawn, layout, channels, dtype, tolerance)
            changes = changes or describe_departure(drawn, spec, reading, layout, result, tolerance)
            if changes:
                return changes, True
            names = {name: own.name for name, own in reading.tensors.items()}
            arrays = to_arrays(module, reading.tensors)
            block = LiveBlock("", live.name_class(module), spec, arrays, names, result, layout.data_format)
            return Recognized(_add_zeros(block), module, reading, layout), True
    if reason is None and is_named:
        reason = f"a call with one feature map raises {fault}"
    return reason, was_called


def _add_zeros(block: LiveBlock) -> LiveBlock:
    """Add zeros for the bias of one projection, where the other alone has one."""
    shapes = block.spec.parameter_shapes()
    kind = next(iter(block.parameters.values())).dtype if block.parameters else np.dtype("float32")
    zeros = {name: np.zeros(shape, kind) for name, shape in shapes.items() if name not in block.names}
    arrays = {**block.parameters, **zeros} if block.parameters else {}
    return replace(block, parameters={name: arrays[name] for name in shapes if name in arrays})


def _draw_parameters(module: nn.Module, readings: list[Reading], dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw parameters with which hidden values and logits reach every branch of their functions."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, value in module.named_parameters():
        numbers = torch.randn(tuple(value.shape), generator=generator, dtype=torch.float64)
        widths = {
            reading.hidden if "expand" in role else reading.channels
            for reading in readings
            for role, own in reading.tensors.items()
            if own.name == name
        }
        drawn[name] = (numbers * 3.0 / max(widths) ** 0.5 if value.ndim > 1 else numbers).to(dtype)
    return drawn


def list_layouts(module: nn.Module, widths: tuple[int, int]) -> Iterator[Layout]:
    """List the layouts in which a module may be called, the likely ones first."""
    kinds = [type(part).__name__ for part in module.modules()]
    named = [rank for rank in (1, 2, 3) if any(kind.endswith(f"{rank}d") for kind in kinds)]
    for part in module.modules():
        size = getattr(part, "kernel_size", 1) if "Pool" in type(part).__name__ else 1
        if size != 1 and named:  # a pooling made for maps of one size
            yield Layout(size if isinstance(size, tuple) else (size,) * named[0], is_fixed=True)
    for data_format in ("channels_first", "channels_last"):
        for rank in dict.fromkeys((*named, 2, 1, 3)):
            sizes = live.choose_sizes(widths, rank)
            yield Layout(sizes, data_format)
            if rank > 1:  # for code that pools by the height alone
                yield Layout(sizes[:1] * rank, data_format, is_square=True)


def _observe(module: nn.Module, layout: Layout, channels: int, dtype: torch.dtype) -> Any:
    """Call the module; return x, its factors (None if there are none), the kind of result, and the trace."""
    x = layout.draw(2, channels, 1, dtype)
    y, trace = trace_call(partial(layout.call, module), x)
    s, result = _read_factors(x, y, layout)
    if s is not None:
        x = layout.draw(live.SAMPLES, channels, 2, dtype)
        with torch.no_grad():
            s, result = _read_factors(x, layout.call(module, x.clone()), layout)
    return x, s, result, trace


def _read_factors(x: Tensor, y: Any, layout: Layout) -> tuple[Tensor | None, str]:
    """Read the factors (N, C) from a module's result; None if it scales no channel by one number."""
    if not isinstance(y, Tensor) or y.dtype != x.dtype:
        return None, ""
    if y.shape == x.shape[:2]:
        return y, "vector"
    y = y.movedim(-1, 1) if layout.data_format == "channels_last" else y
    if y.shape == (*x.shape[:2], *(1 for _ in layout.size)):
        return y.flatten(1), "gate"
    if y.shape != x.shape:
        return None, ""
    ratio = (y / x).flatten(2)
    if not ratio.isfinite().all():
        return None, ""
    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
    is_scaled = (ratio - ratio[..., :1]).abs().max() <= tolerance * max(1.0, ratio.abs().max().item())
    return (ratio[..., 0], "map") if is_scaled else (None, "")


def _compare_training(
    module: nn.Module, layout: Layout, channels: int, dtype: torch.dtype, tolerance: float
) -> str | None:
    """Return how the module's answer differs in training mode, in which ours is the same."""
    x = layout.draw(8, channels, 3, dtype)
    with torch.no_grad():
        want = layout.call(module, x.clone())
        try:
            got, trace = trace_call(partial(layout.call, module.train()), x)
        except Exception as error:
            return f"its call in training mode raises {type(error).__name__}"
        finally:
            module.eval()
    if trace.is_random:
        return "it has dropout, or draws random numbers otherwise, in training mode"
    if not (got - want).abs().max() <= tolerance * max(1.0, want.abs().max().item()):
        return "its answer in training mode is another"
    return None


def _describe_failure(
    module: nn.Module, shapes: dict[str, tuple[int, ...]], obstacles: list[str], is_named: bool
) -> str | None:
    """Describe why a module is no block, if it resembles one."""
    weights = [shape for shape in shapes.values() if len(shape) == 2]
    widths = [shape for shape in (*weights, *list_layer_shapes(module)) if shape[0] != shape[1]]
    if not live.has_pair(widths) and not (is_named and (shapes or obstacles)):
        return None
    if not is_named and not _has_excitation(module, widths):
        return None
    if any(len(shape) > 2 for shape in shapes.values()) and not is_named:
        return (
            "it computes squeeze and excitation in its own call, beside other layers; give them a module of their own"
        )
    if obstacles:
        return "; ".join(obstacles[:3])
    counted = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:6])
    return f"its parameters are not those of one or two projections: {counted}"


def _has_excitation(module: nn.Module, widths: list[Any]) -> bool:
    """Return whether a call of the module passes pooled values through a bottleneck."""
    try:
        shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
        twin = copy_with(module, {name: torch.randn(shape) for name, shape in shapes.items()}).float()
    except Exception:
        return any("Pool" in type(part).__name__ for part in module.modules())
    inputs = _list_inputs(module) or [width for shape in widths for width in sorted(shape)[::-1]]
    first_ones = (layout for layout in list_layouts(module, (1, 1)) if layout.data_format == "channels_first")
    layouts = dict.fromkeys(layout.enlarge() for layout in first_ones if not layout.is_fixed)
    for channels in dict.fromkeys(inputs):
        for layout in layouts:
            x = layout.draw(1, channels, 1, torch.float32)  # a large one: strides leave no map of one position
            try:
                y, trace = trace_call(partial(layout.call, twin), x)
            except Exception:  # a map for which the module was not made
                continue
            is_quantized = any(name.startswith("quantized") for name in trace.names)
            if (trace.has_excitation or (is_quantized and trace.is_pooled)) and isinstance(y, Tensor):
                return True
            break
    return False


def _list_inputs(module: nn.Module) -> list[int]:
    """List the channels of a map that the first layer inside may need."""
    return [part.in_channels for part in module.modules() if isinstance(part, nn.modules.conv._ConvNd)][:1]


def _is_named(module: nn.Module) -> bool:
    name = getattr(module, "original_name", None) or type(module).__name__
    return live.is_named_like_a_block(str(name))


def to_arrays(module: nn.Module, tensors: Mapping[str, live.Tensor]) -> dict[str, np.ndarray]:
    """Copy parameters to canonical arrays; those without storage are left out."""
    values = {name: module.get_parameter(own.name) for name, own in tensors.items()}
    held = {name: to_array(value) for name, value in values.items() if not value.is_meta}
    arrays = {name: array.reshape(array.shape[:2]) for name, array in held.items()}
    return {name: array.T.copy() if tensors[name].is_transposed else array for name, array in arrays.items()}
