"""Squeeze-and-Excitation as a Keras 3 layer and functional block, channels last, on any backend.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507.
docs/SPEC.md numbers the clauses. Half precision is computed in float32 and rounded once, under mixed precision too.
"""

import math
from typing import Any

import keras
from keras import ops

import se_spec
from se_spec import InputError, SESpec, ShapeError

from .nonlinearities import activate, gate


def squeeze_excitation(
    x: Any, *, spec: SESpec | None = None, name: str | None = None, dtype: Any = None, **fields: Any
) -> Any:
    """The block on a symbolic (or eager) tensor; the channel count is read from it.

    Args:
        x: (N, L, C), (N, H, W, C) or (N, D, H, W, C); all but C may be unknown.
        spec: which block.
        name: of the layer, for ``set_parameters`` and ``model.get_layer``.
        dtype: of the layer; None is the tensor's where it is float64 or half, else Keras' policy.
        **fields: the spec's fields beyond the channels, instead of ``spec``.

    Returns:
        Tensor of the shape of x.

    Raises:
        SpecError, InputError, ShapeError: as ``SqueezeExcitation``.

    >>> x = keras.Input((None, None, 64))
    >>> squeeze_excitation(x, reduction=16).shape
    (None, None, None, 64)
    """
    return _layer(x, spec, name, dtype, fields)(x)


def excitation(x: Any, *, spec: SESpec | None = None, name: str | None = None, dtype: Any = None, **fields: Any) -> Any:
    """The gate of a new block alone, shape (N, C), without the gain. Arguments and errors as ``squeeze_excitation``."""
    return _layer(x, spec, name, dtype, fields).excitation(x)


@keras.saving.register_keras_serializable("se_keras")
class SqueezeExcitation(keras.layers.Layer):
    """``y = x * (gain * g)`` (+ x), with g = ``excitation(x)``.

    Args:
        spec: an ``SESpec``, or the channel count C with the spec's other fields as keywords.
        name, dtype, trainable: as of any Keras layer; ``dtype=None`` is the first tensor's where it is float64 or half,
            else Keras' policy.

    Input shape: (N, L, C), (N, H, W, C) or (N, D, H, W, C); all but C may be unknown.
    Output shape: that of x; its dtype is the layer's compute dtype.

    Raises:
        SpecError: on construction, a field is not allowed.
        InputError: x is not a tensor of floats of Keras' backend.
        ShapeError: wrong rank, wrong channel count, or an empty spatial axis.

    >>> layer = SqueezeExcitation(64, reduction=16, bias=True)
    >>> y = layer(ops.ones((2, 7, 5, 64)))
    >>> {weight.name: tuple(weight.shape) for weight in layer.weights}
    {'reduce_kernel': (64, 4), 'reduce_bias': (4,), 'expand_kernel': (4, 64), 'expand_bias': (64,)}
    """

    def __init__(
        self,
        spec: SESpec | int | dict[str, Any],
        *,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        **fields: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.spec = SESpec.from_dict(spec) if isinstance(spec, dict) else SESpec.of(spec, **fields)
        self._dtype_is_given = dtype is not None

    def __call__(self, x: Any, **options: Any) -> Any:
        refuse_foreign(x)
        se_spec.inputs.check(x.shape, keras.backend.standardize_dtype(x.dtype), self.spec, "channels_last")
        self._take_dtype_of(x)
        return super().__call__(x, **options)

    def build(self, input_shape: Any) -> None:
        channels, hidden = self.spec.channels, self.spec.hidden
        if not self.spec.single_projection:  # E-4
            self.reduce_kernel, self.reduce_bias = self._projection("reduce", channels, hidden)
        self.expand_kernel, self.expand_bias = self._projection("expand", hidden, channels)

    def call(self, x: Any, gate_only: bool = False) -> Any:
        refuse_narrowed(x, self.compute_dtype)
        wide = widened(x)  # N-1
        z = self._squeeze(wide)
        if gate_only:
            return self._gate(z)
        return cast(self._scale(wide, self._factors(z)), x.dtype)  # N-2

    def compute_output_spec(self, x: Any, gate_only: bool = False) -> keras.KerasTensor:
        if gate_only:
            wide = "float64" if self.compute_dtype == "float64" else "float32"
            return keras.KerasTensor((x.shape[0], self.spec.channels), dtype=wide)  # N-7
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def excitation(self, x: Any) -> Any:
        """The gate g, shape (N, C), without the gain; float32, or float64 where the layer computes in it."""
        return self(x, gate_only=True)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "spec": self.spec.to_dict()}
        return config if self.built or self._dtype_is_given else {**config, "dtype": None}  # N-5 is still to come

    def _squeeze(self, x: Any) -> Any:
        axes = tuple(range(1, len(x.shape) - 1))
        if self.spec.squeeze == "avg":
            return mean(x, axes)  # S-1
        # Without an initial value it would refuse an empty batch, with one torch makes of it float32.
        highest = ops.cast(ops.max(x, axes, initial=float("-inf")), x.dtype)  # S-2
        highest = ops.where(ops.any(x != x, axes), float("nan"), highest)  # compiled, max alone would drop NaN
        return highest if self.spec.squeeze == "max" else 0.5 * mean(x, axes) + 0.5 * highest  # S-3

    def _gate(self, z: Any) -> Any:
        if not self.spec.single_projection:  # E-4
            z = activate(project(z, self.reduce_kernel, self.reduce_bias), self.spec.activation)  # E-1, E-2
        return gate(project(z, self.expand_kernel, self.expand_bias), self.spec.gate)  # E-3

    def _factors(self, z: Any) -> Any:
        g = self._gate(z)
        return g if self.spec.gain == 1.0 else self.spec.gain * g  # C-2

    def _scale(self, x: Any, s: Any) -> Any:
        y = x * ops.reshape(s, (-1,) + (1,) * (len(x.shape) - 2) + (self.spec.channels,))  # C-1
        return y + x if self.spec.residual else y  # C-3

    def _projection(self, name: str, fan_in: int, fan_out: int) -> tuple[Any, Any]:
        def weight(kind: str, shape: tuple[int, ...]) -> Any:
            initializer = uniform(fan_in)  # one for each, since it would repeat its draw
            return self.add_weight(name=f"{name}_{kind}", shape=shape, initializer=initializer, autocast=False)  # N-4

        return weight("kernel", (fan_in, fan_out)), weight("bias", (fan_out,)) if self.spec.bias else None

    def _take_dtype_of(self, x: Any) -> None:
        kind = keras.backend.standardize_dtype(x.dtype)
        if not self.built and not self._dtype_is_given and kind != "float32" and kind != self.compute_dtype:
            self.dtype_policy = keras.DTypePolicy(kind)  # N-5


