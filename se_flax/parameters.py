"""Canonical NumPy parameters as Flax trees and back: ``reduce.weight`` (R, C) is the transpose of ``reduce/kernel``.

NNX and linen share this page and nothing else.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import se_spec
from se_spec import InputError, SESpec

Tree = dict[str, dict[str, Any]]


def to_tree(parameters: Mapping[str, np.ndarray], spec: SESpec) -> Tree:
    """Canonical parameters as ``{"reduce": {"kernel": (C, R), "bias": (R,)}, "expand": ...}`` (SPEC K-2).

    Raises:
        ParameterError: names all that is missing, left over or misshapen.
    """
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(spec))
    tree: Tree = {}
    for name, array in parameters.items():
        projection, _, kind = name.partition(".")
        tree.setdefault(projection, {})["kernel" if kind == "weight" else kind] = array.T
    return tree


def to_jax(array: np.ndarray, dtype: Any) -> jax.Array:
    """The array in a dtype (K-3); errors as ``kept``."""
    return jnp.asarray(array.astype(kept(dtype)))


def kept(dtype: Any) -> np.dtype:
    """The dtype, or an error where JAX would silently make it another (N-6).

    Raises:
        InputError: float64 without ``jax_enable_x64``, or not a dtype that the spec knows.
    """
    wanted = np.dtype(dtype)
    se_spec.inputs.check_dtype("dtype", wanted)
    if jax.dtypes.canonicalize_dtype(wanted) != wanted:
        raise InputError(
            "float64 is asked for, which JAX would silently make float32; set jax_enable_x64 or convert it"
        )
    return wanted


def from_tree(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The inverse of ``to_tree``, in canonical order; the arrays are copies."""
    return {
        f"{projection}.{kind}": np.array(np.asarray(tree[projection]["kernel" if kind == "weight" else kind]).T)
        for projection in ("reduce", "expand")
        if projection in tree
        for kind in ("weight", "bias")
        if kind == "weight" or tree[projection].get("bias") is not None
    }
