"""Arrays over the bytes of a mapped file, and the bytes of an array."""

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from ._base import bfloat16, count_bytes, refuse

Code = TypeVar("Code", int, str)


def map_file(path: Path) -> mmap.mmap:
    """Map a file; its bytes are fetched when they are accessed.

    Raises:
        FileFormatError: the file is empty, or may not be read.
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
    """View bytes as a read-only array; they may be unaligned in a mapped file.

    Args:
        path: the file, for the error.
        name: of the tensor, for the error.
        data: all bytes of the array.
        dtype: with its byte order.
        shape: of the array.
        order: "C" if the last axis is fastest, "F" if the first is.

    Raises:
        FileFormatError: more or fewer bytes than the shape needs, or as ``view_at``.
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
    """View a part of ``data`` as an array; the caller has checked that it ends within.

    Args:
        path: the file, for the error.
        name: of the tensor, for the error.
        data: that the array is a part of.
        start: of the array, in bytes.
        dtype: with its byte order.
        shape: of the array.
        strides: in bytes; None if the last axis is fastest, without gaps.

    Raises:
        FileFormatError: a boolean that is neither 0 nor 1.
    """
    if 0 in shape:
        start, strides = 0, None
    array: np.ndarray = np.ndarray(shape, dtype, data, start, strides)
    if dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1:  # NumPy takes it for true, but unequal to true
        refuse(path, f"{name!r} is of the dtype bool and has a byte above 1", "0 and 1")
    return array


def little_endian_dtype(name: str) -> np.dtype:
    """Return the little-endian dtype of a name."""
    return (bfloat16() if name == "bfloat16" else np.dtype(name)).newbyteorder("<")


def dtype_code(path: Path, name: str, array: np.ndarray, codes: Mapping[str, Code]) -> Code:
    """Return a format's code for an array's dtype.

    Raises:
        FileFormatError: there is none.
    """
    check_dtype(path, name, array, codes)
    return codes[array.dtype.name]


def check_dtype(path: Path, name: str, array: np.ndarray, dtypes: Iterable[str]) -> None:
    """Refuse an array whose dtype is not among ``dtypes``."""
    if array.dtype.name not in dtypes:
        refuse(path, f"cannot hold {name!r}, which is {array.dtype}", f"one of {', '.join(dtypes)}")


def encode_name(path: Path, name: str) -> bytes:
    """Encode a name in UTF-8.

    Raises:
        FileFormatError: it has a lone surrogate.
    """
    try:
        return name.encode()
    except UnicodeEncodeError:
        refuse(path, f"the name {name!r} is no Unicode text", "no lone surrogates")


def to_bytes(array: np.ndarray) -> memoryview:
    """View an array's bytes, little-endian and the last axis fastest; copies only an array that is stored otherwise."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def decode_name(path: Path, data: memoryview | bytes) -> str:
    """Decode a name in UTF-8.

    Raises:
        FileFormatError: the bytes are not UTF-8.
    """
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        refuse(path, f"has a name that is not UTF-8: {error}", "names in UTF-8")
