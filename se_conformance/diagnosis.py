"""The search for the cause of a failure: which faulty variant of the catalogue answers what the judged block answered.

Every variant runs on the inputs of the trials. Its distance (``distance``) ranks it, and one nearer than
``NEAR_DISTANCE`` ends the search. A variant is called the cause only if it agrees with the block on every trial,
those that passed included.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from se_spec import SESpec

from . import localization, signatures
from .distance import EXPLAINED_DISTANCE, MAX_DISTANCE
from .faults import CATALOGUE, Fault, inject
from .fitting import fit_faults
from .records import TrialRecord
from .variants import VariantDistance, forward_agrees, forward_distance, gradient_distance, gradients_agree

NEAR_DISTANCE = 0.35
"""A variant below it is worth a close look: a gate of hard_swish is 0.32 from one of relu. Two roundings of the same
kind in another order of operations are about that near to each other, and roundings of different kinds are not."""
SAME_DISTANCE = 1e-6
"""Two variants whose distances differ by less answer the same."""
MAX_CAUSE_DISTANCE = 0.98
"""A variant beyond it is no nearer to the answer than the right block is, and is not named."""
MAX_CAUSES = 5
MAX_VARIANTS = 40
"""How many variants run on all trials while none is near; those nearest on one trial come first."""
PAIR_MEMBERS = 10
"""One fault of a pair is among that many nearest on their own."""
MAX_PAIRS = 40
"""How many pairs run on all trials."""
LARGE_INPUT_ELEMENTS = 1 << 15
"""Beyond that many elements of x fewer variants run, and no pairs."""
BY_SIGNATURE = {"x modified", "parameters modified", "output buffer shared by all calls", "not deterministic"}
"""Faults that the records show by themselves; their variants need not run."""
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
        same: other faults that answer the same as the first cause for this spec.
    """

    causes: tuple[Fault, ...]
    distances: tuple[float, ...]
    together: bool
    stage: str
    agrees: bool = False
    seen: tuple[str, ...] = ()
    same: tuple[Fault, ...] = ()


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
    seen = _find_signature(records, function, data_format, forward)
    if seen is not None:
        return seen
    is_loose = any(record.failed and record.is_finite and len(record.trial.inputs.x) for record in records)
    for record in records:
        record.is_loose = is_loose
    variants = [
        variant
        for fault in CATALOGUE.values()
        if (fault.stage == "gradient") is not forward
        and fault.is_detectable(spec, dtype)
        and fault.name not in BY_SIGNATURE
        for variant in fault.variants()
    ]
    if forward:
        variants += fit_faults(records, spec, dtype)
    distance = forward_distance if forward else gradient_distance
    every, records = records, _choose_records(records)
    ranking = _rank(((variant,) for variant in variants), records, spec, dtype, distance)
    together = agrees = False
    if dtype == "float64" and not _is_near(ranking) and signatures.is_right_in_float32(records, spec):
        name = "float64 computed in float32" if forward else "gradient: float64 computed in float32"
        ranking = [(EXPLAINED_DISTANCE, (CATALOGUE[name],)), *ranking]
        agrees = True
    elif forward and not (ranking and ranking[0][0] < EXPLAINED_DISTANCE):
        limit = min(NEAR_DISTANCE, ranking[0][0] / 4) if ranking else NEAR_DISTANCE
        pairs = [pair for pair in _rank_pairs(variants, records, spec, dtype) if pair[0] < limit][:1]
        together = bool(pairs)
        ranking = pairs + ranking
    ranking = [(score, faults) for score, faults in ranking if score < MAX_CAUSE_DISTANCE][:MAX_CAUSES]
    name = f"squeeze accumulated in {dtype}"
    is_known = forward and any(variant.name == name for variant in variants)
    if is_known and not _is_near(ranking) and signatures.is_accumulated_in(dtype, every, spec):
        ranking = [(NEAR_DISTANCE, (CATALOGUE[name],)), *ranking]
    same: tuple[Fault, ...] = ()
    if ranking and not agrees:
        ranking, same, agrees = _put_agreeing_first(ranking, every, spec, dtype, forward)
        together = together and len(ranking[0][1]) > 1
    if agrees:
        stage = min((fault.stage for fault in ranking[0][1]), key=localization.ORDER.index)
    elif forward:
        stage = localization.failing_stage(every, spec, function, excitation, data_format)
    else:
        stage = "gradient"
    distances: dict[str, float] = {}
    for score, faults in ranking:
        for fault in faults:
            distances.setdefault(fault.name, score)
    causes = tuple(CATALOGUE[name] for name in distances)
    return Diagnosis(causes, tuple(distances.values()), together, stage, agrees, same=same)


