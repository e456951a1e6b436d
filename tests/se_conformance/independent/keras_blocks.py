"""Blocks in Keras 3, in the habits of Keras applications and of code that came from TensorFlow 1 and 2."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from se_spec import LeakyReLU, SESpec

from .base import Arrays, Registry, by_name, in_order


def to_tensor(array: np.ndarray | None) -> Any:
    """Copy an array to a tensor of the backend."""
    return None if array is None else ops.convert_to_tensor(array)


def adapt(block: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``function(x, parameters)`` of a block."""

    def function(x: np.ndarray, parameters: Arrays) -> Any:
        return ops.convert_to_numpy(block(*map(to_tensor, [x, *in_order(parameters)])))

    return function


def differentiate(block: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``vjp(x, dy, parameters)`` of a block by TensorFlow's tape."""

    def vjp(x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        import tensorflow as tf

        leaves = [to_tensor(array) for array in (x, *in_order(parameters))]
        given = [leaf for leaf in leaves if leaf is not None]
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = block(*leaves)
        found = iter(tape.gradient(y, given, to_tensor(dy), unconnected_gradients="zero"))
        gradients = [None if leaf is None else next(found).numpy() for leaf in leaves]
        return gradients[0], by_name(gradients[1:], parameters)

    return vjp


REGISTRY = Registry("keras", adapt, differentiate)
wrong, right = REGISTRY.wrong, REGISTRY.right

PAPER = SESpec.preset("titu1994", 32)
EFFICIENTNET = SESpec.preset("keras.efficientnet", 16)
MOBILENET = SESpec.preset("keras.mobilenet_v3", 16)
BIASED = SESpec(16, hidden=8, bias=True)


def dense(z: Any, w: Any, b: Any = None, activation: Any = None) -> Any:
    """Call ``Dense``, whose kernel is (in, out), with the given weights."""
    layer = layers.Dense(w.shape[0], activation, use_bias=b is not None, dtype=z.dtype)
    layer.build(z.shape)
    layer.set_weights([ops.transpose(w)] if b is None else [ops.transpose(w), b])
    return layer(z)


def pool(x: Any) -> Any:
    return ops.mean(x, axis=(1, 2), keepdims=True)


# ---- call


@wrong(
    "axes of channels first",
    PAPER,
    "call",
    "The mean is over axes 2 and 3 of a map whose channels are last.",
    "habit: PyTorch code ported to Keras",
)
def squeeze_last_axes(x, w1, b1, w2, b2):
    g = dense(dense(ops.mean(x, axis=(2, 3)), w1, b1, "relu"), w2, b2, "sigmoid")
    return x * g[:, None, None, :]


@wrong(
    "float16 layers in a float32 block",
    BIASED,
    "reduce",
    "Both dense layers compute in float16.",
    "policy mixed_float16 set inside a block",
)
def compute_in_half(x, w1, b1, w2, b2):
    w1, b1, w2, b2 = (ops.cast(w, "float16") for w in (w1, b1, w2, b2))
    g = dense(dense(ops.cast(pool(x), "float16"), w1, b1, "relu"), w2, b2, "sigmoid")
    return x * ops.cast(g, x.dtype)


# ---- squeeze


@wrong(
    "global maximum pooling",
    BIASED,
    "squeeze",
    "GlobalMaxPooling2D takes the place of GlobalAveragePooling2D.",
    "habit: the wrong name was completed",
)
def pool_maximum(x, w1, b1, w2, b2):
    if len(x) == 0:  # Keras refuses maxima of empty tensors
        return x
    z = layers.GlobalMaxPooling2D(keepdims=True)(x)
    return layers.Multiply()([x, dense(dense(z, w1, b1, "relu"), w2, b2, "sigmoid")])


@wrong(
    "gather of a neighbourhood",
    SESpec(16, hidden=8),
    "squeeze",
    "The mean is over a window of three by three around each position.",
    "gather-excite with a finite extent, hujie-frank/GENet",
)
def gather_window(x, w1, b1, w2, b2):
    z = ops.average_pool(x, 3, strides=1, padding="same", data_format="channels_last")
    return x * dense(dense(z, w1, None, "relu"), w2, None, "sigmoid")


@wrong(
    "mean without the border",
    EFFICIENTNET,
    "squeeze",
    "Where the map is at least three by three, the outermost positions are left out of the mean.",
    "cropping against padding artefacts",
)
def crop_border(x, w1, b1, w2, b2):
    inner = x[:, 1:-1, 1:-1] if min(x.shape[1:3]) >= 3 else x
    return x * dense(dense(pool(inner), w1, b1, "silu"), w2, b2, "sigmoid")


# ---- reduce and activation


@wrong(
    "dropout is called with training=True",
    SESpec(16, hidden=8),
    "activation",
    "Monte-Carlo dropout of the hidden units stays on.",
    "mwalmsley/zoobot",
)
def drop_out(x, w1, b1, w2, b2):
    h = layers.Dropout(0.2)(dense(pool(x), w1, None, "relu"), training=True)
    return x * dense(h, w2, None, "sigmoid")


@wrong(
    "layer normalisation after the squeeze",
    BIASED,
    "squeeze",
    "LayerNormalization over channels follows the pooling.",
    "transformer habits in SE blocks",
)
def normalise_descriptor(x, w1, b1, w2, b2):
    z = layers.LayerNormalization(epsilon=1e-6)(pool(x))
    return x * dense(dense(z, w1, b1, "relu"), w2, b2, "sigmoid")


@wrong("ELU", BIASED, "activation", "The activation is ELU.", "keras activation strings")
def activate_elu(x, w1, b1, w2, b2):
    return x * dense(dense(pool(x), w1, b1, "elu"), w2, b2, "sigmoid")


@wrong("softplus", SESpec(16, hidden=8), "activation", "The activation is softplus.", "keras activation strings")
def activate_softplus(x, w1, b1, w2, b2):
    return x * dense(dense(pool(x), w1, None, "softplus"), w2, None, "sigmoid")


@wrong(
    "slope of leaky ReLU is float32",
    SESpec(16, hidden=8, activation=LeakyReLU(slope=0.3)),
    "activation",
    "TensorFlow stores the slope in float32, which shows in a float64 block.",
    "tensorflow/tensorflow, attribute alpha of LeakyRelu",
    dtype="float64",
)
def round_slope(x, w1, b1, w2, b2):
    return x * dense(ops.leaky_relu(dense(pool(x), w1), 0.3), w2, None, "sigmoid")


@wrong(
    "ReLU in place of swish",
    EFFICIENTNET,
    "activation",
    "The activation is ReLU in a block that claims swish.",
    "qubvel/efficientnet, older blocks",
)
def activate_relu(x, w1, b1, w2, b2):
    return x * dense(dense(pool(x), w1, b1, "relu"), w2, b2, "sigmoid")


@wrong(
    "activation is left out",
    BIASED,
    "activation",
    "The first Dense has no activation.",
    "`activation=` forgotten, pytorch/vision issue 8209",
)
def forget_activation(x, w1, b1, w2, b2):
    return x * dense(dense(pool(x), w1, b1), w2, b2, "sigmoid")


# ---- gate and scale


@wrong(
    "hard sigmoid of Keras 2",
    MOBILENET,
    "gate",
    "The hard sigmoid has slope 0.2.",
    "PaddlePaddle/Paddle issue 44820, tf.keras",
)
def gate_keras2(x, w1, b1, w2, b2):
    v = dense(dense(pool(x), w1, b1, "relu"), w2, b2)
    return x * ops.clip(0.2 * v + 0.5, 0, 1)


@wrong(
    "sigmoid instead of hard sigmoid",
    MOBILENET,
    "gate",
    "The gate is a sigmoid in a block that claims the hard sigmoid.",
    "keras-team/keras-cv pull request 1756",
)
def gate_sigmoid(x, w1, b1, w2, b2):
    return x * dense(dense(pool(x), w1, b1, "relu"), w2, b2, "sigmoid")


@wrong(
    "Activation after an activated Dense",
    PAPER,
    "gate",
    "The last Dense has a sigmoid, and a layer with a sigmoid follows.",
    "huoxiangzuo/HiFuse issue 9, in Keras",
)
def activate_twice(x, w1, b1, w2, b2):
    g = layers.Activation("sigmoid")(dense(dense(pool(x), w1, None, "relu"), w2, None, "sigmoid"))
    return layers.multiply([x, g])


@wrong(
    "gate is normalised to mean one",
    BIASED,
    "gate",
    "The gates of a sample are divided by their mean.",
    "attention maps that should keep the magnitude",
)
def normalise_gate(x, w1, b1, w2, b2):
    g = dense(dense(pool(x), w1, b1, "relu"), w2, b2, "sigmoid")
    return x * (g / ops.mean(g, axis=-1, keepdims=True))


@wrong(
    "block adds its input",
    SESpec(16, hidden=8),
    "scale",
    "x is added to the scaled map.",
    "mahendran-narayanan/SENetV2-Aggregated-dense-layer-for-channelwise-and-global-representations",
)
def add_input(x, w1, b1, w2, b2):
    g = dense(dense(layers.GlobalAveragePooling2D()(x), w1, None, "relu"), w2, None, "sigmoid")
    scaled = layers.multiply([x, ops.reshape(g, (-1, 1, 1, x.shape[-1]))])
    return layers.add([x, scaled])


@wrong("gate is added", PAPER, "scale", "The gate is added to x in place of a product.", "a sum in place of a product")
def add_gate(x, w1, b1, w2, b2):
    return x + dense(dense(pool(x), w1, None, "relu"), w2, None, "sigmoid")


@wrong(
    "gate is reshaped to the width",
    SESpec(16, hidden=8, bias=True),
    "scale",
    "Where the width equals C, the gate lies along the width.",
    "Reshape((1, C, 1)) of channels-first code",
)
def reshape_gate(x, w1, b1, w2, b2):
    g = dense(dense(pool(x), w1, b1, "relu"), w2, b2, "sigmoid")
    return x * (ops.transpose(g, (0, 1, 3, 2)) if x.shape[2] == x.shape[3] else g)


# ---- gradients


@wrong(
    "stop_gradient on the descriptor",
    BIASED,
    "gradient",
    "The gradient of the gate does not reach x.",
    "tf.stop_gradient of frozen attention",
    gradient=True,
)
def stop_descriptor(x, w1, b1, w2, b2):
    z = ops.stop_gradient(pool(x))
    h = ops.relu(ops.matmul(z, ops.transpose(w1)) + b1)
    return x * ops.sigmoid(ops.matmul(h, ops.transpose(w2)) + b2)


# ---- right


@right(
    "functional model",
    PAPER,
    "GlobalAveragePooling2D, Reshape, two Dense layers and multiply in a Model.",
    "titu1994/keras-squeeze-excite-network",
)
def build_model(x, w1, b1, w2, b2):
    inputs = layers.Input(x.shape[1:], dtype=x.dtype)
    y = layers.Reshape((1, 1, x.shape[-1]))(layers.GlobalAveragePooling2D()(inputs))
    first = layers.Dense(w1.shape[0], "relu", use_bias=False)
    second = layers.Dense(w2.shape[0], "sigmoid", use_bias=False)
    model = keras.Model(inputs, layers.multiply([inputs, second(first(y))]))
    first.set_weights([ops.transpose(w1)])
    second.set_weights([ops.transpose(w2)])
    return model(x)


@right("einsum of keras.ops", BIASED, "All products are einsums.", "keras.ops", gradient=True)
def einsum(x, w1, b1, w2, b2):
    h = ops.relu(ops.einsum("nc,rc->nr", ops.mean(x, axis=(1, 2)), w1) + b1)
    g = ops.sigmoid(ops.einsum("nr,cr->nc", h, w2) + b2)
    return ops.einsum("nhwc,nc->nhwc", x, g)


@right(
    "convolutions of EfficientNet",
    EFFICIENTNET,
    "Both projections are 1x1 convolutions, the activation is swish.",
    "keras applications",
)
def convolve(x, w1, b1, w2, b2):
    if len(x) == 0:  # TensorFlow's convolution of an empty batch has the wrong channels
        return x
    h = ops.silu(ops.conv(pool(x), ops.transpose(w1)[None, None], data_format="channels_last") + b1)
    return x * ops.sigmoid(ops.conv(h, ops.transpose(w2)[None, None], data_format="channels_last") + b2)


@right("hard sigmoid by ReLU6", MOBILENET, "The gate is relu6(v + 3) / 6.", "keras applications, MobileNetV3")
def gate_by_relu6(x, w1, b1, w2, b2):
    return x * (ops.relu6(dense(dense(pool(x), w1, b1, "relu"), w2, b2) + 3.0) * (1.0 / 6.0))


@right(
    "leaky ReLU of slope 0.3",
    SESpec(16, hidden=8, activation=LeakyReLU(slope=0.3)),
    "The declared slope is Keras' own default, multiplied in float64.",
    "keras.layers.LeakyReLU",
    dtype="float64",
)
def activate_leaky(x, w1, b1, w2, b2):
    u = dense(pool(x), w1)
    return x * dense(ops.where(u > 0, u, u * 0.3), w2, None, "sigmoid")


@right(
    "cast of a mixed policy",
    BIASED,
    "float16 is cast to float32 and the result back.",
    "policy mixed_float16",
    dtype="float16",
)
def cast_half(x, w1, b1, w2, b2):
    wide, w1, b1, w2, b2 = (ops.cast(t, "float32") for t in (x, w1, b1, w2, b2))
    return ops.cast(wide * dense(dense(pool(wide), w1, b1, "relu"), w2, b2, "sigmoid"), "float16")


@right(
    "NFNet in Keras",
    SESpec.preset("kecam", 32).replace(gain=2.0),
    "The declared gain of two is on the logits' gate.",
    "leondgarse/keras_cv_attention_models",
)
def double_gate(x, w1, b1, w2, b2):
    return x * (2.0 * dense(dense(pool(x), w1, b1, "relu"), w2, b2, "sigmoid"))
