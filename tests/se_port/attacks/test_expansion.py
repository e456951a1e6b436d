"""Small files that announce, or unpack to, much: memory is at most the declared tensors once and 256 MiB."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from se_port import formats
from se_spec import FileFormatError
from tests.se_port.attacks import builders as b

SPARE_BYTES = 64 << 20
"""Memory beyond the declared tensors that the files below may take: a quarter of what is promised."""
MB = 1 << 20


def expanded_tensor(path: Path) -> Path:
    return b.torch_file(path / "x.pth", b.dictionary({"fc.0.weight": b.tensor((8192, 8192), (0, 0), 1)}), _0=bytes(4))


def many_datasets(path: Path) -> Path:
    file = b.HDF5()
    place = file.add(bytes(4 * MB))
    inner = [(str(number), file.dataset(place, MB)) for number in range(64)]
    return file.finish(path / "x.weights.h5", file.group([("vars", file.group(inner))]))


def compressed_parameters(path: Path) -> Path:
    start = struct.pack("<II", 14, 100 * MB) + b.array_head(2, (1, 0), b"params") + b.element(5, struct.pack("<i", 8))
    start += b.element(1, struct.pack("8s8s", b"name", b"value"))
    return b.mat_file(path / "x.mat", *[b.deflated(start, 100 * MB + 8)] * 4)


def long_field_names(path: Path) -> Path:
    body = b.array_head(2, (1, 1), b"params") + b.element(5, struct.pack("<i", 2)) + b.element(1, b"ab" * (4 * MB))
    return b.mat_file(path / "x.mat", b.deflated(struct.pack("<II", 14, len(body)) + body, len(body) + 8))


def large_value_within(path: Path) -> Path:
    """A value that announces one number, and goes on with zeros."""
    value = b.array_head(7, (1, 1)) + struct.pack("<II", 7, 200 * MB)
    head = b.array_head(2, (1, 1), b"params") + b.element(5, struct.pack("<i", 8))
    head += b.element(1, struct.pack("8s8s", b"name", b"value"))
    head += b.matrix(b.array_head(4, (1, 1)) + b.element(16, b"a")) + struct.pack("<II", 14, len(value) + 200 * MB)
    size = len(head) + len(value) + 200 * MB
    return b.mat_file(path / "x.mat", b.deflated(struct.pack("<II", 14, size) + head + value, size + 8))


def varints(path: Path) -> Path:
    return b.onnx_varints(path / "x.onnx", 24 * MB)


def deep_header(path: Path) -> Path:
    return b.raw_safetensors(path / "x.safetensors", b'{"__metadata__":{},"a":[' + b'{"":0},' * (2 * MB) + b"0]}")


def layers_below_a_long_path(path: Path) -> Path:
    layer = {"class_name": "A" * 500, "config": {"layers": []}}
    outer = layer
    inner: dict[str, object] = {"class_name": "B", "config": {"name": "x"}}
    layer["config"]["layers"] = [inner] * 60_000  # type: ignore[index]
    config = {"config": {"layers": [outer]}}
    with zipfile.ZipFile(path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(config))
        file = b.HDF5()
        archive.writestr("model.weights.h5", file.finish(path / "h5", file.group([])).read_bytes())
    return path / "x.keras"


def deflated_npz(path: Path) -> Path:
    np.lib.format.write_array_header_1_0(
        head := io.BytesIO(), {"descr": "<f4", "fortran_order": False, "shape": (48 * MB,)}
    )
    with zipfile.ZipFile(path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w.npy", "w") as member:
        member.write(head.getvalue())
        for _ in range(192):
            member.write(bytes(MB))
    return path / "x.npz"


def lying_npz(path: Path) -> Path:
    """A member of 100 MB that holds an array of one number."""
    np.lib.format.write_array_header_1_0(head := io.BytesIO(), {"descr": "<f4", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile(path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", head.getvalue() + bytes(100 * MB))
    return path / "x.npz"


def inflated_weights(path: Path) -> Path:
    file = b.HDF5()
    file.add(bytes(100 * MB))
    whole = file.finish(path / "h5", file.group([])).read_bytes()
    with zipfile.ZipFile(path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", whole)
    return path / "x.keras"


def metadata_of_20_gigabytes(path: Path) -> Path:
    folder = b.orbax_folder(path / "x", {"a": {}}, {"a/0": bytes(16)})
    os.truncate(folder / "_METADATA", 20 << 30)
    return folder


def chunk_of_20_gigabytes(path: Path) -> Path:
    folder = b.orbax_folder(path / "x", {"a": {}}, {"a/0": bytes(16)})
    os.truncate(folder / "a/0", 20 << 30)
    return folder


def leaf_of_zeros(path: Path) -> Path:
    """A chunk of Zstandard's that repeats one byte; a file of 100 bytes announces 1 GiB."""
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 1 << 30) + b"\0" * 90
    zarray = {"shape": [1 << 28], "chunks": [1 << 28], "compressor": {"id": "zstd", "level": 1}}
    return b.orbax_folder(path / "x", {"a": zarray}, {"a/0": frame})


def names_of_one_prefix(path: Path) -> Path:
    """One key of 4,000 characters above 5,000 keys."""
    inner = b.dictionary({str(number): b.tensor((1,), (1,), 1) for number in range(5000)})
    return b.torch_file(path / "x.pth", b.dictionary({"k" * 4000: inner}), _0=bytes(4))


