"""How far an implementation's answer is from the oracle's, beside how far rounding can have put it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import se_numpy
from se_numpy import error_bounds
from se_spec import SESpec
from se_spec.nonlinearities import HardSigmoid

from .cases import Inputs


class Result(NamedTuple):
    """What an implementation returned, as NumPy arrays of the dtypes that it returned; feature maps channels last."""

    y: np.ndarray | None = None
    g: np.ndarray | None = None
    dx: np.ndarray | None = None
    dparameters: dict[str, np.ndarray] | None = None

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """What is there, by name: ``y``, ``g``, ``dx``, ``d reduce.weight``, ..."""
        yield from ((name, array) for name in ("y", "g", "dx") if (array := getattr(self, name)) is not None)
        yield from ((f"d {name}", array) for name, array in (self.dparameters or {}).items())


class Precision(NamedTuple):
    """In what an implementation says that it computes; the arguments of ``se_numpy.error_bound``."""

    products: str = "dtype"
    intermediates: str = "storage"
    accumulation: str | None = None


KEPT = Precision(intermediates="float32")
"""What this project's implementations say."""


class Reference(NamedTuple):
    """The oracle's answer, how far a right one may be from it, and the range of values there are.

    The bound says nothing from half that span on. NaN stands for what is not asked.
    """

    want: Result
    bound: Result
    span: Result


class Comparison(NamedTuple):
    """One array against another.

    ``ratio`` is the largest difference over its bound, among the elements on which the bound says something; 0/0 is 0,
    and anything over 0 is inf. ``error`` is the largest difference relative to the largest magnitude wanted.
    """

    quantity: str
    ratio: float
    error: float
    where: tuple[int, ...]
    got: float
    want: float
    bound: float
    conclusive: int
    inconclusive: int

    @property
    def passed(self) -> bool:
        """Whether every element is within its bound."""
        return self.ratio <= 1.0


@np.errstate(invalid="ignore")  # inf times 0
def reference(
    inputs: Inputs,
    spec: SESpec,
    dtype: str,
    precision: Precision = KEPT,
    *,
    gradients: bool = True,
    exact: bool = False,
) -> Reference:
    """The oracle's answer and its bounds, float64; ``exact`` for a probe, on which sums do not round."""
    x, dy, parameters = inputs
    r = error_bounds.rounding(dtype, precision.accumulation, precision.products, precision.intermediates)
    bound = error_bounds.bounds(x, dy if gradients else None, spec, parameters, r, "channels_last", exact=exact)
    t, y = bound.t, se_numpy.block.scaled(bound.t, spec, "channels_last")
    reach = spec.gain * _gate_span(spec, t) + spec.residual
    unasked = ~np.isfinite(t.x).all(tuple(range(1, x.ndim)))  # samples with NaN or inf: only what is not finite counts
    size = np.maximum(np.abs(t.x), 1e-3 * _largest(t.x))  # around 0, what is small against the map is no bound's fault
    sy, sg = size * reach, np.full_like(bound.g, _gate_span(spec, t))
    sy[unasked], sg[unasked] = np.nan, np.nan
    if not gradients:
        return Reference(Result(y, t.g), Result(bound.y, bound.g), Result(sy, sg))
    dx, dparameters = se_numpy.vjp(x, dy, spec, parameters, data_format="channels_last")
    spans = {name: _largest(array) for name, array in dparameters.items()}
    want = Result(y, t.g, dx, dparameters)
    return Reference(want, Result(*bound[1:]), Result(sy, sg, _largest(dx), spans))


def compare(got: Result, against: Reference, *, partial: bool = False) -> list[Comparison]:
    """Every quantity that is asked and there, against its bound; that a gradient is missing is an error, or partial."""
    want, bound, span = (dict(result.arrays()) for result in against)
    found = dict(got.arrays())
    missing = set(want) - set(found) - {"g", "y"} if got.dparameters is not None else set()
    if missing and not partial:
        raise AssertionError(f"no {', '.join(sorted(missing))} among {', '.join(found)}")
    return [judged(name, found[name], want[name], bound[name], span[name]) for name in found if name in want]


def judged(quantity: str, got: np.ndarray, want: np.ndarray, bound: np.ndarray, span: np.ndarray) -> Comparison:
    """One array against what it should be; where that is NaN or inf, it must not come back finite (N-3)."""
    if got.shape != want.shape:
        return Comparison(quantity, np.inf, np.inf, (), np.nan, np.nan, np.nan, 1, 0)
    got = got.astype(np.float64)
    ratio = _ratio(got, want, bound)
    unasked = np.isfinite(want) & np.isnan(span)
    vague = np.isfinite(want) & ~unasked & ((bound == np.inf) | ((bound > 0.0) & (bound >= 0.5 * span)))
    ratio[vague | unasked] = -1.0
    conclusive = int((np.isfinite(want) & ~vague & ~unasked).sum())
    if not (ratio.size and ratio.max() >= 0.0):
        return Comparison(quantity, 0.0, difference(got, want), (), np.nan, np.nan, np.nan, 0, int(vague.sum()))
    where = np.unravel_index(int(ratio.argmax()), ratio.shape)
    return Comparison(
        quantity,
        float(ratio[where]),
        difference(got, want),
        tuple(map(int, where)),
        float(got[where]),
        float(want[where]),
        float(bound[where]),
        conclusive,
        int(vague.sum()),
    )


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """max|got - want| / max|want|; inf where shapes differ, or NaN and inf stand in different places.

    >>> difference(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    0.5
    """
    if got.shape != want.shape:
        return float("inf")
    got = got.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    scale = float(np.abs(want[finite]).max(initial=0.0))
    error = float(np.abs(got[finite] - want[finite]).max(initial=0.0))
    return error / scale if scale else float(error and np.inf)


def _ratio(got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        ratio = np.abs(got - want) / bound
    ratio = np.where(got == want, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
    excused = np.where(np.isnan(want), np.isnan(got), np.isinf(want) & np.isnan(got))  # a compensated sum: inf - inf
    return np.where(excused, 0.0, np.where(np.isfinite(want), ratio, np.where(got == want, 0.0, np.inf)))


def _gate_span(spec: SESpec, t: se_numpy.block.Trace) -> float:
    """How wide the gate's range is; where it has none, the largest gate or logit there is."""
    match spec.gate:
        case "sigmoid" | "hard_sigmoid":
            return 1.0
        case "tanh":
            return 2.0
        case HardSigmoid(low=low, high=high):
            return high - low
    return float(max(_largest(t.g).max(initial=0.0), _largest(t.logits).max(initial=0.0)))


def _largest(array: np.ndarray) -> np.ndarray:
    """The largest finite magnitude, in the array's shape."""
    return np.full(array.shape, np.abs(array[np.isfinite(array)]).max(initial=0.0))
