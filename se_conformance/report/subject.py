"""What a page shows of a verdict: the attributes that ``Verdict`` has, named here so that the arrow points one way."""

from typing import Any, Protocol

from se_spec import SESpec

from ..comparison import Precision
from ..deviations import Deviation
from ..diagnosis import Diagnosis
from ..excerpts import ElementExcerpt, GateExcerpt
from ..faults import Fault
from ..findings import Finding


class Judgement(Protocol):
    """The attributes of a ``Verdict`` that are shown; their meaning is documented there."""

    spec: SESpec
    dtype: str
    seed: int
    ranks: tuple[int, ...]
    precision: Precision
    data_format: str
    findings: list[Finding]
    ran: list[tuple[int, str]]
    diagnosis: Diagnosis | None
    known: dict[tuple[int, str], Deviation]
    stale_deviations: list[Deviation]
    unjudged: dict[tuple[int, str], str]
    notes: list[str]
    unreached: list[tuple[int, str]]
    worst_elements: ElementExcerpt | None
    worst_gate: GateExcerpt | None

    @property
    def passed(self) -> bool: ...

    @property
    def failures(self) -> list[Finding]: ...

    @property
    def worst(self) -> Finding | None: ...

    @property
    def agreeing(self) -> tuple[Fault, ...]: ...

    @property
    def nearest(self) -> tuple[str, ...]: ...

    @property
    def seen(self) -> tuple[str, ...]: ...

    @property
    def stage(self) -> str: ...

    @property
    def conclusive(self) -> int: ...

    @property
    def inconclusive(self) -> int: ...

    @property
    def not_run(self) -> tuple[int, ...]: ...

    def to_dict(self) -> dict[str, Any]: ...

    def reproduction(self) -> str: ...
