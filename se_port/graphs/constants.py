"""Constants that a graph computes from others: weights that it transposes, dequantizes, or multiplies by a mask."""

import math
from collections.abc import Callable

import numpy as np

from .functions import FUNCTIONS
from .graph import Node

MAX_ELEMENTS = 1 << 28
"""Of a constant that a graph computes; the weights of an SE block are smaller."""


def fold(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """Compute a node whose inputs are constants.

    Raises:
        ValueError: the operator is unknown, the shapes do not fit, or the result is too large.
    """
    rule = _RULES.get(node.op)
    if rule is not None:
        return rule(node, inputs)
    if node.op not in FUNCTIONS:
        raise ValueError(f"constants are computed by {node.op}")
    if math.prod(np.broadcast_shapes(*(x.shape for x in inputs))) > MAX_ELEMENTS:
        raise ValueError(f"a computed constant has more than {MAX_ELEMENTS:,} numbers")
    dtype = np.result_type(*inputs)
    with np.errstate(all="ignore"):
        values = FUNCTIONS[node.op](*(np.asarray(x, np.float64) for x in inputs), **node.attributes)
    return np.asarray(values).astype(dtype)


def dequantize(values: np.ndarray, scale: np.ndarray, zero: np.ndarray | int = 0, axis: int = 0) -> np.ndarray:
    """Compute ``scale * (values - zero)`` in float64, rounded to float32; scale and zero may have one axis."""
    scale, zero = np.asarray(scale, np.float64).reshape(-1), np.asarray(zero, np.float64).reshape(-1)
    shape = [1] * values.ndim
    if values.ndim and max(scale.size, zero.size) > 1:
        shape[axis] = -1
    scale, zero = (part.reshape(shape if part.size > 1 else [1] * values.ndim) for part in (scale, zero))
    return np.asarray((values.astype(np.float64) - zero) * scale).astype(np.float32)


def _dequantize(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    values, scale, *zeros = inputs
    return dequantize(values, scale, zeros[0] if zeros else 0, node.attributes.get("axis", 0))


def _reshape(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    return inputs[0].reshape(node.attributes["shape"]) if "shape" in node.attributes else inputs[0]


def _keep_number(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """Broadcast or pool a number, which stays what it is."""
    if inputs[0].size != 1:
        raise ValueError(f"constants are computed by {node.op}")
    return inputs[0]


def _keep_zero(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """Sum a 0 over any axes."""
    if inputs[0].any():
        raise ValueError("constants are summed")
    return _keep_number(node, inputs)


_RULES: dict[str, Callable[[Node, list[np.ndarray]], np.ndarray]] = {
    "identity": lambda node, inputs: inputs[0],
    "transpose": lambda node, inputs: inputs[0].transpose(node.attributes.get("axes")),
    "reshape": _reshape,
    "dequantize": _dequantize,
    "expand": _keep_number,
    "pool": _keep_number,
    "sum": _keep_zero,
}
