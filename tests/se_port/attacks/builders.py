"""Builders of hostile files whose lengths, checksums and directories are right, and how a call on one is measured."""

import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from se_port.formats._wire import encode_field, encode_field_head, encode_varint
from se_port.formats.tensorflow import FOOTER_BYTES, MAGIC, _mask, crc32c

CHILD = """
import json, resource, sys, time
import numpy as np
import se_port
from se_port import formats
from se_spec import SEError
call, path = sys.argv[1:]
def private():
    lines = open("/proc/self/status").read()
    return int(lines.split("RssAnon:")[1].split()[0]) << 10
import ml_dtypes, msgpack, safetensors, google_crc32c
if call.endswith("orbax"):
    import tensorstore
before, begun, total, outcome = private(), time.process_time(), 0, "read"
import threading
peak, done = [before], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], private())
watcher = threading.Thread(target=watch, daemon=True); watcher.start()
try:
    if call.startswith("read"):
        for array in formats.read(path).values():
            total += array.nbytes
            peak[0] = max(peak[0], private())
    else:
        total = getattr(se_port, call)(path).bytes
except SEError as error:
    outcome = str(error)
done.set(); watcher.join()
print(json.dumps({"outcome": outcome, "declared": total, "peak": max(peak[0], private()) - before,
                  "seconds": time.process_time() - begun}))
"""


class Measured(NamedTuple):
    """What a call on a file took: ``outcome`` is "read" or the refusal; bytes of private memory, seconds of the CPU."""

    outcome: str
    declared: int
    peak: int
    seconds: float


def measure(call: str, path: Path) -> Measured:
    """Measure ``read`` or ``inspect`` of a file in a process of its own; any error but a refusal fails."""
    command = [sys.executable, "-c", CHILD, call, str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


# Pickles and zips


def text(value: str) -> bytes:
    """Encode a text of a pickle."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """Encode an integer of a pickle."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], total: int, key: str = "0", kind: str = "Float") -> bytes:
    """Encode the call that rebuilds a tensor on a storage of ``total`` items."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu")
    numbers = [b"(" + b"".join(map(integer, values)) + b"t" for values in (shape, strides)]
    storage += integer(total) + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + integer(0)
        + b"".join(numbers)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def dictionary(items: dict[str, bytes] | list[tuple[bytes, bytes]]) -> bytes:
    """Encode a dictionary of a pickle, of keys and values that are encoded."""
    pairs = [(text(key), value) for key, value in items.items()] if isinstance(items, dict) else items
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def torch_file(path: Path, value: bytes, **storages: bytes) -> Path:
    """Write a zip as ``torch.save`` does."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\2" + value + b".")
        for key, data in storages.items():
            archive.writestr(f"x/{'data/' if key.lstrip('_').isdigit() else ''}{key.lstrip('_')}", data)
    return path


# safetensors


def safetensors_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write float32 zeros."""
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    return raw_safetensors(path, json.dumps(header, separators=(",", ":")).encode(), bytes(place))


def raw_safetensors(path: Path, header: bytes, data: bytes = b"") -> Path:
    """Write a header as it is."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


# HDF5


def message(kind: int, data: bytes) -> bytes:
    """Encode a message of an object header."""
    data += bytes(-len(data) % 8)
    return struct.pack("<HHB3x", kind, len(data), 0) + data


def header(*messages: bytes) -> bytes:
    """Encode an object header of version 1."""
    body = b"".join(messages)
    return struct.pack("<BBHII4x", 1, 0, len(messages), 1, len(body)) + body


class HDF5:
    """A file with a superblock of version 0 that grows as objects are added."""

    def __init__(self) -> None:
        self.data = bytearray(96)

    def add(self, data: bytes) -> int:
        """Append bytes; returns their address."""
        self.data += bytes(-len(self.data) % 8)
        place = len(self.data)
        self.data += data
        return place

    def dataset(self, place: int, count: int, stored: int | None = None) -> int:
        """Append a dataset of ``count`` float32 numbers at a place; returns its address."""
        space = struct.pack("<BBBB4xQ", 1, 1, 0, 0, count)
        kind = struct.pack("<BBBBIHHBBBBI", 0x11, 0x20, 31, 0, 4, 0, 32, 23, 8, 0, 23, 127)
        size = 4 * count if stored is None else stored
        return self.add(
            header(message(1, space), message(3, kind), message(8, struct.pack("<BBQQ", 3, 1, place, size)))
        )

    def group(self, members: list[tuple[str, int]], *messages: bytes) -> int:
        """Append a group; names may occur twice."""
        heap, places = bytearray(8), []
        for name, _ in members:
            places.append(len(heap))
            heap += name.encode() + b"\0"
            heap += bytes(-len(heap) % 8)
        names = self.add(bytes(heap))
        local = self.add(struct.pack("<4sB3xQQQ", b"HEAP", 0, len(heap), 1, names))
        entries = b"".join(
            struct.pack("<QQII16x", place, address, 0, 0) for place, (_, address) in zip(places, members, strict=True)
        )
        node = self.add(struct.pack("<4sBBH", b"SNOD", 1, 0, len(members)) + entries)
        tree = self.add(struct.pack("<4sBBHQQQQQ", b"TREE", 0, 0, 1, 2**64 - 1, 2**64 - 1, 0, node, 0))
        return self.add(header(message(17, struct.pack("<QQ", tree, local)), *messages))

    def finish(self, path: Path, root: int) -> Path:
        """Write the file."""
        start = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
        start += struct.pack("<QQQQ", 0, 2**64 - 1, len(self.data), 2**64 - 1)
        self.data[: len(start) + 32] = start + struct.pack("<QQII", 0, root, 0, 0) + bytes(8)
        path.write_bytes(self.data)
        return path


