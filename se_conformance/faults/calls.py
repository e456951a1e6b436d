"""Faults around the arithmetic: modified arguments, state between calls, refused inputs, outputs of a wrong form."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .block import Array, Block, Parameters
from .fault import Change, Fault, FaultyStage, combine, replace_stage
from .precision import round_all_stages

Function = Callable[[Array, Parameters], Array]


def _wrap_function(make: Callable[[Block, Function], Function]) -> Change:
    def change(block: Block) -> None:
        right = block.around
        block.around = lambda function: make(block, right(function))

    return change


def _change_output(wrong: FaultyStage) -> Change:
    """Return ``wrong(y, x)`` instead of y."""
    return _wrap_function(lambda block, f: lambda x, p: wrong(f(x, p), x))


def _refuse_where(when: Callable[[Array], bool], message: str) -> Change:
    def make(block: Block, f: Function) -> Function:
        def call(x: Array, p: Parameters) -> Array:
            if when(x):
                raise ValueError(message)
            return f(x, p)

        return call

    return _wrap_function(make)


def _scale_in_place(block: Block, f: Function) -> Function:
    def call(x: Array, p: Parameters) -> Array:
        y = f(x, p)
        x[...] = y
        return y

    return call


def _overwrite_parameters(block: Block, f: Function) -> Function:
    def call(x: Array, p: Parameters) -> Array:
        y = f(x, p)
        p["expand.weight"][...] = 0
        return y

    return call


def _fix_first_size(block: Block, f: Function) -> Function:
    block.keeps_state = True
    cache: dict[int, tuple[int, ...]] = {}

    def call(x: Array, p: Parameters) -> Array:
        if cache.setdefault(x.ndim, x.shape[1:-1]) != x.shape[1:-1]:
            raise ValueError("built for another size")
        return f(x, p)

    return call


def _cache_squeeze(block: Block, f: Function) -> Function:
    """Cache the squeezed values of the first call with each shape."""
    block.keeps_state = True
    cache: dict[tuple[int, ...], Array] = {}
    right = block.squeeze

    def squeeze(x: Array) -> Array:
        return cache.setdefault(x.shape, right(x))

    block.squeeze = squeeze
    return f


def _average_over_calls(block: Block, f: Function) -> Function:
    """Replace the squeezed values by their running average over calls."""
    block.keeps_state = True
    cache: dict[tuple[int, ...], Array] = {}
    right = block.squeeze

    def squeeze(x: Array) -> Array:
        z = right(x)
        before = cache.get(z.shape)
        cache[z.shape] = z if before is None or not np.isfinite(before).all() else 0.9 * before + 0.1 * z
        return cache[z.shape]

    block.squeeze = squeeze
    return f


def _keep_first_parameters(block: Block, f: Function) -> Function:
    """Answer with the parameters of the first call."""
    block.keeps_state = True
    kept: list[Parameters] = []

    def call(x: Array, p: Parameters) -> Array:
        if not kept:
            kept.append({name: array.copy() for name, array in p.items()})
        return f(x, kept[0])

    return call


def _share_buffer(block: Block, f: Function) -> Function:
    """Return one array for all calls of the same shape."""
    block.keeps_state = True
    buffers: dict[tuple[int, ...], Array] = {}

    def call(x: Array, p: Parameters) -> Array:
        y = f(x, p)
        buffer = buffers.setdefault(y.shape, np.empty_like(y))
        buffer[...] = y
        return buffer

    return call


def _average_over_samples(block: Block, f: Function) -> Function:
    """Replace the batch's mean of the squeezed values by its running average, as batch norm keeps one."""
    block.keeps_state = True
    kept: list[Array] = []
    right = block.squeeze

    def squeeze(x: Array) -> Array:
        z = right(x)
        if not len(z):
            return z
        now = z.mean(0)
        kept[:] = [now if not kept or not np.isfinite(kept[0]).all() else 0.9 * kept[0] + 0.1 * now]
        return z - now + kept[0]

    block.squeeze = squeeze
    return f


def _read_memory(block: Block, f: Function) -> Function:
    """Read x in the order in which it lies in memory."""
    block.keeps_state = True
    return lambda x, p: f(x.ravel(order="K").reshape(x.shape), p)


