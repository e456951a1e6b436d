"""A finding: one quantity of one trial beside its bound."""

from dataclasses import dataclass

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
