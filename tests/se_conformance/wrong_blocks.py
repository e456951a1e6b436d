"""Squeeze-and-Excitation blocks that are wrong, each written as such code is found in public repositories.

They share nothing with ``se_conformance`` and nothing with the oracle, so that a judge of blocks does not only confirm
its own catalogue. Each has one mistake and is otherwise right, in its own precision: half is widened to float32 once
and rounded once. ``WRONG`` lists them; ``cause`` is the name that a judge should give to the mistake.

A block is written in its framework's own layout, channels first in torch and channels last elsewhere, and takes
``(x, w1, b1, w2, b2)``: reduce's weight (R, C) and bias (R,), expand's weight (C, R) and bias (C,), None for what the
spec has not. The adapters below make NumPy functions of them. Frameworks are imported where they are used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from se_spec import HardSigmoid, LeakyReLU, SESpec

Arrays = dict[str, np.ndarray]


class Wrong(NamedTuple):
    """One wrong block.

    ``function(x, parameters)`` is y, of x's type; ``vjp(x, dy, parameters)`` is dx and the parameters' gradients by
    name. The mistake shows in ``dtype``.
    """

    cause: str
    framework: str
    spec: SESpec
    function: Callable[[np.ndarray, Arrays], np.ndarray]
    vjp: Callable[[np.ndarray, np.ndarray, Arrays], tuple[np.ndarray, Arrays]] | None = None
    dtype: str = "float32"


NAMES = ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias")

_found: list[Wrong] = []


def wrong(cause: str, framework: str, spec: SESpec, *, dtype: str = "float32", raw: bool = False) -> Callable:
    """Adds a block to ``WRONG``; ``raw`` if it is a function of NumPy arrays already."""

    def register(block: Callable) -> Callable:
        function = block if raw else FORWARD[framework](block)
        _found.append(Wrong(cause, framework, spec, function, dtype=dtype))
        return block

    return register


def wrong_gradient(cause: str, framework: str, spec: SESpec) -> Callable:
    """Adds a block whose derivative is wrong; in NumPy what is decorated is the derivative, beside ``right_block``."""

    def register(block: Callable) -> Callable:
        forward = right_block(spec) if framework == "numpy" else block
        function, vjp = FORWARD[framework](forward), BACKWARD[framework](block)
        _found.append(Wrong(cause, framework, spec, function, vjp))
        return block

    return register


def wide(array: np.ndarray) -> np.ndarray:
    """A copy in float32, or in float64 where the array is."""
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def in_order(x: np.ndarray, parameters: Arrays) -> list[np.ndarray | None]:
    """The four parameters in x's precision."""
    return [wide(parameters[name]).astype(wide(x[:0]).dtype) if name in parameters else None for name in NAMES]


def by_name(gradients: Any, parameters: Arrays) -> Arrays:
    """Four gradients as a dict of those that the parameters have, in their types."""
    given = zip(NAMES, gradients, strict=True)
    return {name: np.asarray(one).astype(parameters[name].dtype) for name, one in given if name in parameters}


def numpy_forward(block: Callable) -> Callable:
    def function(x: np.ndarray, parameters: Arrays) -> np.ndarray:
        with np.errstate(all="ignore"):
            return block(wide(x), *in_order(x, parameters)).astype(x.dtype)

    return function


