"""Operations of TensorFlow that contradict TensorFlow's own shapes on an empty batch.

oneDNN's convolutions, for one, give it the channels of their input. A block that is made of them cannot be right
there, and is not wrong.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def find_contradictions(function: Callable[[Any], Any], shape: tuple[int, ...], dtype: str) -> list[str]:
    """Traces ``function`` on x of ``shape``, and runs each of its operations alone on zeros.

    Returns:
        A sentence for each kind of operation that raises, or gives another shape, where TensorFlow infers the shape of
        its result; none where the function cannot be traced.

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
        given = [_stand_in(tensor) for tensor in feeds]
        if len(inferred) == 1 == len(operation.outputs) and given and all(one is not None for one in given):
            came = _result(traced.prune(feeds, operation.outputs[0]), given)
            if came != inferred[0]:
                sentence = f"TensorFlow's {operation.type} gives {came}, and infers {inferred[0]}"
                found.setdefault(operation.type, sentence)
    return list(found.values())


def _result(operation: Callable[..., Any], given: list[Any]) -> tuple[int, ...] | str:
    """Its shape, or the error."""
    try:
        return tuple(operation(*given).shape)
    except tf.errors.OpError as error:
        return type(error).__name__


def _is_captured(tensor: Any, traced: Any) -> bool:
    """Whether it is a variable or a constant from outside of the function."""
    return any(tensor is one for one in traced.inputs[1:])


def _stand_in(tensor: Any) -> Any:
    """The value where TensorFlow knows it, else zeros."""
    value = tf.get_static_value(tensor)
    if value is not None:
        return tf.constant(value, tensor.dtype)
    is_number = tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool
    return tf.zeros(tensor.shape, tensor.dtype) if is_number and tensor.shape.is_fully_defined() else None
