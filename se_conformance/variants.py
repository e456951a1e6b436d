"""One faulty variant of the block beside the records of the judged block."""

from collections.abc import Callable
from typing import Any

import numpy as np

from se_spec import SESpec
from se_spec.formats import FORMATS

from .calls import CallResult, call_function, call_vjp
from .comparison import Result
from .distance import EXPLAINED_DISTANCE, MAX_DISTANCE, relative_distance
from .faults import Block, Fault, inject
from .faults.precision import round_all_stages
from .records import TrialRecord

Function = Callable[..., Any]
ROUNDINGS = 64
"""Roundings by which two gradients may differ where the right one is 0."""
MAX_JUMPS = 0.1
"""The share of the trials on which a fault whose answer jumps may differ from the block."""
VariantDistance = Callable[[Block, TrialRecord, Function], float]
"""``(variant, record, variant.function()) -> distance``; the function is passed on, since a variant may keep state."""


def forward_distance(variant: Block, record: TrialRecord, function: Function) -> float:
    """Compute the distance of the variant's y from the block's on one trial, 0 to ``MAX_DISTANCE``."""
    if _is_ignored(record):
        return 0.0
    call = call_variant(variant, record, function)
    if form_of(call) != form_of(record.forward):
        return MAX_DISTANCE
    if call.y is None or record.forward.y is None:
        return 0.0
    if call.y.shape != record.trial.inputs.x.shape:
        return relative_distance(record.forward.y, call.y)
    return record.distance(call.y) if record.is_wrong_alike(call.y) else MAX_DISTANCE


def gradient_distance(variant: Block, record: TrialRecord, function: Function) -> float:
    """Compute the distance of the variant's gradients from the block's on one trial: the largest of their distances."""
    if record.backward is None or not record.trial.gradients:
        return 0.0
    call, gradients = call_gradients(variant, record)
    if form_of(call) != form_of(record.backward):
        return MAX_DISTANCE
    return max((distance(gradients[name]) for name, distance in record.gradient_distances.items()), default=0.0)


def forward_agrees(faults: tuple[Fault, ...], spec: SESpec, dtype: str, records: list[TrialRecord]) -> bool:
    """Whether a block with these faults returns on every trial, in order, what the judged block returned.

    Args:
        faults: injected one after the other.
        spec: what the block should be.
        dtype: the dtype of x and the parameters.
        records: every trial of one rank.
    """
    variant = inject(faults, spec, dtype)
    function = variant.function()
    jumps = MAX_JUMPS * len(records) if any(fault.jumps for fault in faults) else 0.0
    for record in records:
        if _is_ignored(record):
            continue
        call = call_variant(variant, record, function)
        if form_of(call) != form_of(record.forward):
            return False
        if call.y is None or record.forward.y is None:
            continue
        if call.y.shape != record.trial.inputs.x.shape:
            agrees = relative_distance(record.forward.y, call.y) <= EXPLAINED_DISTANCE
        else:
            agrees = record.is_wrong_alike(call.y) and (
                record.distance.agrees(call.y)
                or record.distance.agrees(call.y, _measure_amplification(faults, spec, dtype, record))
            )
        jumps -= not agrees
        if jumps < 0.0:
            return False
    return True


def _is_ignored(record: TrialRecord) -> bool:
    """Whether the trial is an empty batch beside wrong numbers on others: each library has its own answer to it."""
    return record.is_loose and not len(record.trial.inputs.x)


ROUND_STAGES = round_all_stages("float32")


def _measure_amplification(faults: tuple[Fault, ...], spec: SESpec, dtype: str, record: TrialRecord) -> float:
    """Measure how much more a variant's arithmetic rounds than the right block's, at least 1.

    Both run in float64 and with all stages rounded to float32, whatever their dtype: the ratio hardly depends on it.
    """
    x, _, parameters = record.trial.inputs
    errors = []
    for injected in (faults, ()):
        exact, rounded = inject(injected, spec, dtype), inject(injected, spec, dtype)
        ROUND_STAGES(rounded)
        with np.errstate(all="ignore"):
            errors.append(_largest_finite(exact.run(x, parameters)[0] - rounded.run(x, parameters)[0]))
    return max(1.0, errors[0] / errors[1]) if errors[1] else 1.0


def _largest_finite(values: np.ndarray) -> float:
    size = np.abs(values)
    return float(size[np.isfinite(size)].max(initial=0.0))


def call_variant(variant: Block, record: TrialRecord, function: Function) -> CallResult:
    """Call a variant as the block was called in a trial; one without state is called once."""
    return call_function(function, record.trial.inputs, way=record.trial.way if variant.keeps_state else "")


def gradients_agree(variant: Block, records: list[TrialRecord]) -> bool:
    """Whether the variant's gradients are the block's on every trial on which they were judged."""
    for record in records:
        if record.backward is None or not record.trial.gradients:
            continue
        call, gradients = call_gradients(variant, record)
        if form_of(call) != form_of(record.backward):
            return False
        want, got = dict(record.reference.want.arrays()), dict(record.result.arrays())
        unit = FORMATS[record.trial.inputs.x.dtype.name].unit
        for name, distance in record.gradient_distances.items():
            size = _largest_finite(want[name])
            larger = max(1.0, _largest_finite(gradients[name]) / size) if size else 1.0
            is_same = not size and relative_distance(got[name], gradients[name]) <= ROUNDINGS * unit
            if not (is_same or distance.agrees(gradients[name], larger)):
                return False
    return True


def call_gradients(variant: Block, record: TrialRecord) -> tuple[CallResult, dict[str, np.ndarray]]:
    """Call the variant's vjp: the call, and dx and the parameters' gradients by the names of ``Result.arrays``."""
    call, dparameters = call_vjp(variant.vjp, record.trial.inputs, "channels_last")
    return call, dict(Result(dx=call.y, dparameters=dparameters).arrays())


def form_of(call: CallResult) -> tuple[Any, ...]:
    """Describe a call's result apart from its numbers, texts of exceptions and what it did to its arguments."""
    if call.raised:
        return ("raised",)
    if call.y is None:
        return ("nothing", call.returned == "NoneType")
    return (call.y.shape, call.y.dtype.name)
