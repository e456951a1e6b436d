"""Operations that give the same result on every backend of Keras: NaN, float64, float32 products, and types.

No function here makes a constant of NaN or infinity, which would ruin the ranges of an int8 model, or a constant on
another device than x.
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
    """Refuse an array that is not of Keras' backend (X-5)."""
    if not (ops.is_tensor(x) or isinstance(x, keras.KerasTensor) or type(x).__module__ == "numpy"):
        backend = keras.backend.backend()
        raise se_spec.inputs.foreign_array_error(
            x, f"tensor of Keras' {backend} backend", "convert it with keras.ops.convert_to_tensor"
        )


def refuse_narrowed(x: Any, dtype: str) -> None:
    """Refuse x that should be float64 and is not, as under JAX without jax_enable_x64 (N-6)."""
    kind = keras.backend.standardize_dtype(x.dtype)
    if kind != dtype:
        raise InputError(f"{dtype} is asked for, but Keras' backend made it {kind}; allow it or convert x")


def widen(x: Any) -> Any:
    """Convert half precision to float32 (N-1)."""
    return cast(x, "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32")


def cast(x: Any, dtype: Any) -> Any:
    """Convert x if its dtype is another; eager ``ops.cast`` takes time even if it changes nothing."""
    return x if x.dtype == dtype else ops.cast(x, dtype)


def mean(x: Any, axes: tuple[int, ...]) -> Any:
    """Average x; float64 by a sum, as ``ops.mean`` computes it in float32 on the jax and torch backends."""
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return ops.mean(x, axes)
    extents = ops.shape(x)
    return ops.sum(x, axes) / ops.cast(math.prod(extents[axis] for axis in axes), x.dtype)


def maximum(x: Any, axes: tuple[int, ...]) -> Any:
    """Take the maximum and keep NaN, which a compiled ``ops.amax`` would drop."""
    if 0 in x.shape:  # an empty batch, which ``ops.amax`` refuses on TensorFlow
        return mean(x, axes)
    is_nan = x != x
    for axis in reversed(axes):  # one at a time: of several, Keras up to 3.12 takes the wrong ones on torch
        is_nan = ops.any(is_nan, axis)
    return add_nan(ops.amax(x, axes), is_nan)


def add_nan(y: Any, is_nan: Any) -> Any:
    """Make y NaN where ``is_nan``, by the square root of -1 instead of a constant."""
    return y + ops.sqrt(-ops.cast(is_nan, y.dtype))


def restore_nan(h: Any, y: Any) -> Any:
    """Make y NaN where h is NaN: TensorFlow's oneDNN, XLA and TFLite drop NaN when they clip."""
    return ops.where(h != h, h, y)


def clip(v: Any, low: float, high: float) -> Any:
    """Clip v with limits in its dtype, which ``ops.clip`` has in float32 on the torch backend; keep NaN."""
    limits = (ops.convert_to_tensor(limit, v.dtype) for limit in (low, high))
    return restore_nan(v, ops.clip(v, *limits))


def project(z: Any, kernel: Any, bias: Any) -> Any:
    """Project z in z's dtype, whatever the dtype of the parameters."""
    h = z @ cast(kernel, z.dtype)  # not ops.matmul, which computes float64 in float32 on the torch backend
    return h if bias is None else h + cast(bias, z.dtype)


def full_precision() -> contextlib.AbstractContextManager[Any]:
    """Keep float32 products and convolutions of JAX in float32, not TF32 (N-4); other backends need no context."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = importlib.import_module("jax").default_matmul_precision("highest")
    return context


def uniform(fan_in: int) -> keras.initializers.Initializer:
    """Make the initializer U(±1/√fan_in) for weights and biases (K-4)."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)
