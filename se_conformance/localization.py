"""At which stage does a block depart? Asked of its gate, with parameters chosen so that one stage matters at a time.

Where a block does not hand out its gate, y / x shows it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import se_numpy
from se_numpy.error_bounds import FORMATS
from se_spec import SESpec

from .calls import called_gate, to_channels_last
from .cases import Inputs, round_to
from .comparison import judged, reference
from .records import TrialRecord

ORDER = ("call", "squeeze", "reduce", "activation", "expand", "gate", "scale", "gradient", "unknown")


def first_departure(
    seen: list[TrialRecord],
    spec: SESpec,
    function: Callable[..., Any],
    excitation: Callable[..., Any] | None,
    data_format: str,
) -> str:
    """One of ``ORDER``; ``unknown`` where no gate is handed out, and y shows none that all positions share."""
    if all(one.outcome.raised or one.outcome.y is None for one in seen):
        return "call"
    if excitation is None:
        if not _has_one_gate(seen[0], spec):
            return "unknown"
        excitation = _shown_gate(function, spec, data_format)
        roundings = _roundings_of_a_quotient
    else:
        roundings = _roundings_of_a_gate
    gates = [one for seen_one in seen for one in seen_one.comparisons if one.quantity == "g"]
    if gates and all(one.passed for one in gates):
        return "scale"
    inputs = seen[0].trial.inputs

    def right(changed: Inputs) -> bool:
        return _is_right(excitation, roundings, changed, spec, data_format)

    constant = _constant(inputs, spec)
    if right(constant) or right(_absolute(constant)):
        return "squeeze"  # it is wrong on the map, and right on one that needs no squeeze
    if not right(_without(constant, "expand.weight")):  # logits are the bias, or 0
        return "expand" if spec.bias and right(_without(constant, "expand.bias")) else "gate"
    if spec.single_projection:
        return "expand"
    if not right(_one_to_one(constant, spec)):
        linear = _positive(constant, spec)
        return "activation" if right(linear) else "reduce"
    return "expand"


def _shown_gate(function: Callable[..., Any], spec: SESpec, data_format: str) -> Callable[..., Any]:
    """``excitation(x, parameters)`` of a block that only hands out y: y / x where x is largest."""

    def excitation(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        y = to_channels_last(np.asarray(function(x.copy(), parameters)), data_format)
        return _quotients(to_channels_last(x, data_format), y, spec).max(1)

    return excitation


def _quotients(x: np.ndarray, y: np.ndarray, spec: SESpec) -> np.ndarray:
    """The gate that each position shows, (N, positions, C); minus infinity where x is below half its largest."""
    x, y = (array.astype(np.float64).reshape(len(x), -1, x.shape[-1]) for array in (x, y))
    size = np.abs(x)
    large = (size > 0) & (2 * size >= size.max(1, keepdims=True, initial=0.0))
    shown = np.full(x.shape, -np.inf)
    shown[large] = (y[large] / x[large] - float(spec.residual)) / spec.gain
    return shown


def _has_one_gate(one: TrialRecord, spec: SESpec) -> bool:
    """Whether all positions show the same."""
    x, y = one.trial.inputs.x, one.outcome.y
    if y is None or y.shape != x.shape or not np.isfinite(y.astype(np.float64)).all():
        return False
    shown = _quotients(x, y, spec)
    lowest = np.where(np.isfinite(shown), shown, np.inf).min(1)
    return bool((shown.max(1) - lowest <= _roundings_of_a_quotient(x.dtype.name, lowest, spec, x.dtype)).all())


def _roundings_of_a_quotient(dtype: str, g: np.ndarray, spec: SESpec, returned: np.dtype) -> np.ndarray:
    """What y's roundings move a gate that y / x shows."""
    return np.asarray(8 * FORMATS[dtype].unit * (np.abs(g) + float(spec.residual) / abs(spec.gain)))


def _roundings_of_a_gate(dtype: str, g: np.ndarray, spec: SESpec, returned: np.dtype) -> np.ndarray:
    """A gate that is handed out in half precision was rounded once more."""
    return np.abs(g) * (2.0**-7 if returned.itemsize == 2 else 0.0)


def _is_right(
    excitation: Callable[..., Any], roundings: Callable[..., np.ndarray], inputs: Inputs, spec: SESpec, data_format: str
) -> bool:
    outcome = called_gate(excitation, inputs, data_format)
    dtype = inputs.x.dtype.name
    against = reference(inputs, spec, dtype, gradients=False)
    want, bound, span = against.want.g, against.bound.g, against.span.g
    assert want is not None and bound is not None and span is not None
    if outcome.y is None or outcome.y.size != want.size:
        return False
    slack = bound + roundings(dtype, want, spec, outcome.y.dtype)
    return judged("g", outcome.y.reshape(want.shape), want, slack, span).passed


def _constant(inputs: Inputs, spec: SESpec) -> Inputs:
    """Each sample's channels at their squeezed value everywhere: a map of one position."""
    axes = tuple(range(1, inputs.x.ndim - 1))
    z = se_numpy.block.squeeze(inputs.x.astype(np.float64), spec.squeeze, axes)
    x = np.expand_dims(z, axes)
    return Inputs(round_to(x, inputs.x.dtype.name), round_to(np.ones_like(x), inputs.x.dtype.name), inputs.parameters)


def _absolute(inputs: Inputs) -> Inputs:
    """The same without signs, which some statistics lose."""
    return inputs._replace(x=np.abs(inputs.x))


def _without(inputs: Inputs, *names: str) -> Inputs:
    zeros = {name: np.zeros_like(inputs.parameters[name]) for name in names if name in inputs.parameters}
    return inputs._replace(parameters={**inputs.parameters, **zeros})


def _one_to_one(inputs: Inputs, spec: SESpec) -> Inputs:
    """Each logit is one hidden value."""
    weight = np.eye(spec.hidden)[np.arange(spec.channels) % spec.hidden]
    changed = {"expand.weight": round_to(weight, inputs.x.dtype.name)}
    return _without(inputs._replace(parameters={**inputs.parameters, **changed}), "expand.bias")


def _positive(inputs: Inputs, spec: SESpec) -> Inputs:
    """As ``_one_to_one``, and hidden values between 1/2 and 2: there relu and its kin do nothing."""
    plain = _one_to_one(inputs, spec)
    x = np.abs(inputs.x.astype(np.float64)) + 0.5
    weight = np.abs(inputs.parameters["reduce.weight"].astype(np.float64))
    axes = tuple(range(1, x.ndim - 1))
    u = x.mean(axes) @ weight.T
    weight = weight / u.max(initial=1e-30, axis=0)[:, None] * 1.5
    changed = {"reduce.weight": round_to(weight, inputs.x.dtype.name)}
    moved = plain._replace(x=round_to(x, inputs.x.dtype.name), parameters={**plain.parameters, **changed})
    return _without(moved, "reduce.bias")
