"""Finds the adapter of a block: which framework it belongs to, and which functions ``check`` calls.

A block is recognised by the names of its classes, so that no framework is imported to look at it; its own is imported
already.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from se_spec import SpecError

from ..cases import DTYPES
from ..files import MODEL_ENDINGS, SCRIPT_ENDINGS
from .base import AdaptedBlock

ACCEPTED = (
    "a torch.nn.Module, a Keras 3 layer or model, a Flax NNX or linen module, an onnx.ModelProto or a path that "
    "ends in .onnx or .tflite"
)
DATA_FORMATS = ("channels_last", "channels_first")

_FRAMEWORKS = {  # Keras first: on the torch backend its layers are torch modules, on jax they may be NNX modules
    "keras": (("keras.src.layers.layer", "Layer"), "channels_last"),
    "torch": (("torch.nn.modules.module", "Module"), "channels_first"),
    "flax.nnx": (("flax.nnx.module", "Module"), "channels_last"),
    "flax.linen": (("flax.linen.module", "Module"), "channels_last"),
    "onnx": (("onnx", "ModelProto"), "channels_first"),
    "tflite": (("tensorflow.lite.python.schema_py_generated", "ModelT"), "channels_last"),
}


def adapt(block: Any, names: Mapping[str, str] | None = None, data_format: str | None = None) -> AdaptedBlock:
    """Adapt a block of a framework to what ``check`` judges: functions of NumPy arrays.

    Parameters are matched by their shapes. Where the hidden width equals the channel count, they are matched by their
    order (torch, Keras, ONNX, TensorFlow Lite) or by their names (Flax: reduce and expand, fc1 and fc2, Dense_0 and
    Dense_1, ...).

    Args:
        block: a torch module, a Keras layer or model, an NNX or linen module, an ONNX model or a path that ends in
            ``.onnx`` or ``.tflite``. Of a Keras layer that is not built a copy is built. A TorchScript file is loaded
            by the caller, since that runs its code: ``adapt(torch.jit.load(path))``.
        names: maps canonical names to the block's: a torch parameter's name, a Keras weight's path or the end of it, a
            Flax path joined with dots, an ONNX initializer's or a TensorFlow Lite tensor's name. None matches as above.
        data_format: ``"channels_first"``, the default of torch and ONNX, or ``"channels_last"``, that of Keras,
            Flax and TensorFlow Lite.

    Returns:
        The block as an ``AdaptedBlock``; the block itself is not changed.

    Raises:
        SpecError: the block is none of these, or ``data_format`` is neither.

    Example:
        >>> adapt(3)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        se_spec.errors.SpecError: block is a builtins.int; it must be a torch.nn.Module, a Keras 3 layer or model, ...
    """
    framework = _framework_of(block)
    if isinstance(block, (str, os.PathLike)) and os.fspath(block).endswith(SCRIPT_ENDINGS):
        path = os.fspath(block)
        raise SpecError(
            f"block is the path {path!r}, whose code would run; if you trust it: check(torch.jit.load({path!r}), "
            "spec), or se-check run --trust"
        )
    if framework is None:
        what = (
            f"the class {block.__qualname__}, not an instance" if isinstance(block, type) else f"a {_class_name(block)}"
        )
        raise SpecError(f"block is {what}; it must be {ACCEPTED}; check takes a plain function as it is")
    data_format = _check_data_format(data_format) or _FRAMEWORKS[framework][1]
    module_name, _, api = framework.partition(".")
    module = importlib.import_module(f"{__package__}.{module_name}")
    adapted: AdaptedBlock = getattr(module, f"adapt_{api or module_name}")(block, names, data_format)
    return adapted


Callables = tuple[Callable[..., Any], Callable[..., Any] | None, Callable[..., Any] | None, str]


def resolve_callables(
    function: Any,
    dtype: str,
    vjp: Callable[..., Any] | None = None,
    excitation: Callable[..., Any] | None = None,
    data_format: str | None = None,
) -> Callables:
    """Find the functions that ``check`` calls; arguments of the caller override those of an adapted block.

    Args:
        function: a function, or a block that ``adapt`` accepts.
        dtype: as in ``check``.
        vjp: as in ``check``.
        excitation: as in ``check``.
        data_format: as in ``check``.

    Returns:
        function, vjp, excitation and data format; a block is adapted, and not yet prepared.

    Raises:
        SpecError: ``function`` is neither, or ``dtype`` is none.
    """
    data_format = _check_data_format(data_format)
    if not isinstance(function, AdaptedBlock):
        if _framework_of(function) is None and callable(function) and not isinstance(function, type):
            return function, vjp, excitation, data_format or "channels_last"
        function = adapt(function, data_format=data_format)
    if dtype not in DTYPES:
        raise SpecError(f"dtype={dtype!r} is not allowed; it must be one of {', '.join(DTYPES)}")
    function = dataclasses.replace(function, data_format=data_format or function.data_format)
    return function, vjp or function.vjp, excitation or function.excitation, function.data_format


def _check_data_format(data_format: str | None) -> str | None:
    if data_format not in (None, *DATA_FORMATS):
        raise SpecError(f"data_format={data_format!r} is not allowed; it must be one of {', '.join(DATA_FORMATS)}")
    return data_format


def _framework_of(block: Any) -> str | None:
    if isinstance(block, (str, os.PathLike)):
        return MODEL_ENDINGS.get(os.path.splitext(os.fspath(block))[1])
    classes = {(cls.__module__, cls.__name__) for cls in type(block).__mro__}
    # the class of a protobuf message is in onnx.onnx_ml_pb2, or onnx.onnx_data_pb2
    classes |= {(module.partition(".")[0], name) for module, name in classes if module.startswith("onnx.")}
    return next((name for name, (base, _) in _FRAMEWORKS.items() if base in classes), None)


def _class_name(block: Any) -> str:
    return f"{type(block).__module__}.{type(block).__qualname__}"
