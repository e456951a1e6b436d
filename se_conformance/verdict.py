"""What the judge says, in full."""

import json
import math
import textwrap
from dataclasses import dataclass, field
from typing import Any

from se_spec import SESpec

from .comparison import Comparison, Precision
from .deviations import Deviation
from .diagnosis import Diagnosis

NEAREST = 0.6
"""Distance up to which a cause that does not explain all is worth a word."""


@dataclass(frozen=True)
class Finding:
    """One quantity of one trial, or what went wrong before there was one."""

    rank: int
    trial: str
    quantity: str
    comparison: Comparison | None = None
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.comparison is not None and self.comparison.passed

    @property
    def ratio(self) -> float:
        """Of the comparison; inf where there is none."""
        return float("inf") if self.comparison is None else self.comparison.ratio


@dataclass
class Verdict:
    """The outcome of ``check``.

    Args:
        spec, dtype, seed, ranks, precision, data_format: what was asked.
        findings: everything that was compared.
        ran: (rank, trial) of each trial.
        diagnosis: what is wrong, where something is.
        known: trials that failed and are listed as known deviations.
        outlived: lines of that list whose trials did not fail.
        unjudged: trials that failed and on which the framework's own operations fail on this machine, and how: they
            say nothing about the block.
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
    diagnosed: int = 0
    known: dict[tuple[int, str], Deviation] = field(default_factory=dict)
    outlived: list[Deviation] = field(default_factory=list)
    unjudged: dict[tuple[int, str], str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Every comparison within its bound, at least one conclusive element, and no outlived deviation."""
        return not self.failures and not self.outlived and self.conclusive > 0

    @property
    def failures(self) -> list[Finding]:
        """What is wrong with the block, the worst first; without known deviations and what the machine does wrong."""
        wrong = [one for one in self._counted if not one.passed]
        return sorted(wrong, key=_severity)

    @property
    def causes(self) -> tuple[str, ...]:
        """Names of known mistakes, the likeliest first; the first two belong together if ``diagnosis.together``."""
        if not self.failures or self.diagnosis is None:
            return ()
        return tuple(fault.name for fault in self.diagnosis.causes)

    @property
    def stage(self) -> str:
        """Where it departs; empty for a pass."""
        return self.diagnosis.stage if self.failures and self.diagnosis is not None else ""

    @property
    def worst_ratio(self) -> float:
        """Largest difference over its bound; inf where a call went wrong altogether."""
        return max((one.ratio for one in self._counted), default=0.0)

    @property
    def conclusive(self) -> int:
        """Elements that were judged."""
        return sum(one.comparison.conclusive for one in self._counted if one.comparison)

    @property
    def inconclusive(self) -> int:
        """Elements on which the bound says nothing."""
        return sum(one.comparison.inconclusive for one in self.findings if one.comparison)

    @property
    def not_run(self) -> tuple[int, ...]:
        """Numbers of spatial axes that were not tried."""
        return tuple(rank for rank in (1, 2, 3) if rank not in self.ranks)

    @property
    def _counted(self) -> list[Finding]:
        """What counts for or against the block."""
        left_out = self.known.keys() | self.unjudged.keys()
        return [one for one in self.findings if (one.rank, one.trial) not in left_out]

    def apply(self, deviations: list[Deviation]) -> None:
        """Excuse what is listed, and find lines that have outlived their reason."""
        wrong = {(one.rank, one.trial) for one in self.findings if not one.passed}
        for each in deviations:
            spoken_of = [(rank, trial) for rank, trial in self.ran if each.covers(rank, trial)]
            self.known |= {key: each for key in spoken_of if key in wrong}
            if spoken_of and not wrong.intersection(spoken_of):
                self.outlived.append(each)

    def raise_if_failed(self) -> None:
        """AssertionError with the whole text, unless passed."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The text, line by line."""
        failed, ran = {(one.rank, one.trial) for one in self.failures}, len(self.ran) - len(self.unjudged)
        head = f"{'passed' if self.passed else 'FAILED'}: {self.spec} in {self.dtype}"
        if self.precision != Precision():
            head += f", products={self.precision.products!r}, intermediates={self.precision.intermediates!r}"
        text = [head, f"  ran      {ran - len(failed)} of {ran} trials right" + self._left_out()]
        text += self._causes()
        numeric = [one for one in self.failures if one.comparison is not None]
        if numeric:
            text += _worst(numeric[0])
        elif self.findings and self.conclusive:
            text.append(f"  worst    ratio {self.worst_ratio:.2f} of the bound")
        text += self._messages()
        if failed:
            names = ", ".join(f"{trial} ({rank}-D)" for rank, trial in self.ran if (rank, trial) in failed)
            text += _wrapped("  failed   ", names)
            text.append("  again    " + self._again())
        for (rank, trial), each in self.known.items():
            text.append(f"  known    {trial} ({rank}-D): {each.reason}")
        for (rank, trial), why in self.unjudged.items():
            text += _wrapped("  unjudged ", f"{trial} ({rank}-D), for here {why}")
        for each in self.outlived:
            text.append(
                f"  outlived line {each.line} of the deviations, {each.pattern!r}: no such trial failed; drop it"
            )
        if not self.conclusive and not self.failures:
            text.append("  nothing was judged: on every element the bound says nothing")
        return text

    def to_dict(self) -> dict[str, Any]:
        """The same as data, for JSON."""
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
            "worst_ratio": _json_number(self.worst_ratio),
            "conclusive": self.conclusive,
            "inconclusive": self.inconclusive,
            "failures": [
                {
                    "rank": one.rank,
                    "trial": one.trial,
                    "quantity": one.quantity,
                    "message": one.message,
                    **({} if one.comparison is None else _as_data(one.comparison)),
                }
                for one in self.failures
            ],
            "known": {f"{rank}: {trial}": each.reason for (rank, trial), each in self.known.items()},
            "outlived": [each.pattern for each in self.outlived],
            "unjudged": {f"{rank}: {trial}": why for (rank, trial), why in self.unjudged.items()},
        }

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def _left_out(self) -> str:
        notes = [f"{self.inconclusive} elements inconclusive"] if self.inconclusive else []
        notes += [f"{rank}-D not run" for rank in self.not_run]
        return f" ({', '.join(notes)})" if notes else ""

    def _causes(self) -> list[str]:
        if not self.failures or self.diagnosis is None:
            return []
        found = self.diagnosis
        told = 2 if found.together else 1
        names = " and ".join(fault.name for fault in found.causes[:told]) + (", together" if found.together else "")
        if not found.agrees:
            text = [f"  cause    none of the catalogue; departs at: {found.stage}"]
            near = [names, *(fault.name for fault in found.causes[told:])][: sum(d < NEAREST for d in found.distances)]
            return text + (_wrapped("           ", "nearest, not it: " + ", ".join(near)) if near else [])
        text = [f"  cause    agrees with: {names}"]
        for fault in found.causes[:told]:
            text += _wrapped("           ", f"{fault.sentence} [{fault.source}]")
            text += _wrapped("           ", f"to do: {fault.remedy}")
        return [*text, f"  stage    {found.stage}"]

    def _messages(self) -> list[str]:
        """What went wrong apart from numbers: the first few."""
        told = [one for one in self.failures if one.message]
        text = [_cut(f"  in       {one.trial!r}, {one.rank}-D: {one.message}") for one in told[:3]]
        return text + ([f"           and {len(told) - 3} more"] if len(told) > 3 else [])

    def _again(self) -> str:
        one = self.failures[0]
        return (
            f"x, dy, parameters = se_conformance.trial({one.trial!r}, {self.spec!r}, "
            f"dtype={self.dtype!r}, rank={one.rank}, seed={self.seed}).inputs"
        )


