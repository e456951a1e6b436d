"""Flax's MessagePack: files are exchanged with Flax, and hostile ones are refused."""

import struct
from pathlib import Path

import numpy as np
import pytest

from se_port import formats
from se_port.formats import msgpack
from se_spec import FileFormatError

from ...conftest import OnDemand
from .tensors import facts, one_of_each

flax = OnDemand("flax")

ARRAY = b"\xc7\x15\x01" + b"\x93" + b"\x91\x02" + b"\xa7float32" + b"\xc4\x08" + struct.pack("<2f", 1.5, -0.0)
"""Extension 1 of 21 bytes: the list of shape [2], dtype and 8 bytes."""
LITERAL = b"\x81" + b"\xa6params" + b"\x82" + b"\xa4bias" + ARRAY + b"\xa4step" + b"\x07"


def written(folder: Path, data: bytes) -> Path:
    path = folder / "weights.msgpack"
    path.write_bytes(data)
    return path


def tensors() -> dict[str, np.ndarray]:
    """Make tensors in branches of different depth."""
    answer = {f"params/{name}": array for name, array in one_of_each(msgpack.DTYPES).items()}
    moved = {"none": "batch_stats/0/none", "empty": "batch_stats/0/empty", "turned": "batch_stats/1/turned"}
    return answer | {place: answer.pop(f"params/{name}") for name, place in moved.items()}


def test_typed_file_is_read(tmp_path):
    read = formats.read(written(tmp_path, LITERAL), "msgpack")
    assert facts(read) == facts(
        {"params/bias": np.array([1.5, -0.0], np.float32), "params/step": np.array(7, np.int64)}
    )
    assert not read["params/bias"].flags.writeable
    assert msgpack.matches(tmp_path / "weights.msgpack", LITERAL[:64])
    assert not msgpack.matches(tmp_path / "weights.msgpack", b"PK\x03\x04")


def test_large_array_is_split_and_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(msgpack, "CHUNK_BYTES", 20)
    given = {"a/b": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "a/c": np.ones(2, np.float32)}
    formats.write(tmp_path / "weights.msgpack", given)
    assert msgpack.CHUNKED.encode() in (tmp_path / "weights.msgpack").read_bytes()
    assert facts(formats.read(tmp_path / "weights.msgpack", "msgpack")) == facts(given)


@pytest.mark.framework("flax")
@pytest.mark.parametrize("most", [1 << 30, 16])
def test_flax_reads_written_files(tmp_path, monkeypatch, most):
    monkeypatch.setattr(msgpack, "CHUNK_BYTES", most)
    formats.write(tmp_path / "weights.msgpack", tensors())
    tree = flax.serialization.msgpack_restore((tmp_path / "weights.msgpack").read_bytes())
    found = {f"params/{name}": value for name, value in tree["params"].items()}
    found |= {f"batch_stats/0/{name}": value for name, value in tree["batch_stats"]["0"].items()}
    assert facts(found | {"batch_stats/1/turned": tree["batch_stats"]["1"]["turned"]}) == facts(tensors())


def write_with_flax(folder: Path) -> tuple[Path, formats.Tensors]:
    """Write numbers, lists, and arrays that Flax splits."""
    bfloat16 = np.arange(4).astype(formats.bfloat16())
    tree = {
        "params": {"layers": [{"kernel": np.arange(6.0).reshape(2, 3)}, {"kernel": bfloat16}], 3: np.ones(2, np.int8)},
        "step": np.float32(2.5),
        "numbers": [1, -1, 300, 1 << 40, True, 1.5, 2 - 1j],
        "none": None,
        "text": "held by no array",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 8)
        path = written(folder, flax.serialization.to_bytes(tree))
    numbers = (np.array(number) for number in tree["numbers"])
    expected = {
        "params/layers/0/kernel": np.arange(6.0).reshape(2, 3),
        "params/layers/1/kernel": bfloat16,
        "params/3": np.ones(2, np.int8),
        "step": np.array(2.5, np.float32),
    } | {f"numbers/{place}": number for place, number in enumerate(numbers)}
    return path, expected


