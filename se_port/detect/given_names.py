"""Blocks by names that the caller gives, for systems that no layout describes."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from se_spec import LayoutError, SESpec
from se_spec.parameters import FLOATS
from se_spec.texts import shorten

from ..layouts.templates import to_canonical
from .derived import Derived
from .found import CHOICES, Found

PARAMETERS = ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias")
INPUTS_FIRST = ("keras", "tensorflow", "msgpack", "orbax", "matconvnet")
"""Formats of systems whose dense layers have weights (inputs, outputs)."""
GIVEN = "names"
"""The layout of a block whose names were given."""


def find_by_templates(
    derived: Derived, names: Mapping[str, str], activation: Any = None, gate: Any = None
) -> dict[str, Found]:
    """Find every block whose parameters have the given names.

    Args:
        derived: the file's tensors.
        names: canonical name to the file's, with ``{path}`` in place of what differs between blocks.
        activation: of every block; None if the caller does not know it.
        gate: the same.

    Returns:
        Each block by what is in place of ``{path}``; ``""`` where the names have none.

    Raises:
        LayoutError: a name is not canonical, no tensor has a name, a tensor is missing, or the shapes do not fit.
    """
    _check(names)
    source, computed = derived
    first = names.get("reduce.weight", names["expand.weight"])
    paths = _paths(source.shapes, first)
    if not paths:
        raise LayoutError(f"no tensor of these {len(source)} is named {first!r}; {{path}} is any text")
    order = [name for name in PARAMETERS if name in names]
    blocks = {}
    for path in paths:
        own = {name: names[name].replace("{path}", path) for name in order}
        missing = [name for name in own.values() if name not in source]
        if missing:
            raise LayoutError(
                f"{shorten(path) or 'the block'} lacks {', '.join(map(shorten, missing))}; "
                "leave out what the file does not have"
            )
        for name in own.values():
            if source[name].dtype.name not in FLOATS:
                raise LayoutError(
                    f"{shorten(name)} has dtype {source[name].dtype}, expected one of {', '.join(FLOATS)}"
                )
        parameters = _orient({name: source[at] for name, at in own.items()}, source.format, path)
        changes = [f"{at}: {computed[at]}" for at in own.values() if at in computed]
        blocks[path] = _make(parameters, own, activation, gate, changes)
    return blocks


def _check(names: Mapping[str, str]) -> None:
    unknown = set(names) - set(PARAMETERS)
    if unknown or "expand.weight" not in names:
        raise LayoutError(
            f"names= has {', '.join(map(repr, names))}; expected 'expand.weight' and any of {', '.join(PARAMETERS)}"
        )
    if len({"{path}" in name for name in names.values()}) > 1:
        raise LayoutError("some of names= have {path} and some have not; expected all, or none for a single block")


def _paths(shapes: Mapping[str, tuple[int, ...]], template: str) -> list[str]:
    parts = [re.escape(part) for part in template.split("{path}")]
    pattern = re.compile("(?P<path>.*)".join(parts[:2]) + "".join(f"(?P=path){part}" for part in parts[2:]), re.DOTALL)
    matches = map(pattern.fullmatch, shapes)
    return [found.groupdict().get("path", "") for found in matches if found]


def _orient(tensors: dict[str, np.ndarray], format: str | None, path: str) -> dict[str, np.ndarray]:
    """Turn the weights to (outputs, inputs): by axes of length one, a bias, or else the file's format."""
    weights = {name: array for name, array in tensors.items() if name.endswith("weight")}
    axes = {_find_axes(array.shape, inputs_first) for array in weights.values() for inputs_first in (False, True)}
    if None in axes:
        shapes = ", ".join(f"{shorten(name)} {array.shape}" for name, array in weights.items())
        raise LayoutError(
            f"{shorten(path) or 'the block'}: {shapes}; expected matrices, or convolutions whose kernels are 1"
        )
    flat = {name: array.reshape([n for n in array.shape if n != 1] or [1]) for name, array in tensors.items()}
    inputs_first = _are_inputs_first(tensors, format)
    result = {}
    for name, array in tensors.items():
        if name.endswith("weight"):
            shape_axes = _find_axes(array.shape, inputs_first)
            assert shape_axes is not None
            result[name] = np.ascontiguousarray(to_canonical(array, shape_axes))
        else:
            result[name] = flat[name].reshape(-1)
    return result


def _find_axes(shape: tuple[int, ...], inputs_first: bool) -> str | None:
    """Axes of a weight; ones lead where the inputs come first, as in Keras, and follow where not, as in PyTorch."""
    letters = "IO" if inputs_first else "OI"
    if len(shape) == 2:
        return letters
    ones = "1" * (len(shape) - 2)
    if not 3 <= len(shape) <= 5:
        return None
    if all(length == 1 for length in shape[2:]) and (not inputs_first or any(length != 1 for length in shape[:-2])):
        return f"OI{ones}"
    return f"{ones}IO" if all(length == 1 for length in shape[:-2]) else None


def _are_inputs_first(tensors: Mapping[str, np.ndarray], format: str | None) -> bool:
    for projection in ("reduce", "expand"):
        weight, bias = (tensors.get(f"{projection}.{leaf}") for leaf in ("weight", "bias"))
        if weight is not None and bias is not None and weight.ndim == 2 and weight.shape[0] != weight.shape[1]:
            return bias.size == weight.shape[1]
    first = tensors.get("reduce.weight")
    if first is not None and first.ndim == 2 and first.shape[0] != first.shape[1] and format is None:
        return first.shape[0] > first.shape[1]
    return format in INPUTS_FIRST


def _make(
    parameters: dict[str, np.ndarray], own: dict[str, str], activation: Any, gate: Any, changes: list[str]
) -> Found:
    expand = parameters["expand.weight"]
    channels = expand.shape[0]
    fields: dict[str, Any] = {"single_projection": True}
    if "reduce.weight" in parameters:
        fields = {"hidden": expand.shape[1]}
    given = {"activation": activation, "gate": gate}
    fields |= {name: value for name, value in given.items() if value is not None}
    bias = any(name.endswith("bias") for name in parameters)
    spec = SESpec(channels, bias=bias, **fields)
    shapes = spec.parameter_shapes()
    for name in shapes.keys() - parameters.keys():
        changes.append(f"zeros for {name}, which the file does not have")
        parameters[name] = np.zeros(shapes[name], expand.dtype)
    wrong = [f"{shorten(own[name])} {parameters[name].shape}, expected {shapes[name]}" for name in own
             if parameters[name].shape != shapes[name]]  # fmt: skip
    if wrong:
        raise LayoutError(f"the shapes are not those of {channels} channels: {'; '.join(wrong)}")
    unknown = tuple(
        name for name in CHOICES if given[name] is None and not (name == "activation" and spec.single_projection)
    )
    return Found(spec, {name: parameters[name] for name in shapes}, unknown, (GIVEN,), own, tuple(changes))
