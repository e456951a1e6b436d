"""TensorFlow Lite models of floats, run by TensorFlow's interpreter, as functions of NumPy arrays."""

import copy
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import se_spec
from se_spec import HardSigmoid, ParameterError, SEError, SESpec, SpecError
from se_spec.texts import shorten

from .base import AdaptedBlock, Arrays, shapes_of
from .departures import BIAS_MISSING, DepartureError
from .matching import NativeParameter, match

try:
    from tensorflow.lite.python.interpreter import Interpreter
    from tensorflow.lite.tools import flatbuffer_utils
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "TensorFlow Lite models need tensorflow: pip install 'se-suite[keras-tf]'", name="tensorflow"
    ) from error

FLOAT32 = 0
"""The number of the type in ``TensorType``."""
ADD, CONV_2D, FULLY_CONNECTED = 0, 3, 9
"""Numbers of operators in ``BuiltinOperator``."""
MADE_OF_SHAPES = (22, 40, 82)
"""RESHAPE, MEAN and REDUCE_MAX, whose constants are no parameters."""


def adapt_tflite(block: Any, names: Mapping[str, str] | None, data_format: str) -> AdaptedBlock:
    """Adapt a model: y is its output, its parameters are the constants of its products and sums."""
    if isinstance(block, (str, os.PathLike)):
        if not Path(block).is_file():
            raise SpecError(f"{os.fspath(block)!r} is not a file")
        adapter = _load(Path(block), names)
    else:
        adapter = _Model(copy.deepcopy(block), names, is_cut=True)
    return AdaptedBlock(adapter.run, None, None, data_format, adapter.reset)


def _load(path: Path, names: Mapping[str, str] | None) -> "_Model":
    """Load a model from a file, whose errors are of many types.

    Raises:
        SpecError: the file is no model that TensorFlow reads.
    """
    try:
        return _Model(flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes())), names, is_cut=False)
    except SEError:
        raise
    except Exception as error:
        raise SpecError(
            f"{shorten(str(path))} is no model that TensorFlow Lite reads ({type(error).__name__}: {shorten(error)})"
        ) from error


class _Model:
    """Makes an interpreter for each call, since it keeps the constants of the model."""

    def __init__(self, model: Any, names: Mapping[str, str] | None, *, is_cut: bool) -> None:
        self.model, self.names, self.is_cut = model, names, is_cut
        self.graph = model.subgraphs[0]
        self.native = list(_find_parameters(model))

    def reset(self, spec: SESpec, dtype: str, data_format: str) -> None:
        _refuse_input(self.graph, spec, dtype, data_format)
        if not self.is_cut and (spec.gate == "hard_sigmoid" or isinstance(spec.gate, HardSigmoid)):
            raise SpecError(
                "TensorFlow's converter adds the numbers of a hard sigmoid to the projection before it, so that the "
                "file does not hold the block's own bias; name the block with --block, whose spec is then the file's"
            )
        try:
            self._match_parameters(se_spec.parameters.shapes(spec))
        except DepartureError as error:
            if error.departure.name == BIAS_MISSING:  # the file alone does not show whether the block has one
                message = "the converter drops biases of zeros; give the block others before it is converted"
                raise ParameterError(f"{error.departure.sentence}; {message}") from error
            raise

    def run(self, x: np.ndarray, parameters: Arrays) -> object:
        for name, native in self._match_parameters(shapes_of(parameters)).items():
            array = np.ascontiguousarray(native.from_canonical(parameters[name]), np.dtype("<f4"))
            self.model.buffers[native.buffer].data = np.frombuffer(array.tobytes(), np.uint8)
        content = bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated", UserWarning)
            interpreter = Interpreter(model_content=content, num_threads=1)
        place, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        interpreter.resize_tensor_input(place, x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place, x)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    def _match_parameters(self, shapes: Mapping[str, tuple[int, ...]]) -> "dict[str, _Constant]":
        has_bias = any(name.endswith(".bias") for name in shapes)
        native = [constant for constant in self.native if has_bias or not constant.is_zero_bias]
        return match(shapes, native, self.names, ordered=True)  # type: ignore[return-value]


