"""Paddle's state dicts, ``.pdparams`` and ``.pdopt``: a pickle of a dictionary of NumPy's arrays.

Source: ``python/paddle/framework/io.py`` of https://github.com/PaddlePaddle/Paddle, which pickles a parameter as an
array or as a pair of its name and an array. ``_pickle`` follows the opcodes; the arrays are views of the mapped file,
but those of pickle protocol 2, which writes bytes as text. Numbers beside arrays (a learning rate) are left out.
bfloat16 is stored as uint16, and read as that. Nothing is written.

Not read: parameters of more than 2**30 numbers in slices, other objects, and static programs' LoDTensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from se_spec.texts import quote, shorten

from ._base import Budget, Tensors, count_bytes, refuse
from ._buffers import array_from_buffer, encode_name, map_file
from ._pickle import Global, Unpickler, Views

NEEDS = ()

ENDINGS = (".pdparams", ".pdopt")
MODULES = ("numpy.core", "numpy._core")
RECONSTRUCT, SCALAR = ({f"{module}.multiarray {name}" for module in MODULES} for name in ("_reconstruct", "scalar"))
BUFFER = {f"{module}.numeric _frombuffer" for module in MODULES}
TUPLES = {"builtins tuple", "__builtin__ tuple"}
DTYPES = {
    "b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8",
}  # fmt: skip
NAMES, SLICES = "StructuredToParameterName@@", "UnpackBigParamInfor@@"
"""Entries that are no parameters."""
MAX_NAME = 1024
"""Letters of the name of a dictionary in others."""


@dataclass(eq=False)
class Kind:
    """A dtype of NumPy while its pickle is read."""

    name: str
    order: str = "<"


@dataclass(eq=False)
class Array:
    """An array of NumPy while its pickle is read."""

    shape: Any = ()
    kind: Any = None
    data: Any = b""
    is_fortran: bool = False


class ArrayUnpickler(Unpickler):
    """Reads a pickle of plain values and NumPy's arrays, which become ``Array``.

    Args:
        path: the file, for the error.
        size: of the file, in bytes.
    """

    functions = frozenset(
        {
            *Unpickler.functions,
            *RECONSTRUCT,
            *SCALAR,
            *BUFFER,
            *TUPLES,
            "numpy ndarray",
            "numpy dtype",
            "_codecs encode",
            "__builtin__ bytes",
        }
    )
    expected = "a state_dict of Paddle: names and arrays"

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path)
        self._encoded, self._most = 0, size

    def load_bytes(self, value: bytes | memoryview) -> Any:
        """Return a view of the file."""
        return value

    def reduce(self, function: Global, *arguments: Any) -> Any:
        """Return the array, dtype or bytes that NumPy's function would make."""
        match function.name, *arguments:
            case [name, Global("numpy ndarray"), _, _] if name in RECONSTRUCT:
                return Array()
            case [name, data, Kind() as kind, tuple(shape), str(order)] if name in BUFFER:
                return Array(shape, kind, data, order == "F")
            case [name, Kind(), _] if name in SCALAR:
                return None
            case [name, list() | tuple() as items] if name in TUPLES:
                made = tuple(items)
                if isinstance(items, list):
                    items.clear()  # used up, so that a few opcodes cannot copy it many times
                return made
            case ["numpy dtype", str(name), *_] if name in DTYPES:
                return Kind(name)
            case ["_codecs encode", str(text), "latin1"]:
                self._encoded += len(text)  # a few opcodes could encode one text many times
                if self._encoded > self._most:
                    refuse(self.path, f"has arrays of {self._encoded:,} bytes", f"at most {self._most:,}")
                return text.encode("latin-1")
            case ["__builtin__ bytes"]:
                return b""
        return super().reduce(function, *arguments)

    def build(self, target: Any, state: Any) -> None:
        """Set the state of an array or a dtype."""
        match target, state:
            case Kind(), (_, "<" | ">" | "|" | "=" as order, *_):
                target.order = order
            case Array(), (_, tuple(shape), Kind() as kind, bool(is_fortran), data):
                target.shape, target.kind, target.data, target.is_fortran = shape, kind, data, is_fortran
            case _:
                super().build(target, state)


def matches(path: Path, head: bytes) -> bool:
    """Whether the ending is Paddle's."""
    return path.name.endswith(ENDINGS) and path.is_file()


def read(path: Path) -> Tensors:
    """Read views of the mapped file; those of inner dictionaries are named ``outer.inner``.

    Raises:
        FileFormatError: the file is broken, or holds more than plain values and arrays.
    """
    data = memoryview(map_file(path))
    value = ArrayUnpickler(path, len(data)).read(Views(data))
    if type(value) is not dict:
        refuse(path, f"is a state_dict of Paddle that holds a {type(value).__name__}", "a dictionary")
    if SLICES in value:
        refuse(path, "has parameters in slices", "parameters of at most 2**30 numbers")
    tensors: dict[str, np.ndarray] = {}
    budget = Budget.of_shared(path, len(data))
    for name, array in _iterate_arrays(path, value):
        encode_name(path, name)
        if name in tensors:
            refuse(path, f"has the parameter {quote(name)} twice", "each name once")
        budget.spend_name(name)
        tensors[name] = _to_numpy(path, name, array)
        budget.spend(count_bytes(path, name, tensors[name].shape, tensors[name].itemsize, budget.left))
    if not tensors:
        keys = [shorten(key, 40) for key in islice(value, 20)]
        refuse(path, f"is a state_dict of Paddle without arrays; its keys are {keys}", "names and arrays")
    return tensors


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always.
    """
    refuse(path, f"would be a Paddle state_dict of {len(tensors)} tensors, which is not written", "another format")


def _iterate_arrays(path: Path, value: dict[Any, Any]) -> Iterator[tuple[str, Array]]:
    """Yield the arrays of a dictionary and of those in it, each dictionary once."""
    seen = {id(value)}
    stack = [("", key, item) for key, item in reversed(value.items())]
    while stack:
        prefix, key, item = stack.pop()
        match item:
            case Array():
                yield f"{prefix}{key}", item
            case (str(), Array() as array):
                yield f"{prefix}{key}", array
            case dict() if id(item) not in seen and len(name := f"{prefix}{key}") < MAX_NAME and name != NAMES:
                seen.add(id(item))
                stack += [(f"{name}.", inner_key, inner) for inner_key, inner in reversed(item.items())]


def _to_numpy(path: Path, name: str, array: Array) -> np.ndarray:
    lengths = array.shape
    if type(lengths) is not tuple or not all(type(length) is int for length in lengths) or array.kind is None:
        refuse(path, f"{quote(name)} has the shape {shorten(lengths)} and no dtype of numbers", "an array")
    if not isinstance(array.data, bytes | bytearray | memoryview):
        refuse(path, f"{quote(name)} has a {type(array.data).__name__} as its values", "bytes")
    dtype = np.dtype(array.kind.name).newbyteorder("<" if array.kind.order == "|" else array.kind.order)
    return array_from_buffer(path, name, array.data, dtype, lengths, "F" if array.is_fortran else "C")
