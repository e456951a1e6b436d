"""safetensors: against the package that owns the format, files typed out, and hostile ones."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from se_port import formats
from se_port.formats.safetensors import CODES
from se_spec import FileFormatError

from ...conftest import OnDemand
from .tensors import is_mapped, peak_memory, same, samples

torch = OnDemand("torch")
safetensors_torch = OnDemand("safetensors.torch")


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object) -> dict[str, object]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


LITERAL = (
    b"\x8c\0\0\0\0\0\0\0"
    b'{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[],"data_offsets":[4,6]},'
    b'"a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}'
    b"\x80\x3f\x00\x80"
    b"\x00\x3c"
)


def test_typed_file_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "x.safetensors").write_bytes(LITERAL)
    got = formats.read(path)
    want = {"b": np.array(1.0, np.float16), "a": np.array([[1.0, -0.0]], ml_dtypes.bfloat16)}
    assert same(got, want)
    assert all(is_mapped(array) for array in got.values())


def test_round_trip_is_exact(tmp_path: Path) -> None:
    want = samples(CODES)
    formats.write(tmp_path / "x.safetensors", want)
    got = formats.read(tmp_path / "x.safetensors")
    assert same(got, want)
    assert all(array.flags.aligned for array in got.values())
    formats.write(tmp_path / "y.safetensors", got)
    assert (tmp_path / "y.safetensors").read_bytes() == (tmp_path / "x.safetensors").read_bytes()


def test_empty_file_round_trips(tmp_path: Path) -> None:
    formats.write(tmp_path / "x.safetensors", {})
    assert not formats.read(tmp_path / "x.safetensors")


def draw() -> dict[str, np.ndarray]:
    """Draw tensors that every version of safetensors writes from NumPy."""
    return {name: array for name, array in samples(CODES).items() if "bfloat16" not in name and name != "big"}


def write_with_safetensors(folder: Path) -> tuple[Path, formats.Tensors]:
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in draw().items()}
    safetensors.numpy.save_file(contiguous, folder / "x.safetensors", metadata={"format": "np"})
    return folder / "x.safetensors", draw()


def test_safetensors_reads_written_files(tmp_path: Path) -> None:
    formats.write(tmp_path / "x.safetensors", draw())
    theirs = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert same({name: theirs[name] for name in draw()}, draw())


@pytest.mark.framework("torch")
def test_bfloat16_is_exchanged_with_torch(tmp_path: Path) -> None:
    want = samples(["float32", "bfloat16"])["bfloat16(2, 3, 1, 4)/é"]
    formats.write(tmp_path / "ours.safetensors", {"odd": np.zeros(3, bool), "w": want})
    theirs = safetensors_torch.load_file(tmp_path / "ours.safetensors")["w"]
    assert theirs.dtype == torch.bfloat16
    assert theirs.view(torch.int16).numpy().tobytes() == want.tobytes()
    safetensors_torch.save_file({"w": theirs}, tmp_path / "theirs.safetensors")
    assert same(formats.read(tmp_path / "theirs.safetensors"), {"w": want})


def test_only_one_tensor_is_in_memory(tmp_path: Path) -> None:
    formats.write(tmp_path / "x.safetensors", {str(number): np.zeros(1 << 18, np.float32) for number in range(16)})

    def pass_on() -> None:
        formats.write(tmp_path / "y.safetensors", formats.read(tmp_path / "x.safetensors"), force=True)

    assert peak_memory(pass_on) < 1 << 18


TWICE = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
HOSTILE = {
    "nothing": (b"", "cannot be read"),
    "a length alone": (b"\x02" + bytes(7), "invalid header length"),
    "a length beyond the end": (b"\xff" * 7 + b"\x00{}", "header too large"),
    "no JSON": (file_of(b'{"w": '), "invalid JSON in header"),
    "no text": (file_of(b'{"\xff": 1}'), "invalid UTF-8 in header"),
    "a list": (file_of([1]), "invalid type: sequence"),
    "spaces first": (file_of(b" {}"), "begins with a space"),
    "nested to exhaustion": (file_of(b'{"w":' + b"[" * 100_000), "recursion limit"),
    "an endless number": (file_of(b'{"w":' + b"9" * 5000 + b"}"), "number out of range"),
    "one name twice": (file_of(TWICE, bytes(8)), "occurs twice"),
    "a name that is no text": (file_of(b'{"\\ud800":1}'), "invalid JSON in header"),
    "metadata with a number": (file_of({"__metadata__": {"step": 1}}), "expected a string"),
    "metadata as a list": (file_of({"__metadata__": []}), "expected a map"),
    "no offsets": (file_of({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)), "missing field `data_offsets`"),
    "more than is known": (file_of(one(strides=[1]), bytes(8)), "not clear about 'w'"),
    "a dtype of 8 bits": (file_of(one("F8_E5M2", (8,)), bytes(8)), "of the dtype 'F8_E5M2'"),
    "a shape of truths": (file_of(one(shape=(True, 2)), bytes(8)), "invalid type: boolean"),
    "a shape of floats": (file_of(one(shape=(2.0,)), bytes(8)), "invalid type: floating point"),
    "a negative axis": (file_of(one(shape=(-1, -2)), bytes(8)), "invalid value: integer `-1`"),
    "too many axes": (file_of(one(shape=(1,) * 33), bytes(8)), "invalid shape, data type, or offset"),
    "more than there is": (file_of(one(shape=(1 << 40,)), bytes(8)), "invalid shape, data type, or offset"),
    "an axis that no array can have": (file_of(one(shape=(0, 1 << 62), offsets=(0, 0))), "would take"),
    "offsets of another size": (file_of(one(offsets=(0, 4)), bytes(8)), "invalid shape, data type, or offset"),
    "offsets that begin below": (file_of(one(offsets=(-8, 0)), bytes(8)), "invalid value: integer `-8`"),
    "a gap": (file_of(one(offsets=(4, 12)), bytes(12)), "invalid offset for tensor `w`"),
    "shared bytes": (file_of({**one(), "v": one()["w"]}, bytes(16)), "invalid offset for tensor"),
    "bytes left over": (file_of(one(), bytes(9)), "file not fully covered"),
    "a bool that is 2": (file_of(one("BOOL", offsets=(0, 2)), b"\1\2"), "byte above 1"),
}


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (path := tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        formats.read(path, "safetensors")
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("w", np.zeros(1, np.complex64), "complex64"),
        ("w", np.array(["x"]), "<U1"),
        ("w", np.array([None]), "object"),
        ("__metadata__", np.zeros(1), "no name for a tensor"),
        ("\ud800", np.zeros(1), "no Unicode text"),
    ],
)
def test_unsupported_tensors_are_not_written(tmp_path: Path, name: str, array: np.ndarray, words: str) -> None:
    with pytest.raises(FileFormatError, match=words):
        formats.write(tmp_path / "x.safetensors", {name: array})
    assert not list(tmp_path.iterdir())