@dataclass(frozen=True)
class _Constant(NativeParameter):
    """A constant tensor, and the number of its buffer.

    ``is_zero_bias``: whether it is a bias of zeros, which the converter adds where the block has none.
    """

    buffer: int = 0
    is_zero_bias: bool = False

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """(O, I) of a kernel (O, 1, 1, I)."""
        if len(self.shape) == 4 and self.shape[1:3] == (1, 1):
            return self.shape[0], self.shape[3]
        return super().canonical_shape


def _find_parameters(model: Any) -> Iterator[_Constant]:
    """Yield the constants of floats in the order in which operators use them, each with a buffer of its own.

    Raises:
        SpecError: a constant that a product uses is of other numbers, or is computed from others.
    """
    graph = model.subgraphs[0]
    names = _name_tensors(graph)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    products: set[int] = set()
    known: dict[tuple[int, int], int] = {}
    for operator in graph.operators:
        code, inputs = codes[operator.opcodeIndex], [int(number) for number in operator.inputs]
        is_product, is_sum = code in (CONV_2D, FULLY_CONNECTED), code == ADD and bool(products.intersection(inputs))
        for position, number in enumerate(inputs):
            if number < 0 or code in MADE_OF_SHAPES:
                continue
            tensor = graph.tensors[number]
            data = model.buffers[tensor.buffer].data
            is_constant = data is not None and len(data) > 0
            if is_product and position == 1 and not (is_constant and tensor.type == FLOAT32):
                raise SpecError(
                    f"the weight {shorten(names[number])} is quantized, or is computed; the rounding of integers is "
                    "beyond every bound, so convert the model without optimizations and judge that file"
                )
            shape = tuple(map(int, tensor.shape))
            is_bias = (is_product and position == 2) or is_sum
            if not is_constant or tensor.type != FLOAT32 or not (is_bias or np.prod(shape) > 1):
                continue
            key = number, inputs[1] if is_product else -1
            if key in known:  # a block may compute a product twice
                operator.inputs[position] = known[key]
                continue
            known[key] = number
            if any(other == number for other, _ in known if (other, _) != key):  # equal biases of a model may be one
                known[key], tensor = len(graph.tensors), copy.deepcopy(tensor)
                names.append(f"{names[number]}#{len(graph.tensors)}")
                tensor.name = names[-1].encode()
                graph.tensors.append(tensor)
                operator.inputs[position] = known[key]
            model.buffers.append(copy.deepcopy(model.buffers[tensor.buffer]))
            tensor.buffer = len(model.buffers) - 1
            shape = tuple(side for side in shape if side > 1) or (1,) if is_bias else shape
            yield _Constant(names[known[key]], shape, "out", tensor.buffer, is_bias and not np.any(data))
        if is_product or (code in MADE_OF_SHAPES and products.intersection(inputs)):
            products.update(int(number) for number in operator.outputs)


def _name_tensors(graph: Any) -> list[str]:
    """Name the tensors of a graph; a repeated name gets a number, as in ``se-port inspect``."""
    seen: Counter[str] = Counter()
    names = []
    for number, tensor in enumerate(graph.tensors):
        name = (tensor.name or b"").decode(errors="replace") or f"tensor {number}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _refuse_input(graph: Any, spec: SESpec, dtype: str, data_format: str) -> None:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise SpecError(
            f"the model has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; it must have one of each, "
            "the feature map and y"
        )
    tensor = graph.tensors[graph.inputs[0]]
    if tensor.type != FLOAT32 or dtype != "float32":
        have = "float32" if tensor.type == FLOAT32 else "another dtype"
        raise SpecError(f"the model accepts {have}, but {dtype} is judged; TensorFlow Lite computes in float32")
    sizes = list(map(int, tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature))
    if not sizes:
        return
    channel = 1 if data_format == "channels_first" else len(sizes) - 1
    channels = sizes.pop(channel)
    if channels not in (-1, spec.channels):
        raise SpecError(f"the model accepts {channels} channels on axis {channel}, the spec has {spec.channels}")
    if set(sizes) != {-1}:
        raise SpecError("the model accepts maps of one size alone; convert it with None for the batch and space")
