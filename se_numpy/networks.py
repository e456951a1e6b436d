"""The oracle of networks: it computes the flat list of layers in float64 (docs/SPEC.md, M-1 to M-6)."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from se_spec import NetworkSpec, network
from se_spec.networks import last_uses, output_sizes
from se_spec.networks import layers as kinds

from . import layers
from .block import Parameters, check_inputs, excitation, squeeze_excitation
from .nonlinearities import Array


def senet(x: np.ndarray, net: NetworkSpec | str, parameters: Parameters, *, data_format: str) -> Array:
    """Compute a network's logits at inference: batch norm uses its running statistics, dropout is the identity.

    Args:
        x: images, any float type; (N, C, H, W) or (N, H, W, C), with C = ``net.channels``.
        net: which network, or its name.
        parameters: the canonical parameters, any float type.
        data_format: ``"channels_first"`` or ``"channels_last"``.

    Returns:
        float64 array (N, ``net.num_classes``).

    Raises:
        SpecError: no such network.
        InputError: x is not a NumPy array of floats.
        ShapeError: wrong rank, wrong channel count, or an image that the strides do not take.
        ParameterError: names or shapes do not fit the network.

    >>> from se_spec import network
    >>> import se_numpy
    >>> net = network("se_resnet20")
    >>> x = np.ones((2, 32, 32, 3), np.float32)
    >>> senet(x, net, se_numpy.initialize(net, seed=0), data_format="channels_last").shape
    (2, 10)
    """
    _, _, logits = deque(
        walk(x, network(net), parameters, data_format), maxlen=1
    ).pop()  # maxlen keeps the last result alone
    return logits


def gates(x: np.ndarray, net: NetworkSpec | str, parameters: Parameters, *, data_format: str) -> dict[str, Array]:
    """Compute the gate of every block, by the layer's name, float64 (N, C). Arguments and errors as ``senet``.

    >>> from se_spec import network
    >>> import se_numpy
    >>> net = network("se_resnet20")
    >>> x = np.ones((2, 32, 32, 3), np.float32)
    >>> found = gates(x, net, se_numpy.initialize(net, seed=0), data_format="channels_last")
    >>> len(found), found["stage3.block2.se"].shape
    (9, (2, 64))
    """
    return {
        layer.name: excitation(entry, layer.spec, own, data_format="channels_first")
        for layer, (entry, own), _ in walk(x, network(net), parameters, data_format)
        if isinstance(layer, kinds.SqueezeExcitation)
    }


Step = tuple[kinds.Layer, tuple[Array, dict[str, Array]], Array]
"""A layer, its first input (channels first), its own parameters, and its result."""
Amend = Callable[[kinds.Layer, Array, dict[str, Array]], None]


def walk(
    x: np.ndarray, net: NetworkSpec, parameters: Parameters, data_format: str, amend: Amend = lambda *step: None
) -> Iterator[Step]:
    """Compute every layer in order; a map is freed after its last use.

    ``amend(layer, entry, own)`` may change the parameters ``own`` of a layer before it is computed from ``entry``.
    """
    x, weights = check_inputs(x, net, parameters, data_format)
    if data_format == "channels_last":
        x = np.moveaxis(x, -1, 1)
    output_sizes(net.layers, x.shape[2:])  # M-9
    maps, freed_after = {kinds.INPUT: x}, last_uses(net.layers)
    for layer in net.layers:
        own = {name: weights.pop(f"{layer.name}.{name}") for name in layer.parameter_shapes()}
        inputs = [maps[name] for name in layer.inputs]
        amend(layer, inputs[0], own)
        maps[layer.name] = _apply_layer(layer, inputs, own)
        yield layer, (inputs[0], own), maps[layer.name]
        for name in freed_after.get(layer.name, ()):
            del maps[name]


@np.errstate(over="ignore", invalid="ignore")  # N-3: inf and NaN follow IEEE, quietly
def _apply_layer(layer: kinds.Layer, inputs: list[Array], own: dict[str, Any]) -> Array:
    """Compute one layer from its inputs and its own parameters."""
    x = inputs[0]
    match layer:
        case kinds.Convolution():
            return layers.convolution(x, **own, stride=layer.stride, padding=layer.padding, groups=layer.groups)
        case kinds.BatchNorm():
            return layers.batch_norm(x, **{"scale": np.ones(layer.in_channels), **own}, epsilon=layer.epsilon)
        case kinds.ReLU():
            return layers.relu(x)
        case kinds.Pooling(pool="max"):
            return layers.max_pool(x, layer.kernel, layer.stride, layer.padding)
        case kinds.Pooling(pool="avg"):
            return layers.avg_pool(x, layer.kernel, layer.stride, layer.padding, count_padding=layer.count_padding)
        case kinds.SqueezeExcitation():
            return squeeze_excitation(x, layer.spec, own, data_format="channels_first")
        case kinds.Addition():
            return inputs[0] + inputs[1]
        case kinds.Concatenation():
            return np.concatenate(inputs, axis=1)
        case kinds.ZeroChannels():
            return layers.zero_channels(x, layer.before, layer.after)
        case kinds.GlobalPooling():
            return layers.global_pool(x)
        case kinds.Dropout():
            return x
        case kinds.Dense():
            return layers.dense(x, **own)
    raise AssertionError(layer)
