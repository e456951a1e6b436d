"""Our block in the forms that other models' modules have: the gate alone, or channels first."""

from typing import Any

import jax
import jax.numpy as jnp

from se_spec import SESpec

from .block import SqueezeExcitation


class AdaptedSqueezeExcitation(SqueezeExcitation):
    """A block that is called as the module in whose place it stands.

    Args:
        spec: which block.
        result: ``"map"`` returns the scaled map; ``"gate"`` returns the factors with spatial axes of length 1, and
            ``"vector"`` as (N, C), for a model that multiplies by itself.
        data_format: ``"channels_last"`` or ``"channels_first"``.
        options: those of ``SqueezeExcitation``.

    Raises:
        SpecError, InputError, ShapeError: as ``SqueezeExcitation``.

    >>> block = AdaptedSqueezeExcitation(SESpec(8, hidden=2), result="gate")
    >>> block(jnp.ones((1, 5, 3, 8))).shape
    (1, 1, 1, 8)
    """

    def __init__(
        self, spec: SESpec, *, result: str = "map", data_format: str = "channels_last", **options: Any
    ) -> None:
        super().__init__(spec, **options)
        self.result, self.data_format = result, data_format

    def __call__(self, x: jax.Array) -> jax.Array:
        is_first = self.data_format == "channels_first"
        x = jnp.moveaxis(x, 1, -1) if is_first else x
        y = super().__call__(x) if self.result == "map" else self._compute_factors(x)
        return jnp.moveaxis(y, -1, 1) if is_first and y.ndim > 2 else y

    def _compute_factors(self, x: jax.Array) -> jax.Array:
        s = self.spec.gain * self.excitation(x) + float(self.spec.residual)
        s = s if self.result == "vector" else jnp.expand_dims(s, tuple(range(1, x.ndim - 1)))
        return s.astype(self.dtype or x.dtype)
