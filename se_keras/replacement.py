"""Our block in place of every SE block of a live model, and the way back."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from se_spec import InputError
from se_spec.live import Replacement

from .block import SqueezeExcitation
from .examination import Recognized, assign_parameters, call_with, match_variables
from .graphs import is_functional, list_nodes
from .parameters import get_parameters, set_parameters
from .recognition import Attribute, examine_model, list_children

IMAGE_SIZE = 64
"""Lengths of unknown axes of the inputs that are drawn, if the caller gives none."""


class Step(NamedTuple):
    """A block that was replaced: theirs, and ours."""

    theirs: Recognized
    ours: SqueezeExcitation


class Before(NamedTuple):
    """The model before, the blocks, and the attributes that were set, with their old values."""

    model: Any
    steps: list[Step]
    attributes: list[tuple[Attribute, Any, Any]]


def replace(model: keras.Layer, inputs: Any = None) -> Replacement:
    """Make a model with our block in place of every SE block of a live model.

    Args:
        model: a functional, sequential or subclassed model; built.
        inputs: what the model is called with, to compare its answers before and after: an array, or a list or dict of
            arrays. None draws two samples for a functional or sequential model.

    Returns:
        The new model, the blocks that were replaced, and the parts that resemble one and were left, with the reason;
        ``print`` shows it as text. A functional or sequential model is a new one, which shares every other layer with
        the old; a subclassed model is the same object.

    Raises:
        InputError: the model is not built, or fails on ``inputs``.

    >>> x = keras.Input((None, None, 8))
    >>> z = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    >>> g = keras.layers.Conv2D(8, 1, activation="sigmoid")(keras.layers.Conv2D(2, 1, activation="silu")(z))
    >>> model = keras.Model(x, keras.layers.Multiply(name="scale")([x, g]))
    >>> replacement = replace(model)
    >>> replacement.model.get_layer("scale").spec
    SESpec(8, hidden=2, bias=True, activation='silu')
    >>> restore(replacement) is model
    True
    """
    if not model.built:
        raise InputError("the model has no variables yet; call it once, or build it")
    found, left = examine_model(model)
    foreign = {path: entry for path, entry in found.items() if not isinstance(entry.layer, SqueezeExcitation)}
    arguments, want = _call_before(model, inputs)
    steps, builder = _make_steps(foreign, left), _Builder()
    foreign = {path: entry for path, entry in foreign.items() if path in steps}
    for path, step in steps.items():
        builder.add(foreign[path], step.ours)
    result = builder.rebuild(model)
    difference, fault = _compare_models(result, arguments, want)
    if fault:
        builder.undo()
        left |= dict.fromkeys(foreign, fault)
        result, steps, foreign, difference = model, {}, {}, None
    blocks = {path: entry.block for path, entry in foreign.items()}
    unique = list({id(step.ours): step for step in steps.values()}.values())
    notes = tuple(_write_notes(model, unique, difference, result is model))
    return Replacement(result, blocks, left, difference, notes, before=Before(model, unique, builder.attributes))


def restore(replacement: Replacement) -> Any:
    """Return the model as it was before ``replace``, with the parameters that our blocks now have.

    Args:
        replacement: the result of ``replace``.

    Returns:
        The old model.

    Raises:
        ParameterError: a layer of our block is quantized, has LoRA, or was replaced; nothing is then changed.

    >>> model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1)])
    >>> restore(replace(model)) is model
    True
    """
    before: Before = replacement.before
    held = [(step, get_parameters(step.ours)) for step in before.steps]
    for step, parameters in held:
        assign_parameters(step.theirs, parameters)
    _undo(before.attributes)
    return before.model


class _Builder:
    """Rebuilds models around the blocks that are replaced; other layers are shared."""

    def __init__(self) -> None:
        self.attributes: list[tuple[Attribute, Any, Any]] = []
        self._layers: dict[int, Any] = {}
        self._nodes: dict[int, tuple[Any, Any]] = {}

    def add(self, entry: Recognized, ours: SqueezeExcitation) -> None:
        """Note that our block replaces a layer, or a product in a graph."""
        if entry.block.kind == "operations of a graph":
            _, product = entry.place
            self._nodes[id(product.node)] = product.feature_map, ours
        else:
            self._layers[id(entry.layer)] = ours

    def rebuild(self, layer: Any) -> Any:
        """Return the layer with our blocks: itself, if nothing in it is replaced or it is changed in place."""
        if id(layer) not in self._layers:
            if isinstance(layer, keras.Sequential):
                self._layers[id(layer)] = self._rebuild_sequential(layer)
            elif is_functional(layer):
                self._layers[id(layer)] = self._rebuild_graph(layer)
            else:
                self._layers[id(layer)] = layer
                self._replace_attributes(layer)
        return self._layers[id(layer)]

    def undo(self) -> None:
        """Set the attributes back."""
        _undo(self.attributes)
        self.attributes = []

    def _rebuild_sequential(self, model: Any) -> Any:
        layers = [self.rebuild(layer) for layer in model.layers]
        if all(new is old for new, old in zip(layers, model.layers, strict=True)):
            return model
        inputs = [keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)] if model.inputs else []
        return keras.Sequential([*inputs, *layers], name=model.name)

    def _rebuild_graph(self, model: Any) -> Any:
        tensors: dict[int, Any] = {}
        for node in list_nodes(model):
            if id(node) in self._nodes:
                feature_map, ours = self._nodes[id(node)]
                results = [ours(tensors.get(id(feature_map), feature_map))]
            elif node.is_input:
                continue
            else:
                operation = node.operation
                operation = self.rebuild(operation) if isinstance(operation, keras.Layer) else operation
                if operation is node.operation and not any(id(tensor) in tensors for tensor in node.input_tensors):
                    continue
                known = {id(tensor): tensors.get(id(tensor), tensor) for tensor in node.input_tensors}
                arguments, options = node.arguments.fill_in(known)
                results = tree.flatten(operation(*arguments, **options))
            tensors |= {id(old): new for old, new in zip(node.outputs, results, strict=True)}
        if not tensors:
            return model
        outputs = tree.map_structure(lambda tensor: tensors.get(id(tensor), tensor), model._outputs_struct)
        return keras.Model(model._inputs_struct, outputs, name=model.name, trainable=model.trainable)

    def _replace_attributes(self, layer: Any) -> None:
        for _, attribute, part in list(list_children(layer)):
            new = self.rebuild(part)
            if new is not part:
                _set_attribute(attribute, part, new)
                self.attributes.append((attribute, part, new))


def _set_attribute(attribute: Attribute, old: Any, new: Any) -> None:
    """Set an attribute, or an entry of it; the layer keeps the order of its layers."""
    holder, name, key = attribute
    if holder._tracker.is_in_store("layers", old):
        holder._tracker.replace_tracked_value("layers", old, new)
    value = getattr(holder, name)
    if key is not None:
        entries = dict(value) if isinstance(value, dict) else list(value)
        entries[key] = new
        new = tuple(entries) if isinstance(value, tuple) else entries
    was_locked = holder._tracker.locked
    holder._tracker.unlock()
    setattr(holder, name, new)
    holder._tracker.locked = was_locked
    for function in ("train_function", "test_function", "predict_function"):
        if getattr(holder, function, None) is not None:
            setattr(holder, function, None)  # compiled with the old layer


def _undo(attributes: list[tuple[Attribute, Any, Any]]) -> None:
    for attribute, old, new in reversed(attributes):
        _set_attribute(attribute, new, old)


def _make_steps(found: Mapping[str, Recognized], left: dict[str, str]) -> dict[str, Step]:
    """Make our blocks, one for each set of variables; name those whose answers are not ours."""
    made: dict[tuple[int, ...], SqueezeExcitation] = {}
    steps = {}
    for path, entry in found.items():
        key = tuple(id(variable) for variable in entry.layer.weights)
        if key not in made:
            made[key] = _make_block(entry, path.rpartition("/")[2])
        step = Step(entry, made[key])
        if reason := _compare_blocks(step):
            left[path] = reason
        else:
            steps[path] = step
    return steps


def _compare_blocks(step: Step) -> str | None:
    """Return how our answer differs from theirs for the block's own parameters."""
    layer, layout = step.theirs.layer, step.theirs.layout
    x = ops.cast(layout.draw(4, step.ours.spec.channels, 4), layer.compute_dtype)
    want, got = (ops.convert_to_numpy(call_with(part, x)) for part in (layer, step.ours))
    difference = _compare([want], [got])
    if difference <= _limit(want.dtype):
        return None
    return f"with its own parameters, its answer and ours are {difference:.1e} of the largest apart"


