"""What keeps a layer from being replaced, and the float32 in which it can be tried."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

PLAIN = ("Dense", "Conv1D", "Conv2D", "Conv3D")
"""Layers whose variables may be read as a projection's."""


def list_layers(layer: Any) -> list[Any]:
    """List a layer and all layers inside it, once each."""
    found: dict[int, Any] = {}

    def visit(part: Any) -> None:
        if id(part) not in found:
            found[id(part)] = part
            for inner in part._layers:
                visit(inner)

    visit(layer)
    return list(found.values())


def name_variables(layer: Any) -> dict[str, Any]:
    """Return a layer's weights by path; a path that several have gets the number of the weight."""
    paths = [variable.path for variable in layer.weights]
    names = [path if paths.count(path) == 1 else f"{path} ({index})" for index, path in enumerate(paths)]
    return dict(zip(names, layer.weights, strict=True))


def list_shapes(layer: Any) -> dict[str, tuple[int, ...]]:
    """List the shapes of a layer's variables by name; those of 1x1 kernels are (I, O)."""
    shapes = {name: tuple(variable.shape) for name, variable in name_variables(layer).items()}
    return {name: shape[-2:] if set(shape[:-2]) == {1} else shape for name, shape in shapes.items()}


def list_slopes(layer: Any) -> list[float]:
    """List the slopes of leaky ReLU that layers inside have."""
    slopes = (getattr(part, "negative_slope", None) for part in list_layers(layer))
    return [float(slope) for slope in slopes if isinstance(slope, int | float) and slope]


def list_obstacles(layer: Any) -> list[str]:
    """List the reasons, as clauses, for which no block of ours can stand in the layer's place."""
    found = []
    if not layer.built:
        found.append("it has no variables yet; call it once")
    for part in list_layers(layer):
        name, kind = f"its layer {part.name!r}", type(part).__name__
        if "Normalization" in kind:
            found.append(f"it has {kind} ({part.name!r}) beside its projections")
        if part.quantization_mode is not None:
            found.append(f"{name} is quantized ({part.quantization_mode}); replace before quantization")
        if getattr(part, "lora_enabled", False):
            found.append(f"{name} has LoRA's matrices; merge them first")
        if getattr(part, "activity_regularizer", None) is not None:
            found.append(f"{name} has a regularizer of its activity, which no layer of ours would have")
        constraints = [variable.path for variable in part._trainable_variables if variable.constraint is not None]
        if constraints:
            found.append(f"{name} has constraints of its variables, whose axes are others in ours")
    return found


@contextlib.contextmanager
def compute_in_float32(layer: Any) -> Iterator[None]:
    """Make a layer and those inside compute in float32, where their policy is of fewer digits."""
    changed = [(part, part.dtype_policy) for part in list_layers(layer) if "16" in part.compute_dtype]
    try:
        for part, _ in changed:
            part.dtype_policy = keras.DTypePolicy("float32")
        yield
    finally:
        for part, policy in changed:
            part.dtype_policy = policy
