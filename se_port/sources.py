"""Sources of weights: a file, or a mapping of names to arrays."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from se_spec import LayoutError
from se_spec.texts import quote

from . import formats
from .formats._base import refuse_failures
from .formats._buffers import copy_array
from .formats.tensorflow import read_full_names
from .graphs import Graph, read_graphs
from .identity import Identity, parse
from .layouts.keras_names import to_model_names
from .layouts.object_names import to_layer_names
from .lazy_arrays import LazyArrays

SourceLike = str | Path | Mapping[str, Any]
"""A path, or names and arrays of NumPy, PyTorch or whatever ``numpy.asarray`` takes."""


class Source(LazyArrays):
    """The arrays of an open source; those of a file stay in it until they are asked for.

    Args:
        makers: by name, the function that makes the array.
        format: of the file, a name in ``formats.FORMATS``; None for a mapping.
        path: of the file; None for a mapping.
    """

    def __init__(
        self,
        makers: Mapping[str, Callable[[], np.ndarray]],
        format: str | None = None,
        path: Path | None = None,
    ) -> None:
        super().__init__(makers)
        self.format, self.path = format, path

    def __getitem__(self, name: str) -> np.ndarray:
        return copy_array(self.view(name))

    def view(self, name: str) -> np.ndarray:
        """Return an array as it lies in the file, where it is mapped; its numbers change with the file."""
        return super().__getitem__(name)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Each array's shape, by name; computed once, since some formats must read an array to know it."""
        return {name: self.view(name).shape for name in self}

    @cached_property
    def identity(self) -> Identity | None:
        """What the file says that it is; None if it says nothing."""
        if self.format is None or self.path is None:
            return None
        return parse(formats.read_metadata(self.path, self.format))

    @cached_property
    def graphs(self) -> list[Graph]:
        """The graphs of the model, where the file has any with nodes; read once."""
        if self.format is None or self.path is None:
            return []
        with refuse_failures(self.path):
            return [graph for graph in read_graphs(self.path, self.format) if graph.nodes]


def open_source(
    source: SourceLike, format: str | None = None, part: str | None = None, prefix: str | None = None
) -> Source:
    """Open a source; no array is made yet.

    Args:
        source: a path, or a mapping.
        format: of the file, if it is known; None recognises it.
        part: the mapping to take, where the source holds several, such as ``"model_ema"``.
        prefix: only names that begin with it are taken, without it.

    Raises:
        FileFormatError: the file is broken or of no known format.
        LayoutError: the source is neither a path nor a mapping, has no such part, or no name has the prefix.
    """
    opened = _open(source, format, part)
    if not prefix:
        return opened
    names = [name for name in opened if name.startswith(prefix)]
    if not names:
        raise LayoutError(
            f"no name of the source begins with {quote(prefix)}; the first is {quote(next(iter(opened), ''))}"
        )
    makers = {name.removeprefix(prefix): partial(opened.view, name) for name in names}
    return Source(makers, opened.format)


def _open(source: SourceLike, format: str | None, part: str | None) -> Source:
    if isinstance(source, str | Path):
        format = format or formats.format_of(Path(source))
        tensors = formats.read(source, format, part)
        with refuse_failures(Path(source)):
            names = _name_tensors(Path(source), tensors, format)
        return Source(
            {name: partial(tensors.__getitem__, stored) for stored, name in names.items()}, format, Path(source)
        )
    if not isinstance(source, Mapping):
        raise LayoutError(f"source is a {type(source).__name__}; expected a path or a mapping of names to arrays")
    if part is not None or any(isinstance(value, Mapping) for value in source.values()):
        try:
            source = formats.select_part(source, _is_array, part)
        except ValueError as error:
            raise LayoutError(f"the source {error}") from None
    return Source({_name(key): partial(_to_numpy, source, key) for key in source})


def _name(key: Any) -> str:
    """Return a tensor's name; a flattened tree has tuples."""
    return ".".join(map(str, key)) if isinstance(key, tuple) else key


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _name_tensors(path: Path, tensors: formats.Tensors, format: str) -> dict[str, str]:
    """Name a file's tensors as the model's layers do, as far as the file has those names."""
    if format == "keras":
        return to_model_names(tensors)
    if format == "tensorflow":
        return to_layer_names(tensors, read_full_names(path))
    return {name: name for name in tensors}


def _to_numpy(source: Mapping[Any, Any], name: Any) -> np.ndarray:
    """Convert to NumPy; PyTorch's bfloat16, which NumPy does not know, goes through its bits."""
    value = source[name]
    if type(value).__module__.startswith("torch"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.view(formats.import_optional("torch", "bfloat16").int16).numpy().view(formats.bfloat16())
    return np.asarray(value)
