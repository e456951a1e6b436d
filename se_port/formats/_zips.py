"""Zip archives, in which npz, torch and Keras keep theirs; members that are not compressed are mapped.

After PKWARE's APPNOTE.TXT. zipfile does not read an archive here, because it takes in a directory of any length before
it can be judged; ``store`` writes with it.
"""

import itertools
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import _base
from ._base import refuse
from ._buffers import encode_name

MEMBERS = 100_000
END = struct.Struct("<4s4H2LH")
LOCATOR = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
ENCRYPTED, UTF8 = 0x2041, 0x800
"""Bits of the flags; the first are three ways to encrypt."""

FULL = 0xFFFFFFFF
"""A 32-bit field that says: look in the 64-bit extra field."""


class Member(NamedTuple):
    """A file in a zip: where its bytes begin, how many they are packed and unpacked, and their check sum."""

    start: int
    packed: int
    size: int
    crc: int
    stored: bool


def first_member_name(path: Path, head: bytes) -> bytes:
    """The name of the member with which a zip begins; nothing if it is none."""
    if head[:4] != b"PK\3\4":
        return b""
    with path.open("rb") as file:
        local = file.read(30 + (1 << 16))
    return local[30 : 30 + int.from_bytes(local[26:28], "little")]


def read_directory(path: Path, data: mmap.mmap) -> dict[str, Member]:
    """A zip's files by name, in the directory's order, each within the archive and apart from the others.

    Raises:
        FileFormatError: anything that would be read in two ways, or is more than ``_base.MAX_BYTES`` unpacked.
    """
    count, directory, end = _directory(path, data)
    found: dict[str, Member] = {}
    places = []
    at = directory
    for _ in range(count):
        entry, member, place, at = _member(path, data, at, directory, end)
        if entry in found:
            refuse(path, f"has two members {entry!r}", "every name once")
        found[entry] = member
        places.append((place, member.start + member.packed, entry))
    if at != end:
        refuse(path, f"its zip directory has {end - at:,} bytes too many", f"{count:,} members in it")
    places.sort()
    for (_, stop, entry), (place, _, other) in itertools.pairwise(places):
        if place < stop:
            refuse(path, f"{entry!r} and {other!r} share bytes", "one member after another")
    inflated = sum(member.size for member in found.values() if not member.stored)
    if inflated > _base.MAX_BYTES:
        refuse(path, f"would unpack to {inflated:,} bytes", f"at most {_base.MAX_BYTES:,}")
    return found


def read_member(path: Path, name: str, data: mmap.mmap, member: Member) -> memoryview:
    """A member's bytes, in the file or inflated, never more than announced."""
    packed = memoryview(data)[member.start : member.start + member.packed]
    if member.stored:
        return packed
    inflate = zlib.decompressobj(-15)
    try:
        body = inflate.decompress(packed, member.size + 1)
    except zlib.error as error:
        refuse(path, f"{name!r} cannot be inflated ({error})", "an undamaged copy")
    if len(body) != member.size or not inflate.eof:
        refuse(path, f"{name!r} does not inflate to the {member.size:,} bytes announced", "an undamaged copy")
    return memoryview(body)


def read_verified(path: Path, name: str, data: mmap.mmap, member: Member) -> memoryview:
    """The same, if its CRC is right."""
    body = read_member(path, name, data, member)
    if zlib.crc32(body) != member.crc:
        refuse(path, f"{name!r} is damaged: its CRC is {zlib.crc32(body):#x}", "an undamaged copy")
    return body


def add_stored(path: Path, archive: zipfile.ZipFile, name: str, *parts: bytes | memoryview) -> None:
    """Add a member that is not compressed, at a multiple of 64 bytes, so that it can be mapped."""
    encoded = encode_name(path, name)
    _check_name(path, name)
    if len(encoded) > 0xFFFF:
        refuse(path, f"the name {name[:80]!r}... has {len(encoded):,} bytes", "at most 65,535 in a zip")
    info = zipfile.ZipInfo(name)  # of 1980: equal tensors give equal files
    header = LOCAL.size + len(encoded) + 4 + 20  # the extra fields: padding, and the 64-bit sizes
    padding = -(archive.start_dir + header) % 64
    info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)  # the name that torch has for it
    with archive.open(info, "w", force_zip64=True) as member:
        for part in parts:
            member.write(part)


