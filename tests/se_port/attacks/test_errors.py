"""Every bad file is refused by one kind of error, of one line and a length that a terminal can show."""

import json
import os
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import se_port
from se_conformance.__main__ import main as se_check
from se_port import formats
from se_port.__main__ import main as se_port_main
from se_port.formats import _base
from se_port.formats._wire import encode_field
from se_spec import FileFormatError, LayoutError, NetworkSpec, SEError, SESpec, SpecError
from tests.se_port.attacks import builders as b
from tests.se_port.formats import flatbuffers

MAX_CHARACTERS = 2000


def numbers_of_255_bytes(path: Path) -> Path:
    big = b"\x8a\xff" + b"\xff" * 254 + b"\x7f"
    storage = b"(" + b.text("storage") + b"ctorch\nFloatStorage\n" + b.text("0") + b.text("cpu") + b"K\2tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(" + big * 8 + b"t(" + b"K\0" * 8
    return b.torch_file(
        path / "x.pth", b.dictionary({"w": call + b"t\x89ccollections\nOrderedDict\n)RtR"}), _0=bytes(8)
    )


def orbax_lengths(path: Path) -> Path:
    return b.orbax_folder(path / "x", {"a": {"shape": [10**4000] * 2, "chunks": [10**4000] * 2}}, {})


def safetensors_lengths(path: Path) -> Path:
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**4000] * 2, "data_offsets": [0, 0]}}).encode()
    return b.raw_safetensors(path / "x.safetensors", header)


def tfjs_lengths(path: Path) -> Path:
    weight = {"name": "w", "shape": [2**62] * 30, "dtype": "float32"}
    (path / "model.json").write_text(json.dumps({"weightsManifest": [{"paths": [], "weights": [weight]}]}))
    return path / "model.json"


def digits_in_names(path: Path) -> Path:
    shapes = {f"dense_{'9' * 4000}/kernel": (4, 4), "dense_1/kernel": (4, 4)}
    return b.safetensors_file(path / "x.safetensors", shapes)


def nested_extensions(path: Path) -> Path:
    inner = b"\xc0"
    for _ in range(500):
        inner = b.extension(inner)
    (path / "x.msgpack").write_bytes(b"\x81" + b.packed_text("a") + inner)
    return path / "x.msgpack"


def array_as_dtype(path: Path) -> Path:
    two = b.extension(b"\x93\x91\x02" + b.packed_text("uint8") + b"\xc4\x02ab")
    body = b"\x93\x91\x02" + two + b"\xc4\x02ab"
    (path / "x.msgpack").write_bytes(b"\x81" + b.packed_text("a") + b.extension(body))
    return path / "x.msgpack"


def arrays_in_pieces(path: Path) -> Path:
    """An array in the place of the dictionary of pieces."""
    array = b.extension(b"\x93\x91\x02" + b.packed_text("uint8") + b"\xc4\x02ab")
    body = b"\x83" + b"\xb9__msgpack_chunked_array__" + b"\xc3" + b.packed_text("shape") + array
    (path / "x.msgpack").write_bytes(b"\x81" + b.packed_text("a") + body + b.packed_text("chunks") + array)
    return path / "x.msgpack"


def deep_json(path: Path) -> Path:
    (path / "model.json").write_bytes(b'{"weightsManifest":' + b"[" * 100_000)
    return path / "model.json"


def utf16_json(path: Path) -> Path:
    (path / "model.json").write_bytes(b'{"weightsManifest":[]}\0'.ljust(64) + '{"a":1}'.encode("utf-16"))
    return path / "model.json"


def long_name(path: Path) -> Path:
    return b.torch_file(path / "x.pth", b.dictionary({"n" * 3_000_000: b.tensor((7,), (1,), 1)}), _0=bytes(4))


def long_shape(path: Path) -> Path:
    tensor = b.onnx_tensor("w", (1,) * 100_000, encode_field(9, bytes(4)))
    return b.onnx_file(path / "x.onnx", tensor)


def long_key(path: Path) -> Path:
    keys = json.dumps({"k" * 1_000_000: 1, "weightsManifest": 2}).encode()
    (path / "model.json").write_bytes(keys)
    return path / "model.json"


def long_global(path: Path) -> Path:
    return b.torch_file(path / "x.pth", b"c" + b"m" * 1_000_000 + b"\nf\n)R")


def deep_graph(path: Path) -> Path:
    inner = b""
    for _ in range(2000):
        inner = encode_field(1, encode_field(5, encode_field(6, inner)))
    (path / "x.onnx").write_bytes(encode_field(7, inner))
    return path / "x.onnx"


