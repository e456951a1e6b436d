"""Training sessions, and how to start one in a framework."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from se_spec import NetworkSpec

Parameters = dict[str, np.ndarray]
Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""Pairs of images (N, H, W, C) and integer labels (N,)."""

TRAINERS = {"torch": "torch", "keras": "keras tensorflow", "nnx": "nnx", "linen": "linen"}
"""Maps each trainer to the implementation in whose process it runs."""


@dataclass(frozen=True)
class SGDConfig:
    """Stochastic gradient descent on the mean cross-entropy for all learnable parameters w (SPEC M-11).

    ``d = gradient + weight_decay * w``, ``v = momentum * v + d``, ``w = w - learning_rate * v``. The defaults are sums
    of a few powers of two, and so exact in every type in which a framework stores them.
    """

    learning_rate: float = 0.0625
    momentum: float = 0.875
    weight_decay: float = 2.0**-11


class TrainingSession(NamedTuple):
    """A training session that has been started.

    Args:
        step: ``(images, labels) -> loss``: the mean loss before the update that it makes.
        parameters: ``() -> parameters``: the current ones, running statistics among them.
    """

    step: Callable[[np.ndarray, np.ndarray], float]
    parameters: Callable[[], Parameters]


class TrainingResult(NamedTuple):
    """The mean loss of each batch before its update, and the final parameters, running statistics among them."""

    losses: list[float]
    parameters: Parameters


def start(trainer: str, net: NetworkSpec, parameters: Parameters, config: SGDConfig) -> TrainingSession:
    """Start a training session of one of ``TRAINERS`` in the dtype of the parameters."""
    module: Any = importlib.import_module(f"{__package__}.{trainer}")
    session: TrainingSession = module.start(net, parameters, config)
    return session


def train(
    trainer: str, net: NetworkSpec, parameters: Parameters, config: SGDConfig, batches: Batches
) -> TrainingResult:
    """Train on all batches."""
    session = start(trainer, net, parameters, config)
    losses = [session.step(x, labels) for x, labels in batches]
    return TrainingResult(losses, session.parameters())
