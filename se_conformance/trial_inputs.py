"""The inputs that a block is tried on: each shows mistakes that the others hide."""

from dataclasses import dataclass

import numpy as np

from se_spec import SESpec, SpecError

from . import probes
from .cases import DTYPES, Case, Inputs, revealing_parameters

UNEVEN = {1: (7,), 2: (5, 7), 3: (2, 5, 3)}
EVEN = {1: (6,), 2: (4, 6), 3: (4, 2, 6)}
FIVE_LAST = {1: (5,), 2: (7, 5), 3: (2, 3, 5)}
EQUAL = {1: (6,), 2: (6, 6), 3: (4, 4, 4)}
LARGE = 1 << 18
"""Elements of a large map."""


@dataclass(frozen=True)
class Trial:
    """One input.

    Args:
        name: unique among a spec's trials of one rank.
        inputs: x and dy channels last, in the dtype.
        gradients: whether they are judged here too.
        exact: whether all sums are exact in any order (``probes``).
    """

    name: str
    inputs: Inputs
    gradients: bool = True
    exact: bool = False


def trials(spec: SESpec, dtype: str = "float32", rank: int = 2, seed: int = 0) -> list[Trial]:
    """All of them, in the order in which they are run; the same seed gives the same numbers.

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
    made = [
        Trial("uneven map", uneven),
        *(Trial(f"exact probe of {part}", probe(part), exact=True) for part in probes.parts(dtype)),
        Trial("even map", case(2, EVEN[rank], 1)),
        Trial("one sample", case(1, UNEVEN[rank], 2)),
        Trial("as many samples as the last axis is long", case(5, FIVE_LAST[rank], 3)),
        Trial("equal axes", case(2, EQUAL[rank], 4)),
        Trial("one position", case(3, (1,) * rank, 5)),
    ]
    if rank > 1:
        made.append(Trial("one row", case(2, (*(1,) * (rank - 1), 9), 6)))
    if 1 < spec.channels <= 64:
        made.append(Trial("first axis as long as the channels", case(2, (spec.channels, *(3,) * (rank - 1)), 7)))
    made.append(Trial("large map", _large(spec, dtype, rank, seed), gradients=False))
    if dtype == "float16":
        made.append(Trial("sum beyond float16", _large(spec, dtype, rank, seed, level=500.0), gradients=False))
    made += [
        Trial(f"sample {number} alone", Inputs(uneven.x[[number]], uneven.dy[[number]], uneven.parameters))
        for number in range(3)
    ]
    for name, number in (("NaN", np.nan), ("inf", np.inf)):
        made.append(Trial(name, _with(uneven, number), gradients=False))
    made.append(Trial("empty batch", Inputs(uneven.x[:0], uneven.dy[:0], uneven.parameters), gradients=False))
    made.append(Trial("uneven map again", uneven))
    return made


def trial(name: str, spec: SESpec, dtype: str = "float32", rank: int = 2, seed: int = 0) -> Trial:
    """The one of that name, as a failed verdict tells it."""
    found = {each.name: each for each in trials(spec, dtype, rank, seed)}
    if name not in found:
        raise SpecError(f"no trial {name!r}; there are {', '.join(map(repr, found))}")
    return found[name]


def _large(spec: SESpec, dtype: str, rank: int, seed: int, level: float = 0.75) -> Inputs:
    """Positive numbers, so many that half precision loses their sum; not 1, half a step at 256 in bfloat16."""
    positions = min(4096, max(64, LARGE // spec.channels))
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
    """Hidden values between 1 and 5 from weights of one sign, so that channels that are wrong alike do not cancel."""
    z, size = x.mean(tuple(range(1, x.ndim - 1)))[0], np.abs(weights["reduce.weight"])
    wanted = rng.uniform(1.0, 5.0, len(size)) - weights.get("reduce.bias", 0.0)
    weights["reduce.weight"] = size * (wanted / (size @ z))[:, None]
    logits = weights["expand.weight"] @ (wanted + weights.get("reduce.bias", 0.0))
    weights["expand.weight"] *= 2.0 / max(float(np.sqrt(np.mean(logits**2))), 1e-3)


def _with(inputs: Inputs, number: float) -> Inputs:
    """One such number, in the second sample."""
    x = inputs.x.copy()
    x[(1, *(0,) * (x.ndim - 2), x.shape[-1] // 2)] = number
    return Inputs(x, inputs.dy, inputs.parameters)
