"""npz: a zip of ``.npy`` files, one for each array; NumPy's ``savez`` and Chainer's ``save_npz`` write it.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html for ``.npy``. Members that are not
compressed are mapped, the others inflated when they are asked for; either way their CRC is checked then. ``write`` does
not compress, and aligns to 64 bytes.

bfloat16 is what NumPy makes of it: ``'<V2'``, which it writes for ``ml_dtypes.bfloat16`` and for no dtype of its own
(two bytes of anything are ``'|V2'``, and refused). ``np.load`` gives it as ``V2``, for ``.view(ml_dtypes.bfloat16)``.

Not read: objects, which are pickles, and would run; records, strings, dates and complex numbers; encrypted archives.
"""

import io
import mmap
import re
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
"""By NumPy's names; ``>`` in place of ``<`` is read too, bfloat16 apart."""

DTYPES = {code: name for name, code in CODES.items()}
HEADER = re.compile(
    rb"\{ ?'descr': '([^']*)', 'fortran_order': (True|False),"
    rb" 'shape': (\(\)|\(\d{1,19}L?,\)|\(\d{1,19}L?(?:, \d{1,19}L?){1,31},?\)),? ?\} *\n?"
)
"""As NumPy writes it, ``L`` under Python 2."""


class Arrays(Mapping[str, np.ndarray]):
    """The archive's arrays, each made when it is asked for.

    Raises:
        FileFormatError: when the array that is asked for is broken.
    """

    def __init__(self, path: Path, data: mmap.mmap, found: dict[str, Member]) -> None:
        self._path, self._data, self._members = path, data, found

    def __getitem__(self, name: str) -> np.ndarray:
        return _array(self._path, name, read_verified(self._path, name, self._data, self._members[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def matches(path: Path, head: bytes) -> bool:
    return first_member_name(path, head).endswith(b".npy") or (path.suffix == ".npz" and head[:2] == b"PK")


def read(path: Path) -> Tensors:
    data = map_file(path)
    found = read_directory(path, data)
    for name in found:
        if not name.endswith(".npy"):
            refuse(path, f"has the member {name!r}", "arrays alone, whose names end in .npy")
    return Arrays(path, data, {name.removesuffix(".npy"): member for name, member in found.items()})


def write(path: Path, tensors: Tensors) -> None:
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in tensors.items():
            header = io.BytesIO()
            said = {"descr": dtype_code(path, name, array, CODES), "fortran_order": False, "shape": array.shape}
            np.lib.format.write_array_header_1_0(header, said)
            add_stored(path, archive, f"{name}.npy", header.getvalue(), to_bytes(array))


def _array(path: Path, name: str, body: memoryview) -> np.ndarray:
    """What an .npy file holds, in the processor's byte order."""
    start = {b"\x93NUMPY\1\0": 10, b"\x93NUMPY\2\0": 12}.get(bytes(body[:8]))
    if start is None:
        refuse(path, f"{name!r} begins with {bytes(body[:8])!r}", "an .npy file of version 1 or 2")
    length = int.from_bytes(body[8:start], "little")
    header = bytes(body[start : start + min(length, 10_000)])
    said = HEADER.fullmatch(header)
    if said is None or len(header) < length:
        refuse(path, f"{name!r} has the header {header[:200]!r}", "one plain dtype, the order and the shape")
    code, order, axes = said.groups()
    little, shape = code.decode("latin-1").replace(">", "<"), tuple(int(axis) for axis in re.findall(rb"\d+", axes))
    if little not in DTYPES or code == b">V2":
        refuse(path, f"{name!r} is of the dtype {code!r}", f"one of {', '.join(DTYPES)}; no objects, no records")
    array = array_from_buffer(
        path, name, body[start + length :], little_endian_dtype(DTYPES[little]), shape, "F" if order == b"True" else "C"
    )
    return array.byteswap() if code[:1] == b">" else array
