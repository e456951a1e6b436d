"""At which stage does a block depart? Asked of its gate, with parameters chosen so that one stage matters at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import se_numpy
from se_spec import SESpec

from .cases import Inputs, round_to
from .comparison import judged, reference
from .outcome import called_gate

if TYPE_CHECKING:
    from .diagnosis import Seen

ORDER = ("call", "squeeze", "reduce", "activation", "expand", "gate", "scale", "gradient", "unknown")


def first_departure(seen: list[Seen], spec: SESpec, excitation: Callable[..., Any] | None, data_format: str) -> str:
    """One of ``ORDER``; ``unknown`` without a gate to look at."""
    if all(one.outcome.raised or one.outcome.y is None for one in seen):
        return "call"
    if excitation is None:
        return "unknown"
    gates = [one for seen_one in seen for one in seen_one.comparisons if one.quantity == "g"]
    if gates and all(one.passed for one in gates):
        return "scale"
    inputs = seen[0].trial.inputs

    def right(changed: Inputs) -> bool:
        return _is_right(excitation, changed, spec, data_format)

    constant = _constant(inputs, spec)
    if right(constant):
        return "squeeze"  # it is wrong on the map, and right on one that needs no squeeze
    if not right(_without(constant, "expand.weight")):
        return "gate" if spec.bias and not right(_without(constant, "expand.weight", "expand.bias")) else _late(spec)
    if spec.single_projection:
        return "expand"
    if not right(_one_to_one(constant, spec)):
        linear = _positive(constant, spec)
        return "activation" if right(linear) else "reduce"
    return "expand"


def _late(spec: SESpec) -> str:
    """Logits are the bias alone and the gate is wrong: the bias if there is one, else the gate."""
    return "expand" if spec.bias else "gate"


def _is_right(excitation: Callable[..., Any], inputs: Inputs, spec: SESpec, data_format: str) -> bool:
    outcome = called_gate(excitation, inputs, data_format)
    dtype = inputs.x.dtype.name
    against = reference(inputs, spec, dtype, gradients=False)
    want, bound, span = against.want.g, against.bound.g, against.span.g
    assert want is not None and bound is not None and span is not None
    if outcome.y is None or outcome.y.size != want.size:
        return False
    slack = bound + (2.0**-7 * np.abs(want) if outcome.y.dtype.itemsize == 2 else 0.0)
    return judged("g", outcome.y.reshape(want.shape), want, slack, span).passed


def _constant(inputs: Inputs, spec: SESpec) -> Inputs:
    """Each sample's channels at their squeezed value everywhere: a map of one position."""
    axes = tuple(range(1, inputs.x.ndim - 1))
    z = se_numpy.block.squeeze(inputs.x.astype(np.float64), spec.squeeze, axes)
    x = np.expand_dims(z, axes)
    return Inputs(round_to(x, inputs.x.dtype.name), round_to(np.ones_like(x), inputs.x.dtype.name), inputs.parameters)


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
