"""Parameters that are those of a block, and not of the block that the spec describes: another width, other biases."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from se_spec import ParameterError

BIAS_MISSING = "bias missing"
"""The name of a mistake."""
MAX_PROJECTIONS = 4
"""Blocks with more projections than that are no blocks."""


class Departure(NamedTuple):
    """How a block's parameters depart from the spec.

    Args:
        name: of the mistake.
        sentence: what was found, and what the spec says.
        remedy: how to correct it.
        stage: the first stage whose parameters are other ones.
    """

    name: str
    sentence: str
    remedy: str
    stage: str = "reduce"


class DepartureError(ParameterError):
    """The parameters are those of a Squeeze-and-Excitation block, but not of the one that the spec describes.

    Args:
        message: as of every ``ParameterError``.
        departure: what is different.
    """

    def __init__(self, message: object, departure: Departure) -> None:
        super().__init__(message)
        self.departure = departure


class _Chain(NamedTuple):
    """Projections, each of which accepts what the one before returns, and their biases.

    Args:
        weights: canonical shapes (O, I), the first projection first.
        biases: for each projection whether it has one.
    """

    weights: tuple[tuple[int, ...], ...]
    biases: tuple[bool, ...]


def find_departure(expected: Mapping[str, tuple[int, ...]], found: Sequence[tuple[int, ...]]) -> Departure | None:
    """Find out how parameters depart from those of a spec, if they are those of a block at all.

    Args:
        expected: canonical names and shapes of the spec.
        found: canonical shapes of all parameters of the block.

    Returns:
        The departure; None where the parameters are those of no block with the spec's channels, or may be the spec's.

    Example:
        >>> find_departure({"reduce.weight": (4, 8), "expand.weight": (8, 4)}, [(2, 8), (8, 2)]).sentence
        'hidden is 2, the spec says 4; reduce.weight has shape (2, 8), expected (4, 8)'
    """
    names = [name.removesuffix(".weight") for name in expected if name.endswith(".weight")]
    weights = tuple(expected[f"{name}.weight"] for name in names)
    chain = next(_find_chains(found, weights[-1][0]), None)
    if chain is None:
        return None
    if len(chain.weights) != len(names):
        return _describe_count(chain, len(names))
    if chain.weights != weights:
        first = f"reduce.weight has shape {chain.weights[0]}, expected {weights[0]}"
        hidden, want = chain.weights[0][0], weights[0][0]
        sentence = f"hidden is {hidden}, the spec says {want}; {first}"
        return Departure("another hidden width", sentence, f"build the block with hidden={want}, or correct the spec")
    return _describe_biases(chain, names, "expand.bias" in expected)


def _find_chains(shapes: Sequence[tuple[int, ...]], channels: int) -> Iterator[_Chain]:
    """Yield the orders in which the matrices lead from the channels to the channels, with vectors as their biases."""
    matrices, vectors = ([shape for shape in shapes if len(shape) == axes] for axes in (2, 1))
    if len(matrices) + len(vectors) != len(shapes) or not 0 < len(matrices) <= MAX_PROJECTIONS:
        return
    for order in itertools.permutations(matrices):
        for turned in itertools.product((False, True), repeat=len(order)):
            weights = tuple(shape[::-1] if turn else shape for shape, turn in zip(order, turned, strict=True))
            ends = [channels, *(outputs for outputs, _ in weights)]
            if ends[-1] == channels and [inputs for _, inputs in weights] == ends[:-1]:
                left = [length for (length,) in vectors]
                biases = []
                for length in ends[1:]:
                    biases.append(length in left)
                    if length in left:
                        left.remove(length)
                if not left:
                    yield _Chain(weights, tuple(biases))


def _describe_count(chain: _Chain, expected: int) -> Departure:
    count = len(chain.weights)
    shapes = ", ".join(map(str, chain.weights))
    sentence = f"it has {_count(count)}, the spec says {_count(expected)}; the weights have the shapes {shapes}"
    remedy = f"build the block with {_count(expected)}, or correct the spec (single_projection)"
    return Departure("another number of projections", sentence, remedy)


def _count(projections: int) -> str:
    return "1 projection" if projections == 1 else f"{projections} projections"


def _describe_biases(chain: _Chain, names: list[str], has_bias: bool) -> Departure | None:
    other = [name for name, found in zip(names, chain.biases, strict=True) if found != has_bias]
    if not other:
        return None
    both = " and ".join(f"{name}.bias" for name in other)
    if has_bias:
        return Departure(
            BIAS_MISSING, f"it has no {both}, the spec says bias=True", "add the bias, or correct the spec", other[0]
        )
    return Departure(
        "bias that the spec has not",
        f"it has {both}, the spec says bias=False",
        "remove the bias, or correct the spec",
        other[0],
    )
