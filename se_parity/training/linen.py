"""Training in Flax linen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import se_flax
from se_spec import NetworkSpec

from ..implementations import dtype_of
from .base import Parameters, SGDConfig, TrainingSession


def start(net: NetworkSpec, parameters: Parameters, config: SGDConfig) -> TrainingSession:
    """Start a session under ``jax.jit``; optax adds the weight decay before the momentum."""
    model = se_flax.linen.SENet(net, param_dtype=dtype_of(parameters))
    variables = se_flax.linen.set_parameters(model, parameters)
    decay = optax.add_decayed_weights(config.weight_decay)
    optimizer = optax.chain(decay, optax.sgd(config.learning_rate, config.momentum))

    def loss_of(params: Any, statistics: Any, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
        logits, changed = model.apply(
            {"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed["batch_stats"]

    @jax.jit
    def update(params: Any, statistics: Any, state: Any, x: jax.Array, labels: jax.Array) -> tuple[Any, ...]:
        (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, statistics, x, labels)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), statistics, state, loss

    params, statistics = variables["params"], variables["batch_stats"]
    state = optimizer.init(params)

    def step(x: np.ndarray, labels: np.ndarray) -> float:
        nonlocal params, statistics, state
        params, statistics, state, loss = update(params, statistics, state, jnp.asarray(x), jnp.asarray(labels))
        return float(loss)

    def current_parameters() -> Parameters:
        parameters: Parameters = se_flax.linen.get_parameters({"params": params, "batch_stats": statistics}, model)
        return parameters

    return TrainingSession(step, current_parameters)
