"""Conversion of canonical NumPy parameters to Flax trees and back, for NNX and linen.

A dense kernel is the transpose of its weight, a convolution's kernel is (k, k, I / groups, O), and a batch norm has
Flax's names.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core.meta import AxisMetadata
from flax.traverse_util import flatten_dict

import se_spec
from se_spec import InputError, NetworkSpec, ParameterError, SESpec

STATISTICS = ("mean", "var")
"""Flax's names of the statistics, which training tracks and no gradient reaches."""

_FLAX = {"weight": "kernel", "offset": "bias", "variance": "var"}
_CANONICAL = {"kernel": "weight", "var": "variance"}
_BLOCK = ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias")

_TO_FLAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
_TO_CANONICAL = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}

Path = tuple[str, ...]
Shape = tuple[int, ...]


def to_tree(
    parameters: Mapping[str, np.ndarray], spec: SESpec | NetworkSpec, stack: Shape = ()
) -> dict[Path, np.ndarray]:
    """Map canonical parameters to paths: ``{("reduce", "kernel"): (C, R), ("reduce", "bias"): (R,), ...}`` (SPEC K-2).

    Args:
        parameters: canonical arrays.
        spec: the block or network to which they belong.
        stack: the lengths of the axes before those of the spec, if the arrays are of stacked modules.

    Raises:
        ParameterError: a name is missing, left over or of a wrong shape; the message names all.
    """
    shapes = se_spec.parameters.shapes(spec)
    se_spec.parameters.check(parameters, {name: (*stack, *shape) for name, shape in shapes.items()})
    return {_to_path(name): _transpose(np.asarray(array), len(stack), _TO_FLAX) for name, array in parameters.items()}


def to_jax_tree(parameters: Mapping[str, Any], spec: SESpec | NetworkSpec) -> dict[Path, jax.Array]:
    """Map canonical parameters, which may be JAX arrays or tracers, to paths of arrays as Flax has them.

    Raises:
        ParameterError: as ``to_tree``.
    """
    shapes = se_spec.parameters.shapes(spec)
    se_spec.parameters.check(parameters, shapes, ("jax", "jaxlib", "numpy"))
    return {_to_path(name): jnp.asarray(parameters[name]).transpose(_TO_FLAX[len(shapes[name])]) for name in shapes}


def move_channels(x: Any, data_format: str, place: int) -> Any:
    """Move the channels to the end (-1) or back to axis 1, where the data format has them first.

    Raises:
        SpecError: a data format that is not one of the two.
    """
    se_spec.inputs.check_data_format(data_format)
    if data_format == "channels_last" or getattr(x, "ndim", 0) < 3:
        return x
    return jnp.moveaxis(x, 1, -1) if place == -1 else jnp.moveaxis(x, -1, 1)


def to_paths(spec: SESpec | NetworkSpec) -> list[Path]:
    """List the paths of a spec's parameters, in canonical order."""
    return [_to_path(name) for name in se_spec.parameters.shapes(spec)]


def _to_path(name: str) -> Path:
    *path, kind = name.split(".")
    return (*path, _FLAX.get(kind, kind))


def find_stack_axes(targets: Mapping[Path, Any], spec: SESpec | NetworkSpec) -> Shape:
    """Return the axes before those of the spec, which ``vmap`` and ``scan`` add; empty for a single block."""
    for name, shape in se_spec.parameters.shapes(spec).items():
        target = targets.get(_to_path(name))
        if target is not None and hasattr(target, "shape"):
            return tuple(target.shape)[: max(len(target.shape) - len(shape), 0)]
    return ()


def _transpose(array: np.ndarray, stacked: int, orders: Mapping[int, Shape]) -> np.ndarray:
    """Reorder the axes after the first ``stacked``; ``orders`` gives the order by their number."""
    order = orders[array.ndim - stacked]
    return array.transpose(*range(stacked), *(stacked + axis for axis in order))


def to_jax(array: np.ndarray, dtype: Any) -> jax.Array:
    """Convert an array to a dtype (K-3); errors as ``check_dtype_supported``."""
    return jnp.asarray(array.astype(check_dtype_supported(dtype)))


def to_jax_like(array: np.ndarray, target: Any) -> jax.Array:
    """Convert an array to the target's dtype, on the target's devices and in its kind of memory."""
    value = array.astype(check_dtype_supported(target.dtype))
    abstract = isinstance(target, jax.ShapeDtypeStruct)
    if isinstance(target, jax.core.Tracer) or not (abstract or getattr(target, "committed", False)):
        return jnp.asarray(value)
    return jnp.asarray(value) if target.sharding is None else jax.device_put(value, target.sharding)


