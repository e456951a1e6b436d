"""Blocks in JAX, Flax linen and the style of Haiku; channels last."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from se_spec import HardSigmoid, LeakyReLU, SESpec

from .base import Arrays, Registry, by_name, in_order


def adapt(block: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``function(x, parameters)`` of a block, which is not compiled as a whole."""

    def function(x: np.ndarray, parameters: Arrays) -> Any:
        arrays = [None if array is None else jnp.asarray(array) for array in (x, *in_order(parameters))]
        return np.asarray(block(*arrays))

    return function


def differentiate(block: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``vjp(x, dy, parameters)`` of a block by ``jax.vjp``."""

    def vjp(x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        arrays = [None if array is None else jnp.asarray(array) for array in (x, *in_order(parameters))]
        gradients = jax.vjp(block, *arrays)[1](jnp.asarray(dy))
        return np.asarray(gradients[0]), by_name(gradients[1:], parameters)

    return vjp


REGISTRY = Registry("jax", adapt, differentiate)
wrong, right = REGISTRY.wrong, REGISTRY.right

PAPER = SESpec(16, hidden=4)
BIASED = SESpec(16, hidden=8, bias=True)
NFNET = SESpec.preset("nfnets", 16)


def dense(z: Any, w: Any, b: Any = None) -> Any:
    y = jnp.matmul(z, w.T, precision=lax.Precision.HIGHEST)
    return y if b is None else y + b


def pool(x: Any) -> Any:
    return x.mean(axis=(1, 2), keepdims=True)


def logits(z: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    return dense(jax.nn.relu(dense(z, w1, b1)), w2, b2)


# ---- squeeze


@wrong(
    "maximum starts at zero",
    SESpec(16, hidden=8, squeeze="max"),
    "squeeze",
    "The maximum starts at 0, so that it is never negative.",
    "uxlfoundation/oneDNN pull request 1677",
)
def start_at_zero(x, w1, b1, w2, b2):
    z = x.max(axis=(1, 2), keepdims=True, initial=0)
    return x * jax.nn.sigmoid(logits(z, w1, b1, w2, b2))


@wrong(
    "mean and maximum are added",
    SESpec(16, hidden=8, bias=True, squeeze="avg_max"),
    "squeeze",
    "Mean and maximum are added without the halves.",
    "CBAM by addition before the layers",
)
def add_without_halves(x, w1, b1, w2, b2):
    z = pool(x) + x.max(axis=(1, 2), keepdims=True)
    return x * jax.nn.sigmoid(logits(z, w1, b1, w2, b2))


@wrong(
    "one axis is averaged in volumes",
    BIASED,
    "squeeze",
    "The mean of a 3-D map is over its first two spatial axes alone.",
    "google/flax pull request 1018, axis=(1, 2)",
    ranks=(3,),
)
def squeeze_two_axes(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2))


@wrong(
    "mean in bfloat16",
    BIASED,
    "squeeze",
    "x is rounded to bfloat16 before the mean, although it is float32.",
    "bfloat16 activations on TPUs",
)
def squeeze_bfloat16(x, w1, b1, w2, b2):
    z = x.astype(jnp.bfloat16).mean(axis=(1, 2), keepdims=True).astype(x.dtype)
    return x * jax.nn.sigmoid(logits(z, w1, b1, w2, b2))


@wrong(
    "squeeze of absolute values",
    SESpec(16, hidden=8),
    "squeeze",
    "The mean is over absolute values.",
    "L1 pooling of channel pruning",
)
def squeeze_absolute(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(logits(pool(jnp.abs(x)), w1, b1, w2, b2))


# ---- reduce and activation


@wrong(
    "descriptor is normalised",
    PAPER,
    "squeeze",
    "z is divided by its Euclidean norm.",
    "channel attention of metric learning",
)
def normalise_descriptor(x, w1, b1, w2, b2):
    z = pool(x)
    z = z / jnp.maximum(jnp.sqrt((z * z).sum(-1, keepdims=True)), 1e-12)
    return x * jax.nn.sigmoid(logits(z, w1, b1, w2, b2))


@wrong(
    "bias of reduce follows the activation",
    BIASED,
    "activation",
    "The bias is added after ReLU.",
    "fused bias and activation in another order",
)
def add_bias_late(x, w1, b1, w2, b2):
    h = jax.nn.relu(dense(pool(x), w1)) + b1
    return x * jax.nn.sigmoid(dense(h, w2, b2))


@wrong(
    "GELU of JAX",
    SESpec(16, hidden=8, activation="gelu"),
    "activation",
    "jax.nn.gelu is approximate unless it is told otherwise.",
    "haiku blocks with activation_fn=jax.nn.gelu",
    dtype="float32",
)
def activate_gelu(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(dense(jax.nn.gelu(dense(pool(x), w1)), w2))


@wrong(
    "swish in place of hard swish",
    SESpec(16, hidden=8, bias=True, activation="hard_swish"),
    "activation",
    "The activation is swish, which hard swish approximates.",
    "MobileNetV3 code with jax.nn.swish",
)
def activate_swish(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(dense(jax.nn.swish(dense(pool(x), w1, b1)), w2, b2))


@wrong(
    "leaky ReLU is applied twice",
    SESpec(16, hidden=8, activation=LeakyReLU(slope=0.1)),
    "activation",
    "Leaky ReLU is applied before and after a reshape.",
    "activation in the layer and in the model",
)
def activate_leaky_twice(x, w1, b1, w2, b2):
    h = nn.leaky_relu(nn.leaky_relu(dense(pool(x), w1), 0.1), 0.1)
    return x * jax.nn.sigmoid(dense(h, w2))


@wrong(
    "log-sigmoid in place of the sigmoid",
    SESpec(16, hidden=8, activation="sigmoid"),
    "activation",
    "The activation is log-sigmoid in place of the sigmoid.",
    "habit: the wrong name was completed",
)
def activate_log_sigmoid(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(dense(jax.nn.log_sigmoid(dense(pool(x), w1)), w2))


# ---- gate and scale


@wrong(
    "temperature on the logits",
    BIASED,
    "expand",
    "The logits are divided by the root of C.",
    "scaled dot products of attention",
)
def divide_logits(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2) / x.shape[-1] ** 0.5)


@wrong("gain of two", PAPER, "gate", "The gate is doubled in a block that claims no gain.", "deepmind NFNets")
def double_gate(x, w1, b1, w2, b2):
    return x * 2 * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2))


@wrong("gain is forgotten", NFNET, "gate", "The gate is not doubled in a block of NFNets.", "NFNets ported to Flax")
def forget_gain(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2))


@wrong("tanh in place of the sigmoid", SESpec(16, hidden=8), "gate", "The gate is tanh.", "habit of gated units")
def gate_tanh(x, w1, b1, w2, b2):
    return x * jnp.tanh(logits(pool(x), w1, b1, w2, b2))


@wrong(
    "gate is rounded to zero or one",
    BIASED,
    "gate",
    "The gate is 1 where the logit is positive, else 0.",
    "dynamic channel selection",
)
def threshold_gate(x, w1, b1, w2, b2):
    return x * (logits(pool(x), w1, b1, w2, b2) > 0).astype(x.dtype)


@wrong(
    "one minus the gate",
    PAPER,
    "gate",
    "The sign of the logits is turned.",
    "exp(v) in place of exp(-v) in a handwritten sigmoid",
)
def turn_logits(x, w1, b1, w2, b2):
    return x / (1 + jnp.exp(logits(pool(x), w1, b1, w2, b2)))


@wrong(
    "offset of one half is missing",
    SESpec(16, hidden=8, gate=HardSigmoid(slope=0.2, offset=0.5)),
    "gate",
    "The hard sigmoid is min(max(0.2 v, 0), 1).",
    "offsets lost in graph conversion",
)
def forget_offset(x, w1, b1, w2, b2):
    return x * jnp.clip(0.2 * logits(pool(x), w1, b1, w2, b2), 0, 1)


@wrong(
    "gate is rounded to bfloat16",
    BIASED,
    "gate",
    "The gate of a float32 block is rounded to bfloat16.",
    "bfloat16 activations on TPUs",
)
def round_gate(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2)).astype(jnp.bfloat16).astype(x.dtype)


@wrong(
    "one is added to the gate",
    SESpec(16, hidden=8),
    "scale",
    "x is multiplied by one plus the gate.",
    "residual attention, feature-wise modulation",
)
def add_one(x, w1, b1, w2, b2):
    return x * (1 + jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2)))


@wrong(
    "halves of the channels are exchanged",
    BIASED,
    "scale",
    "The gate's halves are exchanged, as after a channel shuffle.",
    "ShuffleNet blocks with SE",
)
def exchange_halves(x, w1, b1, w2, b2):
    first, second = jnp.split(jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2)), 2, axis=-1)
    return x * jnp.concatenate([second, first], axis=-1)


@wrong(
    "gates of the reversed batch",
    PAPER,
    "scale",
    "Sample i is multiplied by the gate of sample N - 1 - i.",
    "test-time flips applied to the wrong axis",
)
def reverse_batch(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2))[::-1]


@wrong(
    "NaN is replaced",
    SESpec(16, hidden=8),
    "scale",
    "NaN in the result is replaced by 0.",
    "jnp.nan_to_num against unstable training",
)
def replace_nan(x, w1, b1, w2, b2):
    y = x * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2))
    return jnp.where(jnp.isnan(y), 0, y)


@wrong(
    "float16 product",
    SESpec(16, hidden=8),
    "scale",
    "x and the gate are multiplied in float16 in a float32 block.",
    "flax dtype=jnp.float16 of one layer",
)
def multiply_half(x, w1, b1, w2, b2):
    g = jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2))
    return (x.astype(jnp.float16) * g.astype(jnp.float16)).astype(x.dtype)


# ---- gradients


@wrong(
    "gradient of where is NaN",
    BIASED,
    "gradient",
    "The sigmoid is a where of two forms, and the gradient of the form not taken is NaN.",
    "jax-ml/jax, gradients of where",
    gradient=True,
)
def where_sigmoid(x, w1, b1, w2, b2):
    v = logits(pool(x), w1, b1, w2, b2)
    return x * jnp.where(v >= 0, 1 / (1 + jnp.exp(-v)), jnp.exp(v) / (1 + jnp.exp(v)))


@wrong(
    "gradient of the gate is stopped",
    PAPER,
    "gradient",
    "lax.stop_gradient stands around the gate.",
    "stop_gradient of teacher networks",
    gradient=True,
)
def stop_gate(x, w1, b1, w2, b2):
    return x * lax.stop_gradient(jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2)))


# ---- right


class Block(nn.Module):
    """Linen module of nested Dense layers."""

    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.Dense(self.hidden, name="reduce")(x.mean(axis=(1, 2), keepdims=True))
        return nn.sigmoid(nn.Dense(x.shape[-1], name="expand")(nn.relu(y))) * x


@right(
    "linen Dense layers",
    BIASED,
    "A linen module with the layers reduce and expand.",
    "google/flax pull request 1018",
    gradient=True,
)
def apply_linen(x, w1, b1, w2, b2):
    variables = {"reduce": {"kernel": w1.T, "bias": b1}, "expand": {"kernel": w2.T, "bias": b2}}
    return Block(w1.shape[0]).apply({"params": variables}, x)


@right("jit", PAPER, "The whole block is compiled.", "jax.jit")
@jax.jit
def compile_block(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2))


@right(
    "vmap of one image",
    SESpec(16, hidden=8),
    "The block of one image, (H, W, C), is vectorised.",
    "Information-Fusion-Lab-Umass/NuX",
)
def map_images(x, w1, b1, w2, b2):
    def one_image(image: Any) -> Any:
        z = w1 @ image.mean(axis=(-2, -3))
        return image * jax.nn.sigmoid(w2 @ jax.nn.relu(z))[None, None, :]

    return jax.vmap(one_image)(x)


@right("dot_general", SESpec(16, hidden=8, gate="hard_sigmoid"), "Products are lax.dot_general.", "Haiku internals")
def multiply_dot_general(x, w1, b1, w2, b2):
    contract = (((1,), (1,)), ((), ()))
    h = jax.nn.relu(lax.dot_general(x.mean((1, 2)), w1, contract))
    return x * jax.nn.hard_sigmoid(lax.dot_general(h, w2, contract))[:, None, None]


@right("NFNet", NFNET, "The declared gain of two is applied to the gate.", "deepmind NFNets", gradient=True)
def double_declared_gate(x, w1, b1, w2, b2):
    return 2.0 * jax.nn.sigmoid(logits(pool(x), w1, b1, w2, b2)) * x


@right(
    "residual of MONAI", SESpec.preset("monai.ResidualSELayer", 16), "The product is added to x.", "Project-MONAI/MONAI"
)
def add_residual(x, w1, b1, w2, b2):
    h = jax.nn.leaky_relu(dense(pool(x), w1, b1), 0.01)
    return x + x * jax.nn.relu(dense(h, w2, b2))


@right(
    "bfloat16 with float32 inside",
    SESpec(16, hidden=8),
    "bfloat16 is widened once and rounded once.",
    "Flax with dtype and param_dtype",
    dtype="bfloat16",
)
def widen_bfloat16(x, w1, b1, w2, b2):
    wide = x.astype(jnp.float32)
    v = logits(pool(wide), w1.astype(jnp.float32), None, w2.astype(jnp.float32), None)
    return (wide * jax.nn.sigmoid(v)).astype(x.dtype)


@right(
    "effective SE",
    SESpec(16, single_projection=True, bias=True),
    "One square projection and a sigmoid.",
    "youngwanLEE/vovnet-detectron2, with a sigmoid",
)
def project_once(x, w1, b1, w2, b2):
    return x * jax.nn.sigmoid(pool(x) @ w2.T + b2)
