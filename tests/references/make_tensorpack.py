"""The ResNet with SE of tensorpack's examples/ResNet, short and narrow, of tensorpack's own layers: random weights, and
what TensorFlow answers.

``pip install tensorflow tf_keras tensorpack==0.11 && TF_USE_LEGACY_KERAS=1 python -m tests.references.make_tensorpack``
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

np.object = object  # a name of NumPy that tensorpack still says

from tensorpack.models import BatchNorm, BNReLU, Conv2D, FullyConnected, GlobalAvgPooling, MaxPooling  # noqa: E402
from tensorpack.tfutils.argscope import argscope  # noqa: E402
from tensorpack.tfutils.tower import TowerContext  # noqa: E402

from .variables import fill  # noqa: E402

FOLDER, v1 = Path(__file__).parent / "tensorpack-resnet_se", tf.compat.v1


def norm(x, name=None):
    return BatchNorm("bn", x)


def unit(x, width, stride):
    channels = 4 * width
    y = Conv2D("conv1", x, width, 1, activation=BNReLU)
    y = Conv2D("conv2", y, width, 3, strides=stride, activation=BNReLU)
    y = Conv2D("conv3", y, channels, 1, activation=norm)
    h = FullyConnected("fc1", GlobalAvgPooling("gap", y), width // 4, activation=tf.nn.relu)
    g = FullyConnected("fc2", h, channels, activation=tf.nn.sigmoid)
    if x.shape[3] != channels:
        x = Conv2D("convshortcut", x, channels, 1, strides=stride, activation=norm)
    return tf.nn.relu(y * tf.reshape(g, [-1, 1, 1, channels]) + x)


def network(x):
    with TowerContext("", is_training=False), argscope(Conv2D, use_bias=False):
        y = Conv2D("conv0", x, 8, 7, strides=2, activation=BNReLU)
        y = MaxPooling("pool0", y, pool_size=3, strides=2, padding="SAME")
        for stage, width in enumerate((16, 32)):
            for number in (0, 1):
                with v1.variable_scope(f"group{stage}/block{number}"):
                    y = unit(y, width, 2 if (stage, number) == (1, 0) else 1)
        return FullyConnected("linear", GlobalAvgPooling("gap", y), 7)


if __name__ == "__main__":
    v1.disable_v2_behavior()
    image, random = v1.placeholder(tf.float32, (None, 37, 45, 3)), np.random.default_rng(3)
    logits = network(image)
    with v1.Session() as session:
        fill(session, random)
        x = random.normal(0.0, 1.0, (2, 37, 45, 3)).astype(np.float32)
        FOLDER.mkdir(exist_ok=True)
        weights = {variable.op.name: session.run(variable) for variable in v1.global_variables()}
        np.savez_compressed(FOLDER / "weights.npz", **weights)
        np.save(FOLDER / "input.npy", np.moveaxis(x, -1, 1))
        np.save(FOLDER / "output.npy", session.run(logits, {image: x}))
