"""How far a conversion is: told per tensor, and shown on a terminal where rich is installed."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

Told = Callable[[str, int, int], object]
"""What is being done, how many tensors it has come to, and of how many."""


class Watched(Mapping[str, np.ndarray]):
    """The same tensors; each that is asked for is told. A format that goes through them twice begins again."""

    def __init__(self, tensors: Mapping[str, np.ndarray], what: str, told: Told) -> None:
        self._tensors, self._what, self._told, self._count = tensors, what, told, 0

    def __getitem__(self, name: str) -> np.ndarray:
        self._count = self._count % len(self) + 1
        self._told(self._what, self._count, len(self))
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@contextmanager
def shown() -> Iterator[Told]:
    """A bar beside what is written on the terminal; nothing where there is none, or no rich."""
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("")
        yield lambda what, done, total: progress.update(bar, description=what, completed=done, total=total)
