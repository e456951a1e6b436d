"""ONNX's initializers, against bytes typed out and ONNX's own helpers."""

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from se_port import formats
from se_port.formats import _wire
from se_port.formats import onnx as reader
from se_spec import FileFormatError

from ...conftest import OnDemand
from . import fuzz
from .tensors import facts

onnx = OnDemand("onnx")

LITERAL = bytes.fromhex(
    "08 08"  # IR version 8
    "12 02 7365"  # producer "se"
    "3a 26"  # graph, 38 bytes
    "  12 01 67"  # name "g"
    "  2a 14  08 01 08 02  10 01  42 02 2f77  4a 08 0000803f 000000c0"  # 1 x 2 of type 1, name "/w", raw: 1, -2
    "  2a 0b  08 02  10 07  42 01 6e  3a 02 0705"  # 2 of type 7, name "n", int64: 7, 5
)


def draw() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weight = random.standard_normal((4, 3, 2, 2)).astype(np.float32)
    weight.view(np.uint32)[0, 0, 0] = 0x7FC01234, 0x80000000  # a NaN's payload, and -0
    names = [name for name in reader.DTYPES.values() if name != "bfloat16"]
    dtypes = [*map(np.dtype, names), np.dtype(ml_dtypes.bfloat16)]
    others = {f"/fc/{dtype}": np.array([[1, 0], [0, 1]]).astype(dtype) for dtype in dtypes}
    extremes = {
        f"least.{name}": np.array([np.iinfo(name).min, np.iinfo(name).max], name) for name in ("int8", "int32", "int64")
    }
    return {"conv1.weight": weight, "none": np.zeros((0, 3), np.int64), "one": np.array(0.5), **others, **extremes}


def model(tensors: formats.Tensors, *, raw: bool):
    """Make a model without nodes, with ONNX's helpers."""
    initializers = []
    for name, array in tensors.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        values = array.tobytes() if raw else array.ravel()
        initializers.append(onnx.helper.make_tensor(name, kind, array.shape, values, raw=raw))
    return onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], initializers))


def test_typed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(LITERAL)
    tensors = formats.read(path, "onnx")
    assert facts(tensors) == facts({"/w": np.array([[1, -2]], np.float32), "n": np.array([7, 5])})
    assert not tensors["/w"].flags.writeable
    assert reader.matches(path, b"") and not reader.matches(tmp_path / "net.onnx.data", b"")


def write_with_onnx(folder: Path, *, raw: bool = True, external: bool = False) -> tuple[Path, formats.Tensors]:
    """Write initializers in raw bytes, in fields of their dtypes, or in an external file."""
    outside = {"save_as_external_data": True, "location": "net.onnx.data", "size_threshold": 0} if external else {}
    onnx.save(model(draw(), raw=raw), folder / "net.onnx", **outside)
    assert (folder / "net.onnx.data").exists() == external
    theirs = onnx.load(folder / "net.onnx").graph.initializer
    return folder / "net.onnx", {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in theirs}


@pytest.mark.framework("port", "onnx")
def test_onnx_reads_the_tensors_that_were_drawn(tmp_path: Path) -> None:
    assert facts(write_with_onnx(tmp_path)[1]) == facts(draw())


def field(number: int, data: bytes | int) -> bytes:
    """Encode a field of a message whose length is below 128."""
    if isinstance(data, int):
        return bytes([number << 3, data])
    return bytes([number << 3 | 2, len(data)]) + data


def graph(*members: bytes) -> bytes:
    inner = b"".join(members)
    return b"\x08\x08\x3a" + bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7]) + inner


def tensor(*members: bytes, kind: int = 1, shape: tuple[int, ...] = (1,), name: bytes = b"a") -> bytes:
    return field(5, b"".join([*(field(1, n) for n in shape), field(2, kind), field(8, name), *members]))


def beside(**entries: str) -> bytes:
    said = [field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in entries.items()]
    return tensor(*said, field(14, 1))


