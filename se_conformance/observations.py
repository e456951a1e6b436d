"""What is seen of a wrong block, whether or not a known mistake explains it."""

from collections.abc import Callable, Iterator

import numpy as np

from se_spec import SESpec

from .localization import gate_per_position
from .records import TrialRecord

SAME_RATIO = 0.02
"""How much the ratio of logits may vary around its median, relative to it, to be called one number."""
MIN_ELEMENTS = 4

SIZES: dict[str, Callable[[TrialRecord], int]] = {
    "N": lambda record: record.trial.inputs.x.shape[0],
    "the number of positions": lambda record: int(np.prod(record.trial.inputs.x.shape[1:-1])),
    "the longest side": lambda record: max(record.trial.inputs.x.shape[1:-1]),
}


def observe(records: list[TrialRecord], spec: SESpec) -> tuple[str, ...]:
    """Describe what is wrong in sentences.

    Args:
        records: every trial of one rank in order; at least one failed.
        spec: what the block should be.

    Returns:
        The sentences, the most general first; at least one.
    """
    failed = [record for record in records if record.failed]
    ordinary = next((record for record in failed if _has_finite_y(record)), None)
    sentences = [*_describe_trials(records, failed), *_describe_nan(records), *_describe_calls(records)]
    sentences += _describe_gradients(failed)
    if ordinary is not None and ordinary.forward_failed:
        sentences += [*_describe_elements(ordinary), *_describe_gate(ordinary, spec)]
    return tuple(sentences or _describe_size(ordinary or failed[0], spec))


def _describe_trials(records: list[TrialRecord], failed: list[TrialRecord]) -> Iterator[str]:
    """Describe which trials fail, if a size, a value or a way of calling separates them from those that pass."""
    passed = [record for record in records if not record.failed]
    if not passed:
        return
    ways = sorted({record.trial.way for record in failed})
    if "" not in ways:
        yield f"only these trials fail: {', '.join(record.trial.name for record in failed)}"
        return
    if all(record.forward.raised for record in failed):
        yield f"raises only for: {', '.join(record.trial.name for record in failed)}"
    if all(not np.isfinite(record.trial.inputs.x.astype(np.float64)).all() for record in failed):
        yield "wrong only where x has NaN or inf"
    for name, measure in SIZES.items():
        wrong, right = (
            {measure(record) for record in failed},
            {measure(record) for record in passed if not record.trial.way and record.trial.inputs.x.size},
        )
        if right and wrong and min(wrong) > max(right):
            yield f"wrong only where {name} is {min(wrong)} or more; right up to {max(right)}"
        elif len(wrong) == 1 and not wrong & right:
            yield f"wrong only where {name} is {min(wrong)}"


def _describe_nan(records: list[TrialRecord]) -> Iterator[str]:
    """Describe what becomes of NaN in one element of x, if that is wrong."""
    record = next((record for record in records if record.trial.name == "NaN" and record.failed), None)
    if record is None or record.forward.y is None or record.forward.y.shape != record.trial.inputs.x.shape:
        return
    axes = tuple(range(1, record.forward.y.ndim))
    y, want = np.isnan(record.forward.y.astype(np.float64)), np.isnan(record.trial.inputs.x.astype(np.float64))
    holds = want.any(axes)
    if not y[holds].any():
        yield "NaN in x does not reach y"
    elif not y[holds].all():
        yield "NaN in x reaches only a part of its sample in y"
    if y[~holds].any():
        yield "NaN in one sample of x reaches y of other samples"


def _describe_size(record: TrialRecord, spec: SESpec) -> Iterator[str]:
    """Describe how large the error is, where nothing else is seen."""
    x, y, name = record.trial.inputs.x, record.forward.y, record.trial.name
    if record.forward.raised:
        yield f"raises in {name!r}"
        return
    if y is None or y.shape != x.shape:
        yield f"in {name!r} y has the shape {None if y is None else y.shape}, x has {x.shape} (channels last)"
        return
    if y.dtype != x.dtype:
        yield f"y is {y.dtype}, x is {x.dtype}"
        return
    for found in record.comparisons:
        if not found.passed:
            if not np.isfinite(found.error):
                yield f"in {name!r} {found.quantity} has NaN or inf at other places than the right one"
            else:
                yield f"in {name!r} {found.quantity} is off by {found.error:.2g} of its largest right number"
            return


