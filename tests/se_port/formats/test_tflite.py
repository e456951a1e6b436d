"""TensorFlow Lite's files, by hand: constants are views, and hostile offsets, sizes and types are refused."""

import struct

import numpy as np
import pytest

from se_port import formats
from se_port.formats import tflite
from se_spec import FileFormatError

from . import fuzz
from .flatbuffers import encode
from .tensors import is_mapped, peak_memory

R = np.random.default_rng(0)
WEIGHTS = {"a/kernel": R.normal(size=(2, 1, 1, 8)).astype("f4"), "a/bias": R.normal(size=2).astype("f4")}
TYPES = {np.dtype(name): number for number, name in enumerate(tflite.TYPES) if name.islower() and name != "bfloat16"}


def tensor(name, array=None, buffer=0, **fields):
    """A tensor's table; fields by number, as ``f4={...}``."""
    shape = np.array([1, 4, 4, 8] if array is None else array.shape, "<i4")
    kind = 0 if array is None else TYPES[array.dtype]
    more = {int(key[1:]): value for key, value in fields.items()}
    return {0: shape, 1: ("b", kind), 2: ("I", buffer), 3: name.encode(), **more}


def model(arrays=None, operators=(), codes=(), more=(), subgraphs=1, **fields):
    """A model with these constants, in buffers from 1 on; its root as a table."""
    arrays = WEIGHTS if arrays is None else arrays
    tensors = [tensor(name, array, number) for number, (name, array) in enumerate(arrays.items(), 1)]
    graph = {0: [*tensors, *more], 3: list(operators)}
    buffers = [{}, *({0: np.frombuffer(array.tobytes(), np.uint8)} for array in arrays.values())]
    number = {int(key[1:]): value for key, value in fields.items()}
    return {0: ("I", 3), 1: [{3: ("i", code)} for code in codes], 2: [graph] * subgraphs, 4: buffers, **number}


def save(folder, root, name="net.tflite"):
    path = folder / name
    path.write_bytes(root if isinstance(root, bytes) else encode(root))
    return path


def test_constants_are_views_of_the_mapped_file(tmp_path):
    shape = np.array([1, 8], np.int32)
    path = save(tmp_path, model({**WEIGHTS, "shape": shape, "two": np.ones((), "f4")}), "no ending")
    assert formats.format_of(path) == "tflite"
    tensors = formats.read(path)
    assert list(tensors) == list(WEIGHTS)
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, WEIGHTS[name])
        assert is_mapped(array)


@pytest.mark.parametrize("dtype", [dtype for dtype in TYPES if dtype.kind == "f"], ids=str)
def test_every_type_of_floats_is_read(tmp_path, dtype):
    array = R.normal(size=(3, 5)).astype(dtype)
    np.testing.assert_array_equal(formats.read(save(tmp_path, model({"w": array})))["w"], array)


def test_integers_of_four_bits_are_unpacked(tmp_path):
    root = model({"w": np.zeros(3, np.int8)})
    root[2][0][0] = [tensor("w", None, 1, f0=np.array([3, 1], "<i4"), f1=("b", 17), f4={2: np.ones(1, "<f4")})]
    root[4][1] = {0: b"\xf7\x08"}
    np.testing.assert_array_equal(formats.read(save(tmp_path, root))["w"], np.int8([[7], [-1], [-8]]))


def test_data_behind_the_flatbuffer_is_read(tmp_path):
    root, array = model({"w": np.zeros(4, "f4")}), np.arange(4, dtype="f4")
    size = len(encode({**root, 4: [{}, {1: ("Q", 99), 2: ("Q", 16)}]}))
    path = save(tmp_path, encode({**root, 4: [{}, {1: ("Q", size), 2: ("Q", 16)}]}) + array.tobytes())
    np.testing.assert_array_equal(formats.read(path)["w"], array)


def test_tensors_of_one_name_are_numbered_and_nameless_ones_named(tmp_path):
    more = [tensor("a/kernel", WEIGHTS["a/kernel"], 1), tensor("", WEIGHTS["a/bias"], 2)]
    assert list(formats.read(save(tmp_path, model(more=more)))) == ["a/kernel", "a/bias", "a/kernel#2", "tensor 3"]


