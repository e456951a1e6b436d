"""How far the answer of a wrong variant is from the answer of the judged block, beside the right answer and its bound.

Only what is left beyond the bound is compared: rms(|got - variant| - bound) over rms(|got - right| - bound). Where the
right answer is not refuted, the bound itself is the scale.
"""

import numpy as np

EXPLAINS = 0.02
"""Below it one variant is all there is; above, a second mistake may be beside it."""


class Distance:
    """How far variants are from one array that was got, beside a right one and its bound; it is asked of many."""

    def __init__(self, got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> None:
        got = got.astype(np.float64)
        self._known = np.isfinite(got)
        self._finite = self._known & np.isfinite(want)
        self._told, wrong = got[self._finite], np.abs(got[self._finite] - want[self._finite])
        self._slack = slack = np.where(np.isfinite(bound[self._finite]), bound[self._finite], np.inf)
        self._refuted = bool((wrong > slack).any())
        self._scale = (
            rms(np.maximum(wrong - slack, 0.0)) if self._refuted else rms(wrong) + rms(slack[np.isfinite(slack)])
        )

    def __call__(self, variant: np.ndarray) -> float:
        """From 0, the same, over 1, no nearer than the right block, to 3, other NaN or nothing in common."""
        apart = self._apart(variant)
        if apart is None:
            return 3.0
        if self._refuted:  # where the right block is, the variant must not be
            apart = np.maximum(apart - self._slack, 0.0)
        return rms(apart) / self._scale if self._scale else float(bool(rms(apart))) * 3.0

    def agrees(self, variant: np.ndarray) -> bool:
        """Whether the variant is what was got, but for rounding."""
        apart = self._apart(variant)
        if apart is None:
            return False
        return bool((apart <= 2.0 * self._slack).all()) or (self._refuted and self(variant) <= EXPLAINS)

    def _apart(self, variant: np.ndarray) -> np.ndarray | None:
        variant = variant.astype(np.float64)
        return np.abs(self._told - variant[self._finite]) if np.array_equal(self._known, np.isfinite(variant)) else None


def relative_distance(got: np.ndarray, variant: np.ndarray) -> float:
    got, variant = got.astype(np.float64), variant.astype(np.float64)
    return rms(got - variant) / (rms(variant) or 1.0)


def rms(values: np.ndarray) -> float:
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float(np.sqrt(np.mean((values / largest) ** 2))) if largest else 0.0