def numpy_backward(block: Callable) -> Callable:
    def vjp(x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        with np.errstate(all="ignore"):
            dx, *gradients = block(wide(x), wide(dy), *in_order(x, parameters))
            return dx.astype(x.dtype), by_name(gradients, parameters)

    return vjp


def torch_forward(block: Callable) -> Callable:
    def function(x: np.ndarray, parameters: Arrays) -> np.ndarray:
        import torch

        weights = [None if one is None else torch.tensor(one) for one in in_order(x, parameters)]
        with torch.no_grad():
            y = block(torch.tensor(np.moveaxis(wide(x), -1, 1)), *weights)
        with np.errstate(all="ignore"):
            return np.moveaxis(y.numpy(), 1, -1).astype(x.dtype)

    return function


def torch_backward(block: Callable) -> Callable:
    def vjp(x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        import torch

        arrays = [np.moveaxis(wide(x), -1, 1), *in_order(x, parameters)]
        leaves = [None if one is None else torch.tensor(one, requires_grad=True) for one in arrays]
        block(*leaves).backward(torch.tensor(np.moveaxis(wide(dy), -1, 1)))
        dx, *gradients = [
            None if one is None else torch.zeros_like(one) if one.grad is None else one.grad for one in leaves
        ]
        return np.moveaxis(dx.numpy(), 1, -1).astype(x.dtype), by_name(gradients, parameters)

    return vjp


def keras_forward(block: Callable) -> Callable:
    def function(x: np.ndarray, parameters: Arrays) -> np.ndarray:
        from keras import ops

        y = block(ops.convert_to_tensor(wide(x)), *in_order(x, parameters))
        with np.errstate(all="ignore"):
            return ops.convert_to_numpy(y).astype(x.dtype)

    return function


def jax_forward(block: Callable) -> Callable:
    def function(x: np.ndarray, parameters: Arrays) -> np.ndarray:
        import jax

        with jax.enable_x64(x.dtype == np.float64), jax.default_matmul_precision("highest"):
            arrays = jax.tree.map(jax.numpy.asarray, (wide(x), *in_order(x, parameters)))
            y = np.asarray(block(*arrays))
        with np.errstate(all="ignore"):
            return y.astype(x.dtype)

    return function


def jax_backward(block: Callable) -> Callable:
    def vjp(x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        import jax

        with jax.enable_x64(x.dtype == np.float64), jax.default_matmul_precision("highest"):
            arrays = jax.tree.map(jax.numpy.asarray, (wide(x), *in_order(x, parameters)))
            dx, *gradients = jax.vjp(block, *arrays)[1](jax.numpy.asarray(wide(dy)))
            return np.asarray(dx).astype(x.dtype), by_name(gradients, parameters)

    return vjp


FORWARD = {"numpy": numpy_forward, "torch": torch_forward, "keras": keras_forward, "jax": jax_forward}
BACKWARD = {"numpy": numpy_backward, "torch": torch_backward, "jax": jax_backward}


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def relu(u: np.ndarray) -> np.ndarray:
    return np.maximum(u, 0)


def right_block(spec: SESpec) -> Callable:
    """The plain block in NumPy, mean and ReLU, for derivatives that are written by hand."""

    def block(x, w1, b1, w2, b2):
        v = relu(x.mean(axis=(1, 2)) @ w1.T + b1) @ w2.T + b2
        g = np.clip(v / 6 + 0.5, 0, 1) if spec.gate == "hard_sigmoid" else sigmoid(v)
        return x * g[:, None, None, :]

    return block


def linear(weight: Any, bias: Any = None) -> Any:
    """A torch.nn.Linear with these tensors."""
    from torch import nn

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


def dense(weight: np.ndarray, bias: np.ndarray | None = None, activation: Any = None) -> Any:
    """A Keras Dense layer with these arrays."""
    from keras import layers

    layer = layers.Dense(len(weight), activation=activation, use_bias=bias is not None, dtype=str(weight.dtype))
    layer.build((None, weight.shape[1]))
    layer.set_weights([weight.T] if bias is None else [weight.T, bias])
    return layer


# Gates


@wrong(
    "hard_sigmoid slope 0.2 (Keras 2) instead of 1/6",
    "keras",
    SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"),
)
def mobilenet_v3_as_if_keras_2(x, w1, b1, w2, b2):
    from keras import layers, ops

    def hard_sigmoid(v):
        return ops.clip(0.2 * v + 0.5, 0.0, 1.0)

    z = layers.GlobalAveragePooling2D(keepdims=True, dtype=x.dtype)(x)
    h = dense(w1, b1, "relu")(z)
    return x * dense(w2, b2, hard_sigmoid)(h)


@wrong(
    "hard_sigmoid slope 1/2 (mmcv before 1.4.4)",
    "torch",
    SESpec(24, hidden=8, bias=True, gate="hard_sigmoid"),
)
def mmcv_with_old_defaults(x, w1, b1, w2, b2):
    from torch import nn

    class HSigmoid(nn.Module):
        def __init__(self, bias=1.0, divisor=2.0, min_value=0.0, max_value=1.0):
            super().__init__()
            self.bias, self.divisor, self.min_value, self.max_value = bias, divisor, min_value, max_value

        def forward(self, v):
            return ((v + self.bias) / self.divisor).clamp_(self.min_value, self.max_value)

    net = nn.Sequential(linear(w1, b1), nn.ReLU(inplace=True), linear(w2, b2), HSigmoid())
    return x * net(nn.AdaptiveAvgPool2d(1)(x).flatten(1))[:, :, None, None]


@wrong(
    "hard_sigmoid is clamp(v, 0, 1) (GhostNet)",
    "torch",
    SESpec(40, hidden=10, bias=True, gate="hard_sigmoid"),
)
def ghostnet_v1(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    b, c, _, _ = x.size()
    y = F.adaptive_avg_pool2d(x, 1).view(b, c)
    y = F.linear(F.relu(F.linear(y, w1, b1)), w2, b2).view(b, c, 1, 1)
    return x * torch.clamp(y, 0, 1)


@wrong("hard_sigmoid times 0.16667 (TF-slim)", "keras", SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"))
def tf_slim(x, w1, b1, w2, b2):
    from keras import ops

    z = ops.mean(x, axis=[1, 2], keepdims=True)
    v = dense(w2, b2)(ops.relu(dense(w1, b1)(z)))
    return x * (ops.relu6(v + 3.0) * 0.16667)


@wrong(
    "hard_sigmoid slope 0.1666667 (Paddle)",
    "numpy",
    SESpec(16, hidden=4, bias=True, gate="hard_sigmoid"),
    dtype="float64",
)
def paddle_default(x, w1, b1, w2, b2, slope=0.1666667, offset=0.5):
    z = x.mean(axis=(1, 2))
    v = relu(z @ w1.T + b1) @ w2.T + b2
    return x * np.clip(v * slope + offset, 0, 1)[:, None, None, :]


@wrong(
    "hard_sigmoid slope 1/6 instead of the spec's",
    "torch",
    SESpec(24, hidden=6, bias=True, gate=HardSigmoid(slope=0.2, offset=0.5)),
)
def port_of_a_keras_2_net(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    z = x.mean((2, 3))
    return x * F.hardsigmoid(F.linear(F.relu(F.linear(z, w1, b1)), w2, b2))[..., None, None]


@wrong("hard_sigmoid not clipped", "jax", SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"))
def forgotten_clip(x, w1, b1, w2, b2):
    from jax import nn

    z = x.mean((1, 2), keepdims=True)
    g = (nn.relu(z @ w1.T + b1) @ w2.T + b2 + 3) / 6
    return x * g


@wrong("hard_sigmoid clipped above only", "numpy", SESpec(20, hidden=5, bias=True, gate="hard_sigmoid"))
def minimum_only(x, w1, b1, w2, b2):
    h = relu(x.mean(axis=(1, 2)) @ w1.T + b1)
    g = np.minimum((h @ w2.T + b2 + 3) / 6, 1)
    return x * g[:, None, None]


@wrong("hard_sigmoid clipped below only", "keras", SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"))
def relu_where_relu6_is_meant(x, w1, b1, w2, b2):
    from keras import ops

    z = ops.mean(x, axis=(1, 2), keepdims=True)
    v = dense(w2, b2)(dense(w1, b1, "relu")(z))
    return x * (ops.relu(v + 3.0) / 6.0)


@wrong("gate is sigmoid", "torch", SESpec(24, single_projection=True, bias=True, gate="hard_sigmoid"))
def effective_se_with_a_soft_gate(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    z = x.mean((2, 3), keepdim=True)
    return x * torch.sigmoid(F.conv2d(z, w2[:, :, None, None], b2))


@wrong("gate is hard_swish", "torch", SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"))
def mobilenet_v3_with_its_other_function(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.Hardswish())
    return x * net(x.mean((2, 3)))[:, :, None, None]


@wrong("hard_sigmoid without its 3: relu6(v) / 6", "numpy", SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"))
def relu6_over_6(x, w1, b1, w2, b2):
    h = np.maximum(x.mean((1, 2)) @ w1.T + b1, 0)
    return x * (np.clip(h @ w2.T + b2, 0, 6) / 6)[:, None, None]


@wrong("gate is hard_sigmoid", "keras", SESpec(64, reduction=8))
def dense_with_hard_sigmoid(x, w1, b1, w2, b2):
    from keras import layers

    s = layers.GlobalAveragePooling2D(dtype=x.dtype)(x)
    s = layers.Reshape((1, 1, x.shape[-1]), dtype=x.dtype)(s)
    s = dense(w1, activation="relu")(s)
    s = dense(w2, activation="hard_sigmoid")(s)
    return layers.Multiply(dtype=x.dtype)([x, s])


@wrong("gate is tanh", "keras", SESpec(24, hidden=6, bias=True))
def tanh_for_sigmoid(x, w1, b1, w2, b2):
    from keras import ops

    s = ops.mean(x, axis=(1, 2))
    s = dense(w2, b2, "tanh")(dense(w1, b1, "relu")(s))
    return x * ops.reshape(s, (-1, 1, 1, x.shape[-1]))


@wrong("gate is identity", "jax", SESpec(24, hidden=6, bias=True))
def logits_taken_for_the_gate(x, w1, b1, w2, b2):
    import jax.numpy as jnp

    z = jnp.mean(x, axis=(1, 2))
    h = jnp.maximum(jnp.einsum("nc,rc->nr", z, w1) + b1, 0)
    return jnp.einsum("nhwc,nc->nhwc", x, jnp.einsum("nr,cr->nc", h, w2) + b2)


@wrong("softmax over the channels as gate", "jax", SESpec(24, hidden=6, bias=True))
def softmax_attention(x, w1, b1, w2, b2):
    from jax import nn

    z = x.mean((1, 2))
    weights = nn.softmax(nn.relu(z @ w1.T + b1) @ w2.T + b2, axis=-1)
    return x * weights[:, None, None, :]


@wrong("1 - gate", "numpy", SESpec(24, hidden=6, bias=True))
def sigmoid_without_its_minus(x, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2))
    v = relu(z @ w1.T + b1) @ w2.T + b2
    return x * (1 / (1 + np.exp(v)))[:, None, None, :]


@wrong("gate applied twice in a row", "torch", SESpec(32, reduction=8))
def sigmoid_in_the_net_and_after_it(x, w1, b1, w2, b2):
    import torch
    from torch import nn

    class SEBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Sequential(linear(w1), nn.ReLU(inplace=True), linear(w2), nn.Sigmoid())

        def forward(self, x):
            b, c, _, _ = x.size()
            y = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
            return x * torch.sigmoid(y).expand_as(x)

    return SEBlock()(x)


@wrong("sigmoid of the logits in base 2", "jax", SESpec(24, hidden=6, bias=True))
def fast_exponential(x, w1, b1, w2, b2):
    import jax.numpy as jnp

    z = x.mean((1, 2))
    v = jnp.maximum(z @ w1.T + b1, 0) @ w2.T + b2
    return x * (1 / (1 + jnp.exp2(-v)))[:, None, None, :]


@wrong("gain inside the gate", "jax", SESpec(24, hidden=6, bias=True, gain=2.0))
def nfnet_gain_before_the_sigmoid(x, w1, b1, w2, b2):
    from jax import nn

    z = x.mean((1, 2))
    v = nn.relu(z @ w1.T + b1) @ w2.T + b2
    return nn.sigmoid(2.0 * v)[:, None, None] * x


# Activations


@wrong("activation and gate swapped", "torch", SESpec(32, hidden=8, bias=True))
def sequential_in_the_wrong_order(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(nn.Flatten(), linear(w1, b1), nn.Sigmoid(), linear(w2, b2), nn.ReLU())
    return x * net(nn.functional.adaptive_avg_pool2d(x, 1)).unsqueeze(-1).unsqueeze(-1)


@wrong("activation missing", "torch", SESpec(32, hidden=8, bias=True))
def two_linear_layers_in_a_row(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1, b1), linear(w2, b2), nn.Sigmoid())
    return x * net(x.mean((2, 3)))[:, :, None, None]


@wrong("activation is relu", "numpy", SESpec(32, hidden=8, bias=True, activation="silu"))
def efficientnet_with_relu(x, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2), keepdims=True)
    return x * sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)


@wrong("activation is silu", "keras", SESpec(24, hidden=6, bias=True))
def swish_all_over_the_net(x, w1, b1, w2, b2):
    from keras import ops

    se = ops.mean(x, axis=[1, 2], keepdims=True)
    return ops.multiply(x, dense(w2, b2, "sigmoid")(dense(w1, b1, "swish")(se)))


@wrong("activation is hard_swish", "keras", SESpec(24, hidden=6, bias=True, activation="silu"))
def hard_swish_for_swish(x, w1, b1, w2, b2):
    from keras import ops

    se = ops.mean(x, axis=[1, 2], keepdims=True)
    return x * dense(w2, b2, "sigmoid")(dense(w1, b1, "hard_swish")(se))


@wrong("activation is relu6", "jax", SESpec(24, hidden=6, bias=True))
def mobile_relu6(x, w1, b1, w2, b2):
    from jax import nn

    z = x.mean((1, 2), keepdims=True)
    return x * nn.sigmoid(nn.relu6(z @ w1.T + b1) @ w2.T + b2)


@wrong("activation is gelu_tanh", "jax", SESpec(24, hidden=6, bias=True, activation="gelu"))
def jax_default_gelu(x, w1, b1, w2, b2):
    from jax import nn

    z = x.mean((1, 2), keepdims=True)
    return x * nn.sigmoid(nn.gelu(z @ w1.T + b1) @ w2.T + b2)


@wrong("activation is gelu", "torch", SESpec(24, hidden=6, bias=True, activation="gelu_tanh"))
def torch_default_gelu(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    h = F.gelu(F.linear(x.mean((-2, -1)), w1, b1))
    return x * torch.sigmoid(F.linear(h, w2, b2))[:, :, None, None]


@wrong(
    "activation is leaky_relu(0.01)",
    "torch",
    SESpec(24, hidden=6, bias=True, activation=LeakyReLU(slope=0.2)),
)
def torch_default_slope(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1, b1), nn.LeakyReLU(inplace=True), linear(w2, b2), nn.Sigmoid())
    return x * net(x.mean((2, 3)))[:, :, None, None]


@wrong(
    "activation is leaky_relu(0.3)",
    "keras",
    SESpec(24, hidden=6, bias=True, activation=LeakyReLU(slope=0.1)),
)
def keras_layer_default_slope(x, w1, b1, w2, b2):
    from keras import layers

    s = layers.GlobalAveragePooling2D(keepdims=True, dtype=x.dtype)(x)
    s = layers.LeakyReLU(dtype=x.dtype)(dense(w1, b1)(s))
    return layers.multiply([x, dense(w2, b2, "sigmoid")(s)], dtype=x.dtype)


@wrong(
    "activation is leaky_relu(0.2)",
    "keras",
    SESpec(24, hidden=6, bias=True, activation=LeakyReLU(slope=0.01)),
)
def keras_function_default_slope(x, w1, b1, w2, b2):
    from keras import ops

    s = ops.mean(x, axis=(1, 2), keepdims=True)
    s = ops.leaky_relu(ops.add(ops.matmul(s, w1.T), b1))
    return x * ops.sigmoid(ops.add(ops.matmul(s, w2.T), b2))


@wrong("activation before the bias", "numpy", SESpec(24, hidden=6, bias=True))
def bias_after_relu(x, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2))
    h = relu(z @ w1.T) + b1
    return x * sigmoid(h @ w2.T + b2)[:, None, None, :]


@wrong("activation applied twice", "jax", SESpec(24, hidden=6, bias=True, activation="silu"))
def swish_in_the_layer_and_after_it(x, w1, b1, w2, b2):
    from jax import nn

    def dense_swish(z):
        return nn.silu(z @ w1.T + b1)

    h = nn.silu(dense_swish(x.mean((1, 2))))
    return x * nn.sigmoid(h @ w2.T + b2)[:, None, None, :]


@wrong("activation on the logits too", "torch", SESpec(24, hidden=6, bias=True))
def relu_after_every_layer(x, w1, b1, w2, b2):
    from torch import nn

    z = x.mean((2, 3))
    for layer in (linear(w1, b1), linear(w2, b2)):
        z = nn.functional.relu(layer(z))
    return x * z.sigmoid()[:, :, None, None]


@wrong("activation on the squeezed values too", "jax", SESpec(24, hidden=6, bias=True))
def relu_after_the_pool(x, w1, b1, w2, b2):
    from flax import linen

    z = linen.relu(x.mean((1, 2), keepdims=True))
    h = linen.relu(linen.Dense(len(b1), param_dtype=x.dtype).apply({"params": {"kernel": w1.T, "bias": b1}}, z))
    v = linen.Dense(len(b2), param_dtype=x.dtype).apply({"params": {"kernel": w2.T, "bias": b2}}, h)
    return x * linen.sigmoid(v)


@wrong("activation on the feature map", "torch", SESpec(24, hidden=6, bias=True))
def in_place_relu_of_the_stage_before(x, w1, b1, w2, b2):
    from torch import nn

    nn.ReLU(inplace=True)(x)
    net = nn.Sequential(linear(w1, b1), nn.ReLU(inplace=True), linear(w2, b2), nn.Sigmoid())
    return x * net(x.mean((2, 3)))[:, :, None, None]


# Biases


@wrong("reduce.bias ignored", "keras", SESpec(24, hidden=6, bias=True))
def first_layer_without_bias(x, w1, b1, w2, b2):
    from keras import ops

    z = ops.mean(x, axis=(1, 2), keepdims=True)
    return x * dense(w2, b2, "sigmoid")(dense(w1, activation="relu")(z))


@wrong("expand.bias ignored", "torch", SESpec(24, hidden=6, bias=True))
def second_convolution_without_bias(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    z = F.adaptive_avg_pool2d(x, 1)
    h = F.relu(F.conv2d(z, w1[:, :, None, None], b1))
    return x * torch.sigmoid(F.conv2d(h, w2[:, :, None, None]))


@wrong("biases ignored", "jax", SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"))
def flax_without_biases(x, w1, b1, w2, b2):
    from flax import linen

    class SE(linen.Module):
        @linen.compact
        def __call__(self, x):
            z = x.mean((1, 2), keepdims=True)
            z = linen.relu(linen.Dense(w1.shape[0], use_bias=False, name="reduce")(z))
            return x * linen.hard_sigmoid(linen.Dense(w2.shape[0], use_bias=False, name="expand")(z))

    return SE().apply({"params": {"reduce": {"kernel": w1.T}, "expand": {"kernel": w2.T}}}, x)


@wrong("biases swapped", "numpy", SESpec(16, hidden=16, bias=True), raw=True)
def biases_in_alphabetical_order(x, parameters):
    b1, b2 = (wide(parameters[name]) for name in sorted(parameters) if name.endswith(".bias"))
    w1, w2 = wide(parameters["reduce.weight"]), wide(parameters["expand.weight"])
    with np.errstate(all="ignore"):
        z = wide(x).mean(axis=(1, 2))
        g = sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)
        return (wide(x) * g[:, None, None, :]).astype(x.dtype)


@wrong("reduce.bias added twice", "torch", SESpec(24, hidden=6, bias=True))
def bias_of_the_layer_and_by_hand(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    h = F.relu(linear(w1, b1)(x.mean((2, 3))) + b1)
    return x * torch.sigmoid(linear(w2, b2)(h))[:, :, None, None]


@wrong("expand.bias added twice", "numpy", SESpec(24, hidden=6, bias=True, squeeze="max"))
def bias_in_the_product_and_after_it(x, w1, b1, w2, b2):
    h = relu(x.max(axis=(1, 2)) @ w1.T + b1)
    v = np.concatenate([h, np.ones_like(h[:, :1])], axis=1) @ np.concatenate([w2, b2[:, None]], axis=1).T
    return x * sigmoid(v + b2)[:, None, None, :]


# Squeezes


@wrong("squeeze is the maximum", "torch", SESpec(32, reduction=4))
def adaptive_max_pool(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), linear(w1), nn.ReLU(), linear(w2), nn.Sigmoid())
    return x * net(x)[:, :, None, None]


@wrong("squeeze is the mean", "keras", SESpec(24, hidden=6, bias=True, squeeze="max"))
def average_pool_for_max_pool(x, w1, b1, w2, b2):
    from keras import layers

    s = layers.GlobalAveragePooling2D(keepdims=True, dtype=x.dtype)(x)
    return x * dense(w2, b2, "sigmoid")(dense(w1, b1, "relu")(s))


@wrong("squeeze is half mean, half maximum", "torch", SESpec(32, hidden=8, bias=True))
def timm_with_add_maxpool(x, w1, b1, w2, b2, add_maxpool=True):
    from torch.nn import functional as F

    x_se = x.mean((2, 3), keepdim=True)
    if add_maxpool:
        x_se = 0.5 * x_se + 0.5 * x.amax((2, 3), keepdim=True)
    x_se = F.conv2d(F.relu(F.conv2d(x_se, w1[:, :, None, None], b1)), w2[:, :, None, None], b2)
    return x * x_se.sigmoid()


@wrong("mean plus maximum without the half", "torch", SESpec(24, hidden=6, bias=True, squeeze="avg_max"))
def sum_of_both_pools(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    z = F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1)
    v = F.conv2d(F.relu(F.conv2d(z, w1[:, :, None, None], b1)), w2[:, :, None, None], b2)
    return x * v.sigmoid()


@wrong("two branches of mean and maximum (CBAM)", "torch", SESpec(32, reduction=4, squeeze="avg_max"))
def cbam_channel_attention(x, w1, b1, w2, b2):
    import torch
    from torch import nn

    mlp = nn.Sequential(nn.Flatten(), linear(w1), nn.ReLU(), linear(w2))
    branches = [mlp(pool(1)(x)) for pool in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)]
    return x * torch.sigmoid(sum(branches))[:, :, None, None]


@wrong("sum instead of mean", "jax", SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"))
def sum_over_space(x, w1, b1, w2, b2):
    import jax.numpy as jnp
    from jax import nn

    z = jnp.einsum("nhwc->nc", x)
    return jnp.einsum("nhwc,nc->nhwc", x, nn.hard_sigmoid(nn.relu(z @ w1.T + b1) @ w2.T + b2))


@wrong("mean over the first spatial axis only", "numpy", SESpec(24, hidden=6, bias=True))
def one_gate_per_column(x, w1, b1, w2, b2):
    z = np.mean(x, axis=1, keepdims=True)
    return x * sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)


@wrong("mean over the last spatial axis only", "jax", SESpec(24, hidden=6, bias=True))
def one_gate_per_row(x, w1, b1, w2, b2):
    from jax import nn

    z = x.mean(-2, keepdims=True)
    return x * nn.sigmoid(nn.relu(z @ w1.T + b1) @ w2.T + b2)


@wrong("no squeeze: projections on the feature map", "keras", SESpec(32, reduction=8))
def deep_danbooru(x, w1, b1, w2, b2):
    from keras import layers

    s = layers.GlobalAveragePooling2D(dtype=x.dtype)(x)
    s = layers.Reshape((1, 1, x.shape[-1]), dtype=x.dtype)(s)
    s = dense(w1, activation="relu")(x)
    s = dense(w2, activation="sigmoid")(s)
    return layers.multiply([x, s], dtype=x.dtype)


@wrong("adaptive pool to 2 x 2 instead of 1 x 1", "torch", SESpec(24, hidden=6, bias=True))
def one_gate_per_quarter(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    z = F.adaptive_avg_pool2d(x, 2)
    v = F.conv2d(F.relu(F.conv2d(z, w1[:, :, None, None], b1)), w2[:, :, None, None], b2)
    return x * F.interpolate(v.sigmoid(), size=x.shape[2:])


@wrong("square window of the shorter side", "torch", SESpec(24, hidden=6, bias=True))
def average_pool_with_a_square_window(x, w1, b1, w2, b2):
    from torch import nn

    window = nn.AvgPool2d(min(x.shape[2:]))
    z = window(x)[:, :, 0, 0]
    net = nn.Sequential(linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.Sigmoid())
    return x * net(z)[:, :, None, None]


@wrong("map reshaped where it must be transposed", "torch", SESpec(24, hidden=6, bias=True))
def tokens_by_view(x, w1, b1, w2, b2):
    from torch import nn

    n, c, h, w = x.shape
    tokens = x.contiguous().view(n, h * w, c)
    net = nn.Sequential(linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.Sigmoid())
    return x * net(tokens.mean(dim=1)).view(n, c, 1, 1)


@wrong("map reshaped where it must be transposed", "jax", SESpec(16, hidden=6))
def channels_first_by_reshape(x, w1, b1, w2, b2):
    import jax.numpy as jnp
    from jax import nn

    n, h, w, c = x.shape
    z = jnp.reshape(x, (n, c, h * w)).mean(-1)
    return x * nn.sigmoid(nn.relu(z @ w1.T) @ w2.T)[:, None, None]


@wrong("divided by 49", "torch", SESpec(24, hidden=6, bias=True))
def last_stage_of_a_224_network(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.Sigmoid())
    return x * net(x.flatten(2).sum(2) / 49)[:, :, None, None]


@wrong("divided by H H instead of H W", "numpy", SESpec(24, hidden=6, bias=True))
def squared_height(x, w1, b1, w2, b2):
    size = x.shape[1]
    z = x.sum(axis=(1, 2)) / size**2
    return x * sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)[:, None, None, :]


@wrong("divided by n - 1", "numpy", SESpec(24, hidden=6, bias=True))
def divisor_of_a_variance(x, w1, b1, w2, b2):
    flat = x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])
    z = flat.sum(axis=1) / max(flat.shape[1] - 1, 1)
    return x * sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)[:, None, None, :]


@wrong("padding averaged in", "torch", SESpec(24, hidden=6, bias=True))
def padded_at_the_end(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    z = F.pad(x, (0, 1, 0, 1)).mean((2, 3))
    return x * torch.sigmoid(F.linear(F.relu(F.linear(z, w1, b1)), w2, b2))[:, :, None, None]


@wrong("padding of both sides averaged in", "keras", SESpec(24, hidden=6, bias=True))
def zero_padding_before_the_pool(x, w1, b1, w2, b2):
    from keras import layers

    s = layers.ZeroPadding2D(1, dtype=x.dtype)(x)
    s = layers.GlobalAveragePooling2D(keepdims=True, dtype=x.dtype)(s)
    return x * dense(w2, b2, "sigmoid")(dense(w1, b1, "relu")(s))


@wrong("last row and column left out on odd sizes", "torch", SESpec(24, hidden=6, bias=True))
def pooling_by_twos(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    z = F.avg_pool2d(x, [min(2, size) for size in x.shape[2:]]).mean((2, 3))
    return x * F.linear(F.relu(F.linear(z, w1, b1)), w2, b2).sigmoid()[:, :, None, None]


@wrong("mean over the batch too", "numpy", SESpec(24, hidden=6, bias=True))
def all_axes_but_the_channels(x, w1, b1, w2, b2):
    n, height, width, _ = x.shape
    z = x.sum(axis=(0, 1, 2)) / (n * height * width)
    return x * sigmoid(w2 @ relu(w1 @ z + b1) + b2)


@wrong("gate of the first sample for all", "torch", SESpec(32, reduction=4))
def reshape_that_forgets_the_batch(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(w1), nn.ReLU(), linear(w2), nn.Sigmoid())
    return x * net(x)[:1].view(-1, x.shape[1], 1, 1)


@wrong("channels_last read as channels_first", "torch", SESpec(16, hidden=4, bias=True), raw=True)
def without_a_permute(x, parameters):
    import torch
    from torch import nn

    w1, b1, w2, b2 = (torch.tensor(one) for one in in_order(x, parameters))
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.Sigmoid())
    image = torch.tensor(wide(x))
    with torch.no_grad():
        return (image * net(image)[:, :, None, None]).numpy().astype(x.dtype)


@wrong("one tile of 8 x 8 only", "jax", SESpec(24, hidden=6, bias=True))
def first_tile(x, w1, b1, w2, b2, tile=8):
    from jax import nn

    z = x[:, :tile, :tile].mean((1, 2))
    return x * nn.sigmoid(nn.relu(z @ w1.T + b1) @ w2.T + b2)[:, None, None]


@wrong("root mean square instead of mean", "jax", SESpec(24, hidden=6, bias=True))
def global_l2_pool(x, w1, b1, w2, b2):
    import jax.numpy as jnp
    from jax import nn

    z = jnp.sqrt(jnp.mean(jnp.square(x), axis=(1, 2)))
    return x * nn.sigmoid(nn.relu(z @ w1.T + b1) @ w2.T + b2)[:, None, None]


@wrong("mean of relu(x)", "keras", SESpec(24, hidden=6, bias=True))
def squeeze_of_the_activated_map(x, w1, b1, w2, b2):
    from keras import layers

    s = layers.GlobalAveragePooling2D(dtype=x.dtype)(layers.ReLU(dtype=x.dtype)(x))
    s = dense(w2, b2, "sigmoid")(dense(w1, b1, "relu")(s))
    return x * s[:, None, None, :]


# Weights


@wrong("reduce.weight transposed", "torch", SESpec(16, hidden=16, bias=True))
def kernel_loaded_as_it_is(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1.T.contiguous(), b1), nn.ReLU(), linear(w2, b2), nn.Sigmoid())
    return x * net(x.mean((2, 3)))[:, :, None, None]


@wrong("expand.weight transposed", "jax", SESpec(16, single_projection=True, bias=True, gate="hard_sigmoid"))
def effective_se_without_a_transpose(x, w1, b1, w2, b2):
    from jax import nn

    z = x.mean((1, 2), keepdims=True)
    return x * nn.hard_sigmoid(z @ w2 + b2)


@wrong("both weights transposed", "keras", SESpec(16, hidden=16, bias=True))
def set_weights_from_torch(x, w1, b1, w2, b2):
    from keras import layers

    first = layers.Dense(len(b1), activation="relu", dtype=x.dtype)
    second = layers.Dense(len(b2), activation="sigmoid", dtype=x.dtype)
    for layer, weight, bias in ((first, w1, b1), (second, w2, b2)):
        layer.build((None, weight.shape[1]))
        layer.set_weights([weight, bias])
    s = layers.GlobalAveragePooling2D(keepdims=True, dtype=x.dtype)(x)
    return x * second(first(s))


@wrong("reduce.weight reshaped instead of transposed", "jax", SESpec(24, hidden=6, bias=True))
def kernel_by_reshape(x, w1, b1, w2, b2):
    from flax import linen

    kernel = w1.reshape(w1.shape[1], w1.shape[0])
    z = x.mean((1, 2))
    h = linen.relu(linen.Dense(len(b1), param_dtype=x.dtype).apply({"params": {"kernel": kernel, "bias": b1}}, z))
    v = linen.Dense(len(b2), param_dtype=x.dtype).apply({"params": {"kernel": w2.T, "bias": b2}}, h)
    return x * linen.sigmoid(v)[:, None, None, :]


@wrong("expand.weight reshaped instead of transposed", "torch", SESpec(24, hidden=6, bias=True))
def view_of_a_keras_kernel(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    kernel = w2.t().contiguous()  # (R, C), as a Keras file has it
    h = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), w1[:, :, None, None], b1))
    return x * F.conv2d(h, kernel.view(*w2.shape, 1, 1), b2).sigmoid()


@wrong("both weights reshaped instead of transposed", "keras", SESpec(24, hidden=6, bias=True))
def kernels_by_reshape(x, w1, b1, w2, b2):
    from keras import ops

    s = ops.mean(x, axis=(1, 2), keepdims=True)
    s = ops.relu(ops.add(ops.matmul(s, ops.reshape(w1, w1.shape[::-1])), b1))
    return x * ops.sigmoid(ops.add(ops.matmul(s, ops.reshape(w2, w2.shape[::-1])), b2))


@wrong("weights swapped", "numpy", SESpec(16, hidden=16), raw=True)
def weights_in_alphabetical_order(x, parameters):
    first, second = (wide(parameters[name]) for name in sorted(parameters))
    with np.errstate(all="ignore"):
        z = wide(x).mean(axis=(1, 2))
        return (wide(x) * sigmoid(relu(z @ first.T) @ second.T)[:, None, None, :]).astype(x.dtype)


@wrong("weights tied: expand is reduce transposed", "torch", SESpec(24, hidden=6, bias=True))
def autoencoder_weights(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    h = F.relu(F.linear(x.mean((2, 3)), w1, b1))
    return x * F.linear(h, w1.t(), b2).sigmoid()[:, :, None, None]


@wrong("channels of reduce.weight reversed", "numpy", SESpec(24, hidden=6, bias=True))
def bgr_for_rgb(x, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2))[:, ::-1]
    return x * sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)[:, None, None, :]


@wrong("channels of expand.weight shuffled by groups", "torch", SESpec(24, hidden=6))
def channel_shuffle_of_the_gate(x, w1, b1, w2, b2, groups=2):
    from torch.nn import functional as F

    n, c = x.shape[:2]
    g = F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2).sigmoid()
    g = g.view(n, groups, c // groups).transpose(1, 2).reshape(n, c, 1, 1)
    return x * g


@wrong("channels shifted by one", "jax", SESpec(24, hidden=6, bias=True))
def rolled_gate(x, w1, b1, w2, b2):
    import jax.numpy as jnp
    from jax import nn

    g = nn.sigmoid(nn.relu(x.mean((1, 2)) @ w1.T + b1) @ w2.T + b2)
    return x * jnp.roll(g, 1, axis=-1)[:, None, None, :]


@wrong("hidden units of one weight permuted", "numpy", SESpec(24, hidden=6, bias=True))
def sorted_as_for_pruning(x, w1, b1, w2, b2):
    order = np.argsort(-np.abs(w1).sum(axis=1))
    h = relu(x.mean(axis=(1, 2)) @ w1[order].T + b1[order])
    return x * sigmoid(h @ w2.T + b2)[:, None, None, :]


@wrong("last hidden unit ignored", "jax", SESpec(24, hidden=6, bias=True))
def loop_that_ends_early(x, w1, b1, w2, b2):
    import jax.numpy as jnp
    from jax import lax, nn

    z = x.mean((1, 2))

    def add_unit(r, v):
        return v + nn.relu(z @ w1[r] + b1[r])[:, None] * w2[:, r]

    start = jnp.broadcast_to(b2, (len(x), len(b2)))
    v = lax.fori_loop(0, w1.shape[0] - 1, add_unit, start)
    return x * nn.sigmoid(v)[:, None, None, :]


@wrong("reduce missing", "keras", SESpec(16, hidden=16, bias=True))
def only_the_second_layer(x, w1, b1, w2, b2):
    from keras import ops

    s = ops.mean(x, axis=(1, 2), keepdims=True)
    return x * dense(w2, b2, "sigmoid")(s)


@wrong("weights scaled by 1/sqrt(fan_in)", "torch", SESpec(24, hidden=6, bias=True))
def equalised_learning_rate(x, w1, b1, w2, b2):
    from torch import nn

    class EqualLinear(nn.Module):
        def __init__(self, weight, bias):
            super().__init__()
            self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

        def forward(self, z):
            return nn.functional.linear(z, self.weight * self.weight.shape[1] ** -0.5, self.bias)

    net = nn.Sequential(EqualLinear(w1, b1), nn.ReLU(), EqualLinear(w2, b2), nn.Sigmoid())
    return x * net(x.mean((2, 3)))[:, :, None, None]


# Scale


@wrong("gate broadcast along the width", "keras", SESpec(32, reduction=8))
def tutorial_without_a_reshape(x, w1, b1, w2, b2):
    from keras import layers

    s = layers.GlobalAveragePooling2D(dtype=x.dtype)(x)
    s = dense(w1, activation="relu")(s)
    s = dense(w2, activation="sigmoid")(s)
    return x * s


@wrong("gate broadcast along axis 1", "jax", SESpec(24, hidden=6, bias=True))
def channels_first_habit(x, w1, b1, w2, b2):
    from jax import nn

    g = nn.sigmoid(nn.relu(x.mean((1, 2)) @ w1.T + b1) @ w2.T + b2)
    return x * g[:, :, None, None]


@wrong("gate added instead of multiplied", "keras", SESpec(24, hidden=6, bias=True))
def add_for_multiply(x, w1, b1, w2, b2):
    from keras import layers, ops

    s = ops.mean(x, axis=(1, 2), keepdims=True)
    s = dense(w2, b2, "sigmoid")(dense(w1, b1, "relu")(s))
    return layers.add([x, ops.broadcast_to(s, ops.shape(x))], dtype=x.dtype)


@wrong("gate applied twice", "torch", SESpec(32, reduction=4))
def block_that_scales_and_a_caller_that_scales(x, w1, b1, w2, b2):
    from torch import nn

    class SE(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(linear(w1), nn.ReLU(), linear(w2), nn.Sigmoid())

        def forward(self, x):
            gate = self.net(x.mean((2, 3)))[:, :, None, None]
            return x * gate, gate

    out, gate = SE()(x)
    return out * gate


@wrong("squeezed values scaled instead of x", "keras", SESpec(24, hidden=6, bias=True))
def name_used_twice(x, w1, b1, w2, b2):
    from keras import ops

    inputs = x
    x = ops.mean(x, axis=(1, 2), keepdims=True)
    s = dense(w2, b2, "sigmoid")(dense(w1, b1, "relu")(x))
    return ops.broadcast_to(x * s, ops.shape(inputs))


@wrong("gate returned instead of the scaled map", "torch", SESpec(32, reduction=4))
def caller_is_to_multiply(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1), nn.ReLU(), linear(w2), nn.Sigmoid())
    return net(x.mean((2, 3)))[:, :, None, None].expand_as(x)


@wrong("block not applied", "keras", SESpec(24, hidden=6, bias=True))
def layer_made_and_never_called(x, w1, b1, w2, b2):
    from keras import layers

    class Stage(layers.Layer):
        def __init__(self, use_se):
            super().__init__(dtype=x.dtype)
            self.se = [dense(w1, b1, "relu"), dense(w2, b2, "sigmoid")] if use_se else None

        def call(self, inputs):
            if self.se is not None:
                self.se  # noqa: B018 - the mistake
            return inputs

    return Stage(use_se=True)(x)


@wrong("gain missing", "torch", SESpec(32, hidden=16, bias=True, gain=2.0))
def nfnet_without_its_factor(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1, b1), nn.ReLU(inplace=True), linear(w2, b2), nn.Sigmoid())
    return net(x.mean((2, 3)))[:, :, None, None] * x