def _severity(one: Finding) -> tuple[bool, bool, bool, float]:
    """Numbers first, among them those that should be finite; y before gates and gradients, which follow from less."""
    is_finite = one.comparison is not None and math.isfinite(one.comparison.want)
    return one.comparison is None, not is_finite, one.quantity != "y", -one.ratio


def _cut(line: str) -> str:
    """Frameworks' own messages are long."""
    return line[:117] + "..." if len(line) > 120 and " raised " in line else line


def _wrapped(indent: str, text: str) -> list[str]:
    return textwrap.wrap(text, 120, initial_indent=indent, subsequent_indent=" " * len(indent))


def _worst(one: Finding) -> list[str]:
    c = one.comparison
    assert c is not None
    if not c.where:
        return [f"  worst    {one.quantity} of {one.trial!r}, {one.rank}-D: another shape"]
    at, layout = ", ".join(map(str, c.where)), " (channels last)" if one.quantity in ("y", "dx") else ""
    return [
        f"  worst    {one.quantity}[{at}]{layout} of {one.trial!r}, {one.rank}-D",
        f"           got {c.got:.9g}, want {c.want:.9g}, bound {c.bound:.2g}, ratio {c.ratio:.3g}",
    ]


def _as_data(c: Comparison) -> dict[str, Any]:
    numbers = {key: _json_number(getattr(c, key)) for key in ("ratio", "got", "want", "bound")}
    return {**numbers, "where": list(c.where), "conclusive": c.conclusive, "inconclusive": c.inconclusive}


def _json_number(value: float) -> float | str:
    """JSON has no inf and no NaN."""
    return value if abs(value) < float("inf") else str(value)
