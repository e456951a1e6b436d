"""Networks of Keras: a block scales a map by a vector that a mean and one or two projections compute from the map.

So a block is recognised by its operations, not by its names; a library's own layers are read as the operations that
they call. Weights have no values until a block is evaluated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from se_spec import HardSigmoid

from ..peer_blocks import import_object
from .network import Block, Evaluation, Network, compute_gate, draw_feature_map, draw_weights

POOLS = ("GlobalAveragePooling2D", "Mean", "mean", "reduce_mean")
PROJECTIONS = ("Conv2D", "Dense")
PASSES = ("Reshape", "reshape", "Dropout", "linear")
KERAS_2_HARD_SIGMOID = HardSigmoid(slope=0.2, offset=0.5)
FUNCTIONS: dict[tuple[str, ...], Any] = {
    ("relu",): "relu",
    ("ReLU",): "relu",
    ("silu",): "silu",
    ("swish",): "silu",
    ("hard_swish",): "hard_swish",
    ("gelu",): "gelu",
    ("sigmoid",): "sigmoid",
    ("hard_sigmoid",): "hard_sigmoid",
    ("hard_sigmoid_torch",): "hard_sigmoid",
    ("HardSigmoidActivation",): "hard_sigmoid",
    ("Add", "ReLU", "Multiply"): "hard_sigmoid",  # relu6(x + 3) / 6
}


class Step(NamedTuple):
    """One operation of a graph."""

    operation: Any
    inputs: list[Any]
    output: Any


@contextmanager
def use_float64() -> Iterator[None]:
    """Make layers of Keras 3 that are created in this context compute in float64."""
    before = import_object("keras.config.dtype_policy")()
    import_object("keras.config.set_dtype_policy")("float64")
    try:
        yield
    finally:
        import_object("keras.config.set_dtype_policy")(before)


def read_network(model: Any) -> Network:
    """Read a network of Keras 3, or of Keras 2."""
    shapes = {read_name(weight): tuple(weight.shape) for weight in model.weights}
    order = {name: index for index, name in enumerate(shapes)}
    blocks = [block for step in _iterate_steps(model.outputs) if (block := _read_block(step)) is not None]
    return Network(shapes, sorted(blocks, key=lambda block: min(order[name] for name in block.names)))


def read_name(weight: Any) -> str:
    """Read the name that a weight has in a file."""
    return str(getattr(weight, "path", weight.name.removesuffix(":0")))


def _find_step(tensor: Any) -> Step | None:
    """Find the operation that made a tensor; None for an input."""
    if hasattr(tensor, "node"):  # Keras 2
        node = tensor.node
        return None if node.is_input else Step(node.layer, list(node.keras_inputs), tensor)
    operation, index = tensor._keras_history[:2]
    inputs = list(operation._inbound_nodes[index].input_tensors)
    return Step(operation, inputs, tensor) if inputs else None


def _iterate_steps(outputs: list[Any]) -> Iterator[Step]:
    """Yield every operation before the outputs, and those within layers that are not Keras's own."""
    waiting, seen = list(outputs), set()
    while waiting:
        tensor = waiting.pop()
        step = None if id(tensor) in seen else _find_step(tensor)
        seen.add(id(tensor))
        if step is None:
            continue
        yield step
        waiting += step.inputs
        inner = _call_layer(step)
        if inner:
            yield from _iterate_steps(inner)


def _call_layer(step: Step) -> list[Any]:
    """Call a layer of a library's own again, to see its operations; returns its outputs."""
    parts = getattr(step.operation, "_layers", [])
    if not parts or type(step.operation).__module__.startswith(("keras.", "tf_keras.")):
        return []
    inputs = [import_object("keras.Input")(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in step.inputs]
    outputs = step.operation.call(*inputs)
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _is_vector(tensor: Any) -> bool:
    """Whether a tensor has one number for each channel."""
    return len(tensor.shape) == 2 or all(length == 1 for length in tensor.shape[1:-1])


def _read_block(product: Step) -> Block | None:
    if _read_operation_name(product.operation).lower() != "multiply" or len(product.inputs) != 2:
        return None
    vectors = [tensor for tensor in product.inputs if _is_vector(tensor)]
    if len(vectors) != 1:
        return None
    chain: list[Any] = []
    tensor = vectors[0]
    while (step := _find_step(tensor)) is not None and len(step.inputs) == 1:
        chain.insert(0, step.operation)
        tensor = step.inputs[0]
        if not _is_vector(tensor):
            break
    projections = [layer for layer in chain if getattr(layer, "weights", [])]
    kinds = {type(layer).__name__ for layer in projections}
    if len(projections) not in (1, 2) or not kinds <= set(PROJECTIONS) or _read_operation_name(chain[0]) not in POOLS:
        return None
    shapes = [tuple(layer.kernel.shape) for layer in projections]
    if shapes[0][-2] != shapes[-1][-1]:
        return None
    functions = list(_iterate_nonlinearities(chain[1:], projections))
    path = read_name(projections[0].kernel).rpartition("/")[0]
    return Block(
        path,
        f"{type(projections[0]).__name__} of {type(projections[0]).__module__.partition('.')[0]}",
        frozenset(read_name(weight) for layer in projections for weight in layer.weights),
        shapes[-1][-1],
        shapes[0][-1] if len(shapes) == 2 else None,
        projections[0].bias is not None,
        functions[0] if len(functions) == 2 else "identity",
        functions[-1],
        False,
        partial(_evaluate, tensor, product.output),
    )


def _read_operation_name(operation: Any) -> str:
    """Read the name of a layer's class, or of the function that Keras 2 wrapped in a layer."""
    function = getattr(operation, "function", None)
    return type(operation).__name__ if function is None else str(function.__name__)


def _iterate_nonlinearities(chain: list[Any], projections: list[Any]) -> Iterator[Any]:
    """Yield the function after each projection."""
    names_by_projection: list[list[str]] = []
    for operation in chain:
        activation = getattr(operation, "activation", None)
        if operation in projections:
            names_by_projection.append([])
        name = (
            _read_operation_name(operation)
            if activation is None
            else getattr(activation, "__name__", type(activation).__name__)
        )
        if name not in (*PASSES, *PROJECTIONS):
            names_by_projection[-1].append(name)
    for names in names_by_projection:
        if names == ["hard_sigmoid"] and type(projections[0]).__module__.startswith("tf_keras"):
            yield KERAS_2_HARD_SIGMOID
        else:
            yield FUNCTIONS[tuple(names)]


def _evaluate(inputs: Any, outputs: Any, seed: int) -> Evaluation:
    random = np.random.default_rng(seed)
    part = import_object(f"{type(inputs).__module__.partition('.')[0]}.Model")(inputs, outputs)
    shapes = [tuple(weight.shape) for weight in part.weights]
    values = [draw_weights(random, shape, (1, *shape)[-2]) for shape in shapes]
    size = tuple(length or default for length, default in zip(inputs.shape[1:-1], (4, 3), strict=True))
    x = draw_feature_map(inputs.shape[-1], seed, size)
    if hasattr(part, "stateless_call"):
        with use_float64():  # some layers create layers when they are called
            y = np.asarray(part.stateless_call(values, [], x)[0])
    else:
        part.set_weights(values)
        y = np.asarray(part(x))
    if y.dtype != np.float64:
        raise TypeError(f"the block returned {y.dtype}, expected float64")
    return Evaluation(dict(zip(map(read_name, part.weights), values, strict=True)), x, compute_gate(x, y))