@wrong("gain applied twice", "jax", SESpec(24, hidden=6, bias=True, gain=2.0))
def gain_of_the_block_and_of_its_caller(x, w1, b1, w2, b2):
    from jax import nn

    def gate(x, gain):
        return gain * nn.sigmoid(nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)

    return 2.0 * x * gate(x, gain=2.0)


@wrong("gain of 2 where there is none", "numpy", SESpec(24, hidden=6, bias=True))
def nfnet_block_in_another_net(x, w1, b1, w2, b2):
    g = sigmoid(relu(x.mean(axis=(1, 2)) @ w1.T + b1) @ w2.T + b2)
    return x * (2 * g)[:, None, None, :]


@wrong("residual missing", "torch", SESpec(24, hidden=6, bias=True, gate="tanh", residual=True))
def monai_without_its_sum(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.Tanh())
    return x * net(x.mean((2, 3)))[:, :, None, None]


@wrong("residual added", "jax", SESpec(24, hidden=6, bias=True))
def shortcut_inside_the_block(x, w1, b1, w2, b2):
    from jax import nn

    g = nn.sigmoid(nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)
    return x + x * g


@wrong("channels beyond 512 not gated", "numpy", SESpec(640, hidden=20))
def buffer_of_512(x, w1, b1, w2, b2):
    g = sigmoid(relu(x.mean(axis=(1, 2)) @ w1.T) @ w2.T)
    gates = np.ones_like(g)
    gates[:, :512] = g[:, :512]
    return x * gates[:, None, None, :]


