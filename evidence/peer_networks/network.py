"""A network of somebody else's as the walk sees it, and what the porter makes of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import se_numpy
from se_port.api import find_blocks
from se_spec import LayoutError


class Answer(NamedTuple):
    """What a block says when it is asked.

    Args:
        tensors: its drawn parameters, named as in its network's file.
        x: the map that it was given, channels last.
        gate: of each sample and channel.
    """

    tensors: dict[str, np.ndarray]
    x: np.ndarray
    gate: np.ndarray


class Block(NamedTuple):
    """An SE block of a network, read off the system's own module.

    Args:
        path: where it stands in its network.
        kind: its class, or what makes it.
        names: its weights and biases in the network's file.
        channels, hidden, bias, activation, gate: as of ``SESpec``; ``hidden`` is None for a single projection.
        norm: whether there is a batch norm between the projections.
        answer: from a seed.
    """

    path: str
    kind: str
    names: frozenset[str]
    channels: int
    hidden: int | None
    bias: bool
    activation: Any
    gate: Any
    norm: bool
    answer: Callable[[int], Answer]


class Network(NamedTuple):
    """The shapes of a file of a network, by name, and the blocks that it really has."""

    shapes: dict[str, tuple[int, ...]]
    blocks: list[Block]


class Seen(NamedTuple):
    """What became of a block: the layouts that fit, none if it was missed, and how far its gate is off."""

    kind: str
    activation: str
    gate: str
    layouts: tuple[str, ...]
    difference: float


class Walked(NamedTuple):
    """What became of a network: its blocks, and the paths of those that it does not have."""

    blocks: tuple[Seen, ...]
    extra: tuple[str, ...]


def walked(network: Network) -> Walked:
    """Draw parameters for every block, look for blocks in the whole file, and compare."""
    answers = [block.answer(seed) for seed, block in enumerate(network.blocks)]
    tensors: dict[str, np.ndarray] = zeros(network.shapes)
    for answer in answers:
        tensors |= answer.tensors
    found = find_any(tensors)
    at = {frozenset(one.names.values()): path for path, one in found.items()}
    seen = []
    for block, answer in zip(network.blocks, answers, strict=True):
        one = found.get(at.pop(block.names, ""))
        off = float("inf") if one is None else difference(block, answer, one)
        seen.append(Seen(block.kind, str(block.activation), str(block.gate), one.layouts if one else (), off))
    return Walked(tuple(seen), tuple(at.values()))


def difference(block: Block, answer: Answer, found: Any) -> float:
    """Between the block's own gate and the oracle's of what was found, in terms of the largest; only what a file
    cannot tell is told.
    """
    spec = found.spec.replace(**{choice: getattr(block, choice) for choice in found.unknown})
    got = se_numpy.excitation(answer.x, spec, found.parameters, data_format="channels_last")
    return float(abs(got - answer.gate).max() / abs(answer.gate).max())


def find_any(tensors: Mapping[str, np.ndarray], layout: str = "auto") -> dict[str, Any]:
    """The blocks; none is an answer."""
    try:
        return dict(find_blocks(tensors, layout))
    except LayoutError as error:
        if not str(error).startswith("no SE block of "):
            raise
        return {}


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays of these shapes, without memory for them."""
    return {name: np.broadcast_to(np.float32(0.0), shape) for name, shape in shapes.items()}


def feature_map(channels: int, seed: int, size: tuple[int, ...] = (4, 3)) -> np.ndarray:
    """Three samples of their own means, channels last; nowhere near 0, for a gate is read off by division."""
    random = np.random.default_rng(seed)
    sign = random.choice([-1.0, 1.0], (3, *(1 for _ in size), channels))
    return np.asarray(sign * random.uniform(0.5, 2.0, (3, *size, channels)))


def gate_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gate (N, C) that makes a map another, both channels last; the same everywhere in space."""
    ratio = (y / x).reshape(len(x), -1, x.shape[-1])
    if not np.allclose(ratio, ratio[:, :1], rtol=1e-13, atol=0.0):
        raise ValueError("a channel is not scaled by one number")
    return np.asarray(ratio[:, 0])


def spread(random: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
    """Numbers whose sums over so many inputs are of size 2, so that gates close and open."""
    return np.asarray(random.normal(0.0, 2.0 / np.sqrt(max(inputs, 1)), shape))
