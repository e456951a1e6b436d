"""Paddle's inference models, in both forms, typed out, and hostile ones."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from se_port import formats
from se_port.formats import _base
from se_port.formats import paddle as reader
from se_port.formats._wire import encode_field as field
from se_spec import FileFormatError

from . import fuzz
from .tensors import is_mapped

CODES = {"float32": 5, "float64": 6, "float16": 4, "int64": 3, "bool": 0, "bfloat16": 22}
ARRAYS = {"b_0": np.float32([5, 6]), "w_0": np.float32([[1, 2], [3, 4]])}


def encode_tensor(array: np.ndarray, dims: tuple[int, ...] | None = None, code: int | None = None) -> bytes:
    """Encode a tensor as it stands among the parameters."""
    axes = b"".join(field(2, length) for length in (array.shape if dims is None else dims))
    about = field(1, CODES[str(array.dtype)] if code is None else code) + axes
    return struct.pack("<IQIi", 0, 0, 0, len(about)) + about + array.tobytes()


def encode_parameters(arrays: dict[str, np.ndarray]) -> bytes:
    return b"".join(encode_tensor(arrays[name]) for name in sorted(arrays))


def encode_variable(name: str, shape: tuple[int, ...] = (), *, kind: int = 7, persistent: bool = True) -> bytes:
    axes = b"".join(field(2, length % (1 << 64)) for length in shape)
    dense = field(3, field(1, field(1, 5) + axes)) if kind == 7 else b""
    return field(3, field(1, name.encode()) + field(2, field(1, kind) + dense) + field(3, int(persistent)))


def encode_program(arrays: dict[str, np.ndarray], *more: bytes) -> bytes:
    """Encode a program of the old form: the parameters' variables, then more fields of the block."""
    variables = b"".join(encode_variable(name, array.shape) for name, array in arrays.items())
    other = encode_variable("feed", kind=9) + encode_variable("x", (-1, 8), persistent=False)
    return field(1, field(1, 0) + variables + other + b"".join(more)) + field(4, field(1, 0))


def make_pir(names: list[str], *operators: dict[str, Any]) -> dict[str, Any]:
    """Make a PIR program: an operator for each parameter, whose results are numbered from 1, then more operators."""
    makers = [
        {"#": "p", "A": [0, 1, 1, name], "O": {"%": number, "TT": {"#": "0.t_dtensor", "D": [{}, [], "NCHW", [], 0]}}}
        for number, name in enumerate(names, 1)
    ]
    regions = [{"#": "region_0", "blocks": [{"#": "block_0", "args": [], "ops": [*makers, *operators]}]}]
    return {"base_code": {"magic": "pir", "trainable": True, "version": 4}, "program": {"regions": regions}}


def write(folder: Path, program: bytes | dict[str, Any], parameters: bytes) -> Path:
    """Write both files; return the program's."""
    is_pir = isinstance(program, dict)
    path = folder / f"net{'.json' if is_pir else '.pdmodel'}"
    path.write_bytes(json.dumps(program, separators=(",", ":")).encode() if isinstance(program, dict) else program)
    (folder / "net.pdiparams").write_bytes(parameters)
    return path


PROGRAMS = {"old": encode_program(ARRAYS), "PIR": make_pir(list(ARRAYS))}
both = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)


@both
def test_parameters_are_read_by_any_of_the_files(tmp_path: Path, program: Any) -> None:
    path = write(tmp_path, program, encode_parameters(ARRAYS))
    for given in (path, tmp_path / "net.pdiparams"):
        assert formats.format_of(given) == "paddle"
        tensors = formats.read(given)
        assert list(tensors) == ["b_0", "w_0"]
        assert all(np.array_equal(tensors[name], ARRAYS[name]) and is_mapped(tensors[name]) for name in ARRAYS)
    with pytest.raises(FileFormatError, match="is a Paddle model, which 2 tensors do not make"):
        reader.write(path, tensors)


def test_every_dtype_is_read(tmp_path: Path) -> None:
    arrays = {name: np.ones((2, 1), _base.bfloat16() if name == "bfloat16" else name) for name in CODES}
    tensors = formats.read(write(tmp_path, encode_program(arrays), encode_parameters(arrays)))
    assert {name: str(array.dtype) for name, array in tensors.items()} == {name: name for name in arrays}


