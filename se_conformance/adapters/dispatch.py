"""Blocks of every framework as what ``check`` judges: functions of NumPy arrays and canonical parameters.

A block is recognised by the names of its classes, so that none of the frameworks is imported to look at it; the one
that it belongs to is there already.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from se_spec import SESpec, SpecError

from ..cases import DTYPES
from .base import AdaptedBlock

ACCEPTED = (
    "a torch.nn.Module, a Keras 3 layer or model, a Flax NNX or linen module, an onnx.ModelProto or a path that "
    "ends in .onnx"
)
FORMATS = ("channels_last", "channels_first")

_KINDS = {  # Keras first: on the torch backend its layers are torch modules, on jax they may be NNX modules
    "keras": (("keras.src.layers.layer", "Layer"), "channels_last"),
    "torch": (("torch.nn.modules.module", "Module"), "channels_first"),
    "flax.nnx": (("flax.nnx.module", "Module"), "channels_last"),
    "flax.linen": (("flax.linen.module", "Module"), "channels_last"),
    "onnx": (("onnx", "ModelProto"), "channels_first"),
}


def adapt(block: Any, names: Mapping[str, str] | None = None, data_format: str | None = None) -> AdaptedBlock:
    """A block as what ``check`` judges.

    Its parameters are found by their shapes; where the hidden width is the channel count, by their order (torch, Keras,
    ONNX) or by their names (Flax: reduce and expand, fc1 and fc2, Dense_0 and Dense_1, ...).

    Args:
        block: see ``ACCEPTED``. A Keras layer that is not built is built as a copy.
        names: canonical name -> its own: a torch parameter's name, a Keras weight's path or the end of it, a Flax path
            joined with dots, an ONNX initializer's name.
        data_format: of x; torch and ONNX are taken as channels first, Keras and Flax as channels last.

    Raises:
        SpecError: the block is none of these, or ``data_format`` is neither.

    >>> adapt(3)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    se_spec.errors.SpecError: block is a builtins.int; it must be a torch.nn.Module, a Keras 3 layer or model, ...
    """
    kind = _kind(block)
    if kind is None:
        what = f"the class {block.__qualname__}, not an instance" if isinstance(block, type) else f"a {_name(block)}"
        raise SpecError(f"block is {what}; it must be {ACCEPTED}; check takes a plain function as it is")
    data_format = _format(data_format) or _KINDS[kind][1]
    home, _, api = kind.partition(".")
    module = importlib.import_module(f"{__package__}.{home}")
    made: AdaptedBlock = getattr(module, f"adapt_{api or home}")(block, names, data_format)
    return made


Callables = tuple[Callable[..., Any], Callable[..., Any] | None, Callable[..., Any] | None, str]


def resolve_callables(
    function: Any,
    spec: SESpec,
    dtype: str,
    vjp: Callable[..., Any] | None = None,
    excitation: Callable[..., Any] | None = None,
    data_format: str | None = None,
) -> Callables:
    """What ``check`` runs: function, vjp, excitation and data format; what its caller gave goes before what was found.

    Raises:
        SpecError: ``function`` is not callable and none of ``ACCEPTED``, or cannot run in ``dtype``.
        ParameterError: its parameters are not those of the spec, or it cannot be told which is which.
    """
    data_format = _format(data_format)
    if not isinstance(function, AdaptedBlock):
        if _kind(function) is None and callable(function) and not isinstance(function, type):
            return function, vjp, excitation, data_format or "channels_last"
        function = adapt(function, data_format=data_format)
    if dtype not in DTYPES:
        raise SpecError(f"dtype={dtype!r} is not allowed; it must be one of {', '.join(DTYPES)}")
    function = dataclasses.replace(function, data_format=data_format or function.data_format)
    function.prepare(spec, dtype)
    return function, vjp or function.vjp, excitation or function.excitation, function.data_format


def _format(data_format: str | None) -> str | None:
    if data_format not in (None, *FORMATS):
        raise SpecError(f"data_format={data_format!r} is not allowed; it must be one of {', '.join(FORMATS)}")
    return data_format


def _kind(block: Any) -> str | None:
    if isinstance(block, (str, os.PathLike)) and os.fspath(block).endswith(".onnx"):
        return "onnx"
    classes = {(one.__module__, one.__name__) for one in type(block).__mro__}
    # A protobuf message lives in onnx.onnx_ml_pb2, or onnx.onnx_data_pb2.
    classes |= {(module.partition(".")[0], name) for module, name in classes if module.startswith("onnx.")}
    return next((kind for kind, (base, _) in _KINDS.items() if base in classes), None)


def _name(block: Any) -> str:
    return f"{type(block).__module__}.{type(block).__qualname__}"
