"""FlatBuffers by hand, for tests."""

import struct
from typing import Any

import numpy as np


def encode(root: dict[int, Any], signature: bytes = b"TFL3") -> bytes:
    """Encode a table: fields by number, each ``(code of struct, number)``, bytes, an array, a table or a list of these.

    A value that is used twice, as the same object, is stored once.
    """
    out = bytearray(4) + signature
    waiting: list[tuple[int, Any]] = [(0, root)]
    stored: dict[int, int] = {}
    while waiting:
        place, value = waiting.pop(0)
        if id(value) not in stored:
            out += bytes(-len(out) % 16)
            stored[id(value)], inner = _append(out, value)
            waiting += inner
        struct.pack_into("<I", out, place, stored[id(value)] - place)
    return bytes(out)


def _append(out: bytearray, value: Any) -> tuple[int, list[tuple[int, Any]]]:
    """Append a value; returns its place, and the places of the offsets in it with what they are of."""
    if isinstance(value, dict):
        body, offsets, inner = bytearray(4), [0] * (max(value, default=-1) + 1), []
        for field, content in value.items():
            code = content[0] if isinstance(content, tuple) else "I"
            body += bytes(-len(body) % struct.calcsize(code))
            offsets[field] = len(body)
            inner += [] if isinstance(content, tuple) else [(len(body), content)]
            body += struct.pack("<" + code, content[1] if isinstance(content, tuple) else 0)
        vtable = len(out)
        out += struct.pack(f"<{2 + len(offsets)}H", 4 + 2 * len(offsets), len(body), *offsets)
        out += bytes(-len(out) % 16)
        place = len(out)
        struct.pack_into("<i", body, 0, place - vtable)
        out += body
        return place, [(place + offset, content) for offset, content in inner]
    if isinstance(value, list):
        place = len(out)
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        return place, [(place + 4 + 4 * index, content) for index, content in enumerate(value)]
    data = value.tobytes() if isinstance(value, np.ndarray) else value
    out += bytes(12)  # so that the data behind the length is aligned
    place = len(out)
    out += struct.pack("<I", len(value)) + data
    return place, []