def test_files_of_the_first_names_are_read(tmp_path: Path) -> None:
    (tmp_path / "__model__").write_bytes(encode_program(ARRAYS))
    with pytest.raises(FileFormatError, match="parameters are not there; expected __params__ with it"):
        formats.read(tmp_path / "__model__")
    (tmp_path / "__params__").write_bytes(encode_parameters(ARRAYS))
    assert list(formats.read(tmp_path / "__params__")) == ["b_0", "w_0"]


@both
def test_a_missing_file_is_named(tmp_path: Path, program: Any) -> None:
    path = write(tmp_path, program, encode_parameters(ARRAYS))
    path.rename(tmp_path / "other")
    with pytest.raises(FileFormatError, match=r"whose program is not there; expected net\.pdmodel with it"):
        formats.read(tmp_path / "net.pdiparams")
    (tmp_path / "other").rename(path)
    (tmp_path / "net.pdiparams").unlink()
    with pytest.raises(FileFormatError, match=r"whose parameters are not there; expected net\.pdiparams with it"):
        formats.read(path)


W = encode_tensor(ARRAYS["w_0"])
B = encode_tensor(ARRAYS["b_0"])
HOSTILE = {
    "no parameters": (encode_program({}), b"x", "without parameters"),
    "too few bytes": (PROGRAMS["old"], (B + W)[:-1], "would take 16 bytes; expected at most 15"),
    "too many bytes": (PROGRAMS["old"], B + W + b"\0", "has 1 bytes that are no parameters"),
    "an enormous shape": (PROGRAMS["old"], B + encode_tensor(ARRAYS["w_0"], (1 << 40, 1 << 30)), "would take"),
    "a negative axis": (PROGRAMS["old"], B + encode_tensor(ARRAYS["w_0"], ((1 << 64) - 2, 2)), "none negative"),
    "too many axes": (PROGRAMS["old"], B + encode_tensor(ARRAYS["w_0"], (1,) * 33), "at most 32 axes"),
    "an unknown type": (PROGRAMS["old"], B + encode_tensor(ARRAYS["w_0"], code=24), "is of the type 24"),
    "a boolean of 2": (
        encode_program({"w": np.array([True])}), encode_tensor(np.array([True]))[:-1] + b"\2", "a byte above 1"),
    "another version": (PROGRAMS["old"], b"\1" + B[1:] + W, "is of version 1"),
    "another version of the tensor": (PROGRAMS["old"], B[:12] + b"\1" + B[13:] + W, "is of version 1"),
    "offsets without end": (PROGRAMS["old"], B[:4] + struct.pack("<Q", 1 << 60) + B[12:] + W, "levels of offsets"),
    "offsets beyond the file": (
        PROGRAMS["old"], B[:4] + struct.pack("<QQ", 1, 1 << 50) + B[12:] + W, "bytes too early"),
    "a description of a negative size": (
        PROGRAMS["old"], B[:16] + struct.pack("<i", -5) + B[20:] + W, "described in -5 bytes"),
    "a parameter twice": (encode_program(ARRAYS, encode_variable("w_0")), B + W + W, "two parameters of one name"),
    "no message": (b"\xff" * 40, B + W, "has an integer that does not end"),
    "a name that is no text": (encode_program({}, field(3, field(1, b"\xff"))), B, "not UTF-8"),
    "no JSON": ({"base_code": {"magic": "pir"}}, B, "is no PIR program"),
    "another JSON": ({"nodes": []}, B, "is no PIR program"),
    "operators that are none": (make_pir([], 3, {}, {"#": "p", "A": 3}), B, "without parameters"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize(("program", "parameters", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, program: Any, parameters: bytes, words: str) -> None:
    path = write(tmp_path, program, parameters)
    with pytest.raises(FileFormatError) as caught:
        formats.read(path, "paddle")
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_a_program_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, PROGRAMS["PIR"], encode_parameters(ARRAYS))
    path.write_bytes(b'{"base_code":{"magic":"pir"},"program":' + b"[" * 100_000)
    with pytest.raises(FileFormatError, match="is no JSON that can be read"):
        formats.read(path)


@both
def test_mutated_programs_are_read_or_refused(tmp_path: Path, mutations: int, program: Any) -> None:
    path = write(tmp_path, program, encode_parameters(ARRAYS))
    fuzz.check_mutations("paddle", path, max(mutations, 500), companions=("net.pdiparams",))


def test_mutated_parameters_are_read_or_refused(tmp_path: Path, mutations: int) -> None:
    write(tmp_path, PROGRAMS["old"], encode_parameters(ARRAYS))
    fuzz.check_mutations("paddle", tmp_path / "net.pdiparams", max(mutations, 500), companions=("net.pdmodel",))
