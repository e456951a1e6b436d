"""TensorFlow's frozen graphs by hand: constants in every form of a TensorProto, and hostile ones."""

import struct

import numpy as np
import pytest

from se_port import formats
from se_port.formats._wire import encode_field as field
from se_port.formats._wire import encode_varint
from se_spec import FileFormatError

from . import fuzz
from .graphdefs import function, graph, node, saved_model, shape, tensor
from .tensors import is_mapped, peak_memory

R = np.random.default_rng(0)
WEIGHTS = {"conv/kernel": R.normal(size=(1, 1, 8, 2)).astype("f4"), "conv/bias": R.normal(size=2).astype("f4")}


def constants(**more):
    arrays = WEIGHTS | more
    return [node(name, "Const", value=array) for name, array in arrays.items()]


def save(folder, data, name="net.pb"):
    path = folder / name
    path.write_bytes(data)
    return path


def test_constants_are_views_of_the_mapped_file(tmp_path):
    inner = function("f", [], [node("conv/bias", "Const", value=np.ones(3, "f4"))], {})
    others = constants(axes=np.array([1, 2], np.int32), one=np.float32(1))
    path = save(tmp_path, graph([*others, node("x", "Placeholder")], [inner]))
    assert formats.format_of(path) == "graphdef"
    tensors = formats.read(path)
    assert list(tensors) == [*WEIGHTS, "conv/bias#2"]
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert is_mapped(tensors[name])


FLOATS = b"".join(b"\x2d" + struct.pack("<f", value) for value in (1.5, 2.5))
FORMS = {
    "floats": ("float32", field(5, struct.pack("<3f", 1.5, 2.5, 3.5)), [1.5, 2.5, 3.5]),
    "floats one by one": ("float32", FLOATS, [1.5, 2.5, 2.5]),
    "one for all": ("float64", field(6, struct.pack("<d", 7.0)), [7, 7, 7]),
    "none": ("float32", b"", [0, 0, 0]),
    "bits of float16": ("float16", field(13, encode_varint(0x3C00) + encode_varint(0x4000)), [1, 2, 2]),
    "bits of bfloat16": ("bfloat16", field(13, encode_varint(0x3F80)), [1, 1, 1]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_tensor_is_read(tmp_path, form):
    dtype, more, expected = FORMS[form]
    zeros = np.zeros(3, formats.bfloat16() if dtype == "bfloat16" else dtype)
    path = save(tmp_path, graph([node("w", "Const", value=field(8, tensor(zeros, more)))]))
    found = formats.read(path)["w"]
    assert found.dtype.name == dtype
    np.testing.assert_array_equal(found.astype("f8"), expected)


def with_tensor(message):
    return graph([node("w", "Const", value=field(8, message))])


HUGE = shape([2**40, 2**40])
HOSTILE = {
    "no node": (b"", "not empty"),
    "no constant": (graph([node("x", "Placeholder")]), "without weights"),
    "no message": (b"\x0a\x7f", "announces 127 bytes"),
    "a node that is a group": (b"\x0b", "wire type 3"),
    "no text": (graph([field(1, b"\xff")]), "not UTF-8"),
    "bytes of another shape": (with_tensor(tensor(np.ones(3, "f4"), field(4, bytes(8)))), "has 8 bytes"),
    "too many values": (with_tensor(tensor(np.ones(2, "f4"), field(5, bytes(12)))), "3 values"),
    "values in two fields": (with_tensor(tensor(np.ones(2, "f4"), field(5, bytes(8)) + field(6, bytes(8)))), "fields"),
    "a gigantic shape": (with_tensor(field(1, 1) + field(2, HUGE) + field(5, bytes(4))), "would take"),
    "one number for a gigabyte": (with_tensor(field(1, 1) + field(2, shape([2**28])) + field(5, bytes(4))), "repeats"),
    "a negative axis": (with_tensor(field(1, 1) + field(2, shape([-2, -2]))), "negative"),
    "many axes": (with_tensor(field(1, 1) + field(2, shape([1] * 33))), "33 axes"),
    "a map of numbers": (graph([field(5, field(1, 3))]), "keys or values are numbers"),
}


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path, data, words):
    with pytest.raises(FileFormatError) as error:
        dict(formats.read(save(tmp_path, data), "graphdef"))
    assert words in str(error.value) and "net.pb" in str(error.value)


def test_a_number_that_fills_a_shape_takes_no_memory(tmp_path):
    path = save(tmp_path, with_tensor(field(1, 1) + field(2, shape([2**24])) + field(5, struct.pack("<f", 2.0))))
    assert peak_memory(lambda: formats.read(path)["w"][-1]) < 1 << 20


def test_saved_models_without_variables_have_their_weights_in_the_graph(tmp_path):
    path = save(tmp_path, saved_model(graph(constants())), "saved_model.pb")
    for given in (path, tmp_path):
        assert formats.format_of(given) == "tensorflow"
        np.testing.assert_array_equal(formats.read(given)["conv/bias"], WEIGHTS["conv/bias"])
    with pytest.raises(FileFormatError, match="a TensorFlow SavedModel without a graph"):
        formats.read(save(tmp_path, b"\x08\x01", "saved_model.pb"))


def test_nothing_is_written(tmp_path):
    with pytest.raises(FileFormatError, match="is a TensorFlow graph, which 2 tensors do not make"):
        formats.write(tmp_path / "net.pb", WEIGHTS)


def test_mutated_files_are_read_or_refused(tmp_path, mutations):
    filled = node("filled", "Const", value=field(8, tensor(np.ones(9, "f4"), field(5, bytes(4)))))
    fuzz.check_mutations("graphdef", save(tmp_path, graph([*constants(), filled])), mutations)