# MATLAB


def element(kind: int, data: bytes) -> bytes:
    """Encode an element of a .mat file."""
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array_head(kind: int, shape: tuple[int, ...], name: bytes = b"") -> bytes:
    """Encode the beginning of an array."""
    return (
        element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    )


def matrix(body: bytes) -> bytes:
    """Encode an array."""
    return element(14, body)


def parameters(*values: tuple[bytes, bytes]) -> bytes:
    """Encode ``params`` with names, and values that are encoded."""
    head = array_head(2, (1, len(values)), b"params") + element(5, struct.pack("<i", 8))
    head += element(1, struct.pack("8s8s", b"name", b"value"))
    fields = (matrix(array_head(4, (1, len(name))) + element(16, name)) + value for name, value in values)
    return head + b"".join(fields)


def mat_file(path: Path, *elements: bytes) -> Path:
    """Write a .mat file of level 5."""
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements))
    return path


def deflated(start: bytes, size: int, kind: int = 15) -> bytes:
    """Encode a compressed element that begins so, and goes on with zeros."""
    packer = zlib.compressobj(9)
    pieces = [packer.compress(start)]
    left = size - len(start)
    while left > 0:
        pieces.append(packer.compress(bytes(min(left, 1 << 20))))
        left -= 1 << 20
    data = b"".join([*pieces, packer.flush()])
    return struct.pack("<II", kind, len(data)) + data


# ONNX


def onnx_file(path: Path, *tensors: bytes) -> Path:
    """Write a model of initializers."""
    graph = b"".join(encode_field(5, one) for one in tensors)
    path.write_bytes(encode_field(7, graph))
    return path


def onnx_tensor(name: str, shape: tuple[int, ...], data: bytes, kind: int = 1) -> bytes:
    """Encode a TensorProto; ``data`` are further fields."""
    axes = b"".join(encode_field(1, length) for length in shape)
    return axes + encode_field(2, kind) + encode_field(8, name.encode()) + data


def onnx_external(location: str) -> bytes:
    """Encode that the data is in another file."""
    entry = encode_field(1, b"location") + encode_field(2, location.encode())
    return encode_field(14, 1) + encode_field(13, entry)


def onnx_varints(path: Path, count: int) -> Path:
    """Write a model of ``count`` int8, each as a varint."""
    body = onnx_tensor("w", (count,), encode_field_head(5, count) + b"\1" * count, 3)
    return onnx_file(path, body)


# TensorFlow


def block(pairs: list[tuple[bytes, bytes]], restarts: list[int] | None = None) -> bytes:
    """Encode a block of a table, with its trailer."""
    data, places = bytearray(), []
    for key, value in pairs:
        places.append(len(data))
        data += b"\0" + encode_varint(len(key)) + encode_varint(len(value)) + key + value
    places = (places or [0]) if restarts is None else restarts
    data += struct.pack(f"<{len(places) + 1}I", *places, len(places))
    return bytes(data) + b"\0" + struct.pack("<I", _mask(crc32c(bytes(data) + b"\0")))


def index_file(path: Path, blocks: list[bytes], handles: list[tuple[bytes, int]]) -> Path:
    """Write an index of blocks; each handle is a key and the number of a block."""
    places, data = [], b""
    for one in blocks:
        places.append(encode_varint(len(data)) + encode_varint(len(one) - 5))
        data += one
    meta = encode_varint(len(data)) + encode_varint(len(block([])) - 5)
    data += block([])
    top = block([(key, places[number]) for key, number in handles])
    footer = meta + encode_varint(len(data)) + encode_varint(len(top) - 5)
    path.write_bytes(data + top + footer.ljust(FOOTER_BYTES - len(MAGIC), b"\0") + MAGIC)
    return path


HEADER = encode_field(1, 1) + encode_field(3, encode_field(1, 1))
"""The header of an index with one data file."""


# MessagePack


def packed_text(value: str) -> bytes:
    """Encode a short text."""
    return bytes([0xA0 + len(value)]) + value.encode()


def extension(body: bytes) -> bytes:
    """Encode an extension of Flax's for an array."""
    return b"\xc9" + struct.pack(">I", len(body)) + b"\1" + body


# Orbax


def orbax_folder(path: Path, leaves: dict[str, dict[str, object]], chunks: dict[str, bytes]) -> Path:
    """Write a checkpoint without OCDBT: each leaf's metadata, and files by their paths."""
    tree = {}
    path.mkdir(parents=True, exist_ok=True)
    for name in leaves:
        (path / name).mkdir(parents=True, exist_ok=True)
        value = {"value_type": "np.ndarray", "skip_deserialize": False}
        tree[name] = {"key_metadata": [{"key": name, "key_type": 2}], "value_metadata": value}
        usual = {"zarr_format": 2, "order": "C", "filters": None, "dtype": "<f4", "compressor": None}
        zarray = usual | {"fill_value": None, "shape": [4], "chunks": [4]} | leaves[name]
        (path / name / ".zarray").write_text(json.dumps(zarray))
    metadata = {"tree_metadata": tree, "use_ocdbt": False, "use_zarr3": False}
    (path / "_METADATA").write_text(json.dumps(metadata))
    for place, data in chunks.items():
        (path / place).write_bytes(data)
    return path