@wrong("channels beyond 32 not gated", "jax", SESpec(48, hidden=12, bias=True))
def one_warp(x, w1, b1, w2, b2):
    from jax import nn

    g = nn.sigmoid(nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)
    return x.at[..., :32].multiply(g[..., :32])


@wrong("last channel not gated", "numpy", SESpec(24, hidden=6, bias=True))
def loop_over_channels_ends_early(x, w1, b1, w2, b2):
    g = sigmoid(relu(x.mean(axis=(1, 2)) @ w1.T + b1) @ w2.T + b2)
    y = x.copy()
    for c in range(x.shape[-1] - 1):
        y[..., c] *= g[:, None, None, c]
    return y


@wrong("last sample not scaled", "numpy", SESpec(24, hidden=6, bias=True))
def loop_over_samples_ends_early(x, w1, b1, w2, b2):
    y = x.copy()
    for n in range(len(x) - 1):
        z = x[n].mean(axis=(0, 1))
        y[n] *= sigmoid(w2 @ relu(w1 @ z + b1) + b2)
    return y


@wrong("last row and column not scaled on odd sizes", "jax", SESpec(24, hidden=6, bias=True))
def vectors_of_two(x, w1, b1, w2, b2):
    from jax import nn

    g = nn.sigmoid(nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)
    rows, columns = (size // 2 * 2 for size in x.shape[1:3])
    return x.at[:, :rows, :columns].multiply(g)


# Precision


@wrong("squeeze accumulated in float16", "numpy", SESpec(24, hidden=6, bias=True), dtype="float16", raw=True)
def sum_in_half(x, parameters):
    w1, b1, w2, b2 = in_order(x, parameters)
    positions = x.shape[1] * x.shape[2]
    with np.errstate(all="ignore"):
        z = wide(x.reshape(x.shape[0], positions, x.shape[-1]).sum(axis=1, dtype=x.dtype) / x.dtype.type(positions))
        g = sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)
        return (wide(x) * g[:, None, None, :]).astype(x.dtype)


