"""The parts that every format shares: the type of tensors, the limits of a file, and the one kind of error."""

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np

from se_spec import FileFormatError

Tensors = Mapping[str, np.ndarray]

MAX_BYTES = 8 << 30
"""The largest size that a file may unpack to; SENet-154 has 0.44 GB."""


def refuse(path: Path, wrong: str, expected: str) -> NoReturn:
    """Raise a ``FileFormatError`` that names the file, what is wrong with it and what was expected."""
    raise FileFormatError(f"{path}: {wrong}; expected {expected}")


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
    if len(shape) > 32 or any(length < 0 for length in shape):
        refuse(path, f"{name!r} has the shape {shape}", "at most 32 axes, none negative")
    size = math.prod(shape) * itemsize
    largest = math.prod(length or 1 for length in shape) * itemsize  # no array has the axes (0, 2**62)
    most = MAX_BYTES if available is None else available
    if size > most or largest > max(most, MAX_BYTES):
        refuse(path, f"{name!r} {shape} would take {largest:,} bytes", f"at most {most:,}")
    return size


def bfloat16() -> np.dtype:
    """NumPy's dtype bfloat16, which ``ml_dtypes`` defines."""
    return np.dtype(import_optional("ml_dtypes", "bfloat16").bfloat16)


def import_optional(module: str, purpose: str) -> ModuleType:
    """Import an optional dependency.

    Raises:
        FileFormatError: it is not installed; the message names it and the extra that has it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FileFormatError(
            f"{purpose} needs {module}, which is not installed; pip install 'se-suite[port]'"
        ) from error
