"""The course in Flax NNX."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import se_flax
from se_spec import NetworkSpec

from ..targets import dtype_of
from ..targets.flax import empty_network
from . import Batches, Course, Parameters, Trained


def train(net: NetworkSpec, parameters: Parameters, course: Course, batches: Batches) -> Trained:
    """Under ``nnx.jit``; optax adds the weight decay before the momentum."""
    model = empty_network(net, dtype_of(parameters))
    se_flax.set_parameters(model, parameters)
    model.train()
    decay = optax.add_decayed_weights(course.weight_decay)
    optimizer = nnx.Optimizer(
        model, optax.chain(decay, optax.sgd(course.learning_rate, course.momentum)), wrt=nnx.Param
    )
    losses = [float(_step(model, optimizer, jnp.asarray(x), jnp.asarray(labels))) for x, labels in batches]
    return Trained(losses, se_flax.get_parameters(model))


@nnx.jit
def _step(model: se_flax.SENet, optimizer: nnx.Optimizer, x: jax.Array, labels: jax.Array) -> jax.Array:
    def loss_of(model: se_flax.SENet) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss
