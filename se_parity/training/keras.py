"""Training in Keras, on the backend of the process."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np

import se_keras
from se_spec import NetworkSpec

from ..implementations import dtype_of
from ..implementations.keras import empty_network
from .base import Parameters, SGDConfig, TrainingSession


class SGD(keras.optimizers.SGD):
    """SGD with the weight decay added to the gradient; Keras subtracts it from the weight, without momentum."""

    def __init__(self, config: SGDConfig) -> None:
        super().__init__(config.learning_rate, config.momentum)
        self.decay = config.weight_decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient + self.decay * variable, variable, learning_rate)


def start(net: NetworkSpec, parameters: Parameters, config: SGDConfig) -> TrainingSession:
    """Start a session whose steps are calls of ``train_on_batch``."""
    dtype = dtype_of(parameters)
    with _set_floatx(dtype):
        model = empty_network(net, dtype)
        se_keras.set_parameters(model, parameters)
        model.compile(SGD(config), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def step(x: np.ndarray, labels: np.ndarray) -> float:
        with _set_floatx(dtype):
            model.reset_metrics()  # else the loss would be the mean of all batches so far
            return float(model.train_on_batch(x, labels))

    return TrainingSession(step, partial(se_keras.get_parameters, model))


@contextmanager
def _set_floatx(dtype: str) -> Iterator[None]:
    """Set Keras' ``floatx``, the dtype of losses, for a while."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
