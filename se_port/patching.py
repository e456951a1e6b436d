"""Put a block back into the file that it came from: a copy in which its parameters are new, and all else is the same.

The readers map a file, so that a tensor's array shows where its bytes are. Those bytes are written into a copy; in a
zip the member's checksum is computed anew. No format is written again, and whatever else the file holds is kept.
"""

import mmap
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from se_spec import FileFormatError, LayoutError, ParameterError, parameters

from .detect import Found, blocks
from .formats._buffers import find_owner, map_file, offset_in
from .formats._targets import check_target, stage
from .formats._zips import read_directory
from .sources import Source, open_source

LOCAL_CRC, CENTRAL_CRC = 14, 16
"""Places of a member's checksum in its two headers (APPNOTE.TXT of PKWARE, 4.3.7 and 4.3.12)."""
HAS_DESCRIPTOR = 0x08
"""The flag of a member whose checksum is behind its data."""


def replace_block(
    source: str | Path,
    target: str | Path,
    path: str,
    values: Mapping[str, np.ndarray],
    *,
    layout: str = "auto",
    force: bool = False,
) -> None:
    """Write a copy of a file in which one block has other parameters, and every other byte is the same.

    Works where the block's tensors are as they are in the file: safetensors, PyTorch, ONNX, TensorFlow Lite, HDF5 and
    ``.npz``, not compressed.

    Args:
        source: the file that has the block.
        target: the file to write.
        path: the block's path, as ``find_blocks`` gives it.
        values: the canonical parameters, each exact in the dtype of the file's tensor.
        layout: the layout of the source's names; ``"auto"`` recognises it.
        force: whether a target that exists is replaced.

    Raises:
        LayoutError: there is no such block, or its parameters are computed from what the file holds.
        ParameterError: the parameters are not the block's, or not exact in the file's dtype.
        FileFormatError: the tensors are not in the file as they are, or the target exists and ``force`` is False.

    >>> import se_numpy, se_port, tempfile
    >>> theirs = {"se.fc.0.weight": np.ones((4, 64)), "se.fc.2.weight": np.ones((64, 4)), "head": np.ones(3)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/net.npz", **theirs)
    ...     values = se_numpy.initialize(se_port.find_blocks(theirs)["se"].spec, seed=0)
    ...     replace_block(f"{folder}/net.npz", f"{folder}/new.npz", "se", values)
    ...     (np.load(f"{folder}/new.npz")["se.fc.0.weight"] == values["reduce.weight"]).all()
    np.True_
    """
    source, target = Path(source), Path(target)
    check_target(target, force)
    if not source.is_file():
        raise FileFormatError(f"{source}: is no file; expected one file with the block")
    opened = open_source(source)
    found = blocks.find(opened, layout)
    if path not in found:
        raise LayoutError(f"there is no block {path!r}; there are {', '.join(map(repr, found))}")
    block = found[path]
    if block.changes:
        raise LayoutError(f"{path}: its parameters are computed ({'; '.join(block.changes)}) and cannot be put back")
    parameters.check(values, parameters.shapes(block.spec))
    pieces = [_locate(source, opened, block, name, np.asarray(value)) for name, value in values.items()]
    with stage(target, force) as copy:
        shutil.copyfile(source, copy)
        with copy.open("r+b") as file:
            for offset, data in pieces:
                file.seek(offset)
                file.write(data)
            if zipfile.is_zipfile(copy):
                _correct_checksums(file, copy, [offset for offset, _ in pieces])
        again = blocks.find(open_source(copy), layout)[path].parameters
        wrong = [name for name, value in values.items() if not np.array_equal(again[name], value, equal_nan=True)]
        if wrong:
            raise FileFormatError(f"{source}: {', '.join(wrong)} cannot be told apart from its transpose in this file")


def _locate(path: Path, source: Source, block: Found, name: str, value: np.ndarray) -> tuple[int, bytes]:
    """Find where a parameter is in the file, and make the bytes that belong there."""
    array = source.view(block.names[name])
    new = value.astype(array.dtype)
    if not np.array_equal(new.astype(value.dtype), value, equal_nan=True):
        raise ParameterError(f"{name} is {value.dtype} and not exact in {array.dtype}, the dtype of the file's tensor")
    offset = _offset(path, array)
    if offset is None or not array.flags.c_contiguous:
        raise FileFormatError(
            f"{path}: {block.names[name]!r} is not in the file as it is; expected a tensor that is neither compressed "
            "nor in another file"
        )
    old = block.parameters[name].astype(array.dtype, copy=False)
    straight = old.reshape(-1).tobytes() == array.reshape(-1).tobytes()
    ordered = new if straight else new.T
    if not straight and old.T.reshape(-1).tobytes() != array.reshape(-1).tobytes():
        raise FileFormatError(f"{path}: {block.names[name]!r} is in another order than its axes; expected a matrix")
    return offset, np.ascontiguousarray(ordered).tobytes()


def _offset(path: Path, array: np.ndarray) -> int | None:
    """Find the first byte of a mapped array in its file; None if it is not mapped, or from another file."""
    owner = find_owner(array)
    if not isinstance(owner, mmap.mmap) or len(owner) != path.stat().st_size:
        return None
    offset = offset_in(owner, array)
    with path.open("rb") as file:
        file.seek(offset)
        same = file.read(array.nbytes) == array.tobytes()
    return offset if same else None


def _correct_checksums(file: BinaryIO, path: Path, offsets: list[int]) -> None:
    """Compute the checksum of every member of a zip in which something was written."""
    file.flush()
    with zipfile.ZipFile(path) as archive:
        infos, start = archive.infolist(), archive.start_dir
    members = read_directory(path, map_file(path))
    for info, central in zip(infos, _central_headers(file, start, len(infos)), strict=True):
        member = members[info.filename]
        end = member.start + member.packed
        if not info.CRC or not any(member.start <= offset < end for offset in offsets):
            continue  # torch may omit the checksum
        if not member.stored:
            raise FileFormatError(f"{path}: {info.filename!r} is compressed; expected a member that is stored")
        file.seek(member.start)
        checksum = zlib.crc32(file.read(member.packed)).to_bytes(4, "little")
        places = [central + CENTRAL_CRC]
        if info.flag_bits & HAS_DESCRIPTOR:
            file.seek(end)
            places.append(end + 4 * (file.read(4) == b"PK\7\10"))
        else:
            places.append(info.header_offset + LOCAL_CRC)
        for place in places:
            file.seek(place)
            file.write(checksum)
    file.flush()


def _central_headers(file: BinaryIO, start: int, count: int) -> Iterator[int]:
    """Yield the place of each member's header in the central directory."""
    place = start
    for _ in range(count):
        file.seek(place)
        header = file.read(46)
        yield place
        place += 46 + sum(int.from_bytes(header[at : at + 2], "little") for at in (28, 30, 32))
