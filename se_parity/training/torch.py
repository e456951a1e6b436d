"""Training in PyTorch."""

from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

import se_torch
from se_spec import NetworkSpec

from ..implementations import dtype_of
from ..implementations.torch import empty_network, to_tensor
from .base import Parameters, SGDConfig, TrainingSession


def start(net: NetworkSpec, parameters: Parameters, config: SGDConfig) -> TrainingSession:
    """Start a session with PyTorch's SGD, which adds the weight decay to the gradient."""
    model = empty_network(net, dtype_of(parameters)).train()
    se_torch.set_parameters(model, parameters)
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
    )

    def step(x: np.ndarray, labels: np.ndarray) -> float:
        loss = F.cross_entropy(model(to_tensor(x)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return TrainingSession(step, partial(se_torch.get_parameters, model))
