"""Arrays over the bytes of a mapped file, and the bytes of an array."""

import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np

from se_spec import FileFormatError
from se_spec.texts import quote, shorten

from . import _base
from ._base import bfloat16, count_bytes, count_stored_bytes, refuse

Code = TypeVar("Code", int, str)


MOST_COPIED = 64 << 20
"""Bytes of the largest file that is read into memory, or of all files of a model; larger ones are mapped."""
MAX_FILES = 4096
"""Files of a model beside the one that names them."""


CHUNK_BYTES = 1 << 24
"""Bytes of a file that are read at once."""


SHORTER = ("became shorter while it was read", "a file that no other program writes")
"""What is wrong, and what was expected."""


class FileMap(mmap.mmap):
    """The bytes of a mapped file, with a descriptor of the file.

    A program dies of SIGBUS where it reads a map whose file has become shorter. ``copy_array`` reads the file.
    """

    path: Path
    descriptor: int
    state: os.stat_result

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file; a pipe, on which a program would wait, is refused.

    Raises:
        FileFormatError: it is no regular file, or may not be read.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror or error})", "a file that can be read")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        refuse(path, "is no regular file", "a file, not a device, a pipe or a folder")
    try:
        _check_stored(path, file)
    except FileFormatError:
        file.close()
        raise
    return file


def _check_stored(path: Path, file: BinaryIO) -> None:
    """Refuse a file that has few bytes on the disk and is long."""
    size = os.fstat(file.fileno()).st_size
    if size < _base.MIN_SPARSE_BYTES:
        return
    stored = count_stored_bytes(file.fileno(), size)
    if size > _base.MAX_HOLES * stored + _base.MIN_SPARSE_BYTES:
        refuse(
            path,
            f"has {stored:,} bytes on the disk and is {size:,} bytes long",
            f"at most {_base.MAX_HOLES} times as many: a file without large holes",
        )


def read_file(path: Path, most: int) -> bytearray:
    """Read a whole file, whose size is looked at before.

    Raises:
        FileFormatError: it is no regular file, cannot be read, or has more than ``most`` bytes.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            refuse(path, f"has {size:,} bytes", f"at most {most:,}")
        data = bytearray(size)
        _fill(path, file, data)
    return data


def map_file(path: Path, most_copied: int | None = None) -> mmap.mmap:
    """Map a file; its bytes are fetched when they are accessed. A small file is read at once.

    Args:
        path: of the file.
        most_copied: bytes of the largest file that is read at once; None is ``MOST_COPIED``.

    Raises:
        FileFormatError: the file is empty, no regular file, or may not be read.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            refuse(path, "cannot be read, it is empty", "a file that is not empty")
        return _map(path, file, MOST_COPIED if most_copied is None else most_copied)


def _map(path: Path, file: BinaryIO, most_copied: int) -> mmap.mmap:
    """Map an open file that is not empty, or read it."""
    state = os.fstat(file.fileno())
    try:
        if state.st_size > most_copied:
            mapped = FileMap(file.fileno(), 0, access=mmap.ACCESS_READ)
            mapped.path, mapped.descriptor, mapped.state = path, os.dup(file.fileno()), state
            return mapped
        copy = mmap.mmap(-1, state.st_size)
    except (OSError, ValueError) as error:
        refuse(path, f"cannot be read ({error})", "a file that can be read")
    _fill(path, file, copy)
    return copy


def _fill(path: Path, file: BinaryIO, target: bytearray | mmap.mmap) -> None:
    """Fill ``target`` from the beginning of a file."""
    try:
        if file.readinto(target) == len(target):  # type: ignore[attr-defined]
            return
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror or error})", "a file that can be read")
    refuse(path, *SHORTER)


