"""taki0112/SENet-Tensorflow's SE-ResNeXt, narrow, of the layers of TensorFlow 1 that it calls: random weights, and what
TensorFlow answers. Its batch norm, once in tf.contrib, is in TF-slim now.

``pip install tensorflow tf_keras tf_slim && TF_USE_LEGACY_KERAS=1 python -m tests.references.make_taki`` (ten minutes)
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops, tensor
from tensorflow.python.ops import cond, control_flow_ops

ops.Tensor, control_flow_ops.cond = tensor.Tensor, cond.cond  # where TF-slim looks for them

import tf_slim  # noqa: E402

from .variables import fill  # noqa: E402

FOLDER, v1 = Path(__file__).parent / "taki-se_resnext", tf.compat.v1


def conv(x, channels, kernel, stride=1):
    size = [kernel, kernel]
    return v1.layers.conv2d(x, channels, size, strides=stride, padding="SAME", use_bias=False)


def norm(x, name, training):
    options = {"scope": name, "updates_collections": None, "decay": 0.9, "scale": True}
    options |= {"is_training": training, "zero_debias_moving_mean": True}
    return tf.cond(
        training,
        lambda: tf_slim.batch_norm(x, reuse=None, **options),
        lambda: tf_slim.batch_norm(x, reuse=True, **options),
    )


def unit(x, name, channels, stride, training):
    parts = []
    for index in range(8):
        at = f"split_layer_{name}_splitN_{index}"
        y = tf.nn.relu(norm(conv(x, 4, 1), f"{at}_batch1", training))
        parts.append(tf.nn.relu(norm(conv(y, 4, 3, stride), f"{at}_batch2", training)))
    y = norm(conv(tf.concat(parts, 3), channels, 1), f"trans_layer_{name}_batch1", training)
    h = tf.nn.relu(v1.layers.dense(tf.reduce_mean(y, [1, 2]), channels // 4, use_bias=False))
    g = tf.nn.sigmoid(v1.layers.dense(h, channels, use_bias=False))
    if stride == 2:
        x = v1.layers.average_pooling2d(x, [2, 2], 2, "SAME")
        x = tf.pad(x, [[0, 0], [0, 0], [0, 0], [channels // 4, channels // 4]])
    return tf.nn.relu(y * tf.reshape(g, [-1, 1, 1, channels]) + x)


def network(x, training):
    y = tf.nn.relu(norm(conv(x, 8, 3), "first_layer_batch1", training))
    for stage, channels in ((1, 8), (2, 16), (3, 32)):
        for number in range(3):
            y = unit(y, f"{stage}_{number}", channels, 2 if stage > 1 and number == 0 else 1, training)
    return v1.layers.dense(tf.reduce_mean(y, [1, 2]), 10, use_bias=False)


if __name__ == "__main__":
    v1.disable_v2_behavior()
    image, is_training = v1.placeholder(tf.float32, (None, 20, 16, 3)), v1.placeholder(tf.bool)
    logits, random = network(image, is_training), np.random.default_rng(4)
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        fill(session, random)
        x = random.normal(0.0, 1.0, (2, 20, 16, 3)).astype(np.float32)
        v1.train.Saver().save(session, str(FOLDER / "weights.ckpt"), write_meta_graph=False, write_state=False)
        np.save(FOLDER / "input.npy", np.moveaxis(x, -1, 1))
        np.save(FOLDER / "output.npy", session.run(logits, {image: x, is_training: False}))
