"""Files that two readers would read in two ways, or that the framework's own reader refuses: they are refused."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from se_port import formats
from se_port.formats._wire import encode_field
from se_spec import FileFormatError
from tests.se_port.attacks import builders as b

RAW = encode_field(9, np.arange(4, dtype="<f4").tobytes())
TENSOR = b.tensor((4,), (1,), 4)


def onnx_data_twice(path: Path) -> Path:
    (path / "data").write_bytes(bytes(16))
    return b.onnx_file(path / "x.onnx", b.onnx_tensor("w", (4,), RAW + b.onnx_external("data")))


def onnx_raw_twice(path: Path) -> Path:
    halves = encode_field(9, bytes(8)) + encode_field(9, bytes(8))
    return b.onnx_file(path / "x.onnx", b.onnx_tensor("w", (4,), halves))


def onnx_type_twice(path: Path) -> Path:
    return b.onnx_file(path / "x.onnx", b.onnx_tensor("w", (4,), RAW + encode_field(2, 6)))


def onnx_location_twice(path: Path) -> Path:
    for name in ("data", "other"):
        (path / name).write_bytes(bytes(16))
    external = b.onnx_external("data") + b.onnx_external("other")[2:]
    return b.onnx_file(path / "x.onnx", b.onnx_tensor("w", (4,), external))


def onnx_hard_link(path: Path) -> Path:
    (path / "secret").write_bytes(bytes(16))
    os.link(path / "secret", path / "data")
    return b.onnx_file(path / "x.onnx", b.onnx_tensor("w", (4,), b.onnx_external("data")))


def onnx_link_out(path: Path) -> Path:
    (path / "secret").write_bytes(bytes(16))
    (path / "net").mkdir()
    (path / "net" / "data").symlink_to(path / "secret")
    return b.onnx_file(path / "net" / "x.onnx", b.onnx_tensor("w", (4,), b.onnx_external("data")))


def onnx_link_within(path: Path) -> Path:
    (path / "secret").write_bytes(bytes(16))
    (path / "data").symlink_to(path / "secret")
    return b.onnx_file(path / "x.onnx", b.onnx_tensor("w", (4,), b.onnx_external("data")))


def hdf5_name_twice(path: Path) -> Path:
    file = b.HDF5()
    one, two = (file.dataset(file.add(bytes([number] * 16)), 4) for number in (1, 2))
    inner = file.group([("0", one), ("0", two)])
    return file.finish(path / "x.weights.h5", file.group([("layer", file.group([("vars", inner)]))]))


def hdf5_datasets_on_the_same_bytes(path: Path) -> Path:
    file = b.HDF5()
    place = file.add(bytes(64))
    inner = file.group([(str(number), file.dataset(place, 16)) for number in range(64)])
    return file.finish(path / "x.weights.h5", file.group([("layer", file.group([("vars", inner)]))]))


def mat_integer(code: int, stored: int, data: bytes) -> Callable[[Path], Path]:
    def build(path: Path) -> Path:
        value = b.matrix(b.array_head(code, (1, 1)) + b.element(stored, data))
        return b.mat_file(path / "x.mat", b.matrix(b.parameters((b"a", value))))

    return build


def zip_with_constants(path: Path) -> Path:
    with zipfile.ZipFile(path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\2" + b.dictionary({"w": TENSOR}) + b".")
        archive.writestr("x/data/0", bytes(16))
        archive.writestr("x/constants.pkl", b"\x80\2).")
    return path / "x.pth"


def torch_names_apart_from_case(path: Path) -> Path:
    with zipfile.ZipFile(path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\2" + b.dictionary({"w": b.tensor((4,), (1,), 4, "a")}) + b".")
        archive.writestr("x/data/a", bytes(16))
        archive.writestr("x/DATA/A", bytes(16))
    return path / "x.pth"


def torch_in_another_folder(path: Path) -> Path:
    with zipfile.ZipFile(path / "x.pth", "w") as archive:
        archive.writestr("other/version", b"3\n")
        archive.writestr("x/data.pkl", b"\x80\2" + b.dictionary({"w": TENSOR}) + b".")
        archive.writestr("x/data/0", bytes(16))
    return path / "x.pth"


def npz_name_and_name_npy(path: Path) -> Path:
    np.savez(path / "x.npz", **{"w": np.zeros(3), "w.npy": np.ones(3)})
    return path / "x.npz"


def zip_second_name(path: Path) -> Path:
    np.savez(path / "x.npz", w=np.zeros(3))
    data = (path / "x.npz").read_bytes()
    extra = struct.pack("<HHBI", 0x7075, 5 + 5, 1, 0) + b"v.npy"
    place = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    head = bytearray(data[place:end])
    name = struct.unpack_from("<H", head, 28)[0]
    old = struct.unpack_from("<H", head, 30)[0]
    struct.pack_into("<H", head, 30, old + len(extra))
    entry = bytes(head[: 46 + name + old]) + extra + bytes(head[46 + name + old :])
    tail = bytearray(data[end:])
    struct.pack_into("<I", tail, 12, len(entry))
    (path / "x.npz").write_bytes(data[:place] + entry + bytes(tail))
    return path / "x.npz"


def zip_sizes_twice(path: Path) -> Path:
    with zipfile.ZipFile(path / "x.npz", "w") as archive:
        np.save(file := (path / "a.npy"), np.zeros(3))
        archive.write(file, "a.npy")
    data = bytearray((path / "x.npz").read_bytes())
    struct.pack_into("<I", data, 22, 99)
    (path / "x.npz").write_bytes(data)
    return path / "x.npz"


def header_name_twice(path: Path) -> Path:
    entry = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    return b.raw_safetensors(path / "x.safetensors", b"{" + entry % (0, 4) + b"," + entry % (4, 8) + b"}", bytes(8))


def header_gap(path: Path) -> Path:
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}
    return b.raw_safetensors(path / "x.safetensors", json.dumps(header).encode(), bytes(8))


def header_overlap(path: Path) -> Path:
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}
    return b.raw_safetensors(path / "x.safetensors", json.dumps(header).encode(), bytes(4))


def zarray_name_twice(path: Path) -> Path:
    folder = b.orbax_folder(path / "x", {"a": {}}, {"a/0": bytes(16)})
    whole = (folder / "a/.zarray").read_text()
    (folder / "a/.zarray").write_text('{"shape": [2], ' + whole[1:])
    return folder


def two_stores(path: Path) -> Path:
    folder = b.orbax_folder(path / "x", {"a": {}}, {"a/0": bytes(16)})
    (folder / "manifest.ocdbt").write_bytes(b"x")
    return folder


def manifest_name_twice(path: Path) -> Path:
    (path / "w.bin").write_bytes(bytes(4))
    manifest = '[{"paths":["w.bin"],"weights":[{"name":"w","shape":[1],"dtype":"float32"}]}]'
    (path / "model.json").write_text(f'{{"weightsManifest":[],"weightsManifest":{manifest}}}')
    return path / "model.json"


def manifest_file_twice(path: Path) -> Path:
    (path / "w.bin").write_bytes(bytes(4))
    group = {"paths": ["w.bin"], "weights": [{"name": "w", "shape": [1], "dtype": "float32"}]}
    other = {"paths": ["w.bin"], "weights": [{"name": "v", "shape": [1], "dtype": "float32"}]}
    (path / "model.json").write_text(json.dumps({"weightsManifest": [group, other]}))
    return path / "model.json"


def shard_index_name_twice(path: Path) -> Path:
    for number in (1, 2):
        b.safetensors_file(path / f"m-0000{number}-of-00002.safetensors", {"w": (1,)})
    names = ", ".join(f'"w": "m-0000{number}-of-00002.safetensors"' for number in (1, 2))
    (path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{names}}}}}')
    return path / "model.safetensors.index.json"


def name_in_two_shards(path: Path) -> Path:
    b.safetensors_file(path / "m-00001-of-00002.safetensors", {"w": (1,)})
    b.safetensors_file(path / "m-00002-of-00002.safetensors", {"w": (1,), "v": (1,)})
    names = {"w": "m-00001-of-00002.safetensors", "v": "m-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return path / "model.safetensors.index.json"


def index_block_out_of_bounds(path: Path) -> Path:
    entry = encode_field(1, 1) + encode_field(5, 0) + encode_field(2, encode_field(2, encode_field(1, 0)))
    blocks = [b.block([(b"", b.HEADER), (b"b", entry + b"\x35" + bytes(4))])]
    (path / "x.data-00000-of-00001").write_bytes(b"")
    return b.index_file(path / "x.index", blocks, [(b"a", 0)])


def index_restart_within(path: Path) -> Path:
    blocks = [b.block([(b"", b.HEADER)], [0, 1])]
    (path / "x.data-00000-of-00001").write_bytes(b"")
    return b.index_file(path / "x.index", blocks, [(b"a", 0)])


def index_field_twice(path: Path) -> Path:
    entry = encode_field(1, 1) + encode_field(5, 0) + encode_field(2, encode_field(2, encode_field(1, 0)))
    blocks = [b.block([(b"", b.HEADER), (b"b", entry + encode_field(4, 0) * 2 + b"\x35" + bytes(4))])]
    (path / "x.data-00000-of-00001").write_bytes(b"")
    return b.index_file(path / "x.index", blocks, [(b"b", 0)])


def graph_node_twice(path: Path) -> Path:
    node = encode_field(1, encode_field(1, b"n") + encode_field(2, b"NoOp"))
    (path / "x.pb").write_bytes(node * 2)
    return path / "x.pb"


def graph_content_twice(path: Path) -> Path:
    shape = encode_field(2, encode_field(2, encode_field(1, 2)))
    value = encode_field(1, 1) + shape + encode_field(4, bytes(8)) * 2
    entry = encode_field(1, b"value") + encode_field(2, encode_field(8, value))
    node = encode_field(1, encode_field(1, b"n") + encode_field(2, b"Const") + encode_field(5, entry))
    (path / "x.pb").write_bytes(node)
    return path / "x.pb"


def caffe_name_twice(path: Path) -> Path:
    blob = encode_field(7, encode_field(7, encode_field(1, b"\1")) + encode_field(5, bytes(4)))
    (path / "x.caffemodel").write_bytes(encode_field(100, encode_field(1, b"a") + encode_field(1, b"b") + blob))
    return path / "x.caffemodel"


def messagepack_key_twice(path: Path) -> Path:
    (path / "x.msgpack").write_bytes(b"\x82" + (b.packed_text("a") + b"\1") * 2)
    return path / "x.msgpack"


FILES: dict[str, Callable[[Path], Path]] = {
    function.__name__: function
    for function in (
        onnx_data_twice, onnx_raw_twice, onnx_type_twice, onnx_location_twice, onnx_hard_link, onnx_link_out,
        onnx_link_within, hdf5_name_twice, hdf5_datasets_on_the_same_bytes, zip_with_constants,
        torch_names_apart_from_case, torch_in_another_folder, npz_name_and_name_npy, zip_second_name, zip_sizes_twice,
        header_name_twice, header_gap, header_overlap, zarray_name_twice, two_stores, manifest_name_twice,
        manifest_file_twice, shard_index_name_twice, name_in_two_shards, index_block_out_of_bounds,
        index_restart_within, index_field_twice, graph_node_twice, graph_content_twice, caffe_name_twice,
        messagepack_key_twice,
    )
} | {
    "int8 stored as uint8": mat_integer(8, 2, b"\xc8"),
    "uint8 stored as int8": mat_integer(9, 1, b"\xff"),
    "uint16 stored as int16": mat_integer(11, 3, struct.pack("<h", -1)),
    "single stored as int32": mat_integer(7, 5, struct.pack("<i", (1 << 24) + 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_file_of_two_readings_is_refused(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path)
    with pytest.raises(FileFormatError):
        dict(formats.read(path))


def test_archive_of_constants_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"constants\.pkl"):
        dict(formats.read(zip_with_constants(tmp_path), "torch"))


@pytest.mark.parametrize(("code", "stored", "data", "expected"), [(8, 1, b"\x80", -128), (9, 2, b"\xff", 255),
                                                                  (6, 5, struct.pack("<i", -5), -5)])  # fmt: skip
def test_shorter_integers_of_a_class_are_read(
    tmp_path: Path, code: int, stored: int, data: bytes, expected: int
) -> None:
    assert formats.read(mat_integer(code, stored, data)(tmp_path))["a"].tolist() == [[expected]]


def test_whole_model_is_preferred_to_its_shards_as_by_the_hub(tmp_path: Path) -> None:
    b.safetensors_file(tmp_path / "model.safetensors", {"whole": (1,)})
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "a.bin"}}')
    assert list(formats.read(tmp_path)) == ["whole"]


def test_files_without_their_defect_are_read(tmp_path: Path) -> None:
    """The builders make valid files: what is refused above is the defect."""
    (tmp_path / "data").write_bytes(bytes(16))
    tensors = (b.onnx_tensor("w", (4,), RAW), b.onnx_tensor("v", (4,), b.onnx_external("data")))
    assert list(formats.read(b.onnx_file(tmp_path / "x.onnx", *tensors))) == ["w", "v"]
    file = b.HDF5()
    inner = file.group([("0", file.dataset(file.add(bytes(16)), 4))])
    whole = file.finish(tmp_path / "x.weights.h5", file.group([("layer", file.group([("vars", inner)]))]))
    assert [array.shape for array in formats.read(whole).values()] == [(4,)]
    assert list(formats.read(b.torch_file(tmp_path / "x.pth", b.dictionary({"w": TENSOR}), _0=bytes(16)))) == ["w"]
    entry = encode_field(1, 1) + encode_field(5, 0) + encode_field(2, encode_field(2, encode_field(1, 0)))
    blocks = [b.block([(b"", b.HEADER), (b"b", entry + b"\x35" + struct.pack("<I", 0xA282EAD8))])]
    (tmp_path / "t.data-00000-of-00001").write_bytes(b"")
    assert list(formats.read(b.index_file(tmp_path / "t.index", blocks, [(b"b", 0)]))) == ["b"]


@pytest.mark.framework("port")
def test_folder_without_its_defect_is_read(tmp_path: Path) -> None:
    assert list(formats.read(b.orbax_folder(tmp_path / "o", {"a": {}}, {"a/0": bytes(16)}))) == ["a"]
