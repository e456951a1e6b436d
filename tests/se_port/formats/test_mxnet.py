"""MXNet's ``.params``, against bytes typed out and a writer of the test's own."""

import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from se_port import formats
from se_port.formats import mxnet
from se_spec import FileFormatError

from .tensors import facts

LITERAL = bytes.fromhex(
    "1201000000000000 0000000000000000"  # the list's signature, and 8 bytes that are kept free
    "0200000000000000"  # two arrays
    "c9fa93f9 00000000"  # the first is of version 2, and dense
    "02000000 0100000000000000 0200000000000000"  # two axes, of 1 and 2
    "01000000 00000000 00000000"  # on CPU 0, float32
    "0000803f 000000c0"  # 1, -2
    "01000000 02000000"  # the second is of the first kind: one axis, of 2
    "02000000 01000000 04000000"  # on GPU 1, int32
    "07000000 ffffffff"  # 7, -1
    "0200000000000000"  # two names
    "0500000000000000 6172673a61"  # arg:a
    "0500000000000000 6175783a62"  # aux:b
)


def draw() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weight = random.standard_normal((4, 3, 2, 2)).astype(np.float32)
    weight.view(np.uint32)[0, 0, 0] = 0x7FC01234, 0x80000000  # a NaN's payload, and -0
    dtypes = [np.dtype(name) for name in mxnet.CODES if name != "bfloat16"] + [np.dtype(ml_dtypes.bfloat16)]
    others = {f"aux:{dtype}": np.array([[1, 0], [0, 1]]).astype(dtype) for dtype in dtypes}
    return {"arg:conv0_weight": weight, "arg:none": np.zeros((0, 3), np.float32), **others}


def test_typed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net-0000.params"
    path.write_bytes(LITERAL)
    tensors = formats.read(path, "mxnet")
    assert {name: array.tolist() for name, array in tensors.items()} == {"arg:a": [[1, -2]], "aux:b": [7, -1]}
    assert [str(array.dtype) for array in tensors.values()] == ["float32", "int32"]
    assert not tensors["arg:a"].flags.writeable
    assert mxnet.matches(path, LITERAL[:64]) and not mxnet.matches(path, LITERAL[1:64])


def record(head: str, *numbers: int, data: bytes = bytes(8)) -> bytes:
    return struct.pack(f"<{head}", *numbers) + data


def listed(*records: bytes, names: tuple[bytes, ...] = (b"a",), count: int | None = None) -> bytes:
    named = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    counts = len(records) if count is None else count
    return struct.pack("<3Q", 0x112, 0, counts) + b"".join(records) + struct.pack("<Q", len(names)) + named


CPU = (1, 0)
RECORDS = {
    "first": record("2I3i", 1, 2, *CPU, 0),
    "version 1": record("IIq3i", 0xF993FAC8, 1, 2, *CPU, 0),
    "version 2": record("IiIq3i", 0xF993FAC9, 0, 1, 2, *CPU, 0),
    "version 3": record("IiIq3i", 0xF993FACA, 0, 1, 2, *CPU, 0),
}


@pytest.mark.parametrize("version", RECORDS)
def test_every_version_is_read(tmp_path: Path, version: str) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(listed(RECORDS[version]))
    assert facts(formats.read(path, "mxnet")) == facts({"a": np.zeros(2, np.float32)})


def test_scalar_of_version_3_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(listed(record("IiI3i", 0xF993FACA, 0, 0, *CPU, 1)))
    assert facts(formats.read(path, "mxnet")) == facts({"a": np.zeros(())})


def test_version_2_is_written(tmp_path: Path) -> None:
    formats.write(tmp_path / "net.params", {"a": np.zeros(2, np.float32)})
    assert (tmp_path / "net.params").read_bytes() == listed(RECORDS["version 2"])


GOOD = RECORDS["version 2"]
HOSTILE = {
    "nothing": (b"", "a file that is not empty"),
    "another signature": (b"\x13" + listed(GOOD)[1:], "does not begin as a list of arrays"),
    "no names": (listed(GOOD, names=()), "has 1 arrays and 0 names"),
    "no arrays": (listed(names=()), "has 0 arrays and 0 names"),
    "a name twice": (listed(GOOD, GOOD, names=(b"a", b"a")), "2 names, 1 of them different"),
    "a name that is not UTF-8": (listed(GOOD, names=(b"\xff",)), "a name that is not UTF-8"),
    "a name beyond the end": (listed(GOOD)[:-1], "ends 1 bytes too early"),
    "more after the names": (listed(GOOD) + b"\0", "has 1 bytes after the last name"),
    "more arrays than there are": (listed(GOOD, count=1 << 62), "too early"),
    "sparse": (listed(record("2i", 0xF993FAC9 - (1 << 32), 1)), "array 0 has storage type 1"),
    "no value": (listed(record("IiI", 0xF993FAC9, 0, 0)), "array 0 has no axes"),
    "no value, as at first": (listed(record("I", 0)), "array 0 has no axes"),
    "an unknown version": (listed(record("I", 0xF993FACB)), "array 0 begins with 0xf993facb"),
    "33 axes": (listed(record("IiI", 0xF993FAC9, 0, 33)), "and 33 axes"),
    "an unknown type": (listed(record("IiIq3i", 0xF993FAC9, 0, 1, 2, *CPU, 13)), "array 0 has the type 13"),
    "a negative length": (listed(record("IiIq3i", 0xF993FAC9, 0, 1, -1, *CPU, 0)), "at most 32 axes, none negative"),
    "neither true nor false": (listed(record("IiIq3i", 0xF993FAC9, 0, 1, 1, *CPU, 7, data=b"\2")), "a byte above 1"),
    "more than there is": (listed(record("IiIq3i", 0xF993FAC9, 0, 1, 1 << 61, *CPU, 0)), "would take"),
    "hidden by a length of 0": (
        listed(record("IiI3q3i", 0xF993FAC9, 0, 3, 0, 1 << 62, 1 << 62, *CPU, 0, data=b"")),
        "would take",
    ),
}


@pytest.mark.parametrize(("data", "wrong"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, data: bytes, wrong: str) -> None:
    path = tmp_path / "net.params"
    path.write_bytes(data)
    with pytest.raises(FileFormatError) as error:
        formats.read(path, "mxnet")
    assert str(error.value).startswith(f"{path}: ") and wrong in str(error.value)


CANNOT = {
    "no axes": (np.zeros((), np.float32), "cannot hold 'a', which has no axes"),
    "complex": (np.zeros(1, np.complex64), "cannot hold 'a', which is complex64"),
    "text": (np.array(["b"]), "cannot hold 'a'"),
}


@pytest.mark.parametrize(("array", "wrong"), CANNOT.values(), ids=CANNOT)
def test_unsupported_tensors_are_not_written(tmp_path: Path, array: np.ndarray, wrong: str) -> None:
    with pytest.raises(FileFormatError) as error:
        formats.write(tmp_path / "net.params", {"a": array})
    assert wrong in str(error.value) and not list(tmp_path.iterdir())