@wrong("squeeze accumulated in bfloat16", "jax", SESpec(24, hidden=6, bias=True), dtype="bfloat16", raw=True)
def flax_average_pool(x, parameters):
    import jax.numpy as jnp
    from flax import linen

    w1, b1, w2, b2 = in_order(x, parameters)
    z = linen.avg_pool(jnp.asarray(x), x.shape[1:3]).astype(jnp.float32)
    v = jnp.matmul(z, w1.T, precision="highest") + b1
    g = linen.sigmoid(jnp.matmul(linen.relu(v), w2.T, precision="highest") + b2)
    with np.errstate(all="ignore"):
        return np.asarray(wide(x) * np.asarray(g)).astype(x.dtype)


@wrong("feature map rounded to bfloat16", "jax", SESpec(24, hidden=6, bias=True))
def map_kept_in_half(x, w1, b1, w2, b2):
    import jax.numpy as jnp
    from jax import nn

    x = x.astype(jnp.bfloat16).astype(x.dtype)
    return x * nn.sigmoid(nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)


@wrong("squeezed values rounded to float16", "torch", SESpec(24, hidden=6, bias=True))
def pool_in_half(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    z = x.mean((2, 3)).half().to(x.dtype)
    return x * F.linear(F.relu(F.linear(z, w1, b1)), w2, b2).sigmoid()[:, :, None, None]


@wrong("weights rounded to bfloat16", "torch", SESpec(24, hidden=6, bias=True))
def checkpoint_in_half(x, w1, b1, w2, b2):
    from torch import nn

    net = nn.Sequential(linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.Sigmoid()).bfloat16().to(x.dtype)
    return x * net(x.mean((2, 3)))[:, :, None, None]


@wrong("products in TF32", "jax", SESpec(24, hidden=6, bias=True))
def tensor_cores(x, w1, b1, w2, b2):
    from jax import lax, nn

    def product(a, b):
        return lax.reduce_precision(a, 8, 10) @ lax.reduce_precision(b, 8, 10)

    h = nn.relu(product(x.mean((1, 2)), w1.T) + b1)
    return x * nn.sigmoid(product(h, w2.T) + b2)[:, None, None, :]


@wrong("products in TF32", "numpy", SESpec(32, hidden=8, bias=True), raw=True)
def tensor_cores_that_cut_off(x, parameters):
    def cut(array):
        bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)

    w1, b1, w2, b2 = in_order(x, parameters)
    with np.errstate(all="ignore"):
        h = relu(cut(wide(x).mean(axis=(1, 2))) @ cut(w1).T + b1)
        g = sigmoid(cut(h) @ cut(w2).T + b2)
        return (wide(x) * g[:, None, None, :]).astype(x.dtype)


