"""Zip archives, which npz, torch and Keras use; members that are not compressed are mapped.

``zipfile`` reads the directory. What it lets pass and another program may read otherwise is refused: bytes before or
after the archive, a name twice, members that share bytes, and a member whose own header is not the directory's.
"""

import io
import itertools
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from se_spec import FileFormatError
from se_spec.texts import quote

from . import _base
from ._base import refuse
from ._buffers import encode_name, iterate_bytes, map_file, open_file

MAX_MEMBERS = 100_000
UNICODE_PATH = 0x7075
"""An extra field with another name of a member."""
HAS_DESCRIPTOR = 0x08
"""The flag of a member whose sizes are behind its data."""
END = struct.Struct("<4s4H2LH")
LOCAL = struct.Struct("<4s5H3L2H")
ENCRYPTED = 0x2041
"""Bits of the flags, for three ways to encrypt."""
NO_SIZE = 0xFFFFFFFF
"""The same for a size or a place of 32 bits."""
MAX_DIRECTORY_BYTES = 32 << 20
"""Of a directory; one of ``MAX_MEMBERS`` has about ten."""
FULL = 0xFFFF
"""Value of a field of ``END`` that refers to the directory of 64-bit archives."""

PIECE_BYTES = 1 << 18
"""Bytes that are inflated at once."""
ALIGNMENT = 64
"""Bytes; a stored member begins at a multiple, so that it can be mapped."""


class Member(NamedTuple):
    """A file in a zip: where its bytes begin, their number packed and unpacked, and their check sum."""

    start: int
    packed: int
    size: int
    crc: int
    stored: bool


def first_member_name(path: Path, head: bytes) -> bytes:
    """Read the name of the member with which a zip begins; nothing if the file is no zip."""
    if head[:4] != b"PK\3\4":
        return b""
    with open_file(path) as file:
        local = file.read(LOCAL.size + (1 << 16))
    return local[LOCAL.size : LOCAL.size + int.from_bytes(local[26:28], "little")]


def list_names(path: Path) -> list[str]:
    """List the members of a zip; nothing if the file is none, or its directory cannot be read."""
    with suppress(FileFormatError):
        data = map_file(path)
        return [info.orig_filename for info in _read_infos(path, data)[0]]
    return []


class _BytesFile(io.RawIOBase):
    """A view as a file that can only be read, so that an archive within another is not copied."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._place = data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        place = offset + (0, self._place, len(self._data))[whence]
        if place < 0:
            raise OSError("a position before the first byte")
        self._place = place
        return place

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._place : self._place + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def read_directory(path: Path, data: mmap.mmap | memoryview) -> dict[str, Member]:
    """Read a zip's members by name, in the directory's order.

    Args:
        path: the file, for the error.
        data: the archive: a whole file, or a member of another archive.

    Raises:
        FileFormatError: the archive could be read in two ways, or is more than ``MAX_BYTES`` unpacked.
    """
    infos, start, end = _read_infos(path, data)
    first = min((info.header_offset for info in infos), default=start)
    if first or data[end : end + 4] != b"PK\5\6":
        refuse(path, "has bytes before or after its zip archive", "one whole archive and nothing around it")
    _, disk, first_disk, disk_count, count, *_ = END.unpack_from(data, end)
    if not {disk, first_disk} <= {0, FULL} or not {disk_count, count} <= {len(infos), FULL}:
        refuse(
            path, f"announces {count:,} members on several disks, or not as many as it has", f"{len(infos):,} on one"
        )
    members: dict[str, Member] = {}
    places = []
    for info in infos:
        name = info.orig_filename
        if name in members:
            refuse(path, f"has two members {quote(name)}", "every name once")
        members[name] = _check_member(path, data, info, start)
        places.append((info.header_offset, members[name].start + members[name].packed, name))
    places.sort()
    for (_, stop, name), (place, _, other) in itertools.pairwise(places):
        if place < stop:
            refuse(path, f"{quote(name)} and {quote(other)} share bytes", "one member after another")
    inflated = sum(member.size for member in members.values() if not member.stored)
    if inflated > _base.MAX_BYTES:
        refuse(path, f"would unpack to {inflated:,} bytes", f"at most {_base.MAX_BYTES:,}")
    return members


def _read_infos(path: Path, data: mmap.mmap | memoryview) -> tuple[list[zipfile.ZipInfo], int, int]:
    """Read a zip's directory: its entries, its place, and the place of its end."""
    tail = bytes(data[max(0, len(data) - END.size - 0xFFFF) :])
    place = tail.rfind(b"PK\5\6")
    size = int.from_bytes(tail[place + 12 : place + 16], "little") if place >= 0 else 0
    start = max(0, len(data) - len(tail) + place - min(size, MAX_DIRECTORY_BYTES))
    count = bytes(data[start : len(data) - len(tail) + max(place, 0)]).count(b"PK\1\2")
    if count > MAX_MEMBERS or (size > MAX_DIRECTORY_BYTES and size != NO_SIZE):
        refuse(path, f"has {count:,} members", f"at most {MAX_MEMBERS:,}")
    try:
        with zipfile.ZipFile(_BytesFile(memoryview(data))) as archive:
            return archive.infolist(), archive.start_dir, len(data) - END.size - len(archive.comment)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, struct.error) as error:
        refuse(path, f"is no zip that can be read ({error})", "a whole archive")


def read_member(path: Path, name: str, data: mmap.mmap | memoryview, member: Member) -> memoryview:
    """Read a member's bytes, in the file or inflated, never more than announced."""
    packed = memoryview(data)[member.start : member.start + member.packed]
    if member.stored:
        return packed
    body = np.empty(member.size, np.uint8)  # whose memory is taken as it is filled
    place = 0
    for piece in iterate_inflated(path, name, packed):
        if len(piece) > member.size - place:
            place = member.size + 1
            break
        body[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        place += len(piece)
    if place != member.size:
        refuse(path, f"{quote(name)} does not inflate to the {member.size:,} bytes announced", "an undamaged copy")
    return body.data.toreadonly()


def read_start(path: Path, name: str, data: mmap.mmap | memoryview, member: Member, size: int) -> bytes:
    """Read the first bytes of a member, ``size`` of them or all."""
    packed = memoryview(data)[member.start : member.start + member.packed]
    if member.stored:
        return bytes(packed[:size])
    try:
        return zlib.decompressobj(-15).decompress(packed[: 2 * size + PIECE_BYTES], size)
    except zlib.error as error:
        refuse(path, f"{quote(name)} cannot be inflated ({error})", "an undamaged copy")


def iterate_inflated(path: Path, name: str, packed: memoryview) -> Iterator[bytes]:
    """Inflate a member in pieces of at most ``PIECE_BYTES``; all of it must be one stream."""
    inflate = zlib.decompressobj(-15)
    start = 0
    try:
        while start < len(packed) and not inflate.eof:
            rest: bytes | memoryview = packed[start : start + PIECE_BYTES]
            start += len(rest)
            piece = None
            while piece is None or rest or len(piece) == PIECE_BYTES:
                piece = inflate.decompress(rest, PIECE_BYTES)
                rest = inflate.unconsumed_tail
                yield piece
    except zlib.error as error:
        refuse(path, f"{quote(name)} cannot be inflated ({error})", "an undamaged copy")
    if not inflate.eof or inflate.unused_data or start < len(packed):
        refuse(path, f"{quote(name)} is not one compressed stream of the bytes announced", "an undamaged copy")


def read_verified(path: Path, name: str, data: mmap.mmap | memoryview, member: Member) -> memoryview:
    """Read a member's bytes and check their CRC."""
    body, checksum = read_member(path, name, data, member), 0
    for chunk in iterate_bytes(body):
        checksum = zlib.crc32(chunk, checksum)
    if checksum != member.crc:
        refuse(path, f"{quote(name)} is damaged: its CRC is {checksum:#x}", "an undamaged copy")
    return body


def add_stored(path: Path, archive: zipfile.ZipFile, name: str, *parts: bytes | memoryview) -> None:
    """Add a member that is not compressed, at a multiple of ``ALIGNMENT``."""
    encoded = encode_name(path, name)
    _check_name(path, name)
    if len(encoded) > 0xFFFF:
        refuse(path, f"the name {quote(name)} has {len(encoded):,} bytes", "at most 65,535 in a zip")
    info = zipfile.ZipInfo(name)  # dated 1980, so that equal tensors give equal files
    header = LOCAL.size + len(encoded) + 4 + 20  # the extra fields: padding, and the 64-bit sizes
    padding = -(archive.start_dir + header) % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)  # torch's name for this field
    with archive.open(info, "w", force_zip64=True) as member:
        for part in parts:
            member.write(part)


def _check_member(path: Path, data: mmap.mmap | memoryview, info: zipfile.ZipInfo, directory: int) -> Member:
    """Find a member's bytes behind its own header, which must agree with the directory."""
    name, place, stored = info.orig_filename, info.header_offset, info.compress_type == zipfile.ZIP_STORED
    _check_name(path, name)
    if info.flag_bits & ENCRYPTED or not (stored or info.compress_type == zipfile.ZIP_DEFLATED):
        method = info.compress_type
        refuse(path, f"{quote(name)} is encrypted, or compressed in the way {method}", "stored or deflated")
    if stored and info.file_size != info.compress_size:
        refuse(path, f"{quote(name)} has {info.compress_size:,} bytes and announces {info.file_size:,}", "as many")
    if place < 0 or place + LOCAL.size > directory or data[place : place + 4] != b"PK\3\4":
        refuse(path, f"{quote(name)} is not where the zip directory says", "a whole archive")
    _, _, flags, method, _, _, _, packed, size, name_length, extra_length = LOCAL.unpack_from(data, place)
    start = place + LOCAL.size + name_length + extra_length
    own_name = data[place + LOCAL.size : place + LOCAL.size + name_length]
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    if own_name != name.encode(encoding) or method != info.compress_type:
        refuse(path, f"{quote(name)} has another name or method in its own header", "the same twice")
    known = not flags & HAS_DESCRIPTOR
    if known and (packed not in (info.compress_size, NO_SIZE, 0) or size not in (info.file_size, NO_SIZE, 0)):
        refuse(path, f"{quote(name)} has other sizes in its own header than in the directory", "the same twice")
    if UNICODE_PATH in _list_extra(info.extra):
        refuse(path, f"{quote(name)} has a second name in its directory", "a name per member")
    if start + info.compress_size > directory:
        available = max(0, directory - start)
        refuse(path, f"{quote(name)} would take {info.compress_size:,} bytes", f"at most {available:,}")
    return Member(start, info.compress_size, info.file_size, info.CRC, stored)


def _list_extra(extra: bytes) -> list[int]:
    """List the kinds of a directory entry's extra fields."""
    kinds, place = [], 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, place)
        kinds.append(kind)
        place += 4 + size
    return kinds


def _check_name(path: Path, name: str) -> None:
    if not name or name[0] == "/" or "\\" in name or "\0" in name or ".." in name.split("/"):
        refuse(path, f"has the member name {quote(name)}", "a name that leads nowhere: no /x, no .., no \\, no NUL")
