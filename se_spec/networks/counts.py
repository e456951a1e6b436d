"""What follows from a list of layers: sizes of maps, learnable parameters, multiply-adds. Integers only."""

from collections.abc import Iterable
from math import prod

from ..errors import ShapeError
from ..parameters import shapes
from .layers import INPUT, STATISTICS, Convolution, Dense, GlobalPooling, Layer, Padding, Pooling, SqueezeExcitation

Size = tuple[int, int]


def pads(length: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Padding before and after an axis of so many positions.

    >>> pads(224, 7, 2, "same"), pads(224, 7, 2, (3, 3))
    ((2, 3), (3, 3))
    """
    return same_pads(length, kernel, stride) if padding == "same" else padding


def same_pads(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding SAME before and after an axis: the least that gives length / stride windows, rounded up.

    >>> same_pads(224, 7, 2)
    (2, 3)
    """
    missing = kernel - stride + -length % stride
    if kernel < stride:
        missing = (missing + abs(missing)) // 2  # max(missing, 0), of a tensor or symbol in a graph, too
    return missing // 2, missing - missing // 2


def output_length(length: int, kernel: int, stride: int, padding: Padding) -> int:
    """Positions that a window takes on an axis; 0 or less where it does not fit.

    >>> [output_length(112, 3, 2, padding) for padding in ((1, 1), (0, 1), (0, 0), "same")]
    [56, 56, 55, 56]
    """
    return (length + sum(pads(length, kernel, stride, padding)) - kernel) // stride + 1


def sizes(layers: Iterable[Layer], size: Size) -> dict[str, Size]:
    """Height and width of what each layer gives, by name; (1, 1) once the map is pooled.

    Raises:
        ShapeError: a map vanishes, or the inputs of one layer have different sizes; the message names the layer.
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


def spent(layers: Iterable[Layer]) -> dict[str, tuple[str, ...]]:
    """By layer, whose results no layer after it takes, so that who walks the list need not keep every map.

    >>> from se_spec import network
    >>> spent(network("se_resnet20").layers)["stage1.block0.add"]
    ('stem.relu1', 'stage1.block0.se')
    """
    last = {name: layer.name for layer in layers for name in layer.inputs}
    found: dict[str, tuple[str, ...]] = {}
    for name, taker in last.items():
        found[taker] = (*found.get(taker, ()), name)
    return found


def parameter_count(layers: Iterable[Layer]) -> int:
    """Numbers that a gradient reaches: all but running means and variances."""
    return sum(
        prod(shape) for layer in layers for name, shape in layer.parameter_shapes().items() if name not in STATISTICS
    )


def macs(layers: Iterable[Layer], size: Size) -> int:
    """Multiply-adds of convolutions and dense layers, SE's two products included; biases are not counted.

    Raises:
        ShapeError: as ``sizes``.
    """
    layers = tuple(layers)
    found = sizes(layers, size)
    total = 0
    for layer in layers:
        if isinstance(layer, Convolution | Dense):
            total += prod(layer.parameter_shapes()["weight"]) * prod(found[layer.name])
        elif isinstance(layer, SqueezeExcitation):
            total += sum(prod(shape) for shape in shapes(layer.spec).values() if len(shape) == 2)
    return total