@wrong("products in bfloat16", "torch", SESpec(24, hidden=6, bias=True))
def half_operands(x, w1, b1, w2, b2):
    import torch

    def product(z, weight, bias):
        return z.bfloat16().to(x.dtype) @ weight.bfloat16().to(x.dtype).t() + bias

    h = torch.relu(product(x.mean((2, 3)), w1, b1))
    return x * product(h, w2, b2).sigmoid()[:, :, None, None]


@wrong("gate rounded to bfloat16", "keras", SESpec(24, hidden=6, bias=True))
def gate_in_the_compute_type_of_the_net(x, w1, b1, w2, b2):
    from keras import ops

    s = ops.mean(x, axis=(1, 2), keepdims=True)
    s = dense(w2, b2, "sigmoid")(dense(w1, b1, "relu")(s))
    return x * ops.cast(ops.cast(s, "bfloat16"), x.dtype)


@wrong("gate quantised to 8 bits", "numpy", SESpec(24, hidden=6, bias=True))
def gate_of_an_integer_net(x, w1, b1, w2, b2):
    g = sigmoid(relu(x.mean(axis=(1, 2)) @ w1.T + b1) @ w2.T + b2)
    return x * (np.rint(g * 255) / 255)[:, None, None, :]


@wrong("output rounded to bfloat16", "torch", SESpec(24, hidden=6, bias=True))
def result_stored_in_half(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    y = x * F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2).sigmoid()[:, :, None, None]
    return y.bfloat16().to(x.dtype)


@wrong("computed in bfloat16", "jax", SESpec(24, hidden=6, bias=True))
def flax_with_dtype_bfloat16(x, w1, b1, w2, b2):
    import jax.numpy as jnp
    from flax import linen

    class SE(linen.Module):
        dtype: Any = jnp.bfloat16

        @linen.compact
        def __call__(self, x):
            x = x.astype(self.dtype)
            z = x.mean((1, 2), keepdims=True)
            z = linen.relu(linen.Dense(len(b1), dtype=self.dtype, name="reduce")(z))
            return x * linen.sigmoid(linen.Dense(len(b2), dtype=self.dtype, name="expand")(z))

    reduce, expand = {"kernel": w1.T, "bias": b1}, {"kernel": w2.T, "bias": b2}
    return SE().apply({"params": {"reduce": reduce, "expand": expand}}, x).astype(x.dtype)


