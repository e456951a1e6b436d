"""``se_keras.gates`` and ``record``: the gates of every block, and a model that is as before."""

import numpy as np
import pytest

import se_numpy
from se_spec import InputError

from ..conftest import OnDemand
from ..small_networks import BOTTLENECKS, images, weights_of

keras, se_keras = OnDemand("keras"), OnDemand("se_keras")
pytestmark = pytest.mark.framework("keras")


def test_gates_of_a_network_are_the_oracles_and_the_model_stays_as_it_was() -> None:
    x, parameters = np.moveaxis(images(BOTTLENECKS, 33, 41), 1, -1), weights_of(BOTTLENECKS)
    model = se_keras.SENet(BOTTLENECKS)
    se_keras.set_parameters(model, parameters)
    found = se_keras.gates(model, x.astype("f4"))
    want = se_numpy.networks.gates(x, BOTTLENECKS, parameters, data_format="channels_last")
    assert list(found) == [name.replace(".", "_") for name in want]
    for g, right in zip(found.values(), want.values(), strict=True):
        np.testing.assert_allclose(g, right, rtol=0, atol=1e-5)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_record_has_the_strength_of_the_map_before_and_after() -> None:
    block = se_keras.SqueezeExcitation(8, hidden=2, gain=2.0, residual=True, gate="hard_sigmoid")
    x = np.random.default_rng(0).standard_normal((3, 5, 7, 8)).astype("f4")
    y = keras.ops.convert_to_numpy(block(x))
    [entry] = se_keras.record(block, x).values()
    np.testing.assert_allclose(entry.before, np.sqrt(np.mean(x**2, -1)), rtol=1e-5)
    np.testing.assert_allclose(entry.after, np.sqrt(np.mean(y**2, -1)), rtol=1e-5)


def test_each_call_of_a_shared_block_has_a_record() -> None:
    block, x = se_keras.SqueezeExcitation(8, hidden=2, name="se"), keras.Input((3, 3, 8))
    model = keras.Model(x, block(block(x)))
    assert list(se_keras.gates(model, np.ones((1, 3, 3, 8), "f4"))) == ["se", "se, call 2"]


def test_model_without_a_block_is_refused() -> None:
    with pytest.raises(InputError, match="has no SqueezeExcitation; replace"):
        se_keras.gates(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), np.ones((1, 3), "f4"))
