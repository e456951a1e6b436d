"""npz: a zip of ``.npy`` files, one for each array; NumPy's ``savez`` and Chainer's ``save_npz`` write it.

``numpy.lib.format`` reads the header of an ``.npy`` file. Members that are not compressed are mapped, the others are
inflated at every access; either way their CRC is checked then. ``write`` does not compress, and aligns to 64 bytes.

bfloat16 has the code that NumPy writes for ``ml_dtypes.bfloat16`` and for no dtype of its own, ``'<V2'``; two bytes of
anything are ``'|V2'``, which is refused. ``np.load`` gives ``V2``, for ``.view(ml_dtypes.bfloat16)``.

Not read: objects, which are pickles and would run; records, strings, dates and complex numbers; encrypted archives.
"""

import io
import mmap
import tokenize
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from se_spec.texts import quote, shorten

from ._base import Tensors, count_bytes, refuse
from ._buffers import array_from_buffer, check_unchanged, dtype_code, little_endian_dtype, map_file, to_bytes
from ._zips import Member, add_stored, first_member_name, read_directory, read_member, read_start, read_verified

NEEDS = ()

CODES = {
    "bool": "|b1",
    "int8": "|i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "float16": "<f2",
    "bfloat16": "<V2",
    "float32": "<f4",
    "float64": "<f8",
}
"""The format's code for each dtype of NumPy; ``>`` in place of ``<`` is read too, but not for bfloat16."""

DTYPES = {code: name for name, code in CODES.items()}
MAX_HEADER_BYTES, PREFIX_BYTES = 10_000, 12
"""NumPy's own limit, and the bytes before a header of version 2."""
HEAD_BYTES = MAX_HEADER_BYTES + PREFIX_BYTES
CHECKED_BYTES = 1 << 20
"""The largest member that is inflated before its header is read."""


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an archive, each made at every access, which raises a ``FileFormatError`` if it is broken.

    A large member's header is compared with its size before it is inflated, and a CRC is computed once.
    """

    def __init__(self, path: Path, data: mmap.mmap, members: dict[str, Member]) -> None:
        self._path, self._data, self._members = path, data, members
        self._verified = set[str]()

    def __getitem__(self, name: str) -> np.ndarray:
        path, member = self._path, self._members[name]
        check_unchanged(self._data)
        if member.size > CHECKED_BYTES:
            header = _read_header(path, name, read_start(path, name, self._data, member, HEAD_BYTES))
            size = count_bytes(path, name, header.shape, header.dtype.itemsize)
            if size != member.size - header.size:
                refuse(path, f"{quote(name)} {header.shape} has {member.size:,} bytes", f"{header.size + size:,}")
        read = read_member if name in self._verified else read_verified
        body = read(path, name, self._data, member)
        self._verified.add(name)
        header = _read_header(path, name, bytes(body[:HEAD_BYTES]))
        numbers = body[header.size :]
        array = array_from_buffer(path, name, numbers, header.dtype, header.shape, "F" if header.is_fortran else "C")
        return array.byteswap() if header.is_big_endian else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class Header(NamedTuple):
    """What the header of an ``.npy`` file says; ``size`` is its own, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    is_big_endian: bool
    size: int


def matches(path: Path, head: bytes) -> bool:
    """Whether a zip begins with an ``.npy`` file, or has the ending."""
    return first_member_name(path, head).endswith(b".npy") or (path.suffix == ".npz" and head[:2] == b"PK")


def read(path: Path) -> Tensors:
    """Read the directory; arrays are read when they are asked for.

    Raises:
        FileFormatError: the file is no zip of arrays alone.
    """
    data = map_file(path)
    members = read_directory(path, data)
    for name in members:
        if not name.endswith(".npy"):
            refuse(path, f"has the member {quote(name)}", "arrays alone, whose names end in .npy")
        if name.removesuffix(".npy") in members:  # np.load takes the name for the other member
            refuse(path, f"has {quote(name)} and {quote(name.removesuffix('.npy'))}", "one member for each name")
    return Arrays(path, data, {name.removesuffix(".npy"): member for name, member in members.items()})


def write(path: Path, tensors: Tensors) -> None:
    """Write one stored ``.npy`` member for each tensor.

    Raises:
        FileFormatError: a dtype or a name that the format cannot hold.
    """
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in tensors.items():
            header = io.BytesIO()
            description = {"descr": dtype_code(path, name, array, CODES), "fortran_order": False, "shape": array.shape}
            np.lib.format.write_array_header_1_0(header, description)
            add_stored(path, archive, f"{name}.npy", header.getvalue(), to_bytes(array))


def _read_header(path: Path, name: str, head: bytes) -> Header:
    """Read the header of an ``.npy`` file."""
    file = io.BytesIO(head)
    versions = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of files from Python 2
            shape, is_fortran, dtype = versions[version](file, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        wrong = f"{quote(name)} begins with {head[:80]!r} ({type(error).__name__}: {shorten(error)})"
        refuse(path, wrong, "an .npy file of version 1 or 2, with one plain dtype, the order and the shape")
    code = "<V2" if dtype.str == "|V2" and b"'<V2'" in head[: file.tell()] else dtype.str
    if code.replace(">", "<") not in DTYPES or dtype.hasobject or dtype.fields:
        refuse(
            path, f"{quote(name)} is of the dtype {quote(code)}", f"one of {', '.join(DTYPES)}; no objects, no records"
        )
    little = little_endian_dtype(DTYPES[code.replace(">", "<")])
    return Header(shape, little, is_fortran, code[0] == ">", file.tell())