def _describe_calls(records: list[TrialRecord]) -> Iterator[str]:
    by_name = {record.trial.name: record for record in records}
    first, again = by_name.get("uneven map"), by_name.get("uneven map again")
    if first is None or first.forward.y is None:
        return
    y = first.forward.y
    if again is not None and again.forward.y is not None and y.tobytes() != again.forward.y.tobytes():
        yield "the same input gave another answer"
    alone = [by_name[name] for number in range(3) if (name := f"sample {number} alone") in by_name]
    if first.failed and any(not record.failed for record in alone):
        yield "y of a sample depends on the other samples: alone it is right"


def _describe_gradients(failed: list[TrialRecord]) -> Iterator[str]:
    want, got = (dict(result.arrays()) for result in (failed[0].reference.want, failed[0].result))
    names = [name for name in want if name.startswith("d") and name in got]
    zeros = [name for name in names if want[name].any() and not got[name].astype(np.float64).any()]
    if zeros:
        yield f"{' and '.join(zeros)}: 0 everywhere"
    wrong = {found.quantity for record in failed for found in record.comparisons if not found.passed}
    if names and "y" not in wrong and 0 < len(wrong.intersection(names)) < len(names):
        yield f"wrong: {', '.join(name for name in names if name in wrong)}; the other gradients are right"


def _describe_elements(record: TrialRecord) -> Iterator[str]:
    """Describe which samples, channels or positions of y are wrong, if not all are."""
    assert record.forward.y is not None and record.reference.want.y is not None and record.reference.bound.y is not None
    y, want = record.forward.y.astype(np.float64), record.reference.want.y
    wrong = ~(np.abs(y - want) <= record.reference.bound.y)
    for axis, name in ((0, "sample"), (-1, "channel")):
        others = tuple(other for other in range(y.ndim) if other != axis % y.ndim)
        some = np.flatnonzero(wrong.any(others))
        if y.shape[axis] > 2 and 0 < 2 * len(some) <= y.shape[axis]:
            listed = ", ".join(map(str, some[:5])) + (", ..." if len(some) > 5 else "")
            yield f"in {record.trial.name!r} only {name} {listed} of {y.shape[axis]} is wrong"
    if not y.any() and want.any():
        yield "y is 0 everywhere"


def _describe_gate(record: TrialRecord, spec: SESpec) -> Iterator[str]:
    """Describe the gate that y / x shows."""
    y, x = record.forward.y, record.trial.inputs.x
    assert y is not None and record.reference.want.g is not None
    if spec.gain == 0.0:
        return
    gates = gate_per_position(x, y, spec)
    known = np.isfinite(gates)
    high, low = gates.max(1), np.where(known, gates, np.inf).min(1)
    if not (np.isfinite(high) & np.isfinite(low)).all():
        return
    unit = 1e-2 * max(1.0, float(np.abs(high).max(initial=0.0)))
    if (high - low > unit).any():
        yield "the gate differs by position"
        return
    if spec.gate in ("sigmoid", "hard_sigmoid") and ((high > 1 + unit) | (low < -unit)).any():
        yield f"the gate is outside [0, 1]: {low.min():.3g} to {high.max():.3g}"
    if len(high) > 1 and np.ptp(record.reference.want.g, axis=0).max() > unit > np.ptp(high, axis=0).max():
        yield "every sample has the same gate"
    if spec.gate == "sigmoid":
        yield from _describe_logits(high, record.reference.want.g)


def _describe_logits(got: np.ndarray, want: np.ndarray) -> Iterator[str]:
    """Describe the logits if all are one multiple of the right ones."""
    clear = (got > 1e-2) & (got < 0.99) & (want > 1e-2) & (want < 0.99) & (np.abs(want - 0.5) > 0.05)
    if clear.sum() < MIN_ELEMENTS:
        return
    ratios = np.log(got[clear] / (1 - got[clear])) / np.log(want[clear] / (1 - want[clear]))
    middle = float(np.median(ratios))
    if abs(middle - 1) > 0.05 and np.abs(ratios - middle).max() <= SAME_RATIO * abs(middle):
        yield f"the logits are {middle:.3g} times the right ones"


def _has_finite_y(record: TrialRecord) -> bool:
    y = record.forward.y
    return (
        y is not None
        and y.shape == record.trial.inputs.x.shape
        and bool(y.size)
        and bool(np.isfinite(y.astype(np.float64)).all())
        and bool(np.isfinite(record.trial.inputs.x.astype(np.float64)).all())
    )