@wrong("float64 computed in float32", "jax", SESpec(24, hidden=6, bias=True), dtype="float64", raw=True)
def jax_without_x64(x, parameters):
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(False), jax.default_matmul_precision("highest"):
        w1, b1, w2, b2 = (jnp.asarray(one) for one in in_order(x, parameters))
        image = jnp.asarray(wide(x))
        g = jax.nn.sigmoid(jax.nn.relu(image.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)
        y = np.asarray(image * g)
    with np.errstate(all="ignore"):
        return y.astype(x.dtype)


@wrong("float64 computed in float32", "keras", SESpec(24, hidden=6, bias=True), dtype="float64")
def layers_of_the_default_type(x, w1, b1, w2, b2):
    from keras import layers, ops

    reduce = layers.Conv2D(len(b1), 1, activation="relu", dtype="float32")
    expand = layers.Conv2D(len(b2), 1, activation="sigmoid", dtype="float32")
    for layer, weight, bias in ((reduce, w1, b1), (expand, w2, b2)):
        layer.build((None, 1, 1, weight.shape[1]))
        layer.set_weights([weight.T[None, None], bias])
    s = layers.GlobalAveragePooling2D(keepdims=True, dtype="float32")(x)
    s = expand(reduce(s))
    return ops.cast(layers.Multiply(dtype="float32")([x, s]), x.dtype)


# Calls


@wrong("x modified", "numpy", SESpec(24, hidden=6, bias=True), raw=True)
def scaled_in_place(x, parameters):
    w1, b1, w2, b2 = in_order(x, parameters)
    with np.errstate(all="ignore"):
        g = sigmoid(relu(wide(x).mean(axis=(1, 2)) @ w1.T + b1) @ w2.T + b2)
        x[...] = wide(x) * g[:, None, None, :]
    return x


@wrong("parameters modified", "numpy", SESpec(24, hidden=6, bias=True), raw=True)
def division_folded_into_the_weight(x, parameters):
    parameters["reduce.weight"] /= x.shape[1] * x.shape[2]  # once would do
    w1, b1, w2, b2 = in_order(x, parameters)
    with np.errstate(all="ignore"):
        g = sigmoid(relu(wide(x).sum(axis=(1, 2)) @ w1.T + b1) @ w2.T + b2)
        return (wide(x) * g[:, None, None, :]).astype(x.dtype)


@wrong("one sample loses its batch axis", "torch", SESpec(24, hidden=6, bias=True), raw=True)
def squeeze_of_the_first_axis(x, parameters):
    import torch
    from torch import nn

    w1, b1, w2, b2 = (torch.tensor(one) for one in in_order(x, parameters))
    net = nn.Sequential(linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.Sigmoid())
    image = torch.tensor(wide(x)).permute(0, 3, 1, 2)
    with torch.no_grad():
        y = image * net(image.mean((2, 3)))[:, :, None, None]
    return y.permute(0, 2, 3, 1).squeeze(0).numpy().astype(x.dtype)


@wrong("axes of length 1 dropped", "jax", SESpec(24, hidden=6, bias=True))
def squeeze_of_all_axes(x, w1, b1, w2, b2):
    from jax import nn

    g = nn.sigmoid(nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)
    return (x * g).squeeze()


@wrong("output in the other data format", "torch", SESpec(24, hidden=6, bias=True), raw=True)
def not_permuted_back(x, parameters):
    import torch
    from torch.nn import functional as F

    w1, b1, w2, b2 = (torch.tensor(one) for one in in_order(x, parameters))
    image = torch.tensor(wide(x)).permute(0, 3, 1, 2)
    g = F.linear(F.relu(F.linear(image.mean((2, 3)), w1, b1)), w2, b2).sigmoid()
    return (image * g[:, :, None, None]).numpy().astype(x.dtype)


@wrong("output of another type", "numpy", SESpec(24, hidden=6, bias=True), dtype="float16", raw=True)
def promoted_by_the_gate(x, parameters):
    w1, b1, w2, b2 = in_order(x, parameters)
    with np.errstate(all="ignore"):
        z = wide(x).mean(axis=(1, 2))
        return x * sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)[:, None, None, :]


@wrong("float64 returned as float32", "jax", SESpec(24, hidden=6, bias=True), dtype="float64", raw=True)
def jax_without_x64_and_without_a_cast(x, parameters):
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(False), jax.default_matmul_precision("highest"):
        w1, b1, w2, b2 = (jnp.asarray(one) for one in in_order(x, parameters))
        image = jnp.asarray(x)
        z = image.astype(jnp.float32).mean((1, 2), keepdims=True)
        g = jax.nn.sigmoid(jax.nn.relu(z @ w1.T + b1) @ w2.T + b2)
        return np.asarray((image * g).astype(image.dtype))


@wrong("empty batch refused", "numpy", SESpec(24, hidden=6, bias=True))
def stack_of_samples(x, w1, b1, w2, b2):
    def one(sample):
        return sample * sigmoid(w2 @ relu(w1 @ sample.mean(axis=(0, 1)) + b1) + b2)

    return np.stack([one(sample) for sample in x])


@wrong("several samples refused", "jax", SESpec(24, hidden=6, bias=True))
def reshape_for_one_sample(x, w1, b1, w2, b2):
    from jax import nn

    g = nn.sigmoid(nn.relu(x.mean((1, 2)) @ w1.T + b1) @ w2.T + b2)
    return x * g.reshape(1, 1, 1, x.shape[-1])


@wrong("maps that are not square refused", "keras", SESpec(24, hidden=6, bias=True))
def one_side_for_both(x, w1, b1, w2, b2):
    from keras import ops

    n, side, _, c = x.shape
    s = ops.mean(ops.reshape(x, (n, side * side, c)), axis=1)
    s = dense(w2, b2, "sigmoid")(dense(w1, b1, "relu")(s))
    return x * ops.reshape(s, (n, 1, 1, c))


def first_size_baked_in() -> Callable:
    built: dict = {}

    def block(x, w1, b1, w2, b2):
        from keras import Model, layers

        if x.dtype not in built:
            inputs = layers.Input(x.shape[1:], dtype=x.dtype)
            pool = layers.AveragePooling2D(x.shape[1:3], dtype=x.dtype)
            built[x.dtype] = Model(inputs, layers.Flatten(dtype=x.dtype)(pool(inputs)))
        z = built[x.dtype](x)
        return x * dense(w2, b2, "sigmoid")(dense(w1, b1, "relu")(z))[:, None, None, :]

    return block


wrong("first size baked in", "keras", SESpec(24, hidden=6, bias=True))(first_size_baked_in())


def remembered_by_shape() -> Callable:
    squeezed: dict = {}

    def block(x, w1, b1, w2, b2):
        z = squeezed.setdefault((x.shape, x.dtype), x.mean(axis=(1, 2)))
        return x * sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)[:, None, None, :]

    return block


wrong("squeezed values of the first call kept", "numpy", SESpec(24, hidden=6, bias=True))(remembered_by_shape())


def smoothed_over_calls() -> Callable:
    last: dict = {}

    def block(x, w1, b1, w2, b2):
        z = x.mean((2, 3))
        if z.shape in last:
            z = 0.9 * last[z.shape].to(z.dtype) + 0.1 * z
        last[z.shape] = z
        return x * (linear(w2, b2)(linear(w1, b1)(z).relu())).sigmoid()[:, :, None, None]

    return block


wrong("running average over calls", "torch", SESpec(24, hidden=6, bias=True))(smoothed_over_calls())


