"""Causes that the records show by themselves, without a variant that computes the same.

Modified arguments, a shared output buffer, ways of calling, random answers, a running average, and rounding whose
numbers depend on the order of operations: a variant of the catalogue need not repeat them number by number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from se_spec import SESpec

from .adapters import AdaptedBlock
from .calls import call_function
from .cases import Inputs
from .comparison import Precision, compare, reference
from .guard import EARLIER_ARRAY
from .records import TrialRecord

EQUAL_CALLS, REPEATED_CALLS = 16, 64
"""How many equal answers show that a block is not random, and how many calls show that it is."""
LONGEST_PERIOD = 8
"""A block whose answers repeat after at most that many calls takes turns."""
MAX_DEVIATION = 0.35
"""How far the measured correlation of 64 independent answers may be from -1/2: in 100,000 draws of one number (two
values, uniform, Cauchy) less than 1 in 1,000 were farther."""
DRIFT_CALLS = 8
"""A running average moves towards one answer in so many calls, each step in the direction of the first one."""
SMALLEST_STEP = 1e-3
"""A step below that share of the first one is within rounding."""
LARGE_SUMS = {"large map", "tall map", "wide map", "sum beyond float16", "first axis as long as the channels"}
"""Trials in which so many numbers are added that half precision cannot."""
FLOAT32_ARITHMETIC = Precision(intermediates="float32", accumulation="float32")

WAY_CAUSES = {
    "strided": "memory order ignored",
    "broadcast": "memory order ignored",
    "channels last in memory": "memory order ignored",
    "reused": "answers kept by the array's identity",
    "often": "another answer after many calls",
    "thread": "another answer in another thread",
}
"""The cause by the only way of calling in which a block is wrong."""
NOT_DETERMINISTIC, RUNNING_AVERAGE = "not deterministic", "running average over calls"
BY_IDENTITY = WAY_CAUSES["reused"]
IDENTITY_CALLS = 12
"""So many arrays exist at once, and more of one size are hardly freed before."""


def find_modified_arguments(records: list[TrialRecord]) -> tuple[str, ...]:
    """Name the fault of a block that is right, but for the arguments that it modifies.

    Where arrays are read-only such a block may raise instead, and where a call is given the arrays of the call before
    its numbers are those of the modified ones.
    """
    failed = [record for record in records if record.failed]
    if not any(record.forward.modified for record in failed):
        return ()
    for record in failed:
        is_right = all(comparison.passed for comparison in record.comparisons if comparison.quantity == "y")
        is_excused = record.trial.way and (record.forward.raised or record.forward.modified)
        if not (is_excused or (record.forward.modified and is_right and _has_form_of_x(record))):
            return ()
    names = {name for record in failed for name in record.forward.modified}
    return (*(("x modified",) if "x" in names else ()), *(("parameters modified",) if names - {"x"} else ()))


def shares_buffer(records: list[TrialRecord]) -> bool:
    """Whether the calls changed nothing but the arrays that earlier calls returned."""
    changed = {name for record in records for name in record.forward.changed}
    return changed == {EARLIER_ARRAY}


def name_way(ways: list[str], records: list[TrialRecord], function: Callable[..., Any], data_format: str) -> str:
    """Name the cause of a block that is wrong only where it is called in another way than usual; empty if unknown."""
    own = function.ways if isinstance(function, AdaptedBlock) else {}
    record = next(record for record in records if record.failed)
    y = record.forward.y
    if record.trial.way in own and y is not None:
        function = own[record.trial.way]
        if _gives_independent_answers(function, record.trial.inputs, data_format, y, y):
            return NOT_DETERMINISTIC
    causes = {WAY_CAUSES.get(way, "") for way in ways}
    return causes.pop() if len(causes) == 1 else ""


def name_state(records: list[TrialRecord], function: Callable[..., Any], data_format: str) -> str:
    """Name what makes a block answer one input in several ways; empty if that is not seen or not known."""
    by_name = {record.trial.name: record for record in records}
    first, last = by_name["uneven map"].forward.y, by_name["uneven map again"].forward.y
    if first is None or last is None:
        return ""
    inputs = by_name["uneven map"].trial.inputs
    if not by_name["uneven map"].failed and _answers_by_identity(records, function, data_format):
        return BY_IDENTITY
    if _gives_independent_answers(function, inputs, data_format, first, last):
        return NOT_DETERMINISTIC
    if first.tobytes() != last.tobytes() and (_keeps_nan(records) or _drifts(function, inputs, data_format)):
        return RUNNING_AVERAGE
    return ""


def _answers_by_identity(records: list[TrialRecord], function: Callable[..., Any], data_format: str) -> bool:
    """Whether an input that had a wrong answer has the right one as an array at another address.

    Arrays of a trial are freed after it, and later ones get their addresses. Here none is freed.
    """
    failed = [record for record in records if record.failed and record.is_finite and _has_form_of_x(record)]
    record = min(failed, key=lambda record: record.trial.inputs.x.size, default=None)
    if record is None or not len(record.trial.inputs.x):
        return False
    alive: list[np.ndarray[Any, Any]] = []

    def call(x: np.ndarray[Any, Any], parameters: dict[str, np.ndarray[Any, Any]]) -> Any:
        alive.append(x.copy())
        return function(alive[-1], parameters)

    want, bound = record.reference.want.y, record.reference.bound.y
    assert want is not None and bound is not None
    for _ in range(IDENTITY_CALLS):
        y = call_function(call, record.trial.inputs, data_format).y
        if y is None or y.shape != want.shape:
            return False
        if (np.abs(y.astype(np.float64) - want) <= bound).all():
            return True
    return False


def _keeps_nan(records: list[TrialRecord]) -> bool:
    """Whether finite inputs have finite answers up to the first input with NaN, and NaN in every answer after it.

    A state that each call updates keeps NaN for ever; a state that a call replaces does not.
    """
    usual = [record for record in records if not record.trial.way and record.trial.inputs.x.size]
    is_finite = [record.is_finite for record in usual]
    first = is_finite.index(False) if False in is_finite else len(usual)
    later = [record for record, finite in zip(usual[first:], is_finite[first:], strict=True) if finite]
    earlier = [record.forward.y for record in usual[:first]]
    if not later or any(y is None or not np.isfinite(y.astype(np.float64)).all() for y in earlier):
        return False
    return all(record.forward.y is not None and np.isnan(record.forward.y.astype(np.float64)).any() for record in later)


def _drifts(function: Callable[..., Any], inputs: Inputs, data_format: str) -> bool:
    """Whether answers to one input move towards one answer, in steps of one direction that become shorter.

    A call with other numbers of the same shape comes before them.
    """
    call_function(function, inputs._replace(x=(1 - inputs.x).astype(inputs.x.dtype)), data_format)
    calls = [call_function(function, inputs, data_format).y for _ in range(DRIFT_CALLS)]
    if any(y is None or y.shape != inputs.x.shape for y in calls):
        return False
    steps = np.diff(np.array(calls, np.float64).reshape(DRIFT_CALLS, -1), axis=0)
    energy = float(np.sum(steps[0] ** 2))
    if not energy or not np.isfinite(energy):
        return False
    shares = steps @ steps[0] / energy
    moving = shares[shares > SMALLEST_STEP]
    is_settled = (np.abs(shares[len(moving) :]) <= SMALLEST_STEP).all()
    return len(moving) > 1 and bool((np.diff(moving) < 0.0).all()) and bool(is_settled)


def _gives_independent_answers(
    function: Callable[..., Any], inputs: Inputs, data_format: str, first: np.ndarray, last: np.ndarray
) -> bool:
    """Whether independent numbers decide the answers to one input.

    Two neighbouring steps between independent answers then have the correlation -1/2. A block that drifts or converges
    has a positive one, and one whose answers alternate has -1. One that takes turns repeats itself.

    Args:
        function: the block.
        inputs: one input.
        data_format: its layout.
        first: an answer to it.
        last: a later answer to it.
    """
    calls: list[np.ndarray[Any, Any]] = []
    while len(calls) < REPEATED_CALLS:
        y = call_function(function, inputs, data_format).y
        if y is None or y.shape != first.shape:
            return False
        calls.append(y)
        if len(calls) == EQUAL_CALLS and all(one.tobytes() == first.tobytes() for one in (last, *calls)):
            return False
    answers = np.array(calls, np.float64).reshape(len(calls), -1)
    if any(np.array_equal(answers[period:], answers[:-period]) for period in range(1, LONGEST_PERIOD + 1)):
        return False
    steps = np.diff(answers, axis=0)
    correlation, energy = np.sum(steps[1:] * steps[:-1]), np.sum(steps * steps)
    return bool(abs(correlation + energy / 2) < MAX_DEVIATION * energy)


def is_accumulated_in(dtype: str, records: list[TrialRecord], spec: SESpec) -> bool:
    """Whether sums in half precision explain every failure: only large sums fail, and no more than such sums allow.

    The order of the additions decides the numbers, so that no variant need be near.
    """
    failed = {record.trial.name for record in records if record.failed}
    return bool(failed) and failed <= LARGE_SUMS and _is_right_in(Precision(accumulation=dtype), dtype, records, spec)


def is_right_in_float32(records: list[TrialRecord], spec: SESpec) -> bool:
    """Whether rounding to float32 in some places may explain every failure of a block in float64."""
    return _is_right_in(FLOAT32_ARITHMETIC, "float64", records, spec)


def _is_right_in(precision: Precision, dtype: str, records: list[TrialRecord], spec: SESpec) -> bool:
    for record in records:
        if record.failed:
            gradients = record.result.dx is not None
            wide = reference(record.trial.inputs, spec, dtype, precision, gradients=gradients)
            comparisons = compare(record.result, wide, partial=True)
            if record.is_malformed or not all(comparison.passed for comparison in comparisons):
                return False
    return True


def _has_form_of_x(record: TrialRecord) -> bool:
    x, y = record.trial.inputs.x, record.forward.y
    return y is not None and y.shape == x.shape and y.dtype == x.dtype