def _make_block(entry: Recognized, name: str) -> SqueezeExcitation:
    theirs = match_variables(entry)
    policy = next((part.dtype_policy for part in entry.layer._flatten_layers() if part._trainable_variables), None)
    is_layer = entry.block.kind != "operations of a graph"
    ours = SqueezeExcitation(entry.block.spec, name=entry.layer.name if is_layer else name, dtype=policy)
    ours.build((None, *(None for _ in entry.layout.size), entry.block.spec.channels))
    set_parameters(ours, entry.block.parameters)
    for key in entry.block.spec.parameter_shapes():
        layer, _, kind = key.partition(".")
        variable = getattr(getattr(ours, layer), kind.replace("weight", "kernel"))
        old = theirs.get(key)
        variable.trainable = old is not None and old.trainable  # a bias that theirs does not have stays zero
        if old is not None and old.regularizer is not None:
            variable.regularizer = old.regularizer
            setattr(getattr(ours, layer), f"{kind.replace('weight', 'kernel')}_regularizer", old.regularizer)
    return ours


def _call_before(model: Any, inputs: Any) -> tuple[Any, list[np.ndarray] | None]:
    """Return the arguments, and the model's answers; None if the model was not called."""
    if inputs is not None:
        try:
            return inputs, call_model(model, inputs)
        except Exception as error:
            raise InputError(f"the model raises {type(error).__name__} on the inputs: {error}") from error
    if not getattr(model, "inputs", None):
        return None, None
    random = np.random.default_rng(0)
    drawn = [
        random.standard_normal((2, *(length or IMAGE_SIZE for length in tensor.shape[1:]))).astype(tensor.dtype)
        for tensor in model.inputs
    ]
    try:
        arguments = tree.pack_sequence_as(getattr(model, "_inputs_struct", model.inputs), drawn)
        return arguments, call_model(model, arguments)
    except Exception:  # inputs of sizes or values for which the model was not made
        return None, None


