"""A finding: one quantity of one trial beside its bound."""

from dataclasses import dataclass
from typing import Any

from .comparison import Comparison


@dataclass(frozen=True)
class Finding:
    """One quantity of one trial beside its bound, or an error that is no number.

    Args:
        rank: the number of spatial axes.
        trial: the trial's name.
        quantity: ``y``, ``g``, ``dx``, ``d reduce.weight``, ...; ``call`` for an error.
        comparison: the numbers; None for an error.
        message: the error, as text.
    """

    rank: int
    trial: str
    quantity: str
    comparison: Comparison | None = None
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether the quantity is within its bound."""
        return self.comparison is not None and self.comparison.passed

    @property
    def ratio(self) -> float:
        """The largest difference over its bound; inf for an error."""
        return float("inf") if self.comparison is None else self.comparison.ratio

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as data for JSON; infinite and undefined numbers are strings."""
        place = {"rank": self.rank, "trial": self.trial, "quantity": self.quantity, "message": self.message}
        c = self.comparison
        if c is None:
            return place
        numbers = {key: to_json_number(getattr(c, key)) for key in ("ratio", "got", "want", "bound")}
        return {**place, **numbers, "where": list(c.where), "conclusive": c.conclusive, "inconclusive": c.inconclusive}


def to_json_number(value: float) -> float | str:
    """Convert inf and NaN, which JSON lacks, to strings."""
    return value if abs(value) < float("inf") else str(value)
