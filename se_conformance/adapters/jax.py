"""What JAX needs, under Flax and under Keras."""

import jax
import numpy as np

from se_spec import SpecError


def refuse_float64(dtype: str) -> None:
    """Where JAX would silently make it float32.

    Raises:
        SpecError: says what to set.
    """
    if dtype == "float64" and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise SpecError(
            "JAX would make float64 float32; set jax_enable_x64 (JAX_ENABLE_X64=1) or ask for another dtype"
        )
