"""TensorFlow's frozen graphs, ``.pb``: the constants of a GraphDef, by their nodes' names.

``convert_variables_to_constants`` and ``freeze_graph`` write such files. A ``saved_model.pb`` is of the format
``tensorflow``. Nothing is written: the file is a graph, and weights are none.
"""

from pathlib import Path
from typing import NoReturn

from ._base import Tensors, refuse_to_write
from ._buffers import map_file
from ._graphdef import parse_graph, read_constants

NEEDS: tuple[str, ...] = ()

HEADS = (0x0A, 0x12, 0x22)
"""First bytes of a message of nodes, functions or versions."""


def matches(path: Path, head: bytes) -> bool:
    """Whether a file of that ending begins with a node, a function or a version; a message has no signature."""
    return path.name.endswith(".pb") and head[:1] != b"" and head[0] in HEADS


def read(path: Path) -> Tensors:
    """Read views of the mapped file; only numbers that are written one by one are unpacked.

    Raises:
        FileFormatError: the file is no GraphDef, is broken, or has no constants.
    """
    data = memoryview(map_file(path))
    return read_constants(path, parse_graph(path, data), len(data))


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always, since weights are no graph.
    """
    refuse_to_write(path, "a TensorFlow graph", tensors, "another format; or freeze the model itself")
