"""Finds what TensorFlow itself does wrong in a graph on this machine, which is not the mistake of a block."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

UNSUPPORTED = "unsupported operations"


def find_lost_nan(compile: Callable[[Any], Any], dtype: str) -> list[str]:
    """Find out whether a graph loses NaN where it joins a product, a bias and a ReLU, as oneDNN does.

    Args:
        compile: returns a function that runs in a graph.
        dtype: the dtype of the numbers.

    Returns:
        A sentence, if an activation returns a number where its argument is NaN.

    Example:
        >>> find_lost_nan(lambda layer: layer, "float32")  # without a graph
        []
    """
    z = np.array([[np.nan, 1.0]])
    names = []
    for activation in (tf.nn.relu, tf.nn.relu6):

        def layer(z: Any, w: Any, b: Any, activation: Any = activation) -> Any:
            return activation(tf.nn.bias_add(tf.matmul(z, w), b))

        y = compile(layer)(*(tf.cast(array, dtype) for array in (z, np.ones((2, 3)), np.ones(3))))
        if not np.isnan(np.asarray(y, np.float64)).all():
            names.append(activation.__name__)
    return [f"TensorFlow's {' and '.join(names)} of a product and a bias drop NaN in a graph"] if names else []


def find_uncompiled(error: str) -> list[str]:
    """Find out whether XLA refuses an operation, by the text of the error that a block raised.

    Args:
        error: the text.

    Returns:
        A sentence, if XLA refuses one.

    Example:
        >>> find_uncompiled("Detected unsupported operations: PyFunc ( PyFunc )")
        ["XLA does not compile TensorFlow's PyFunc"]
    """
    operations = re.findall(r"\(\s*(\w+)\s*\)|Op type not registered '(\w+)'", error)
    names = ", ".join(sorted({name for pair in operations for name in pair if name}))
    return [f"XLA does not compile TensorFlow's {names or 'operations'}"] if UNSUPPORTED in error else []
