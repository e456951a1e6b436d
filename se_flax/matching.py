"""The spec whose factors are those that a block was seen to compute."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from se_spec import HardSigmoid, SESpec, live
from se_spec.live import Reading

from .nonlinearities import activate, apply_gate

CHUNK_ELEMENTS = 4096
"""Numbers to whose multiple a function is applied."""


class Factors(NamedTuple):
    """What a block computed: a map (N, *spatial, C), the factors (N, C), and the block's own tensors by name."""

    x: np.ndarray
    s: np.ndarray
    tensors: Mapping[str, np.ndarray]


def match_spec(
    factors: Factors, readings: Sequence[Reading], tolerance: float, hint: SESpec | None, slopes: Sequence[float]
) -> tuple[SESpec, Reading] | None:
    """Find the spec, and the reading of the tensors, with which our formula gives the factors.

    Args:
        factors: what was seen.
        readings: the ways in which the tensors may be read.
        tolerance: the largest error, as a share of the largest factor if that is above 1.
        hint: the spec to try first.
        slopes: slopes of leaky ReLU that were seen.
    """
    limit = tolerance * max(1.0, float(np.abs(factors.s).max()))
    fitting = None
    for reading, kind, activation, v in _list_logits(factors, readings, hint, slopes):
        choices = {"squeeze": kind, "activation": activation}
        for gate in live.list_gates_first(hint):
            numbers = _fit_gain(_apply(apply_gate, v, gate), factors.s, limit)
            if numbers is not None:
                return reading.make_spec(**choices, gate=gate, gain=numbers[0], residual=numbers[1]), reading
        fitted = None if fitting else _fit_hard_sigmoid(v, factors.s, limit)
        if fitted is not None:
            fitting = reading.make_spec(**choices, gate=fitted), reading
    return fitting


def compute_factors(x: np.ndarray, spec: SESpec, reading: Reading, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Compute the factors (N, C) of a map by our formula, with gain and residual."""
    own = {name: _orient(tensors[tensor.name], tensor.is_transposed) for name, tensor in reading.tensors.items()}
    z = _squeeze(x.astype(np.float64), spec.squeeze)
    if not reading.is_single:
        z = _apply(activate, _project(z, own, "reduce"), spec.activation)
    g = _apply(apply_gate, _project(z, own, "expand"), spec.gate)
    return spec.gain * g + float(spec.residual)


def compute_factors_of(x: jax.Array, spec: SESpec, reading: Reading, tensors: Mapping[str, np.ndarray]) -> jax.Array:
    """Compute the factors as ``compute_factors``, differentiable in the map."""
    own = {name: _orient(tensors[tensor.name], tensor.is_transposed) for name, tensor in reading.tensors.items()}
    axes = tuple(range(1, x.ndim - 1))
    mean, highest = x.mean(axes), x.max(axes)
    z = {"avg": mean, "max": highest, "avg_max": 0.5 * mean + 0.5 * highest}[spec.squeeze]
    if not reading.is_single:
        z = activate(z @ own["reduce.weight"] + own.get("reduce.bias", np.zeros(1, "float32"))[None], spec.activation)
    g = apply_gate(z @ own["expand.weight"] + own.get("expand.bias", np.zeros(1, "float32"))[None], spec.gate)
    return spec.gain * g + float(spec.residual)


def _list_logits(
    factors: Factors, readings: Sequence[Reading], hint: SESpec | None, slopes: Sequence[float]
) -> Iterator[tuple[Reading, str, Any, np.ndarray]]:
    for reading in readings:
        tensors = {name: _orient(factors.tensors[own.name], own.is_transposed) for name, own in reading.tensors.items()}
        for kind in live.list_squeezes_first(hint):
            z = _squeeze(factors.x.astype(np.float64), kind)
            if reading.is_single:
                yield reading, kind, "identity", _project(z, tensors, "expand")
                continue
            u = _project(z, tensors, "reduce")
            for activation in live.list_activations_first(hint, slopes):
                yield reading, kind, activation, _project(_apply(activate, u, activation), tensors, "expand")


def _squeeze(x: np.ndarray, kind: str) -> np.ndarray:
    axes = tuple(range(1, x.ndim - 1))
    if kind == "avg":
        return x.mean(axes)
    return x.max(axes) if kind == "max" else 0.5 * x.mean(axes) + 0.5 * x.max(axes)


def _apply(function: Callable[[Any, Any], Any], values: np.ndarray, choice: Any) -> np.ndarray:
    """Apply our activation or gate to numbers; their count is rounded up, so that few shapes are compiled."""
    flat = np.zeros(-(-values.size // CHUNK_ELEMENTS) * CHUNK_ELEMENTS, "float32")
    flat[: values.size] = values.ravel()
    result = function(jnp.asarray(flat), choice)
    return np.asarray(result)[: values.size].reshape(values.shape)


def _orient(value: np.ndarray, is_transposed: bool) -> np.ndarray:
    """Return a kernel (I, O), as a product with it needs."""
    if value.ndim == 1:
        return value
    value = value.reshape(value.shape[-2:])
    return value if is_transposed else value.T


def _project(z: np.ndarray, tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return z @ tensors[f"{name}.weight"] + tensors.get(f"{name}.bias", 0.0)


def _fit_gain(g: np.ndarray, s: np.ndarray, limit: float) -> tuple[float, bool] | None:
    """Return gain and residual with which the gates are the factors."""
    if not np.abs(g - s).max() > limit:
        return 1.0, False
    for is_residual in (False, True):
        wanted = s - float(is_residual)
        gain = float((wanted * g).sum() / max(float((g * g).sum()), 1e-30))
        if gain and abs(gain) < 1e6 and np.abs(gain * g - wanted).max() <= limit:
            return live.round_shortly(gain, limit), is_residual
    return None


def _fit_hard_sigmoid(v: np.ndarray, s: np.ndarray, limit: float) -> HardSigmoid | None:
    """Return the hard sigmoid that the factors are of the logits: both limits, and a line between them."""
    low, high = float(s.min()), float(s.max())
    inside = (s > low + limit) & (s < high - limit)
    if inside.sum() < 4 or (s <= low + limit).sum() < 2 or (s >= high - limit).sum() < 2:
        return None
    slope, offset = np.polyfit(v[inside].astype(np.float64), s[inside].astype(np.float64), 1)
    if not np.abs(np.clip(slope * v + offset, low, high) - s).max() <= limit:
        return None
    return HardSigmoid(*(live.round_shortly(float(number), limit / 10) for number in (slope, offset, low, high)))
