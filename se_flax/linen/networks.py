"""A network as a Flax linen module, channels last: the flat list of layers, each a module at its path.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507; docs/SPEC.md
M-1 to M-11. Layers that Flax does not have are written out: maxima that keep NaN, batch norm with statistics in the
parameters' dtype, poolings and batch norm that widen half precision.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import dtypes
from flax.traverse_util import unflatten_dict
from jax.typing import DTypeLike

import se_spec
from se_spec import NetworkSpec, network
from se_spec.networks import last_uses
from se_spec.networks import layers as kinds

from .. import ops
from ..parameters import check_dtype_supported
from .block import SqueezeExcitation


class SENet(nn.Module):
    """A network that maps images to logits.

    Args:
        spec: which network, or its name.
        dtype: dtype of the computation and the logits; None is the dtype of x.
        param_dtype: dtype of the parameters and running statistics.

    Input shape: (N, H, W, ``spec.channels``), any float dtype.
    Output shape: (N, ``spec.num_classes``).

    Every layer is a submodule, and its variables are nested by its canonical path (SPEC M-5). New parameters are those
    of SPEC M-10. A call uses the running statistics and no dropout. With ``train=True`` a batch is normalised by its
    own statistics, ``mutable=["batch_stats"]`` returns the updated running statistics, and dropout draws from the key
    ``dropout``.

    Raises:
        InputError: x is not a JAX or NumPy array of floats, or float64 without ``jax_enable_x64``.
        ShapeError: wrong rank, wrong channel count, or an image that is too small for the strides.

    >>> from se_spec import network
    >>> model, x = SENet(network("se_resnet20")), jnp.ones((2, 32, 32, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)  # shapes; jax.jit(model.init) draws them
    >>> jax.eval_shape(model.apply, variables, x).shape
    (2, 10)
    >>> variables["params"]["stage2"]["block0"]["shortcut"]["conv"]["kernel"].shape
    (1, 1, 16, 32)
    """

    spec: NetworkSpec
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        self.spec = network(self.spec)
        super().__post_init__()

    def setup(self) -> None:
        tree = unflatten_dict({tuple(layer.name.split(".")): layer for layer in self.spec.layers})
        _place(self, tree, check_dtype_supported(self.param_dtype))

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = _check(x, self.spec, self.dtype)
        maps, freed_after = {kinds.INPUT: x}, last_uses(self.spec.layers)
        modes = {kinds.BatchNorm: {"use_running_average": not train}, kinds.Dropout: {"deterministic": not train}}
        for layer in self.spec.layers:
            module = reduce(getattr, layer.name.split("."), self)
            inputs = [maps[name] for name in layer.inputs]
            ops.check_meeting(layer, inputs)
            y = module(*inputs, **modes.get(type(layer), {}))
            maps[layer.name] = x = ops.settle_size(y, inputs[0], layer)
            for name in freed_after.get(layer.name, ()):
                del maps[name]
        return x


def _check(x: Any, net: NetworkSpec, dtype: DTypeLike | None) -> jax.Array:
    if not isinstance(x, (jax.Array, np.ndarray)):
        raise se_spec.inputs.foreign_array_error(x, "jax.Array or numpy.ndarray", "convert it with jax.numpy.asarray")
    se_spec.inputs.check(x.shape, x.dtype, net, "channels_last")
    ops.check_size(net.layers, (x.shape[1], x.shape[2]))  # M-9
    return jnp.asarray(x, check_dtype_supported(dtype or x.dtype))


class Group(nn.Module):
    """Layers with one prefix of their paths; linen nests variables as modules are nested."""

    tree: Mapping[str, Any]
    param_dtype: DTypeLike

    def setup(self) -> None:
        _place(self, self.tree, self.param_dtype)


def _place(module: nn.Module, tree: Mapping[str, Any], param_dtype: DTypeLike) -> None:
    """Make layers, and groups of layers, submodules by their names."""
    for name, value in tree.items():
        make = Group if isinstance(value, Mapping) else _make_layer
        setattr(module, name, make(value, param_dtype))


def _make_layer(layer: kinds.Layer, param_dtype: DTypeLike) -> nn.Module:
    match layer:
        case kinds.Convolution():
            return _make_convolution(layer, param_dtype)
        case kinds.BatchNorm():
            return _make_batch_norm(layer, param_dtype)
        case kinds.ReLU():
            return ReLU()
        case kinds.Pooling():
            return Pooling(layer)
        case kinds.SqueezeExcitation():
            return SqueezeExcitation(layer.spec, param_dtype=param_dtype)
        case kinds.Addition():
            return Addition()
        case kinds.Concatenation():
            return Concatenation()
        case kinds.ZeroChannels():
            return ZeroChannels(layer)
        case kinds.GlobalPooling():
            return GlobalPooling()
        case kinds.Dropout():
            return nn.Dropout(layer.rate)
        case kinds.Dense():
            return _make_dense(layer, param_dtype)
    raise AssertionError(layer)


def _cast_parameters(*arrays: Any, **_: Any) -> list[Any]:
    """Cast a layer's parameters to the dtype of x, where Flax would promote x too."""
    return dtypes.promote_dtype(*arrays, dtype=arrays[0].dtype)


def _make_convolution(layer: kinds.Convolution, param_dtype: DTypeLike) -> nn.Conv:
    """Make ``nn.Conv`` in x's dtype and never in TF32; Flax's SAME is TensorFlow's (M-2)."""
    fan_in = layer.kernel**2 * layer.in_channels // layer.groups
    return nn.Conv(
        layer.out_channels,
        (layer.kernel, layer.kernel),
        layer.stride,
        padding=ops.to_flax_padding(layer.padding),
        feature_group_count=layer.groups,
        use_bias=layer.bias,
        promote_dtype=_cast_parameters,
        precision=jax.lax.Precision.HIGHEST,
        kernel_init=nn.initializers.variance_scaling(2.0 * layer.groups, "fan_out", "normal"),  # M-10
        bias_init=ops.uniform(fan_in),
        param_dtype=param_dtype,
    )


def _make_batch_norm(layer: kinds.BatchNorm, param_dtype: DTypeLike) -> "BatchNorm":
    return BatchNorm(
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        use_scale=layer.scale,
        use_fast_variance=False,  # it cancels digits where the mean is large
        force_float32_reductions=False,  # it would keep the statistics in float32
        param_dtype=param_dtype,
    )


class BatchNorm(nn.BatchNorm):
    """``nn.BatchNorm`` with statistics that keep the parameters' dtype in training; half precision is widened.

    Flax's momentum is the share of the old statistic; its running variance divides by n, torch's by n - 1.
    """

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        y = super().__call__(ops.widen(x), **options).astype(x.dtype)
        if self.is_mutable_collection("batch_stats"):
            for name in ("mean", "var"):
                value = self.get_variable("batch_stats", name)
                self.put_variable("batch_stats", name, value.astype(self.param_dtype))
        return y


class ReLU(nn.Module):
    """``max(x, 0)``."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(x)


class Pooling(nn.Module):
    """Maxima of windows, which ignore padding, or averages, which count it or not (M-2)."""

    layer: kinds.Pooling

    def __call__(self, x: jax.Array) -> jax.Array:
        layer = self.layer
        if layer.pool == "max":
            return ops.max_pool(x, layer)
        window = ((layer.kernel, layer.kernel), (layer.stride, layer.stride), ops.to_flax_padding(layer.padding))
        y = nn.avg_pool(ops.widen(x), *window, count_include_pad=layer.count_padding)
        return y.astype(x.dtype)


class Addition(nn.Module):
    """The sum of two maps."""

    def __call__(self, branch: jax.Array, shortcut: jax.Array) -> jax.Array:
        return branch + shortcut


class Concatenation(nn.Module):
    """Concatenation of maps along the channels."""

    def __call__(self, *maps: jax.Array) -> jax.Array:
        return jnp.concatenate(maps, -1)


class ZeroChannels(nn.Module):
    """Zero channels added before and after."""

    layer: kinds.ZeroChannels

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.layer.before, self.layer.after)))


class GlobalPooling(nn.Module):
    """The mean over all positions."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean((1, 2))


def _make_dense(layer: kinds.Dense, param_dtype: DTypeLike) -> nn.Dense:
    """Make ``nn.Dense`` in x's dtype and never in TF32."""
    return nn.Dense(
        layer.out_channels,
        use_bias=layer.bias,
        promote_dtype=_cast_parameters,
        precision=jax.lax.Precision.HIGHEST,
        kernel_init=ops.FAN_IN_UNIFORM,  # K-4
        bias_init=ops.uniform(layer.in_channels),
        param_dtype=param_dtype,
    )