class FileMaps:
    """The maps of files that one file names, each mapped once; small ones are read at once up to a limit for all."""

    def __init__(self) -> None:
        self._maps: dict[Path, memoryview] = {}
        self._left = MOST_COPIED
        self.bytes = 0
        """Of all files."""

    def map(self, path: Path) -> memoryview:
        """Map a file, which may be empty.

        Raises:
            FileFormatError: it is no regular file, may not be read, or is one too many.
        """
        if path not in self._maps:
            if len(self._maps) == MAX_FILES:
                refuse(path, f"is one more than {MAX_FILES:,} files of a model", f"at most {MAX_FILES:,}")
            with open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
                self._maps[path] = memoryview(_map(path, file, self._left) if size else b"")
            self._left -= size if size <= self._left else 0
            self.bytes += size
        return self._maps[path]


def _read_at(path: Path, descriptor: int, place: int, target: memoryview) -> None:
    """Fill ``target`` from a place of a file.

    Raises:
        FileFormatError: the file ends before.
    """
    done = 0
    while done < len(target):
        count = os.preadv(descriptor, [target[done:]], place + done)
        if not count:
            refuse(path, *SHORTER)
        done += count


def iterate_bytes(data: memoryview) -> Iterator[memoryview]:
    """Yield bytes in chunks, those of a mapped file read from the file itself.

    Raises:
        FileFormatError: the file has changed since it was mapped.
    """
    array = np.frombuffer(data, np.uint8)
    for start in range(0, len(array), CHUNK_BYTES):
        yield copy_array(array[start : start + CHUNK_BYTES]).data


def check_unchanged(data: mmap.mmap) -> None:
    """Refuse a mapped file that has changed since it was mapped; one that was read at once cannot change.

    Raises:
        FileFormatError: its size or its time is another.
    """
    if not isinstance(data, FileMap):
        return
    state = os.fstat(data.descriptor)
    if (state.st_size, state.st_mtime_ns) != (data.state.st_size, data.state.st_mtime_ns):
        refuse(data.path, "has changed while it was read", "a file that no other program writes")


def copy_array(array: np.ndarray) -> np.ndarray:
    """Copy an array of a mapped file from the file itself; any other is returned as it is.

    Raises:
        FileFormatError: the file has changed since it was mapped.
    """
    owner = find_owner(array)
    if not isinstance(owner, FileMap) or array.size == 0 or not hasattr(os, "preadv"):  # Windows keeps mapped files
        return array
    check_unchanged(owner)
    low = sum(min(0, step * (length - 1)) for length, step in zip(array.shape, array.strides, strict=True))
    high = sum(max(0, step * (length - 1)) for length, step in zip(array.shape, array.strides, strict=True))
    start = offset_in(owner, array) + low
    data = bytearray(high - low + array.itemsize)
    _read_at(owner.path, owner.descriptor, start, memoryview(data))
    copy: np.ndarray = np.ndarray(array.shape, array.dtype, data, -low, array.strides)
    copy.setflags(write=False)
    return copy


def find_owner(array: np.ndarray) -> object:
    """Find the object whose memory an array views."""
    owner: Any = array
    while isinstance(owner, np.ndarray | memoryview):
        base = owner.base if isinstance(owner, np.ndarray) else owner.obj
        if base is None:
            break
        owner = base
    return owner


def offset_in(owner: mmap.mmap, array: np.ndarray) -> int:
    """Find where the first element of an array is in a map, in bytes."""
    start = np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    return int(array.__array_interface__["data"][0] - start)


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
        refuse(
            path, f"{quote(name)} {shape} has {len(data):,} bytes", f"{size:,}, as many as its shape and {dtype} need"
        )
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
        refuse(path, f"{quote(name)} is of the dtype bool and has a byte above 1", "0 and 1")
    array.setflags(write=False)
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
        refuse(path, f"cannot hold {quote(name)}, which is {array.dtype}", f"one of {', '.join(dtypes)}")


def encode_name(path: Path, name: str) -> bytes:
    """Encode a name in UTF-8.

    Raises:
        FileFormatError: it has a lone surrogate.
    """
    try:
        return name.encode()
    except UnicodeEncodeError:
        refuse(path, f"the name {quote(name)} is no Unicode text", "no lone surrogates")


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
        refuse(path, f"has a name that is not UTF-8: {shorten(error)}", "names in UTF-8")
