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

import numpy as np

from ._base import Tensors, refuse
from ._buffers import array_from_buffer, dtype_code, little_endian_dtype, map_file, to_bytes
from ._zips import Member, add_stored, first_member_name, read_directory, read_verified

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


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an archive, each made at every access, which raises a ``FileFormatError`` if it is broken."""

    def __init__(self, path: Path, data: mmap.mmap, members: dict[str, Member]) -> None:
        self._path, self._data, self._members = path, data, members

    def __getitem__(self, name: str) -> np.ndarray:
        return _read_array(self._path, name, read_verified(self._path, name, self._data, self._members[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


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
            refuse(path, f"has the member {name!r}", "arrays alone, whose names end in .npy")
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


def _read_array(path: Path, name: str, body: memoryview) -> np.ndarray:
    """Read what an .npy file holds, in the processor's byte order."""
    prefix, file = bytes(body[: MAX_HEADER_BYTES + PREFIX_BYTES]), io.BytesIO(body[: MAX_HEADER_BYTES + PREFIX_BYTES])
    versions = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of files from Python 2
            shape, fortran_order, dtype = versions[version](file, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        wrong = f"{name!r} begins with {prefix[:80]!r} ({type(error).__name__}: {str(error)[:200]})"
        refuse(path, wrong, "an .npy file of version 1 or 2, with one plain dtype, the order and the shape")
    code = "<V2" if dtype.str == "|V2" and b"'<V2'" in prefix[: file.tell()] else dtype.str
    if code.replace(">", "<") not in DTYPES or dtype.hasobject or dtype.fields:
        refuse(path, f"{name!r} is of the dtype {code!r}", f"one of {', '.join(DTYPES)}; no objects, no records")
    little = little_endian_dtype(DTYPES[code.replace(">", "<")])
    array = array_from_buffer(path, name, body[file.tell() :], little, shape, "F" if fortran_order else "C")
    return array.byteswap() if code[0] == ">" else array
