"""safetensors: a length, a JSON header, then the bytes of every tensor without gaps.

Source: the "Format" part of the README of https://github.com/huggingface/safetensors. That package's NumPy side has no
bfloat16 and copies every tensor; the format is small, so it is read here, each tensor where it lies in the file.

Not read: the 8-bit and smaller floats and complex numbers, which no network here has. ``__metadata__`` is checked and
dropped, and none is written.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ._base import Tensors, count_bytes, refuse
from ._buffers import dtype_code, encode_name, little_endian_dtype, map_file, to_bytes, view_at

NEEDS = ()

CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
"""By NumPy's names."""

DTYPES = {code: name for name, code in CODES.items()}
HEADER_BYTES = 100_000_000
"""The format's own limit."""


class Entry(NamedTuple):
    """What a header says of a tensor; ``begin`` and ``end`` count bytes from the header's end."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def matches(path: Path, head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_BYTES


def read(path: Path) -> Tensors:
    data = map_file(path)
    start = 8 + int.from_bytes(data[:8], "little")
    if not 10 <= start <= min(len(data), 8 + HEADER_BYTES):
        refuse(path, f"announces a header of {start - 8:,} bytes", f"at most {max(0, len(data) - 8):,} and 10^8")
    entries = {name: _entry(path, name, said) for name, said in _header(path, data[8:start]).items()}
    expected = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        size = count_bytes(path, name, entry.shape, entry.dtype.itemsize, len(data) - start - expected)
        if (entry.begin, entry.end) != (expected, expected + size):
            wrong = f"{name!r} {entry.shape} has the bytes {entry.begin} to {entry.end}"
            refuse(path, wrong, f"{expected} to {expected + size}: one tensor after another, without gaps")
        expected = entry.end
    if start + expected != len(data):
        refuse(path, f"has {len(data) - start:,} bytes of tensors", f"{expected:,}, as its header says")
    return {
        name: view_at(path, name, data, start + entry.begin, entry.dtype, entry.shape)
        for name, entry in entries.items()
    }


def write(path: Path, tensors: Tensors) -> None:
    """Names in the order given, which the header keeps; bytes by falling item size.

    So every tensor lies at a multiple of its item size although the format has no gaps, and frameworks can map it.
    """
    sizes: dict[str, tuple[int, int]] = {}
    header: dict[str, Any] = {}
    for name, array in tensors.items():  # asked for again below: arrays are not kept
        if name == "__metadata__":
            refuse(path, "'__metadata__' is no name for a tensor in this format", "another name")
        code = dtype_code(path, name, array, CODES)
        sizes[name] = array.itemsize, array.nbytes
        encode_name(path, name)
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": ()}
    order = sorted(sizes, key=lambda name: -sizes[name][0])
    end = 0
    for name in order:
        begin, end = end, end + sizes[name][1]
        header[name]["data_offsets"] = (begin, end)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES:
        refuse(path, f"would have a header of {len(text):,} bytes", f"at most {HEADER_BYTES:,}; fewer names")
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(to_bytes(tensors[name]))


def _header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        said = dict(pairs)
        if len(said) < len(pairs):
            raise ValueError("a name occurs twice")
        return said

    try:
        said = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        refuse(path, f"its header is no JSON that can be read ({error})", "names and what each tensor is")
    if not isinstance(said, dict) or text[:1] != b"{":
        refuse(path, "its header is no JSON object", "names and what each tensor is")
    metadata = said.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        refuse(path, "its __metadata__ are not strings by names", "no other value there")
    return said


def _entry(path: Path, name: str, said: Any) -> Entry:
    encode_name(path, name)
    match said:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [begin, end], **more} if not more:
            if not all(type(number) is int for number in (*shape, begin, end)):
                refuse(path, f"{name!r} has a shape or offsets that are no whole numbers", "whole numbers")
            if code not in DTYPES:
                refuse(path, f"{name!r} is of the dtype {code!r}", f"one of {', '.join(DTYPES)}")
            return Entry(little_endian_dtype(DTYPES[code]), tuple(shape), begin, end)
    refuse(path, f"its header is not clear about {name!r}", "dtype, shape, two data_offsets and nothing else")
