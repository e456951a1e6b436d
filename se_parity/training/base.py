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

    Args:
        learning_rate: above 0.
        momentum: at least 0 and below 1.
        weight_decay: at least 0.

    Example:
        >>> SGDConfig(learning_rate=0.5)
        SGDConfig(learning_rate=0.5, momentum=0.875, weight_decay=0.00048828125)
    """

    learning_rate: float = 0.0625
    momentum: float = 0.875
    weight_decay: float = 2.0**-11


class TrainingSession(NamedTuple):
    """A training session that has been started.

    Args:
        step: ``(images, labels) -> loss``: updates the parameters, and returns the mean loss before the update.
        parameters: ``() -> parameters``: the current canonical parameters, running statistics included.

    Example:
        >>> session = TrainingSession(lambda images, labels: 0.5, dict)
        >>> session.step(np.zeros((1, 8, 8, 3)), np.zeros(1, int)), session.parameters()
        (0.5, {})
    """

    step: Callable[[np.ndarray, np.ndarray], float]
    parameters: Callable[[], Parameters]


class TrainingResult(NamedTuple):
    """The result of ``train``.

    Args:
        losses: the mean loss of each batch before its update.
        parameters: the final canonical parameters, running statistics included.

    Example:
        >>> TrainingResult([2.3, 2.1], {}).losses[-1]
        2.1
    """

    losses: list[float]
    parameters: Parameters


def start(trainer: str, net: NetworkSpec, parameters: Parameters, config: SGDConfig) -> TrainingSession:
    """Start a training session in the dtype of the parameters, in this process.

    Args:
        trainer: a name in ``TRAINERS``.
        net: which network.
        parameters: the canonical parameters at the start.
        config: the optimizer's numbers.

    Returns:
        The session; a network of the trainer's framework has been built.

    Raises:
        ModuleNotFoundError: there is no such trainer, or its framework is not installed.
        ParameterError: the parameters are not the network's.

    Example:
        >>> import se_numpy
        >>> from se_spec import network
        >>> net = network("se_resnet20")
        >>> session = start("torch", net, se_numpy.initialize(net, seed=0), SGDConfig())
        >>> session.step(np.zeros((2, 32, 32, 3), np.float32), np.array([0, 1])) > 0
        True
    """
    module: Any = importlib.import_module(f"{__package__}.{trainer}")
    session: TrainingSession = module.start(net, parameters, config)
    return session


def train(
    trainer: str, net: NetworkSpec, parameters: Parameters, config: SGDConfig, batches: Batches
) -> TrainingResult:
    """Train on all batches.

    Args:
        trainer: a name in ``TRAINERS``.
        net: which network.
        parameters: the canonical parameters at the start.
        config: the optimizer's numbers.
        batches: pairs of images (N, H, W, C) and integer labels (N,).

    Returns:
        The losses and the final parameters.

    Raises:
        ModuleNotFoundError, ParameterError: as ``start``.

    Example:
        >>> import se_numpy
        >>> from se_spec import network
        >>> net, batch = network("se_resnet20"), (np.zeros((2, 32, 32, 3), np.float32), np.array([0, 1]))
        >>> len(train("torch", net, se_numpy.initialize(net, seed=0), SGDConfig(), [batch, batch]).losses)
        2
    """
    session = start(trainer, net, parameters, config)
    losses = [session.step(x, labels) for x, labels in batches]
    return TrainingResult(losses, session.parameters())