def _directory(path: Path, data: mmap.mmap) -> tuple[int, int, int]:
    """How many members the directory lists, and where it begins and ends."""
    place = data.rfind(b"PK\5\6", max(0, len(data) - END.size - 0xFFFF))
    if place < 0 or place + END.size > len(data):
        refuse(path, "is no zip, or its end is missing", "a whole archive")
    _, disk, first_disk, here, count, size, begin, comment = END.unpack_from(data, place)
    rest = len(data) - place - END.size - comment
    locator = place - LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\6\7":
        _, _, place, _ = LOCATOR.unpack_from(data, locator)
        if place + END_64.size != locator or data[place : place + 4] != b"PK\6\6":
            refuse(path, "its zip directory has no end", "a whole archive")
        _, _, _, _, disk, first_disk, here, count, size, begin = END_64.unpack_from(data, place)
    if disk or first_disk or here != count or rest or begin + size != place:
        refuse(path, "the end of its zip directory does not fit it", "one whole archive and nothing around it")
    if count > MEMBERS or count * ENTRY.size > size:
        refuse(path, f"announces {count:,} members", f"at most {min(MEMBERS, size // ENTRY.size):,}")
    return count, begin, place


def _member(path: Path, data: mmap.mmap, at: int, directory: int, end: int) -> tuple[str, Member, int, int]:
    """What the directory's entry at ``at`` says: name, member, where its own header is, where the next entry begins."""
    if at + ENTRY.size > end or data[at : at + 4] != b"PK\1\2":
        refuse(path, "its zip directory ends too early or is damaged", "a whole archive")
    said = ENTRY.unpack_from(data, at)
    _, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment, disk, _, _, place = said
    extra_at = at + ENTRY.size + name_length
    after = extra_at + extra_length + comment
    if after > end or disk:
        refuse(path, "its zip directory ends too early or is damaged", "a whole archive")
    encoded = data[at + ENTRY.size : extra_at]
    try:
        name = encoded.decode("utf-8" if flags & UTF8 else "cp437")
    except UnicodeDecodeError:
        refuse(path, f"has a member with the name {encoded!r}", "UTF-8, as it says")
    _check_name(path, name)
    size, packed, place = _wide(path, data[extra_at : extra_at + extra_length], size, packed, place)
    if flags & ENCRYPTED or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refuse(path, f"{name!r} is encrypted, or compressed in the way {method}", "stored or deflated")
    if method == zipfile.ZIP_STORED and size != packed:
        refuse(path, f"{name!r} has {packed:,} bytes and announces {size:,}", "as many")
    body = place + LOCAL.size + len(encoded)
    if body > directory or data[place : place + 4] != b"PK\3\4":
        refuse(path, f"{name!r} is not where the zip directory says", "a whole archive")
    _, _, flags, local_method, _, _, _, _, _, name_length, extra_length = LOCAL.unpack_from(data, place)
    if data[body - len(encoded) : body] != encoded or name_length != len(encoded) or local_method != method:
        refuse(path, f"{name!r} has another name or method in its own header", "the same twice")
    body += extra_length
    if body + packed > directory:
        refuse(path, f"{name!r} would take {packed:,} bytes", f"at most {max(0, directory - body):,}")
    return name, Member(body, packed, size, crc, method == zipfile.ZIP_STORED), place, after


def _wide(path: Path, extra: bytes, *fields: int) -> list[int]:
    """An entry's fields, those that do not fit 32 bits taken from its extra field of 64-bit numbers."""
    numbers: Iterator[int] = iter(())
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
        at += 4 + length
    wide = [next(numbers, -1) if field == FULL else field for field in fields]
    if min(wide) < 0:
        refuse(path, "lacks a 64-bit size in its zip directory", "a whole archive")
    return wide


def _check_name(path: Path, name: str) -> None:
    if not name or name[0] == "/" or "\\" in name or "\0" in name or ".." in name.split("/"):
        refuse(path, f"has the member name {name!r}", "a name that leads nowhere: no /x, no .., no \\, no NUL")