RAW = field(9, bytes(4))
MINUS_1 = b"\xff" * 9 + b"\x01"
HOSTILE = {
    "nothing": (b"", "a file that is not empty"),
    "two graphs": (graph(tensor(RAW)) * 2, "has 2 graphs"),
    "no initializers": (graph(), "has no initializers"),
    "a sparse initializer": (graph(field(15, b"")), "has sparse initializers"),
    "twice": (graph(tensor(RAW), tensor(RAW)), "has the initializer 'a' twice"),
    "no name": (graph(tensor(RAW, name=b"")), "has the initializer '' twice or without a name"),
    "text": (graph(tensor(field(6, b"b"), kind=8)), "'a' is of ONNX's type STRING"),
    "4 bits": (graph(tensor(RAW, kind=22)), "'a' is of ONNX's type INT4"),
    "no type": (graph(tensor(RAW, kind=99)), "'a' is of ONNX's type number 99"),
    "a segment": (graph(tensor(RAW, field(3, b""))), "'a' is a segment"),
    "too short": (graph(tensor(field(9, bytes(3)))), "'a' (1,) has 3 bytes"),
    "no data": (graph(tensor()), "'a' (1,) has 0 bytes"),
    "data twice": (graph(tensor(RAW, RAW)), "'a' (1,) has 8 bytes"),
    "data in two fields": (graph(tensor(RAW, field(4, bytes(4)))), "has its data in the fields [4, 9]"),
    "another type's data": (graph(tensor(field(10, bytes(8)))), "has its data in the fields [10]"),
    "a negative length": (graph(tensor(field(1, MINUS_1), RAW)), "at most 32 axes, none negative"),
    "33 axes": (graph(tensor(RAW, shape=(1,) * 33)), "at most 32 axes"),
    "a shape that no memory has": (graph(tensor(field(1, b"\xff" * 8 + b"\x7f"), RAW)), "would take"),
    "too few integers": (
        graph(tensor(field(7, b"\1\2"), kind=7, shape=(3,))),
        "would take 3 bytes",
    ),
    "too many integers": (graph(tensor(field(7, b"\1\2"), kind=7)), "'a' (1,) has 16 bytes"),
    "far too many integers": (graph(tensor(field(7, b"\1" * 11), kind=7)), "has 11 bytes of integers"),
    "an integer without end": (graph(tensor(field(7, b"\1\x80"), kind=7, shape=(2,))), "the last does not end"),
    "an integer of 11 bytes": (
        graph(tensor(field(7, b"\x80" * 10 + b"\0\0"), kind=7, shape=(2,))),
        "of 11 bytes",
    ),
    "an int8 of 128": (
        graph(tensor(field(5, b"\x80\1"), kind=3)),
        "from 128 to 128; expected from -128 to 127",
    ),
    "a negative uint8": (graph(tensor(field(5, MINUS_1), kind=2)), "integers from -1 to -1; expected from 0 to 255"),
    "a raw bool of 2": (graph(tensor(field(9, b"\2"), kind=9)), "a byte above 1"),
    "a bool of 2": (graph(tensor(field(5, b"\2"), kind=9)), "integers from 2 to 2; expected from 0 to 1"),
    "half of 17 bits": (
        graph(tensor(field(5, b"\x80\x80\4"), kind=10)),
        "expected from 0 to 65535",
    ),
    "another place": (graph(tensor(RAW, field(14, 2))), "has its data in"),
    "both places": (graph(tensor(RAW, field(14, 1), field(4, bytes(4)))), "has its data in"),
    "a folder above": (graph(beside(location="../data")), "has data in '../data'"),
    "the folder above": (graph(beside(location="..")), "has data in '..'"),
    "an absolute path": (graph(beside(location="/etc/passwd")), "has data in '/etc/passwd'"),
    "a folder below": (graph(beside(location="below/data")), "has data in 'below/data'"),
    "a drive": (graph(beside(location="C:data")), "has data in 'C:data'"),
    "no location": (graph(beside()), "has data in ''"),
    "a location with a 0": (graph(beside(location="data\0")), "has data in"),
    "no such file": (graph(beside(location="other")), "has its data in 'other', which is not there"),
    "a link out of the folder": (graph(beside(location="link")), "has data in 'link'"),
    "a folder": (graph(beside(location="below")), "has its data in 'below', which is not there"),
    "beyond the end": (graph(beside(location="data", offset="5")), "is in 4 of 8 bytes from 5"),
    "far beyond the end": (graph(beside(location="data", offset="9" * 19)), "of 8 bytes from"),
    "another length": (graph(beside(location="data", length="8")), "is in 8 of 8 bytes from 0"),
    "no number": (graph(beside(location="data", offset="-4")), "is at {'offset': '-4'"),
    "a long number": (graph(beside(location="data", offset="0" * 60)), "is at"),
    "a digit of another script": (graph(beside(location="data", offset="٣")), "is at"),
    "a length beyond the end": (b"\x3a\x7f", "field 7 announces 127 bytes"),
}


@pytest.mark.parametrize(("data", "wrong"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, data: bytes, wrong: str) -> None:
    (tmp_path / "data").write_bytes(bytes(8))
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "data").write_bytes(bytes(8))
    (tmp_path / "link").symlink_to(tmp_path / "below" / "data")
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(FileFormatError) as error:
        formats.read(path, "onnx")
    assert str(error.value).startswith(f"{path}: ") and wrong in str(error.value)


def test_external_data_is_read_without_its_defect(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(np.array([3, 4], np.float32).tobytes())
    path = tmp_path / "net.onnx"
    path.write_bytes(graph(beside(location="data", offset="4", length="4", checksum="")))
    assert facts(formats.read(path, "onnx")) == facts({"a": np.array([4], np.float32)})


def test_unpacked_integers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(graph(tensor(field(7, 5), field(7, b"\6\7"), field(7, 8), kind=7, shape=(4,))))
    assert facts(formats.read(path, "onnx")) == facts({"a": np.array([5, 6, 7, 8])})


def test_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="is a graph, which 1 tensors do not make; expected another format"):
        formats.write(tmp_path / "net.onnx", {"a": np.zeros(1, np.float32)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_varints_round_trip(value: int) -> None:
    packed = _wire.encode_varint(value) * 3
    signed = value - (1 << 64) if value >> 63 else value
    assert _wire.decode_varints(Path("net"), packed).tolist() == [signed] * 3
    assert list(_wire.iterate_fields(Path("net"), memoryview(b"\x08" + _wire.encode_varint(value)))) == [(1, value)]


def quiet(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give every NaN one payload: protobuf 5 reads a signalling NaN as a quiet one."""
    floats = ("float16", "float32", "float64")
    return {
        name: np.where(np.isnan(array), np.array(np.nan, array.dtype), array) if array.dtype in floats else array
        for name, array in tensors.items()
    }


@pytest.mark.framework("port", "onnx")
def test_onnx_agrees_on_mutated_files(tmp_path: Path) -> None:
    """The reader and ONNX read the same from a broken file, where ONNX reads it."""
    whole, compared = model(draw(), raw=False).SerializeToString(), 0
    for data, ours in fuzz.read_mutations("onnx", whole, tmp_path / "net.onnx", 600):
        theirs = onnx.load_model_from_string(data).graph.initializer
        read_by_onnx = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in theirs}
        assert facts(quiet(ours)) == facts(quiet(read_by_onnx))
        compared += 1
    assert compared > 20
