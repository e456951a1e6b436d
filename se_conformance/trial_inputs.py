"""The trials: inputs on which a block is judged, each of which reveals mistakes that the others hide."""

from dataclasses import dataclass

import numpy as np

from se_spec import SESpec, SpecError

from . import probes
from .cases import DTYPES, Case, Inputs, revealing_parameters

UNEVEN = {1: (7,), 2: (5, 7), 3: (2, 5, 3)}
EVEN = {1: (6,), 2: (4, 6), 3: (4, 2, 6)}
FIVE_LAST = {1: (5,), 2: (7, 5), 3: (2, 3, 5)}
EQUAL = {1: (6,), 2: (6, 6), 3: (4, 4, 4)}
LARGE_MAP_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class Trial:
    """One named input.

    Args:
        name: the name, unique among the trials of one spec and rank.
        inputs: x and dy (N, *space, C) and the canonical parameters, in the dtype.
        gradients: whether gradients are judged on it.
        exact: whether all sums are exact in any order (``probes``).
    """

    name: str
    inputs: Inputs
    gradients: bool = True
    exact: bool = False


def trials(spec: SESpec, dtype: str = "float32", rank: int = 2, seed: int = 0) -> list[Trial]:
    """Make all trials of a spec in the order in which they run.

    Args:
        spec: which block.
        dtype: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        rank: 1, 2 or 3 spatial axes.
        seed: at least 0; the same seed gives the same numbers.

    Returns:
        About twenty trials, channels last. Their number depends on the spec, the dtype and the rank.

    Raises:
        SpecError: a dtype or a rank is none of these.

    Example:
        >>> [trial.name for trial in trials(SESpec(8, hidden=2))][:4]
        ['uneven map', 'exact probe of squeeze', 'exact probe of reduce', 'exact probe of expand']
    """
    if dtype not in DTYPES:
        raise SpecError(f"dtype={dtype!r} is not allowed; it must be one of {', '.join(DTYPES)}")
    if rank not in (1, 2, 3):
        raise SpecError(f"rank={rank!r} is not allowed; it must be 1, 2 or 3")

    def case(samples: int, spatial: tuple[int, ...], number: int) -> Inputs:
        return Case(spec, rank, dtype, seed=20 * seed + number, samples=samples, spatial=spatial).inputs()

    def probe(part: str) -> Inputs:
        return probes.probe_for(dtype, spec, part=part, rank=rank, seed=seed)

    uneven = case(3, UNEVEN[rank], 0)
    found = [
        Trial("uneven map", uneven),
        *(Trial(f"exact probe of {part}", probe(part), exact=True) for part in probes.parts(dtype)),
        Trial("even map", case(2, EVEN[rank], 1)),
        Trial("one sample", case(1, UNEVEN[rank], 2)),
        Trial("as many samples as the last axis is long", case(5, FIVE_LAST[rank], 3)),
        Trial("equal axes", case(2, EQUAL[rank], 4)),
        Trial("one position", case(3, (1,) * rank, 5)),
    ]
    if rank > 1:
        found.append(Trial("one row", case(2, (*(1,) * (rank - 1), 9), 6)))
    if 1 < spec.channels <= 64:
        found.append(Trial("first axis as long as the channels", case(2, (spec.channels, *(3,) * (rank - 1)), 7)))
    found.append(Trial("large map", _large(spec, dtype, rank, seed), gradients=False))
    if dtype == "float16":
        found.append(Trial("sum beyond float16", _large(spec, dtype, rank, seed, level=500.0), gradients=False))
    found += [
        Trial(f"sample {number} alone", Inputs(uneven.x[[number]], uneven.dy[[number]], uneven.parameters))
        for number in range(3)
    ]
    for name, number in (("NaN", np.nan), ("inf", np.inf)):
        found.append(Trial(name, _insert(uneven, number), gradients=False))
    found.append(Trial("empty batch", Inputs(uneven.x[:0], uneven.dy[:0], uneven.parameters), gradients=False))
    found.append(Trial("uneven map again", uneven))
    return found


def trial(name: str, spec: SESpec, dtype: str = "float32", rank: int = 2, seed: int = 0) -> Trial:
    """Make one trial again by the name that a verdict prints.

    Args:
        name: the trial's name, as in ``"uneven map"``.
        spec: as in ``trials``.
        dtype: as in ``trials``.
        rank: as in ``trials``.
        seed: as in ``trials``.

    Returns:
        The trial; its ``inputs`` are x, dy and the parameters.

    Raises:
        SpecError: there is no trial of that name, or an argument is not allowed.

    Example:
        >>> x, dy, parameters = trial("one sample", SESpec(8, hidden=2)).inputs
        >>> x.shape
        (1, 5, 7, 8)
    """
    found = {entry.name: entry for entry in trials(spec, dtype, rank, seed)}
    if name not in found:
        raise SpecError(f"no trial {name!r}; there are {', '.join(map(repr, found))}")
    return found[name]


def _large(spec: SESpec, dtype: str, rank: int, seed: int, level: float = 0.75) -> Inputs:
    """Draw a map of more positive numbers than half precision can add; they are not 1, which is a tie at 256."""
    positions = min(4096, max(64, LARGE_MAP_ELEMENTS // spec.channels))
    side = int(positions ** (1 / rank))
    rng = np.random.default_rng((seed, 8))
    shape = (1, *(side,) * (rank - 1), side + 1, spec.channels)
    x = level * (1.0 + 0.25 * rng.standard_normal(shape))
    if spec.squeeze != "avg":  # one clear maximum
        x.reshape(1, -1, spec.channels)[:, side // 2] = 2.5 * level
    weights = revealing_parameters(x, spec, rng)
    if not spec.single_projection:
        _share_a_sign(x, weights, rng)
    return Inputs(x, rng.standard_normal(shape), weights).rounded(dtype)


def _share_a_sign(x: np.ndarray, weights: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Give weights one sign and hidden values 1 to 5, so that equal errors of all channels do not cancel."""
    z, size = x.mean(tuple(range(1, x.ndim - 1)))[0], np.abs(weights["reduce.weight"])
    hidden = rng.uniform(1.0, 5.0, len(size)) - weights.get("reduce.bias", 0.0)
    weights["reduce.weight"] = size * (hidden / (size @ z))[:, None]
    logits = weights["expand.weight"] @ (hidden + weights.get("reduce.bias", 0.0))
    weights["expand.weight"] *= 2.0 / max(float(np.sqrt(np.mean(logits**2))), 1e-3)


def _insert(inputs: Inputs, number: float) -> Inputs:
    """Replace one element of the second sample by ``number``."""
    x = inputs.x.copy()
    x[(1, *(0,) * (x.ndim - 2), x.shape[-1] // 2)] = number
    return Inputs(x, inputs.dy, inputs.parameters)