def call_model(model: Any, inputs: Any) -> list[np.ndarray]:
    """Call the model in inference mode."""
    result = call_with(model, tree.map_structure(ops.convert_to_tensor, inputs))
    return [ops.convert_to_numpy(value) for value in tree.flatten(result)]


def _compare_models(model: Any, arguments: Any, want: list[np.ndarray] | None) -> tuple[float | None, str]:
    """Return the largest difference as a share of the largest answer, and what is wrong; empty if nothing is."""
    if want is None:
        return None, ""
    try:
        got = call_model(model, arguments)
    except Exception as error:
        return None, f"with ours in its place, the model raises {type(error).__name__}: {error}"
    difference, limit = _compare(want, got), max((_limit(value.dtype) for value in want), default=0.0)
    too_far = f"with ours in their places, the model's answers are {difference:.1e} of the largest apart"
    return difference, "" if difference <= limit else too_far


def _compare(want: list[np.ndarray], got: list[np.ndarray]) -> float:
    """Return the largest difference as a share of the largest value."""
    worst = 0.0
    for pair in zip(want, got, strict=True):
        a, b = (value.astype(np.float64) for value in pair)
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return float("inf")
        a, b = np.nan_to_num(a), np.nan_to_num(b)
        worst = max(worst, float(np.abs(a - b).max(initial=0.0) / (np.abs(a).max(initial=0.0) or 1.0)))
    return worst


def _limit(dtype: Any) -> float:
    """Return the largest difference by rounding: half of the dtype's digits, since many layers follow a block."""
    return {"float64": 2.0**-26, "float32": 2.0**-11.5, "float16": 2.0**-5}.get(str(dtype), 2.0**-3.5)


def _write_notes(model: Any, steps: list[Step], difference: float | None, is_same: bool) -> Iterator[str]:
    if not steps:
        return
    if getattr(model, "optimizer", None) is not None:
        again = "compile it again" if is_same else "the new model is not compiled; compile it"
        yield f"{again}, since the optimizer holds the old variables"
    lacking = [
        step.theirs.block.path for step in steps if len(step.theirs.block.names) < len(step.theirs.block.parameters)
    ]
    if lacking:
        yield f"a bias that one projection alone lacked is zeros that are not trained: {', '.join(lacking)}"
    if difference is None:
        yield "the model was not called; give inputs to compare its answers"
    if not is_same:
        yield "other layers are shared with the old model, so that training changes both"
    yield "weights that were saved before fit the model after restore(replacement), not now"
