"""Facts that follow from a list of layers: sizes of maps, last uses, learnable parameters, multiply-adds."""

from collections.abc import Iterable
from math import prod

from ..errors import ShapeError
from .layers import INPUT, STATISTICS, Convolution, Dense, GlobalPooling, Layer, Padding, Pooling, SqueezeExcitation

Size = tuple[int, int]


def resolve_padding(length: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Resolve padding to numbers of positions before and after an axis of this length.

    Args:
        length: positions of the axis, at least 1.
        kernel: positions of the window, at least 1.
        stride: positions between windows, at least 1.
        padding: (before, after), or ``"same"``.

    Returns:
        Numbers of positions before and after, at least 0.

    >>> resolve_padding(224, 7, 2, "same"), resolve_padding(224, 7, 2, (3, 3))
    ((2, 3), (3, 3))
    """
    return same_padding(length, kernel, stride) if padding == "same" else padding


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Compute TensorFlow's SAME padding before and after an axis: the least that gives ceil(length / stride) windows.

    Args:
        length: positions of the axis, at least 1; it may be a tensor or a symbol.
        kernel: positions of the window, at least 1.
        stride: positions between windows, at least 1.

    Returns:
        Numbers of positions before and after, at least 0; an odd total has one more after.

    >>> same_padding(224, 7, 2)
    (2, 3)
    """
    missing = kernel - stride + -length % stride
    if kernel < stride:
        missing = (missing + abs(missing)) // 2  # max(missing, 0), of a tensor or symbol in a graph, too
    return missing // 2, missing - missing // 2


def output_length(length: int, kernel: int, stride: int, padding: Padding) -> int:
    """Count the positions of a window on an axis.

    Args:
        length: positions of the axis, at least 1.
        kernel: positions of the window, at least 1.
        stride: positions between windows, at least 1.
        padding: (before, after), or ``"same"``.

    Returns:
        The number of windows; 0 or less if none fits.

    >>> [output_length(112, 3, 2, padding) for padding in ((1, 1), (0, 1), (0, 0), "same")]
    [56, 56, 55, 56]
    """
    return (length + sum(resolve_padding(length, kernel, stride, padding)) - kernel) // stride + 1


def output_sizes(layers: Iterable[Layer], size: Size) -> dict[str, Size]:
    """Compute height and width of each layer's result, by the layer's name; (1, 1) after global pooling.

    Args:
        layers: the layers of a network, in order.
        size: height and width of the image, in pixels.

    Returns:
        (height, width) by the layer's name; the image has the name ``"input"``.

    Raises:
        ShapeError: a map vanishes, or the inputs of one layer have different sizes; the message names the layer.

    >>> from se_spec import network
    >>> output_sizes(network("se_resnet20").layers, (32, 32))["stage3.block2.se"]
    (8, 8)
    """
    found = {INPUT: size}
    for layer in layers:
        taken = {found[name] for name in layer.inputs}
        if len(taken) > 1:
            meeting = ", ".join(f"{name} {found[name]}" for name in layer.inputs)
            raise ShapeError(f"an image of {size} does not fit the strides: at {layer.name} meet {meeting}")
        height, width = taken.pop()
        if isinstance(layer, GlobalPooling):
            height = width = 1
        elif isinstance(layer, Convolution | Pooling):
            window = (layer.kernel, layer.stride, layer.padding)
            height, width = output_length(height, *window), output_length(width, *window)
        if min(height, width) < 1:
            raise ShapeError(f"an image of {size} is too small: nothing is left of it at {layer.name}")
        found[layer.name] = (height, width)
    return found


def last_uses(layers: Iterable[Layer]) -> dict[str, tuple[str, ...]]:
    """Map each layer to the inputs that are used there for the last time, so that a builder can free them.

    Args:
        layers: the layers of a network, in order.

    Returns:
        Names of layers whose results can be freed, by the name of the layer after which they can.

    >>> from se_spec import network
    >>> last_uses(network("se_resnet20").layers)["stage1.block0.add"]
    ('stem.relu1', 'stage1.block0.se')
    """
    last = {name: layer.name for layer in layers for name in layer.inputs}
    found: dict[str, tuple[str, ...]] = {}
    for name, taker in last.items():
        found[taker] = (*found.get(taker, ()), name)
    return found


def parameter_count(layers: Iterable[Layer]) -> int:
    """Count the learnable parameters: all but running means and variances."""
    return sum(
        prod(shape) for layer in layers for name, shape in layer.parameter_shapes().items() if name not in STATISTICS
    )


def macs(layers: Iterable[Layer], size: Size) -> int:
    """Count multiply-adds of convolutions and dense layers, SE's two products included; biases are not counted.

    Raises:
        ShapeError: as ``output_sizes``.
    """
    layers = tuple(layers)
    found = output_sizes(layers, size)
    total = 0
    for layer in layers:
        if isinstance(layer, Convolution | Dense):
            total += prod(layer.parameter_shapes()["weight"]) * prod(found[layer.name])
        elif isinstance(layer, SqueezeExcitation):
            total += sum(prod(shape) for shape in layer.parameter_shapes().values() if len(shape) == 2)
    return total