def array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    inner = b"\x93" + shape + bytes([0xA0 + len(dtype)]) + dtype + b"\xc4" + bytes([len(data)]) + data
    return b"\x81\xa1a\xc7" + bytes([len(inner)]) + b"\x01" + inner


HOSTILE = {
    "ends early": (LITERAL[:-3], "incomplete input"),
    "goes on": (LITERAL + b"\x00", "ExtraData"),
    "no dictionary": (b"\x93\x01\x02\x03", "which is no dictionary"),
    "empty": (b"", "not empty"),
    "a type that is none": (b"\x81\xa1a\xc1", "FormatError"),
    "many members": (b"\xdf\xff\xff\xff\xff", "4294967295 exceeds max_map_len"),
    "deep": (b"\x81\xa1a" + b"\x91" * 80 + b"\x00", "nested more than 64 deep"),
    "many values": (b"\x81\xa1a\xdd\x00\x08\x00\x00" + bytes(1 << 19), "524288 exceeds max_array_len"),
    "a slash in a key": (b"\x81\xa3a/b\x01", "without '/'"),
    "an empty key": (b"\x81\xa0\x01", "1 to 1024 characters"),
    "a list as a key": (b"\x81\x90\x01", "without '/'"),
    "one key twice": (b"\x82\xa1a\x01\xa1a\x02", "'a' twice"),
    "one key twice, once a number": (b"\x82\x00\x01\xa10\x02", "'0' twice"),
    "text that is none": (b"\x81\xa1\xff\x01", "UnicodeDecodeError"),
    "a long name": (b"".join(b"\x81\xda\x02\x00" + b"a" * 512 for _ in range(3)) + b"\x00", "name of 1025 characters"),
    "too few bytes": (array(b"\x91\x03", b"float32", bytes(8)), "has 8 bytes; expected 12"),
    "too many bytes": (array(b"\x91\x01", b"float32", bytes(8)), "(1,) has 8 bytes"),
    "a product that overflows": (array(b"\x92\xcf" + b"\xff" * 8 + b"\x02", b"int8", b""), "would take"),
    "a negative axis": (array(b"\x91\xff", b"int8", b""), "none negative"),
    "a dtype with objects": (array(b"\x91\x01", b"object", bytes(8)), "an array of 'object'"),
    "a shape that is no integer": (array(b"\x91\xc3", b"int8", b"\x00"), "not of integers"),
    "another extension": (b"\x81\xa1a\xd4\x09\x00", "extension 9"),
    "an extension within another": (b"\x81\xa1a\xd6\x01\x91\xd4\x01\x90", "within another"),
    "a time": (b"\x81\xa1a\xd6\xff" + bytes(4), "holds a Timestamp as 'a'"),
    "many small values": (b"\x81\xa1a\x92" + 2 * (b"\xdd\x00\x03\xff\xff" + bytes(0x3FFFF)), "values"),
    "a piece that is missing": (
        b"\x81\xa1a\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x02\xa6chunks\x80", "do not fit together"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path, data, words):
    with pytest.raises(FileFormatError) as error:
        formats.read(written(tmp_path, data), "msgpack")
    assert words in str(error.value) and "weights.msgpack" in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": np.zeros(1), "a/b": np.zeros(1)}, "lies within another tensor"),
        ({"a/b": np.zeros(1), "a": np.zeros(1)}, "beginning of another name"),
        ({"a//b": np.zeros(1)}, "empty part"),
        ({"a": np.array(["text"])}, "which is <U4"),
    ],
)
def test_unsupported_tensors_are_not_written(tmp_path, given, words):
    with pytest.raises(FileFormatError, match=words):
        formats.write(tmp_path / "weights.msgpack", given)
    assert not list(tmp_path.iterdir())
