"""The record of one trial: its inputs, the oracle's answer, and what the judged block did."""

from dataclasses import dataclass, field
from functools import cached_property

from .calls import CallResult
from .comparison import Comparison, Reference, Result
from .distance import Distance
from .trial_inputs import Trial


@dataclass
class TrialRecord:
    """One trial after it has run.

    Args:
        trial: the inputs.
        reference: the oracle's answer and its bounds.
        forward: the call of the function.
        backward: the call of the vjp; None where no gradients were judged.
        result: those arrays that came back with the right shape.
        comparisons: each of these arrays beside its bound.
        is_malformed: whether something other than numbers was wrong: an exception, a shape, a dtype, a changed input.
        failed: whether anything was wrong.
    """

    trial: Trial
    reference: Reference
    forward: CallResult
    backward: CallResult | None = None
    result: Result = field(default_factory=Result)
    comparisons: list[Comparison] = field(default_factory=list)
    is_malformed: bool = False
    failed: bool = False

    @cached_property
    def distance(self) -> Distance:
        """Measures how far a variant's y is from the block's; only where the block returned an array of x's shape."""
        want, bound = self.reference.want.y, self.reference.bound.y
        assert self.forward.y is not None and want is not None and bound is not None
        return Distance(self.forward.y, want, bound)

    @cached_property
    def gradient_distances(self) -> dict[str, Distance]:
        """The same for each gradient that came back with the right shape, by name."""
        want, bound = (dict(result.arrays()) for result in self.reference[:2])
        gradients = self.result._replace(y=None, g=None)
        return {name: Distance(got, want[name], bound[name]) for name, got in gradients.arrays()}

    @property
    def forward_failed(self) -> bool:
        """Whether y itself is wrong, not only its gradients or the gate."""
        x, y = self.trial.inputs.x, self.forward.y
        is_well_formed = y is not None and y.shape == x.shape and y.dtype == x.dtype
        wrong = any(not comparison.passed for comparison in self.comparisons if comparison.quantity == "y")
        return not is_well_formed or bool(self.forward.modified) or wrong
