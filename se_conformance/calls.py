"""One call of the judged function: what it returned, and which of its arguments it modified."""

import contextvars
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .cases import Inputs
from .guard import Guard, TimedOut

MAX_MESSAGE_CHARACTERS = 200
MANY_CALLS = 101
"""A block is called more often than that, so that one that changes later shows it."""
MANY_CALLS_SECONDS, MANY_CALLS_WALL_SECONDS = 0.5, 5.0
"""Seconds after which it is not called again: of this thread's processor time, which other programs hardly change, and
of wall time, which also limits a block that computes in other threads or on a GPU."""


@dataclass
class CallResult:
    """The result of one call.

    Args:
        raised: the exception, as text; empty where there was none.
        y: the output, channels last; None where the call returned no array of numbers.
        modified: names of arguments that the call modified.
        changed: settings of the process that the call changed; they are put back.
        returned: the type of what came back, where that is no array.
    """

    raised: str = ""
    y: np.ndarray | None = None
    modified: tuple[str, ...] = ()
    returned: str = ""
    changed: tuple[str, ...] = ()


def call_function(
    function: Callable[..., Any],
    inputs: Inputs,
    data_format: str = "channels_last",
    guard: Guard | None = None,
    way: str = "",
) -> CallResult:
    """Call ``function(x, parameters)`` on copies; without a guard the function is trusted.

    Args:
        function: any function.
        inputs: x, channels last, and the parameters.
        data_format: the layout in which x is given.
        guard: of the calls.
        way: how it is called, a key of ``trial_inputs.WAYS``; once on new arrays by default.
    """
    x, parameters = _copy_map(inputs.x, data_format, way), _copy_arrays(inputs.parameters, way)
    returned, error, changed = _call_in_way(way, guard, function, x, parameters)
    if error is not None:
        return CallResult(raised=_to_line(error), changed=changed)
    modified = _find_modified(inputs, x, parameters, data_format)
    y = as_array(returned)
    if y is None:
        return CallResult(modified=modified, returned=_describe_type(returned), changed=changed)
    return CallResult(y=to_channels_last(y, data_format), modified=modified, changed=changed)


def _call_in_way(
    way: str, guard: Guard | None, function: Callable[..., Any], x: np.ndarray, parameters: dict[str, np.ndarray]
) -> tuple[Any, BaseException | None, tuple[str, ...]]:
    if way == "thread":
        return _call(guard, run_in_thread, function, x, parameters)
    if way == "reused":
        arrays = {"x": x, **parameters}
        right = {name: array.copy() for name, array in arrays.items()}
        for array in arrays.values():
            array *= -0.5
        returned, error, changed = _call(guard, function, x, parameters)
        for name, array in arrays.items():
            array[...] = right[name]
        if error is not None:
            return returned, error, changed
    end, wall_end = time.thread_time() + MANY_CALLS_SECONDS, time.monotonic() + MANY_CALLS_WALL_SECONDS
    for _ in range(MANY_CALLS - 1 if way == "often" else 0):
        returned, error, changed = _call(guard, function, x, parameters)
        if error is not None or changed:
            return returned, error, changed
        if time.thread_time() > end or time.monotonic() > wall_end:
            break
    return _call(guard, function, x, parameters)


def stride(array: np.ndarray) -> np.ndarray:
    """Copy an array into a read-only view of a larger one: axes in reverse order, and NaN between the numbers."""
    wide = np.full((*array.shape[:0:-1], 2 * array.shape[0]), np.nan).astype(array.dtype)
    view = wide[..., ::2].T
    view[...] = array
    view.flags.writeable = False
    return view