def check_targets(tree: Mapping[Path, np.ndarray], targets: Mapping[Path, Any]) -> None:
    """Check that every target exists, has its shape and holds floats (K-2).

    Args:
        tree: the arrays by path.
        targets: the value at each path, and at the paths of ``add_optional_paths``, without boxes; None if there is
            none.

    Raises:
        ParameterError: a target is missing, of a wrong shape or no array of floats; the message names all.
    """
    faults = []
    for path, array in tree.items():
        name, target = ".".join(path), targets.get(path)
        if target is None:
            faults.append(f"{name} is not there; was its layer replaced?")
        elif not isinstance(target, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            faults.append(f"{name} is a {type(target).__name__}, expected an array; was its layer quantized?")
        elif tuple(target.shape) != array.shape:
            faults.append(f"{name} has shape {tuple(target.shape)}, expected {array.shape}; was its layer replaced?")
        elif str(target.dtype) not in se_spec.parameters.FLOATS:
            faults.append(f"{name} has dtype {target.dtype}, expected one of {', '.join(se_spec.parameters.FLOATS)}")
    left_over = [path for path in add_optional_paths(tree) if path not in tree and targets.get(path) is not None]
    faults += [f"{'.'.join(path)} is there and the spec has none; was its layer replaced?" for path in left_over]
    if faults:
        raise ParameterError("parameters do not fit the module: " + "; ".join(faults))


def add_optional_paths(paths: Iterable[Path]) -> list[Path]:
    """Add the paths that the same layers would have with a bias or a scale."""
    kinds = ("kernel", "scale", "bias", *STATISTICS)
    return list(dict.fromkeys((*layer, kind) for *layer, own in paths for kind in (own, *kinds)))


def unbox(value: Any) -> Any:
    """Return the array inside a box such as ``nn.Partitioned``; return anything else unchanged."""
    return jax.tree.leaves(value)[0] if isinstance(value, AxisMetadata) else value


def check_dtype_supported(dtype: Any) -> np.dtype:
    """Return the dtype; refuse one that JAX would silently replace (N-6).

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


def from_tree(*trees: Mapping[str, Any], spec: SESpec | NetworkSpec | None = None) -> dict[str, np.ndarray]:
    """Convert nested trees to canonical parameters, the inverse of ``to_tree``; the arrays are copies.

    Args:
        trees: parameters or their gradients, and statistics if there are any.
        spec: the block or network, which gives names, order and shapes. Without it, all arrays are converted, those of
            a block in canonical order.

    Raises:
        ParameterError: a name is not in the trees, has another shape, is no array of floats, or has no values that can
            be read here; without a spec, the parameters are of a stack of modules.
    """
    flat = {path: value for tree in trees for path, value in flatten_dict(tree).items() if value is not None}
    found = {}
    for (*path, kind), value in flat.items():
        of_batch_norm = kind == "bias" and (*path, "kernel") not in flat
        found[".".join([*path, "offset" if of_batch_norm else _CANONICAL.get(kind, kind)])] = unbox(value)
    if spec is None:
        names = sorted(found, key=lambda name: _BLOCK.index(name) if name in _BLOCK else 0)
        return {name: _to_array(name, found[name]) for name in names}
    paths, stack = to_paths(spec), find_stack_axes({path: unbox(value) for path, value in flat.items()}, spec)
    left_over = [".".join(path) for path in add_optional_paths(paths) if path in flat and path not in paths]
    if left_over:
        raise ParameterError(f"{left_over[0]} is there and the spec has none; was its layer replaced?")
    wanted = se_spec.parameters.shapes(spec)
    return {name: _to_array(name, found.get(name), stack, shape) for name, shape in wanted.items()}


def _to_array(name: str, value: Any, stack: Shape = (), shape: Shape | None = None) -> np.ndarray:
    if value is None:
        raise ParameterError(f"{name} is not there; was its layer replaced?")
    if isinstance(value, jax.ShapeDtypeStruct):
        raise ParameterError(f"{name} is abstract; call set_parameters first")
    if not isinstance(value, jax.Array | np.ndarray) or str(value.dtype) not in se_spec.parameters.FLOATS:
        kind = value.dtype if isinstance(value, jax.Array | np.ndarray) else type(value).__name__
        raise ParameterError(f"{name} holds {kind}, expected an array of floats; was its layer quantized?")
    if not getattr(value, "is_fully_addressable", True):
        raise ParameterError(f"{name} lies on other processes too; gather it with process_allgather first")
    if value.ndim - len(stack) not in (_list_ranks(name) if shape is None else (len(shape),)):
        remedy = "name the block that they are of, if it is a stack" if shape is None else "was its layer replaced?"
        raise ParameterError(f"{name} has shape {tuple(value.shape)} in Flax, which is not of one module; {remedy}")
    array = _transpose(np.asarray(value), len(stack), _TO_CANONICAL)
    if shape is not None and array.shape != (*stack, *shape):
        raise ParameterError(f"{name} has shape {array.shape}, expected {(*stack, *shape)}; was its layer replaced?")
    return np.array(array, order="C")


def _list_ranks(name: str) -> tuple[int, ...]:
    if not name.endswith("weight"):
        return (1,)
    return (2,) if name.endswith(("reduce.weight", "expand.weight")) else (2, 4)
