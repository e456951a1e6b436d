"""Mistakes of a caller are refused by all five with the same kind of error and the same facts."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import se_numpy
import se_spec
from se_spec import InputError, ParameterError, SESpec, ShapeError

from ..conftest import REQUESTED, is_installed

SPEC = SESpec(6, hidden=2, bias=True)

FAMILY = {"numpy": "numpy", "torch": "torch", "keras": "keras", "nnx": "flax", "linen": "flax"}
EVERY = [
    pytest.param(name, marks=[] if name == "numpy" else pytest.mark.framework(family))
    for name, family in FAMILY.items()
]


class Block:
    """One implementation's block behind one call; ``array`` makes its framework's array of a channels-last one."""

    def __init__(
        self, call: Callable[[Any], Any], array: Callable[[np.ndarray], Any], set_parameters: Callable
    ) -> None:
        self.call, self.array, self.set_parameters = call, array, set_parameters


def block(name: str) -> Block:
    parameters = se_numpy.initialize(SPEC, seed=0)
    if name == "numpy":
        check = lambda p: se_numpy.squeeze_excitation(np.ones((1, 1, 6)), SPEC, p, data_format="channels_last")  # noqa: E731
        return Block(
            lambda x: se_numpy.squeeze_excitation(x, SPEC, parameters, data_format="channels_last"), np.asarray, check
        )
    if name == "torch":
        import torch

        import se_torch

        module = se_torch.SqueezeExcitation(SPEC)
        first = lambda x: torch.from_numpy(np.moveaxis(x, -1, 1) if x.ndim > 2 else x)  # noqa: E731
        return Block(module, first, lambda p: se_torch.set_parameters(module, p))
    if name == "keras":
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        import keras

        import se_keras

        layer = se_keras.SqueezeExcitation(SPEC)
        layer(np.ones((1, 1, 6), "float32"))
        return Block(layer, keras.ops.convert_to_tensor, lambda p: se_keras.set_parameters(layer, p))
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import se_flax

    if name == "nnx":
        module = se_flax.SqueezeExcitation(SPEC, rngs=nnx.Rngs(0))
        return Block(module, jnp.asarray, lambda p: se_flax.set_parameters(module, p))
    module = se_flax.linen.SqueezeExcitation(SPEC)
    variables = module.init(jax.random.key(0), jnp.ones((1, 1, 6)))
    return Block(lambda x: module.apply(variables, x), jnp.asarray, lambda p: se_flax.linen.set_parameters(module, p))


MISTAKES = {
    "X-1 no spatial axis": ((3, 6), "float32", ShapeError, ["(3, 6)", "1, 2 or 3 spatial axes", "rank 2"]),
    "X-1 four spatial axes": ((1, 2, 2, 2, 2, 6), "float32", ShapeError, ["1, 2 or 3 spatial axes", "rank 6"]),
    "X-2 wrong channels": ((3, 4, 5, 7), "float32", ShapeError, ["C = 6", "got 7 channels"]),
    "X-3 empty axis": ((3, 0, 5, 6), "float32", ShapeError, ["empty spatial axis"]),
    "X-4 integers": ((3, 4, 5, 6), "int32", InputError, ["int32", "float16, bfloat16, float32, float64"]),
    "X-4 bools": ((3, 4, 5, 6), "bool", InputError, ["bool", "float16, bfloat16, float32, float64"]),
    "X-4 complex numbers": ((3, 4, 5, 6), "complex64", InputError, ["complex64", "float32"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", EVERY)
def test_x1_x2_x3_x4_same_error_same_facts(name: str, mistake: str) -> None:
    shape, dtype, kind, facts = MISTAKES[mistake]
    one = block(name)
    with pytest.raises(kind) as caught:
        one.call(one.array(np.ones(shape, dtype)))
    assert isinstance(caught.value, se_spec.SEError)
    assert isinstance(caught.value, ValueError)
    for fact in facts:
        assert fact in str(caught.value)


@pytest.mark.parametrize("name", EVERY)
def test_x5_arrays_of_another_framework_and_lists_are_refused(name: str) -> None:
    one = block(name)
    strangers: list[Any] = [[[[1.0] * 6]]]
    for family, module, attribute in (
        ("torch", "torch", "ones"),
        ("flax", "jax.numpy", "ones"),
        ("keras", "tensorflow", "ones"),
    ):
        if family in REQUESTED and is_installed(family) and family != FAMILY[name]:
            strangers.append(getattr(importlib.import_module(module), attribute)((1, 6, 3, 6)))
    if name == "torch":
        strangers.append(np.ones((1, 6, 3, 6), "float32"))
    for stranger in strangers:
        with pytest.raises(InputError, match=r"expected a .*; convert it with"):
            one.call(stranger)


@pytest.mark.parametrize("name", EVERY)
def test_k2_parameters_that_do_not_fit_are_named_all_at_once(name: str) -> None:
    one = block(name)
    good = se_numpy.initialize(SPEC, seed=1)
    without = {key: array for key, array in good.items() if key != "expand.bias"}
    for bad, facts in (
        (without, ["missing expand.bias (6,)"]),
        ({**good, "gamma": np.ones(6)}, ["left over 'gamma'"]),
        ({**good, "reduce.weight": good["reduce.weight"].T}, ["reduce.weight has shape (6, 2), expected (2, 6)"]),
        ({**without, "gamma": np.ones(6)}, ["missing expand.bias", "left over 'gamma'"]),
        ({**good, "reduce.bias": np.ones(2, int)}, ["reduce.bias has dtype int64"]),
        ({**good, "reduce.bias": [0.0, 0.0]}, ["reduce.bias must be a NumPy array, got builtins.list"]),
        ([], ["must be a dict"]),
    ):
        with pytest.raises(ParameterError) as caught:
            one.set_parameters(bad)
        for fact in facts:
            assert fact in str(caught.value)


def test_x6_oracle_requires_a_data_format() -> None:
    x, parameters = np.ones((1, 3, 6)), se_numpy.initialize(SPEC, seed=0)
    with pytest.raises(TypeError, match="data_format"):
        se_numpy.squeeze_excitation(x, SPEC, parameters)
    with pytest.raises(se_spec.SpecError, match="'channels_first', 'channels_last'"):
        se_numpy.squeeze_excitation(x, SPEC, parameters, data_format="NHWC")
    with pytest.raises(ShapeError, match="expected that of x"):
        se_numpy.vjp(x, x[:, :2], SPEC, parameters, data_format="channels_last")


@pytest.mark.framework("keras")
def test_x2_keras_functional_needs_a_known_channel_count() -> None:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    import se_keras

    with pytest.raises(ShapeError, match="known number of channels"):
        se_keras.squeeze_excitation(keras.Input((None, None)))
