"""Arrays that are made when they are asked for, so that a conversion holds one at a time."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np


class LazyArrays(Mapping[str, np.ndarray]):
    """A mapping of names to arrays, each made anew at every access.

    Args:
        makers: by name, the function that makes the array.
    """

    def __init__(self, makers: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> np.ndarray:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def own_arrays(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copy arrays, so that they neither change with what they came from nor keep it."""
    return {name: np.array(value, order="C") for name, value in parameters.items()}
