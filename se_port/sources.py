"""Where weights come from: a file, or a mapping of names to arrays."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from se_spec import LayoutError

from . import formats
from .layouts import keras_names

Source = str | Path | Mapping[str, Any]
"""A path, or names and arrays of NumPy, PyTorch or whatever ``numpy.asarray`` takes."""


class Lazy(Mapping[str, np.ndarray]):
    """Arrays that are made when they are asked for, and not kept."""

    def __init__(self, makers: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> np.ndarray:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class Opened(Lazy):
    """A source's arrays; a file's stay in it until they are asked for.

    Args:
        makers: of each array.
        format: the file's, of ``formats.FORMATS``; None for a mapping.
    """

    def __init__(self, makers: Mapping[str, Callable[[], np.ndarray]], format: str | None = None) -> None:
        super().__init__(makers)
        self.format = format

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name; looked at once, since some formats must read a tensor to tell."""
        return {name: array.shape for name, array in self.items()}


def opened(source: Source) -> Opened:
    """A source, of which no array is made yet.

    Raises:
        FileFormatError: the file is broken or of no known format.
        LayoutError: neither a path nor a mapping.
    """
    if isinstance(source, str | Path):
        format = formats.format_of(Path(source))
        tensors = formats.read(source, format)
        names = keras_names.named(tensors) if format == "keras" else {name: name for name in tensors}
        return Opened({ours: partial(tensors.__getitem__, name) for name, ours in names.items()}, format)
    if not isinstance(source, Mapping):
        raise LayoutError(f"source is a {type(source).__name__}; expected a path or a mapping of names to arrays")
    return Opened({name: partial(_array, source, name) for name in source})


def _array(source: Mapping[str, Any], name: str) -> np.ndarray:
    """As NumPy's; PyTorch's bfloat16, which that does not know, stays what it is."""
    value = source[name]
    if type(value).__module__.startswith("torch"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.view(formats.needed("torch", "bfloat16").int16).numpy().view(formats.bfloat16())
    return np.asarray(value)
