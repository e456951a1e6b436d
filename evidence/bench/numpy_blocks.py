"""Blocks in NumPy: the oracle and a textbook block, in float64."""

import numpy as np

import se_numpy

from .blocks import Run, Runs, Task


def textbook(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Compute the block in five lines without checks."""
    z = x.mean((2, 3))
    h = np.maximum(z @ parameters["reduce.weight"].T, 0.0)
    g = 1.0 / (1.0 + np.exp(-(h @ parameters["expand.weight"].T)))
    return x * g[:, :, None, None]


def make_runs(task: Task) -> Runs:
    """Make the runs of a task, forward alone."""
    x, _, parameters = task.draw()
    x = x.astype(np.float64)
    doubles = {name: value.astype(np.float64) for name, value in parameters.items()}

    def oracle() -> tuple[np.ndarray, ...]:
        return (se_numpy.squeeze_excitation(x, task.spec, doubles, data_format="channels_first"),)

    def plain() -> tuple[np.ndarray, ...]:
        return (textbook(x, doubles),)

    return {"ours, NCHW": Run(oracle, oracle), "textbook, NCHW": Run(plain, plain)}
