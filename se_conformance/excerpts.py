"""Excerpts of a trial's arrays that a verdict keeps for drawings, small enough to be pickled and printed.

A verdict has thousands of numbers behind it. Of the worst comparison it keeps at most ``MAX_ELEMENTS`` elements, and of
the gate in the same trial the errors of at most ``MAX_SAMPLES`` times ``MAX_CHANNELS`` values.
"""

from dataclasses import dataclass

import numpy as np

from se_spec import SESpec

from .comparison import Reference, allow_rounded_gate, element_ratios
from .findings import Finding
from .localization import gate_per_position, quotient_error
from .records import TrialRecord

MAX_ELEMENTS = 500
MAX_WORST_ELEMENTS = 100
"""How many of the excerpt's elements are those farthest beyond their bound; the others are equally spaced."""
MAX_SAMPLES, MAX_CHANNELS = 16, 64


@dataclass(frozen=True)
class ElementExcerpt:
    """Some elements of one comparison, those that the bound does not decide left out.

    Args:
        rank, trial, quantity: of the comparison.
        got, want, bound: the numbers of the kept elements, float64.
        outside: how many elements of the whole array are outside their bound.
        total: how many elements the bound decides.
    """

    rank: int
    trial: str
    quantity: str
    got: tuple[float, ...]
    want: tuple[float, ...]
    bound: tuple[float, ...]
    outside: int
    total: int


@dataclass(frozen=True)
class GateExcerpt:
    """The gate's errors in one trial, in units of their bounds.

    Args:
        rank, trial: of the trial.
        source: ``"excitation"``, or ``"y / x"`` where the block shows its gate only in y.
        samples, channels: the indices of the rows and the columns of ``ratios``.
        ratios: a row for each sample; None where the gate is not known.
        shape: the shape (N, C) of the whole gate.
    """

    rank: int
    trial: str
    source: str
    samples: tuple[int, ...]
    channels: tuple[int, ...]
    ratios: tuple[tuple[float | None, ...], ...]
    shape: tuple[int, int]


def excerpt_elements(record: TrialRecord, finding: Finding) -> ElementExcerpt | None:
    """Keep some elements of the comparison that a finding is about, the worst among them.

    Args:
        record: the trial of the finding.
        finding: with a comparison.

    Returns:
        The excerpt; None where shapes differ or the bound decides no element.
    """
    expected = allow_rounded_gate(record.reference, record.result.g)
    got = dict(record.result.arrays()).get(finding.quantity)
    want, bound, span = (dict(result.arrays()).get(finding.quantity) for result in expected)
    if got is None or want is None or bound is None or span is None or got.shape != want.shape:
        return None
    got = got.astype(np.float64)
    ratios = element_ratios(got, want, bound, span)[0].ravel()
    decided = np.flatnonzero(ratios >= 0.0)
    if not decided.size:
        return None
    kept = decided
    if decided.size > MAX_ELEMENTS:
        worst = decided[np.argpartition(-ratios[decided], MAX_WORST_ELEMENTS)[:MAX_WORST_ELEMENTS]]
        steps = np.linspace(0, decided.size - 1, MAX_ELEMENTS - MAX_WORST_ELEMENTS).astype(int)
        kept = np.union1d(worst, decided[steps])

    def keep(array: np.ndarray) -> tuple[float, ...]:
        return tuple(map(float, array.ravel()[kept]))

    outside, place = int((ratios > 1.0).sum()), (finding.rank, finding.trial, finding.quantity)
    return ElementExcerpt(*place, keep(got), keep(want), keep(bound), outside, decided.size)


def excerpt_gate(record: TrialRecord, finding: Finding, spec: SESpec) -> GateExcerpt | None:
    """Keep the gate's errors of a trial, those of the worst samples and channels if there are many.

    Args:
        record: the trial of the finding.
        finding: gives the rank and the trial's name.
        spec: what the block should be.

    Returns:
        The excerpt; None where the block returned neither a gate nor a map from which the gate follows.
    """
    if record.result.g is not None:
        source, ratios = (
            "excitation",
            _ratios_of_gate(record.result.g, allow_rounded_gate(record.reference, record.result.g)),
        )
    elif record.result.y is not None and spec.gain:  # with a gain of 0 y does not depend on the gate
        source, ratios = "y / x", _ratios_of_quotient(record, record.result.y, spec)
    else:
        return None
    if not (ratios >= 0.0).any():
        return None
    samples = _choose_worst(ratios.max(1), MAX_SAMPLES)
    channels = _choose_worst(ratios.max(0), MAX_CHANNELS)
    kept = tuple(tuple(float(r) if r >= 0.0 else None for r in row) for row in ratios[np.ix_(samples, channels)])
    rows, columns = (tuple(map(int, indices)) for indices in (samples, channels))
    return GateExcerpt(finding.rank, finding.trial, source, rows, columns, kept, (len(ratios), ratios.shape[1]))


def _ratios_of_gate(g: np.ndarray, expected: Reference) -> np.ndarray:
    """Compute the errors of g over their bounds, (N, C); negative where nothing is known."""
    want, bound, span = expected.want.g, expected.bound.g, expected.span.g
    assert want is not None and bound is not None and span is not None
    return element_ratios(g.astype(np.float64), want, bound, span)[0]


@np.errstate(all="ignore")
def _ratios_of_quotient(record: TrialRecord, y: np.ndarray, spec: SESpec) -> np.ndarray:
    """Compute the same of y / x: the largest error among the positions at which x is not near 0."""
    x, (want, bound) = record.trial.inputs.x, (result.g for result in record.reference[:2])
    assert want is not None and bound is not None
    if not x.size:
        return np.full(want.shape, -1.0)
    gate = gate_per_position(x, y, spec)
    is_known = gate != -np.inf
    errors = np.where(is_known, np.abs(gate - want[:, None]), -1.0)
    farthest = np.take_along_axis(gate, errors.argmax(1)[:, None], 1)[:, 0]
    wider = bound + quotient_error(x.dtype.name, want, spec)
    ratios = _ratios_of_gate(farthest, record.reference._replace(bound=record.reference.bound._replace(g=wider)))
    return np.where(is_known.any(1) & np.isfinite(want), ratios, -1.0)


def _choose_worst(ratios: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of the largest ratios, in ascending order."""
    return np.sort(np.argsort(-ratios, kind="stable")[:most])
