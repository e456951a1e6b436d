"""What Keras' operations leave open, the same on every backend: NaN, float64, float32 products, and types.

Nothing here has a constant of NaN or infinity, which would spoil the ranges of an int8 model, or one that would be made
on another device than x.
"""

import contextlib
import importlib
import math
from typing import Any

import keras
from keras import ops

import se_spec
from se_spec import InputError


def refuse_foreign(x: Any) -> None:
    """X-5."""
    if not (ops.is_tensor(x) or isinstance(x, keras.KerasTensor) or type(x).__module__ == "numpy"):
        backend = keras.backend.backend()
        raise se_spec.inputs.foreign_array_error(
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


def maximum(x: Any, axes: tuple[int, ...]) -> Any:
    """The maximum, NaN where there is one: compiled, ``ops.amax`` would drop it."""
    if 0 in x.shape:  # an empty batch, which ``ops.amax`` refuses on TensorFlow
        return mean(x, axes)
    return add_nan(ops.amax(x, axes), ops.any(x != x, axes))


def add_nan(y: Any, is_nan: Any) -> Any:
    """y, but NaN where ``is_nan``: the square root of -1, and no constant."""
    return y + ops.sqrt(-ops.cast(is_nan, y.dtype))


def with_nan_of(h: Any, y: Any) -> Any:
    """y, but NaN where h is: TensorFlow's oneDNN, XLA and TFLite drop NaN where they clip."""
    return ops.where(h != h, h, y)


def clip(v: Any, low: float, high: float) -> Any:
    """``ops.clip``, which has its limits in float32 on the torch backend, and NaN where v is."""
    limits = (ops.convert_to_tensor(limit, v.dtype) for limit in (low, high))
    return with_nan_of(v, ops.clip(v, *limits))


def project(z: Any, kernel: Any, bias: Any) -> Any:
    """The projection in z's dtype, whatever the parameters are stored in."""
    h = z @ cast(kernel, z.dtype)  # not ops.matmul, which computes float64 in float32 on the torch backend
    return h if bias is None else h + cast(bias, z.dtype)


def full_precision() -> contextlib.AbstractContextManager[Any]:
    """Keeps JAX's products and convolutions of float32 from being TF32 (N-4); other backends have no such context."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = importlib.import_module("jax").default_matmul_precision("highest")
    return context


def uniform(fan_in: int) -> keras.initializers.Initializer:
    """Of new parameters (K-4)."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)