def _layer(x: Any, spec: SESpec | None, name: str | None, dtype: Any, fields: dict[str, Any]) -> SqueezeExcitation:
    if spec is None:
        refuse_foreign(x)
        if len(x.shape) == 0 or x.shape[-1] is None:
            raise ShapeError(f"x has shape {tuple(x.shape)}, expected a known number of channels on its last axis")
        return SqueezeExcitation(x.shape[-1], name=name, dtype=dtype, **fields)
    return SqueezeExcitation(spec, name=name, dtype=dtype, **fields)


def refuse_foreign(x: Any) -> None:
    """X-5."""
    if not (ops.is_tensor(x) or isinstance(x, keras.KerasTensor) or type(x).__module__ == "numpy"):
        backend = keras.backend.backend()
        raise se_spec.inputs.refuse_type(
            x, f"tensor of Keras' {backend} backend", "convert it with keras.ops.convert_to_tensor"
        )


def refuse_narrowed(x: Any, dtype: str) -> None:
    """What should be float64 and is not, as under JAX without jax_enable_x64 (N-6)."""
    kind = keras.backend.standardize_dtype(x.dtype)
    if kind != dtype:
        raise InputError(f"{dtype} is asked for, but Keras' backend made it {kind}; allow it or convert x")


def widened(x: Any) -> Any:
    """Half precision as float32 (N-1)."""
    return cast(x, "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32")


def cast(x: Any, dtype: Any) -> Any:
    """``ops.cast``, where there is something to do: run op by op it takes its time either way."""
    return x if x.dtype == dtype else ops.cast(x, dtype)


def mean(x: Any, axes: tuple[int, ...]) -> Any:
    """``ops.mean``, but for float64, which it computes in float32 on the jax and torch backends."""
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return ops.mean(x, axes)
    extents = ops.shape(x)
    return ops.sum(x, axes) / ops.cast(math.prod(extents[axis] for axis in axes), x.dtype)


def project(z: Any, kernel: Any, bias: Any) -> Any:
    """The projection in z's dtype, whatever the parameters are stored in."""
    h = z @ cast(kernel, z.dtype)  # not ops.matmul, which computes float64 in float32 on the torch backend
    return h if bias is None else h + cast(bias, z.dtype)


def uniform(fan_in: int) -> keras.initializers.Initializer:
    """Of new parameters (K-4)."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)
