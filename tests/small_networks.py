"""Small networks that have every kind of layer, with parameters that reveal mistakes, for every framework."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

import se_numpy
from se_spec import InputError, NetworkSpec, ParameterError, ShapeError, network
from se_spec.networks import NETWORKS, ConvStep, Head, Inception, PoolStep, Residual, Shortcut, Stage, Stem


def families() -> dict[str, NetworkSpec]:
    """Cut the named networks with SE to one or two units per stage; equal results are listed once."""
    found: dict[NetworkSpec, str] = {}
    for name in NETWORKS:
        net = network(name, num_classes=7, momentum=0.9)
        if isinstance(net.body, Residual):
            stages = enumerate(net.body.stages)
            net = net.replace(stages=[dataclasses.replace(stage, units=1 if index else 2) for index, stage in stages])
        if net.se is not None:
            found.setdefault(net, name)
    return {name: net for net, name in found.items()}


FAMILIES = families()
SIZES = {"se_bn_inception": (32, 64), "taki.se_resnext_cifar": (9, 14)}
"""Image sizes of families for which (33, 41) is not allowed or not needed."""

SE = {"reduction": 4, "bias": True}
BRANCHES = ((ConvStep(8, 1),), (PoolStep("max", 3, 1), ConvStep(4, 1)), (PoolStep("avg", 3, 1), ConvStep(4, 3)))
REDUCTION = ((ConvStep(8, 3, 2),), (PoolStep("avg", 3, 2),))
INCEPTION = NetworkSpec(
    Stem((PoolStep(kernel=2), ConvStep(8, 4, 2)), input_norm=True),  # maxima of negative numbers, too
    Inception(((BRANCHES, REDUCTION),)),
    padding="same",
    pool_padding="same",
    count_padding=False,
    se=SE,
    num_classes=5,
)
BOTTLENECKS = NetworkSpec(
    Stem((PoolStep(), ConvStep(8, 3))),
    Residual((Stage(2, 16, (8, 8)), Stage(2, 32, (16, 16), 2)), groups=4),
    head=Head(dropout=0.5),
    pool_padding="ceil",
    se=SE,
    num_classes=5,
)
ZEROS = NetworkSpec(
    Stem((ConvStep(8, 3),), norm=False),
    Residual(
        (Stage(1, 8, (8,)), Stage(2, 12, (12,), 2)),
        Shortcut("zero_pad", pool=2, zeros="both", entry="norm_relu"),
        order="pre",
    ),
    Head("conv", before=("bn", "relu")),
    conv_bias=True,
    se=SE,
    num_classes=5,
)
SMALL = {
    "Inception, SAME": INCEPTION,
    "pre-activation, zeros": ZEROS,
    **{f"bottlenecks, SE {at}": BOTTLENECKS.replace(se_at=at) for at in ("standard", "pre", "post", "identity")},
}
refused_channels_last = pytest.mark.parametrize(
    ("shape", "dtype", "error", "facts"),
    [
        ((8, 8, 3), "float32", ShapeError, ["(8, 8, 3)", "C = 3", "2 spatial axes (rank 4)", "rank 3"]),
        ((1, 3, 8, 8), "float32", ShapeError, ["(1, 3, 8, 8)", "C = 3", "8 channels", "channels_last"]),
        ((1, 0, 8, 3), "float32", ShapeError, ["empty spatial axis 1"]),
        ((1, 1, 1, 3), "float32", ShapeError, ["(1, 1) is too small", "stem.pool1"]),
        ((1, 8, 8, 3), "int32", InputError, ["int32", "float32"]),
    ],
)
"""Images that ``BOTTLENECKS`` refuses, and the text of the error."""
every_family = pytest.mark.parametrize("name", FAMILIES)
every_small_one = pytest.mark.parametrize("net", SMALL.values(), ids=SMALL)


def weights_of(net, seed=0):
    """Draw new parameters, with batch norms that are not the identity."""
    random = np.random.default_rng(seed)
    values = se_numpy.initialize(net, seed, dtype="float64")
    for name, value in values.items():
        kind = name.rpartition(".")[2]
        if kind in ("scale", "variance"):
            value[...] = random.uniform(0.5, 1.5, value.shape)
        elif kind in ("offset", "mean"):
            value[...] = random.normal(0.0, 0.2, value.shape)
    return values


def images(net, height, width, samples=2):
    """Draw images, channels first."""
    return np.random.default_rng(1).normal(0.3, 1.0, (samples, net.channels, height, width))


def difference(got, want):
    """Compute the largest error, relative to the largest value, of finite arrays of one shape."""
    got = np.asarray(got, np.float64)
    assert got.shape == want.shape
    assert np.isfinite(want).all() and len(np.unique(want)) == want.size
    return abs(got - want).max() / abs(want).max()


def as_bytes(values):
    return {name: (value.dtype.name, value.shape, value.tobytes()) for name, value in values.items()}


def assert_refused(setter: Callable[[dict[str, np.ndarray]], object], values: dict[str, np.ndarray]) -> None:
    """Assert that a setter of a network of five classes names all missing, extra and misshapen parameters."""
    wrong = {name: value + 1 for name, value in values.items()}
    mean, classifier = wrong.pop("stem.bn1.mean"), values["classifier.weight"]
    wrong |= {"classifier.weight": classifier.T, "fc.bias": np.ones(5)}
    with pytest.raises(ParameterError) as caught:
        setter(wrong)
    transposed = f"{classifier.T.shape}, expected {classifier.shape}"
    for fact in (f"missing stem.bn1.mean {mean.shape}", "left over 'fc.bias'", transposed):
        assert fact in str(caught.value)


def assert_drawn(values: dict[str, np.ndarray], normal: dict[str, float], uniform: dict[str, float]) -> None:
    """Assert that weights are normal and not truncated or uniform as given, and batch norms the identity."""
    for name, variance in normal.items():
        value = values[name]
        assert abs(value.mean()) < 5 * (variance / value.size) ** 0.5
        assert abs(value.var() / variance - 1) < 5 * (2 / value.size) ** 0.5
        assert abs(value).max() > 3 * variance**0.5  # Keras' he_normal is cut off at 2, JAX's too
    for name, fan_in in uniform.items():
        assert 0.9 < abs(values[name]).max() * fan_in**0.5 <= 1 + 1e-6
    identity = {"scale": 1, "variance": 1, "offset": 0, "mean": 0}
    for name, value in values.items():
        kind = name.rpartition(".")[2]
        if kind in identity:
            assert set(value.tolist()) == {identity[kind]}
