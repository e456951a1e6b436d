"""A network of another library, its blocks as its own modules define them, and the comparison with the porter's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import se_numpy
from se_port.api import find_blocks
from se_spec import LayoutError


class Evaluation(NamedTuple):
    """A block's own gate for drawn parameters and a drawn input.

    Args:
        tensors: the parameters, named as in the network's file.
        x: the feature map, channels last.
        gate: the gate, shape (N, C).
    """

    tensors: dict[str, np.ndarray]
    x: np.ndarray
    gate: np.ndarray


class Block(NamedTuple):
    """An SE block of a network, as the library's own module defines it.

    Args:
        path: its path in the network.
        kind: its class, or the layers that it is made of.
        names: its weights and biases in the network's file.
        channels, hidden, bias, activation, gate: fields of ``SESpec``; ``hidden`` is None for a single projection.
        norm: whether there is a batch norm between the projections.
        evaluate: the function that draws parameters and an input from a seed, and evaluates the gate.
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
    evaluate: Callable[[int], Evaluation]


class Network(NamedTuple):
    """Shapes of the tensors in a network's file, by name, and the blocks that the network has."""

    shapes: dict[str, tuple[int, ...]]
    blocks: list[Block]


class BlockResult(NamedTuple):
    """Result for a block: the layouts that fit, none if it was missed, and the relative error of its gate."""

    kind: str
    activation: str
    gate: str
    layouts: tuple[str, ...]
    difference: float


class NetworkResult(NamedTuple):
    """Result for a network: its blocks, and the paths of blocks that were found and do not exist."""

    blocks: tuple[BlockResult, ...]
    extra: tuple[str, ...]


def compare_blocks(network: Network) -> NetworkResult:
    """Draw parameters for every block, find the blocks of the whole file, and compare."""
    evaluations = [block.evaluate(seed) for seed, block in enumerate(network.blocks)]
    tensors: dict[str, np.ndarray] = make_zeros(network.shapes)
    for evaluation in evaluations:
        tensors |= evaluation.tensors
    found = find_blocks_or_none(tensors)
    paths = {frozenset(block.names.values()): path for path, block in found.items()}
    results = []
    for block, evaluation in zip(network.blocks, evaluations, strict=True):
        match = found.get(paths.pop(block.names, ""))
        error = float("inf") if match is None else compute_gate_error(block, evaluation, match)
        layouts = match.layouts if match else ()
        results.append(BlockResult(block.kind, str(block.activation), str(block.gate), layouts, error))
    return NetworkResult(tuple(results), tuple(paths.values()))


def compute_gate_error(block: Block, evaluation: Evaluation, found: Any) -> float:
    """Largest difference between the block's own gate and the oracle's for the found parameters, relative to the gate.

    Only the activation and gate that the file does not determine are taken from the block.
    """
    spec = found.spec.replace(**{choice: getattr(block, choice) for choice in found.unknown})
    got = se_numpy.excitation(evaluation.x, spec, found.parameters, data_format="channels_last")
    return float(abs(got - evaluation.gate).max() / abs(evaluation.gate).max())


def find_blocks_or_none(tensors: Mapping[str, np.ndarray], layout: str = "auto") -> dict[str, Any]:
    """Find the blocks of a file; an empty dictionary if there is none."""
    try:
        return dict(find_blocks(tensors, layout))
    except LayoutError as error:
        if not str(error).startswith("no SE block of "):
            raise
        return {}


def make_zeros(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Make arrays of zeros that take no memory."""
    return {name: np.broadcast_to(np.float32(0.0), shape) for name, shape in shapes.items()}


def draw_feature_map(channels: int, seed: int, size: tuple[int, ...] = (4, 3)) -> np.ndarray:
    """Draw three samples with different means, channels last, and away from 0, since a gate is computed by division."""
    random = np.random.default_rng(seed)
    sign = random.choice([-1.0, 1.0], (3, *(1 for _ in size), channels))
    return np.asarray(sign * random.uniform(0.5, 2.0, (3, *size, channels)))


def compute_gate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the gate (N, C) that scales x to y, both channels last; it must be equal at all spatial positions."""
    ratio = (y / x).reshape(len(x), -1, x.shape[-1])
    if not np.allclose(ratio, ratio[:, :1], rtol=1e-13, atol=0.0):
        raise ValueError("a channel is not scaled by one number")
    return np.asarray(ratio[:, 0])


def draw_weights(random: np.random.Generator, shape: tuple[int, ...], inputs: int) -> np.ndarray:
    """Draw numbers whose sums over ``inputs`` of them have standard deviation 2, so that gates vary widely."""
    return np.asarray(random.normal(0.0, 2.0 / np.sqrt(max(inputs, 1)), shape))
