"""Progress of a conversion: reported per tensor, and drawn on a terminal where rich is installed."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

ProgressCallback = Callable[[str, int, int], object]
"""A function of the step's name, how many tensors are done, and how many there are."""


def ignore_progress(step: str, done: int, total: int) -> None:
    """Do nothing with the progress."""


class ReportingMapping(Mapping[str, np.ndarray]):
    """The same tensors; every access is reported. A format that reads them all twice starts again from one.

    Args:
        tensors: by name.
        step: its name, for the callback.
        progress: called at every access.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], step: str, progress: ProgressCallback) -> None:
        self._tensors, self._step, self._progress = tensors, step, progress
        self._count, self._total = 0, len(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        self._count = self._count % self._total + 1
        self._progress(self._step, self._count, self._total)
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return self._total


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Draw a bar on standard error; nothing where that is no terminal, or rich is not installed."""
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield ignore_progress
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("")
        yield lambda step, done, total: progress.update(bar, description=step, completed=done, total=total)
