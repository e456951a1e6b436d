"""MatConvNet's ``.mat``, against bytes typed out and SciPy's own reader and writer of MATLAB's files."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from se_port import formats
from se_port.formats import _base, matconvnet
from se_spec import FileFormatError

from ...conftest import OnDemand
from .tensors import facts

scipy_io = OnDemand("scipy.io")

VALUE = (
    "0e000000 38000000"  # an array, 56 bytes
    "  06000000 08000000  07000000 00000000"  # of class single
    "  05000000 08000000  01000000 02000000"  # 1 x 2
    "  01000000 00000000"  # without a name
    "  07000000 08000000  0000803f 000000c0"  # 1, -2
)
LITERAL = (
    b"MATLAB 5.0 MAT-file".ljust(124)
    + b"\x00\x01IM"
    + bytes.fromhex(
        "0e000000 c8000000"  # an array, 200 bytes
        "  06000000 08000000  02000000 00000000"  # a structure
        "  05000000 08000000  01000000 01000000"  # 1 x 1
        "  01000000 06000000  706172616d730000"  # params
        "  05000400 06000000"  # names of fields take 6 bytes each
        "  01000000 0c000000  6e616d650000 76616c756500 00000000"  # name, value
        "  0e000000 30000000"  # the name: an array, 48 bytes
        "    06000000 08000000  04000000 00000000"  # of characters
        "    05000000 08000000  01000000 02000000"  # 1 x 2
        "    01000000 00000000"
        "    10000200 77620000" + VALUE  # wb
    )
)


def draw() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    weight = random.standard_normal((3, 3, 2, 4)).astype(np.float32)
    weight.view(np.uint32)[0, 0, 0, :2] = 0x7FC01234, 0x80000000  # a NaN's payload, and -0
    others = {f"other_{code}": np.array([[1, 0, 1]]).astype(code) for code in (*matconvnet.CLASSES.values(), "?")}
    return {"conv1_filter": weight, "conv1_bias": weight[0, 0, :1].T, "é": np.zeros((0, 3), np.float32), **others}


def test_typed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    path.write_bytes(LITERAL)
    tensors = formats.read(path, "matconvnet")
    assert facts(tensors) == facts({"wb": np.array([[1, -2]], np.float32)})
    assert not tensors["wb"].flags.writeable
    assert matconvnet.matches(path, b"") and matconvnet.matches(path, LITERAL[:64])


@pytest.mark.framework("port-orbax")
def test_scipy_reads_written_files(tmp_path: Path) -> None:
    formats.write(tmp_path / "net.mat", draw())
    params = scipy_io.loadmat(tmp_path / "net.mat")["params"]
    assert params.shape == (1, len(draw())) and params.dtype.names == ("name", "value")
    for element, (name, array) in zip(params[0], draw().items(), strict=True):
        stored = array.astype(np.uint8) if array.dtype == np.bool_ else array  # SciPy tells a logical as its bytes
        assert element["name"].tolist() == [name]
        assert facts({"": element["value"]}) == facts({"": stored})


def structures(tensors: formats.Tensors) -> np.ndarray:
    params = np.empty((1, len(tensors)), [(name, object) for name in ("name", "value", "learningRate", "weightDecay")])
    for place, (name, array) in enumerate(tensors.items()):
        params[0, place] = (name, array, 1.0, 1.0)
    return params


def write_with_scipy(folder: Path, *, inside: bool, compressed: bool) -> tuple[Path, formats.Tensors]:
    """Write a network; ``inside`` puts it in a structure ``net``."""
    tensors = {name: array for name, array in draw().items() if name != "é"}
    cells = np.empty((1, 2), object)
    cells[0, :] = ["dagnn.Conv", {"block": {"size": np.ones((1, 4))}}]
    network = {"vars": {"name": "x"}, "params": structures(tensors), "layers": cells, "meta": {"deep": {"er": 1.0}}}
    scipy_io.savemat(folder / "net.mat", {"net": network} if inside else network, do_compression=compressed)
    return folder / "net.mat", tensors


def tag(kind: int, data: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def head(flags: int, shape: tuple[int, ...], name: bytes, order: str = "<") -> bytes:
    lengths = struct.pack(f"{order}{len(shape)}i", *shape)
    return tag(6, struct.pack(f"{order}II", flags, 0), order) + tag(5, lengths, order) + tag(1, name, order)


def array(flags: int, shape: tuple[int, ...], kind: int, data: bytes, order: str = "<") -> bytes:
    return tag(14, head(flags, shape, b"", order) + tag(kind, data, order), order)


NAMES = (b"name", b"value")


def params(*values: bytes, names: tuple[bytes, ...] = NAMES, order: str = "<", count: int | None = None) -> bytes:
    words = b"".join(name.ljust(8, b"\0") for name in names)
    fields = tag(5, struct.pack(f"{order}i", 8), order) + tag(1, words, order)
    shape = (1, len(values) // max(len(names), 1) if count is None else count)
    return tag(14, head(2, shape, b"params", order) + fields + b"".join(values), order)


def nameless(width: int) -> bytes:
    """Encode a structure with one byte of field names, whose announced width is ``width``."""
    return tag(14, head(2, (1, 1), b"params") + tag(5, struct.pack("<i", width)) + tag(1, b"n"))


def saved(*elements: bytes, order: str = "<") -> bytes:
    mark = {"<": b"\x00\x01IM", ">": b"\x01\x00MI"}[order]
    return b"MATLAB 5.0 MAT-file".ljust(124) + mark + b"".join(elements)


def test_big_endian_and_shortened_integers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.mat"
    name = array(4, (1, 1), 4, "é".encode("utf-16-be"), ">")
    value = array(7, (2, 1), 3, struct.pack(">2h", -300, 5), ">")
    other = array(4, (1, 1), 2, b"b", ">")
    logical = array(0x209, (1, 2), 2, b"\0\1", ">")
    path.write_bytes(saved(params(name, value, other, logical, order=">"), order=">"))
    want = {"é": np.array([[-300], [5]], np.float32), "b": np.array([[False, True]])}
    assert facts(formats.read(path, "matconvnet")) == facts(want)


A = array(4, (1, 1), 16, b"a")
ONE = array(7, (1, 1), 7, bytes(4))
GOOD = params(A, ONE)
OBJECT = tag(14, tag(6, struct.pack("<II", 17, 0)) + tag(1, b"net") + tag(1, b"MCOS") + tag(1, b"dagnn.DagNN"))


def bomb(size: int, announced: int) -> bytes:
    """Compress zeros within ``params`` a thousandfold."""
    inner = head(2, (1, 1), b"params")
    packed = zlib.compress(struct.pack("<II", 14, announced) + inner + bytes(size - len(inner)))
    return struct.pack("<II", 15, len(packed)) + packed


def compressed(data: bytes) -> bytes:
    return struct.pack("<II", 15, len(data)) + data


HOSTILE = {
    "nothing": (b"", "a file that is not empty"),
    "level 4": (bytes(200), "has no header of level 5"),
    "level 7.3": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM", "is MATLAB's level 7.3, which is HDF5"),
    "no variables": (saved(), "has the variables []"),
    "a SimpleNN": (saved(tag(14, head(1, (0, 0), b"layers"))), "has the variables ['layers']"),
    "two sets": (saved(GOOD, GOOD), "has the variables ['params', 'params']"),
    "an object": (saved(OBJECT), "has 'net' as an object"),
    "no parameters": (saved(params()), "has no parameters"),
    "other fields": (saved(params(A, names=(b"name",))), "has parameters with the fields name"),
    "a field twice": (saved(params(A, ONE, A, names=(b"name", b"value", b"name"))), "has a structure with the fields"),
    "a name twice": (saved(params(A, ONE, A, ONE)), "has the parameter 'a' twice"),
    "no name": (saved(params(array(4, (0, 0), 16, b""), ONE)), "has one without a name"),
    "a name of numbers": (saved(params(ONE, ONE)), "has a name of class 7"),
    "two lines of a name": (saved(params(array(4, (2, 1), 16, b"ab"), ONE)), "has a name of class 4 (2, 1)"),
    "a broken name": (saved(params(array(4, (1, 1), 16, b"\xff"), ONE)), "has a name that is broken"),
    "complex": (saved(params(A, array(0x807, (1, 1), 7, bytes(4)))), "'a' is complex"),
    "sparse": (saved(params(A, array(5, (1, 1), 5, bytes(4)))), "'a' is sparse"),
    "an object as value": (saved(params(A, OBJECT)), "'a' is an object"),
    "cells": (saved(params(A, array(1, (1, 1), 14, b""))), "'a' is a cell array"),
    "stored longer than it is": (saved(params(A, array(7, (1, 1), 9, bytes(8)))), "class f4 and is stored as type 9"),
    "fewer values than the shape": (saved(params(A, array(7, (1, 2), 7, bytes(4)))), "'a' (1, 2) has 4 bytes"),
    "a negative length": (saved(params(A, array(7, (-1, -1), 7, bytes(4)))), "'a' has the shape (-1, -1)"),
    "33 axes": (saved(params(A, array(7, (1,) * 33, 7, bytes(4)))), "an array of 33 axes"),
    "hidden by a length of 0": (saved(params(A, array(7, (0,) + (1 << 30,) * 4, 7, b""))), "would take"),
    "more elements than there are": (saved(params(A, ONE, count=1 << 30)), "would take 17,179,869,184 bytes"),
    "elements without fields": (saved(params(names=(), count=1 << 30)), "would take 8,589,934,592 bytes"),
    "a name of a field cut": (
        saved(tag(14, head(2, (1, 1), b"params") + tag(5, b"\5\0\0\0") + tag(1, b"n"))),
        "5 each",
    ),
    "no field's length": (saved(nameless(0)), "0 each"),
    "a short element of 5": (saved(tag(14, struct.pack("<HH4s", 6, 5, b""))), "a short element of 5 bytes"),
    "another element within": (saved(tag(14, tag(5, bytes(8)))), "has an element of type 5 within an array"),
    "another element": (saved(tag(9, bytes(8))), "has an element of type 9"),
    "cut": (saved(GOOD)[:-8], "ends 8 bytes too early"),
    "cut in the header": (saved(GOOD)[:127], "has no header of level 5"),
    "cut in a tag": (saved(GOOD) + bytes(4), "ends 4 bytes too early"),
    "compressed, broken": (saved(compressed(b"\x78\x9c\xff\xff")), "a compressed element that is broken"),
    "compressed, cut": (saved(compressed(zlib.compress(GOOD)[:-5])), "does not end where it announces"),
    "compressed, empty": (saved(compressed(zlib.compress(b""))), "ends 8 bytes too early"),
    "compressed, nested": (saved(compressed(zlib.compress(compressed(b"")))), "a compressed element of type 15"),
    "a bomb": (saved(bomb(1 << 20, 1 << 20)), "'params' (1048576,) would take"),
    "a bomb that announces less": (saved(bomb(1 << 20, 512)), "an element of type 0 within an array"),
}


@pytest.mark.parametrize(("data", "wrong"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, data: bytes, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 1 << 16)
    path = tmp_path / "net.mat"
    path.write_bytes(data)
    with pytest.raises(FileFormatError) as error:
        formats.read(path, "matconvnet")
    assert str(error.value).startswith(f"{path}: ") and wrong in str(error.value)


CANNOT = {
    "one axis": (np.zeros(3, np.float32), "cannot hold 'a', float32 (3,)"),
    "no axes": (np.zeros((), np.float32), "cannot hold 'a', float32 ()"),
    "float16": (np.zeros((1, 1), np.float16), "cannot hold 'a', float16 (1, 1)"),
    "complex": (np.zeros((1, 1), np.complex64), "cannot hold 'a', complex64 (1, 1)"),
}


@pytest.mark.parametrize(("value", "wrong"), CANNOT.values(), ids=CANNOT)
def test_unsupported_tensors_are_not_written(tmp_path: Path, value: np.ndarray, wrong: str) -> None:
    with pytest.raises(FileFormatError) as error:
        formats.write(tmp_path / "net.mat", {"a": value})
    assert wrong in str(error.value) and not list(tmp_path.iterdir())


def write_compressed(folder: Path) -> Path:
    """Write a compressed file; level 0 keeps the bytes as they are, so that a mutation reaches the arrays."""
    formats.write(folder / "whole.mat", draw())
    element = (folder / "whole.mat").read_bytes()[128:]
    other = tag(14, head(7, (0, 0), b"meta") + tag(7, b""))
    data = saved(compressed(zlib.compress(other)), compressed(zlib.compress(element, 0)))
    (folder / "net.mat").write_bytes(data)
    return folder / "net.mat"


def test_compressed_file_is_read(tmp_path: Path) -> None:
    assert facts(formats.read(write_compressed(tmp_path), "matconvnet")) == facts(draw())
