"""Comparison of an implementation's result with the oracle's, by a bound on the errors of rounding."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import se_numpy
from se_numpy import error_bounds
from se_spec import SESpec
from se_spec.formats import FORMATS
from se_spec.nonlinearities import HardSigmoid

from .cases import Inputs


class Result(NamedTuple):
    """The arrays that an implementation returned, in their own dtypes; None for those that it did not return.

    Args:
        y: the scaled map, (N, *space, C).
        g: the gate, (N, C).
        dx: the gradient of the map, (N, *space, C).
        dparameters: the gradients of the parameters by canonical name, in the parameters' shapes.

    Example:
        >>> [name for name, _ in Result(y=np.ones((1, 2, 3)), g=np.ones((1, 3))).arrays()]
        ['y', 'g']
    """

    y: np.ndarray | None = None
    g: np.ndarray | None = None
    dx: np.ndarray | None = None
    dparameters: dict[str, np.ndarray] | None = None

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield names and arrays: ``y``, ``g``, ``dx``, ``d reduce.weight``, ...; skips what is None."""
        yield from ((name, array) for name in ("y", "g", "dx") if (array := getattr(self, name)) is not None)
        yield from ((f"d {name}", array) for name, array in (self.dparameters or {}).items())


class Precision(NamedTuple):
    """The precision that an implementation declares; the values are those of ``se_numpy.error_bound``.

    Args:
        products: ``"dtype"``, ``"tf32"`` or ``"bfloat16"``.
        intermediates: in half precision ``"storage"`` or ``"float32"``.
        accumulation: a dtype, or None for float32 (float64 for float64).

    Example:
        >>> Precision(products="tf32")
        Precision(products='tf32', intermediates='storage', accumulation=None)
    """

    products: str = "dtype"
    intermediates: str = "storage"
    accumulation: str | None = None


ROUNDINGS_BESIDE_INF = 64
"""Roundings, in units of the dtype and of an element's range, that are allowed in a sample with NaN or inf."""
FLOAT32_INTERMEDIATES = Precision(intermediates="float32")
"""The precision that this project's implementations declare."""


class Reference(NamedTuple):
    """The oracle's answer and its bounds.

    Args:
        want: the answer, float64.
        bound: the largest difference of a right answer from ``want``, elementwise, in the same shapes.
        span: the width of the range of an element's values. A bound of half the span or more is inconclusive. NaN
            marks a sample with NaN or inf: its finite elements may be NaN instead, as a compensated sum makes them.

    Example:
        >>> from se_conformance import Case
        >>> case = Case(SESpec(8, hidden=2))
        >>> expected = reference(case.inputs(), case.spec, case.dtype, gradients=False)
        >>> expected.want.y.dtype, bool((expected.bound.y > 0).all())
        (dtype('float64'), True)
    """

    want: Result
    bound: Result
    span: Result


