"""The spec whose factors are those that a block was seen to compute."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from se_spec import HardSigmoid, SESpec, live
from se_spec.live import Reading

from .block import squeeze
from .nonlinearities import activate, apply_gate, spell_activation, spell_gate


class Factors(NamedTuple):
    """What a block computed: a map (N, C, *spatial), the factors (N, C), and the block's own tensors by name."""

    x: Tensor
    s: Tensor
    tensors: Mapping[str, Tensor]


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
    limit = tolerance * max(1.0, factors.s.abs().max().item())
    fitting = None
    for reading, kind, activation, v in _list_logits(factors, readings, hint, slopes):
        choices = {"squeeze": kind, "activation": activation}
        for gate in live.list_gates_first(hint):
            numbers = _fit_gain(apply_gate(v, spell_gate(gate)), factors.s, limit)
            if numbers is not None:
                return reading.make_spec(**choices, gate=gate, gain=numbers[0], residual=numbers[1]), reading
        fitted = None if fitting else _fit_hard_sigmoid(v, factors.s, limit)
        if fitted is not None:
            fitting = reading.make_spec(**choices, gate=fitted), reading
    return fitting


def _list_logits(
    factors: Factors, readings: Sequence[Reading], hint: SESpec | None, slopes: Sequence[float]
) -> Iterator[tuple[Reading, str, Any, Tensor]]:
    for reading in readings:
        tensors = {name: _orient(factors.tensors[own.name], own.is_transposed) for name, own in reading.tensors.items()}
        for kind in live.list_squeezes_first(hint):
            z = squeeze(factors.x, kind)
            if reading.is_single:
                yield reading, kind, "identity", _project(z, tensors, "expand")
                continue
            u = _project(z, tensors, "reduce")
            for activation in live.list_activations_first(hint, slopes):
                yield reading, kind, activation, _project(activate(u, spell_activation(activation)), tensors, "expand")


def _orient(value: Tensor, is_transposed: bool) -> Tensor:
    if value.ndim == 1:
        return value
    return value.flatten(1).T if is_transposed else value.flatten(1)


def _project(z: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return torch.nn.functional.linear(z, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def _fit_gain(g: Tensor, s: Tensor, limit: float) -> tuple[float, bool] | None:
    """Return gain and residual with which the gates are the factors."""
    if not (g - s).abs().max() > limit:
        return 1.0, False
    for is_residual in (False, True):
        wanted = s - float(is_residual)
        gain = ((wanted * g).sum() / (g * g).sum()).item()
        if gain and abs(gain) < 1e6 and (gain * g - wanted).abs().max() <= limit:
            return live.round_shortly(gain, limit), is_residual
    return None


def _fit_hard_sigmoid(v: Tensor, s: Tensor, limit: float) -> HardSigmoid | None:
    """Return the hard sigmoid that the factors are of the logits: both limits, and a line between them."""
    low, high = s.min().item(), s.max().item()
    inside = (s > low + limit) & (s < high - limit)
    if int(inside.sum()) < 4 or int((s <= low + limit).sum()) < 2 or int((s >= high - limit).sum()) < 2:
        return None
    line = torch.stack([v[inside], torch.ones_like(v[inside])], 1)
    slope, offset = torch.linalg.lstsq(line, s[inside, None]).solution[:, 0].tolist()
    numbers = [live.round_shortly(number, limit) for number in (slope, offset, low, high)]
    if not ((slope * v + offset).clamp(low, high) - s).abs().max() <= limit:
        return None
    return HardSigmoid(*numbers)
