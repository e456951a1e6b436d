"""The check of JAX's float64, for Flax and for Keras."""

import jax
import numpy as np

from se_spec import SpecError


def refuse_float64(dtype: str) -> None:
    """Refuse float64 where JAX would silently compute it in float32.

    Raises:
        SpecError: JAX has no float64; the message names the setting.
    """
    if dtype == "float64" and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise SpecError(
            "JAX would make float64 float32; set jax_enable_x64 (JAX_ENABLE_X64=1) or ask for another dtype"
        )
