"""One call of somebody's function: what came back, what it did to its arguments, and how both compare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cases import Inputs


@dataclass
class Outcome:
    """What a call did.

    Args:
        raised: the exception, as text; empty where there was none.
        y: the output, channels last; None where there is none that is an array of numbers.
        modified: names of arguments that were changed.
        returned: what came back, where it is no array.
    """

    raised: str = ""
    y: np.ndarray | None = None
    modified: tuple[str, ...] = ()
    returned: str = ""


def called(function: Callable[..., Any], inputs: Inputs, data_format: str = "channels_last") -> Outcome:
    """Call ``function(x, parameters)`` on copies."""
    x, parameters = laid_out(inputs.x, data_format), _copies(inputs.parameters)
    try:
        with np.errstate(all="ignore"):  # inf - inf on the way is no mistake, even where warnings are errors
            returned = function(x, parameters)
    except (Exception, SystemExit) as error:
        return Outcome(raised=_one_line(error))
    modified = _modified(inputs, x, parameters, data_format)
    y = as_array(returned)
    if y is None:
        return Outcome(modified=modified, returned=_kind(returned))
    return Outcome(y=to_channels_last(y, data_format), modified=modified)


def called_gate(excitation: Callable[..., Any], inputs: Inputs, data_format: str) -> Outcome:
    """Call ``excitation(x, parameters)`` on copies; the outcome's ``y`` is the gate, which has no spatial axes."""
    return called(excitation, inputs._replace(x=laid_out(inputs.x, data_format)))


def called_vjp(
    vjp: Callable[..., Any], inputs: Inputs, data_format: str
) -> tuple[Outcome, dict[str, np.ndarray] | None]:
    """Call ``vjp(x, dy, parameters)`` on copies; the outcome's ``y`` is dx."""
    x, dy, parameters = laid_out(inputs.x, data_format), laid_out(inputs.dy, data_format), _copies(inputs.parameters)
    try:
        with np.errstate(all="ignore"):
            returned = vjp(x, dy, parameters)
    except (Exception, SystemExit) as error:
        return Outcome(raised=_one_line(error)), None
    modified = _modified(inputs, x, parameters, data_format)
    if dy.tobytes() != laid_out(inputs.dy, data_format).tobytes():
        modified += ("dy",)
    if not (isinstance(returned, (tuple, list)) and len(returned) == 2 and isinstance(returned[1], Mapping)):
        return Outcome(modified=modified, returned=f"{_kind(returned)}, not (dx, dparameters)"), None
    dx, found = as_array(returned[0]), {name: as_array(array) for name, array in returned[1].items()}
    if dx is None:
        return Outcome(modified=modified, returned=_kind(returned[0])), None
    if None in [array if array is None else 0 for array in found.values()]:
        names = ", ".join(str(name) for name, array in found.items() if array is None)
        return Outcome(modified=modified, returned=f"no array for {names}"), None
    return Outcome(y=to_channels_last(dx, data_format), modified=modified), found  # type: ignore[return-value]


def as_array(value: Any) -> np.ndarray | None:
    """A NumPy array of numbers, or None."""
    if value is None or isinstance(value, (tuple, list, dict, str)):
        return None
    try:
        array = np.asarray(value)
    except Exception:
        return None
    return array if array.dtype.kind in "fiub" or array.dtype.name == "bfloat16" else None


def to_channels_last(array: np.ndarray, data_format: str) -> np.ndarray:
    """A view; an array with too few axes is returned as it is."""
    return np.moveaxis(array, 1, -1) if data_format == "channels_first" and array.ndim > 2 else array


def laid_out(x: np.ndarray, data_format: str) -> np.ndarray:
    """A copy of a map that is channels last, in a data format."""
    return np.array(np.moveaxis(x, -1, 1) if data_format == "channels_first" else x, order="C")


def _copies(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in parameters.items()}


def _modified(inputs: Inputs, x: np.ndarray, parameters: dict[str, np.ndarray], data_format: str) -> tuple[str, ...]:
    same = x.tobytes() == laid_out(inputs.x, data_format).tobytes()
    others = [name for name, array in inputs.parameters.items() if not _is_same(parameters.get(name), array)]
    added = [str(name) for name in parameters if name not in inputs.parameters]
    return (*(() if same else ("x",)), *others, *added)


def _is_same(found: Any, array: np.ndarray) -> bool:
    return isinstance(found, np.ndarray) and found.dtype == array.dtype and found.tobytes() == array.tobytes()


def _kind(value: Any) -> str:
    return f"{type(value).__name__} of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def _one_line(error: BaseException) -> str:
    try:
        text = " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:
        text = type(error).__name__
    return text if len(text) < 200 else text[:197] + "..."