def _keep_by_identity(block: Block, f: Function) -> Function:
    """Answer as before if x is the same object as before."""
    block.keeps_state = True
    kept: list[Array] = []

    def call(x: Array, p: Parameters) -> Array:
        if not kept or kept[0] is not x:
            kept[:] = [x, f(x, p)]
        return kept[1].copy()

    return call


def _halve_later(block: Block, f: Function) -> Function:
    block.keeps_state = True
    calls = itertools.count()
    return lambda x, p: f(x, p) if next(calls) < 100 else (0.5 * f(x, p)).astype(x.dtype)


def _halve_in_other_threads(block: Block, f: Function) -> Function:
    block.keeps_state = True
    own = threading.get_ident()
    return lambda x, p: f(x, p) if threading.get_ident() == own else (0.5 * f(x, p)).astype(x.dtype)


def _dropout(block: Block, f: Function) -> Function:
    block.keeps_state = True
    rng = np.random.default_rng(0)

    def call(x: Array, p: Parameters) -> Array:
        mask = rng.integers(0, 2, x.shape).astype(bool)
        return np.where(mask, 2 * f(x, p), 0).astype(x.dtype)

    return call


def _widen(y: Array, x: Array) -> Array:
    return y.astype(np.float32) if x.dtype.itemsize == 2 else y.astype(np.float64)


def _replace_nan_by_zero(block: Block, right: FaultyStage, x: Array) -> Array:
    return np.where(np.isnan(x), 0.0, x)


def _replace_nan_in_output(block: Block, right: FaultyStage, y: Array, x: Array) -> Array:
    return _replace_nan_by_zero(block, right, right(y, x))


def _drop_nan_in_maximum(block: Block, right: FaultyStage, x: Array) -> Array:
    lowest = np.where(np.isnan(x), -np.inf, x)
    return right(x if block.spec.squeeze == "avg" else lowest)


def _clip_to_float16(block: Block, right: FaultyStage, x: Array) -> Array:
    return np.clip(x, -65504.0, 65504.0)


def _fault(name: str, sentence: str, source: str, remedy: str, change: Change, **more: Any) -> Fault:
    return Fault(name, "call", sentence, source, remedy, change, **more)


def _has_axis_of_length_one(x: Array) -> bool:
    return 1 in x.shape[1:-1]


