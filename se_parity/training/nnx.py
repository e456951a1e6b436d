"""Training in Flax NNX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import se_flax
from se_spec import NetworkSpec

from ..implementations import dtype_of
from ..implementations.flax import empty_network
from .base import Parameters, SGDConfig, TrainingSession


def start(net: NetworkSpec, parameters: Parameters, config: SGDConfig) -> TrainingSession:
    """Start a session under ``nnx.jit``; optax adds the weight decay before the momentum."""
    model = empty_network(net, dtype_of(parameters))
    se_flax.set_parameters(model, parameters)
    model.train()
    decay = optax.add_decayed_weights(config.weight_decay)
    optimizer = nnx.Optimizer(
        model, optax.chain(decay, optax.sgd(config.learning_rate, config.momentum)), wrt=nnx.Param
    )

    def step(x: np.ndarray, labels: np.ndarray) -> float:
        return float(_step(model, optimizer, jnp.asarray(x), jnp.asarray(labels)))

    return TrainingSession(step, partial(se_flax.get_parameters, model))


@nnx.jit
def _step(model: se_flax.SENet, optimizer: nnx.Optimizer, x: jax.Array, labels: jax.Array) -> jax.Array:
    def loss_of(model: se_flax.SENet) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss
