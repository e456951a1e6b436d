"""MXNet's ``.params``: the list of named arrays of ``NDArray::Save`` (apache/mxnet, ``src/ndarray/ndarray.cc``).

Names are kept, such as ``arg:conv0_weight`` and ``aux:bn0_moving_mean`` in the file of a symbol. ``read`` accepts every
record that MXNet has had: the first, which begins with its number of axes, and versions 1, 2 and 3. It refuses sparse
arrays, arrays without a value, and a list without names, which does not identify its parameters. ``write`` writes
version 2, in which an array without axes has no value and cannot be stored. MXNet itself, which is retired, copies
every array and trusts the lengths in a file, so the reader is ours.
"""

import struct
from pathlib import Path

import numpy as np

from se_spec.texts import quote

from . import _base
from ._base import Budget, Tensors, count_bytes, refuse
from ._buffers import array_from_buffer, decode_name, dtype_code, encode_name, little_endian_dtype, map_file, to_bytes
from ._wire import MAX_AXES, Cursor

NEEDS = ()

SIGNATURE = struct.pack("<QQ", 0x112, 0)
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = {
    0: "float32",
    1: "float64",
    2: "float16",
    3: "uint8",
    4: "int32",
    5: "int8",
    6: "int64",
    7: "bool",
    8: "int16",
    9: "uint16",
    10: "uint32",
    11: "uint64",
    12: "bfloat16",
}
"""Each dtype, by its number in mshadow."""
CODES = {name: code for code, name in DTYPES.items()}
CPU = (1, 0)


def matches(path: Path, head: bytes) -> bool:
    """Whether the first 16 bytes are those of a list of arrays."""
    return head.startswith(SIGNATURE)


def read(path: Path) -> Tensors:
    """Read views of the mapped file.

    Raises:
        FileFormatError: the file is no such list, has a name twice or none, or an array that is not dense.
    """
    file = Cursor(path, memoryview(map_file(path)))
    if file.left < len(SIGNATURE) or file.read(len(SIGNATURE)) != SIGNATURE:
        refuse(path, "does not begin as a list of arrays of MXNet", f"the bytes {SIGNATURE.hex()}")
    arrays: list[np.ndarray] = []
    for index in range(file.number("Q")):
        if index == _base.MAX_TENSORS:
            refuse(path, f"has {index:,} arrays or more", f"less than {_base.MAX_TENSORS:,}")
        arrays.append(_read_array(file, index))
    budget = Budget(path)
    names = []
    for _ in range(file.number("Q")):
        names.append(decode_name(path, file.read(file.number("Q"))))
        budget.spend_name(names[-1])
    if len(names) != len(arrays) or not names or len(set(names)) != len(names):
        counts = f"{len(arrays)} arrays and {len(names)} names, {len(set(names))} of them different"
        refuse(path, f"has {counts}", "as many names as arrays, each once")
    if file.left:
        refuse(path, f"has {file.left:,} bytes after the last name", "nothing")
    return dict(zip(names, arrays, strict=True))


def write(path: Path, tensors: Tensors) -> None:
    """Write one array after the other, marked as stored on a CPU.

    Raises:
        FileFormatError: an array without axes, or a dtype that MXNet does not have.
    """
    names = [encode_name(path, name) for name in tensors]
    with path.open("wb") as file:
        file.write(SIGNATURE + struct.pack("<Q", len(names)))
        for name in tensors:
            array = np.asarray(tensors[name])
            if not array.ndim:
                refuse(path, f"cannot hold {quote(name)}, which has no axes", "at least one")
            code = dtype_code(path, name, array, CODES)
            shape = struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
            file.write(struct.pack("<Ii", VERSION_2, 0) + shape + struct.pack("<3i", *CPU, code))
            file.write(to_bytes(array))
        file.write(struct.pack("<Q", len(names)))
        file.writelines(struct.pack("<Q", len(name)) + name for name in names)


def _read_array(file: Cursor, index: int) -> np.ndarray:
    version = file.number("I")
    storage = file.number("i") if version in (VERSION_2, VERSION_3) else 0
    if storage:
        refuse(file.path, f"array {index} has storage type {storage}", "0, a dense array with a value")
    old = version not in (VERSION_1, VERSION_2, VERSION_3)
    count = version if old else file.number("I")
    if count > MAX_AXES:
        refuse(file.path, f"array {index} begins with {version:#x} and {count:,} axes", "a version of MXNet's, 32 axes")
    if not count and version != VERSION_3:
        refuse(file.path, f"array {index} has no axes and so no value", "arrays that were given a value")
    shape = file.numbers(f"{count}{'I' if old else 'q'}")
    _device, _number, code = file.numbers("3i")
    if code not in DTYPES:
        refuse(file.path, f"array {index} has the type {code}", f"one of {DTYPES}")
    dtype = little_endian_dtype(DTYPES[code])
    size = count_bytes(file.path, f"array {index}", shape, dtype.itemsize, file.left)
    return array_from_buffer(file.path, f"array {index}", file.read(size), dtype, shape)
