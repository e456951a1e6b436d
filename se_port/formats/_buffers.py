"""Arrays over the bytes of a mapped file, and the bytes of an array: what every format needs."""

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from ._base import bfloat16, count_bytes, refuse

Code = TypeVar("Code", int, str)


def map_file(path: Path) -> mmap.mmap:
    """The file's bytes, each fetched when it is looked at.

    Raises:
        FileFormatError: it is empty, or the system does not let us read it.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        refuse(path, f"cannot be read ({error})", "a file that is not empty")


def array_from_buffer(
    path: Path,
    name: str,
    data: memoryview | bytes | bytearray,
    dtype: np.dtype,
    shape: tuple[int, ...],
    order: Literal["C", "F"] = "C",
) -> np.ndarray:
    """A read-only array over bytes, which may lie unaligned in a mapped file.

    Raises:
        FileFormatError: more or fewer bytes than the shape needs, or as ``array_at``.
    """
    size = count_bytes(path, name, shape, dtype.itemsize)
    if size != len(data):
        refuse(path, f"{name!r} {shape} has {len(data):,} bytes", f"{size:,}, as many as its shape and {dtype} need")
    readable = memoryview(data).toreadonly()
    if order == "F":
        return view_at(path, name, readable, 0, dtype, shape[::-1]).T
    return view_at(path, name, readable, 0, dtype, shape)


def view_at(
    path: Path,
    name: str,
    data: mmap.mmap | memoryview,
    start: int,
    dtype: np.dtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
) -> np.ndarray:
    """An array on bytes that are there already; that it ends within them has been checked. Strides are in bytes.

    Raises:
        FileFormatError: a truth value that is neither 0 nor 1.
    """
    if 0 in shape:
        start, strides = 0, None
    array: np.ndarray = np.ndarray(shape, dtype, data, start, strides)
    if dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:  # true and not equal to true
        refuse(path, f"{name!r} is of the dtype bool and has a byte above 1", "0 and 1")
    return array


def little_endian_dtype(name: str) -> np.dtype:
    """Little-endian."""
    return (bfloat16() if name == "bfloat16" else np.dtype(name)).newbyteorder("<")


def dtype_code(path: Path, name: str, array: np.ndarray, codes: Mapping[str, Code]) -> Code:
    """A format's code for an array's dtype, or the error that there is none."""
    check_dtype(path, name, array, codes)
    return codes[array.dtype.name]


def check_dtype(path: Path, name: str, array: np.ndarray, dtypes: Iterable[str]) -> None:
    """Refuse an array whose dtype is not among these."""
    if array.dtype.name not in dtypes:
        refuse(path, f"cannot hold {name!r}, which is {array.dtype}", f"one of {', '.join(dtypes)}")


def encode_name(path: Path, name: str) -> bytes:
    """A name's bytes, or the error that it has none."""
    try:
        return name.encode()
    except UnicodeEncodeError:
        refuse(path, f"the name {name!r} is no Unicode text", "no lone surrogates")


def to_bytes(array: np.ndarray) -> memoryview:
    """An array's bytes, little-endian and the last axis fastest; a copy only of one that lies otherwise."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def decode_name(path: Path, data: memoryview | bytes) -> str:
    """A name.

    Raises:
        FileFormatError: not UTF-8.
    """
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        refuse(path, f"has a name that is not UTF-8: {error}", "names in UTF-8")