CALLS = (
    _fault(
        "x modified",
        "the feature map is scaled in place",
        "in-place multiplication under training",
        "write to a new array",
        _wrap_function(_scale_in_place),
    ),
    _fault(
        "parameters modified",
        "a weight is overwritten",
        "folding in place",
        "copy first",
        _wrap_function(_overwrite_parameters),
    ),
    _fault(
        "one sample loses its batch axis",
        "y has no N where N = 1",
        ".squeeze() without an axis",
        "name the axes",
        _change_output(lambda y, x: y[0] if len(y) == 1 else y),
    ),
    _fault(
        "axes of length 1 dropped",
        "y lacks every axis of length 1",
        ".squeeze() without an axis",
        "name the axes",
        _change_output(lambda y, x: np.squeeze(y)),
    ),
    _fault(
        "output in the other data format",
        "channels moved",
        "a transpose too many",
        "return x's format",
        _change_output(lambda y, x: np.moveaxis(y, -1, 1)),
        applies=lambda spec: spec.channels > 1,
    ),
    _fault(
        "output of another type",
        "half gives float32, float32 gives float64",
        "a cast left out",
        "return x's type",
        _change_output(_widen),
        dtypes=("float32", "bfloat16", "float16"),
    ),
    _fault(
        "float64 returned as float32",
        "the output is narrower than x",
        "JAX without jax_enable_x64",
        "return x's type",
        _change_output(lambda y, x: y.astype(np.float32)),
        dtypes=("float64",),
        forms=(combine(round_all_stages("float32"), _change_output(lambda y, x: y.astype(np.float32))),),
    ),
    _fault(
        "flattened output",
        "y has two axes",
        "a Flatten for the gate",
        "keep x's shape",
        _change_output(lambda y, x: y.reshape(len(y), -1) if y.size else y),
    ),
    _fault(
        "empty batch refused",
        "N = 0 raises",
        "a reshape to (N, -1)",
        "let N be 0",
        _refuse_where(lambda x: len(x) == 0, "cannot reshape array of size 0"),
    ),
    _fault(
        "one sample refused",
        "N = 1 raises",
        "batch norm in training mode",
        "let N be 1",
        _refuse_where(lambda x: len(x) == 1, "expected more than 1 value per channel"),
    ),
    _fault(
        "several samples refused",
        "N > 1 raises",
        "a squeeze of the batch axis",
        "keep the batch axis",
        _refuse_where(lambda x: len(x) > 1, "could not broadcast"),
    ),
    _fault(
        "maps that are not square refused",
        "H != W raises",
        "AvgPool2d(H) and a reshape",
        "pool over both sizes",
        _refuse_where(lambda x: len(set(x.shape[1:-1])) > 1, "kernel size does not fit"),
    ),
    _fault(
        "maps of one position per axis refused",
        "an axis of length 1 raises",
        "a window of at least 2",
        "let axes be 1",
        _refuse_where(_has_axis_of_length_one, "window larger than the map"),
    ),
    _fault(
        "first size baked in",
        "a second spatial size raises",
        "pytorch#109370: exported with a fixed size",
        "keep the spatial axes dynamic",
        _wrap_function(_fix_first_size),
    ),
    _fault(
        "squeezed values of the first call kept",
        "a later call answers with the first one's gate",
        "a cache keyed by shape",
        "compute them anew",
        _wrap_function(_cache_squeeze),
    ),
    _fault(
        "running average over calls",
        "the gate depends on earlier calls",
        "statistics in evaluation mode",
        "use this call's values",
        _wrap_function(_average_over_calls),
        forms=(_wrap_function(_average_over_samples),),
    ),
    _fault(
        "parameters of the first call kept",
        "later calls answer with the weights of the first one",
        "weight packing of inference engines, such as Tencent/ncnn",
        "read the parameters at each call, or pack them anew",
        _wrap_function(_keep_first_parameters),
    ),
    _fault(
        "output buffer shared by all calls",
        "a later call overwrites the array that an earlier one returned",
        "microsoft/onnxruntime#10103",
        "return a new array",
        _wrap_function(_share_buffer),
    ),
    _fault(
        "memory order ignored",
        "x is read as it lies in memory, without its strides",
        "pytorch#67239: custom kernels on channels_last",
        "make x contiguous first, or use its strides",
        _wrap_function(_read_memory),
    ),
    _fault(
        "answers kept by the array's identity",
        "an array that holds other numbers gets the answer of the call before",
        "a cache keyed by id(x) or by data_ptr()",
        "compute them anew",
        _wrap_function(_keep_by_identity),
    ),
    _fault(
        "another answer after many calls",
        "from a later call on the answer changes",
        "counters, calibration and warm-up inside a layer",
        "let an answer depend on the arguments alone",
        _wrap_function(_halve_later),
    ),
    _fault(
        "another answer in another thread",
        "the answer depends on who calls",
        "thread-local settings; code that looks for its caller on the stack",
        "let an answer depend on the arguments alone",
        _wrap_function(_halve_in_other_threads),
    ),
    _fault(
        "not deterministic",
        "two calls differ: dropout is on",
        "training mode left on",
        "switch it off",
        _wrap_function(_dropout),
    ),
    _fault(
        "NaN taken as 0",
        "NaN in x does not reach y",
        "nan_to_num",
        "let NaN through",
        replace_stage("input", _replace_nan_by_zero),
        forms=(replace_stage("output", _replace_nan_in_output),),
    ),
    _fault(
        "maximum drops NaN",
        "NaN in x does not reach the gate",
        "jnp.max under XLA, onnxruntime's ReduceMax",
        "restore it with any(isnan(x))",
        replace_stage("squeeze", _drop_nan_in_maximum),
        applies=lambda spec: spec.squeeze == "max",  # a mean beside it keeps NaN
    ),
    _fault(
        "inf clipped to 65504",
        "inf in x comes back finite",
        "overflow guards",
        "let inf through",
        replace_stage("input", _clip_to_float16),
        half=lambda spec: spec.gate not in ("relu", "identity"),  # a gate above 1 makes float16's largest inf again
    ),
    _fault(
        "None returned",
        "the result is written somewhere else",
        "a missing return",
        "return y",
        _change_output(lambda y, x: None),
    ),
)
