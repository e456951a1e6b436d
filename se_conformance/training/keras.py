"""The course in Keras, on whichever backend the process has."""

from typing import Any

import keras

import se_keras
from se_spec import NetworkSpec

from ..targets import dtype_of
from ..targets.keras import empty_network
from . import Batches, Course, Parameters, Trained


class SGD(keras.optimizers.SGD):
    """With the weight decay added to the gradient; Keras' own takes it off the weight, apart from the momentum."""

    def __init__(self, course: Course) -> None:
        super().__init__(course.learning_rate, course.momentum)
        self.decay = course.weight_decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient + self.decay * variable, variable, learning_rate)


def train(net: NetworkSpec, parameters: Parameters, course: Course, batches: Batches) -> Trained:
    """By ``train_on_batch``, whose losses have the type that Keras calls ``floatx``: set for as long as this takes."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype_of(parameters))
    try:
        return _trained(net, parameters, course, batches)
    finally:
        keras.config.set_floatx(before)


def _trained(net: NetworkSpec, parameters: Parameters, course: Course, batches: Batches) -> Trained:
    model = empty_network(net, dtype_of(parameters))
    se_keras.set_parameters(model, parameters)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(SGD(course), loss)
    losses = []
    for x, labels in batches:
        model.reset_metrics()  # or it would give the mean of all batches so far
        losses.append(float(model.train_on_batch(x, labels)))
    return Trained(losses, se_keras.get_parameters(model))
