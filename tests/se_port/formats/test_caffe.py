"""Caffe's ``.caffemodel``, against bytes typed out and against protobuf's own reader and writer."""

from pathlib import Path

import numpy as np
import pytest

from se_port import formats
from se_port.formats import caffe
from se_spec import FileFormatError

from ...conftest import OnDemand
from . import fuzz

descriptor_pb2 = OnDemand("google.protobuf.descriptor_pb2")
descriptor_pool = OnDemand("google.protobuf.descriptor_pool")
message_factory = OnDemand("google.protobuf.message_factory")

SCHEMA = {
    "BlobShape": [("dim", 1, "int64", "packed")],
    "BlobProto": [
        ("shape", 7, "BlobShape", "one"),
        ("data", 5, "float", "packed"),
        ("diff", 6, "float", "packed"),
        ("double_data", 8, "double", "packed"),
        ("num", 1, "int32", "one"),
        ("channels", 2, "int32", "one"),
        ("height", 3, "int32", "one"),
        ("width", 4, "int32", "one"),
    ],
    "LayerParameter": [
        ("name", 1, "string", "one"),
        ("type", 2, "string", "one"),
        ("bottom", 3, "string", "many"),
        ("top", 4, "string", "many"),
        ("blobs", 7, "BlobProto", "many"),
    ],
    "V1LayerParameter": [
        ("bottom", 2, "string", "many"),
        ("name", 4, "string", "one"),
        ("type", 5, "int32", "one"),
        ("blobs", 6, "BlobProto", "many"),
    ],
    "NetParameter": [
        ("name", 1, "string", "one"),
        ("layers", 2, "V1LayerParameter", "many"),
        ("layer", 100, "LayerParameter", "many"),
    ],
}
"""The part of Caffe's caffe.proto that is about trained layers."""


