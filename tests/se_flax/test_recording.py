"""``gates`` and ``record`` of NNX and linen: the gates of every block, and a model that is as before."""

import numpy as np
import pytest

import se_numpy
from se_spec import InputError

from ..conftest import OnDemand
from ..small_networks import BOTTLENECKS, images, weights_of

jax, jnp, nnx, linen = (OnDemand(name) for name in ("jax", "jax.numpy", "flax.nnx", "flax.linen"))
se_flax = OnDemand("se_flax")
pytestmark = pytest.mark.framework("flax")


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_gates_of_a_network_are_the_oracles(api: str) -> None:
    x, parameters = np.moveaxis(images(BOTTLENECKS, 33, 41), 1, -1), weights_of(BOTTLENECKS)
    want = se_numpy.networks.gates(x, BOTTLENECKS, parameters, data_format="channels_last")
    if api == "nnx":
        model = se_flax.SENet(BOTTLENECKS)
        se_flax.set_parameters(model, parameters)
        found = se_flax.gates(model, jnp.asarray(x, "float32"))
    else:
        model = se_flax.linen.SENet(BOTTLENECKS)
        found = se_flax.linen.gates(model, se_flax.linen.set_parameters(model, parameters), jnp.asarray(x, "float32"))
        found = {path.replace("/", "."): g for path, g in found.items()}
    assert list(found) == list(want)
    for name, g in found.items():
        np.testing.assert_allclose(g, want[name], rtol=0, atol=1e-5)


def test_record_has_the_strength_of_the_map_before_and_after_in_nnx() -> None:
    block = se_flax.SqueezeExcitation(8, hidden=2, gain=2.0, residual=True, gate="hard_sigmoid")
    x = jax.random.normal(jax.random.key(0), (3, 5, 7, 8))
    entry = se_flax.record(block, x)[""]
    np.testing.assert_allclose(entry.before, jnp.sqrt(jnp.mean(x**2, -1)), rtol=1e-5)
    np.testing.assert_allclose(entry.after, jnp.sqrt(jnp.mean(block(x) ** 2, -1)), rtol=1e-5)
    assert type(block) is se_flax.SqueezeExcitation


def test_gate_alone_of_a_replaced_block_is_recorded_in_linen() -> None:
    class Gate(linen.Module):
        @linen.compact
        def __call__(self, x):
            h = linen.relu(linen.Dense(2)(x.mean((1, 2), keepdims=True)))
            return linen.sigmoid(linen.Dense(8)(h))

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return jnp.tanh(x * Gate(name="gate")(x))

    model, x = Net(), jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
    variables = model.init(jax.random.key(1), x)
    want = Gate().apply({"params": variables["params"]["gate"]}, x)[:, 0, 0]
    replacement = se_flax.linen.replace(model, variables, x)
    found = se_flax.linen.gates(replacement.model, replacement.variables, x)
    assert list(found) == ["gate"]
    np.testing.assert_allclose(found["gate"], want, rtol=1e-5)


def test_gates_under_jit_and_models_without_a_block_are_refused() -> None:
    class Compiled(nnx.Module):
        def __init__(self) -> None:
            self.block = se_flax.SqueezeExcitation(8, hidden=2)

        def __call__(self, x):
            return nnx.jit(lambda block, x: block(x))(self.block, x)

    with pytest.raises(InputError, match="block is called under a transformation"):
        se_flax.gates(Compiled(), jnp.ones((1, 3, 3, 8)))
    with pytest.raises(InputError, match="has no SqueezeExcitation; replace"):
        se_flax.gates(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), jnp.ones((1, 3)))
    dense = linen.Dense(2)
    with pytest.raises(InputError, match="calls no SqueezeExcitation; replace"):
        se_flax.linen.gates(dense, dense.init(jax.random.key(0), jnp.ones((1, 3))), jnp.ones((1, 3)))
