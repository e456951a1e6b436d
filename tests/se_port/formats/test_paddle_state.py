"""Paddle's state dicts: pickles of NumPy, in each protocol that Paddle wrote, and hostile ones."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from se_port import formats
from se_port.formats import _base
from se_port.formats import paddle_state as reader
from se_spec import FileFormatError

from . import fuzz
from .tensors import is_mapped
from .test_torch import Runs, text

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "conv.bias": np.float32([1, 2]),
    "turned": np.arange(600, dtype=np.float64).reshape(30, 20).T,
    "half": np.ones(50, np.float16),
    "count": np.int64([3]),
    "mask": np.array([True, False]),
    "bits": np.full(40, 0x3F80, np.uint16),
    "scalar": np.array(4, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
NAMES = {"StructuredToParameterName@@": {name: name for name in ARRAYS}}


def write(tmp_path: Path, value: Any, protocol: int = 4, name: str = "net.pdparams") -> Path:
    path = tmp_path / name
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_read(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path, {**ARRAYS, **NAMES}, protocol)
    assert formats.format_of(path) == "paddle_state"
    tensors = formats.read(path)
    assert list(tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert tensors[name].dtype == array.dtype
        assert np.array_equal(tensors[name], array)
        assert not tensors[name].flags.writeable or protocol in (2, 5)
        assert array.nbytes <= 64 or protocol in (2, 5) or is_mapped(tensors[name])
    with pytest.raises(FileFormatError, match="which is not written"):
        reader.write(path, tensors)


def test_pairs_of_name_and_array_and_inner_dictionaries_are_read(tmp_path: Path) -> None:
    value = {
        "w": ("linear_0.w_0", ARRAYS["conv.bias"]),
        "master_weights": {"w": ARRAYS["conv.weight"]},
        "LR_Scheduler": {"last_epoch": 3, "last_lr": np.float64(0.5)},
    }
    tensors = formats.read(write(tmp_path, value, name="net.pdopt"))
    assert list(tensors) == ["w", "master_weights.w"]


def test_a_dictionary_in_itself_is_read_once(tmp_path: Path) -> None:
    value: dict[str, Any] = {"w": ARRAYS["conv.bias"]}
    value |= {"a": value, "b": value}
    assert list(formats.read(write(tmp_path, value))) == ["w"]


def array(shape: bytes = b"K\2\x85", data: bytes = b"C\x08" + bytes(8), kind: bytes = b"X\2\0\0\0f4") -> bytes:
    """Encode an array; each part is encoded."""
    dtype = b"cnumpy\ndtype\n" + kind + b"\x89\x88\x87R(K\3X\1\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R(K\1"
        + shape
        + dtype
        + b"\x89"
        + data
        + b"tb"
    )


def state(value: bytes) -> bytes:
    return b"\x80\4}" + text("w") + value + b"s."


HOSTILE = {
    "no pickle": (b"GIF89a", "its pickle is broken"),
    "half of it": (pickle.dumps(ARRAYS, 4)[:300], "its pickle is broken"),
    "a list": (pickle.dumps([1], 4), "that holds a list"),
    "no arrays": (pickle.dumps({"epoch": 3}, 4), "without arrays; its keys are ['epoch']"),
    "slices": (pickle.dumps({"UnpackBigParamInfor@@": {}}, 4), "in slices"),
    "an enormous shape": (state(array(b"\x8a\x08" + bytes(6) + b"\1\0\x85")), "would take"),
    "a shape beyond its bytes": (state(array(b"K\3\x85")), "has 8 bytes; expected 12"),
    "a negative axis": (state(array(b"J\xff\xff\xff\xff\x85")), "none negative"),
    "a shape of truths": (state(array(b"\x88\x85")), "and no dtype of numbers"),
    "objects": (state(array(kind=b"X\2\0\0\0O8")), "calls numpy.dtype"),
    "values in a list": (state(array(data=b"]")), "has a list as its values"),
    "a state of another kind": (state(array(shape=b"K\2")), "the opcode BUILD"),
    "an array without a state": (
        state(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"), "no dtype of numbers"),
    "an array of another class": (
        state(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\0\x85C\1b\x87R"), "in a way that is not read"),
    "a truth of 2": (state(array(b"K\1\x85", b"C\1\2", b"X\2\0\0\0b1")), "a byte above 1"),
    "a LoDTensor": (state(b"cbuiltins\neval\n" + text("1") + b"\x85R"), "asks for builtins.eval"),
    "a text that is no bytes": (state(b"c_codecs\nencode\n" + text("€") + text("latin1") + b"\x86R"), "broken"),
    "another encoding": (state(b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R"), "calls _codecs.encode"),
    "one name twice": (state(array() + b"s" + text("w") + array()), "'w' twice"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 1 << 30)
    path = write(tmp_path, data)
    with pytest.raises(FileFormatError) as caught:
        formats.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_the_hostile_array_is_readable_without_its_defect(tmp_path: Path) -> None:
    assert formats.read(write(tmp_path, state(array())))["w"].tolist() == [0, 0]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_in_a_pickle_never_runs(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path, {"w": Runs(tmp_path / "ran")}, protocol)
    with pytest.raises(FileFormatError, match=r"asks for posix\.mkdir"):
        formats.read(path)
    assert not (tmp_path / "ran").exists()


def test_shared_bytes_count_for_every_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 100)
    one = ARRAYS["conv.weight"]
    with pytest.raises(FileFormatError, match=r"'b' .* would take 96 bytes; expected at most 4"):
        formats.read(write(tmp_path, {"a": one, "b": one}))


@pytest.mark.parametrize("protocol", [2, 4])
def test_mutated_files_are_read_or_refused(tmp_path: Path, mutations: int, protocol: int) -> None:
    fuzz.check_mutations("paddle_state", write(tmp_path, ARRAYS, protocol), max(mutations, 500))
