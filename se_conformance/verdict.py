"""The verdict of ``check``: the trials, the failures, their size and the likeliest cause."""

import json
import math
import textwrap
from dataclasses import dataclass, field
from typing import Any

from se_spec import SESpec

from . import report
from .comparison import Precision
from .deviations import Deviation
from .diagnosis import Diagnosis
from .excerpts import ElementExcerpt, GateExcerpt
from .faults import Fault
from .findings import Finding, to_json_number

MAX_NAMED_DISTANCE = 0.6
"""A fault that does not explain everything is named as the nearest up to this distance."""
LINE_CHARACTERS = 120
PARAMETERS = "the block's parameters"
"""The trial of a block whose parameters are not the spec's, which runs alone."""


@dataclass(repr=False)
class Verdict:
    """The result of ``check``.

    Args:
        spec, dtype, seed, ranks, precision, data_format: the arguments of ``check``.
        findings: every comparison and every error, in order.
        ran: (rank, trial) of each trial that ran.
        diagnosis: the cause of the first failure; None for a pass.
        known: failed trials that the file of known deviations lists; they do not count.
        stale_deviations: lines of that file whose trials ran and did not fail.
        unjudged: failed trials on which the framework's own operations fail on this machine, and the reason; they do
            not count.
        notes: what the block does besides, such as printing; it does not count.
        unreached: (rank, trial) of each trial that did not run, because a call before it exceeded the time limit.
        worst_elements: some elements of the worst comparison, for a drawing; None if no numbers were compared.
        worst_gate: the gate's errors in the worst trial; None if the gate is not known.

    Example:
        >>> from se_conformance import check
        >>> verdict = check(lambda x, parameters: x, SESpec(8, hidden=2))
        >>> verdict.passed, verdict.stage, verdict.worst_ratio > 1
        (False, 'scale', True)
    """

    spec: SESpec
    dtype: str
    seed: int
    ranks: tuple[int, ...]
    precision: Precision
    data_format: str
    findings: list[Finding] = field(default_factory=list)
    ran: list[tuple[int, str]] = field(default_factory=list)
    diagnosis: Diagnosis | None = None
    known: dict[tuple[int, str], Deviation] = field(default_factory=dict)
    stale_deviations: list[Deviation] = field(default_factory=list)
    unjudged: dict[tuple[int, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unreached: list[tuple[int, str]] = field(default_factory=list)
    worst_elements: ElementExcerpt | None = field(default=None, repr=False, compare=False)
    worst_gate: GateExcerpt | None = field(default=None, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        """Whether all comparisons are within their bounds, some element is conclusive, and no deviation is stale."""
        return not self.failures and not self.stale_deviations and self.conclusive > 0

    @property
    def failures(self) -> list[Finding]:
        """The failures of the block, the worst first, without known deviations and unjudged trials."""
        return sorted((finding for finding in self._counted if not finding.passed), key=_severity)

    @property
    def worst(self) -> Finding | None:
        """The worst failure that has numbers; for a pass, the comparison nearest to its bound; None without numbers."""
        numeric = [finding for finding in self.failures or self._counted if finding.comparison is not None]
        return next(iter(numeric), None) if self.failures else max(numeric, key=lambda entry: entry.ratio, default=None)

    @property
    def causes(self) -> tuple[str, ...]:
        """Names of known mistakes, the likeliest first; the first two are a pair if ``diagnosis.together``."""
        if not self.failures or self.diagnosis is None:
            return ()
        return tuple(fault.name for fault in self.diagnosis.causes)

    @property
    def agreeing(self) -> tuple[Fault, ...]:
        """The fault, or the pair, that reproduces the block's results; empty where none of the catalogue does."""
        found = self.diagnosis
        if not self.failures or found is None or not found.agrees:
            return ()
        return found.causes[: 2 if found.together else 1]

    @property
    def nearest(self) -> tuple[str, ...]:
        """Names of the faults that are similar to the block and are not its cause; empty where one agrees."""
        found = self.diagnosis
        if not self.failures or found is None or found.agrees:
            return ()
        count = 2 if found.together else 1
        names = [_join_names(found.causes[:count]), *(fault.name for fault in found.causes[count:])]
        return tuple(names[: sum(distance < MAX_NAMED_DISTANCE for distance in found.distances)])

    @property
    def stage(self) -> str:
        """The first stage that departs from the spec; empty for a pass."""
        return self.diagnosis.stage if self.failures and self.diagnosis is not None else ""

    @property
    def seen(self) -> tuple[str, ...]:
        """What is seen of a failure, in sentences, whether or not a cause is known; empty for a pass."""
        return self.diagnosis.seen if self.failures and self.diagnosis is not None else ()

    @property
    def worst_ratio(self) -> float:
        """The largest difference over its bound; inf if there is an error that is no number."""
        return max((finding.ratio for finding in self._counted), default=0.0)

    @property
    def conclusive(self) -> int:
        """The number of elements that the bound decides."""
        return sum(finding.comparison.conclusive for finding in self._counted if finding.comparison)

    @property
    def inconclusive(self) -> int:
        """The number of elements that the bound does not decide."""
        return sum(finding.comparison.inconclusive for finding in self.findings if finding.comparison)

    @property
    def not_run(self) -> tuple[int, ...]:
        """The numbers of spatial axes that were not tried."""
        return tuple(rank for rank in (1, 2, 3) if rank not in self.ranks)

    @property
    def _counted(self) -> list[Finding]:
        """The findings that count for or against the block."""
        left_out = self.known.keys() | self.unjudged.keys()
        return [finding for finding in self.findings if (finding.rank, finding.trial) not in left_out]

    def excuse(self, deviations: list[Deviation]) -> None:
        """Excuse failed trials that deviations list, and note the lines that no failure needs any more.

        Args:
            deviations: lines of a file of known deviations.
        """
        wrong = {(finding.rank, finding.trial) for finding in self.findings if not finding.passed}
        for deviation in deviations:
            covered = [(rank, trial) for rank, trial in self.ran if deviation.covers(rank, trial)]
            self.known |= {key: deviation for key in covered if key in wrong}
            if covered and not wrong.intersection(covered):
                self.stale_deviations.append(deviation)

    def raise_if_failed(self) -> None:
        """Raise an AssertionError that holds the verdict's text, unless the block passed."""
        if not self.passed:
            raise AssertionError(str(self))

    def __repr__(self) -> str:
        """Return the result in a line; ``print`` shows the whole verdict.

        >>> from se_conformance import check
        >>> check(lambda x, parameters: x, SESpec(8, hidden=2), seed=0)
        Verdict(FAILED, SESpec(8, hidden=2) in float32, seed 0: block not applied)
        """
        causes = f": {_join_names(self.agreeing)}" if self.agreeing else f": departs at {self.stage}" * bool(self.stage)
        result = "passed" if self.passed else "FAILED" if self.conclusive or self.failures else "nothing judged"
        return f"Verdict({result}, {self.spec!r} in {self.dtype}, seed {self.seed}{causes})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the part of ``report.render_html`` that is about this verdict."""
        return report.render_fragment(self)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, width: int = LINE_CHARACTERS) -> list[str]:
        """Return the lines of the text that ``print`` shows.

        Args:
            width: characters of a line of prose; a line of Python is not broken.
        """
        failed, ran = {(finding.rank, finding.trial) for finding in self.failures}, len(self.ran) - len(self.unjudged)
        head = f"{'passed' if self.passed else 'FAILED'}: {self.spec} in {self.dtype}, seed {self.seed}"
        if self.precision != Precision():
            head += f", products={self.precision.products!r}, intermediates={self.precision.intermediates!r}"
        text = [head, f"  ran      {ran - len(failed)} of {ran} trials right" + self._left_out()]
        text += self._causes(width)
        for sentence in self.seen:
            text += _wrap(width, "  seen     ", sentence)
        if self.failures and self.worst is not None:
            text += _describe_worst(self.worst)
        elif self.findings and self.conclusive:
            text.append(f"  worst    ratio {self.worst_ratio:.2f} of the bound")
        text += self._messages()
        if failed:
            names = ", ".join(f"{trial} ({rank}-D)" for rank, trial in self.ran if (rank, trial) in failed)
            text += _wrap(width, "  failed   ", names)
            text.append("  again    " + self.reproduction())
        for (rank, trial), deviation in self.known.items():
            text.append(f"  known    {trial} ({rank}-D): {deviation.reason}")
        for (rank, trial), reason in self.unjudged.items():
            text += _wrap(width, "  unjudged ", f"{trial} ({rank}-D), because on this machine {reason}")
        for stale in self.stale_deviations:
            text.append(
                f"  stale    line {stale.line} of the deviations, {stale.pattern!r}: no such trial failed; remove it"
            )
        for note in self.notes:
            text += _wrap(width, "  noted    ", note)
        if not self.conclusive and not self.failures:
            text.append("  nothing was judged: the bound decides no element")
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as data for JSON; infinite and undefined numbers are strings."""
        return {
            "passed": self.passed,
            "spec": self.spec.to_dict(),
            "dtype": self.dtype,
            "seed": self.seed,
            "products": self.precision.products,
            "intermediates": self.precision.intermediates,
            "data_format": self.data_format,
            "ranks": list(self.ranks),
            "not_run": list(self.not_run),
            "trials": len(self.ran),
            "causes": list(self.causes),
            "stage": self.stage,
            "seen": list(self.seen),
            "worst_ratio": to_json_number(self.worst_ratio),
            "conclusive": self.conclusive,
            "inconclusive": self.inconclusive,
            "failures": [finding.to_dict() for finding in self.failures],
            "known": {f"{rank}: {trial}": deviation.reason for (rank, trial), deviation in self.known.items()},
            "outlived": [deviation.pattern for deviation in self.stale_deviations],
            "unjudged": {f"{rank}: {trial}": reason for (rank, trial), reason in self.unjudged.items()},
            "notes": self.notes,
        }

    def to_json(self) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    def _left_out(self) -> str:
        notes = [f"{self.inconclusive} elements inconclusive"] if self.inconclusive else []
        notes += [f"{rank}-D not run" for rank in self.not_run]
        notes += [f"{len(self.unreached)} trials not run after the time limit"] if self.unreached else []
        return f" ({', '.join(notes)})" if notes else ""

    def _causes(self, width: int) -> list[str]:
        if not self.failures or self.diagnosis is None:
            return []
        if not self.agreeing:
            text = [f"  cause    none of the catalogue; departs at: {self.stage}"]
            return text + (
                _wrap(width, "           ", "nearest, not it: " + ", ".join(self.nearest)) if self.nearest else []
            )
        text = [f"  cause    agrees with: {_join_names(self.agreeing)}"]
        for fault in self.agreeing:
            text += _wrap(width, "           ", f"{fault.sentence} [{fault.source}]")
            text += _wrap(width, "           ", f"to do: {fault.remedy}")
        if self.diagnosis.same:
            names = ", or ".join(fault.name for fault in self.diagnosis.same)
            text += _wrap(width, "           ", f"or {names}: on these inputs the numbers are the same")
        return [*text, f"  stage    {self.stage}"]

    def _messages(self) -> list[str]:
        """Return the first three errors that are no numbers."""
        errors = [finding for finding in self.failures if finding.message]
        text = [_shorten(f"  in       {error.trial!r}, {error.rank}-D: {error.message}") for error in errors[:3]]
        return text + ([f"           and {len(errors) - 3} more"] if len(errors) > 3 else [])

    def reproduction(self) -> str:
        """Return the line of Python that makes the inputs of the worst failure again; there must be a failure."""
        worst = self.failures[0]
        if worst.trial == PARAMETERS:
            return f"se_conformance.adapt(block).prepare({self.spec!r}, {self.dtype!r})"
        return (
            f"x, dy, parameters = se_conformance.trial({worst.trial!r}, {self.spec!r}, "
            f"dtype={self.dtype!r}, rank={worst.rank}, seed={self.seed}).inputs"
        )


def _join_names(faults: tuple[Fault, ...]) -> str:
    """Join the names of a cause; two faults occur together."""
    return " and ".join(fault.name for fault in faults) + (", together" if len(faults) > 1 else "")


def _severity(finding: Finding) -> tuple[bool, bool, bool, float]:
    """Sort numbers before errors, finite ones first, and y before the gate and the gradients."""
    is_finite = finding.comparison is not None and math.isfinite(finding.comparison.want)
    return finding.comparison is None, not is_finite, finding.quantity != "y", -finding.ratio


def _shorten(line: str) -> str:
    """Cut the long messages of frameworks' exceptions."""
    is_long = len(line) > LINE_CHARACTERS and " raised " in line
    return line[: LINE_CHARACTERS - 3] + "..." if is_long else line


def _wrap(width: int, indent: str, text: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=" " * len(indent))


def _describe_worst(finding: Finding) -> list[str]:
    c = finding.comparison
    assert c is not None
    if not c.where:
        return [f"  worst    {finding.quantity} of {finding.trial!r}, {finding.rank}-D: another shape"]
    index, layout = ", ".join(map(str, c.where)), " (channels last)" if finding.quantity in ("y", "dx") else ""
    return [
        f"  worst    {finding.quantity}[{index}]{layout} of {finding.trial!r}, {finding.rank}-D",
        f"           got {c.got:.9g}, want {c.want:.9g}, bound {c.bound:.2g}, ratio {c.ratio:.3g}",
    ]
