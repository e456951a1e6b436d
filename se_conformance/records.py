"""The record of one trial: its inputs, what the oracle says, and what the judged block did."""

from dataclasses import dataclass, field
from functools import cached_property

from .calls import Outcome
from .comparison import Comparison, Reference, Result
from .distance import Distance
from .trial_inputs import Trial


@dataclass
class TrialRecord:
    """One trial as it went."""

    trial: Trial
    against: Reference
    outcome: Outcome
    gradient: Outcome | None = None
    result: Result = field(default_factory=Result)
    comparisons: list[Comparison] = field(default_factory=list)
    malformed: bool = False
    failed: bool = False

    @cached_property
    def distance(self) -> Distance:
        """Of a variant's answer; where there is one to compare it with."""
        want, bound = self.against.want.y, self.against.bound.y
        assert self.outcome.y is not None and want is not None and bound is not None
        return Distance(self.outcome.y, want, bound)

    @cached_property
    def gradient_distances(self) -> dict[str, Distance]:
        """Of a variant's gradients, by name; of those that have the right shape."""
        want, bound = (dict(one.arrays()) for one in self.against[:2])
        gradients = self.result._replace(y=None, g=None)
        return {name: Distance(got, want[name], bound[name]) for name, got in gradients.arrays()}

    @property
    def forward_failed(self) -> bool:
        """Whether the answer itself is wrong, not only its gradients."""
        x, outcome = self.trial.inputs.x, self.outcome
        fits = outcome.y is not None and outcome.y.shape == x.shape and outcome.y.dtype == x.dtype
        wrong = any(not one.passed for one in self.comparisons if one.quantity == "y")
        return not fits or bool(outcome.modified) or wrong
