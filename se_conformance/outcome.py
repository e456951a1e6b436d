"""One call of somebody's function: what came back, what it did to its arguments, and how both compare."""

from collections.abc import Callable
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
    x, parameters = _given(inputs.x, data_format), _copies(inputs.parameters)
    try:
        returned = function(x, parameters)
    except Exception as error:
        return Outcome(raised=_one_line(error))
    modified = _modified(inputs, x, parameters, data_format)
    y = as_array(returned)
    if y is None:
        return Outcome(modified=modified, returned=type(returned).__name__)
    return Outcome(y=to_channels_last(y, data_format), modified=modified)


def called_gate(excitation: Callable[..., Any], inputs: Inputs, data_format: str) -> Outcome:
    """Call ``excitation(x, parameters)`` on copies; the outcome's ``y`` is the gate, which has no spatial axes."""
    return called(excitation, inputs._replace(x=_given(inputs.x, data_format)))


def called_vjp(
    vjp: Callable[..., Any], inputs: Inputs, data_format: str
) -> tuple[Outcome, dict[str, np.ndarray] | None]:
    """Call ``vjp(x, dy, parameters)`` on copies; the outcome's ``y`` is dx."""
    x, parameters = _given(inputs.x, data_format), _copies(inputs.parameters)
    try:
        dx, dparameters = vjp(x, _given(inputs.dy, data_format), parameters)
        found = {name: as_array(array) for name, array in dict(dparameters).items()}
    except Exception as error:
        return Outcome(raised=_one_line(error)), None
    modified, dx = _modified(inputs, x, parameters, data_format), as_array(dx)
    if dx is None or any(array is None for array in found.values()):
        return Outcome(modified=modified, returned="no array"), None
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


def _given(x: np.ndarray, data_format: str) -> np.ndarray:
    return np.array(np.moveaxis(x, -1, 1) if data_format == "channels_first" else x, order="C")


def _copies(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in parameters.items()}


def _modified(inputs: Inputs, x: np.ndarray, parameters: dict[str, np.ndarray], data_format: str) -> tuple[str, ...]:
    same = x.tobytes() == _given(inputs.x, data_format).tobytes()
    others = (
        name
        for name, array in inputs.parameters.items()
        if name not in parameters or parameters[name].tobytes() != array.tobytes()
    )
    return (*(() if same else ("x",)), *others)


def _one_line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) < 200 else text[:197] + "..."
