"""A reader of the part of HDF5 that Keras uses; arrays are views of the mapped file.

It follows the HDF5 File Format Specification, version 3.0 (The HDF Group): a superblock of version 0 or 1, object
headers of version 1, groups as symbol tables, attributes in the header, contiguous datasets. This is h5py's default.
Datasets that are chunked, filtered, virtual or in other files, links that are not hard, shared types and the layout of
``libver="latest"`` are refused; ``h5repack -l CONTI`` or Keras itself rewrites such a file. Every object may be linked
once, so that no walk is endless, and the messages, links and texts that are read are counted.

h5py is not used for reading: on 10,000 mutated legacy files it hung 5 times, and a hang cannot be refused.
"""

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from se_spec.texts import quote

from ._base import Budget, bfloat16, count_bytes, refuse
from ._buffers import array_from_buffer, decode_name

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_PARTS = 1 << 18
"""Messages, links and texts of a file; a network has about ten thousand."""
MAX_DEPTH = 16
MAX_TEXT = 1024
UNDEFINED_ADDRESS = (1 << 64) - 1

DATASPACE, DATATYPE, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOLS = 1, 3, 7, 8, 11, 12, 16, 17
NEW_STYLE = {2: "links", 6: "a link", 21: "attributes"}
INTEGER, FLOAT, STRING, OPAQUE, ENUM, VARIABLE = 0, 1, 3, 5, 8, 9
IEEE = {
    # size: sign's place, exponent's place and bits, mantissa's place and bits, exponent's bias
    (2, 15, 10, 5, 0, 10, 15): "f2",
    (4, 31, 23, 8, 0, 23, 127): "f4",
    (8, 63, 52, 11, 0, 52, 1023): "f8",
}


class Attribute(NamedTuple):
    """Positions of an attribute's datatype, dataspace and value, and the end of its message."""

    datatype: int
    dataspace: int
    value: int
    end: int


@dataclass
class Object:
    """A group, with its children's addresses by name, or a dataset, with an array."""

    address: int
    attributes: dict[str, Attribute] = field(default_factory=dict)
    children: dict[str, int] | None = None
    array: np.ndarray | None = None


