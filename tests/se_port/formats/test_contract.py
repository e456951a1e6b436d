"""The contract of every format.

Round trips are exact, files of the format's own library are read, arrays are mapped, memory is bounded, mutated files
are read or refused, and wrong names are refused. A format's own module tests only what no other format has.
"""

import itertools
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from se_port import formats
from se_port.formats import _files, npz, safetensors, torch
from se_spec import FileFormatError

from . import (
    fuzz,
    test_caffe,
    test_keras,
    test_matconvnet,
    test_msgpack,
    test_mxnet,
    test_onnx,
    test_orbax,
    test_safetensors,
)
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
READ_ALONE = {"onnx", "tflite", "graphdef", "tfjs", "torchscript", "torch_export", "paddle", "paddle_state", "hub"}
"""Formats that are read and not written: models, state dicts of Paddle, shards."""
MARKS = {"keras": ["port"], "keras legacy": ["port"], "orbax": ["port-orbax"]}
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
    assert {case.format for case in CASES.values()} | READ_ALONE == set(formats.FORMATS)


@every_case
def test_round_trip_is_exact(tmp_path: Path, case: Case) -> None:
    tensors = case.tensors()
    path = write(tmp_path, case, tensors)
    assert formats.format_of(path) == case.format
    assert same(formats.read(path), tensors)
    again = write(tmp_path, case, formats.read(path), f"again.{case.file}")
    if path.is_file() and case.format not in ("tensorflow", "keras"):  # an index names its data file, HDF5 its order
        assert again.read_bytes() == path.read_bytes()


class LibraryFile(NamedTuple):
    """A file that the library of a format writes.

    Args:
        format: a key of ``FORMATS``.
        write: ``(folder) -> (path, tensors)``: writes the file; the tensors are those that the reader must return.
        frameworks: families of frameworks that ``write`` needs.
        fixtures: fixtures that ``write`` needs.
        ordered: whether the reader returns the tensors in this order.
        mapped: whether arrays are views of the mapped file.
        ignored: part of the names of other tensors in the file.
    """

    format: str
    write: Callable[[Path], tuple[Path, formats.Tensors]]
    frameworks: tuple[str, ...] = ()
    fixtures: tuple[str, ...] = ()
    ordered: bool = True
    mapped: bool = False
    ignored: str | None = None


LIBRARY_FILES = {
    "safetensors": LibraryFile("safetensors", test_safetensors.write_with_safetensors, ordered=False),
    **{
        f"numpy.{save.__name__}": LibraryFile("npz", partial(npz_files.write_with_numpy, save=save))
        for save in (np.savez, np.savez_compressed)
    },
    **{
        f"torch, protocol {protocol}, {'zip' if new else 'before zip'}, {'nested' if nested else 'flat'}": LibraryFile(
            "torch",
            partial(torch_files.write_with_torch, protocol=protocol, new=new, nested=nested),
            ("torch",),
            mapped=True,
        )
        for protocol, new, nested in itertools.product((2, 4, 5), (True, False), (True, False))
    },
    **{
        f"keras {name}": LibraryFile(
            "keras", partial(test_keras.write_with_keras, name=name), ("keras",), ("tf",), ignored="seed"
        )
        for name in ("net.weights.h5", "net.keras", "net.h5")
    },
    "flax": LibraryFile("msgpack", test_msgpack.write_with_flax, ("flax",), ordered=False),
    **{
        f"orbax{' ocdbt' * ocdbt}": LibraryFile(
            "orbax", partial(test_orbax.write_with_orbax, ocdbt=ocdbt), ("port-orbax",)
        )
        for ocdbt in (True, False)
    },
    "tensorflow 1": LibraryFile(
        "tensorflow", tensorflow_files.write_with_tensorflow_1, ("keras",), ("tf",), ordered=False
    ),
    **{
        f"tensorflow 2, {'saved model' if saved_model else 'checkpoint'}": LibraryFile(
            "tensorflow",
            partial(tensorflow_files.write_with_tensorflow_2, saved_model=saved_model),
            ("keras",),
            ("tf",),
            ordered=False,
        )
        for saved_model in (True, False)
    },
    **{
        f"protobuf, {field}, {'packed' if packed else 'not packed'}": LibraryFile(
            "caffe", partial(test_caffe.write_with_protobuf, field=field, packed=packed), ("port-orbax",)
        )
        for field, packed in itertools.product(("layer", "layers"), (True, False))
    },
    **{
        f"scipy, {'net.params' if inside else 'params'}{', compressed' * compressed}": LibraryFile(
            "matconvnet",
            partial(test_matconvnet.write_with_scipy, inside=inside, compressed=compressed),
            ("port-orbax",),
        )
        for inside, compressed in itertools.product((True, False), (True, False))
    },
    "onnx, raw": LibraryFile("onnx", test_onnx.write_with_onnx, ("port", "onnx")),
    "onnx, in fields": LibraryFile("onnx", partial(test_onnx.write_with_onnx, raw=False), ("port", "onnx")),
    "onnx, external": LibraryFile("onnx", partial(test_onnx.write_with_onnx, external=True), ("port", "onnx")),
}
"""Files of every format that has a library; MXNet's is not installed, and its files are typed out."""


def test_every_format_with_a_library_has_a_file_of_it() -> None:
    assert {file.format for file in LIBRARY_FILES.values()} | {"mxnet"} | READ_ALONE == set(formats.FORMATS)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=name, marks=[pytest.mark.framework(*file.frameworks)] if file.frameworks else [])
        for name, file in LIBRARY_FILES.items()
    ],
)
def test_files_of_the_formats_own_library_are_read(
    request: pytest.FixtureRequest, tmp_path: Path, file: LibraryFile
) -> None:
    for fixture in file.fixtures:
        request.getfixturevalue(fixture)
    path, want = file.write(tmp_path)
    got = {
        name: array
        for name, array in formats.read(path, file.format).items()
        if file.ignored is None or file.ignored not in name
    }
    assert same(got, want) if file.ordered else same(dict(sorted(got.items())), dict(sorted(want.items())))
    assert not file.mapped or all(is_mapped(array) for array in got.values() if array.size)


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
