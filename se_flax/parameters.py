"""Canonical NumPy parameters as Flax trees and back: ``reduce.weight`` (R, C) is the transpose of ``reduce/kernel``.

A convolution's kernel is (k, k, I / groups, O), and a batch norm has Flax's names. NNX and linen share this page and
nothing else.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

import se_spec
from se_spec import InputError, NetworkSpec, ParameterError, SESpec

STATISTICS = ("mean", "var")
"""What training tracks and no gradient reaches, by Flax's names."""

_FLAX = {"weight": "kernel", "offset": "bias", "variance": "var"}
_CANONICAL = {"kernel": "weight", "var": "variance"}
_BLOCK = ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias")

Path = tuple[str, ...]


def to_tree(parameters: Mapping[str, np.ndarray], spec: SESpec | NetworkSpec) -> dict[Path, np.ndarray]:
    """Canonical parameters by path: ``{("reduce", "kernel"): (C, R), ("reduce", "bias"): (R,), ...}`` (SPEC K-2).

    Raises:
        ParameterError: names all that is missing, left over or misshapen.
    """
    se_spec.parameters.check(parameters, se_spec.parameters.shapes(spec))
    tree = {}
    for name, array in parameters.items():
        *path, kind = name.split(".")
        tree[(*path, _FLAX.get(kind, kind))] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
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


def from_tree(*trees: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The inverse of ``to_tree``, from nested trees; the arrays are copies.

    Args:
        trees: parameters or their gradients, and statistics if there are any.
        names: which ones, in which order; without, all, those of a block in canonical order.

    Raises:
        ParameterError: a name is not in the trees, or has a shape and no values yet.
    """
    flat = {path: value for tree in trees for path, value in flatten_dict(tree).items() if value is not None}
    found = {}
    for (*path, kind), value in flat.items():
        of_batch_norm = kind == "bias" and (*path, "kernel") not in flat
        found[".".join([*path, "offset" if of_batch_norm else _CANONICAL.get(kind, kind)])] = value
    if names is None:
        names = sorted(found, key=lambda name: _BLOCK.index(name) if name in _BLOCK else 0)
    return {name: _to_array(name, found.get(name)) for name in names}


def _to_array(name: str, value: Any) -> np.ndarray:
    if value is None:
        raise ParameterError(f"{name} is not there; was its layer replaced?")
    if isinstance(value, jax.ShapeDtypeStruct):
        raise ParameterError(f"{name} is abstract; call set_parameters first")
    array = np.asarray(value)
    return np.array(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T, order="C")
