"""ONNX models, run by onnxruntime on the CPU, as functions of NumPy arrays."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import se_spec
from se_spec import SEError, SESpec, SpecError
from se_spec.texts import shorten

from .base import AdaptedBlock, Arrays, shapes_of
from .matching import NativeParameter, match

try:
    import onnx
    import onnxruntime
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"ONNX models need {error.name}: pip install 'se-suite[onnx]'", name=error.name
    ) from error


def adapt_onnx(block: Any, names: Mapping[str, str] | None, data_format: str) -> AdaptedBlock:
    """Adapt a model: y is its first output, its parameters are the initializers that its products and sums use."""
    if isinstance(block, (str, os.PathLike)):
        if not Path(block).is_file():
            raise SpecError(f"{os.fspath(block)!r} is not a file")
        adapter = _load(os.fspath(block), names)
    else:
        adapter = _Model(block, names)
    return AdaptedBlock(adapter.run, None, None, data_format, adapter.reset, adapter.find_contradictions)


def _load(path: str, names: Mapping[str, str] | None) -> "_Model":
    """Load a model from a file, whose errors are of many types.

    Raises:
        SpecError: the file is no model that onnx reads.
    """
    try:
        return _Model(onnx.load(path), names)
    except SEError:
        raise
    except Exception as error:
        raise SpecError(
            f"{shorten(path)} is no model that onnx reads ({type(error).__name__}: {shorten(error)})"
        ) from error


class _Model:
    """Makes a session for each call, since onnxruntime folds initializers into the model."""

    def __init__(self, model: Any, names: Mapping[str, str] | None) -> None:
        self.model, self.names = type(model)(), names
        self.model.CopyFrom(model)
        self.native = list(_parameters(self.model.graph))

    def reset(self, spec: SESpec, dtype: str, data_format: str) -> None:
        _refuse_input(_input(self.model.graph), spec, dtype, data_format)
        self._match_parameters(se_spec.parameters.shapes(spec))

    def run(self, x: np.ndarray, parameters: Arrays) -> object:
        matched = self._match_parameters(shapes_of(parameters))
        given = {native.name: native.from_canonical(parameters[name]) for name, native in matched.items()}
        model = type(self.model)()
        model.CopyFrom(self.model)
        for initializer in model.graph.initializer:
            if initializer.name in given:
                dtype = numpy_helper.to_array(initializer).dtype
                array = given[initializer.name].astype(dtype)
                initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors alone
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: x})[0]

    def find_contradictions(self, x: np.ndarray, way: str = "", raised: str = "") -> list[str]:
        """Run ONNX's reference evaluator, which may give an empty batch the right shape where onnxruntime fails."""
        evaluator = ReferenceEvaluator(self.model)
        try:
            y = evaluator.run(None, {evaluator.input_names[0]: x})[0]
        except Exception:
            return []
        right = isinstance(y, np.ndarray) and (y.shape, y.dtype) == (x.shape, x.dtype)
        return ["onnxruntime's answer differs from that of ONNX's own reference evaluator"] if right else []

    def _match_parameters(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NativeParameter]:
        return match(shapes, self.native, self.names, ordered=True)


@dataclass(frozen=True)
class _Initializer(NativeParameter):
    """An initializer, and the index in it of each canonical element."""

    places: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        return self.places.shape

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        flat = np.empty(array.size, array.dtype)
        flat[self.places.ravel()] = array.ravel()
        return flat.reshape(self.shape)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        return array.ravel()[self.places]


