"""What is timed: a shape, a type, forward alone or a step of training; and whether the answer is right."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import se_numpy
from se_conformance.cases import round_to
from se_spec import SESpec

SHAPES = (
    (1, 64, 56, 56),
    (50, 512, 7, 7),
    (32, 2048, 7, 7),
    (8, 32, 128, 128),
    (32, 1024, 14, 14),
    (32, 512, 28, 28),
    (32, 256, 56, 56),
)
"""Samples, channels, height and width."""
OFF = {"float32": 1e-5, "bfloat16": 4e-2, "float64": 1e-12}
"""How far an answer may be from the oracle's, in terms of the largest. No judge, but nothing wrong is timed."""


class Task(NamedTuple):
    """One line of a table: everybody's time for the same numbers.

    Args:
        shape: channels first.
        dtype: of x and the parameters.
        training: forward and backward, to x and to the parameters, or forward alone.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    training: bool = False

    @property
    def spec(self) -> SESpec:
        """The paper's block."""
        return SESpec(self.shape[1])

    @property
    def megabytes(self) -> float:
        """Of x, a million bytes each."""
        return int(np.prod(self.shape)) * {"bfloat16": 2, "float32": 4, "float64": 8}[self.dtype] / 1e6

    @property
    def kind(self) -> str:
        """Its type and passes, in words."""
        return f"{self.dtype} {'training' if self.training else 'forward'}"

    def drawn(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """x and dy, channels first, and parameters; numbers of the type."""
        random = np.random.default_rng(0)
        x, dy = (round_to(random.standard_normal(self.shape, np.float32), self.dtype) for _ in range(2))
        return x, dy, self.parameters()

    def parameters(self) -> dict[str, np.ndarray]:
        """Those of ``drawn``."""
        return {name: round_to(value, self.dtype) for name, value in se_numpy.initialize(self.spec, seed=0).items()}

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.kind}"


class Run(NamedTuple):
    """A way to compute a task.

    Args:
        call: once, whatever it gives.
        answer: ``call`` once more, as NumPy arrays channels first: y, or y and dx.
    """

    call: Callable[[], Any]
    answer: Callable[[], tuple[np.ndarray, ...]]


Runs = dict[str, Run]
"""By ``"who, how"``: whose block, and in which layout or by which compiler."""


def floor(task: Task) -> dict[str, Callable[[], Any]]:
    """What memory allows, by NumPy, which has no bfloat16: x read for a sum, and read and written for a product."""
    if task.dtype == "bfloat16":
        return {}
    x = task.drawn()[0].astype(task.dtype)
    return {"sum, floor": x.sum, "scale, floor": lambda: x * 2}


def verify(name: str, task: Task, run: Run, want: dict[str, np.ndarray]) -> None:
    """Raise if an answer is wrong.

    Raises:
        AssertionError: which, and by how much.
    """
    for (part, right), got in zip(want.items(), run.answer(), strict=True):
        off = abs(got[: len(right)] - right).max() / abs(right).max()
        if not off < OFF[task.dtype]:
            raise AssertionError(f"{name}, {task}: {part} is {off:.1e} off")


def right(task: Task, samples: int = 2) -> dict[str, np.ndarray]:
    """What the oracle says of the first samples: y, and dx where it is a task of training."""
    x, dy, parameters = task.drawn()
    x, dy = x[:samples], dy[:samples]
    known = {"y": se_numpy.squeeze_excitation(x, task.spec, parameters, data_format="channels_first")}
    if task.training:
        known["dx"] = se_numpy.vjp(x, dy, task.spec, parameters, data_format="channels_first")[0]
    return known
