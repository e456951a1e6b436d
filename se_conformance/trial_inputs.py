"""The trials: inputs on which a block is judged, each of which reveals mistakes that the others hide."""

from dataclasses import dataclass

import numpy as np

from se_spec import SESpec, SpecError

from . import probes
from .calls import MANY_CALLS
from .cases import DTYPES, Case, Inputs
from .trial_maps import FAR_ARGUMENT, LARGE_MAP_ELEMENTS, TALL_MAP_ELEMENTS, WIDE_MAP_ELEMENTS, Maker

UNEVEN = {1: ((7,), (9,), (11,)), 2: ((5, 7), (7, 4), (6, 9)), 3: ((2, 5, 3), (5, 2, 4), (3, 4, 2))}
EVEN = {1: ((6,), (10,)), 2: ((4, 6), (6, 8)), 3: ((4, 2, 6), (2, 4, 6))}
FIVE_LAST = {1: (5,), 2: (7, 5), 3: (2, 3, 5)}
EQUAL = {1: (6,), 2: (6, 6), 3: (4, 4, 4)}
LONG = {1: ((393,),), 2: ((3, 131), (131, 3)), 3: ((2, 3, 67), (67, 3, 2))}
"""Extents; the seed chooses one of several."""
SMALL = {1: (4,), 2: (2, 3), 3: (2, 2, 2)}
SIDES = {1: (49, 64, 256), 2: (7, 8, 14, 16), 3: (7, 8)}
"""Sides of maps that are usual in networks, for which code may have a way of its own."""
MAX_SIDE_ELEMENTS = 1 << 16


WAYS = {
    "strided": "strided read-only arrays",
    "broadcast": "samples and channels broadcast",
    "reused": "arrays of the call before",
    "often": f"call {MANY_CALLS}",
    "thread": "another thread",
}
"""Ways to call a block other than once on new arrays, and the names of their trials."""


OWN_WAYS = ("with gradients", "channels last in memory", "training mode", "graph", "XLA", "jit", "op by op")
"""Ways in which the adapted blocks of some framework run besides."""


@dataclass(frozen=True)
class Trial:
    """One named input.

    Args:
        name: the name, unique among the trials of one spec and rank.
        inputs: x and dy (N, *space, C) and the canonical parameters, in the dtype.
        gradients: whether gradients are judged on it.
        exact: whether all sums are exact in any order (``probes``).
        way: how the block is called, one of ``WAYS`` or of an adapted block's own.
        special: whether it is for mistakes that usual inputs hide; most mistakes are told apart without it.
    """

    name: str
    inputs: Inputs
    gradients: bool = True
    exact: bool = False
    way: str = ""
    special: bool = False