def _parameters(graph: Any) -> Iterator[_Initializer]:
    """Yield initializers of floats in the order in which nodes use them; single numbers only if added as a bias.

    A reshaped or transposed initializer is followed by the indices of its elements.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    places: dict[str, tuple[str, np.ndarray]] = {}
    for name, array in constants.items():
        if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
            places[name] = (name, np.arange(array.size).reshape(array.shape))
    found: dict[str, _Initializer] = {}
    products: set[str] = set()  # outputs of products
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], numpy_helper.to_array(a.t)) for a in node.attribute if a.name == "value")
        if node.op_type in _REARRANGEMENTS and node.input[0] in places:
            name, moved = places[node.input[0]]
            places[node.output[0]] = name, _REARRANGEMENTS[node.op_type](moved, node, constants)
            continue
        is_product = node.op_type in _CANONICAL_WEIGHT
        is_sum = node.op_type == "Add" and bool(products.intersection(node.input))
        for position, tensor in enumerate(node.input):
            if tensor not in places:
                continue
            name, used = places[tensor]
            if is_product and used.ndim > 1 and position < 2:
                used = _CANONICAL_WEIGHT[node.op_type](used, node, position)
            elif used.size == max((1, *used.shape)):
                used = used.ravel()  # (1, C, 1, 1)
            is_bias = (is_sum or is_product) and constants[name].ndim > 0  # not the 3 of relu6(x + 3) / 6
            if used.size > 1 or used.ndim > 1 or is_bias:
                found.setdefault(name, _Initializer(name, constants[name].shape, "out", used))
        if is_product or (node.op_type in ("Reshape", "Squeeze", "Unsqueeze") and node.input[0] in products):
            products.update(node.output)
    yield from found.values()


def _weight_of_conv(places: np.ndarray, node: Any, position: int) -> np.ndarray:
    return places.reshape(places.shape[:2]) if set(places.shape[2:]) <= {1} else places


def _weight_of_gemm(places: np.ndarray, node: Any, position: int) -> np.ndarray:
    is_transpose = bool(_attributes(node).get("transB" if position else "transA", 0))
    return places if is_transpose == bool(position) else places.T


def _weight_of_matmul(places: np.ndarray, node: Any, position: int) -> np.ndarray:
    places = places.reshape(places.shape[-2:]) if set(places.shape[:-2]) <= {1} else places
    return places.T if position else places


_CANONICAL_WEIGHT = {"Conv": _weight_of_conv, "Gemm": _weight_of_gemm, "MatMul": _weight_of_matmul}


def _transpose(places: np.ndarray, node: Any, constants: Arrays) -> np.ndarray:
    return places.transpose(_attributes(node).get("perm"))


def _reshape(places: np.ndarray, node: Any, constants: Arrays) -> np.ndarray:
    """Reshape; Squeeze, Unsqueeze and Flatten keep the order of elements, too."""
    operator, values = node.op_type, constants.get(node.input[1]) if len(node.input) > 1 else None
    if operator == "Flatten":
        return places.reshape(int(np.prod(places.shape[: _attributes(node).get("axis", 1)])), -1)
    axes = values if values is not None else _attributes(node).get("axes")
    axes = None if axes is None else tuple(int(axis) for axis in axes)
    if operator == "Reshape":
        assert axes is not None
        return places.reshape([places.shape[number] if axis == 0 else axis for number, axis in enumerate(axes)])
    return np.squeeze(places, axes) if operator == "Squeeze" else np.expand_dims(places, axes or ())


def _keep(places: np.ndarray, node: Any, constants: Arrays) -> np.ndarray:
    return places


_REARRANGEMENTS = {
    "Identity": _keep,
    "Cast": _keep,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Flatten": _reshape,
}


def _attributes(node: Any) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _input(graph: Any) -> Any:
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    if len(inputs) != 1:
        raise SpecError(f"the model has {len(inputs)} inputs; it must have one, the feature map")
    return inputs[0].type.tensor_type


def _refuse_input(tensor: Any, spec: SESpec, dtype: str, data_format: str) -> None:
    have = onnx.TensorProto.DataType.Name(tensor.elem_type).lower().replace("double", "float64")
    have = "float32" if have == "float" else have
    if have != dtype:
        raise SpecError(f"the model accepts {have}, but {dtype} is judged; export it in {dtype}")
    if dtype == "bfloat16":
        raise SpecError("onnxruntime accepts no bfloat16 arrays; export the model in another dtype")
    sizes = [axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
    if not sizes:
        return
    channel = 1 if data_format == "channels_first" else -1
    channels = sizes.pop(channel)
    if channels not in (None, spec.channels):
        raise SpecError(f"the model accepts {channels} channels on axis {channel}, the spec has {spec.channels}")
    if set(sizes) != {None}:
        raise SpecError("the model accepts maps of one size alone; export it with a dynamic batch and spatial axes")
