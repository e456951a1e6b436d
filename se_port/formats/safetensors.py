"""safetensors: a length, a JSON header, then the bytes of every tensor without gaps.

Source: the "Format" part of the README of https://github.com/huggingface/safetensors. That package checks the file;
the arrays are then views of the mapped file, since its own NumPy functions copy every tensor. It writes tensors in its
own order, so ``write`` is ours: it keeps the order given in the header.

Not read: the 8-bit and smaller floats and complex numbers, which no network here has. ``__metadata__`` is dropped, and
none is written.
"""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from se_spec.texts import quote

from ._base import Tensors, check_names, count_bytes, import_optional, refuse
from ._buffers import dtype_code, encode_name, little_endian_dtype, map_file, to_bytes, view_at
from ._json import check_values, decode_json

NEEDS = ("safetensors",)

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
"""The format's code for each dtype of NumPy."""

DTYPES = {code: name for name, code in CODES.items()}
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_READ_BYTES = 16 << 20
"""The largest header that is read: the names, shapes and places of more tensors than ``MAX_TENSORS``."""


def matches(path: Path, head: bytes) -> bool:
    """Whether a header of JSON follows its length."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def read(path: Path) -> Tensors:
    """Map every tensor, in the header's order.

    Raises:
        FileFormatError: the package refuses the file, or a tensor is of a dtype or shape that NumPy does not have.
    """
    safetensors = import_optional("safetensors", f"read {path.name}")
    data = map_file(path)
    size = int.from_bytes(data[:8], "little")
    if MAX_READ_BYTES < size < len(data):
        refuse(path, f"has a header of {size:,} bytes", f"at most {MAX_READ_BYTES:,}")
    check_values(path, "its header", data[8 : 8 + min(size, MAX_READ_BYTES)])
    try:
        with safetensors.safe_open(path, "np") as file:
            stored = {name: file.get_slice(name) for name in file.offset_keys()}
            entries = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in stored.items()}
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        refuse(path, f"is no file that safetensors reads ({error})", "an undamaged copy")
    names = _check_names(path, _read_header(path, data))
    end = 8 + size
    arrays = {}
    for name, (code, shape) in entries.items():
        if code not in DTYPES:
            refuse(path, f"{quote(name)} is of the dtype {code!r}", f"one of {', '.join(DTYPES)}")
        dtype = little_endian_dtype(DTYPES[code])
        begin, end = end, end + count_bytes(path, name, shape, dtype.itemsize, len(data) - end)
        arrays[name] = view_at(path, name, data, begin, dtype, shape)
    return {name: arrays[name] for name in names}


def _read_header(path: Path, data: mmap.mmap) -> dict[str, Any]:
    """Parse the header; refuse what the package lets pass and another reader may read otherwise."""
    text = data[8 : 8 + int.from_bytes(data[:8], "little")]
    header: Any = decode_json(path, "its header", text, MAX_READ_BYTES)
    if text[:1] != b"{" or not isinstance(header, dict):
        refuse(path, "its header begins with a space, or is no dictionary", "{ and every name once")
    return header


def _check_names(path: Path, header: dict[str, Any]) -> list[str]:
    """List the tensors' names in order."""
    names = [name for name in header if name != "__metadata__"]
    check_names(path, names)
    for name in names:
        if not isinstance(header[name], dict) or len(header[name]) != 3:
            wrong = f"its header is not clear about {quote(name)}"
            refuse(path, wrong, "dtype, shape, two data_offsets and nothing else")
    return names


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts of the header's ``__metadata__``; the file has been read before."""
    found = _read_header(path, map_file(path)).get("__metadata__")
    return {key: text for key, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write names in the order given, which the header keeps, and bytes by falling item size.

    So every tensor is at a multiple of its item size although the format has no gaps, and frameworks can map it.
    """
    sizes: dict[str, tuple[int, int]] = {}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
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
    if len(text) > MAX_HEADER_BYTES:
        refuse(path, f"would have a header of {len(text):,} bytes", f"at most {MAX_HEADER_BYTES:,}; fewer names")
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(to_bytes(tensors[name]))