@wrong("not deterministic", "torch", SESpec(24, hidden=6, bias=True))
def dropout_that_eval_does_not_reach(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    h = F.dropout(F.relu(F.linear(x.mean((2, 3)), w1, b1)), 0.5)
    return x * F.linear(h, w2, b2).sigmoid()[:, :, None, None]


@wrong("NaN taken as 0", "jax", SESpec(24, hidden=6, bias=True))
def missing_values_filled(x, w1, b1, w2, b2):
    import jax.numpy as jnp
    from jax import nn

    x = jnp.where(jnp.isnan(x), 0, x)
    return x * nn.sigmoid(nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)


@wrong("maximum drops NaN", "numpy", SESpec(24, hidden=6, bias=True, squeeze="max"))
def maximum_by_comparison(x, w1, b1, w2, b2):
    z = np.full_like(x[:, 0, 0], -np.inf)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            z = np.where(x[:, row, column] > z, x[:, row, column], z)
    return x * sigmoid(relu(z @ w1.T + b1) @ w2.T + b2)[:, None, None, :]


@wrong("inf clipped to 65504", "torch", SESpec(24, hidden=6, bias=True))
def clamped_for_half(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    limit = torch.finfo(torch.float16).max
    x = torch.clamp(x, -limit, limit)
    return x * F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2).sigmoid()[:, :, None, None]


# Gradients


@wrong_gradient("gradient: gate detached", "torch", SESpec(24, hidden=6, bias=True))
def squeeze_of_a_detached_map(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    z = x.detach().mean((2, 3))
    return x * F.linear(F.relu(F.linear(z, w1, b1)), w2, b2).sigmoid()[:, :, None, None]


@wrong_gradient("gradient: gate detached", "jax", SESpec(24, hidden=6, bias=True))
def gate_behind_stop_gradient(x, w1, b1, w2, b2):
    from jax import lax, nn

    g = nn.sigmoid(nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2)
    return x * lax.stop_gradient(g)


@wrong_gradient("gradient: direct path missing", "torch", SESpec(24, hidden=6, bias=True))
def fused_backward_of_the_gate_only(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, gate):
            ctx.save_for_backward(x)
            return x * gate

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return None, (dy * x).sum((2, 3), keepdim=True)

    g = F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2).sigmoid()
    return Scale.apply(x, g[:, :, None, None])


@wrong_gradient("gradient: gate's derivative is 1", "torch", SESpec(24, hidden=6, bias=True))
def straight_through_gate(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    class StraightThrough(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            return v.sigmoid()

        @staticmethod
        def backward(ctx, dg):
            return dg

    v = F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2)
    return x * StraightThrough.apply(v)[:, :, None, None]


@wrong_gradient("gradient: hard_sigmoid not cut off", "torch", SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"))
def hard_sigmoid_with_a_constant_slope(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    class HardSigmoidFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            return F.relu6(v + 3) / 6

        @staticmethod
        def backward(ctx, dg):
            return dg / 6

    v = F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2)
    return x * HardSigmoidFunction.apply(v)[:, :, None, None]


@wrong_gradient(
    "gradient: sigmoid's derivative for the hard sigmoid",
    "numpy",
    SESpec(24, hidden=6, bias=True, gate="hard_sigmoid"),
)
def hard_gate_soft_derivative(x, dy, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2))
    u = z @ w1.T + b1
    h = relu(u)
    g = np.clip((h @ w2.T + b2) / 6 + 0.5, 0, 1)
    dg = (dy * x).sum(axis=(1, 2))
    dv = dg * g * (1 - g)
    du = (dv @ w2) * (u > 0)
    dz = (du @ w1) / (x.shape[1] * x.shape[2])
    dx = dy * g[:, None, None, :] + dz[:, None, None, :]
    return dx, du.T @ z, du.sum(axis=0), dv.T @ h, dv.sum(axis=0)


@wrong_gradient("gradient: activation's derivative is 1", "numpy", SESpec(24, hidden=6, bias=True))
def relu_mask_forgotten(x, dy, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2))
    h = relu(z @ w1.T + b1)
    g = sigmoid(h @ w2.T + b2)
    dv = (dy * x).sum(axis=(1, 2)) * g * (1 - g)
    dh = dv @ w2
    dz = dh @ w1 / (x.shape[1] * x.shape[2])
    dx = dy * g[:, None, None, :] + dz[:, None, None, :]
    return dx, dh.T @ z, dh.sum(axis=0), dv.T @ h, dv.sum(axis=0)


@wrong_gradient("gradient: first sample only", "numpy", SESpec(24, hidden=6, bias=True))
def parameters_learn_from_the_first_sample(x, dy, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2))
    u = z @ w1.T + b1
    h = relu(u)
    g = sigmoid(h @ w2.T + b2)
    dv = np.einsum("nhwc,nhwc->nc", dy, x) * g * (1 - g)
    du = np.where(u > 0, dv @ w2, 0)
    dz = du @ w1 / (x.shape[1] * x.shape[2])
    dx = dy * g[:, None, None, :] + dz[:, None, None, :]
    return dx, du[:1].T @ z[:1], du[:1].sum(axis=0), dv[:1].T @ h[:1], dv[:1].sum(axis=0)


@wrong_gradient("gradient: not divided by the positions", "numpy", SESpec(24, hidden=6, bias=True))
def mean_without_its_divisor(x, dy, w1, b1, w2, b2):
    z = x.mean(axis=(1, 2))
    u = z @ w1.T + b1
    h = relu(u)
    g = sigmoid(h @ w2.T + b2)
    dv = (dy * x).sum(axis=(1, 2)) * g * (1 - g)
    du = (dv @ w2) * (u > 0)
    dx = dy * g[:, None, None, :] + (du @ w1)[:, None, None, :]
    return dx, du.T @ z, du.sum(axis=0), dv.T @ h, dv.sum(axis=0)


@wrong_gradient("gradient: parameters' averaged over the batch", "jax", SESpec(24, hidden=6, bias=True))
def projection_that_averages(x, w1, b1, w2, b2):
    import jax

    @jax.custom_vjp
    def project(z, weight, bias):
        return z @ weight.T + bias

    def forward(z, weight, bias):
        return project(z, weight, bias), (z, weight)

    def backward(saved, dv):
        z, weight = saved
        samples = max(len(dv), 1)
        return dv @ weight, dv.T @ z / samples, dv.sum(0) / samples

    project.defvjp(forward, backward)
    g = jax.nn.sigmoid(project(jax.nn.relu(project(x.mean((1, 2)), w1, b1)), w2, b2))
    return x * g[:, None, None, :]


@wrong_gradient("gradient: biases' is zero", "torch", SESpec(24, hidden=6, bias=True))
def biases_as_buffers(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    h = F.relu(F.linear(x.mean((2, 3)), w1, b1.detach()))
    return x * F.linear(h, w2, b2.detach()).sigmoid()[:, :, None, None]


@wrong_gradient("gradient: reduce.weight's is zero", "jax", SESpec(24, hidden=6, bias=True))
def frozen_reduction(x, w1, b1, w2, b2):
    from jax import lax, nn

    h = nn.relu(x.mean((1, 2)) @ lax.stop_gradient(w1).T + b1)
    return x * nn.sigmoid(h @ w2.T + b2)[:, None, None, :]


@wrong_gradient("gradient: gain missing", "jax", SESpec(24, hidden=6, bias=True, gain=2.0))
def gain_in_the_forward_pass_only(x, w1, b1, w2, b2):
    import jax

    @jax.custom_vjp
    def scale(x, gate):
        return x * (2.0 * gate)

    def forward(x, gate):
        return scale(x, gate), (x, gate)

    def backward(saved, dy):
        x, gate = saved
        return dy * gate, (dy * x).sum((1, 2), keepdims=True)

    scale.defvjp(forward, backward)
    return scale(x, jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2), keepdims=True) @ w1.T + b1) @ w2.T + b2))


@wrong_gradient("gradient: residual missing", "torch", SESpec(24, hidden=6, bias=True, gate="tanh", residual=True))
def shortcut_detached(x, w1, b1, w2, b2):
    import torch
    from torch.nn import functional as F

    g = torch.tanh(F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2))
    return x * g[:, :, None, None] + x.detach()


@wrong_gradient("gradient: maximum's spread over all positions", "jax", SESpec(24, hidden=6, bias=True, squeeze="max"))
def maximum_with_the_derivative_of_a_mean(x, w1, b1, w2, b2):
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def pool(x):
        return x.max((1, 2), keepdims=True)

    def forward(x):
        return pool(x), x

    def backward(x, dz):
        return (jnp.broadcast_to(dz / (x.shape[1] * x.shape[2]), x.shape),)

    pool.defvjp(forward, backward)
    return x * jax.nn.sigmoid(jax.nn.relu(pool(x) @ w1.T + b1) @ w2.T + b2)


def vjp_by_two_backward_calls(x, dy, parameters):
    import torch

    arrays = [np.moveaxis(wide(x), -1, 1), *in_order(x, parameters)]
    leaves = [torch.tensor(one, requires_grad=True) for one in arrays]
    y = plain_torch_block(*leaves)
    upstream = torch.tensor(np.moveaxis(wide(dy), -1, 1))
    y.backward(upstream, retain_graph=True)
    y.backward(upstream)
    dx, *gradients = [leaf.grad.numpy() for leaf in leaves]
    return np.moveaxis(dx, 1, -1).astype(x.dtype), by_name(gradients, parameters)


def vjp_of_the_sum(x, dy, parameters):
    import torch

    arrays = [np.moveaxis(wide(x), -1, 1), *in_order(x, parameters)]
    leaves = [torch.tensor(one, requires_grad=True) for one in arrays]
    plain_torch_block(*leaves).sum().backward()
    dx, *gradients = [leaf.grad.numpy() for leaf in leaves]
    return np.moveaxis(dx, 1, -1).astype(x.dtype), by_name(gradients, parameters)


def plain_torch_block(x, w1, b1, w2, b2):
    from torch.nn import functional as F

    g = F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2).sigmoid()
    return x * g[:, :, None, None]


WRONG = (
    *_found,
    Wrong(
        "gradient: twice as large",
        "torch",
        SESpec(24, hidden=6, bias=True),
        torch_forward(plain_torch_block),
        vjp_by_two_backward_calls,
    ),
    Wrong(
        "gradient: dy ignored",
        "torch",
        SESpec(24, hidden=6, bias=True),
        torch_forward(plain_torch_block),
        vjp_of_the_sum,
    ),
)
