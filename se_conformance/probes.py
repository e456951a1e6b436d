"""Probes: inputs on which sums are exact in any order, so that no rounding hides a mistake.

All terms of a mean or a projection are multiples of one unit, a power of two, and their magnitudes sum to less than
2**24 units (float32) or 2**8 (bfloat16), so that every partial sum is a float. Only the nonlinearities and the product
with the gate can round; the sums of expand can, too, after an activation that rounds.
"""

import math
import random
from typing import Any, NamedTuple

import numpy as np

import se_numpy
import se_spec
from se_spec import SESpec, SpecError
from se_spec.validation import choice, positive_integer, refuse

from .cases import Inputs, gate_kinks, round_to

PARTS = ("squeeze", "reduce", "expand")
SPATIAL = {
    "float32": {1: (8,), 2: (2, 4), 3: (2, 4, 2)},
    "bfloat16": {1: (8,), 2: (2, 4), 3: (2, 1, 4)},
}
"""Spatial extents by precision and rank; the number of positions is a power of two, so that the mean is exact."""

HIDDEN_KINKS = (-3.0, 0.0, 3.0, 6.0)
LOGIT_KINKS = (-3.0, 0.0, 3.0)
MARGIN = 1e-3
"""Distance that arguments keep from kinks."""
MIN_EFFECT = 2e-5
"""Change of y, relative to its largest magnitude, that coarser inputs must cause."""
FINE_STEPS, COARSE_STEPS, TINY_STEPS = 2**13, 2**4, 2**2
"""Large weights are half of so many steps up to all of them."""
_VANISHING = ("relu", "relu6", "hard_swish", "silu", "gelu", "gelu_tanh")
"""Activations that are 0 or nearly 0 for arguments far below 0."""
_MAX_DRAWS = 24


class _Grid(NamedTuple):
    """The numbers that fit one precision: z is 1 to ``levels`` steps of either sign, and x has smaller steps."""

    limit: int
    levels: int
    z_step: float
    x_step: float
    spread: int
    lift: float


_GRIDS = {
    "float32": _Grid(2**24, levels=15, z_step=2.0**-2, x_step=2.0**-13, spread=2**13, lift=1.0),
    "bfloat16": _Grid(2**8, levels=5, z_step=2.0**-1, x_step=2.0**-3, spread=2, lift=0.5),
}


class _ProjectionTarget(NamedTuple):
    """Criteria for the sums of a projection: their rms, their maximum, kinks to avoid, a positive first unit."""

    size: float
    most: float
    kinks: tuple[float, ...]
    alive: bool = False