def test_nothing_is_written(tmp_path):
    with pytest.raises(FileFormatError, match="is a TensorFlow Lite model, a graph, which 2 tensors do not make"):
        formats.write(tmp_path / "net.tflite", WEIGHTS)


HOSTILE = {
    "no signature": (encode(model(), b"TFL2"), "a TensorFlow Lite model"),
    "empty": (b"", "not empty"),
    "a root beyond": (b"\xff\xff\xff\x7fTFL3" + bytes(8), "an offset at byte 0"),
    "a root without vtable": (b"\x08\0\0\0TFL3" + b"\xff\xff\xff\x7f" + bytes(8), "vtable"),
    "a vtable of two bytes": (b"\x0c\0\0\0TFL3" + b"\2\0\0\0\4\0\0\0" + bytes(8), "vtable"),
    "no graph": (encode({**model(), 2: []}), "without a graph"),
    "no weights": (encode(model({})), "without weights"),
    "a buffer that is not there": (encode(model(more=[tensor("w", None, 9)])), "in buffer 9"),
    "a type that is not there": (encode(model(more=[tensor("w", f1=("b", 77))])), "of type 77"),
    "many axes": (encode(model(more=[tensor("w", f0=np.ones(33, "<i4"))])), "33 axes"),
    "a shape of other bytes": (encode(model(more=[tensor("w", None, 1)])), "512, as many as its shape"),
    "a gigantic shape": (encode(model(more=[tensor("w", None, 1, f0=np.full(4, 2**31 - 1, "<i4"))])), "would take"),
    "a negative axis": (encode(model(more=[tensor("w", None, 1, f0=np.array([-4, -4], "<i4"))])), "negative"),
    "a sparse tensor": (encode(model(more=[tensor("w", WEIGHTS["a/bias"], 2, f6={})])), "which is sparse"),
    "another file": (encode(model(more=[tensor("w", f10=("I", 1))])), "in another file"),
    "data beyond the file": (encode({**model(), 4: [{}] * 2 + [{1: ("Q", 2**60), 2: ("Q", 16)}]}), "a buffer of 16"),
    "an operator that is not there": (encode(model(operators=[{0: ("I", 5)}])), "an operator 5 of 0"),
    "a tensor that is not there": (encode(model(codes=[0], operators=[{1: np.array([9], "<i4")}])), "numbers that"),
    "a name that is no text": (encode(model(more=[tensor("w", f3=b"\xff")])), "not UTF-8"),
    "a vector beyond": (encode(model())[:-2], "one within"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path, data, words):
    path = save(tmp_path, data)
    with pytest.raises(FileFormatError) as error:
        dict(formats.read(path, "tflite"))
    assert words in str(error.value) and "net.tflite" in str(error.value)


def test_shared_tables_do_not_multiply_a_small_file(tmp_path):
    """Each of 2,000 operators is one table with 20,000 inputs, so that a file of 100 KB describes 160 MB."""
    operator = {0: ("I", 0), 1: np.zeros(20_000, "<i4"), 2: np.zeros(1, "<i4")}
    path = save(tmp_path, model(codes=[0], operators=[operator] * 2_000))

    def read() -> None:
        with pytest.raises(FileFormatError, match="shares its tables too often"):
            formats.read(path)

    assert peak_memory(read) < 16 << 20


def test_a_table_that_contains_itself_is_refused(tmp_path):
    """The root's subgraphs are the root itself, whose tensors are then its operator codes, and so on."""
    data = bytearray(encode(model()))
    root = struct.unpack_from("<I", data, 0)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    field = root + struct.unpack_from("<H", data, vtable + 4 + 2 * 2)[0]
    vector = field + struct.unpack_from("<I", data, field)[0]
    struct.pack_into("<I", data, vector + 4, (root - vector - 4) % 2**32)
    with pytest.raises(FileFormatError, match="an offset"):
        formats.read(save(tmp_path, bytes(data)))


def test_mutated_files_are_read_or_refused(tmp_path, mutations):
    fuzz.check_mutations("tflite", save(tmp_path, model(codes=[3, 0], operators=[])), mutations)
