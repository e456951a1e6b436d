"""Keras' DataParallel and ModelParallel on eight devices give the numbers of one device, up to rounding in float64.

The devices are eight virtual CPU devices of JAX; with several GPUs omit the first two lines of the environment.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_ENABLE_X64"] = "1"

import jax
import keras
import numpy as np
from keras.distribution import DataParallel, DeviceMesh, LayoutMap, ModelParallel, distribute_tensor

import se_keras

keras.config.set_floatx("float64")


def data_parallel() -> DataParallel:
    """Place all weights and an eighth of the batch on each device."""
    return DataParallel(devices=[f"cpu:{device}" for device in range(8)], auto_shard_dataset=False)


def model_parallel() -> ModelParallel:
    """Place half of the batch on each row of devices, and a quarter of each block's hidden units on each column."""
    mesh = DeviceMesh((2, 4), ("batch", "model"), [f"cpu:{device}" for device in range(8)])
    layouts = LayoutMap(mesh)
    layouts["se.*/reduce/kernel"] = (None, "model")
    layouts["se.*/reduce/bias"] = ("model",)
    layouts["se.*/expand/kernel"] = ("model", None)
    return ModelParallel(layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False)


def build() -> keras.Model:
    """Build a small network with two blocks; the distribution that is set decides where each variable is placed.

    Its last pooling is a maximum, since Keras' own mean is computed in float32 on JAX, whatever its input's dtype.
    """
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(32, 3, padding="same", name="conv1")(x)
    y = se_keras.squeeze_excitation(y, hidden=8, bias=True, name="se1")
    y = keras.layers.Conv2D(64, 3, strides=2, activation="silu", name="conv2")(y)
    y = se_keras.squeeze_excitation(y, hidden=16, bias=True, squeeze="avg_max", name="se2")
    return keras.Model(x, keras.layers.Dense(5, name="logits")(keras.layers.GlobalMaxPooling2D()(y)))


def run(distribution: DataParallel | ModelParallel | None, weights: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Train for ten steps; return the first output and gradients, and the weights after the last step."""
    keras.distribution.set_distribution(distribution)
    model = build()
    model.set_weights(weights)
    random = np.random.default_rng(0)
    images, labels = random.normal(size=(16, 8, 8, 3)), random.integers(0, 5, 16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss_of(trainable: list[jax.Array], x: jax.Array) -> jax.Array:
        return loss(labels, model.stateless_call(trainable, [], x)[0])

    x = images if distribution is None else distribute_tensor(images, distribution.get_data_layout(images.shape))
    trainable = [variable.value for variable in model.trainable_variables]
    gradients, dx = jax.jit(jax.grad(loss_of, (0, 1)))(trainable, x)
    found = {"output": [model.predict(images, verbose=0)], "gradients": [*gradients, dx]}
    if distribution is not None:
        reduce = model.get_layer("se2").reduce.kernel.value
        part = reduce.sharding.shard_shape(reduce.shape)
        print(f"{type(distribution).__name__}: se2/reduce/kernel is {tuple(reduce.shape)}, {part} of it on a device,")
        print(f"  the batch {x.shape}, {x.sharding.shard_shape(x.shape)} of it")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    for _ in range(10):
        model.train_on_batch(images, labels)
    keras.distribution.set_distribution(None)
    return {**found, "10 steps": model.get_weights()}


def distance(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Compute the largest difference, relative to the largest value of its array."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)]
    assert all(a.dtype == b.dtype == np.float64 for a, b in pairs)
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs)


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    random = np.random.default_rng(1)
    weights = [random.normal(size=weight.shape) * 0.2 for weight in build().get_weights()]
    alone = run(None, weights)
    assert distance(weights, alone["10 steps"]) > 1e-3  # training did something
    for distribution in (data_parallel(), model_parallel()):
        for what, arrays in run(distribution, weights).items():
            print(f"  {what:10} {distance(alone[what], arrays):.1e} from one device")
            assert distance(alone[what], arrays) < 1e-12