def schema(*, packed: bool = True):
    """Make protobuf's class of ``NetParameter``."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, members in SCHEMA.items():
        message = file.message_type.add(name=name)
        for member, number, kind, count in members:
            field = message.field.add(name=member, number=number, label=1 if count == "one" else 3)
            field.options.packed = packed and count == "packed"
            if kind in SCHEMA:
                field.type, field.type_name = 11, f".caffe.{kind}"
            else:
                field.type = {"double": 1, "float": 2, "int64": 3, "int32": 5, "string": 9}[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def draw(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"conv1/7x7_s2:0": (4, 3, 2, 2), "conv1/7x7_s2/bn:0": (4,), "conv1/7x7_s2/bn:1": (4,), "fc:0": (2, 4)}
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["conv1/7x7_s2:0"].view(np.uint32)[0, 0, 0] = 0x7FC01234, 0x80000000  # a NaN's payload, and -0
    return tensors | {"fc:1": np.array(999.98), "fc:2": np.zeros((0, 3), np.float32)}


LITERAL = bytes.fromhex(
    "0a 03 6e6574"  # name: "net"
    "a2 06 06  0a 04 64617461"  # layer, 6 bytes: name "data", no blobs
    "a2 06 25"  # layer, 37 bytes
    "  0a 03 612f62"  # name: "a/b"
    "  12 05 5363616c65"  # type: "Scale"
    "  3a 10  2a 08 0000803f 000000c0  3a 04 0a 02 0102"  # blob, 16 bytes: data 1, -2; shape of dims 1, 2
    "  3a 05  2d 00004040"  # blob, 5 bytes: one value 3, not packed; no shape, so no axes
)


def test_typed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(LITERAL)
    tensors = formats.read(path, "caffe")
    assert {name: array.tolist() for name, array in tensors.items()} == {"a/b:0": [[1, -2]], "a/b:1": 3}
    assert not tensors["a/b:0"].flags.writeable
    assert caffe.matches(path, LITERAL) and not caffe.matches(tmp_path / "net.caffemodel.h5", b"")


def test_layers_are_in_the_order_of_their_first_blobs(tmp_path: Path) -> None:
    one = np.zeros(1, np.float32)
    formats.write(tmp_path / "net.caffemodel", {"b:1": one, "a:0": one, "b:0": one})
    assert list(formats.read(tmp_path / "net.caffemodel", "caffe")) == ["b:0", "b:1", "a:0"]


@pytest.mark.framework("port-orbax")
def test_bytes_equal_those_of_protobuf(tmp_path: Path) -> None:
    net = schema()()
    for name, array in draw().items():
        layer, index = name.split(":")
        into = net.layer.add(name=layer) if index == "0" else net.layer[-1]
        blob = into.blobs.add()
        blob.shape.dim[:] = array.shape
        blob.shape.SetInParent()
        (blob.double_data if array.dtype == np.float64 else blob.data)[:] = array.ravel().tolist()
    formats.write(tmp_path / "net.caffemodel", draw())
    assert (tmp_path / "net.caffemodel").read_bytes() == net.SerializeToString(deterministic=True)


def write_with_protobuf(folder: Path, field: str, *, packed: bool) -> tuple[Path, formats.Tensors]:
    net = schema(packed=packed)(name="net")
    getattr(net, field).add(name="data")
    layer = getattr(net, field).add(name="conv/a")
    weight, bias, moment = (layer.blobs.add() for _ in range(3))
    weight.shape.dim[:] = [2, 1, 1, 2]
    weight.data[:] = [1.5, -0.0, float("nan"), 1e-45]
    weight.diff[:] = [9.0] * 4
    bias.num, bias.channels, bias.height, bias.width = 1, 1, 1, 2  # as before blobs had any number of axes
    bias.data[:] = [3.0, 4.0]
    moment.double_data[:] = [5.0]
    path = folder / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    return path, {
        "conv/a:0": np.array([1.5, -0.0, np.nan, 1e-45], np.float32).reshape(2, 1, 1, 2),
        "conv/a:1": np.array([3, 4], np.float32).reshape(1, 1, 1, 2),
        "conv/a:2": np.array(5.0),
    }


def sized(data: bytes) -> bytes:
    """Prefix bytes with their length, in two bytes."""
    return bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data


def blob(data: str, shape: str = "") -> str:
    """Encode a BlobProto in a layer, from the hex of its values and of its dims."""
    dims = sized(b"\x0a" + sized(bytes.fromhex(shape)))
    return (b"\x3a" + sized(b"\x2a" + sized(bytes.fromhex(data)) + b"\x3a" + dims)).hex()


def layer(*members: str, version: str = "a206") -> str:
    return version + sized(bytes.fromhex("".join(members))).hex()


ONE, A = blob("0000803f", "01"), "0a0161"
HOSTILE = {
    "nothing": ("", "a file that is not empty"),
    "no blobs": (layer(A), "has blobs in no layer"),
    "a layer twice": (layer(A, ONE) * 2, "has the layer 'a' twice"),
    "no name": (layer(ONE), "has blobs without a name"),
    "both versions": (
        layer(A, ONE) + layer("220162", ONE.replace("3a", "32", 1), version="12"),
        "layers of both versions",
    ),
    "2013": (layer("0a00", version="12"), "has layers as in 2013"),
    "a name that is not UTF-8": (layer("0a01ff", ONE), "has a name that is not UTF-8"),
    "fewer values than the shape": (layer(A, blob("0000803f", "02")), "'a:0' (2,) has 4 bytes"),
    "more values than the shape": (layer(A, blob("0000803f0000803f", "01")), "'a:0' (1,) has 8 bytes"),
    "half a value": (layer(A, blob("0000803f00", "01")), "'a:0' (1,) has 5 bytes"),
    "a negative length": (layer(A, blob("", "ffffffffffffffffff01")), "'a:0' has the shape (-1,)"),
    "33 axes": (layer(A, blob("0000803f", "01" * 33)), "at most 32 axes"),
    "axes without end": (layer(A, blob("0000803f", "8100" * 200)), "at most 32 axes"),
    "a shape that no memory has": (layer(A, blob("0000803f", "ffffffffffffffff7f" * 2)), "would take"),
    "hidden by a length of 0": (layer(A, blob("", "00" + "ffffffffffffffff7f" * 4)), "would take"),
    "a length beyond the end": ("a206ffffffff0f00", "field 100 announces 4,294,967,295 bytes"),
    "a varint without end": ("ff" * 11, "has an integer that does not end"),
    "cut in a varint": ("a206ff", "has an integer that does not end"),
    "cut in a fixed value": ("2d0000", "field 5 announces 4 bytes"),
    "a group": ("0b0c", "has field 1 of wire type 3"),
    "field 0": ("0000", "has field 0 of wire type 0"),
}


@pytest.mark.parametrize(("data", "wrong"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, data: str, wrong: str) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(bytes.fromhex(data))
    with pytest.raises(FileFormatError) as error:
        formats.read(path, "caffe")
    assert str(error.value).startswith(f"{path}: ") and wrong in str(error.value)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileFormatError, match="cannot be read"):
            formats.read(path, "caffe")


CANNOT = {
    "float16": ({"a:0": np.zeros(1, np.float16)}, "cannot hold 'a:0', which is float16"),
    "no blob": ({"a.weight": np.zeros(1, np.float32)}, "cannot hold the name 'a.weight'"),
    "no layer": ({":0": np.zeros(1, np.float32)}, "cannot hold the name ':0'"),
    "two names of a blob": ({"a:00": np.zeros(1, np.float32)}, "cannot hold the name 'a:00'"),
    "a blob left out": ({"a:0": np.zeros(1, np.float32), "a:2": np.zeros(1, np.float32)}, "has the blobs [0, 2]"),
    "half a surrogate": ({"\ud800:0": np.zeros(1, np.float32)}, "is no Unicode text"),
}


@pytest.mark.parametrize(("tensors", "wrong"), CANNOT.values(), ids=CANNOT)
def test_unsupported_tensors_are_not_written(tmp_path: Path, tensors: dict[str, np.ndarray], wrong: str) -> None:
    with pytest.raises(FileFormatError) as error:
        formats.write(tmp_path / "net.caffemodel", tensors)
    assert wrong in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.framework("port-orbax")
def test_protobuf_agrees_on_mutated_files(tmp_path: Path) -> None:
    """The reader and protobuf read the same from a broken file."""
    formats.write(tmp_path / "net.caffemodel", draw())
    whole, compared, net = (tmp_path / "net.caffemodel").read_bytes(), 0, schema()
    for data, ours in fuzz.read_mutations("caffe", whole, tmp_path / "broken", 600):
        theirs = [blob for layer in net.FromString(data).layer for blob in layer.blobs]
        assert len(theirs) == len(ours)
        for array, blob in zip(ours.values(), theirs, strict=True):
            want = np.array(blob.double_data or blob.data, array.dtype)
            assert array.tobytes() == want.tobytes() or np.isnan(want).any()  # by way of a Python float
            compared += 1
    assert compared > 500
