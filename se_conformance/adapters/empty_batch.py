"""Finds TensorFlow operations whose results on an empty batch contradict the shapes that TensorFlow infers.

oneDNN's convolutions, for example, return the channels of their input. A block that uses them cannot be right on an
empty batch, and the mistake is not the block's.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def find_contradictions(function: Callable[[Any], Any], shape: tuple[int, ...], dtype: str) -> list[str]:
    """Trace ``function`` on x of ``shape`` and runs each of its operations alone on zeros.

    Args:
        function: a function of one tensor.
        shape: the shape of x.
        dtype: the dtype of x.

    Returns:
        A sentence for each kind of operation that raises, or returns a shape other than the inferred one; empty if the
        function cannot be traced.

    >>> find_contradictions(tf.nn.relu, (0, 3), "float32")
    []
    """
    try:
        traced = tf.compat.v1.wrap_function(function, [tf.TensorSpec(shape, dtype)])
    except Exception:
        return []
    found: dict[str, str] = {}
    for operation in traced.graph.get_operations():
        inferred = [tuple(output.shape) for output in operation.outputs if output.shape.is_fully_defined()]
        feeds = [tensor for tensor in operation.inputs if not _is_captured(tensor, traced)]
        given = [_sample_value(tensor) for tensor in feeds]
        if len(inferred) == 1 == len(operation.outputs) and given and all(one is not None for one in given):
            returned = _output_shape(traced.prune(feeds, operation.outputs[0]), given)
            if returned != inferred[0]:
                sentence = f"TensorFlow's {operation.type} returns {returned}, and infers {inferred[0]}"
                found.setdefault(operation.type, sentence)
    return list(found.values())


def _output_shape(operation: Callable[..., Any], given: list[Any]) -> tuple[int, ...] | str:
    """Return the shape of an operation's result, or the name of the error that it raises."""
    try:
        return tuple(operation(*given).shape)
    except tf.errors.OpError as error:
        return type(error).__name__


def _is_captured(tensor: Any, traced: Any) -> bool:
    """Whether a tensor is a variable or a constant from outside the function."""
    return any(tensor is captured for captured in traced.inputs[1:])


def _sample_value(tensor: Any) -> Any:
    """Return a tensor's value where TensorFlow knows it, else zeros; None for other dtypes or unknown shapes."""
    value = tf.get_static_value(tensor)
    if value is not None:
        return tf.constant(value, tensor.dtype)
    is_number = tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool
    return tf.zeros(tensor.shape, tensor.dtype) if is_number and tensor.shape.is_fully_defined() else None
