"""PyTorch's files: a pickle that describes the tensors, and their storages; read without torch.

Source: ``torch/serialization.py`` and ``torch/_utils.py`` of https://github.com/pytorch/pytorch. Since 1.6 such a file
is a zip with ``data.pkl`` and one stored member for each storage; before, it was five pickles, then the storages.

Pickles are read by ``_pickle``, since ``torch.load(weights_only=True)`` needs the framework. Values beside tensors
(epochs, options) are left out.

Not read: pickled modules and other objects, the tar files before 0.2, pickle protocols 0 and 1, sparse,
quantised and complex tensors, 8-bit floats and unsigned integers above 8 bits. CRCs are not checked: torch may omit
them (``torch.serialization.set_crc32_options``), and does not check them either.
"""

import io
import math
import mmap
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from se_spec.texts import quote

from ._base import Budget, Tensors, count_bytes, refuse
from ._buffers import dtype_code, encode_name, map_file, to_bytes
from ._parts import USUAL, select_part
from ._pickle import CODES, MAX_PICKLE_BYTES, PLAIN, TENSORS, Opaque, Tensor, TensorUnpickler, make_array
from ._zips import Member, add_stored, first_member_name, read_directory, read_member

NEEDS = ()

PICKLES = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
MAGIC = 0x1950A86A20F9469CFC6C


class _CheckpointUnpickler(TensorUnpickler):
    """Reads one pickle of a checkpoint, whose objects beside the tensors are left out."""

    keeps_objects = True


def matches(path: Path, head: bytes) -> bool:
    """Whether a zip begins as torch's do, or the file is any pickle, which ``read`` may then refuse."""
    first = first_member_name(path, head)
    return first.endswith((b"/data.pkl", b"/byteorder", b"/version")) or b"/data/" in first or head[:2] in PICKLES


def read(path: Path, part: str | None = None) -> Tensors:
    """Read views of the mapped file.

    Args:
        path: the file.
        part: the key of the mapping of names to tensors, where the file has several.

    Raises:
        FileFormatError: the file is broken, or holds more than plain values and one mapping of names to tensors.
    """
    data = map_file(path)
    value, places = read_zip(path, data) if data[:2] == b"PK" else _read_old_file(path, data)
    tensors: dict[str, np.ndarray] = {}
    budget = Budget.of_shared(path, len(data))  # tensors may share bytes, or repeat them
    for name, tensor in find_state_dict(path, value, part).items():
        encode_name(path, name)
        budget.spend_name(name)
        budget.spend(count_bytes(path, name, tensor.shape, tensor.storage.dtype.itemsize, budget.left))
        tensors[name] = make_array(path, name, data, tensor, places)
    return tensors


def write(path: Path, tensors: Tensors) -> None:
    """Write a zip of a dictionary, which ``torch.load(path, weights_only=True, mmap=True)`` reads."""
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        add_stored(path, archive, "archive/byteorder", b"little")
        items: list[bytes] = []
        for number, (name, array) in enumerate(tensors.items()):
            code = dtype_code(path, name, array, CODES)
            items.append(_encode_text(encode_name(path, name)) + _encode_tensor(code, number, array.shape))
            add_stored(path, archive, f"archive/data/{number}", to_bytes(array))
        add_stored(path, archive, "archive/data.pkl", b"\x80\2}(" + b"".join(items) + b"u.")
        add_stored(path, archive, "archive/version", b"3\n")