class Comparison(NamedTuple):
    """The comparison of one array with the right one.

    Args:
        quantity: ``y``, ``g``, ``dx``, ``d reduce.weight``, ...
        ratio: the largest difference over its bound among the conclusive elements; 0/0 is 0, x/0 is inf.
        error: the largest difference over the largest magnitude that is wanted.
        where: the index of the element with that ratio; empty if shapes differ or nothing is conclusive.
        got, want, bound: the numbers at that index.
        conclusive, inconclusive: the numbers of elements that the bound decides, and that it does not.

    Example:
        >>> one, two = np.ones((1, 2)), np.full((1, 2), 2.0)
        >>> found = compare_arrays("y", two, one, 0.1 * one, one)
        >>> found.passed, found.ratio, found.where
        (False, 10.0, (0, 0))
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
    precision: Precision = FLOAT32_INTERMEDIATES,
    *,
    gradients: bool = True,
    exact: bool = False,
) -> Reference:
    """Compute the oracle's answer and its bounds in float64.

    Args:
        inputs: x and dy (N, *space, C), and the canonical parameters.
        spec: which block.
        dtype: the dtype in which the judged implementation stores x, y and the parameters.
        precision: the precision that the implementation declares.
        gradients: whether to compute dx and the parameters' gradients.
        exact: whether the inputs are a probe, on which sums do not round (``probes``).

    Returns:
        y and g, and with ``gradients`` dx and dparameters, each with bound and span.

    Raises:
        SpecError: a dtype or a precision is not allowed.
        InputError, ShapeError, ParameterError: the inputs do not fit the spec.

    Example:
        >>> from se_conformance import Case
        >>> case = Case(SESpec(8, hidden=2))
        >>> expected = reference(case.inputs(), case.spec, case.dtype)
        >>> expected.want.y.shape, expected.bound.g.shape
        ((3, 5, 7, 8), (3, 8))
    """
    x, dy, parameters = inputs
    r = error_bounds.make_rounding(dtype, precision.accumulation, precision.products, precision.intermediates)
    bound = error_bounds.compute_bounds(x, dy if gradients else None, spec, parameters, r, "channels_last", exact=exact)
    t, y = bound.t, se_numpy.block.scale_map(bound.t, spec, "channels_last")
    reach = spec.gain * _gate_span(spec, t) + spec.residual
    excluded = ~np.isfinite(t.x).all(tuple(range(1, x.ndim)))  # samples with NaN or inf
    size = np.maximum(np.abs(t.x), 1e-3 * _largest(t.x))  # values near 0 leave the bound conclusive
    sy, sg = size * reach, np.full_like(bound.g, _gate_span(spec, t))
    unit = max(FORMATS[name].unit for name in (dtype, precision.accumulation) if name in FORMATS)
    bound.y[excluded] = _bound_beside_inf(bound.y[excluded], sy[excluded], unit)
    bound.g[excluded] = _bound_beside_inf(bound.g[excluded], sg[excluded], unit)
    sy[excluded], sg[excluded] = np.nan, np.nan
    if not gradients:
        return Reference(Result(y, t.g), Result(bound.y, bound.g), Result(sy, sg))
    dx, dparameters = se_numpy.vjp(x, dy, spec, parameters, data_format="channels_last")
    spans = {name: _largest(array) for name, array in dparameters.items()}
    if not np.isfinite(dy).all():  # what reaches other elements depends on zeros that multiply NaN
        reached = np.isnan(dy)
        dx, bound = np.where(reached, np.nan, 0.0), bound._replace(dx=np.where(reached, np.nan, np.inf))
        dparameters = {name: np.zeros_like(array) for name, array in dparameters.items()}
        bound = bound._replace(dparameters={name: np.full_like(array, np.inf) for name, array in dparameters.items()})
    want = Result(y, t.g, dx, dparameters)
    return Reference(want, Result(*bound[1:]), Result(sy, sg, _largest(dx), spans))


def compare(got: Result, expected: Reference, *, partial: bool = False) -> list[Comparison]:
    """Compare every quantity that was returned and is expected with its bound.

    Args:
        got: the result of an implementation.
        expected: the result of ``reference``.
        partial: whether gradients may be missing.

    Returns:
        A comparison for each quantity, in the order y, g, dx, parameters.

    Raises:
        AssertionError: gradients were returned, and one of those expected is missing; not if ``partial``.

    Example:
        >>> from se_conformance import Case
        >>> case = Case(SESpec(8, hidden=2))
        >>> expected = reference(case.inputs(), case.spec, case.dtype, gradients=False)
        >>> [(found.quantity, found.ratio) for found in compare(Result(y=expected.want.y), expected)]
        [('y', 0.0)]
    """
    want, bound, span = (dict(result.arrays()) for result in expected)
    found = dict(got.arrays())
    missing = set(want) - set(found) - {"g", "y"} if got.dparameters is not None else set()
    if missing and not partial:
        raise AssertionError(f"no {', '.join(sorted(missing))} among {', '.join(found)}")
    return [compare_arrays(name, found[name], want[name], bound[name], span[name]) for name in found if name in want]


def compare_arrays(quantity: str, got: np.ndarray, want: np.ndarray, bound: np.ndarray, span: np.ndarray) -> Comparison:
    """Compare one array with the right one; where that is NaN or inf, the array must not be finite (N-3)."""
    if got.shape != want.shape:
        return Comparison(quantity, np.inf, np.inf, (), np.nan, np.nan, np.nan, 1, 0)
    got = got.astype(np.float64)
    ratio, vague = element_ratios(got, want, bound, span)
    conclusive = int((np.isfinite(want) & (ratio >= 0.0)).sum())
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


def element_ratios(
    got: np.ndarray, want: np.ndarray, bound: np.ndarray, span: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each element's difference over its bound, -1 where it is not decided, and where the bound is too large."""
    ratio = _ratio(got, want, bound)
    numeric = np.isfinite(want)
    excused = numeric & np.isnan(span) & (np.isnan(got) | np.isnan(bound))
    vague = numeric & ~excused & ((bound == np.inf) | ((bound > 0.0) & (bound >= 0.5 * span)))
    vague &= ~(np.isnan(got) & np.isfinite(bound))  # however wide a finite bound is, NaN is not within it
    ratio[vague | excused] = -1.0
    return ratio, vague


