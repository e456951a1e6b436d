"""Fault localisation: at which stage does a block depart from the spec?

The gate is called on inputs and parameters that make one stage at a time matter. A block without ``excitation`` shows
its gate as y / x.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import se_numpy
from se_spec import SESpec
from se_spec.formats import FORMATS

from .calls import call_excitation, to_channels_last
from .cases import Inputs, round_to
from .comparison import allow_rounded_gate, compare_arrays, reference
from .records import TrialRecord

ORDER = ("call", "squeeze", "reduce", "activation", "expand", "gate", "scale", "gradient", "unknown")
ROUNDINGS_OF_QUOTIENT = 8
"""Roundings, in units of y's dtype, by which a gate that is y / x may be off: those of y, and of the gate before."""

Excitation = Callable[..., Any]


def failing_stage(
    records: list[TrialRecord],
    spec: SESpec,
    function: Callable[..., Any],
    excitation: Excitation | None,
    data_format: str,
) -> str:
    """Find the first stage that departs from the spec.

    Args:
        records: every trial of one rank in order; at least one failed, and not by its gradients alone.
        spec: what the block should be.
        function: the judged function.
        excitation: its gate, or None.
        data_format: the layout of both.

    Returns:
        One of ``ORDER``; ``"unknown"`` where the block has no ``excitation`` and y / x is no common gate.
    """
    if all(record.forward.raised or record.forward.y is None for record in records):
        return "call"
    is_quotient = excitation is None
    if excitation is None:
        if not _has_one_gate(records[0], spec):
            return "unknown"
        excitation = _excitation_from_output(function, spec, data_format)
    gates = [entry for record in records for entry in record.comparisons if entry.quantity == "g"]
    if gates and all(entry.passed for entry in gates):
        return "scale"

    def is_right(inputs: Inputs) -> bool:
        return _is_gate_right(excitation, inputs, spec, data_format, is_quotient=is_quotient)

    constant = _make_constant(records[0].trial.inputs, spec)
    if is_right(constant) or is_right(_make_absolute(constant)):
        return "squeeze"  # wrong on the map, right on a map that equals its squeezed values
    if not is_right(_set_zero(constant, "expand.weight")):  # the logits are expand.bias, or 0
        return "expand" if spec.bias and is_right(_set_zero(constant, "expand.bias")) else "gate"
    if spec.single_projection:
        return "expand"
    if not is_right(_make_expand_identity(constant, spec)):
        return "activation" if is_right(_make_hidden_positive(constant, spec)) else "reduce"
    return "expand"


def _excitation_from_output(function: Callable[..., Any], spec: SESpec, data_format: str) -> Excitation:
    """``excitation(x, parameters)`` of a block that returns y alone: y / x where x is largest."""

    def excitation(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        y = to_channels_last(np.asarray(function(x.copy(), parameters)), data_format)
        return gate_per_position(to_channels_last(x, data_format), y, spec).max(1)

    return excitation


def gate_per_position(x: np.ndarray, y: np.ndarray, spec: SESpec) -> np.ndarray:
    """Compute the gate y / x at each position, (N, positions, C); -inf where |x| is below half its maximum."""
    x, y = (array.astype(np.float64).reshape(len(x), -1, x.shape[-1]) for array in (x, y))
    size = np.abs(x)
    is_large = (size > 0) & (2 * size >= size.max(1, keepdims=True, initial=0.0))
    gate = np.full(x.shape, -np.inf)
    gate[is_large] = (y[is_large] / x[is_large] - float(spec.residual)) / spec.gain
    return gate


def _has_one_gate(record: TrialRecord, spec: SESpec) -> bool:
    """Whether all positions of each sample and channel show the same gate, up to rounding."""
    x, y = record.trial.inputs.x, record.forward.y
    if y is None or y.shape != x.shape or not np.isfinite(y.astype(np.float64)).all():
        return False
    gate = gate_per_position(x, y, spec)
    lowest = np.where(np.isfinite(gate), gate, np.inf).min(1)
    return bool((gate.max(1) - lowest <= quotient_error(x.dtype.name, lowest, spec)).all())


def quotient_error(dtype: str, g: np.ndarray, spec: SESpec) -> np.ndarray:
    """Bound the error of a gate that is computed as y / x, from the roundings of y."""
    return np.asarray(ROUNDINGS_OF_QUOTIENT * FORMATS[dtype].unit * (np.abs(g) + float(spec.residual) / abs(spec.gain)))


def _is_gate_right(
    excitation: Excitation, inputs: Inputs, spec: SESpec, data_format: str, *, is_quotient: bool
) -> bool:
    call = call_excitation(excitation, inputs, data_format)
    dtype = inputs.x.dtype.name
    expected = reference(inputs, spec, dtype, gradients=False)
    if not is_quotient:
        expected = allow_rounded_gate(expected, call.y)
    want, bound, span = expected.want.g, expected.bound.g, expected.span.g
    assert want is not None and bound is not None and span is not None
    if call.y is None or call.y.size != want.size:
        return False
    if is_quotient:
        bound = bound + quotient_error(dtype, want, spec)
    return compare_arrays("g", call.y.reshape(want.shape), want, bound, span).passed


def _make_constant(inputs: Inputs, spec: SESpec) -> Inputs:
    """Replace each map by one position that holds its squeezed values."""
    axes = tuple(range(1, inputs.x.ndim - 1))
    z = se_numpy.block.squeeze(inputs.x.astype(np.float64), spec.squeeze, axes)
    x = np.expand_dims(z, axes)
    return Inputs(round_to(x, inputs.x.dtype.name), round_to(np.ones_like(x), inputs.x.dtype.name), inputs.parameters)


def _make_absolute(inputs: Inputs) -> Inputs:
    """Remove the signs of x, which some wrong statistics lose."""
    return inputs._replace(x=np.abs(inputs.x))


def _set_zero(inputs: Inputs, *names: str) -> Inputs:
    """Set parameters to zero."""
    zeros = {name: np.zeros_like(inputs.parameters[name]) for name in names if name in inputs.parameters}
    return inputs._replace(parameters={**inputs.parameters, **zeros})


def _make_expand_identity(inputs: Inputs, spec: SESpec) -> Inputs:
    """Make each logit one hidden value."""
    weight = np.eye(spec.hidden)[np.arange(spec.channels) % spec.hidden]
    changed = {"expand.weight": round_to(weight, inputs.x.dtype.name)}
    return _set_zero(inputs._replace(parameters={**inputs.parameters, **changed}), "expand.bias")


def _make_hidden_positive(inputs: Inputs, spec: SESpec) -> Inputs:
    """Make each logit one hidden value between 1/2 and 2, where relu and similar activations are linear."""
    linear = _make_expand_identity(inputs, spec)
    x = np.abs(inputs.x.astype(np.float64)) + 0.5
    weight = np.abs(inputs.parameters["reduce.weight"].astype(np.float64))
    axes = tuple(range(1, x.ndim - 1))
    u = x.mean(axes) @ weight.T
    weight = weight / u.max(initial=1e-30, axis=0)[:, None] * 1.5
    changed = {"reduce.weight": round_to(weight, inputs.x.dtype.name)}
    moved = linear._replace(x=round_to(x, inputs.x.dtype.name), parameters={**linear.parameters, **changed})
    return _set_zero(moved, "reduce.bias")