def read_zip(path: Path, data: mmap.mmap | memoryview) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Read the pickle's value, and each storage's first byte and number of bytes.

    Raises:
        FileFormatError: the archive or its pickle is broken, compressed, or from a processor of another byte order.
    """
    found = read_directory(path, data)
    pickles = [name for name in found if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        refuse(path, f"has {len(pickles)} members */data.pkl", "one, as torch.save writes it")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in found and read_member(path, order, data, found[order]) != b"little":
        refuse(path, "is not little-endian", "a file from a processor of this kind")
    value = _CheckpointUnpickler(path).read(read_pickle(path, pickles[0], data, found[pickles[0]]))
    _check_folder(path, folder, found)
    keys = {name.removeprefix(f"{folder}data/"): member for name, member in found.items()}
    if not all(member.stored for member in keys.values()):
        refuse(path, "is compressed", "members that are stored, as torch.save writes them")
    return value, {key: (member.start, member.size) for key, member in keys.items()}


def read_pickle(path: Path, name: str, data: mmap.mmap | memoryview, member: Member) -> io.BytesIO:
    """Read the bytes of a pickle that is a member."""
    if member.size > MAX_PICKLE_BYTES:
        refuse(path, f"{quote(name)} is a pickle of {member.size:,} bytes", f"at most {MAX_PICKLE_BYTES:,}")
    return io.BytesIO(read_member(path, name, data, member))


def _check_folder(path: Path, folder: str, names: Iterable[str]) -> None:
    """Refuse what torch itself takes for something else, or does not find.

    It looks in the folder of the first member, ignores case, and loads a program where there are constants.
    """
    first = next(iter(names))
    if not first.startswith(folder):
        refuse(path, f"begins with the member {quote(first)}, and has its pickle in {quote(folder)}", "one folder")
    if f"{folder}constants.pkl" in names:
        refuse(path, "has a constants.pkl, as a program of TorchScript has", PLAIN)
    folded = Counter(name.lower() for name in names)
    twice, count = max(folded.items(), key=lambda item: item[1])
    if count > 1:
        refuse(path, f"has {count} members named {quote(twice)}, apart from their case", "each name once")


def _read_old_file(path: Path, data: mmap.mmap) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Read the same from a file of the format before 1.6."""
    if data[:2] not in PICKLES or _CheckpointUnpickler(path).read(data) != MAGIC:
        refuse(path, f"begins with {data[:16]!r}", "a file that torch.save has written")
    version, system = _CheckpointUnpickler(path).read(data), _CheckpointUnpickler(path).read(data)
    if version != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        refuse(path, "is of another version or not little-endian", "version 1001, little-endian")
    storages: dict[str, np.dtype] = {}
    value, keys = _CheckpointUnpickler(path, storages).read(data), _CheckpointUnpickler(path).read(data)
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        refuse(path, "its list of storages is not that of its tensors", "an undamaged copy")
    places: dict[str, tuple[int, int]] = {}
    place = data.tell()
    for key in keys:
        left = len(data) - place - 8
        if left < 0:
            refuse(path, f"ends before its storage {quote(key)}", "an undamaged copy")
        length = int.from_bytes(data[place : place + 8], "little", signed=True)
        places[key] = place + 8, count_bytes(path, f"storage {key}", (length,), storages[key].itemsize, left)
        place = sum(places[key])
    return value, places


def find_state_dict(path: Path, value: Any, part: str | None = None) -> dict[str, Tensor]:
    """Find the mapping of names to tensors: the only one, or that of a part.

    Raises:
        FileFormatError: there is none, there are several, or it has tensors of a kind that is not read.
    """
    if isinstance(value, Opaque):
        refuse(path, f"holds an object of {value.name.replace(' ', '.')}", PLAIN)
    if type(value) is not dict:
        refuse(path, f"holds a {type(value).__name__}", PLAIN)
    try:
        found = select_part(value, _is_tensor, part)
    except ValueError as error:
        refuse(path, str(error), f"one mapping of names to tensors, at the top or as one of {', '.join(USUAL)}")
    for name, item in found.items():
        if isinstance(item, Opaque):
            refuse(
                path,
                f"{quote(name)} is made by {item.name.removeprefix('torch._utils ')}, of a kind that is not read",
                PLAIN,
            )
    return found


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, of a kind that is read or not."""
    return isinstance(value, Tensor) or (isinstance(value, Opaque) and value.name.startswith(TENSORS))


# Opcodes of a pickle of tensors, for ``write``.


def _encode_text(encoded: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _encode_tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _encode_numbers(*values: int) -> bytes:
    return _encode_tuple(*map(_encode_number, values))


def _encode_number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 1 << 31 else b"\x8a\x08" + struct.pack("<q", value)


def _encode_tensor(code: str, key: int, shape: tuple[int, ...]) -> bytes:
    """Encode the call with which torch rebuilds a contiguous tensor on a storage of its own."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    kind = b"ctorch\n" + code.encode() + b"\n"
    storage = (
        _encode_tuple(
            _encode_text(b"storage"),
            kind,
            _encode_text(b"%d" % key),
            _encode_text(b"cpu"),
            _encode_number(math.prod(shape)),
        )
        + b"Q"
    )
    hooks = b"ccollections\nOrderedDict\n)R"
    call = _encode_tuple(storage, _encode_number(0), _encode_numbers(*shape), _encode_numbers(*strides), b"\x89", hooks)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + call + b"R"