class _Layer(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray
    out: np.ndarray
    unit: float
    clear: bool


def parts(dtype: str) -> tuple[str, ...]:
    """List the parts that have a probe in ``dtype``; squeezed values of 13 bits do not fit half precision."""
    return PARTS if dtype in ("float64", "float32") else PARTS[1:]


def probe_for(dtype: str, spec: SESpec, **options: Any) -> Inputs:
    """Make a probe in ``dtype``: float64 uses float32's, float16 bfloat16's. Options and errors as ``probe``."""
    precision = "float32" if dtype in ("float64", "float32") else "bfloat16"
    return probe(spec, precision=precision, **options).round_to(dtype)


def probe(spec: SESpec, *, part: str, precision: str, rank: int = 2, samples: int = 3, seed: int = 0) -> Inputs:
    """Make inputs in ``precision``, channels last; they are the same on every machine.

    No hidden value or logit is within 1e-3 of a kink. Where the widths allow it, hidden values exceed 6.5 and -3.5 and
    stay within 16, and logits exceed 3.5 in both directions and stay within 12. Every channel is used, as far as the
    sums have room.

    Args:
        spec: which block.
        part: ``"squeeze"`` (float32 alone): squeezed values have 13 bits and all weights few. ``"reduce"`` or
            ``"expand"``: in float32 the weights of this projection have 13 bits, and those of the other few, as has
            reduce.bias for ``"expand"``. A single projection has 13 bits for either; bfloat16 has few bits always.
        precision: ``"float32"`` or ``"bfloat16"``: the arithmetic in which the sums are exact.
        rank: 1, 2 or 3 spatial axes.
        samples: N, at least 1.
        seed: at least 0; another seed gives another probe.

    Raises:
        SpecError: a value is none of these, or every draw comes too near to a kink.

    >>> x, dy, parameters = probe(SESpec(8, hidden=2), part="reduce", precision="float32")
    >>> x.shape, (parameters["reduce.weight"][0, :3] * 2**12).tolist()
    ((3, 2, 4, 8), [7865.0, 7357.0, -7647.0])
    """
    choice("part", part, PARTS)
    choice("precision", precision, tuple(_GRIDS))
    if part == "squeeze" and precision == "bfloat16":
        refuse("part", part, "reduce or expand in bfloat16, which has no room for wide squeezed values")
    if rank not in SPATIAL[precision]:
        refuse("rank", rank, "1, 2 or 3")
    positive_integer("samples", samples)
    most, best = (False, -1), None
    for attempt in range(_MAX_DRAWS):
        inputs, criteria = _draw_probe(spec, part, precision, rank, samples, _Random(_MAX_DRAWS * seed + attempt))
        if criteria and (criteria[-1], sum(criteria)) > most:
            most, best = (criteria[-1], sum(criteria)), inputs
        if criteria and all(criteria):
            break
    if best is None:
        raise SpecError(f"no probe of {spec} with {samples} samples stays clear of the kinks; use fewer samples")
    return best


class _Random:
    """Draws numbers from the bytes of the Mersenne Twister, which no version of Python or NumPy changes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """Draw int64 numbers from low to high - 1."""
        raw = np.frombuffer(self._random.randbytes(4 * math.prod(shape)), "<u4").astype(np.int64)
        return low + (raw >> 4).reshape(shape) % (high - low)

    def signs(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw -1 and 1."""
        return 2 * self.integers(0, 2, shape) - 1

    def order(self, shape: tuple[int, ...], axis: int) -> np.ndarray:
        """Draw permutations along an axis."""
        return self.integers(0, 2**28, shape).argsort(axis, kind="stable")


def _draw_probe(
    spec: SESpec, part: str, precision: str, rank: int, samples: int, draw: _Random
) -> tuple[Inputs, list[bool]]:
    """Draw one probe and evaluate the optional criteria, most important last; none if a kink is too near."""
    grid = _GRIDS[precision]
    fine, coarse = (FINE_STEPS, COARSE_STEPS) if precision == "float32" else (TINY_STEPS, TINY_STEPS)
    alive = not spec.bias and spec.activation in _VANISHING  # a sample whose hidden values all vanish has logits of 0
    if part == "squeeze":
        grid, fine = grid._replace(z_step=2.0**-11), coarse
    shape = (samples, *SPATIAL[precision][rank], spec.channels)
    z = (_wide_means if part == "squeeze" else _means)(draw, samples, spec.channels, grid, alive)
    x = _feature_map(draw, shape, z, spec.squeeze, grid)
    weights, clear, criteria = {}, True, []
    h, unit = z, grid.z_step
    if not spec.single_projection:
        bounded = spec.activation in ("sigmoid", "tanh")
        steps = fine if part == "reduce" else coarse
        target = _ProjectionTarget(1.5 if bounded else 6.0, 16.0, HIDDEN_KINKS, alive)
        reduce = _layer(draw, h, unit, spec.hidden, steps, steps if spec.bias else 0, grid.limit, target)
        weights["reduce.weight"], weights["reduce.bias"] = reduce.weight, reduce.bias
        h, unit, clear = se_numpy.nonlinearities.activate(reduce.out, spec.activation), reduce.unit, reduce.clear
        high, low = (2.0, -2.0) if bounded else (6.5, -3.5)
        criteria += [reduce.out.max() > high, reduce.out.min() < low or (alive and spec.hidden == 1)]
    steps = fine if part == "expand" or spec.single_projection else coarse
    target = _ProjectionTarget(5.0, 12.0, LOGIT_KINKS + gate_kinks(spec.gate))
    expand = _layer(draw, h, unit, spec.channels, steps, fine if spec.bias else 0, grid.limit, target)
    weights["expand.weight"], weights["expand.bias"] = expand.weight, expand.bias
    size = np.abs(expand.out)
    criteria += [expand.out.max() > 3.5, expand.out.min() < -3.5] if spec.channels > 1 else [size.max() > 3.5]
    criteria += [size.min() < 1.5, size.max() <= target.most]  # the gate is steep at some logit
    dy = draw.integers(-32, 33, x.shape) / 16.0
    stored = {name: round_to(weights[name], precision) for name in se_spec.parameters.shapes(spec)}
    inputs = Inputs(round_to(x, precision), round_to(dy, precision), stored)
    if not (clear and expand.clear):
        return inputs, []
    return inputs, [
        *(bool(criterion) for criterion in criteria),
        _reveals_rounding(inputs, spec, part, wide=precision == "float32"),
    ]


def _reveals_rounding(inputs: Inputs, spec: SESpec, part: str, *, wide: bool) -> bool:
    """Whether y is not 0 and, if numbers of 13 bits are wide, changes by MIN_EFFECT when they are rounded to fewer.

    Squeezed values are rounded to float16's 11 bits, or weights to TF32's 11; and x, for a mean, to 11 and to 8.
    """
    x, _, weights = inputs
    t = se_numpy.block.trace(x, spec, weights, "channels_last")
    size = np.abs(t.x).max(tuple(range(1, x.ndim - 1)))
    top = np.abs(se_numpy.block.scale_map(t, spec, "channels_last")).max()

    def moves(x: np.ndarray, weights: dict[str, np.ndarray]) -> bool:
        g = se_numpy.excitation(x, spec, weights, data_format="channels_last")
        return bool((abs(spec.gain) * size * np.abs(g - t.g)).max() > MIN_EFFECT * top)

    if not wide:
        return bool(top)
    if part == "squeeze":  # a map whose values are all its mean
        coarser = (
            np.broadcast_to(_round_significand(t.z, 11).reshape(len(x), *(1,) * (x.ndim - 2), -1), x.shape),
            weights,
        )
    else:
        short = {
            name: _round_significand(array, 11) if name.endswith("weight") else array for name, array in weights.items()
        }
        coarser = x, short
    return moves(*coarser) and (
        spec.squeeze == "max" or all(moves(_round_significand(x, bits), weights) for bits in (11, 8))
    )


def _round_significand(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float64 values to ``bits`` significant bits."""
    wide = values.astype(np.float64)
    shifted = wide * (2.0 ** (53 - bits) + 1.0)  # Veltkamp's splitting
    return shifted - (shifted - wide)


def _feature_map(draw: _Random, shape: tuple[int, ...], z: np.ndarray, squeeze: str, grid: _Grid) -> np.ndarray:
    """Make an x whose squeezed values are z.

    One position, another for each channel, is the maximum, m + 2e. The mean is m, since the others differ from it by
    differences around a ring, which sum to 0.
    """
    n, channels, positions = shape[0], shape[-1], math.prod(shape[1:-1])
    e = grid.lift * draw.integers(1, 3, (n, 1, channels))
    m = z[:, None] - {"avg": 0.0, "avg_max": 1.0, "max": 2.0}[squeeze] * e
    ring = 2 * draw.integers(0, grid.spread, (n, positions - 1, channels)) + np.arange(positions - 1)[:, None] % 2
    others = grid.x_step * (ring - np.roll(ring, 1, 1))
    others[:, : positions // 2] -= 4.0 * e / positions
    x = m + np.concatenate([2.0 * e, others], 1)
    shift = draw.integers(0, positions, ()) + np.arange(n * channels).reshape(n, 1, channels)
    return np.take_along_axis(x, (np.arange(positions)[:, None] + shift) % positions, 1).reshape(shape)


def _means(draw: _Random, n: int, channels: int, grid: _Grid, alive: bool) -> np.ndarray:
    """Draw squeezed values (n, channels): not 0, and different between samples and, while levels last, channels.

    Those of the first channel are positive if a hidden unit must stay positive in every sample.
    """
    levels = 2 * grid.levels
    start = draw.order((-(-channels // levels), levels), 1).reshape(-1)[:channels]
    step = np.array([7, 11, 13, 17])[draw.integers(0, 4, ())]  # without a common divisor with the number of levels
    level = (start + step * np.arange(n)[:, None]) % levels
    z = np.where(level < grid.levels, level - grid.levels, level - grid.levels + 1)
    if alive:
        z[:, 0] = 1 + level[:, 0] % grid.levels
    return grid.z_step * z


def _wide_means(draw: _Random, n: int, channels: int, grid: _Grid, alive: bool) -> np.ndarray:
    """Draw squeezed values of 13 bits (n, channels): odd multiples of the step, between 1 and 4 in magnitude."""
    level = (draw.integers(0, 3 * 2**10, (channels,)) + 1031 * np.arange(n)[:, None]) % (3 * 2**10)
    z = draw.signs((n, channels)) * (2 * (2**10 + level) + 1)
    if alive:
        z[:, 0] = np.abs(z[:, 0])
    return grid.z_step * z


def _layer(
    draw: _Random,
    values: np.ndarray,
    unit: float,
    rows: int,
    steps: int,
    bias_steps: int,
    limit: int,
    target: _ProjectionTarget,
) -> _Layer:
    """Draw weights for ``values`` (N, columns), which are multiples of ``unit``: some large, some small, others 0.

    Rows whose sums are too large or too near to a kink are drawn again.
    """
    n, columns = values.shape
    used = min(columns, max(12, columns // rows + 2))
    column = np.zeros((rows, used), np.int64)  # every row uses the first column, and all rows together use every one
    if columns > 1:
        first = np.arange(rows) * (columns - 1) // rows
        column[:, 1:] = 1 + (first[:, None] + np.arange(used - 1)) % (columns - 1)
    rms = float(np.sqrt(np.mean(values**2))) or 1.0
    scale = 2.0 ** round(math.log2(target.size / (0.75 * rms * math.sqrt(min(used, 3)))))
    step = min(scale / steps, 1.0 / unit)  # relu6 cuts at a multiple of the sums' unit
    unit *= step
    weight, bias, out = np.zeros((rows, columns)), np.zeros(rows), np.zeros((n, rows))
    pending = np.arange(rows)
    for attempt in range(_MAX_DRAWS):
        count = len(pending)
        if bias_steps:
            odd = bias_steps + 1 + 2 * draw.integers(0, bias_steps // 2, (count,))
            bias[pending] = draw.signs((count,)) * odd * max(unit, 0.5 / bias_steps)
        row = step * _rows(draw, count, used, steps)
        if target.alive:  # the first unit follows the first column, and in the last draws nothing else
            row[pending == 0, 0] = np.abs(row[pending == 0, 0])
            row[pending == 0, 1:] *= attempt < _MAX_DRAWS - 4
        cost = np.cumsum(np.abs(row) * np.abs(values).max(0, initial=0.0)[column[pending]], 1)
        row[cost + np.abs(bias[pending, None]) >= limit * unit] = 0.0
        weight[pending[:, None], column[pending]] = row
        out[:, pending] = values @ weight[pending].T + bias[pending]
        bad = (np.abs(out[:, pending, None] - np.array(target.kinks)) < MARGIN).any((0, 2))
        if 2 * attempt < _MAX_DRAWS:
            bad |= (np.abs(out[:, pending]) > target.most).any(0)
        if target.alive:
            bad |= (pending == 0) & (out[:, pending] < 0).any(0)
        pending = pending[bad]
        if not len(pending):
            break
    return _Layer(weight, bias, out, unit, not len(pending))


def _rows(draw: _Random, count: int, used: int, steps: int) -> np.ndarray:
    """Draw integers (count, used): three large ones, odd if steps are fine, then small ones."""
    large = min(used, 3)
    rows = np.empty((count, used))
    rows[:, :large] = draw.integers(steps // 2, steps, (count, large)) | (steps == FINE_STEPS)
    small = steps >> (2 + used.bit_length() // 2)
    rows[:, large:] = max(small, 1) * draw.integers(1, 4 if small else 2, (count, used - large))
    return rows * draw.signs((count, used))
