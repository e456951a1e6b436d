"""What is wrong with it? The catalogue's wrong variants, on the same inputs, and which of them it agrees with.

A variant's distance on one input is rms(got - variant) / (rms(got - right) + rms(bound)): near 0 where the variant says
what the function said, 1 where it explains nothing, more where it contradicts. A variant agrees when its distances over
all inputs, those that passed included, stay below ``AGREES``.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from se_spec import SESpec

from . import stages
from .comparison import Comparison, Reference
from .faults import CATALOGUE, Block, Fault, broken
from .kit import Trial
from .outcome import Outcome, called, called_vjp

AGREES = 0.35
LIKELIER = 0.98
"""Up to here a variant is nearer to the answer than the right block is."""
CONTRADICTS = 1.5
"""From here on, on one failed trial, it is not looked at further."""
PAIRED = 40
"""How many pairs are looked at on all inputs."""


@dataclass
class Seen:
    """One trial as it went."""

    trial: Trial
    against: Reference
    outcome: Outcome
    g: np.ndarray | None = None
    gradient: Outcome | None = None
    dparameters: dict[str, np.ndarray] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    failed: bool = False

    @property
    def forward_failed(self) -> bool:
        """Whether the answer itself is wrong, not only its gradients."""
        x, outcome = self.trial.inputs.x, self.outcome
        fits = outcome.y is not None and outcome.y.shape == x.shape and outcome.y.dtype == x.dtype
        wrong = any(not one.passed for one in self.comparisons if one.quantity in ("y", "g"))
        return not fits or bool(outcome.modified) or wrong


@dataclass(frozen=True)
class Diagnosis:
    """Causes, the likeliest first.

    Args:
        causes: faults of the catalogue.
        distances: of each, 0 to about 1.
        together: whether the first two are a pair that agrees, where no single one does.
        stage: the first stage that departs, as far as can be told.
    """

    causes: tuple[Fault, ...]
    distances: tuple[float, ...]
    together: bool
    stage: str

    @property
    def agrees(self) -> bool:
        """Whether the first cause explains all that was seen."""
        return bool(self.causes) and self.distances[0] < AGREES


def diagnose(
    seen: list[Seen], spec: SESpec, dtype: str, excitation: Callable[..., Any] | None, data_format: str
) -> Diagnosis:
    """The likeliest causes of what was seen, and the stage."""
    forward = any(one.forward_failed for one in seen)
    candidates = [
        fault
        for fault in CATALOGUE.values()
        if (fault.stage == "gradient") is not forward and dtype in fault.dtypes and fault.applies(spec)
    ]
    if forward and _differs_between_calls(seen):
        return Diagnosis((CATALOGUE["not deterministic"],), (0.0,), False, "call")
    distance = _forward_distance if forward else _gradient_distance
    ranked = _ranked(((fault,) for fault in candidates), seen, spec, dtype, distance)
    together = False
    if forward and not (ranked and ranked[0][0] < AGREES):
        pairs = _pairs(candidates, seen, spec, dtype)
        better = [pair for pair in pairs if pair[0] < AGREES]
        together = bool(better)
        ranked = better[:1] + ranked
    ranked = [each for each in ranked if each[0] < LIKELIER][:5]
    causes = list(dict.fromkeys(fault for _, faults in ranked for fault in faults))
    scores = tuple(next(score for score, faults in ranked if fault in faults) for fault in causes)
    if ranked and scores[0] < AGREES:
        stage = min((fault.stage for fault in ranked[0][1]), key=stages.ORDER.index)
    else:
        stage = stages.first_departure(seen, spec, excitation, data_format) if forward else "gradient"
    return Diagnosis(tuple(causes), scores, together, stage)


Ranked = list[tuple[float, tuple[Fault, ...]]]


def _ranked(
    variants: Iterable[tuple[Fault, ...]],
    seen: list[Seen],
    spec: SESpec,
    dtype: str,
    distance: Callable[[Block, Seen, Callable[..., Any]], float],
) -> Ranked:
    """Scores, smallest first; exact for the best three, at least so much for the others."""
    failed = [one for one in seen if one.failed]
    sieve = min(failed, key=lambda one: (_form(one.outcome)[0] == "raised", one.trial.inputs.x.size))
    scored: Ranked = []
    best = [3.0] * 3
    for faults in variants:
        block = broken(spec, faults, dtype)
        if faults[0].stage != "call" and distance(block, sieve, block.function()) > CONTRADICTS:
            continue
        fresh = broken(spec, faults, dtype)  # it may remember the call before
        score = _score(_distances(fresh, seen, distance), len(failed), best[2])
        best = sorted([*best, score])[:3]
        scored.append((score, faults))
    return sorted(scored, key=lambda each: each[0])  # stable: the catalogue's order breaks ties


def _score(distances: Iterator[tuple[bool, float]], failed: int, enough: float) -> float:
    """The mean over failed trials; a contradicted trial, passed or failed, counts on top."""
    total = 0.0
    for was_wrong, d in distances:
        total += min(d, 3.0) if was_wrong else 2.0 * max(0.0, min(d, 3.0) - 1.0)
        if total > enough * failed:
            break
    return total / failed


def _distances(
    block: Block, seen: list[Seen], distance: Callable[[Block, Seen, Callable[..., Any]], float]
) -> Iterator[tuple[bool, float]]:
    function = block.function()
    for one in seen:
        yield one.failed, distance(block, one, function)


def _forward_distance(block: Block, seen: Seen, function: Callable[..., Any]) -> float:
    outcome = called(function, seen.trial.inputs)
    if _form(outcome) != _form(seen.outcome):
        return 3.0
    if outcome.y is None or seen.outcome.y is None:
        return 0.0
    want, bound = seen.against.want.y, seen.against.bound.y
    assert want is not None and bound is not None
    if outcome.y.shape != want.shape:
        same = outcome.y.size == want.size and np.isfinite(outcome.y.astype(np.float64)).all()
        return _relative(seen.outcome.y, outcome.y) if same else 0.0
    return _distance(seen.outcome.y, outcome.y, want, bound)


def _gradient_distance(block: Block, seen: Seen, function: Callable[..., Any]) -> float:
    if seen.gradient is None or not seen.trial.gradients:
        return 0.0
    outcome, dparameters = called_vjp(block.vjp, seen.trial.inputs, "channels_last")
    if _form(outcome) != _form(seen.gradient):
        return 3.0
    want, bound = seen.against.want, seen.against.bound
    if outcome.y is None or seen.gradient.y is None or dparameters is None or want.dparameters is None:
        return 0.0
    assert want.dx is not None and bound.dx is not None and bound.dparameters is not None
    worst = [_distance(seen.gradient.y, outcome.y, want.dx, bound.dx)]
    for name, array in seen.dparameters.items():
        worst.append(_distance(array, dparameters[name], want.dparameters[name], bound.dparameters[name]))
    return max(worst)


def _distance(got: np.ndarray, variant: np.ndarray, want: np.ndarray, bound: np.ndarray) -> float:
    got, variant = got.astype(np.float64), variant.astype(np.float64)
    if not np.array_equal(np.isfinite(got), np.isfinite(variant)):
        return 3.0
    finite = np.isfinite(got) & np.isfinite(want)
    apart, wrong = got[finite] - variant[finite], got[finite] - want[finite]
    known = bound[finite & np.isfinite(bound)]
    scale = _rms(wrong) + _rms(known)
    return _rms(apart) / scale if scale else float(bool(_rms(apart))) * 3.0


def _relative(got: np.ndarray, variant: np.ndarray) -> float:
    got, variant = got.astype(np.float64), variant.astype(np.float64)
    return _rms(got - variant) / (_rms(variant) or 1.0)


def _rms(values: np.ndarray) -> float:
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float(np.sqrt(np.mean((values / largest) ** 2))) if largest else 0.0


def _form(outcome: Outcome) -> tuple[Any, ...]:
    """What a call did, apart from the numbers; messages and the names of exceptions differ between frameworks."""
    if outcome.raised:
        return ("raised",)
    if outcome.y is None:
        return ("nothing", outcome.modified)
    return (outcome.y.shape, outcome.y.dtype.name, outcome.modified)


def _differs_between_calls(seen: list[Seen]) -> bool:
    """The same input, first and last, far apart, and right on average over many zeros: noise, not memory."""
    calls = {one.trial.name: one.outcome.y for one in seen}
    first, last = calls.get("uneven map"), calls.get("uneven map again")
    if first is None or last is None or first.shape != last.shape or first.dtype != last.dtype:
        return False
    if first.tobytes() == last.tobytes():
        return False
    zeros = (np.mean(first == 0), np.mean(last == 0))
    return bool(min(zeros) > 0.02 and np.mean((first == 0) != (last == 0)) > 0.02)


def _pairs(candidates: list[Fault], seen: list[Seen], spec: SESpec, dtype: str) -> Ranked:
    """Two faults at once: sieved on one small input that failed, then looked at on all."""
    numeric = [one for one in seen if one.failed and one.outcome.y is not None and one.trial.inputs.x.size]
    if not numeric:
        return []
    sieve = min(numeric, key=lambda one: ("probe" not in one.trial.name, one.trial.inputs.x.size))
    usable = [fault for fault in candidates if fault.stage != "call"]
    scored = []
    for pair in itertools.permutations(usable, 2):
        if CATALOGUE_ORDER[pair[0].name] > CATALOGUE_ORDER[pair[1].name] and pair[0].stage != pair[1].stage:
            continue  # different stages commute
        try:
            block = broken(spec, pair, dtype)
            y, _ = block.run(sieve.trial.inputs.x, sieve.trial.inputs.parameters)
        except Exception:
            continue
        want, bound, got = sieve.against.want.y, sieve.against.bound.y, sieve.outcome.y
        assert want is not None and bound is not None and got is not None
        if y.shape == got.shape == want.shape:
            scored.append((_distance(got, y, want, bound), pair))
    scored.sort(key=lambda each: each[0])
    near = [pair for score, pair in scored[:PAIRED] if score < AGREES]
    return _ranked(near, seen, spec, dtype, _forward_distance)


CATALOGUE_ORDER = {name: number for number, name in enumerate(CATALOGUE)}
