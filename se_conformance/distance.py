"""How far the answer of a faulty variant is from the answer of the judged block.

Only what exceeds the bound counts: rms(|got - variant| - bound) over rms(|got - right| - bound). Where the right answer
is not refuted, the scale is the bound itself. The distance is near 0 where the variant answers what the block answered,
1 where it explains no more than the right answer does, and larger where it contradicts the block.
"""

import numpy as np

from se_spec.formats import FORMATS

EXPLAINED_DISTANCE = 0.02
"""Up to this distance one variant explains everything; beyond it a second mistake may be present."""
ROUNDINGS_OF_NUMBER = 64
"""Roundings, of the largest number, that a number in place of NaN or inf may be off where no element has a bound."""
MAX_DISTANCE = 3.0
"""The distance of two answers that have nothing in common: another form, or NaN and inf at other places."""


class Distance:
    """Measures variants against one array that the block returned; many variants are measured against each array.

    Args:
        got: what the block returned, of any float dtype.
        want: the right answer, of the same shape.
        bound: how far a right answer may be from ``want``, elementwise.
    """

    def __init__(self, got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> None:
        unit = FORMATS[got.dtype.name].unit if got.dtype.name in FORMATS else FORMATS["float32"].unit
        got = got.astype(np.float64)
        self._is_decided = bound != np.inf
        is_number_for_none = np.isfinite(got) & ~np.isfinite(want) & self._is_decided
        if is_number_for_none.any():  # a number in place of NaN or inf is as far from right as it is large
            size = float(np.abs(got).max(initial=0.0, where=np.isfinite(got)))
            largest = np.abs(bound[np.isfinite(bound)]).max(initial=0.0) or ROUNDINGS_OF_NUMBER * unit * size
            want, bound = np.where(is_number_for_none, 0.0, want), np.where(is_number_for_none, largest, bound)
        self._is_finite = np.isfinite(got) | ~self._is_decided
        self._compared = self._is_finite & np.isfinite(want) & self._is_decided
        self._got, error = got[self._compared], np.abs(got[self._compared] - want[self._compared])
        self._bound = bound = np.where(np.isfinite(bound[self._compared]), bound[self._compared], np.inf)
        self._is_refuted = bool((error > bound).any())
        self._scale = (
            rms(np.maximum(error - bound, 0.0)) if self._is_refuted else rms(error) + rms(bound[np.isfinite(bound)])
        )

    def __call__(self, variant: np.ndarray) -> float:
        """Compute the distance of a variant: 0 for the same answer, 1 for no better than the right one, at most 3."""
        difference = self._difference(variant)
        if difference is None:
            return MAX_DISTANCE
        if self._is_refuted:  # the bound around the right answer explains nothing
            difference = np.maximum(difference - self._bound, 0.0)
        return rms(difference) / self._scale if self._scale else float(bool(rms(difference))) * MAX_DISTANCE

    def agrees(self, variant: np.ndarray, amplification: float = 1.0) -> bool:
        """Whether the variant answers what the block answered, up to rounding.

        Rounding is twice the bound of the right answer. Where the block is refuted that bound belongs to another
        answer, and the largest bound of the array, times the amplification, counts for every element.

        Args:
            variant: of the same shape.
            amplification: how much more the variant's arithmetic rounds than the right block's, at least 1.
        """
        difference = self._difference(variant)
        if difference is None:
            return False
        limit = 2.0 * self._bound
        if self._is_refuted:
            limit = np.maximum(limit, amplification * limit[np.isfinite(limit)].max(initial=0.0))
        return bool((difference <= limit).all())

    def _difference(self, variant: np.ndarray) -> np.ndarray | None:
        variant = variant.astype(np.float64)
        if not np.array_equal(self._is_finite, np.isfinite(variant) | ~self._is_decided):
            return None
        return np.abs(self._got - variant[self._compared])


def relative_distance(got: np.ndarray, variant: np.ndarray) -> float:
    """rms(got - variant) over rms(variant), for answers of another shape than x, which have no bound.

    It is ``MAX_DISTANCE`` where NaN or inf are at other places.
    """
    got, variant = got.astype(np.float64), variant.astype(np.float64)
    finite = np.isfinite(got)
    if not np.array_equal(finite, np.isfinite(variant)):
        return MAX_DISTANCE
    return min(MAX_DISTANCE, rms(got[finite] - variant[finite]) / (rms(variant[finite]) or 1.0))


def rms(values: np.ndarray) -> float:
    """Root mean square; values near the largest float do not overflow."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float(np.sqrt(np.mean((values / largest) ** 2))) if largest else 0.0
