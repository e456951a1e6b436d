"""Parameters drawn from a seed, for tests, examples and vectors."""

import math
from typing import TYPE_CHECKING

import numpy as np

import se_spec
from se_spec import SESpec

from .nonlinearities import Array

if TYPE_CHECKING:
    from se_spec import NetworkSpec
    from se_spec.networks import layers


def initialize(spec: "SESpec | NetworkSpec", seed: int, *, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Draw canonical parameters: a block's as K-4 has it, a network's as M-10 has it.

    Args:
        spec: which block or network.
        seed: the seed of NumPy's default generator, at least 0; the same seed gives the same bytes.
        dtype: the dtype of the result; the numbers are drawn in float64 and rounded once.

    Returns:
        The parameters by canonical name, in canonical order.

    Raises:
        ValueError: the seed is negative.
        TypeError: NumPy has no such dtype.

    >>> {name: array.shape for name, array in initialize(SESpec(64), seed=0).items()}
    {'reduce.weight': (4, 64), 'expand.weight': (64, 4)}
    >>> from se_spec import network
    >>> parameters = initialize(network("se_resnet50"), seed=0)
    >>> weight = parameters["stage1.block0.conv2.weight"]  # 64 outputs, 3 x 3: variance 2 / 576
    >>> round(float(weight.var() * 576), 1), set(parameters["stem.bn1.variance"].tolist())
    (2.0, {1.0})
    """
    random = np.random.default_rng(seed)
    if isinstance(spec, SESpec):
        drawn = _draw_block(spec, random)
    else:
        drawn = {
            f"{layer.name}.{name}": value for layer in spec.layers for name, value in _draw_layer(layer, random).items()
        }
    return {name: value.astype(dtype) for name, value in drawn.items()}


def _draw_layer(layer: "layers.Layer", random: np.random.Generator) -> dict[str, Array]:
    from se_spec.networks import layers

    shapes = layer.parameter_shapes()
    match layer:
        case layers.Convolution():
            fan_in, fan_out = (layer.kernel**2 * n // layer.groups for n in (layer.in_channels, layer.out_channels))
            drawn = {"weight": random.normal(0.0, math.sqrt(2.0 / fan_out), shapes["weight"])}
            return drawn | {
                name: _draw_uniform(random, fan_in, shape) for name, shape in shapes.items() if name == "bias"
            }
        case layers.BatchNorm():
            return {name: np.full(shape, float(name in ("scale", "variance"))) for name, shape in shapes.items()}
        case layers.SqueezeExcitation():
            return _draw_block(layer.spec, random)
    return {name: _draw_uniform(random, layer.in_channels, shape) for name, shape in shapes.items()}


def _draw_block(spec: SESpec, random: np.random.Generator) -> dict[str, Array]:
    fan_in = {"reduce": spec.channels, "expand": spec.hidden}
    shapes = se_spec.parameters.shapes(spec)
    return {name: _draw_uniform(random, fan_in[name.partition(".")[0]], shape) for name, shape in shapes.items()}


def _draw_uniform(random: np.random.Generator, fan_in: int, shape: tuple[int, ...]) -> Array:
    limit = 1.0 / math.sqrt(fan_in)
    return random.uniform(-limit, limit, shape)