def deep_pickle(path: Path) -> Path:
    depth = 5000
    return b.torch_file(path / "x.pth", (b"}" + b.text("a")) * depth + b"N" + b"s" * depth)


def first_projection_without_rows(path: Path) -> Path:
    from se_port.layouts.mapping import map_network
    from se_port.layouts.networks import NETWORK_LAYOUTS
    from se_spec import network

    shapes = map_network(network("se_resnet20"), NETWORK_LAYOUTS["moskomule"], "moskomule").shapes
    return b.safetensors_file(
        path / "x.safetensors",
        {name: (0, *shape[1:]) if name.endswith("fc.0.weight") else shape for name, shape in shapes.items()},
    )


def operators_without_inputs(path: Path) -> Path:
    tensors = [{0: np.array([2], "<i4"), 1: ("b", 0), 2: ("I", 1), 3: b"w"}]
    codes = [{0: ("b", code)} for code in range(127)]
    operators = [{0: ("I", code), 1: np.zeros(0, "<i4"), 2: np.zeros(1, "<i4")} for code in range(127)]
    root = {0: ("I", 3), 1: codes, 2: [{0: tensors, 3: operators}], 4: [{}, {0: np.zeros(8, np.uint8)}]}
    (path / "x.tflite").write_bytes(flatbuffers.encode(root))
    return path / "x.tflite"


def directory_of_a_zip(path: Path) -> Path:
    with zipfile.ZipFile(path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}")
    return path / "x.npz"


FILES: dict[str, Callable[[Path], Path]] = {
    function.__name__: function
    for function in (
        numbers_of_255_bytes, orbax_lengths, safetensors_lengths, tfjs_lengths, digits_in_names, nested_extensions,
        array_as_dtype, arrays_in_pieces, deep_json, utf16_json, long_name, long_shape, long_key, long_global,
        deep_graph, deep_pickle, first_projection_without_rows, directory_of_a_zip,
        operators_without_inputs,
    )
}  # fmt: skip


def _find_refusal(call: Callable[[], object]) -> str:
    """Return the message of the ``SEError`` that a call raises; nothing if it raises none."""
    try:
        call()
    except SEError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", FILES)