def empty_lists(path: Path) -> Path:
    lists = b"\xdc\xff\xff" + b"\x90" * 0xFFFF
    (path / "x.msgpack").write_bytes(b"\x81" + b.packed_text("a") + b"\xdc\x00\x40" + lists * 64)
    return path / "x.msgpack"


def empty_nodes(path: Path) -> Path:
    (path / "x.pb").write_bytes(b"\x0a\x00" * (4 * MB))
    return path / "x.pb"


def filled_constants(path: Path) -> Path:
    from se_port.formats._wire import encode_field

    shape = encode_field(2, encode_field(2, encode_field(1, 12 * MB)))
    value = encode_field(1, 1) + shape + encode_field(5, bytes(4))
    nodes = []
    for number in range(8):
        entry = encode_field(1, b"value") + encode_field(2, encode_field(8, value))
        node = encode_field(1, b"n%d" % number) + encode_field(2, b"Const") + encode_field(5, entry)
        nodes.append(encode_field(1, node))
    (path / "x.pb").write_bytes(b"".join(nodes))
    return path / "x.pb"


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "expanded tensor": (expanded_tensor, "would take"),
    "datasets on the same bytes": (many_datasets, "would take"),
    "several compressed params": (compressed_parameters, "has the variables"),
    "names of fields": (long_field_names, "at most"),
    "value that is longer than its shape": (large_value_within, "has 209,715,200 bytes"),
    "varints": (varints, "read"),
    "header of many values": (deep_header, "of memory"),
    "layers below a long path": (layers_below_a_long_path, "characters"),
    "deflated npz": (deflated_npz, "read"),
    "npz with a longer member": (lying_npz, "has 104,857"),
    "inflated weights": (inflated_weights, "would unpack"),
    "sparse metadata": (metadata_of_20_gigabytes, "on the disk"),
    "sparse chunk": (chunk_of_20_gigabytes, "on the disk"),
    "compressed leaf": (leaf_of_zeros, "would take"),
    "names of one prefix": (names_of_one_prefix, "characters"),
    "empty lists": (empty_lists, "values"),
    "empty nodes": (empty_nodes, "at most"),
    "filled constants": (filled_constants, "would take"),
}


IN_FOLDERS = ("sparse metadata", "sparse chunk", "compressed leaf")
"""Files of Orbax, which TensorStore reads."""


@pytest.mark.parametrize(
    ("build", "words"),
    [
        pytest.param(*file, id=name, marks=[pytest.mark.framework("port")] if name in IN_FOLDERS else [])
        for name, file in FILES.items()
    ],
)
def test_memory_is_the_declared_tensors_once(tmp_path: Path, build: Callable[[Path], Path], words: str) -> None:
    measured = b.measure("read orbax" if (path := build(tmp_path)).is_dir() else "read", path)
    assert words in measured.outcome
    assert measured.peak < measured.declared + SPARE_BYTES, f"{measured.peak:,}"


@pytest.mark.parametrize("name", ["varints", "deflated npz"])
def test_memory_of_inspect_is_the_declared_tensors_once(tmp_path: Path, name: str) -> None:
    measured = b.measure("inspect", FILES[name][0](tmp_path))
    assert measured.outcome == "read"
    assert measured.peak < measured.declared + 2 * SPARE_BYTES, f"{measured.peak:,}"


SPARSE = {
    "x.index": b"",
    "x.safetensors": (64).to_bytes(8, "little")
    + b'{"a":{"dtype":"BOOL","shape":[268435456],"data_offsets":[0,268435456]}}',
    "x.npz": b"PK\3\4",
    "x.pth": b"\x80\2",
    "x.onnx": b"\x3a",
    "x.h5": b"\x89HDF\r\n\x1a\n",
    "x.mat": b"MATLAB 5.0",
    "x.tflite": b"0000TFL3",
    "x.caffemodel": b"\x0a",
    "x.params": struct.pack("<QQ", 0x112, 0),
    "x.pdparams": b"\x80\2",
    "model.json": b'{"weightsManifest":',
    "x.msgpack": b"\x81",
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_file_is_refused(tmp_path: Path, name: str) -> None:
    (path := tmp_path / name).write_bytes(SPARSE[name])
    end = struct.pack("<Q", 0xDB4775248B80FB57) if name == "x.index" else b""
    with path.open("r+b") as file:
        file.seek(256 * MB)
        file.write(end)
        file.truncate(256 * MB + len(end))
    with pytest.raises(FileFormatError, match=r"bytes on the disk and is|is no regular|at most"):
        formats.read(path)


def test_shared_and_repeated_tensors_of_a_usual_file_are_read(tmp_path: Path) -> None:
    tied = b.tensor((64, 64), (64, 1), 4096)
    items = {"encoder.weight": tied, "decoder.weight": tied, "mask": b.tensor((8, 64), (0, 1), 4096)}
    tensors = formats.read(b.torch_file(tmp_path / "x.pth", b.dictionary(items), _0=bytes(4 * 4096)))
    assert [array.shape for array in tensors.values()] == [(64, 64), (64, 64), (8, 64)]


def test_caches_are_bounded() -> None:
    from se_port.detect import networks
    from se_port.layouts import templates

    for number in range(5000):
        templates.fill("dense{_k}", {"k": number})
    assert templates._value.cache_info().currsize <= 1024
    assert networks._kinds.cache_info().maxsize is not None
