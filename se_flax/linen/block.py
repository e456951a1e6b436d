"""Squeeze-and-Excitation as a Flax linen module, channels last.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507.
docs/SPEC.md numbers the clauses. Half precision is computed in float32 and rounded once.
"""

from typing import Any, Never, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

import se_spec
from se_spec import SESpec, SpecFields

from .. import ops
from ..nonlinearities import activate, apply_gate
from ..parameters import check_dtype_supported


class SqueezeExcitation(nn.Module):
    """``y = x * (gain * g)`` (+ x), with g = ``excitation(x)``; ``apply(..., method="excitation")`` calls it.

    Args:
        spec: an ``SESpec``, or the channel count C with the spec's other fields as keywords.
        dtype: dtype of the output; None is the dtype of x.
        param_dtype: dtype of the parameters.
        axis_name: the mapped axis or axes (``jax.shard_map``, ``jax.vmap``) over which each map is split into parts
            of equal size; the squeeze then covers all parts. None if a map is whole, or ``jax.jit`` splits it.
        kernel_init, bias_init: initializers of both projections; None is SPEC K-4's.

    Input shape: (N, L, C), (N, H, W, C) or (N, D, H, W, C); any float dtype.
    Output shape: that of x.

    Raises:
        SpecError: on construction, a field is not allowed.
        InputError: x is not a JAX or NumPy array of floats, or float64 without ``jax_enable_x64``.
        ShapeError: wrong rank, wrong channel count, or an empty spatial axis.

    >>> block = SqueezeExcitation(64, reduction=16, bias=True)
    >>> variables = block.init(jax.random.key(0), jnp.ones((2, 7, 5, 64)))
    >>> jax.tree.map(jnp.shape, variables["params"]["reduce"])
    {'bias': (4,), 'kernel': (64, 4)}
    >>> block.apply(variables, jnp.ones((2, 7, 5, 64))).shape
    (2, 7, 5, 64)
    """

    spec: SESpec
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    axis_name: ops.AxisName | None = None
    kernel_init: ops.Initializer | None = None
    bias_init: ops.Initializer | None = None

    def __init__(
        self,
        spec: SESpec | int,
        *positional: Never,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        axis_name: ops.AxisName | None = None,
        kernel_init: ops.Initializer | None = None,
        bias_init: ops.Initializer | None = None,
        parent: Any = nn.module._unspecified_parent,
        name: str | None = None,
        **fields: Unpack[SpecFields],
    ) -> None:
        self.spec = SESpec.coerce(spec, *positional, **fields)
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.axis_name = axis_name
        self.kernel_init, self.bias_init = kernel_init, bias_init
        self.parent = parent
        self.name = name
        self.__post_init__()

    def __call__(self, x: jax.Array) -> jax.Array:
        self._check(x)
        wide = self._widen(x)
        s = self._scale_factors(self._squeeze(wide))
        return self._scale(ops.reconvert(wide, x), s).astype(self.dtype or x.dtype)  # N-2

    def excitation(self, x: jax.Array) -> jax.Array:
        """Compute the gate g, without the gain.

        Args:
            x: shape (N, *spatial, C), the feature map.

        Returns:
            Shape (N, C); float32, or float64 if the output is float64.

        Raises:
            InputError, ShapeError: as a call of the block.
        """
        self._check(x)
        return self._excite(self._squeeze(self._widen(x)))

    def _check(self, x: jax.Array) -> None:
        if not isinstance(x, (jax.Array, np.ndarray)):
            raise se_spec.inputs.foreign_array_error(
                x, "jax.Array or numpy.ndarray", "convert it with jax.numpy.asarray"
            )
        se_spec.inputs.check(x.shape, x.dtype, self.spec, "channels_last")

    def _widen(self, x: jax.Array) -> jax.Array:
        wide = "float64" if check_dtype_supported(self.dtype or x.dtype) == "float64" else "float32"
        return jnp.asarray(x, wide)  # N-1

    def _squeeze(self, x: jax.Array) -> jax.Array:
        axes = tuple(range(1, x.ndim - 1))
        axis_name = None if self.is_initializing() else self.axis_name  # init needs the shapes alone
        if self.spec.squeeze == "avg":
            return ops.mean(x, axes, axis_name)  # S-1
        highest = ops.maximum(x, axes, axis_name)  # S-2
        return highest if self.spec.squeeze == "max" else 0.5 * ops.mean(x, axes, axis_name) + 0.5 * highest  # S-3

    @nn.compact
    def _excite(self, z: jax.Array) -> jax.Array:
        spec = self.spec
        if not spec.single_projection:  # E-4
            z = activate(self._project(z, "reduce", spec.hidden), spec.activation)  # E-1, E-2
        return apply_gate(self._project(z, "expand", spec.channels), spec.gate)  # E-3

    def _scale_factors(self, z: jax.Array) -> jax.Array:
        g = self._excite(z)
        return g if self.spec.gain == 1.0 else self.spec.gain * g  # C-2

    def _scale(self, x: jax.Array, s: jax.Array) -> jax.Array:
        y = x * jnp.expand_dims(s, tuple(range(1, x.ndim - 1)))  # C-1
        return y + x if self.spec.residual else y  # C-3

    def _project(self, z: jax.Array, name: str, width: int) -> jax.Array:
        """Project z in z's dtype, whatever the dtype of the parameters; never in TF32."""
        dense = nn.Dense(
            width,
            use_bias=self.spec.bias,
            dtype=z.dtype,
            param_dtype=check_dtype_supported(self.param_dtype),
            precision=jax.lax.Precision.HIGHEST,
            kernel_init=self.kernel_init or ops.FAN_IN_UNIFORM,
            bias_init=self.bias_init or ops.uniform(z.shape[-1]),
            name=name,
        )
        return dense(z)
