"""A network as a functional Keras model, channels last: the flat list of layers, each a Keras layer at its path.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507; docs/SPEC.md
M-1 to M-11. Layers that Keras does not have on every backend are written out: maxima that ignore padding, averages that
count it, and float64.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

import se_spec
from se_spec import NetworkSpec, network
from se_spec.networks import layers as kinds
from se_spec.networks import output_length, output_sizes, resolve_padding

from .block import Dense, SqueezeExcitation
from .ops import add_nan, full_precision, mean, refuse_foreign, refuse_narrowed, restore_nan, uniform, widen

_LAYOUT = {"data_format": "channels_last"}  # independent of Keras' configuration
_registered = keras.saving.register_keras_serializable("se_keras")


@_registered
class SENet(keras.Model):
    """A network that maps images to logits: a functional model with a ``spec``, which refuses images of other shapes.

    Keras saves and clones it as any functional model, with the layers that a user has changed. A layer's name is its
    path (SPEC M-5) with underscores for dots. New parameters are those of SPEC M-10.

    Args:
        inputs: which network, or its name; or symbolic images, as Keras passes them where it loads or clones a model.
        outputs: the symbolic logits, if ``inputs`` are symbolic images.
        name: name of the model.
        input_shape: (H, W, C) with C = ``spec.channels``, where H and W may be None for any size; by default both are.
        dtype: dtype or policy of every layer; None is Keras' policy.

    Input shape: (N, H, W, C) with C = ``spec.channels``, of any float type that Keras casts to the network's.
    Output shape: (N, ``spec.num_classes``).

    Raises:
        SpecError: on construction, no such network.
        InputError: x is not a tensor of floats of Keras' backend, or the dtype is not one of floats.
        ShapeError: wrong rank, wrong channel count, or an image that is too small for the strides.

    >>> from se_spec import network
    >>> model = SENet(network("se_resnet20"))
    >>> tuple(model(ops.ones((2, 32, 32, 3))).shape)
    (2, 10)
    >>> tuple(model.get_layer("stage2_block0_shortcut_conv").kernel.shape)
    (1, 1, 16, 32)
    >>> [variable.path for variable in model.variables[:3]]
    ['stem_conv1/kernel', 'stem_bn1/gamma', 'stem_bn1/beta']
    """

    _sizes: frozenset[tuple[int | None, ...]] = frozenset()

    def __init__(
        self,
        inputs: Any,
        outputs: Any = None,
        name: str | None = None,
        *,
        input_shape: Sequence[int | None] | None = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        if outputs is None:
            inputs, outputs = _connect(network(inputs), input_shape, keras.dtype_policies.get(dtype))
        super().__init__(inputs, outputs, name=name, **options)

    @property
    def spec(self) -> NetworkSpec:
        """The network's spec."""
        return self.get_layer(kinds.INPUT).spec

    def __call__(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
        refuse_foreign(inputs)
        _check(inputs.shape, keras.backend.standardize_dtype(inputs.dtype), self.spec)
        size = tuple(inputs.shape[1:3])
        if size not in self._sizes:
            _check_size(size, self.spec)
            self._sizes |= {size}
        return super().__call__(inputs, *arguments, **options)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if inputs.shape[0] == 0:  # V-5: with oneDNN, TensorFlow's convolutions give an empty batch the wrong shape
            one = ops.zeros((1, *ops.shape(inputs)[1:]), inputs.dtype)
            return super().call(one, training=False)[:0]
        return super().call(inputs, training=training, mask=mask)


def _connect(net: NetworkSpec, input_shape: Sequence[int | None] | None, policy: Any) -> tuple[Any, Any]:
    """Connect the layers of a network; return its symbolic images and logits."""
    input_shape = (None, None, net.channels) if input_shape is None else tuple(input_shape)
    _check((None, *input_shape), policy.variable_dtype, net)
    _check_size(input_shape[:2], net)
    x = keras.Input(input_shape, dtype=policy.variable_dtype)
    maps = {kinds.INPUT: Images(net, name=kinds.INPUT, dtype=policy)(x)}
    with_bias = {layer.name for layer in net.layers if isinstance(layer, kinds.Convolution) and layer.bias}
    for layer in net.layers:
        inputs = [maps[path] for path in layer.inputs]
        options = {"name": layer_name(layer.name), "dtype": policy}
        if isinstance(layer, kinds.ReLU) and layer.inputs[0] in with_bias:
            y = ReLU(**options)(*inputs)
        else:
            y = _apply_layer(layer, inputs, options)
        maps[layer.name] = y
    return x, y


def layer_name(path: str) -> str:
    """Convert a path to a layer's name, with underscores for dots, which Keras' torch backend refuses.

    >>> layer_name("stage1.block0.conv1")
    'stage1_block0_conv1'
    """
    return path.replace(".", "_")


def _check(shape: Sequence[int | None], dtype: str, net: NetworkSpec) -> None:
    se_spec.inputs.check(shape, dtype, net, "channels_last")


def _check_size(size: tuple[int | None, ...], net: NetworkSpec) -> None:
    height, width = size
    if height is not None and width is not None:
        output_sizes(net.layers, (height, width))  # M-9


def _apply_layer(layer: kinds.Layer, inputs: list[Any], options: dict[str, Any]) -> Any:
    x = inputs[0]
    match layer:
        case kinds.Convolution():
            return _apply_convolution(layer, x, options)
        case kinds.BatchNorm():
            return BatchNorm(momentum=layer.momentum, epsilon=layer.epsilon, scale=layer.scale, **options)(x)
        case kinds.ReLU():
            return keras.layers.ReLU(**options)(x)
        case kinds.Pooling():
            window = (layer.pool, layer.kernel, layer.stride, layer.padding)
            return Pooling(*window, count_padding=layer.count_padding, **options)(x)
        case kinds.SqueezeExcitation():
            return SqueezeExcitation(layer.spec, **options)(x)
        case kinds.Addition():
            return keras.layers.Add(**options)(inputs)
        case kinds.Concatenation():
            return keras.layers.Concatenate(**options)(inputs)
        case kinds.ZeroChannels():
            return ZeroChannels(layer.before, layer.after, **options)(x)
        case kinds.GlobalPooling():
            return GlobalPooling(**_LAYOUT, **options)(x)
        case kinds.Dropout():
            return keras.layers.Dropout(layer.rate, **options)(x)
        case kinds.Dense():
            new = {"kernel_initializer": uniform(layer.in_channels), "bias_initializer": uniform(layer.in_channels)}
            return Dense(layer.out_channels, use_bias=layer.bias, **new, **options)(x)
    raise AssertionError(layer)


def _apply_convolution(layer: kinds.Convolution, x: Any, options: dict[str, Any]) -> Any:
    """Apply Keras' convolution, which pads as SAME or not at all; other padding is a layer before it (M-2)."""
    area = layer.kernel * layer.kernel
    same = layer.padding == "same" or (layer.stride == 1 and sum(layer.padding) == layer.kernel - 1)
    if not same and any(layer.padding):
        pad = {**options, "name": f"{options['name']}_pad"}
        x = keras.layers.ZeroPadding2D((layer.padding, layer.padding), **_LAYOUT, **pad)(x)
    return Conv2D(
        layer.out_channels,
        layer.kernel,
        layer.stride,
        "same" if same else "valid",
        groups=layer.groups,
        use_bias=layer.bias,
        kernel_initializer=keras.initializers.RandomNormal(
            stddev=math.sqrt(2.0 / (area * layer.out_channels // layer.groups))  # M-10
        ),
        bias_initializer=uniform(area * layer.in_channels // layer.groups),
        **_LAYOUT,
        **options,
    )(x)


@_registered
class Images(keras.layers.Layer):
    """The identity, which has the network's spec, so that Keras saves and clones it."""

    def __init__(self, spec: NetworkSpec | dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.spec = NetworkSpec.from_dict(spec) if isinstance(spec, dict) else spec

    def call(self, x: Any) -> Any:
        refuse_narrowed(x, self.compute_dtype)
        return x

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "spec": self.spec.to_dict()}


@_registered
class Conv2D(keras.layers.Conv2D):
    """Keras' convolution without TF32, which it may use on the jax backend."""

    def call(self, x: Any) -> Any:
        with full_precision():
            return super().call(x)


@_registered
class ReLU(keras.layers.ReLU):
    """Keras' ReLU that keeps NaN, which TensorFlow with oneDNN drops after a convolution's bias (N-3)."""

    def call(self, x: Any) -> Any:
        return restore_nan(x, super().call(x))


@_registered
class BatchNorm(keras.layers.BatchNormalization):
    """Batch norm in float64 too, which Keras' own computes in float32 on the jax and torch backends.

    The variance is the mean of squared differences; on the torch backend Keras subtracts two means, which cancels
    digits. The running variance divides by n, torch's by n - 1.
    """

    def call(self, x: Any, training: bool | None = None) -> Any:
        wide = widen(x)
        if training and self.trainable:
            axes = (0, 1, 2)
            of_batch = mean(wide, axes)
            statistics = (of_batch, mean(ops.square(wide - of_batch), axes))
            for running, new in zip((self.moving_mean, self.moving_variance), statistics, strict=True):
                running.assign(ops.cast(running, wide.dtype) * self.momentum + new * (1.0 - self.momentum))
        else:
            statistics = (ops.cast(self.moving_mean, wide.dtype), ops.cast(self.moving_variance, wide.dtype))
        factor = 1.0 / ops.sqrt(statistics[1] + self.epsilon)
        if self.scale:
            factor = factor * ops.cast(self.gamma, wide.dtype)
        return ops.cast((wide - statistics[0]) * factor + ops.cast(self.beta, wide.dtype), self.compute_dtype)


@_registered
class Pooling(keras.layers.Layer):
    """Maxima of windows, which ignore padding, or averages, which count it or not (M-2).

    Keras' own poolings pad as SAME, do not count padding, and on the torch backend repeat the edge instead of zeros.
    """

    def __init__(
        self,
        pool: str,
        kernel: int,
        stride: int,
        padding: kinds.Padding | list[int],
        count_padding: bool,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.pool, self.kernel, self.stride, self.count_padding = pool, kernel, stride, count_padding
        self.padding: kinds.Padding = padding if isinstance(padding, str) else (padding[0], padding[1])

    def call(self, x: Any) -> Any:
        window = (self.kernel, self.stride)
        if self.pool == "max":
            # A mirrored border changes no maximum; a constant of minus infinity would ruin the ranges of int8.
            highest = ops.max_pool(self._pad(x, "symmetric"), *window, **_LAYOUT)
            # TensorFlow drops NaN on a CPU.
            lost = ops.max_pool(self._pad(ops.cast(x != x, x.dtype)), *window, **_LAYOUT) > 0
            return add_nan(highest, lost)
        y = ops.average_pool(self._pad(x), *window, **_LAYOUT)
        if self.count_padding:
            return y
        return y / ops.average_pool(self._pad(ops.ones_like(x[:1, :, :, :1])), *window, **_LAYOUT)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        window = (self.kernel, self.stride, self.padding)
        size = (None if length is None else output_length(length, *window) for length in shape[1:3])
        return (shape[0], *size, shape[3])

    def get_config(self) -> dict[str, Any]:
        own = ("pool", "kernel", "stride", "padding", "count_padding")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    def _pad(self, x: Any, mode: str = "constant") -> Any:
        if self.padding == (0, 0):
            return x
        rows, columns = (
            resolve_padding(length, self.kernel, self.stride, self.padding) for length in ops.shape(x)[1:3]
        )
        return ops.pad(x, ((0, 0), rows, columns, (0, 0)), mode)


@_registered
class ZeroChannels(keras.layers.Layer):
    """Zero channels added before and after."""

    def __init__(self, before: int, after: int, **options: Any) -> None:
        super().__init__(**options)
        self.before, self.after = before, after

    def call(self, x: Any) -> Any:
        return ops.pad(x, ((0, 0), (0, 0), (0, 0), (self.before, self.after)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "before": self.before, "after": self.after}


@_registered
class GlobalPooling(keras.layers.GlobalAveragePooling2D):
    """Global mean in float64 too, which Keras' own computes in float32 on the jax and torch backends."""

    def call(self, x: Any) -> Any:
        return ops.cast(mean(widen(x), (1, 2)), x.dtype)
