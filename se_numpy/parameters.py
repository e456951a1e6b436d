"""Seeded parameters for tests, examples and vectors."""

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
    """Canonical parameters: uniform from ±1/sqrt(fan_in) (K-4), but a network's convolutions and batch norms (M-10).

    Args:
        spec: which block or network.
        seed: of NumPy's default generator; the same seed gives the same bytes.
        dtype: of the result; the numbers are drawn in float64 and rounded once.

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
        drawn = _block(spec, random)
    else:
        drawn = {f"{one.name}.{name}": value for one in spec.layers for name, value in _layer(one, random).items()}
    return {name: value.astype(dtype) for name, value in drawn.items()}


def _layer(layer: "layers.Layer", random: np.random.Generator) -> dict[str, Array]:
    from se_spec.networks import layers

    shapes = layer.parameter_shapes()
    match layer:
        case layers.Convolution():
            fan_in, fan_out = (layer.kernel**2 * n // layer.groups for n in (layer.in_channels, layer.out_channels))
            drawn = {"weight": random.normal(0.0, math.sqrt(2.0 / fan_out), shapes["weight"])}
            return drawn | {name: _uniform(random, fan_in, shape) for name, shape in shapes.items() if name == "bias"}
        case layers.BatchNorm():
            return {name: np.full(shape, float(name in ("scale", "variance"))) for name, shape in shapes.items()}
        case layers.SqueezeExcitation():
            return _block(layer.spec, random)
    return {name: _uniform(random, layer.in_channels, shape) for name, shape in shapes.items()}


def _block(spec: SESpec, random: np.random.Generator) -> dict[str, Array]:
    fan_in = {"reduce": spec.channels, "expand": spec.hidden}
    shapes = se_spec.parameters.shapes(spec)
    return {name: _uniform(random, fan_in[name.partition(".")[0]], shape) for name, shape in shapes.items()}


def _uniform(random: np.random.Generator, fan_in: int, shape: tuple[int, ...]) -> Array:
    limit = 1.0 / math.sqrt(fan_in)
    return random.uniform(-limit, limit, shape)
