"""The parts that every format shares: the type of tensors, the limits of a file, and the one kind of error."""

import errno
import importlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np

from se_spec import FileFormatError, SEError
from se_spec.texts import quote, shorten

Tensors = Mapping[str, np.ndarray]

# The limits of every file; docs/LIMITS.md has them all, with the reasons.
MAX_BYTES = 8 << 30
"""The largest size that the tensors of a file may have together; those of SENet-154 have 0.44 GB."""
MAX_TENSORS = 1 << 16
"""Tensors of a file; a network has some thousands."""
MAX_NAME = 4096
"""Characters of a name."""
MAX_NAMES = 4 << 20
"""Characters of all names of a file."""
SHARING = 4
"""How often the bytes of a file may be those of a tensor, on average, where a format lets tensors share bytes."""
SPARE_BYTES = 1 << 20
"""Bytes of tensors that any file may have, such as a few repeated numbers."""
MAX_HOLES = 16
"""How many times as large as its bytes on the disk a file may be."""
MIN_SPARSE_BYTES = 1 << 20
"""The smallest file that is searched for holes."""

MAX_WRONG, MAX_EXPECTED, MAX_PATH = 400, 1000, 1000
"""Characters of the parts of an error."""
UNFORESEEN = "is broken in a way that its reader does not foresee"


def refuse(path: Path, wrong: str, expected: str) -> NoReturn:
    """Raise a ``FileFormatError`` that names the file, what is wrong with it and what was expected."""
    raise FileFormatError(
        f"{shorten(path, MAX_PATH)}: {shorten(wrong, MAX_WRONG)}; expected {shorten(expected, MAX_EXPECTED)}"
    )


@contextmanager
def refuse_failures(path: Path) -> Iterator[None]:
    """Turn any other error of the block, whose cause is the file, into a ``FileFormatError`` that names it.

    A reader refuses what it foresees. What it does not foresee is a fault of the reader, and still not its caller's.
    """
    try:
        yield
    except SEError:
        raise
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror or error})", "a file that can be read")
    except MemoryError:
        refuse(path, "needs more memory than there is", "a file that fits")
    except Exception as error:
        wrong = f"{UNFORESEEN} ({type(error).__name__}: {shorten(error)})"
        raise FileFormatError(f"{shorten(path, MAX_PATH)}: {wrong}; expected an undamaged copy") from error


class GuardedTensors(Mapping[str, np.ndarray]):
    """Tensors that are made when they are asked for; each error of that is a ``FileFormatError``.

    Args:
        path: of the file.
        tensors: by name.
    """

    def __init__(self, path: Path, tensors: Tensors) -> None:
        self._path, self._tensors, self._names = path, tensors, frozenset(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        with refuse_failures(self._path):
            return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._names)


class Budget:
    """The bytes that the tensors of a file may have together, and the characters of their names.

    Args:
        path: of the file, for errors.
        most: bytes; at most ``MAX_BYTES`` in any case.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self._path, self._names, self._characters = path, 0, 0
        self._most = self._left = MAX_BYTES if most is None else min(most, MAX_BYTES)

    @classmethod
    def of_shared(cls, path: Path, stored: int) -> "Budget":
        """Make the budget of a format in which tensors may share ``stored`` bytes, or repeat them."""
        return cls(path, SHARING * stored + SPARE_BYTES)

    @property
    def left(self) -> int:
        """Bytes that further tensors may have."""
        return self._left

    def spend(self, size: int) -> None:
        """Count the bytes of a tensor."""
        self._left -= size
        if self._left < 0:
            refuse(
                self._path,
                f"has tensors of more than {self._most:,} bytes, more than it can hold",
                f"tensors of at most {self._most:,} bytes together",
            )

    def spend_name(self, name: str) -> None:
        """Count a tensor and its name."""
        self._names += 1
        self._characters += len(name)
        if self._names > MAX_TENSORS or len(name) > MAX_NAME or self._characters > MAX_NAMES:
            refuse(
                self._path,
                f"has {self._names:,} tensors or more, whose names have {self._characters:,} characters",
                f"at most {MAX_TENSORS:,} tensors, {MAX_NAME:,} characters of a name and {MAX_NAMES:,} of all",
            )


def check_names(path: Path, names: Iterable[str]) -> None:
    """Refuse more or longer names than ``Budget``."""
    budget = Budget(path)
    for name in names:
        budget.spend_name(name)


def count_stored_bytes(descriptor: int, size: int) -> int:
    """Count the bytes of an open file that are on the disk, without the holes of a sparse file."""
    if not hasattr(os, "SEEK_DATA"):
        return size
    stored = place = 0
    try:
        while place < size:
            start = os.lseek(descriptor, place, os.SEEK_DATA)
            place = os.lseek(descriptor, start, os.SEEK_HOLE)
            stored += place - start
    except OSError as error:
        return stored if error.errno == errno.ENXIO else size  # no data behind the place; or no such question
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return stored


def refuse_to_write(path: Path, kind: str, tensors: Tensors, instead: str = "another format") -> NoReturn:
    """Raise a ``FileFormatError``: a file of this kind holds a program, and tensors are none."""
    refuse(path, f"is {kind}, which {len(tensors)} tensors do not make", instead)


def count_bytes(path: Path, name: str, shape: tuple[int, ...], itemsize: int, available: int | None = None) -> int:
    """Count the bytes of a tensor that a header announces, before anything is allocated.

    Args:
        path: the file, for the error.
        name: of the tensor, for the error.
        shape: as announced.
        itemsize: of one element, in bytes.
        available: bytes left in the file; None if the tensor is not stored as it lies.

    Raises:
        FileFormatError: an axis is negative, there are more than 32 of them, or the bytes are not available.
    """
    if len(shape) > 32 or any(not 0 <= length < 1 << 64 for length in shape):
        refuse(path, f"{quote(name)} has the shape {quote(shape)}", "at most 32 axes, none negative")
    size = math.prod(shape) * itemsize
    largest = math.prod(length or 1 for length in shape) * itemsize  # no array has the axes (0, 2**62)
    most = MAX_BYTES if available is None else available
    if size > most or largest > max(most, MAX_BYTES):
        refuse(path, f"{quote(name)} {shape} would take {largest:,} bytes", f"at most {most:,}")
    return size


def bfloat16() -> np.dtype:
    """NumPy's dtype bfloat16, which ``ml_dtypes`` defines."""
    return np.dtype(import_optional("ml_dtypes", "bfloat16").bfloat16)


def import_optional(module: str, purpose: str, extra: str = "port") -> ModuleType:
    """Import an optional dependency.

    Raises:
        FileFormatError: it is not installed; the message names it and the extra that has it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FileFormatError(
            f"{purpose} needs {module}, which is not installed; pip install 'se-suite[{extra}]'"
        ) from error
