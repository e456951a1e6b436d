"""The tasks of the bench (a shape, a dtype, forward or a training step) and the check of answers."""

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
"""Shapes of x: samples, channels, height and width."""
MAX_ERROR = {"float32": 1e-5, "bfloat16": 4e-2, "float64": 1e-12}
"""The largest error relative to the largest value; coarse, but no wrong block is timed."""


class Task(NamedTuple):
    """One line of a table: the inputs on which all blocks are timed.

    Args:
        shape: the shape of x, channels first.
        dtype: the dtype of x and the parameters.
        training: whether gradients of x and the parameters are computed, too.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    training: bool = False

    @property
    def spec(self) -> SESpec:
        """The spec of the paper's block."""
        return SESpec(self.shape[1])

    @property
    def megabytes(self) -> float:
        """The size of x in units of a million bytes."""
        return int(np.prod(self.shape)) * {"bfloat16": 2, "float32": 4, "float64": 8}[self.dtype] / 1e6

    @property
    def kind(self) -> str:
        """The dtype and the passes, in words."""
        return f"{self.dtype} {'training' if self.training else 'forward'}"

    def draw(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Draw x and dy, channels first, and the parameters, in the dtype."""
        random = np.random.default_rng(0)
        x, dy = (round_to(random.standard_normal(self.shape, np.float32), self.dtype) for _ in range(2))
        return x, dy, self.parameters()

    def parameters(self) -> dict[str, np.ndarray]:
        """Draw the parameters in the dtype."""
        return {name: round_to(value, self.dtype) for name, value in se_numpy.initialize(self.spec, seed=0).items()}

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.kind}"


class Run(NamedTuple):
    """One block on one task.

    Args:
        call: the timed call.
        answer: calls once more and returns NumPy arrays, channels first: y, or y and dx.
    """

    call: Callable[[], Any]
    answer: Callable[[], tuple[np.ndarray, ...]]


Runs = dict[str, Run]
"""Maps ``"who, how"`` to a run: whose block, and in which layout or by which compiler."""


def make_floor_calls(task: Task) -> dict[str, Callable[[], Any]]:
    """Make the calls of the memory floor in NumPy: a sum of x, and a product with a number; none in bfloat16."""
    if task.dtype == "bfloat16":
        return {}
    x = task.draw()[0].astype(task.dtype)
    return {"sum, floor": x.sum, "scale, floor": lambda: x * 2}


def verify(name: str, task: Task, run: Run, want: dict[str, np.ndarray]) -> None:
    """Check the answer of a run.

    Raises:
        AssertionError: the answer is wrong; the message holds its error.
    """
    for (part, right), got in zip(want.items(), run.answer(), strict=True):
        off = abs(got[: len(right)] - right).max() / abs(right).max()
        if not off < MAX_ERROR[task.dtype]:
            raise AssertionError(f"{name}, {task}: {part} is {off:.1e} off")


def compute_oracle_answer(task: Task, samples: int = 2) -> dict[str, np.ndarray]:
    """Compute the oracle's answer for the first samples: y, and dx for a training step."""
    x, dy, parameters = task.draw()
    x, dy = x[:samples], dy[:samples]
    known = {"y": se_numpy.squeeze_excitation(x, task.spec, parameters, data_format="channels_first")}
    if task.training:
        known["dx"] = se_numpy.vjp(x, dy, task.spec, parameters, data_format="channels_first")[0]
    return known