def _find_signature(
    records: list[TrialRecord], function: Callable[..., Any], data_format: str, forward: bool
) -> Diagnosis | None:
    """Find a cause that the records show without any variant, or that none can have."""
    wrong = [record.forward for record in records if record.failed]
    modified = signatures.find_modified_arguments(records)
    if modified:
        return _name("call", *modified)
    if signatures.shares_buffer(records):
        return _name("call", "output buffer shared by all calls")
    if any(call.changed for call in wrong) and (not forward or all(call.changed or call.raised for call in wrong)):
        return Diagnosis((), (), False, "call")  # the process is wrong; numbers are, if at all, where it then raises
    if not forward and all(record.backward is None for record in records):  # only the gate that it returns is wrong
        return Diagnosis((), (), False, "unknown")
    ways = sorted({record.trial.way for record in records if record.failed})
    if "" not in ways:
        cause = signatures.name_way(ways, records, function, data_format)
        return _name("call", *((cause,) if cause else ()))
    state = signatures.name_state(records, function, data_format) if forward else ""
    return _name("call", state) if state else None


def _name(stage: str, *names: str) -> Diagnosis:
    """Make the diagnosis of a cause that is certain; without a name only the stage is known."""
    return Diagnosis(tuple(CATALOGUE[name] for name in names), (0.0,) * len(names), False, stage, agrees=bool(names))


def _is_near(ranking: Ranking) -> bool:
    return bool(ranking) and ranking[0][0] < NEAR_DISTANCE


def _put_agreeing_first(
    ranking: Ranking, records: list[TrialRecord], spec: SESpec, dtype: str, forward: bool
) -> tuple[Ranking, tuple[Fault, ...], bool]:
    """Put the nearest entry that agrees first, and list other faults that are as near and agree, too."""
    for number, entry in enumerate(ranking):
        if entry[0] >= NEAR_DISTANCE and number:
            break
        if _explains(entry, records, spec, dtype, forward):
            others = ranking[:number] + ranking[number + 1 :]
            names = {fault.name for fault in entry[1]}
            same = {
                faults[0].name
                for score, faults in others
                if len(faults) == 1
                and faults[0].name not in names
                and score <= entry[0] + SAME_DISTANCE
                and not faults[0].rounds
                and _explains((score, faults), records, spec, dtype, forward)
            }
            return [entry, *others], tuple(CATALOGUE[name] for name in sorted(same)), True
    return ranking, (), False


def _explains(
    first: tuple[float, tuple[Fault, ...]], records: list[TrialRecord], spec: SESpec, dtype: str, forward: bool
) -> bool:
    """Whether the nearest faults may be called the cause; faults of rounding need only be near."""
    score, faults = first
    if all(fault.rounds for fault in faults) and score < NEAR_DISTANCE:
        return True
    if forward:
        return forward_agrees(faults, spec, dtype, records)
    return gradients_agree(inject(faults, spec, dtype), records)


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
    is_large = screen.trial.inputs.x.size > LARGE_INPUT_ELEMENTS
    passed = [record for record in records if not record.failed and record.is_finite and record.trial.inputs.x.size]
    passed = sorted(passed, key=lambda record: record.trial.inputs.x.size)[:1] if is_large else []
    screened: Ranking = []
    for faults in candidates:
        variant = inject(faults, spec, dtype)
        small = passed if faults[0].stage != "call" else []
        if any(distance(variant, record, variant.function()) >= MAX_DISTANCE for record in small):
            continue  # it is wrong where the block is right
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
    return usual if any(record.failed and (record.is_finite or not record.is_loose) for record in usual) else records


def _rank_pairs(variants: list[Fault], records: list[TrialRecord], spec: SESpec, dtype: str) -> Ranking:
    """Score two faults at once: a small failed trial screens the pairs, and the nearest run on all.

    One of the two is among the nearest on their own, in any form; the other has its first form and does not round.
    """
    screen = _choose_screen([record for record in records if record.failed and record.trial.exact] or records)
    x, y = screen.trial.inputs.x, screen.forward.y
    if y is None or x.size > LARGE_INPUT_ELEMENTS:
        return []
    usable = [fault for fault in variants if fault.stage != "call"]
    alone = {
        fault: forward_distance(variant := inject((fault,), spec, dtype), screen, variant.function())
        for fault in usable
    }
    nearest: dict[str, Fault] = {}
    for fault in sorted(usable, key=alone.__getitem__):
        nearest.setdefault(fault.name, fault)
    members = list(nearest.values())[:PAIR_MEMBERS]
    first_forms = {fault.name: fault for fault in reversed(usable) if not fault.rounds}
    partners = [fault for name, fault in first_forms.items() if nearest[name] not in members]
    screened = []
    for pair in itertools.chain(
        itertools.permutations(members, 2), itertools.product(members, partners), itertools.product(partners, members)
    ):
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
