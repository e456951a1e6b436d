"""The search for the cause of a failure: which faulty variant of the catalogue answers what the judged block answered.

Every variant runs on the inputs of the trials. Its distance (``distance``) ranks it, and one nearer than
``NEAR_DISTANCE`` ends the search. A variant is called the cause only if it agrees with the block on every trial,
those that passed included.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from se_spec import SESpec

from . import localization
from .adapters import AdaptedBlock
from .calls import call_function
from .cases import Inputs
from .comparison import Precision, compare, reference
from .distance import EXPLAINED_DISTANCE, MAX_DISTANCE
from .faults import CATALOGUE, Fault, inject
from .records import TrialRecord
from .variants import VariantDistance, forward_agrees, forward_distance, gradient_distance, gradients_agree

NEAR_DISTANCE = 0.35
"""A variant below it is worth a close look: a gate of hard_swish is 0.32 from one of relu. Two roundings of the same
kind in another order of operations are about that near to each other, and roundings of different kinds are not."""
MAX_CAUSE_DISTANCE = 0.98
"""A variant beyond it is no nearer to the answer than the right block is, and is not named."""
MAX_CAUSES = 5
MAX_VARIANTS = 40
"""How many variants run on all trials while none is near; those nearest on one trial come first."""
PAIR_MEMBERS = 12
"""One fault of a pair is among that many nearest on their own."""
MAX_PAIRS = 40
"""How many pairs run on all trials."""
LARGE_INPUT_ELEMENTS = 1 << 15
"""Beyond that many elements of x fewer variants run, and no pairs."""
EQUAL_CALLS, REPEATED_CALLS = 16, 64
"""How many equal answers show that a block is not random, and how many calls show that it is."""
LONGEST_PERIOD = 8
"""A block whose answers repeat after at most that many calls takes turns."""
MAX_DEVIATION = 0.35
"""How far the measured correlation of 64 independent answers may be from -1/2: in 100,000 draws of one number (two
values, uniform, Cauchy) less than 1 in 1,000 were farther."""
FLOAT32_ARITHMETIC = Precision(intermediates="float32", accumulation="float32")
CATALOGUE_ORDER = {name: number for number, name in enumerate(CATALOGUE)}

Ranking = list[tuple[float, tuple[Fault, ...]]]
"""Scores and faults, the nearest first; two faults are a pair that occurs together."""


@dataclass(frozen=True)
class Diagnosis:
    """The causes of a failure, the likeliest first.

    Args:
        causes: faults of the catalogue.
        distances: the distance of each, from 0 to about 1.
        together: whether the first two are a pair, nearer than any single fault.
        stage: the first stage that departs from the spec, or ``"unknown"``.
        agrees: whether the first cause, or the pair, answers on every trial what the block answered.
        seen: what is seen, in sentences, whether or not a cause is known.
    """

    causes: tuple[Fault, ...]
    distances: tuple[float, ...]
    together: bool
    stage: str
    agrees: bool = False
    seen: tuple[str, ...] = ()


WAY_CAUSES = {
    "strided": "memory order ignored",
    "broadcast": "memory order ignored",
    "channels last in memory": "memory order ignored",
    "reused": "answers kept by the array's identity",
    "often": "another answer after many calls",
    "thread": "another answer in another thread",
}
"""The cause by the only way of calling in which a block is wrong."""


def diagnose(
    records: list[TrialRecord],
    spec: SESpec,
    dtype: str,
    function: Callable[..., Any],
    excitation: Callable[..., Any] | None,
    data_format: str,
) -> Diagnosis:
    """Find the likeliest causes of a failure, and the stage at which the block departs.

    Args:
        records: every trial of one rank in the order in which it ran; at least one failed.
        spec: what the block should be.
        dtype: the dtype of x and the parameters.
        function: the judged function; it is called again.
        excitation: its gate, or None.
        data_format: the layout of both.
    """
    forward = any(record.forward_failed for record in records)
    if all(record.forward.raised for record in records):  # every variant that always raises would agree
        return Diagnosis((), (), False, "call")
    wrong = [record.forward for record in records if record.failed]
    if any(call.changed for call in wrong) and (not forward or all(call.changed or call.raised for call in wrong)):
        return Diagnosis((), (), False, "call")  # the process is wrong; numbers are, if at all, where it then raises
    if not forward and all(record.backward is None for record in records):  # only the gate that it returns is wrong
        return Diagnosis((), (), False, "unknown")
    ways = sorted({record.trial.way for record in records if record.failed})
    if "" not in ways:
        return _diagnose_ways(ways, records, function, data_format)
    if forward and _is_random(records, function, data_format):
        return Diagnosis((CATALOGUE["not deterministic"],), (0.0,), False, "call", agrees=True)
    variants = [
        variant
        for fault in CATALOGUE.values()
        if (fault.stage == "gradient") is not forward and fault.is_detectable(spec, dtype)
        for variant in fault.variants()
    ]
    distance = forward_distance if forward else gradient_distance
    every, records = records, _choose_records(records)
    ranking = _rank(((variant,) for variant in variants), records, spec, dtype, distance)
    together = agrees = False
    if dtype == "float64" and not _is_near(ranking) and _is_right_in_float32(records, spec):
        name = "float64 computed in float32" if forward else "gradient: float64 computed in float32"
        ranking = [(EXPLAINED_DISTANCE, (CATALOGUE[name],)), *ranking]
        agrees = True
    elif forward and not (ranking and ranking[0][0] < EXPLAINED_DISTANCE):
        limit = min(NEAR_DISTANCE, ranking[0][0] / 4) if ranking else NEAR_DISTANCE
        pairs = [pair for pair in _rank_pairs(variants, records, spec, dtype) if pair[0] < limit][:1]
        together = bool(pairs)
        ranking = pairs + ranking
    ranking = [(score, faults) for score, faults in ranking if score < MAX_CAUSE_DISTANCE][:MAX_CAUSES]
    if forward and not _is_near(ranking):
        ranking = _rank_half_accumulation(records, dtype, variants) + ranking
    distances: dict[str, float] = {}
    for score, faults in ranking:
        for fault in faults:
            distances.setdefault(fault.name, score)
    if ranking and not agrees:
        agrees = _explains(ranking[0], every, spec, dtype, forward)
    if agrees:
        stage = min((fault.stage for fault in ranking[0][1]), key=localization.ORDER.index)
    elif forward:
        stage = localization.failing_stage(every, spec, function, excitation, data_format)
    else:
        stage = "gradient"
    causes = tuple(CATALOGUE[name] for name in distances)
    return Diagnosis(causes, tuple(distances.values()), together, stage, agrees)


def _is_near(ranking: Ranking) -> bool:
    return bool(ranking) and ranking[0][0] < NEAR_DISTANCE


def _explains(
    first: tuple[float, tuple[Fault, ...]], records: list[TrialRecord], spec: SESpec, dtype: str, forward: bool
) -> bool:
    """Whether the nearest faults may be called the cause; faults of rounding need only be near."""
    score, faults = first
    if all(fault.rounds for fault in faults) and score < NEAR_DISTANCE:
        return True
    variant = inject(faults, spec, dtype)
    return forward_agrees(variant, records) if forward else gradients_agree(variant, records)


def _rank(
    candidates: Iterable[tuple[Fault, ...]],
    records: list[TrialRecord],
    spec: SESpec,
    dtype: str,
    distance: VariantDistance,
) -> Ranking:
    """Score variants over all records, smallest first; one failed trial screens out most of them before."""
    failures = sum(record.failed for record in records)
    screen = _choose_screen(records)
    screened: Ranking = []
    for faults in candidates:
        variant = inject(faults, spec, dtype)
        # one trial says nothing of a variant that keeps state or refuses some inputs
        d = 0.0 if faults[0].stage == "call" else distance(variant, screen, variant.function())
        screened.append((d, faults))
    screened.sort(key=lambda entry: entry[0])
    scored: Ranking = []
    elements = screen.trial.inputs.x.size
    limit = max(8, MAX_VARIANTS * LARGE_INPUT_ELEMENTS // max(LARGE_INPUT_ELEMENTS, elements))
    best = [MAX_DISTANCE] * 3
    for number, (d, faults) in enumerate(screened):
        if d >= NEAR_DISTANCE and (best[0] < NEAR_DISTANCE or number >= limit):
            break
        score = _score(_measure(faults, records, spec, dtype, distance), failures, best[2])
        best = sorted([*best, score])[:3]
        scored.append((score, faults))
    order = {faults: number for number, (_, faults) in enumerate(screened)}
    return sorted(scored, key=lambda entry: (round(entry[0], 6), CATALOGUE_ORDER[entry[1][0].name], order[entry[1]]))


def _choose_screen(records: list[TrialRecord]) -> TrialRecord:
    """Choose the failed trial that separates variants best: one whose y has numbers, gradients and several samples."""
    failed = [record for record in records if record.failed]
    shaped = [record for record in failed if getattr(record.forward.y, "shape", None) == record.trial.inputs.x.shape]
    return min(
        shaped or failed,
        key=lambda record: (record.trial.gradients is False, record.trial.inputs.x.shape[0] == 1),
    )


def _score(distances: Iterator[tuple[bool, float]], failures: int, limit: float) -> float:
    """Compute the mean distance over failed trials, plus a penalty for each passed trial that the variant fails.

    Args:
        distances: for each trial whether it failed, and the variant's distance.
        failures: how many trials failed.
        limit: a score above it is not computed to the end.
    """
    total = 0.0
    for failed, d in distances:
        total += min(d, MAX_DISTANCE) if failed else 2.0 * max(0.0, min(d, MAX_DISTANCE) - 1.0)
        if total > limit * failures:
            break
    return total / failures


def _measure(
    faults: tuple[Fault, ...], records: list[TrialRecord], spec: SESpec, dtype: str, distance: VariantDistance
) -> Iterator[tuple[bool, float]]:
    variant = inject(faults, spec, dtype)
    function = variant.function()
    for record in records:
        yield record.failed, distance(variant, record, function)


def _choose_records(records: list[TrialRecord]) -> list[TrialRecord]:
    """Choose the records that rank variants: those of usual trials, unless only special ones failed."""
    usual = [record for record in records if not record.trial.special]
    return usual if any(record.failed for record in usual) else records


def _diagnose_ways(
    ways: list[str], records: list[TrialRecord], function: Callable[..., Any], data_format: str
) -> Diagnosis:
    """Name the cause of a block that is wrong only where it is called in another way than usual."""
    own = function.ways if isinstance(function, AdaptedBlock) else {}
    record = next(record for record in records if record.failed)
    y = record.forward.y
    if record.trial.way in own and y is not None:
        function = own[record.trial.way]
        if _gives_independent_answers(function, record.trial.inputs, data_format, y, y):
            return Diagnosis((CATALOGUE["not deterministic"],), (0.0,), False, "call", agrees=True)
    causes = {WAY_CAUSES.get(way, "") for way in ways}
    if len(causes) > 1 or causes == {""}:
        return Diagnosis((), (), False, "call")
    return Diagnosis((CATALOGUE[causes.pop()],), (0.0,), False, "call", agrees=True)


def _is_random(records: list[TrialRecord], function: Callable[..., Any], data_format: str) -> bool:
    by_name = {record.trial.name: record for record in records}
    first, last = by_name["uneven map"].forward.y, by_name["uneven map again"].forward.y
    if first is None or last is None:
        return False
    return _gives_independent_answers(function, by_name["uneven map"].trial.inputs, data_format, first, last)


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


def _rank_half_accumulation(records: list[TrialRecord], dtype: str, variants: list[Fault]) -> Ranking:
    """Name accumulation in half precision by where it fails: only where many numbers are added.

    The order of the additions decides the numbers, so that no variant need be near.
    """
    name = f"squeeze accumulated in {dtype}"
    failed = {record.trial.name for record in records if record.failed}
    is_candidate = any(variant.name == name for variant in variants)
    if is_candidate and failed and failed <= {"large map", "sum beyond float16", "first axis as long as the channels"}:
        return [(NEAR_DISTANCE, (CATALOGUE[name],))]
    return []


def _is_right_in_float32(records: list[TrialRecord], spec: SESpec) -> bool:
    """Whether rounding to float32 in some places may explain every failure of a block in float64."""
    for record in records:
        if record.failed:
            gradients = record.result.dx is not None
            wide = reference(record.trial.inputs, spec, "float64", FLOAT32_ARITHMETIC, gradients=gradients)
            comparisons = compare(record.result, wide, partial=True)
            if record.is_malformed or not all(comparison.passed for comparison in comparisons):
                return False
    return True


def _rank_pairs(variants: list[Fault], records: list[TrialRecord], spec: SESpec, dtype: str) -> Ranking:
    """Score two faults at once: a small failed trial screens the pairs, and the nearest run on all."""
    screen = _choose_screen([record for record in records if record.failed and record.trial.exact] or records)
    x, y = screen.trial.inputs.x, screen.forward.y
    if y is None or x.size > LARGE_INPUT_ELEMENTS:
        return []
    usable = [fault for fault in variants if fault.stage != "call"]
    alone = {
        fault: forward_distance(variant := inject((fault,), spec, dtype), screen, variant.function())
        for fault in usable
    }
    members = set(sorted(usable, key=alone.__getitem__)[:PAIR_MEMBERS])
    screened = []
    for pair in itertools.permutations(usable, 2):
        if members.isdisjoint(pair):
            continue
        if CATALOGUE_ORDER[pair[0].name] > CATALOGUE_ORDER[pair[1].name] and pair[0].stage != pair[1].stage:
            continue  # faults of different stages commute
        try:
            variant_y, _ = inject(pair, spec, dtype).run(x, screen.trial.inputs.parameters)
        except Exception:  # the two cannot occur in one block
            continue
        if variant_y.shape == y.shape == x.shape:
            screened.append((screen.distance(variant_y), pair))
    screened.sort(key=lambda entry: entry[0])
    near = [pair for score, pair in screened[:MAX_PAIRS] if score < NEAR_DISTANCE]
    return _rank(near, records, spec, dtype, forward_distance)