class Reader:
    """Reads objects by their addresses in ``data``, the bytes of the file.

    Args:
        path: the file, for errors.
        data: all its bytes; arrays are views of them.
    """

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path, self.data = path, data
        self.parts_left = MAX_PARTS
        self._visited = set[int]()
        self._header_bytes_left = len(data)
        self._budget = Budget(path, len(data))
        self._places: list[tuple[int, int]] = []
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}
        version, widths = self.number_at(8, 1), (self.number_at(13, 1), self.number_at(14, 1))
        if bytes(self.bytes_at(0, 8)) != SIGNATURE or version > 1 or widths != (8, 8):
            wrong = f"begins with {bytes(self.bytes_at(0, 16))!r}"
            self.refuse(wrong, "HDF5 with a superblock of version 0 or 1, as h5py writes it by itself")
        start = 24 + 4 * version
        if self.number_at(start) != 0:
            self.refuse(f"has its beginning at {self.number_at(start):,}", "0")
        self.root = self.number_at(start + 40)

    def refuse(self, wrong: str, expected: str) -> NoReturn:
        """Raise the error that names the file, what is wrong with it and what was expected."""
        refuse(self.path, wrong, expected)

    def bytes_at(self, place: int, size: int) -> memoryview:
        """Return bytes of the file, or refuse it if it ends before."""
        if place > len(self.data) or size > len(self.data) - place:
            self.refuse(f"points to {size:,} bytes at {place:,}", f"all within its {len(self.data):,} bytes")
        return self.data[place : place + size]

    def number_at(self, place: int, size: int = 8) -> int:
        """Read an unsigned little-endian number."""
        return int.from_bytes(self.bytes_at(place, size), "little")

    def count_part(self) -> None:
        """Count a message, link or text, up to the limit."""
        self.parts_left -= 1
        if self.parts_left < 0:
            self.refuse("has more parts than the weights of a network", f"at most {MAX_PARTS:,}")

    def read_object(self, address: int) -> Object:
        """Read an object header.

        Raises:
            FileFormatError: the object is neither a group nor a dataset, or stored in a way that is not read.
        """
        answer = Object(address)
        found: dict[int, int] = {}
        for kind, place, end in self._iterate_messages(address):
            if kind in NEW_STYLE:
                self.refuse(f"has {NEW_STYLE[kind]} in the style of libver='latest'", "the style of libver='earliest'")
            if kind == EXTERNAL:
                self.refuse("has a dataset in another file", "all data in this one")
            if kind == FILTERS:
                self.refuse(
                    "has a compressed dataset", "bare ones, as Keras writes them: see h5repack -l CONTI -f NONE"
                )
            if kind == ATTRIBUTE:
                name, attribute = self._read_attribute(place, end)
                if name in answer.attributes:
                    self.refuse(f"has the attribute {quote(name)} twice", "each once")
                answer.attributes[name] = attribute
            elif found.setdefault(kind, place) != place:
                self.refuse(f"says twice what object {address:,} is", "each kind of message once")
        if SYMBOLS in found:
            heap = self.number_at(found[SYMBOLS] + 8)
            if bytes(self.bytes_at(heap, 4)) != b"HEAP":
                self.refuse(f"has no heap of names at {heap:,}", "a local heap")
            places = (self.number_at(heap + 24), self.number_at(heap + 8))
            answer.children = {}
            for name, child in self._iterate_links(self.number_at(found[SYMBOLS]), places):
                if name in answer.children:
                    self.refuse(f"has the name {quote(name)} twice in one group", "each once")
                answer.children[name] = child
        elif {DATASPACE, DATATYPE, LAYOUT} <= set(found):
            answer.array = self._read_array(answer, found)
        else:
            self.refuse(
                f"has an object at {address:,} with messages of the kinds {sorted(found)}", "groups and datasets"
            )
        return answer

    def walk(self, top: Object) -> Iterator[tuple[tuple[str, ...], Object]]:
        """Yield all objects below one, each with the names on its path, groups before their members."""
        seen = {top.address}
        stack: list[tuple[tuple[str, ...], Object]] = [((), top)]
        while stack:
            names, group = stack.pop()
            yield names, group
            for name, address in reversed((group.children or {}).items()):
                if address in seen:
                    self.refuse(f"has a second link to an object, {quote(name)}", "each object linked once")
                seen.add(address)
                if len(names) == MAX_DEPTH:
                    self.refuse(f"is nested more than {MAX_DEPTH} deep", "the groups of a network's layers")
                stack.append(((*names, name), self.read_object(address)))

    def read_text(self, owner: Object, name: str) -> list[str] | None:
        """Read an attribute that is one text or several; None if it is missing or something else.

        Raises:
            FileFormatError: a text is not UTF-8, longer than a name, or beyond the file.
        """
        if name not in owner.attributes:
            return None
        datatype, dataspace, value, end = owner.attributes[name]
        shape = self._read_shape(dataspace)
        count = 0 if 0 in shape else 1
        size = self.number_at(datatype + 4, 4)
        for length in shape:
            count *= length
        if count == 0:
            return []
        if count_bytes(self.path, name, (count,), max(1, size), end - value) == 0 or size == 0:
            return None
        kind = self.number_at(datatype, 1) & 15
        found = []
        for place in range(value, value + count * size, size):
            self.count_part()
            if kind == STRING:
                data = bytes(self.bytes_at(place, min(size, MAX_TEXT + 1))).split(b"\0")[0]
            elif kind == VARIABLE and size == 16:
                data = self._read_heap(
                    self.number_at(place, 4), self.number_at(place + 4), self.number_at(place + 12, 4)
                )
            else:
                return None
            if len(data) > MAX_TEXT:
                self.refuse(f"has a text of more than {MAX_TEXT} bytes as {quote(name)}", "names")
            found.append(decode_name(self.path, data))
        return found

    def read_integer(self, owner: Object, name: str) -> int | None:
        """Read an attribute that is an integer of 8 bytes; None if it is missing or something else."""
        if name in owner.attributes:
            datatype, dataspace, value, end = owner.attributes[name]
            if (
                self._read_shape(dataspace) == ()
                and end - value >= 8
                and self._read_dtype(datatype, Object(0)) == np.dtype("<i8")
            ):
                return self.number_at(value)
        return None

    def _iterate_messages(self, address: int) -> Iterator[tuple[int, int, int]]:
        """Yield kind, beginning and end of each message of an object header."""
        if self.number_at(address, 1) != 1:
            self.refuse(f"has an object header that begins with {bytes(self.bytes_at(address, 4))!r}", "version 1")
        blocks = [(address + 16, self.number_at(address + 8, 4))]
        for start, size in blocks:
            self._spend_header(start, size)
            place = start
            while place + 8 <= start + size:
                self.count_part()
                kind, length, flags = (
                    self.number_at(place, 2),
                    self.number_at(place + 2, 2),
                    self.number_at(place + 4, 1),
                )
                place += 8
                if place + length > start + size:
                    self.refuse(f"has a message of {length:,} bytes at {place:,}", "messages within their header")
                if flags & 2 and kind in (DATASPACE, DATATYPE, LAYOUT, ATTRIBUTE, FILTERS):
                    self.refuse("has a type that several objects share", "a type of its own for each dataset")
                if kind == CONTINUATION:
                    blocks.append((self.number_at(place), self.number_at(place + 8)))
                elif kind:
                    yield kind, place, place + length
                place += length

    def _spend_header(self, start: int, size: int) -> None:
        """Count a block of an object header; no two are on the same bytes."""
        self.bytes_at(start, size)
        self._header_bytes_left -= size
        if self._header_bytes_left < 0:
            self.refuse("has an object header that goes in circles", "an end")
        self._visit(start, "an object header")

    def _visit(self, place: int, what: str) -> None:
        """Refuse a part that is read a second time: every part has one place in a file."""
        if place in self._visited:
            self.refuse(f"has {what} that goes in circles, at {place:,}", "an end")
        self._visited.add(place)

    def _iterate_links(self, tree: int, heap: tuple[int, int], level: int | None = None) -> Iterator[tuple[str, int]]:
        """Yield names and addresses of a group's members from its B-tree, whose levels count down to the leaves."""
        self.count_part()
        self._visit(tree, "a tree of names")
        found = self.number_at(tree + 5, 1)
        if bytes(self.bytes_at(tree, 5)) != b"TREE\0" or found > 8 or found != (found if level is None else level):
            self.refuse(f"has no level {level} of a group's names at {tree:,}", "a B-tree")
        for place in range(tree + 32, tree + 32 + 16 * self.number_at(tree + 6, 2), 16):
            child = self.number_at(place)
            if found:
                yield from self._iterate_links(child, heap, found - 1)
                continue
            if bytes(self.bytes_at(child, 5)) != b"SNOD\1":
                self.refuse(f"has no names at {child:,}", "a node of a symbol table")
            self.count_part()
            self._visit(child, "a node of names")
            for entry in range(child + 8, child + 8 + 40 * self.number_at(child + 6, 2), 40):
                self.count_part()
                if self.number_at(entry + 16, 4) == 2:
                    self.refuse("has a soft link", "hard links only")
                offset = self.number_at(entry)
                if offset >= heap[1]:
                    self.refuse(f"has a name {offset:,} bytes into a heap of {heap[1]:,}", "names within it")
                yield self._read_name(heap[0] + offset, heap[0] + heap[1]), self.number_at(entry + 8)

    def _read_name(self, start: int, end: int) -> str:
        """Read a name, which ends with a zero."""
        data = bytes(self.bytes_at(start, min(MAX_TEXT + 1, end - start)))
        if data.find(b"\0") < 1 or b"/" in data.split(b"\0")[0]:
            self.refuse(f"has the name {data[:40]!r}", f"1 to {MAX_TEXT} bytes, a zero, and no '/'")
        return decode_name(self.path, data.split(b"\0")[0])

    def _read_attribute(self, place: int, end: int) -> tuple[str, Attribute]:
        version, flags = self.number_at(place, 1), self.number_at(place + 1, 1)
        sizes = [self.number_at(position, 2) for position in (place + 2, place + 4, place + 6)]
        if not 1 <= version <= 3 or (version > 1 and flags):
            self.refuse(
                f"has an attribute of version {version} and flags {flags}", "version 1 to 3 with a type of its own"
            )
        places = [place + (9 if version == 3 else 8)]
        for size in sizes:
            places.append(places[-1] + (-(-size // 8) * 8 if version == 1 else size))
        if places[-1] > end or sizes[1] < 8 or sizes[2] < 4:
            self.refuse(f"has an attribute of {sizes} bytes in a message of {end - place}", "all within it")
        return self._read_name(places[0], places[0] + sizes[0]), Attribute(places[1], places[2], places[3], end)

    def _read_shape(self, place: int) -> tuple[int, ...]:
        version, rank, flags, kind = (self.number_at(place + offset, 1) for offset in range(4))
        if version not in (1, 2) or rank > 32 or (version == 2 and kind > 1) or (version == 1 and flags & 2):
            self.refuse(f"has a dataspace of version {version}, kind {kind} and {rank} axes", "at most 32 axes")
        start = place + (8 if version == 1 else 4)
        return tuple(self.number_at(start + 8 * axis) for axis in range(rank))

    def _read_array(self, owner: Object, found: dict[int, int]) -> np.ndarray:
        """View a dataset."""
        shape, dtype = self._read_shape(found[DATASPACE]), self._read_dtype(found[DATATYPE], owner)
        version, kind = self.number_at(found[LAYOUT], 1), self.number_at(found[LAYOUT] + 1, 1)
        if version not in (3, 4) or kind != 1:
            self.refuse(
                f"has a dataset of layout {version}.{kind}: in chunks, virtual or in its header", "one piece each"
            )
        start, stored = self.number_at(found[LAYOUT] + 2), self.number_at(found[LAYOUT] + 10)
        size = count_bytes(self.path, "a dataset", shape, dtype.itemsize, self._budget.left)
        if size == 0:
            return np.empty(shape, dtype)
        if start == UNDEFINED_ADDRESS or size > stored:
            self.refuse(
                f"has {0 if start == UNDEFINED_ADDRESS else stored:,} bytes for a dataset {shape} of {dtype}",
                f"{size:,}",
            )
        self._budget.spend(size)
        place = bisect(self._places, (start, start + size))
        if (place and self._places[place - 1][1] > start) or (
            place < len(self._places) and self._places[place][0] < start + size
        ):
            self.refuse(f"has two datasets that share bytes at {start:,}", "one dataset after the other")
        self._places.insert(place, (start, start + size))
        return array_from_buffer(self.path, "a dataset", self.bytes_at(start, size), dtype, shape)

    def _read_dtype(self, place: int, owner: Object) -> np.dtype:
        """Read a datatype: numbers; booleans, an enumeration; bfloat16, opaque bytes with an attribute ``dtype``."""
        kind, bits, size = self.number_at(place, 1) & 15, self.number_at(place + 1, 3), self.number_at(place + 4, 4)
        order = ">" if bits & 1 else "<"
        if kind == INTEGER and size in (1, 2, 4, 8) and self.number_at(place + 8, 4) == size << 19:
            return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
        if kind == FLOAT and not bits & 0x40:
            places = (bits >> 8 & 0xFF, *(self.number_at(place + 12 + offset, 1) for offset in range(4)))
            layout = (size, *places, self.number_at(place + 16, 4))
            if layout in IEEE and self.number_at(place + 8, 4) == size << 19:
                return np.dtype(order + IEEE[layout])
        if kind == OPAQUE and size == 2 and self.read_text(owner, "dtype") == ["bfloat16"]:
            return bfloat16()
        if kind == ENUM and size == 1 and bits & 0xFFFF == 2 and self.number_at(place + 8, 1) & 15 == INTEGER:
            base = 12  # bytes; then names, padded to 8, and values
            truth = b"FALSE\0\0\0TRUE\0\0\0\0\0\1"
            if bytes(self.bytes_at(place + 8 + base, len(truth))) == truth:
                return np.dtype(bool)
        self.refuse(f"has a dataset of HDF5's class {kind} and {size} bytes", "integers, floats, bool or bfloat16")

    def _read_heap(self, length: int, address: int, index: int) -> bytes:
        """Read a text of variable length from a global heap."""
        if length == 0:
            return b""
        if address not in self._heaps:
            if bytes(self.bytes_at(address, 5)) != b"GCOL\1":
                self.refuse(f"has no texts at {address:,}", "a global heap")
            end = address + self.number_at(address + 8)
            self.bytes_at(address, end - address)
            self._heaps[address] = {}
            place = address + 16
            while place + 16 <= end and self.number_at(place, 2):
                self.count_part()
                size = self.number_at(place + 8)
                self._heaps[address][self.number_at(place, 2)] = place + 16, min(size, end - place - 16)
                place += 16 + -(-size // 8) * 8
        start, size = self._heaps[address].get(index, (0, 0))
        if length > min(size, MAX_TEXT):
            self.refuse(f"has a text of {length:,} bytes where there are {size:,}", f"names of at most {MAX_TEXT}")
        return bytes(self.bytes_at(start, length)).split(b"\0")[0]
