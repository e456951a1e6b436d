"""The layers of a network apart from the SE block, in float64, channels first; one readable function for each.

The k * k positions of a window are k * k shifted views of the padded map. A convolution is the sum of k * k matrix
products, and a pooling is the maximum or the sum of k * k maps (M-2).
"""

from collections.abc import Iterator
from functools import reduce

import numpy as np

from se_spec.networks import output_length, resolve_padding
from se_spec.networks.layers import Padding

from .block import mean
from .nonlinearities import Array


def convolution(
    x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: Padding = (0, 0), groups: int = 1
) -> Array:
    """Compute a cross-correlation: (N, C, H, W) and a weight (O, C / groups, k, k) give (N, O, H', W').

    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> convolution(x, np.array([[[[1.0, 0.0], [0.0, 10.0]]]]))  # x[i, j] + 10 x[i + 1, j + 1]
    array([[[[40., 51.],
             [73., 84.]]]])
    """
    outputs, inputs, kernel, _ = weight.shape
    height, width = (output_length(length, kernel, stride, padding) for length in x.shape[2:])
    taps = weight.reshape(groups, outputs // groups, inputs, kernel * kernel)
    products = (
        np.ascontiguousarray(taps[..., position]) @ window.reshape(len(x), groups, inputs, height * width)
        for position, window in enumerate(_windows(x, kernel, stride, padding, 0.0))
    )
    y = reduce(np.add, products).reshape(len(x), outputs, height, width)
    return y if bias is None else y + _per_channel(bias)


def batch_norm(x: Array, scale: Array, offset: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    """Apply batch norm with running statistics; all four parameters are (C,).

    >>> x = np.array([1.0, 3.0]).reshape(1, 1, 1, 2)
    >>> batch_norm(x, np.array([2.0]), np.array([5.0]), np.array([1.0]), np.array([15.0]), 1.0)  # (x - 1) / 4 * 2 + 5
    array([[[[5., 6.]]]])
    """
    factor = scale / np.sqrt(variance + epsilon)
    return (x - _per_channel(mean)) * _per_channel(factor) + _per_channel(offset)


def relu(x: Array) -> Array:
    """Rectify x and keep NaN."""
    return np.maximum(x, 0.0)


def max_pool(x: Array, kernel: int, stride: int, padding: Padding) -> Array:
    """Compute the maximum of each window, which ignores padding; NaN if the window has a NaN.

    >>> max_pool(-np.arange(16.0).reshape(1, 1, 4, 4), 3, 2, (0, 1))  # Caffe's: the second window is over the border
    array([[[[ -0.,  -2.],
             [ -8., -10.]]]])
    """
    return reduce(np.maximum, _windows(x, kernel, stride, padding, -np.inf))


def avg_pool(x: Array, kernel: int, stride: int, padding: Padding, *, count_padding: bool) -> Array:
    """Compute the mean of each window: over all k * k positions, or over those inside the map.

    >>> x = np.full((1, 1, 2, 2), 36.0)
    >>> avg_pool(x, 3, 2, (1, 1), count_padding=True), avg_pool(x, 3, 2, (1, 1), count_padding=False)
    (array([[[[16.]]]]), array([[[[36.]]]]))
    """
    total = reduce(np.add, _windows(x, kernel, stride, padding, 0.0))
    if count_padding:
        return total / (kernel * kernel)
    return total / reduce(np.add, _windows(np.ones((1, 1, *x.shape[2:])), kernel, stride, padding, 0.0))


def global_pool(x: Array) -> Array:
    """Compute the mean over all positions, (N, C)."""
    return mean(x, (2, 3))


def zero_channels(x: Array, before: int, after: int) -> Array:
    """Add channels of zeros on both sides."""
    return np.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))


def dense(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Apply a linear map: (N, C) and a weight (O, C) give (N, O).

    >>> dense(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([0.0, 100.0]))
    array([[ 11., 117.]])
    """
    y = x @ weight.T
    return y if bias is None else y + bias


def _windows(x: Array, kernel: int, stride: int, padding: Padding, value: float) -> Iterator[Array]:
    """Yield the map (N, C, H', W') of each position within the window, row by row."""
    before_and_after = [resolve_padding(length, kernel, stride, padding) for length in x.shape[2:]]
    height, width = (output_length(length, kernel, stride, padding) for length in x.shape[2:])
    x = np.pad(x, [(0, 0), (0, 0), *before_and_after], constant_values=value)
    for row in range(kernel):
        for column in range(kernel):
            yield x[:, :, row : row + stride * height : stride, column : column + stride * width : stride]


def _per_channel(values: Array) -> Array:
    return values[:, None, None]
