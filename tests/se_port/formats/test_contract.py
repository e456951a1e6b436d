"""The contract of every format: exact round trips, mapped arrays, bounded memory, mutated files, refused names.

What only one format has, its own library's files among it, is in the format's own module.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from se_port import formats
from se_port.formats import _files, npz, safetensors, torch
from se_spec import FileFormatError

from . import fuzz, test_caffe, test_keras, test_matconvnet, test_msgpack, test_mxnet, test_onnx, test_orbax
from . import test_npz as npz_files
from . import test_tensorflow as tensorflow_files
from . import test_torch as torch_files
from .tensors import is_mapped, peak_memory, same, samples

TENSOR_BYTES, TENSORS = 1 << 20, 16


class Case(NamedTuple):
    """A format, or one of its kinds of files.

    Args:
        format: a key of ``FORMATS``.
        file: name of such a file.
        tensors: makes tensors that it can hold.
        name: template of a name that it can hold.
        mapped: whether arrays are views of the mapped file.
    """

    format: str
    file: str
    tensors: Callable[[], formats.Tensors]
    name: str = "{}"
    mapped: bool = True


CASES = {
    "safetensors": Case("safetensors", "x.safetensors", lambda: samples(safetensors.CODES)),
    "npz": Case("npz", "x.npz", lambda: samples(npz.CODES)),
    "torch": Case("torch", "x.pth", lambda: samples(torch.CODES)),
    "keras": Case("keras", "name.weights.h5", lambda: test_keras.tensors(Path("name.weights.h5")), "a:b/{}"),
    "keras legacy": Case("keras", "name.h5", lambda: test_keras.tensors(Path("name.h5")), "layer/{}"),
    "msgpack": Case("msgpack", "x.msgpack", test_msgpack.tensors, mapped=False),
    "orbax": Case("orbax", "net", test_orbax.tensors, mapped=False),
    "tensorflow": Case("tensorflow", "net.ckpt.index", tensorflow_files.tensors),
    "caffe": Case("caffe", "net.caffemodel", test_caffe.draw, "{}:0"),
    "mxnet": Case("mxnet", "net.params", test_mxnet.draw),
    "matconvnet": Case("matconvnet", "net.mat", test_matconvnet.draw),
}
"""Every format that is written."""
PROGRAMS = {"onnx", "torchscript", "torch_export", "paddle", "paddle_state"}
"""Formats that are not, as they hold programs; and Paddle's state dicts."""
MARKS = {"keras": ["port"], "keras legacy": ["port"], "orbax": ["port"]}
every_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.framework(*MARKS[name])] if name in MARKS else [])
        for name, case in CASES.items()
    ],
)


def write(folder: Path, case: Case, tensors: formats.Tensors, name: str = "") -> Path:
    path = folder / (name or case.file)
    formats.write(path, tensors, case.format)
    return path


def large_tensors(case: Case) -> dict[str, np.ndarray]:
    shape = (1, TENSOR_BYTES // 4)
    return {case.name.format(number): np.full(shape, number, np.float32) for number in range(TENSORS)}


def test_every_format_has_a_case() -> None:
    assert {case.format for case in CASES.values()} | PROGRAMS == set(formats.FORMATS)


@every_case
def test_round_trip_is_exact(tmp_path: Path, case: Case) -> None:
    tensors = case.tensors()
    path = write(tmp_path, case, tensors)
    assert formats.format_of(path) == case.format
    assert same(formats.read(path), tensors)
    again = write(tmp_path, case, formats.read(path), f"again.{case.file}")
    if path.is_file() and case.format not in ("tensorflow", "keras"):  # an index names its data file, HDF5 its order
        assert again.read_bytes() == path.read_bytes()


@every_case
def test_arrays_are_read_only_views_of_the_mapped_file(tmp_path: Path, case: Case) -> None:
    path = write(tmp_path, case, case.tensors())
    for name, array in formats.read(path).items():
        assert not case.mapped or not array.size or array.dtype == bool or is_mapped(array), name


@every_case
def test_reading_holds_one_tensor_at_a_time(tmp_path: Path, case: Case) -> None:
    path = write(tmp_path, case, large_tensors(case))

    def read() -> None:
        for number, array in enumerate(formats.read(path).values()):
            assert array.size == TENSOR_BYTES // 4 and array.flat[0] in range(TENSORS), number

    read()  # imports what it needs
    limit = {"msgpack": (TENSORS + 2) * TENSOR_BYTES, "tensorflow": 17 * TENSOR_BYTES}.get(
        case.format, 3 * TENSOR_BYTES
    )
    assert peak_memory(read) < limit


@every_case
def test_mutated_files_are_read_or_refused(tmp_path: Path, mutations: int, case: Case) -> None:
    tensors = case.tensors()
    if case.format in ("safetensors", "npz", "torch"):  # small files, so that mutations meet headers
        tensors = samples(["float32", "bfloat16", "bool", "int64"])
    if case.format == "orbax":
        tensors = {"a/b": np.ones(2, np.float32), "a/c": np.arange(6).reshape(2, 3)}
    path = write(tmp_path, case, tensors)
    if case.format == "npz":
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("deflated.npy", npz_files.npy(data=b"\0\0\x80\x3f" * 2))
    if case.format == "tensorflow":
        path, mutations = tmp_path, max(mutations, 1000)  # few pass the checksums
    fuzz.check_mutations(case.format, path, mutations)


@every_case
def test_name_that_is_no_unicode_is_refused(tmp_path: Path, case: Case) -> None:
    with pytest.raises(FileFormatError, match=r"surrogate|Unicode|HDF5"):
        write(tmp_path, case, {case.name.format("\ud800"): np.zeros((1, 1), np.float32)})
    assert not list(tmp_path.iterdir())


@pytest.mark.framework("port", "onnx")
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "in fields"])
def test_mutated_onnx_files_are_read_or_refused(tmp_path: Path, raw: bool, mutations: int) -> None:
    test_onnx.onnx.save(test_onnx.model(test_onnx.draw(), raw=raw), tmp_path / "net.onnx")
    fuzz.check_mutations("onnx", tmp_path / "net.onnx", mutations)


def test_mutated_torch_files_from_before_zip_are_read_or_refused(tmp_path: Path, mutations: int) -> None:
    (tmp_path / "old.pth").write_bytes(torch_files.old(torch_files.OLD_STATE))
    fuzz.check_mutations("torch", tmp_path / "old.pth", mutations)


@pytest.mark.framework("port")
def test_mutated_keras_archives_are_read_or_refused(tmp_path: Path, mutations: int) -> None:
    weights = write(tmp_path, CASES["keras"], CASES["keras"].tensors())
    test_keras.zipped(tmp_path / "name.keras", weights.read_bytes())
    fuzz.check_mutations("keras", tmp_path / "name.keras", mutations)


def test_mutated_compressed_mat_files_are_read_or_refused(tmp_path: Path, mutations: int) -> None:
    fuzz.check_mutations("matconvnet", test_matconvnet.write_compressed(tmp_path), mutations)


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="'pickle' is no format"):
        formats.read(tmp_path / "x", "pickle")
    (tmp_path / "x").write_bytes(b"GIF89a")
    with pytest.raises(FileFormatError, match="begins with b'GIF89a'"):
        _files.format_of(tmp_path / "x")