def allow_rounded_gate(expected: Reference, g: np.ndarray | None) -> Reference:
    """Widen the gate's bound by one rounding where the block returns its gate in half precision."""
    want, bound = expected.want.g, expected.bound.g
    if g is None or want is None or bound is None or g.dtype.name not in ("bfloat16", "float16"):
        return expected
    unit = FORMATS[g.dtype.name].unit
    return expected._replace(bound=expected.bound._replace(g=bound + unit * (np.abs(want) + bound)))


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """Compute max|got - want| / max|want|.

    Args:
        got: an array of any float dtype.
        want: the right array.

    Returns:
        The difference, at least 0; inf if the shapes differ, or if NaN and inf are not at the same positions.

    Example:
        >>> difference(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        0.5
    """
    if got.shape != want.shape:
        return float("inf")
    got = got.astype(np.float64)
    finite = np.isfinite(want)
    if not finite.all():
        if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
            return float("inf")
        got, want = got[finite], want[finite]
    if not np.isfinite(got).all():
        return float("inf")
    scale = float(np.abs(want).max(initial=0.0))
    error = float(np.abs(got - want).max(initial=0.0))
    return error / scale if scale else float(error and np.inf)


def _ratio(got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        ratio = np.abs(got - want) / bound
    ratio[np.isnan(ratio)] = np.inf
    ratio[got == want] = 0.0
    special = ~np.isfinite(want)
    if special.any():
        want, got = want[special], got[special]
        is_nan = np.isnan(got)  # also where inf is wanted: a compensated sum, inf - inf
        ratio[special] = np.where(is_nan | (got == want), 0.0, np.inf)
    return ratio


def _bound_beside_inf(bound: np.ndarray, span: np.ndarray, unit: float) -> np.ndarray:
    """Bound finite elements of a sample with inf, where the errors of its sums cannot be bounded: a few roundings."""
    return np.where(np.isfinite(bound), bound, ROUNDINGS_BESIDE_INF * unit * span)


def _gate_span(spec: SESpec, t: se_numpy.block.Trace) -> float:
    """Compute the width of the gate's range; for an unbounded gate, the largest gate or logit that occurs."""
    match spec.gate:
        case "sigmoid" | "hard_sigmoid":
            return 1.0
        case "tanh":
            return 2.0
        case HardSigmoid(low=low, high=high):
            return high - low
    return float(max(_largest(t.g).max(initial=0.0), _largest(t.logits).max(initial=0.0)))


def _largest(array: np.ndarray) -> np.ndarray:
    """Return a read-only array of the same shape, whose elements are the largest finite magnitude."""
    magnitude = np.abs(array)
    return np.broadcast_to(magnitude.max(initial=0.0, where=np.isfinite(magnitude)), array.shape)
