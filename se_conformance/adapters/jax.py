"""The check of JAX's float64, for Flax and for Keras, and the options of compilations."""

from typing import Any

import jax
import jaxlib
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


def choose_quick_options() -> dict[str, Any] | None:
    """Choose options with which XLA takes a quarter of the time to compile for a processor; None elsewhere.

    They act on the code that LLVM makes. XLA optimizes the block's operations as it does for users.

    Returns:
        ``compiler_options`` of ``jax.jit``.

    Example:
        >>> options = choose_quick_options()
        >>> options is None or "xla_backend_optimization_level" in options
        True
    """
    if jax.default_backend() != "cpu":
        return None
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    if tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11):  # later versions refuse it
        options["xla_cpu_use_fusion_emitters"] = False
    return options
