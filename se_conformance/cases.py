"""Inputs that reveal mistakes, drawn from a seed.

A standard normal map with zero biases hides many real bugs: 9 of 46 wrong variants give exactly the right answer on it.
So maps here are not square, samples have different means, biases are not 0, hidden values exceed 6, logits exceed 3 in
both directions, and every argument of a function with kinks is at least 1e-3 away from them.
"""

import itertools
import random
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import se_numpy
import se_spec
from se_spec import HardSigmoid, LeakyReLU, SESpec
from se_spec.formats import FORMATS

DTYPES = tuple(FORMATS)
SPATIAL = {1: (35,), 2: (5, 7), 3: (2, 5, 3)}

FACTORS: dict[str, tuple[Any, ...]] = {
    "activation": (*se_spec.nonlinearities.ACTIVATIONS, LeakyReLU(slope=0.1), "single projection"),
    "gate": (*se_spec.nonlinearities.GATES, HardSigmoid(slope=0.2, offset=0.5)),
    "squeeze": ("avg", "max", "avg_max"),
    "bias": (True, False),
    "residual": (False, True),
    "gain": (1.0, 2.0),
    "rank": (1, 2, 3),
    "dtype": DTYPES,
}
"""The factors of a covering array, which holds every triple of values of any three of them.

A single projection has no activation (E-4), and counts as one more activation.
"""

KINKS = {"relu": (0.0,), "relu6": (0.0, 6.0), "hard_swish": (-3.0, 3.0)}


class Inputs(NamedTuple):
    """The arrays on which a block is called.

    Args:
        x: the feature map, (N, *space, C).
        dy: the gradient of y, in the shape of x.
        parameters: the canonical parameters; all arrays have one dtype.

    Example:
        >>> inputs = Case(SESpec(8, hidden=2)).inputs()
        >>> inputs.round_to("float16").x.dtype, inputs.dy.shape == inputs.x.shape
        (dtype('float16'), True)
    """

    x: np.ndarray
    dy: np.ndarray
    parameters: dict[str, np.ndarray]

    def round_to(self, dtype: str) -> "Inputs":
        """Round every array once.

        Args:
            dtype: one of float64, float32, bfloat16, float16.
        """
        stored = {name: round_to(array, dtype) for name, array in self.parameters.items()}
        return Inputs(round_to(self.x, dtype), round_to(self.dy, dtype), stored)


@dataclass(frozen=True)
class Case:
    """One block and one input, which is drawn from the seed.

    Args:
        spec: which block.
        rank: 1, 2 or 3 spatial axes.
        dtype: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        seed: at least 0; the same seed gives the same numbers.
        samples: N, at least 0.
        spatial: the extents of the spatial axes; None for one map of the rank, as 5 x 7.

    Example:
        >>> case = Case(SESpec(12, hidden=5, bias=True), rank=2, dtype="float32")
        >>> case.inputs().x.shape, case.inputs().x.dtype
        ((3, 5, 7, 12), dtype('float32'))
    """

    spec: SESpec
    rank: int = 2
    dtype: str = "float32"
    seed: int = 0
    samples: int = 3
    spatial: tuple[int, ...] | None = None

    def inputs(self) -> Inputs:
        """Draw x, dy and parameters until all arguments avoid kinks and exceed 3 and 6 where they can."""
        draws = (self._draw(seed) for seed in itertools.count(1000 * self.seed))
        return next(inputs for inputs in draws if self._reveals(inputs))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x, channels last."""
        return (self.samples, *(SPATIAL[self.rank] if self.spatial is None else self.spatial), self.spec.channels)

    def _draw(self, seed: int) -> Inputs:
        rng = np.random.default_rng(seed)
        n, *space, channels = self.shape
        x = rng.standard_normal(self.shape) + rng.standard_normal((n, *(1 for _ in space), channels))
        for axis in range(1, 1 + len(space)):  # a slope along every axis reveals a mean that omits one
            ramp = np.linspace(-0.5, 0.5, self.shape[axis]) if self.shape[axis] > 1 else np.zeros(1)
            x += np.expand_dims(ramp, [other for other in range(x.ndim) if other != axis])
        if self.spec.squeeze != "avg" and x.size:
            raise_one_position(x, rng)
        weights = revealing_parameters(x, self.spec, rng)
        return Inputs(x, rng.standard_normal(self.shape), weights).round_to(self.dtype)

    def _reveals(self, inputs: Inputs) -> bool:
        if 0 in self.shape:
            return True
        if not are_kinks_avoided(inputs, self.spec):
            return False
        t = se_numpy.block.trace(inputs.x, self.spec, inputs.parameters, "channels_last")
        if t.logits.size < 24 or (t.pre is not None and t.pre.size < 12):  # too few values to reach so far
            return True
        far, near = (2.0, -2.0) if self.spec.activation in ("sigmoid", "tanh") else (6.5, -3.5)
        wide = t.pre is None or (t.pre.max() > far and t.pre.min() < near)
        return bool(wide and t.logits.max() > 3.5 and t.logits.min() < -3.5)


def covering_array(strength: int = 3, seed: int = 0) -> list[Case]:
    """Make cases in which every combination of values of any ``strength`` factors occurs at least once.

    Args:
        strength: 1 to 8 factors; 3 for triples.
        seed: another seed gives another array.

    Returns:
        The cases; their number is near the smallest possible.

    Example:
        >>> cases = covering_array(2)
        >>> {(case.rank, case.dtype) for case in cases} >= {(1, "float16"), (3, "float64")}
        True
    """
    rows = _covering_rows(strength, seed)
    return [_as_case(dict(zip(FACTORS, row, strict=True)), number) for number, row in enumerate(rows)]


def are_kinks_avoided(inputs: Inputs, spec: SESpec) -> bool:
    """Whether every argument of the activation and of the gate is at least 1e-3 away from its kinks."""
    t = se_numpy.block.trace(inputs.x, spec, inputs.parameters, "channels_last")
    clear = _clear(t.logits, gate_kinks(spec.gate))
    return clear and (t.pre is None or _clear(t.pre, KINKS.get(str(spec.activation), (0.0,))))


def revealing_parameters(x: np.ndarray, spec: SESpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw float64 parameters with which x (channels last) has hidden values of rms 4 and logits of rms 2.5.

    Arguments of an activation that saturates have rms 1.5, so that gradients do not vanish.
    """
    weights = {name: rng.standard_normal(shape) for name, shape in se_spec.parameters.shapes(spec).items()}
    h = se_numpy.block.squeeze(x, spec.squeeze, tuple(range(1, x.ndim - 1)))
    if not spec.single_projection:
        bounded = spec.activation in ("sigmoid", "tanh")
        weights["reduce.weight"] *= (1.5 if bounded else 4.0) / _rms(h @ weights["reduce.weight"].T)
        u = h @ weights["reduce.weight"].T + weights.get("reduce.bias", 0.0)
        h = se_numpy.nonlinearities.activate(u, spec.activation)
    weights["expand.weight"] *= 2.5 / _rms(h @ weights["expand.weight"].T)
    return weights


