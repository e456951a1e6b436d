"""A network as a Flax NNX module, channels last: the flat list of layers, each a module at its path.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507; docs/SPEC.md
M-1 to M-11. Layers that Flax does not have are written out: maxima that keep NaN, batch norm with statistics in the
parameters' dtype, poolings and batch norm that widen half precision.
"""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

import se_spec
from se_spec import NetworkSpec, network
from se_spec.networks import last_uses
from se_spec.networks import layers as kinds

from .. import ops
from ..parameters import check_dtype_supported
from .block import SqueezeExcitation, cast_parameters


class SENet(nnx.Module):
    """A network that maps images to logits.

    Args:
        net: which network, or its name.
        dtype: dtype of the computation and the logits; None is the dtype of x.
        param_dtype: dtype of the parameters and running statistics.
        rngs: the key ``params`` draws the parameters, ``dropout`` the values that dropout sets to zero; None takes a
            seed from NumPy's global generator.

    Input shape: (N, H, W, ``net.channels``), any float dtype.
    Output shape: (N, ``net.num_classes``).

    Every layer is a submodule at its canonical path (SPEC M-5). New parameters are those of SPEC M-10. Like every new
    NNX module it is in training mode; after ``model.eval()`` it uses the running statistics and no dropout.
    ``nnx.view(model, use_running_average=True)`` gives a second view in that mode, with ``deterministic=True`` if the
    network has dropout.

    Raises:
        InputError: x is not a JAX or NumPy array of floats, or float64 without ``jax_enable_x64``.
        ShapeError: wrong rank, wrong channel count, or an image that is too small for the strides.

    >>> from se_spec import network
    >>> model = nnx.eval_shape(lambda: SENet(network("se_resnet20"), rngs=nnx.Rngs(0)))  # shapes; SENet(...) draws them
    >>> model.eval()
    >>> nnx.eval_shape(lambda model: model(jnp.ones((2, 32, 32, 3))), model).shape
    (2, 10)
    >>> model.stage2.block0.shortcut.conv.kernel.shape
    (1, 1, 16, 32)
    """

    def __init__(
        self,
        net: NetworkSpec | str,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.spec = net = network(net)
        rngs = nnx.Rngs(ops.draw_seed()) if rngs is None else rngs
        self.dtype = dtype
        for layer in net.layers:
            _place(
                self, layer.name, _make_layer(layer, {"param_dtype": check_dtype_supported(param_dtype), "rngs": rngs})
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _check(x, self.spec, self.dtype)
        maps, freed_after = {kinds.INPUT: x}, last_uses(self.spec.layers)
        for layer in self.spec.layers:
            module = reduce(getattr, layer.name.split("."), self)
            inputs = [maps[name] for name in layer.inputs]
            ops.check_meeting(layer, inputs)
            maps[layer.name] = x = ops.settle_size(module(*inputs), inputs[0], layer)
            for name in freed_after.get(layer.name, ()):
                del maps[name]
        return x


def _check(x: Any, net: NetworkSpec, dtype: DTypeLike | None) -> jax.Array:
    if not isinstance(x, (jax.Array, np.ndarray)):
        raise se_spec.inputs.foreign_array_error(x, "jax.Array or numpy.ndarray", "convert it with jax.numpy.asarray")
    se_spec.inputs.check(x.shape, x.dtype, net, "channels_last")
    ops.check_size(net.layers, (x.shape[1], x.shape[2]))  # M-9
    return jnp.asarray(x, check_dtype_supported(dtype or x.dtype))


def _place(module: nnx.Module, path: str, layer: nnx.Module) -> None:
    """Make ``layer`` the submodule at a path, and create its parents."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(module, parent):
            setattr(module, parent, nnx.Dict())
        module = getattr(module, parent)
    setattr(module, name, layer)


def _make_layer(layer: kinds.Layer, options: dict[str, Any]) -> nnx.Module:
    match layer:
        case kinds.Convolution():
            return Convolution(layer, **options)
        case kinds.BatchNorm():
            return BatchNorm(layer, **options)
        case kinds.ReLU():
            return ReLU()
        case kinds.Pooling():
            return Pooling(layer)
        case kinds.SqueezeExcitation():
            return SqueezeExcitation(layer.spec, **options)
        case kinds.Addition():
            return Addition()
        case kinds.Concatenation():
            return Concatenation()
        case kinds.ZeroChannels():
            return ZeroChannels(layer)
        case kinds.GlobalPooling():
            return GlobalPooling()
        case kinds.Dropout():
            return nnx.Dropout(layer.rate, rngs=options["rngs"])
        case kinds.Dense():
            return Dense(layer, **options)
    raise AssertionError(layer)


class Convolution(nnx.Conv):
    """``nnx.Conv`` in x's dtype and never in TF32; Flax's SAME is TensorFlow's (M-2)."""

    def __init__(self, layer: kinds.Convolution, **options: Any) -> None:
        fan_in = layer.kernel**2 * layer.in_channels // layer.groups
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            (layer.kernel, layer.kernel),
            layer.stride,
            padding=ops.to_flax_padding(layer.padding),
            feature_group_count=layer.groups,
            use_bias=layer.bias,
            promote_dtype=cast_parameters,
            precision=jax.lax.Precision.HIGHEST,
            kernel_init=nnx.initializers.variance_scaling(2.0 * layer.groups, "fan_out", "normal"),  # M-10
            bias_init=ops.uniform(fan_in),
            **options,
        )


class BatchNorm(nnx.BatchNorm):
    """``nnx.BatchNorm`` with statistics in the parameters' dtype, where Flax has float32; half precision is widened.

    Flax's momentum is the share of the old statistic; its running variance divides by n, torch's by n - 1.
    """

    def __init__(self, layer: kinds.BatchNorm, *, param_dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        super().__init__(
            layer.in_channels,
            momentum=layer.momentum,
            epsilon=layer.epsilon,
            use_scale=layer.scale,
            use_fast_variance=False,  # it cancels digits where the mean is large
            param_dtype=param_dtype,
            rngs=rngs,
        )
        for name in ("mean", "var"):
            start = getattr(self, name)[...].astype(param_dtype)
            setattr(self, name, Statistic(start))

    def __call__(self, x: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
        return super().__call__(ops.widen(x), *arguments, **options).astype(x.dtype)


class Statistic(nnx.BatchStat):
    """Store a statistic in its own dtype; training computes it in at least float32, and JAX would warn of the cast."""

    def __setitem__(self, key: Any, value: jax.Array) -> None:
        super().__setitem__(key, value.astype(self.dtype))


class ReLU(nnx.Module):
    """``max(x, 0)``."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(x)


class Pooling(nnx.Module):
    """Maxima of windows, which ignore padding, or averages, which count it or not (M-2)."""

    def __init__(self, layer: kinds.Pooling) -> None:
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        layer = self.layer
        if layer.pool == "max":
            return ops.max_pool(x, layer)
        window = ((layer.kernel, layer.kernel), (layer.stride, layer.stride), ops.to_flax_padding(layer.padding))
        y = nnx.avg_pool(ops.widen(x), *window, count_include_pad=layer.count_padding)
        return y.astype(x.dtype)


class Addition(nnx.Module):
    """The sum of two maps."""

    def __call__(self, branch: jax.Array, shortcut: jax.Array) -> jax.Array:
        return branch + shortcut


class Concatenation(nnx.Module):
    """Concatenation of maps along the channels."""

    def __call__(self, *maps: jax.Array) -> jax.Array:
        return jnp.concatenate(maps, -1)


class ZeroChannels(nnx.Module):
    """Zero channels added before and after."""

    def __init__(self, layer: kinds.ZeroChannels) -> None:
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (self.layer.before, self.layer.after)))


class GlobalPooling(nnx.Module):
    """The mean over all positions."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean((1, 2))


class Dense(nnx.Linear):
    """``nnx.Linear`` in x's dtype and never in TF32."""

    def __init__(self, layer: kinds.Dense, **options: Any) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            use_bias=layer.bias,
            promote_dtype=cast_parameters,
            precision=jax.lax.Precision.HIGHEST,
            kernel_init=ops.FAN_IN_UNIFORM,  # K-4
            bias_init=ops.uniform(layer.in_channels),
            **options,
        )
