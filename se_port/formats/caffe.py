"""Caffe's ``.caffemodel``: the protobuf message ``NetParameter`` of ``caffe.proto`` (BVLC/caffe), in binary.

A tensor's name is ``<layer>:<blob>``, such as ``conv2_1_1x1_down:0``, since blobs have numbers and no names. Layers
without blobs are left out. ``read`` accepts the current layers and those of 2014 (``V1LayerParameter``), but no file
with blobs in both. It refuses the layers of 2013, which Caffe's ``upgrade_net_proto_binary`` converts, and
``.caffemodel.h5``, which is HDF5.

``write`` stores each layer's name and blobs without a type: ``Net::CopyTrainedLayersFrom`` finds a layer by its name
alone and compares shapes, and a layer without a type triggers none of the upgrades in ``upgrade_proto.cpp``. The
network itself is in its ``.prototxt``. The wire format is decoded in ``_wire``, which says why.
"""

import re
from pathlib import Path

import numpy as np

from se_spec.texts import quote

from ._base import Budget, Tensors, refuse
from ._buffers import array_from_buffer, decode_name, dtype_code, encode_name, map_file, to_bytes
from ._wire import (
    MAX_AXES,
    decode_axes,
    encode_field,
    encode_field_head,
    encode_varint,
    iterate_fields,
    join_run,
    to_int64,
)

NEEDS = ()

FLOATS, DOUBLES = np.dtype("<f4"), np.dtype("<f8")
MOST_BYTES = (1 << 31) - 1
"""The largest message that protobuf itself reads."""


def matches(path: Path, head: bytes) -> bool:
    """Whether the ending is Caffe's; a message has no signature."""
    return path.name.endswith(".caffemodel") and path.is_file()


def read(path: Path) -> Tensors:
    """Read views of the mapped file; only data that is not packed is copied.

    Raises:
        FileFormatError: the file is no such message, has a layer's name twice, or no blob at all.
    """
    tensors: dict[str, np.ndarray] = {}
    versions: dict[str, int] = {}
    budget = Budget(path)
    for number, value in iterate_fields(path, memoryview(map_file(path))):
        if number not in (2, 100) or not isinstance(value, memoryview):
            continue
        layer, blobs = _read_layer(path, value, *((4, 6) if number == 2 else (1, 7)))
        if not blobs:
            continue
        if not layer or layer in versions:
            refuse(
                path, f"has the layer {quote(layer)} twice" if layer else "has blobs without a name", "a name per layer"
            )
        versions[layer] = number
        for index, blob in enumerate(blobs):
            name = f"{layer}:{index}"
            budget.spend_name(name)
            tensors[name] = _read_blob(path, name, blob)
    if len(set(versions.values())) != 1:
        found = "in layers of both versions" if versions else "in no layer"
        refuse(path, f"has blobs {found}", "a NetParameter with trained layers of one version")
    return tensors


def write(path: Path, tensors: Tensors) -> None:
    """Write layers in the order of their first blobs in ``tensors``, and a layer's blobs in the order of their numbers.

    Raises:
        FileFormatError: a name that is not ``<layer>:<blob>``, a blob left out, a dtype other than float32 and
            float64, or more than 2 GiB.
    """
    layers: dict[str, set[int]] = {}
    for name in tensors:
        found = re.fullmatch(r"(.+):(0|[1-9][0-9]{0,8})", name, re.DOTALL)
        if not found:
            refuse(path, f"cannot hold the name {quote(name)}", "<layer>:<number of the blob>, such as 'conv1:0'")
        layers.setdefault(found[1], set()).add(int(found[2]))
    with path.open("wb") as file:
        for layer, blobs in layers.items():
            if blobs != set(range(len(blobs))):
                refuse(path, f"{quote(layer)} has the blobs {sorted(blobs)}", f"all from 0 to {max(blobs)}")
            parts: list[bytes | memoryview] = [encode_field(1, encode_name(path, layer))]
            for index in range(len(blobs)):
                blob = _encode_blob(path, f"{layer}:{index}", np.asarray(tensors[f"{layer}:{index}"]))
                parts += [encode_field_head(7, sum(map(len, blob))), *blob]
            file.write(encode_field_head(100, sum(map(len, parts))))
            file.writelines(parts)
        if file.tell() > MOST_BYTES:
            refuse(path, f"would have {file.tell():,} bytes", f"at most {MOST_BYTES:,}, more protobuf does not read")


def _read_layer(path: Path, message: memoryview, name_field: int, blobs_field: int) -> tuple[str, list[memoryview]]:
    name, blobs = "", []
    for number, value in iterate_fields(path, message):
        if not isinstance(value, memoryview):
            continue
        if number == name_field:
            if name:
                refuse(path, f"has the layer {quote(name)} with a second name", "a name per layer")
            name = decode_name(path, value)
        elif number == blobs_field:
            blobs.append(value)
        elif number == 1:
            refuse(path, "has layers as in 2013", "newer ones; Caffe's upgrade_net_proto_binary makes them")
    return name, blobs


def _read_blob(path: Path, name: str, message: memoryview) -> np.ndarray:
    shape: list[int] = []
    legacy: dict[int, int] = {}
    data: dict[int, memoryview | bytes | bytearray] = {5: b"", 8: b""}
    for number, value in iterate_fields(path, message):
        match number, value:
            case (1 | 2 | 3 | 4, int()):
                legacy[number] = to_int64(value)
            case (5 | 8, memoryview() | bytes()):
                data[number] = join_run(data[number], value)
            case (7, memoryview()):
                for key, lengths in iterate_fields(path, value):
                    shape += decode_axes(path, lengths) if key == 1 and not isinstance(lengths, bytes) else []
                    if len(shape) > MAX_AXES:
                        refuse(path, f"{quote(name)} has {len(shape):,} axes", f"at most {MAX_AXES} axes")
    if legacy:  # Caffe reads these first; an absent one is 0
        shape = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    return array_from_buffer(path, name, data[8] or data[5], DOUBLES if data[8] else FLOATS, tuple(shape))


def _encode_blob(path: Path, name: str, array: np.ndarray) -> list[bytes | memoryview]:
    """Encode a ``BlobProto`` with its fields in the order in which protobuf writes them."""
    number = dtype_code(path, name, array, {"float32": 5, "float64": 8})
    lengths = b"".join(map(encode_varint, array.shape))
    shape = encode_field(7, encode_field(1, lengths) if lengths else b"")
    data = to_bytes(array)
    values: list[bytes | memoryview] = [encode_field_head(number, len(data)), data] if data else []
    return [*values, shape] if number < 7 else [shape, *values]
