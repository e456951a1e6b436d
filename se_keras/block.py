"""Squeeze-and-Excitation as a Keras 3 layer, channels last, on any backend.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507.
docs/SPEC.md numbers the clauses. Half precision is computed in float32 and rounded once, under mixed precision too.
"""

from collections.abc import Iterator
from typing import Any, Never, Unpack

import keras
from keras import ops

import se_spec
from se_spec import SESpec, SpecFields

from .nonlinearities import activate, apply_gate
from .ops import cast, full_precision, maximum, mean, project, refuse_foreign, refuse_narrowed, uniform, widen

_registered = keras.saving.register_keras_serializable("se_keras")


@_registered
class Dense(keras.layers.Dense):
    """Keras' Dense with float64 products on the torch backend, and without TF32 on the jax backend."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        with full_precision():
            return self.activation(project(x, self.kernel, self.bias))

    def quantize(self, mode: str | None = None, type_check: bool = True, **options: Any) -> None:
        """Quantize the layer; Keras' own method refuses every subclass."""
        super().quantize(mode, type_check=False, **options)


@_registered
class SqueezeExcitation(keras.layers.Layer):
    """``y = x * (gain * g)`` (+ x), with g = ``excitation(x)``.

    The projections are two dense layers, ``reduce`` and ``expand``, which the block calls. Each can be quantized,
    frozen, get LoRA, a regularizer or a constraint, or be replaced by another layer before the block is built. Since
    they are inside the block, ``keras.models.clone_model`` passes the block and not them to its ``clone_function``,
    which can replace them in its copy of the block.

    Args:
        spec: an ``SESpec``, or the channel count C with the spec's other fields as keywords.
        name, dtype, trainable: as for any Keras layer; ``dtype=None`` is the first tensor's if that is float64 or half
            precision, else Keras' policy.
        kernel_initializer, bias_initializer: of both projections, as for ``keras.layers.Dense``; None is SPEC K-4's.

    Input shape: (N, L, C), (N, H, W, C) or (N, D, H, W, C); all but C may be unknown.
    Output shape: that of x; its dtype is the layer's compute dtype.

    Raises:
        SpecError: on construction, a field is not allowed.
        InputError: x is not a tensor of floats of Keras' backend.
        ShapeError: wrong rank, wrong channel count, or an empty spatial axis.

    >>> layer = SqueezeExcitation(64, reduction=16, bias=True, name="se")
    >>> y = layer(ops.ones((2, 7, 5, 64)))
    >>> {weight.path: tuple(weight.shape) for weight in layer.weights}
    {'se/reduce/kernel': (64, 4), 'se/reduce/bias': (4,), 'se/expand/kernel': (4, 64), 'se/expand/bias': (64,)}
    >>> layer.reduce.quantize("int8")
    """

    def __init__(
        self,
        spec: SESpec | int | dict[str, Any],
        *positional: Never,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = None,
        **fields: Unpack[SpecFields],
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.spec = SESpec.from_dict(spec) if isinstance(spec, dict) else SESpec.coerce(spec, *positional, **fields)
        self._dtype_is_given = dtype is not None
        self._initializers = {"kernel_initializer": kernel_initializer, "bias_initializer": bias_initializer}
        if not self.spec.single_projection:  # E-4
            self.reduce = self._make_projection("reduce")
        self.expand = self._make_projection("expand")

    def __call__(self, x: Any, **options: Any) -> Any:
        refuse_foreign(x)
        se_spec.inputs.check(x.shape, keras.backend.standardize_dtype(x.dtype), self.spec, "channels_last")
        self._adopt_dtype(x)
        return super().__call__(x, **options)

    def build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)
        for name, layer in self._iterate_projections():
            layer.autocast = False  # N-1, N-4: nothing is rounded between them
            if not layer.built:
                layer.build((None, self._find_widths(name)[0]))

    def call(self, x: Any, gate_only: bool = False) -> Any:
        refuse_narrowed(x, self.compute_dtype)
        wide = widen(x)  # N-1
        z = self._squeeze(wide)
        if gate_only:
            return self._excite(z)
        return cast(self._scale(wide, self._scale_factors(z)), x.dtype)  # N-2

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        se_spec.inputs.check(input_shape, "float32", self.spec, "channels_last")
        return tuple(input_shape)

    def compute_output_spec(self, x: Any, gate_only: bool = False) -> keras.KerasTensor:
        if gate_only:
            wide = "float64" if self.compute_dtype == "float64" else "float32"
            return keras.KerasTensor((x.shape[0], self.spec.channels), dtype=wide)  # N-7
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def excitation(self, x: Any) -> Any:
        """Compute the gate g, without the gain.

        Args:
            x: shape (N, *spatial, C), the feature map.

        Returns:
            Shape (N, C); float32, or float64 if the layer computes in it.

        Raises:
            InputError, ShapeError: as a call of the block.
        """
        return self(x, gate_only=True)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "spec": self.spec.to_dict()}
        if not self.built and not self._dtype_is_given:
            config["dtype"] = None  # N-5 is still to come
        given = {kind: value for kind, value in self._initializers.items() if value is not None}
        config |= {kind: keras.initializers.serialize(keras.initializers.get(value)) for kind, value in given.items()}
        return config | {
            name: keras.saving.serialize_keras_object(layer)
            for name, layer in self._iterate_projections()
            if type(layer) is not Dense or layer.get_config() != self._make_projection(name).get_config()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SqueezeExcitation":
        changed = {name: config[name] for name in ("reduce", "expand") if name in config}
        block = cls(**{name: value for name, value in config.items() if name not in changed})
        for name, layer in changed.items():
            setattr(block, name, keras.saving.deserialize_keras_object(layer))
        return block

    def _squeeze(self, x: Any) -> Any:
        axes = tuple(range(1, len(x.shape) - 1))
        if self.spec.squeeze == "avg":
            return mean(x, axes)  # S-1
        highest = maximum(x, axes)  # S-2
        return highest if self.spec.squeeze == "max" else 0.5 * mean(x, axes) + 0.5 * highest  # S-3

    def _excite(self, z: Any) -> Any:
        with full_precision():  # N-4, whatever layers stand in place of the block's own
            if not self.spec.single_projection:  # E-4
                z = activate(cast(self.reduce(z), z.dtype), self.spec.activation)  # E-1, E-2
            return apply_gate(cast(self.expand(z), z.dtype), self.spec.gate)  # E-3

    def _scale_factors(self, z: Any) -> Any:
        g = self._excite(z)
        return g if self.spec.gain == 1.0 else self.spec.gain * g  # C-2

    def _scale(self, x: Any, s: Any) -> Any:
        y = x * ops.reshape(s, (-1,) + (1,) * (len(x.shape) - 2) + (self.spec.channels,))  # C-1
        return y + x if self.spec.residual else y  # C-3

    def _iterate_projections(self) -> Iterator[tuple[str, Any]]:
        """Iterate over the names and dense layers, or the layers that replace them."""
        return ((name, getattr(self, name)) for name in ("reduce", "expand") if hasattr(self, name))

    def _find_widths(self, name: str) -> tuple[int, int]:
        widths = self.spec.channels, self.spec.hidden
        return widths if name == "reduce" else widths[::-1]

    def _make_projection(self, name: str) -> Dense:
        fan_in, fan_out = self._find_widths(name)
        given = self._initializers.items()
        initializers = {kind: uniform(fan_in) if value is None else _clone(value) for kind, value in given}
        return Dense(
            fan_out,
            use_bias=self.spec.bias,
            **initializers,
            name=name,
            dtype=self.variable_dtype,
            trainable=self.trainable,
        )

    def _adopt_dtype(self, x: Any) -> None:
        kind = keras.backend.standardize_dtype(x.dtype)
        if not self.built and not self._dtype_is_given and kind != "float32" and kind != self.compute_dtype:
            self.dtype_policy = keras.DTypePolicy(kind)  # N-5
            for _, layer in self._iterate_projections():
                if isinstance(layer, Dense):
                    layer.dtype_policy = self.dtype_policy


def _clone(initializer: Any) -> Any:
    """Return a new initializer of the same kind: one object would draw the same numbers for both projections."""
    found = keras.initializers.get(initializer)
    return found.clone() if isinstance(found, keras.initializers.Initializer) else found
