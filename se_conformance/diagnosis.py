"""What is wrong with it? The catalogue's wrong variants, on the same inputs, and which of them it agrees with.

A variant's distance on one input compares what is left beyond the bound: rms(|got - variant| - bound) over
rms(|got - right| - bound). It is near 0 where the variant says what the function said, 1 where it explains nothing,
more where it contradicts; where the right block is not refuted, the bound itself is the scale. Distances put variants
in order, and one below ``NEAR`` ends the search. A variant agrees only where on every input, those that passed
included, it says what the function said: within twice the bound, or up to ``EXPLAINS`` of what is to be explained.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from se_spec import SESpec

from . import localization
from .calls import Outcome, called, called_vjp
from .comparison import Precision, Result, compare, reference
from .distance import EXPLAINS, relative_distance
from .faults import CATALOGUE, Block, Fault, broken
from .records import TrialRecord

NEAR = 0.35
"""Below it the search has found something to look at closely: a gate of hard_swish is at 0.32 from one of relu. Errors
of rounding, which are those of one order of operations, are that near each other only if they are of one kind."""
LIKELIER = 0.98
"""Up to here a variant is nearer to the answer than the right block is."""
LOOKED_AT = 40
"""How many variants are looked at on all inputs, the nearest on one of them first, while none is near."""
LIKELY = 12
"""One of a pair is among that many nearest on their own."""
PAIRED = 40
"""How many pairs are looked at on all inputs."""
WIDE = 1 << 15
"""Elements of an input above which fewer variants are looked at, and no pairs."""
AS_FLOAT32 = Precision(intermediates="float32", accumulation="float32")


@dataclass(frozen=True)
class Diagnosis:
    """Causes, the likeliest first.

    Args:
        causes: faults of the catalogue.
        distances: of each, 0 to about 1.
        together: whether the first two are a pair, nearer than any single one.
        stage: the first stage that departs, as far as can be told.
        agrees: whether the first cause, or the pair, explains all that was seen.
    """

    causes: tuple[Fault, ...]
    distances: tuple[float, ...]
    together: bool
    stage: str
    agrees: bool = False


def diagnose(
    seen: list[TrialRecord],
    spec: SESpec,
    dtype: str,
    function: Callable[..., Any],
    excitation: Callable[..., Any] | None,
    data_format: str,
) -> Diagnosis:
    """The likeliest causes of what was seen, and the stage."""
    forward = any(one.forward_failed for one in seen)
    if all(one.outcome.raised for one in seen):  # whatever raises as often would agree
        return Diagnosis((), (), False, "call")
    if not forward and all(one.gradient is None for one in seen):  # the answer is right, the gate that is shown is not
        return Diagnosis((), (), False, "unknown")
    candidates = [
        variant
        for fault in CATALOGUE.values()
        if (fault.stage == "gradient") is not forward and fault.differs(spec, dtype)
        for variant in fault.variants()
    ]
    if forward and _is_random(seen, function, data_format):
        return Diagnosis((CATALOGUE["not deterministic"],), (0.0,), False, "call", agrees=True)
    distance = _forward_distance if forward else _gradient_distance
    ranked = _ranked(((fault,) for fault in candidates), seen, spec, dtype, distance)
    together = agrees = False
    if dtype == "float64" and not (ranked and ranked[0][0] < NEAR) and _is_right_in_float32(seen, spec):
        name = "float64 computed in float32"
        ranked = [(EXPLAINS, (CATALOGUE[name if forward else f"gradient: {name}"],)), *ranked]
        agrees = True
    elif forward and not (ranked and ranked[0][0] < EXPLAINS):
        pairs = _pairs(candidates, seen, spec, dtype)
        enough = min(NEAR, ranked[0][0] / 4) if ranked else NEAR
        better = [pair for pair in pairs if pair[0] < enough]
        together = bool(better)
        ranked = better[:1] + ranked
    ranked = [each for each in ranked if each[0] < LIKELIER][:5]
    if forward and not (ranked and ranked[0][0] < NEAR):
        ranked = _by_where_it_fails(seen, dtype, candidates) + ranked
    named: dict[str, float] = {}
    for score, faults in ranked:
        for fault in faults:
            named.setdefault(fault.name, score)
    causes = [CATALOGUE[name] for name in named]
    if ranked and not agrees:
        score, faults = ranked[0]
        rounds = all(fault.rounds for fault in faults) and score < NEAR
        agrees = rounds or _agrees(broken(spec, faults, dtype), seen, forward)
    if agrees:
        stage = min((fault.stage for fault in ranked[0][1]), key=localization.ORDER.index)
    else:
        stage = localization.first_departure(seen, spec, function, excitation, data_format) if forward else "gradient"
    return Diagnosis(tuple(causes), tuple(named.values()), together, stage, agrees)


Ranked = list[tuple[float, tuple[Fault, ...]]]


def _ranked(
    variants: Iterable[tuple[Fault, ...]],
    seen: list[TrialRecord],
    spec: SESpec,
    dtype: str,
    distance: Callable[[Block, TrialRecord, Callable[..., Any]], float],
) -> Ranked:
    """Scores, smallest first. Those that one failed trial rules out are not looked at on the others."""
    failed = sum(one.failed for one in seen)
    sieve = _sieve(seen)
    near: list[tuple[float, tuple[Fault, ...]]] = []
    for faults in variants:
        block = broken(spec, faults, dtype)
        # what remembers calls, or refuses some, cannot be told from one of them
        d = 0.0 if faults[0].stage == "call" else distance(block, sieve, block.function())
        near.append((d, faults))
    near.sort(key=lambda each: each[0])
    scored: Ranked = []
    best, looked_at = [3.0] * 3, max(8, LOOKED_AT * WIDE // max(WIDE, sieve.trial.inputs.x.size))
    for number, (d, faults) in enumerate(near):
        if d >= NEAR and (best[0] < NEAR or number >= looked_at):
            break
        score = _score(_distances(broken(spec, faults, dtype), seen, distance), failed, best[2])
        best = sorted([*best, score])[:3]
        scored.append((score, faults))
    order = {faults: number for number, (_, faults) in enumerate(near)}
    return sorted(scored, key=lambda each: (round(each[0], 6), CATALOGUE_ORDER[each[1][0].name], order[each[1]]))


def _sieve(seen: list[TrialRecord]) -> TrialRecord:
    """A failed trial that tells much: one with numbers, the first, if it is there."""
    failed = [one for one in seen if one.failed]
    told = [one for one in failed if one.outcome.y is not None and one.outcome.y.shape == one.trial.inputs.x.shape]
    return min(told or failed, key=lambda one: (one.trial.gradients is False, one.trial.inputs.x.shape[0] == 1))


def _score(distances: Iterator[tuple[bool, float]], failed: int, enough: float) -> float:
    """The mean over failed trials; a contradicted trial, passed or failed, counts on top."""
    total = 0.0
    for was_wrong, d in distances:
        total += min(d, 3.0) if was_wrong else 2.0 * max(0.0, min(d, 3.0) - 1.0)
        if total > enough * failed:
            break
    return total / failed


def _distances(
    block: Block, seen: list[TrialRecord], distance: Callable[[Block, TrialRecord, Callable[..., Any]], float]
) -> Iterator[tuple[bool, float]]:
    function = block.function()
    for one in seen:
        yield one.failed, distance(block, one, function)


def _forward_distance(block: Block, seen: TrialRecord, function: Callable[..., Any]) -> float:
    outcome = called(function, seen.trial.inputs)
    if _form(outcome) != _form(seen.outcome):
        return 3.0
    if outcome.y is None or seen.outcome.y is None:
        return 0.0
    x = seen.trial.inputs.x
    if outcome.y.shape != x.shape:
        same = outcome.y.size == x.size and np.isfinite(outcome.y.astype(np.float64)).all()
        return relative_distance(seen.outcome.y, outcome.y) if same else 0.0
    return seen.distance(outcome.y)


def _agrees(block: Block, seen: list[TrialRecord], forward: bool) -> bool:
    """Whether a variant says, on every input, what the function said."""
    function = block.function()
    for one in seen:
        if not forward:
            if one.gradient is None or not one.trial.gradients:
                continue
            outcome, dparameters = called_vjp(block.vjp, one.trial.inputs, "channels_last")
            found = dict(Result(dx=outcome.y, dparameters=dparameters).arrays())
            right_form = _form(outcome) == _form(one.gradient)
            if not right_form or not all(each.agrees(found[name]) for name, each in one.gradient_distances.items()):
                return False
            continue
        outcome = called(function, one.trial.inputs)
        if _form(outcome) != _form(one.outcome):
            return False
        if outcome.y is not None and one.outcome.y is not None:
            fits = outcome.y.shape == one.trial.inputs.x.shape
            if not (one.distance.agrees(outcome.y) if fits else _forward_distance(block, one, function) <= EXPLAINS):
                return False
    return True


def _gradient_distance(block: Block, seen: TrialRecord, function: Callable[..., Any]) -> float:
    if seen.gradient is None or not seen.trial.gradients:
        return 0.0
    outcome, dparameters = called_vjp(block.vjp, seen.trial.inputs, "channels_last")
    if _form(outcome) != _form(seen.gradient):
        return 3.0
    found = dict(Result(dx=outcome.y, dparameters=dparameters).arrays())
    return max((distance(found[name]) for name, distance in seen.gradient_distances.items()), default=0.0)


def _form(outcome: Outcome) -> tuple[Any, ...]:
    """What a call did, apart from the numbers; messages and the names of exceptions differ between frameworks."""
    if outcome.raised:
        return ("raised",)
    modified = {"x" if name == "x" else "a parameter" for name in outcome.modified}
    if outcome.y is None:
        return ("nothing", outcome.returned == "NoneType", modified)
    return (outcome.y.shape, outcome.y.dtype.name, modified)


def _is_random(seen: list[TrialRecord], function: Callable[..., Any], data_format: str) -> bool:
    """One input, again and again: what remembers goes on or settles, what draws lots turns back at every call."""
    by_name = {one.trial.name: one for one in seen}
    first, last = by_name["uneven map"], by_name["uneven map again"]
    if first.outcome.y is None or last.outcome.y is None or first.outcome.y.tobytes() == last.outcome.y.tobytes():
        return False
    calls = [y for _ in range(16) if (y := called(function, first.trial.inputs, data_format).y) is not None]
    if len(calls) < 16 or any(y.shape != first.outcome.y.shape for y in calls):
        return False
    steps = np.diff(np.array(calls, np.float64).reshape(len(calls), -1), axis=0)
    turns, lengths = np.sum(steps[1:] * steps[:-1]), np.sum(steps * steps)
    return bool(turns < -0.1 * lengths) and not np.array_equal(calls[0], calls[2])


def _by_where_it_fails(seen: list[TrialRecord], dtype: str, candidates: list[Fault]) -> Ranked:
    """Half precision that fails where there is much to add up, and nowhere else, in an order that no variant has."""
    name = f"squeeze accumulated in {dtype}"
    where = {one.trial.name for one in seen if one.failed}
    known = any(fault.name == name for fault in candidates)
    if known and where <= {"large map", "sum beyond float16", "first axis as long as the channels"} and where:
        return [(NEAR, (CATALOGUE[name],))]
    return []


def _is_right_in_float32(seen: list[TrialRecord], spec: SESpec) -> bool:
    """Whether rounding to float32, here and there, may have done all of it."""
    for one in seen:
        if one.failed:
            gradients = one.result.dx is not None
            wide = reference(one.trial.inputs, spec, "float64", AS_FLOAT32, gradients=gradients)
            if one.malformed or any(not each.passed for each in compare(one.result, wide, partial=True)):
                return False
    return True


def _pairs(candidates: list[Fault], seen: list[TrialRecord], spec: SESpec, dtype: str) -> Ranked:
    """Two faults at once: sieved on one small input that failed, then looked at on all."""
    sieve = _sieve([one for one in seen if one.failed and one.trial.exact] or seen)
    if sieve.outcome.y is None or sieve.trial.inputs.x.size > WIDE:
        return []
    usable = [fault for fault in candidates if fault.stage != "call"]
    alone = {
        fault: _forward_distance(block := broken(spec, (fault,), dtype), sieve, block.function()) for fault in usable
    }
    likely = set(sorted(usable, key=alone.__getitem__)[:LIKELY])
    scored = []
    for pair in itertools.permutations(usable, 2):
        if likely.isdisjoint(pair):
            continue
        if CATALOGUE_ORDER[pair[0].name] > CATALOGUE_ORDER[pair[1].name] and pair[0].stage != pair[1].stage:
            continue  # different stages commute
        try:
            block = broken(spec, pair, dtype)
            y, _ = block.run(sieve.trial.inputs.x, sieve.trial.inputs.parameters)
        except Exception:
            continue
        if y.shape == sieve.outcome.y.shape == sieve.trial.inputs.x.shape:
            scored.append((sieve.distance(y), pair))
    scored.sort(key=lambda each: each[0])
    near = [pair for score, pair in scored[:PAIRED] if score < NEAR]
    return _ranked(near, seen, spec, dtype, _forward_distance)


CATALOGUE_ORDER = {name: number for number, name in enumerate(CATALOGUE)}