def gate_kinks(gate: se_spec.nonlinearities.Gate) -> tuple[float, ...]:
    """Logits at which the gate has no derivative."""
    if gate == "relu":
        return (0.0,)
    if gate != "hard_sigmoid" and not isinstance(gate, HardSigmoid):
        return ()
    numbers = se_spec.nonlinearities.hard_sigmoid_numbers(gate)
    return tuple((edge - numbers.offset) / numbers.slope for edge in (numbers.low, numbers.high))


def round_to(array: np.ndarray, dtype: str) -> np.ndarray:
    """Round an array once to a storage type of SPEC K-1."""
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(dtype)


def _as_case(values: dict[str, Any], number: int) -> Case:
    rank, dtype = values.pop("rank"), values.pop("dtype")
    # Below, at and above the channel count; one width for each activation, so that JAX compiles few shapes.
    widths = itertools.cycle((5, 12, 17))
    width: dict[str, Any] = {"hidden": dict(zip(FACTORS["activation"], widths, strict=False))[values["activation"]]}
    if values["activation"] == "single projection":
        width = {"single_projection": True}
        del values["activation"]
    return Case(SESpec(12, **width, **values), rank=rank, dtype=dtype, seed=number)


@cache
def _covering_rows(strength: int, seed: int) -> list[tuple[Any, ...]]:
    """Build rows greedily: each starts with an uncovered combination and takes the values that cover most others."""
    levels = list(FACTORS.values())
    rng = random.Random(seed)
    uncovered = {
        tuple(zip(columns, values, strict=True))
        for columns in itertools.combinations(range(len(levels)), strength)
        for values in itertools.product(*(range(len(levels[column])) for column in columns))
    }
    ordered = sorted(uncovered)
    rows = []
    for start in ordered:
        if start not in uncovered:
            continue
        row = dict(start)
        free = [column for column in range(len(levels)) if column not in row]
        rng.shuffle(free)
        for column in free:
            others = list(itertools.combinations(sorted(row), strength - 1))

            def gain(value: int, column: int = column, row: dict[int, int] = row, others: Any = others) -> int:
                covered = (tuple(sorted([(column, value), *((one, row[one]) for one in other)])) for other in others)
                return sum(combination in uncovered for combination in covered)

            values = list(range(len(levels[column])))
            rng.shuffle(values)
            row[column] = max(values, key=gain)
        uncovered.difference_update(itertools.combinations(sorted(row.items()), strength))
        rows.append(tuple(levels[column][row[column]] for column in range(len(levels))))
    return rows


def raise_one_position(x: np.ndarray, rng: np.random.Generator) -> None:
    """Give each sample and channel one clear maximum, since half precision turns close ones into ties."""
    n, channels = x.shape[0], x.shape[-1]
    flat = x.reshape(n, -1, channels)
    position = rng.integers(flat.shape[1], size=(n, 1, channels))
    np.put_along_axis(flat, position, flat.max(1, keepdims=True) + 0.25, 1)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) or 1.0 if values.size else 1.0


def _clear(values: np.ndarray, kinks: tuple[float, ...], margin: float = 1e-3) -> bool:
    return all(float(np.abs(values - kink).min(initial=np.inf)) > margin for kink in kinks)
