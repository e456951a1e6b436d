"""One faulty variant of the block beside the records of the judged block."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .calls import CallResult, call_function, call_vjp
from .comparison import Result
from .distance import EXPLAINED_DISTANCE, MAX_DISTANCE, relative_distance
from .faults import Block
from .records import TrialRecord

Function = Callable[..., Any]
VariantDistance = Callable[[Block, TrialRecord, Function], float]
"""``(variant, record, variant.function()) -> distance``; the function is passed on, since a variant may keep state."""


def forward_distance(variant: Block, record: TrialRecord, function: Function) -> float:
    """Compute the distance of the variant's y from the block's on one trial, 0 to ``MAX_DISTANCE``."""
    call = call_variant(variant, record, function)
    if form_of(call) != form_of(record.forward):
        return MAX_DISTANCE
    if call.y is None or record.forward.y is None:
        return 0.0
    if call.y.shape != record.trial.inputs.x.shape:
        return _distance_of_misshapen(call.y, record)
    return record.distance(call.y)


def _distance_of_misshapen(y: np.ndarray, record: TrialRecord) -> float:
    """Compute the distance where y and the block's y have one shape that is not x's: there is no bound for it."""
    comparable = y.size == record.trial.inputs.x.size and np.isfinite(y.astype(np.float64)).all()
    return relative_distance(record.forward.y, y) if comparable and record.forward.y is not None else 0.0


def gradient_distance(variant: Block, record: TrialRecord, function: Function) -> float:
    """Compute the distance of the variant's gradients from the block's on one trial: the largest of their distances."""
    if record.backward is None or not record.trial.gradients:
        return 0.0
    call, gradients = call_gradients(variant, record)
    if form_of(call) != form_of(record.backward):
        return MAX_DISTANCE
    return max((distance(gradients[name]) for name, distance in record.gradient_distances.items()), default=0.0)


def forward_agrees(variant: Block, records: list[TrialRecord]) -> bool:
    """Whether the variant returns on every trial, in order, what the block returned."""
    function = variant.function()
    for record in records:
        call = call_variant(variant, record, function)
        if form_of(call) != form_of(record.forward):
            return False
        if call.y is None or record.forward.y is None:
            continue
        if call.y.shape == record.trial.inputs.x.shape:
            agrees = record.distance.agrees(call.y)
        else:
            agrees = _distance_of_misshapen(call.y, record) <= EXPLAINED_DISTANCE
        if not agrees:
            return False
    return True


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
        if not all(distance.agrees(gradients[name]) for name, distance in record.gradient_distances.items()):
            return False
    return True


def call_gradients(variant: Block, record: TrialRecord) -> tuple[CallResult, dict[str, np.ndarray]]:
    """Call the variant's vjp: the call, and dx and the parameters' gradients by the names of ``Result.arrays``."""
    call, dparameters = call_vjp(variant.vjp, record.trial.inputs, "channels_last")
    return call, dict(Result(dx=call.y, dparameters=dparameters).arrays())


def form_of(call: CallResult) -> tuple[Any, ...]:
    """Describe a call's result apart from numbers and texts of exceptions, which differ between frameworks."""
    if call.raised:
        return ("raised",)
    modified = {"x" if name == "x" else "a parameter" for name in call.modified}
    if call.y is None:
        return ("nothing", call.returned == "NoneType", modified)
    return (call.y.shape, call.y.dtype.name, modified)
