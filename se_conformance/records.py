"""The record of one trial: its inputs, the oracle's answer, and what the judged block did."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .calls import CallResult
from .comparison import Comparison, Reference, Result, element_ratios
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
        is_loose: whether variants need not repeat the numbers of samples with NaN or inf, but only be wrong where the
            block is; set before a variant is measured.
    """

    trial: Trial
    reference: Reference
    forward: CallResult
    backward: CallResult | None = None
    result: Result = field(default_factory=Result)
    comparisons: list[Comparison] = field(default_factory=list)
    is_malformed: bool = False
    failed: bool = False
    is_loose: bool = False

    @cached_property
    def distance(self) -> Distance:
        """Measures how far a variant's y is from the block's; only where the block returned an array of x's shape."""
        want, bound = self.reference.want.y, self.reference.bound.y
        assert self.forward.y is not None and want is not None and bound is not None
        return Distance(self.forward.y, want, np.where(self._excluded, np.inf, bound) if self.is_loose else bound)

    @cached_property
    def _excluded(self) -> np.ndarray:
        """Mark the elements of samples with NaN or inf: the oracle has no bound of its own for its answers to these."""
        span = self.reference.span.y
        assert span is not None
        return np.isnan(span)

    @cached_property
    def _wrong_samples(self) -> np.ndarray:
        assert self.forward.y is not None
        return self._find_wrong_samples(self.forward.y)

    def _find_wrong_samples(self, y: np.ndarray) -> np.ndarray:
        """Find the samples with NaN or inf in which y is wrong."""
        want, bound, span = (result.y for result in self.reference)
        assert want is not None and bound is not None and span is not None
        ratios = element_ratios(y.astype(np.float64), want, bound, span)[0]
        return np.asarray(((ratios > 1.0) & self._excluded).any(tuple(range(1, y.ndim))))

    def is_wrong_alike(self, variant: np.ndarray) -> bool:
        """Whether a variant's y is wrong in those samples with NaN or inf in which the block's is; true if strict."""
        if not self.is_loose or not self._excluded.any():
            return True
        wrong = self._find_wrong_samples(variant)
        differs = self._wrong_samples != wrong
        if not np.isnan(self.trial.inputs.x.astype(np.float64)).any():  # inf times a weight of 0 is NaN in a variant
            differs &= ~np.isnan(variant.astype(np.float64)).any(tuple(range(1, variant.ndim)))
        return not differs.any()

    @cached_property
    def gradient_distances(self) -> dict[str, Distance]:
        """The same for each gradient that came back with the right shape, by name."""
        want, bound = (dict(result.arrays()) for result in self.reference[:2])
        gradients = self.result._replace(y=None, g=None)
        return {name: Distance(got, want[name], bound[name]) for name, got in gradients.arrays()}

    @cached_property
    def is_finite(self) -> bool:
        """Whether x has neither NaN nor inf."""
        return bool(np.isfinite(self.trial.inputs.x.astype(np.float64)).all())

    @property
    def forward_failed(self) -> bool:
        """Whether y itself is wrong, not only its gradients or the gate."""
        x, y = self.trial.inputs.x, self.forward.y
        is_well_formed = y is not None and y.shape == x.shape and y.dtype == x.dtype
        wrong = any(not comparison.passed for comparison in self.comparisons if comparison.quantity == "y")
        return not is_well_formed or bool(self.forward.modified) or wrong