def trials(
    spec: SESpec, dtype: str = "float32", rank: int = 2, seed: int = 0, own_ways: tuple[str, ...] = ()
) -> list[Trial]:
    """Make all trials of a spec in the order in which they run.

    Args:
        spec: which block.
        dtype: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        rank: 1, 2 or 3 spatial axes.
        seed: at least 0; the same seed gives the same numbers and sizes.
        own_ways: ways in which an adapted block runs besides, as ``AdaptedBlock.ways`` names them.

    Returns:
        About forty trials, channels last. Their number depends on the spec, the dtype and the rank.

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

    make = Maker(spec, dtype, rank, seed)

    def case(samples: int, spatial: tuple[int, ...], number: int) -> Inputs:
        return Case(spec, rank, dtype, seed=20 * seed + number, samples=samples, spatial=spatial).inputs()

    def probe(part: str) -> Inputs:
        return probes.probe_for(dtype, spec, part=part, rank=rank, seed=seed)

    uneven = case(3, _choose(UNEVEN[rank], seed), 0)
    found = [
        Trial("uneven map", uneven),
        *(Trial(f"exact probe of {part}", probe(part), exact=True) for part in probes.parts(dtype)),
        Trial("even map", case(2, _choose(EVEN[rank], seed), 1)),
        Trial("one sample", case(1, _choose(UNEVEN[rank], seed), 2)),
        Trial("as many samples as the last axis is long", case(5, FIVE_LAST[rank], 3)),
        Trial("equal axes", case(2, EQUAL[rank], 4)),
        Trial("one position", case(3, (1,) * rank, 5)),
    ]
    if rank > 1:
        found.append(Trial("one row", case(2, (*(1,) * (rank - 1), 9), 6)))
    if 1 < spec.channels <= 64:
        found.append(Trial("first axis as long as the channels", case(2, (spec.channels, *(3,) * (rank - 1)), 7)))
    many, usual = (9 + seed % 5, SMALL[rank]), (3, _choose(UNEVEN[rank], seed))
    found.append(Trial("many samples", make.draw(21, make.normal(*many)), special=True))
    found.append(
        Trial("many positions", make.draw(22, make.normal(2, _choose(LONG[rank], seed)), dy_scale=10.0), special=True)
    )
    rectified = make.without_first_unit(make.draw(23, make.rectified(*many)))
    found.append(Trial("after a ReLU", rectified, gradients=spec.squeeze == "avg", special=True))
    found.append(Trial("constant map", make.draw(24, make.constant(*usual)), gradients=False, special=True))
    for part in ("expand",) if spec.single_projection else ("reduce", "expand"):
        name = "hidden values" if part == "reduce" else "logits"
        found.append(Trial(f"{name} up to {FAR_ARGUMENT[dtype]:g}", make.far(part, *usual), special=True))
    for side in SIDES[rank]:
        if side**rank * spec.channels <= MAX_SIDE_ELEMENTS:
            draw = make.normal(1, (side,) * rank)
            found.append(Trial(f"side of {side}", make.draw(40 + side, draw), gradients=False, special=True))
    found.append(Trial("large map", make.large("square", LARGE_MAP_ELEMENTS, 8), gradients=False))
    if dtype == "float16":
        beyond = make.large("square", LARGE_MAP_ELEMENTS, 8, level=500.0)
        found.append(Trial("sum beyond float16", beyond, gradients=False))
    found.append(Trial("tall map", make.large("tall", TALL_MAP_ELEMENTS, 9), gradients=False, special=True))
    if rank > 1:
        found.append(Trial("wide map", make.large("wide", WIDE_MAP_ELEMENTS, 10), gradients=False, special=True))
    found += [
        Trial(f"sample {number} alone", Inputs(uneven.x[[number]], uneven.dy[[number]], uneven.parameters))
        for number in range(3)
    ]
    found.append(Trial("dy of zeros", uneven._replace(dy=np.zeros_like(uneven.dy)), special=True))
    found.append(
        Trial("NaN in dy", uneven._replace(dy=_insert(uneven, np.nan, (0,) * uneven.x.ndim, "dy").dy), special=True)
    )
    middle = (1, *(0,) * rank, spec.channels // 2)
    place = _draw_place(uneven.x.shape, middle, seed)
    for name, number in (("NaN", np.nan), ("inf", np.inf)):
        found.append(Trial(name, _insert(uneven, number, middle), gradients=False))
    for name, number in (("NaN", np.nan), ("inf", np.inf), ("-inf", -np.inf)):
        found.append(Trial(f"{name} at another place", _insert(uneven, number, place), gradients=False, special=True))
    found.append(Trial("empty batch", Inputs(uneven.x[:0], uneven.dy[:0], uneven.parameters), gradients=False))
    same = uneven._replace(x=np.array(np.broadcast_to(uneven.x[:1, ..., :1], uneven.x.shape)))
    for way, name in WAYS.items():
        if way != "often":
            found.append(
                Trial(name, same if way == "broadcast" else uneven, gradients=way == "strided", way=way, special=True)
            )
    for way in own_ways:
        found.append(Trial(way, uneven, gradients=False, way=way, special=True))
        found.append(Trial(f"NaN, {way}", _insert(uneven, np.nan, middle), gradients=False, way=way, special=True))
    found.append(Trial("uneven map again", uneven))
    found.append(
        Trial(WAYS["often"], uneven, gradients=False, way="often", special=True)
    )  # last: a block may be wrong ever after
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
    found = {entry.name: entry for entry in trials(spec, dtype, rank, seed, OWN_WAYS)}
    if name not in found:
        raise SpecError(f"no trial {name!r}; there are {', '.join(map(repr, found))}")
    return found[name]


def _choose(options: tuple[tuple[int, ...], ...], seed: int) -> tuple[int, ...]:
    return options[seed % len(options)]


def _draw_place(shape: tuple[int, ...], other: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """Draw the index of an element whose sample, position and channel are not those of another, where it can."""
    rng = np.random.default_rng((seed, 30))
    options = [[n for n in range(size) if n != taken] or [taken] for size, taken in zip(shape, other, strict=True)]
    return tuple(int(rng.choice(values)) for values in options)


def _insert(inputs: Inputs, number: float, place: tuple[int, ...], name: str = "x") -> Inputs:
    """Replace one element of x or dy by ``number``."""
    array = getattr(inputs, name).copy()
    array[place] = number
    return inputs._replace(**{name: array})
