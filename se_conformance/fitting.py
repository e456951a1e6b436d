"""Faults with a number of their own: the number is computed from what the block answered.

A temperature, a factor of the hidden values and a fixed dropout mask have a number in each block where they occur. The
gates that y / x shows give the logits, and these give the number by least squares. ``diagnosis`` then runs the fault
with this number on every trial, as it runs any other.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

import se_numpy
from se_spec import SESpec
from se_spec.formats import FORMATS

from .faults import CATALOGUE, Fault
from .faults.factors import FIXED_DROPOUT, HIDDEN_SCALE, TEMPERATURE, multiply_hidden, multiply_logits
from .localization import gate_per_position
from .records import TrialRecord

MAX_RECORDS = 4
MAX_ELEMENTS = 1 << 15
CLEAR_GATE = 0.02
"""Gates nearer than that to an end of their range give no logit."""
MAX_RESIDUAL = 1e-2
"""How much of the logits may be left unexplained, relative to them; the trials decide."""
ROUNDINGS = 1 << 12
"""A fitted number is replaced by a usual one that is so many roundings away at most."""
FACTORS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 16.0, 20.0, 30.0, 32.0, 64.0, 100.0)
KEPT_SHARES = tuple(percent / 20 for percent in range(1, 20))


class _Equations(NamedTuple):
    """Logits that the block shows, in rows: ``logits`` beside the right ones, and the terms that sum to them."""

    logits: np.ndarray
    right: np.ndarray
    bias: np.ndarray
    terms: np.ndarray


def fit_faults(records: list[TrialRecord], spec: SESpec, dtype: str) -> list[Fault]:
    """Fit the faults that have a number of their own.

    Args:
        records: every trial of one rank in order.
        spec: what the block should be.
        dtype: the dtype of x and the parameters.

    Returns:
        Those faults whose number explains the logits, with that number; none where y / x shows no logits.
    """
    if spec.gate not in ("sigmoid", "tanh") or spec.gain == 0.0:
        return []
    found = [entry for record in records if _is_usable(record) for entry in _read_equations(record, spec)]
    if not found:
        return []
    equations = _Equations(*map(np.concatenate, zip(*found[:MAX_RECORDS], strict=True)))
    tolerance = ROUNDINGS * FORMATS[dtype].unit
    usual = _list_usual(spec)
    faults = []
    scale = _fit_factor(equations.logits, equations.right)
    if scale is not None:
        factor = _round_to_usual(scale, usual, tolerance)
        faults.append(replace(CATALOGUE[TEMPERATURE], change=multiply_logits(lambda channels: factor), forms=()))
    if spec.single_projection:
        return faults
    masks = _fit_units(equations, tolerance)
    if masks is not None:
        kept = masks[masks != 0.0]
        common = _round_to_usual(float(kept.mean()), usual, tolerance)
        factors = np.where(masks == 0.0, 0.0, common)
        name = HIDDEN_SCALE if (masks != 0.0).all() else FIXED_DROPOUT
        if name == FIXED_DROPOUT or (spec.bias and common != 1.0):
            faults.append(replace(CATALOGUE[name], change=multiply_hidden(lambda hidden: factors), forms=()))
    return faults


def _is_usable(record: TrialRecord) -> bool:
    x, y = record.trial.inputs.x, record.forward.y
    return (
        record.failed
        and not record.trial.special
        and y is not None
        and y.shape == x.shape
        and 0 < x.size <= MAX_ELEMENTS
        and bool(np.isfinite(y.astype(np.float64)).all())
        and bool(np.isfinite(x.astype(np.float64)).all())
    )


def _read_equations(record: TrialRecord, spec: SESpec) -> list[_Equations]:
    """Read the logits of one trial from y / x; an empty list where the gate differs by position or is cut off."""
    x, y = record.trial.inputs.x, record.forward.y
    assert y is not None
    gates = gate_per_position(x, y, spec)
    g = gates.max(1)
    lowest = np.where(np.isfinite(gates), gates, np.inf).min(1)
    if not np.isfinite(g).all() or (g - lowest > 1e-2).any():
        return []
    low, high = (0.0, 1.0) if spec.gate == "sigmoid" else (-1.0, 1.0)
    clear = (g > low + CLEAR_GATE) & (g < high - CLEAR_GATE)
    if not clear.any():
        return []
    logits = np.log(g[clear] / (1.0 - g[clear])) if spec.gate == "sigmoid" else np.arctanh(g[clear])
    t = se_numpy.block.trace(x, spec, record.trial.inputs.parameters, "channels_last")
    weight = record.trial.inputs.parameters["expand.weight"].astype(np.float64)
    bias = record.trial.inputs.parameters.get("expand.bias", np.zeros(spec.channels)).astype(np.float64)
    terms = t.h[:, None, :] * weight[None]
    return [_Equations(logits, t.logits[clear], np.broadcast_to(bias, t.logits.shape)[clear], terms[clear])]


def _fit_factor(got: np.ndarray, right: np.ndarray) -> float | None:
    """Fit ``got = factor right``; None where no factor, or 1, explains it."""
    energy = float(right @ right)
    factor = float(got @ right) / energy if energy else 1.0
    return factor if abs(factor - 1.0) > 1e-3 and _is_explained(got, factor * right) else None


def _fit_units(equations: _Equations, tolerance: float) -> np.ndarray | None:
    """Fit a factor for each hidden unit, 0 or one common number; None where no such factors explain the logits."""
    got = equations.logits - equations.bias
    active = np.abs(equations.terms).max(0) > 0.0
    terms = equations.terms[:, active]
    if not active.any() or np.linalg.matrix_rank(terms) < active.sum():
        return None
    fitted = np.linalg.lstsq(terms, got, rcond=None)[0]
    is_kept = np.abs(fitted) > max(1e-3, 10 * tolerance)
    if not is_kept.any() or np.ptp(fitted[is_kept]) > max(1e-2, 10 * tolerance) * abs(fitted[is_kept].mean()):
        return None
    factors = np.full(len(active), float(fitted[is_kept].mean()))
    factors[np.flatnonzero(active)[~is_kept]] = 0.0
    return factors if _is_explained(got, equations.terms @ factors) else None


def _is_explained(got: np.ndarray, fitted: np.ndarray) -> bool:
    size = float(np.sqrt(np.mean(got**2)))
    return float(np.sqrt(np.mean((got - fitted) ** 2))) <= MAX_RESIDUAL * size


def _list_usual(spec: SESpec) -> list[float]:
    """List usual numbers: of the widths, their roots, whole numbers, and 1 / (1 - p) of a dropout."""
    widths = [float(width) for width in (spec.channels, spec.hidden) if width]
    numbers = [*widths, *(width**0.5 for width in widths), *FACTORS, *KEPT_SHARES]
    return [1.0, *numbers, *(1.0 / number for number in numbers)]


def _round_to_usual(number: float, usual: list[float], tolerance: float) -> float:
    """Return the nearest usual number, with the sign of ``number``, if it is within the tolerance."""
    nearest = min(usual, key=lambda value: abs(value - abs(number)))
    is_near = abs(nearest - abs(number)) <= tolerance * abs(number)
    return float(np.copysign(nearest, number)) if is_near else number