def test_bad_file_is_one_error_of_ours(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = FILES[name](tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: {key: array.sum() for key, array in formats.read(path).items()},
        lambda: str(se_port.inspect(path)),
        lambda: se_port.load(path),
        lambda: se_port.find_blocks(path),
        lambda: se_port.convert(path, tmp_path / "y.npz"),
    ]
    refusals = [refusal for call in calls if (refusal := _find_refusal(call))]
    assert refusals
    assert all(len(refusal) < MAX_CHARACTERS and refusal.isprintable() for refusal in refusals)
    assert not any(_base.UNFORESEEN in refusal for refusal in refusals)
    assert se_port_main(["convert", str(path), str(tmp_path / "z.npz"), "--to", "canonical"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
@pytest.mark.parametrize(
    "place", ["x.npz", "x.safetensors", "x.pth", "x.index", "x.onnx", "x.h5", "x.mat", "model.json"]
)
def test_what_is_no_file_is_refused_and_not_opened(tmp_path: Path, kind: str, place: str) -> None:
    path = tmp_path / place
    _make(path, kind)
    for name in (None, *formats.FORMATS):
        with pytest.raises(SEError):
            dict(formats.read(path, name))


@pytest.mark.framework("port")
@pytest.mark.parametrize("place", ["_METADATA", "a/.zarray", "a/0", "other"])
def test_pipe_in_a_checkpoint_is_refused(tmp_path: Path, place: str) -> None:
    folder = b.orbax_folder(tmp_path / "x", {"a": {}}, {"a/0": bytes(16)})
    assert formats.read(folder)["a"].tolist() == [0.0] * 4
    (folder / place).unlink(missing_ok=True)
    os.mkfifo(folder / place)
    with pytest.raises(FileFormatError):
        dict(formats.read(folder, "orbax"))


def _make(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize("name", ["/proc/self/mem", "/proc/self/maps", "/dev/zero", "/dev/null"])
def test_file_of_the_system_is_refused(name: str) -> None:
    if not Path(name).exists():
        pytest.skip("no such file on this system")
    for call in (formats.read, se_port.inspect, se_port.find_blocks):
        with pytest.raises(SEError):
            call(name)


def test_unforeseen_error_of_a_reader_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    from se_port.formats import npz

    for error in (KeyError("a"), RecursionError("deep"), MemoryError(), ZeroDivisionError("by zero"), TypeError("x")):
        with monkeypatch.context() as patch:
            patch.setattr(npz, "read_verified", _raise(error))
            tensors = formats.read(tmp_path / "x.npz")
            with pytest.raises(FileFormatError, match=r"x\.npz"):
                tensors["a"]
    with pytest.raises(KeyError):
        formats.read(tmp_path / "x.npz")["b"]


def _raise(error: Exception) -> Callable[..., object]:
    def call(*_: object) -> object:
        raise error

    return call


SPECS = {
    "deep": "[" * 200_000,
    "digits": '{"channels": ' + "9" * 5000 + "}",
    "large": '{"channels": ' + "9" * 400 + "}",
    "wide": json.dumps({"channels": 4, "x" * 100_000: 1}),
    "gain": '{"channels": 4, "gain": ' + "9" * 400 + "}",
    "text": '{"channels": "' + "x" * 100_000 + '"}',
}


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS)
def test_spec_that_is_none_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (SESpec, NetworkSpec):
        with pytest.raises(SpecError) as caught:
            kind.from_json(text)
        assert len(str(caught.value)) < MAX_CHARACTERS
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    assert (
        se_port_main(["convert", str(tmp_path / "x.npz"), str(tmp_path / "y.npz"), "--to", "canonical", "--spec", text])
        == 2
    )
    assert se_check(["run", "json:loads", "--spec", text]) == 2
    assert "Traceback" not in capsys.readouterr().err


def _change_manifest(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    from se_conformance.vectors import frozen

    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    manifest.pop("manifest_sha256", None)
    manifest["manifest_sha256"] = frozen._manifest_sha256(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


MANIFESTS: dict[str, Callable[[dict], object]] = {
    "no vectors": lambda manifest: manifest.pop("vectors"),
    "no checksum": lambda manifest: manifest.pop("sha256"),
    "vectors are text": lambda manifest: manifest.update(vectors="x" * manifest["count"]),
    "no roles": lambda manifest: manifest["vectors"][0].update(tensors={}),
    "another dtype": lambda manifest: manifest["vectors"][0].update(dtype="float99"),
    "another spec": lambda manifest: manifest["vectors"][0]["spec"].update(channels=7),
    "no spec": lambda manifest: manifest["vectors"][0].update(spec=[]),
    "a role is a list": lambda manifest: manifest["vectors"][0].update(tensors={"x": []}),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_vectors_that_are_broken_are_refused(
    tmp_path: Path, change: Callable[[dict], object], capsys: pytest.CaptureFixture[str]
) -> None:
    _copy_vectors(tmp_path)
    _change_manifest(tmp_path, change)
    assert se_check(["vectors", str(tmp_path), "--judge", "json:loads"]) == 2
    assert "se-check: " in capsys.readouterr().err


def _copy_vectors(folder: Path) -> None:
    import shutil

    import se_conformance.vectors

    for name in ("manifest.json", "vectors.safetensors"):
        shutil.copy(Path(se_conformance.vectors.__file__).parent / name, folder)


@pytest.mark.parametrize("name", ["manifest.json", "vectors.safetensors"])
@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"\xff\xfe", b"{}", (5).to_bytes(8, "little") + b"{}"])
def test_broken_files_of_vectors_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    from se_conformance import vectors

    _copy_vectors(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LayoutError) as caught:
        vectors.load(tmp_path)
    assert len(str(caught.value)) < MAX_CHARACTERS
    if name == "vectors.safetensors":
        import hashlib

        _change_manifest(tmp_path, lambda manifest: manifest.update(sha256=hashlib.sha256(data).hexdigest()))
        with pytest.raises(LayoutError):
            vectors.load(tmp_path)


@pytest.mark.parametrize("data", [b"\xff\xfe\0", b"x" * (2 << 20), b"a" * 100_000])
def test_deviations_that_are_no_text_are_refused(tmp_path: Path, data: bytes) -> None:
    from se_conformance.deviations import read_deviations

    (tmp_path / "deviations.txt").write_bytes(data)
    with pytest.raises(SpecError) as caught:
        read_deviations(tmp_path / "deviations.txt")
    assert len(str(caught.value)) < MAX_CHARACTERS


def test_onnx_file_that_is_broken_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    external = b.onnx_tensor("w", (4,), b.onnx_external("../../etc/passwd"))
    for number, data in enumerate((b"\xff" * 50, b"", b.onnx_file(tmp_path / "x.onnx", external).read_bytes())):
        (path := tmp_path / f"{number}.onnx").write_bytes(data)
        assert se_check(["run", str(path), "--spec", '{"channels": 4, "hidden": 1}']) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_message_is_cut_and_of_one_kind() -> None:
    for kind in (SEError, FileFormatError, LayoutError, SpecError):
        assert len(str(kind("x" * 10_000_000))) <= 4000
    assert str(SEError("a\x1b[2Jb\u202ec")) == "a\\x1b[2Jb\\u202ec"