def run_in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a thread in which nothing else runs, so that no caller is on its stack."""
    with ThreadPoolExecutor(1) as pool:
        torch = sys.modules.get("torch")
        if torch is not None:
            pool.submit(torch.set_grad_enabled, torch.is_grad_enabled()).result()
        return pool.submit(contextvars.copy_context().run, function, *arguments).result()


def _call(
    guard: Guard | None, function: Callable[..., Any], *arguments: Any
) -> tuple[Any, BaseException | None, tuple[str, ...]]:
    if guard is not None:
        return guard.call(function, *arguments)
    try:
        with np.errstate(all="ignore"):
            return function(*arguments), None, ()
    except Exception as error:
        return None, error, ()


def call_excitation(
    excitation: Callable[..., Any], inputs: Inputs, data_format: str, guard: Guard | None = None
) -> CallResult:
    """Call ``excitation(x, parameters)`` on copies; ``y`` of the result is the gate, which has no spatial axes."""
    return call_function(excitation, inputs._replace(x=to_data_format(inputs.x, data_format)), guard=guard)


def call_vjp(
    vjp: Callable[..., Any], inputs: Inputs, data_format: str, guard: Guard | None = None, way: str = ""
) -> tuple[CallResult, dict[str, np.ndarray] | None]:
    """Call ``vjp(x, dy, parameters)`` on copies; ``y`` of the result is dx, and the second value is dparameters."""
    x, dy = _copy_map(inputs.x, data_format, way), _copy_map(inputs.dy, data_format, way)
    parameters = _copy_arrays(inputs.parameters, way)
    returned, error, changed = _call(guard, vjp, x, dy, parameters)
    if error is not None:
        return CallResult(raised=_to_line(error), changed=changed), None
    modified = _find_modified(inputs, x, parameters, data_format)
    if dy.tobytes() != to_data_format(inputs.dy, data_format).tobytes():
        modified += ("dy",)
    result = CallResult(modified=modified, changed=changed)
    if not (isinstance(returned, (tuple, list)) and len(returned) == 2 and isinstance(returned[1], Mapping)):
        return replace(result, returned=f"{_describe_type(returned)}, not (dx, dparameters)"), None
    dx = as_array(returned[0])
    if dx is None:
        return replace(result, returned=_describe_type(returned[0])), None
    dparameters = {name: as_array(value) for name, value in returned[1].items()}
    missing = [str(name) for name, array in dparameters.items() if array is None]
    if missing:
        return replace(result, returned=f"no array for {', '.join(missing)}"), None
    found = {name: array for name, array in dparameters.items() if array is not None}
    return replace(result, y=to_channels_last(dx, data_format)), found


def as_array(value: Any) -> np.ndarray | None:
    """Convert a value to a NumPy array of numbers; None if it is none, or hides numbers behind a mask."""
    if value is None or isinstance(value, (tuple, list, dict, str, np.ma.MaskedArray)):
        return None
    try:
        array = np.array(value)  # a copy: a buffer or a mapped file may change with the next call
    except Exception:
        return None
    return array if array.dtype.kind in "fiub" or array.dtype.name == "bfloat16" else None


def to_channels_last(array: np.ndarray, data_format: str) -> np.ndarray:
    """Return a channels-last view; an array with too few axes comes back as it is."""
    return np.moveaxis(array, 1, -1) if data_format == "channels_first" and array.ndim > 2 else array


def to_data_format(x: np.ndarray, data_format: str) -> np.ndarray:
    """Copy a channels-last map into ``data_format``."""
    return np.array(np.moveaxis(x, -1, 1) if data_format == "channels_first" else x, order="C")


def _copy_map(x: np.ndarray, data_format: str, way: str) -> np.ndarray:
    """Copy a channels-last map into ``data_format``, laid out in memory as the way of calling has it."""
    copy = to_data_format(x, data_format)
    if way == "strided":
        return stride(copy)
    if way == "broadcast":
        return np.broadcast_to(to_data_format(x[:1, ..., :1], data_format), copy.shape)
    return copy


def _copy_arrays(parameters: dict[str, np.ndarray], way: str) -> dict[str, np.ndarray]:
    return {name: stride(array) if way == "strided" else array.copy() for name, array in parameters.items()}


def _find_modified(
    inputs: Inputs, x: np.ndarray, parameters: dict[str, np.ndarray], data_format: str
) -> tuple[str, ...]:
    """Name of the arguments that differ from the inputs after a call."""
    is_same = x.tobytes() == to_data_format(inputs.x, data_format).tobytes()
    changed = [name for name, array in inputs.parameters.items() if not _is_same(parameters.get(name), array)]
    added = [str(name) for name in parameters if name not in inputs.parameters]
    return (*(() if is_same else ("x",)), *changed, *added)


def _is_same(found: Any, array: np.ndarray) -> bool:
    return isinstance(found, np.ndarray) and found.dtype == array.dtype and found.tobytes() == array.tobytes()


def _describe_type(value: Any) -> str:
    return f"{type(value).__name__} of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def _to_line(error: BaseException) -> str:
    if isinstance(error, TimedOut):
        return "TimedOut: no answer within the time limit"
    try:
        text = " ".join(f"{type(error).__name__}: {error}".split())
    except BaseException:  # an exception's own __str__ may raise
        text = type(error).__name__
    return text if len(text) < MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 3] + "..."
