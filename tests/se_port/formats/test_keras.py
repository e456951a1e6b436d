"""Keras's HDF5: files are exchanged with Keras and h5py, and hostile ones are refused."""

import io
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from se_port import formats
from se_port.formats import _base
from se_port.formats import keras as keras_files
from se_spec import FileFormatError

from ...conftest import OnDemand
from .tensors import facts, is_mapped, one_of_each

h5py, keras = OnDemand("h5py"), OnDemand("keras")

BY_PLACE = {"name.weights.h5": "layers/dense_10:last/{}", "name.h5": "last/{}"}


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Make a tensor of every dtype that such a file has."""
    dtypes = [*keras_files.DTYPES, *(["bfloat16"] if path.name == "name.weights.h5" else [])]
    return {BY_PLACE[path.name].format(name): array for name, array in one_of_each(dtypes).items()}


def zipped(path: Path, weights: bytes, config: bytes = b"{}", method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config)
        archive.writestr(keras_files.MEMBER, weights, method)
    return path


@pytest.mark.framework("port")
def test_file_of_keras_2_is_read(tmp_path):
    """The file has that version's names of one length, with ``:0``, a nested model and a layer without weights."""
    kernel, bias = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones(2, np.float64)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        top = file.create_group("model_weights")
        top.attrs["layer_names0"] = np.array([b"input_1", b"conv1"])
        top.attrs["layer_names1"] = np.array([b"model"])
        top.create_group("input_1").attrs["weight_names"] = []
        layer = top.create_group("conv1")
        layer.attrs["weight_names"] = np.array([b"conv1/kernel:0", b"conv1/bias:0"])
        layer["conv1/bias:0"], layer["conv1/kernel:0"] = bias, kernel
        top.create_group("model").attrs["weight_names"] = [b"fc/kernel:0", b"convolution2d_1_W:0"]  # of variable length
        top["model/fc/kernel:0"] = kernel.astype(">f4")
        top["model/convolution2d_1_W:0"] = bias[:0]
    read = formats.read(tmp_path / "old.h5", "keras")
    assert facts(read) == facts(
        {
            "conv1/kernel": kernel,
            "conv1/bias": bias,
            "model/fc/kernel": kernel.astype(">f4"),
            "model/convolution2d_1_W": bias[:0],
        }
    )
    assert is_mapped(read["conv1/bias"])


def model():
    """Build layers with and without given names, a model within another, and a function that is no layer."""
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="mid"), layers.Dense(2)], name="inner")
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, name="stem.conv")(x)
    y = layers.BatchNormalization(name="stem.bn")(y)
    y = layers.Conv2D(4, 1, use_bias=False)(layers.ReLU()(y))
    y = inner(layers.Add()([layers.GlobalAveragePooling2D()(y + y), layers.GlobalAveragePooling2D()(y)]))
    return keras.Model(x, layers.Dropout(0.1)(y))


def drawn(net, seed: int):
    draw = np.random.default_rng(seed)
    net.set_weights([draw.random(weight.shape).astype(np.float32) for weight in net.weights])
    return net


def called(net) -> np.ndarray:
    return np.asarray(net(np.linspace(-1, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)))


@pytest.fixture
def net(tf):
    keras.backend.clear_session()
    return drawn(model(), 1)


PATHS = [
    "layers/batch_normalization:stem.bn/0", "layers/batch_normalization:stem.bn/1",
    "layers/batch_normalization:stem.bn/2", "layers/batch_normalization:stem.bn/3",
    "layers/conv2d:stem.conv/0", "layers/conv2d:stem.conv/1", "layers/conv2d_1:conv2d/0",
    "layers/sequential:inner/layers/dense:mid/0", "layers/sequential:inner/layers/dense:mid/1",
    "layers/sequential:inner/layers/dense_1:dense/0", "layers/sequential:inner/layers/dense_1:dense/1",
]  # fmt: skip
LEGACY = [
    "stem.conv/kernel", "stem.conv/bias", "stem.bn/gamma", "stem.bn/beta", "stem.bn/moving_mean",
    "stem.bn/moving_variance", "conv2d/kernel", "inner/mid/kernel", "inner/mid/bias", "inner/dense/kernel",
    "inner/dense/bias",
]  # fmt: skip


def write_with_keras(folder: Path, name: str) -> tuple[Path, formats.Tensors]:
    """Write a model; the state of its dropout's seed, which the file also has, is not among the tensors."""
    keras.backend.clear_session()
    net = drawn(model(), 1)
    save_with_keras(net, folder / name)
    values = {variable.path: np.asarray(variable) for variable in net.weights}
    legacy = {key: values[key] for key in LEGACY}
    if name == "net.h5":
        return folder / name, legacy
    in_order = [*LEGACY[2:6], *LEGACY[:2], *LEGACY[6:]]  # batch norm comes first
    return folder / name, {path: legacy[key] for path, key in zip(PATHS, in_order, strict=True)}


def save_with_keras(net, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras recommends .keras
        (net.save_weights if "weights" in path.name else net.save)(path)


@pytest.mark.framework("keras", "port")
@pytest.mark.parametrize("name", ["net.weights.h5", "net.h5"])
def test_keras_loads_written_files(tmp_path, net, name):
    save_with_keras(net, tmp_path / f"given.{name}")
    formats.write(tmp_path / name, formats.read(tmp_path / f"given.{name}", "keras"))
    other = drawn(model(), 2)
    assert (called(other) != called(net)).any()
    other.load_weights(tmp_path / name)
    np.testing.assert_array_equal(called(other), called(net))


@pytest.mark.framework("keras", "port")
def test_keras_loads_written_files_by_name(tmp_path, net):
    kernel = np.full((3, 3, 3, 4), 2, np.float32)
    formats.write(tmp_path / "part.h5", {"stem.conv/kernel": kernel, "stem.conv/bias": kernel[0, 0, 0]})
    net.load_weights(tmp_path / "part.h5", by_name=True)
    np.testing.assert_array_equal(net.get_layer("stem.conv").get_weights()[0], kernel)


@pytest.mark.framework("keras", "port")
def test_keras_loads_written_bfloat16(tmp_path, tf):
    """Keras also loads a custom layer, whose parts are at the names of its attributes."""

    class Block(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = [keras.layers.Dense(2, dtype="bfloat16", name="first"), keras.layers.Dense(1, dtype="bfloat16")]

        def call(self, x):
            return self.fc[1](self.fc[0](x))

    net, other = Block(), Block()
    given, _ = net(np.ones((1, 3))), other(np.ones((1, 3)))
    net.save_weights(tmp_path / "given.weights.h5")
    read = formats.read(tmp_path / "given.weights.h5", "keras")
    assert [name.replace(f":{net.fc[1].name}", "") for name in read] == [
        "fc/dense:first/0", "fc/dense:first/1", "fc/dense_1/0", "fc/dense_1/1",
    ]  # fmt: skip
    assert read["fc/dense:first/0"].dtype == formats.bfloat16()
    formats.write(tmp_path / "again.weights.h5", read)
    other.load_weights(tmp_path / "again.weights.h5")
    assert (np.asarray(other(np.ones((1, 3)))) == np.asarray(given)).all()


@pytest.mark.framework("port")
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_layer_names_are_read_from_the_configuration(tmp_path, method):
    """The file is from a version that did not write names beside the weights."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for place in ("layers/conv2d/vars/0", "layers/conv2d_1/vars/0", "layers/conv2d_1/vars/10", "vars/0"):
            file[place] = np.arange(2.0)
        file["layers/conv2d_1/vars/2"] = file["layers/model/layers/dense/vars/0"] = np.arange(3)
    layers = [
        {"class_name": "Conv2D", "config": {"name": "stem"}},
        {"class_name": "Conv2D", "module": "keras.src.ops.nn", "config": {"name": "not_a_layer"}},
        {"class_name": "Conv2D", "config": {"name": "head"}},
        {"class_name": "Model", "config": {"name": "a", "layers": [{"class_name": "Dense", "config": {"name": "b"}}]}},
    ]
    config = json.dumps({"class_name": "Functional", "config": {"layers": layers}}).encode()
    read = formats.read(zipped(tmp_path / "net.keras", weights.getvalue(), config, method), "keras")
    assert list(read) == [
        "layers/conv2d:stem/0", "layers/conv2d_1:head/0", "layers/conv2d_1:head/2", "layers/conv2d_1:head/10",
        "layers/model:a/layers/dense:b/0", "0",
    ]  # fmt: skip
    np.testing.assert_array_equal(read["layers/conv2d_1:head/2"], [0, 1, 2])


def linked_in_a_circle(file):
    file.create_group("layers")["again"] = file["/"]


def external(file):
    file.create_dataset("vars/0", (2,), "f4", external=[("/etc/hostname", 0, 8)])


def virtual(file):
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2,))
    file.create_virtual_dataset("vars/0", layout)


def shared_type(file):
    file["type"] = np.dtype("f4")
    file.create_dataset("vars/0", (2,), file["type"])
    del file["type"]


def never_written(file):
    file.create_dataset("vars/0", (1 << 40,), "f4")


def with_names(layers: list[bytes], weights: list[bytes]):
    def fill(file):
        file.attrs["layer_names"] = np.array(layers)
        file.create_group("a").attrs["weight_names"] = np.array(weights)
        file["a/a/k"] = file["a/a/k:0"] = np.zeros(1)

    return fill


def put(place: str, value: object):
    return lambda file: file.__setitem__(place, value)


HOSTILE = {
    "a soft link": (lambda file: put("x", h5py.SoftLink("/vars"))(file), "a soft link"),
    "a link to another file": (lambda file: put("x", h5py.ExternalLink("other.h5", "/"))(file), "style of libver"),
    "a circle": (linked_in_a_circle, "a second link"),
    "data in another file": (external, "a dataset in another file"),
    "data of other datasets": (virtual, "virtual"),
    "a shared type": (shared_type, "a type that several objects share"),
    "compressed": (lambda file: file.create_dataset("vars/0", (9,), "f4", compression="gzip"), "a compressed dataset"),
    "in chunks": (lambda file: file.create_dataset("vars/0", (9,), "f4", chunks=(3,)), "in chunks"),
    "never written": (never_written, "would take"),
    "text": (put("vars/0", "text"), "HDF5's class 9"),
    "complex numbers": (put("vars/0", np.zeros(2, np.complex64)), "HDF5's class 6"),
    "objects of no kind": (put("vars/0", np.zeros(2, "V2")), "HDF5's class 5"),
    "outside vars": (put("layers/0", np.zeros(2)), "each within a group named vars"),
    "a layer that is missing": (with_names([b"b"], [b"a/k"]), "no group 'b'"),
    "a weight that is missing": (with_names([b"a"], [b"a/b"]), "no dataset 'a/b'"),
    "a weight by two names": (with_names([b"a"], [b"a/k", b"a/k:0"]), "two weights 'a/k'"),
    "a layer twice": (with_names([b"a", b"a"], [b"a/k"]), "two weights 'a/k'"),
    "no text": (with_names([b"\xff"], [b"a/k"]), "not UTF-8"),
    "nested": (put("/".join("a" * 20) + "/vars/0", np.zeros(1)), "nested more than 16 deep"),
}  # fmt: skip


@pytest.mark.framework("port")
@pytest.mark.parametrize(("fill", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path, fill, words):
    with h5py.File(tmp_path / "net.h5", "w") as file:
        fill(file)
    with pytest.raises(FileFormatError) as error:
        formats.read(tmp_path / "net.h5", "keras")
    assert words in str(error.value) and "net.h5" in str(error.value)


@pytest.mark.framework("port")
def test_latest_hdf5_is_refused(tmp_path):
    with h5py.File(tmp_path / "net.h5", "w", libver="latest") as file:
        file["vars/0"] = np.zeros(1)
    with pytest.raises(FileFormatError, match="superblock of version 0 or 1"):
        formats.read(tmp_path / "net.h5", "keras")


def twice(path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("config.json", "{}")


def encrypted(path: Path) -> None:
    changed = bytearray(path.read_bytes())
    changed[changed.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(changed)


ARCHIVES = {
    "no weights": ({}, lambda path: zipfile.ZipFile(path, "w").close(), "model.weights.h5, as Keras writes it"),
    "a member twice": ({}, twice, "two members 'config.json'"),
    "no JSON": ({"config": b"[" * 100_000}, None, "config.json that is no JSON"),
    "a large configuration": ({"config": b" " * (9 << 20)}, None, "would unpack to 9,437,184 bytes"),
    "a bomb": ({"weights": bytes(3 << 20), "method": zipfile.ZIP_DEFLATED}, None, "would unpack to 3,145,728 bytes"),
    "encrypted": ({}, encrypted, "encrypted"),
    "damaged": (
        {},
        lambda path: path.write_bytes(path.read_bytes().replace(b"HDFx", b"HDFy")),
        "its CRC",
    ),
    "no zip": ({}, lambda path: path.write_bytes(b"PK\x03\x04" + bytes(60)), "is no zip"),
    "no HDF5": ({}, None, "superblock"),
}


@pytest.mark.parametrize(("given", "change", "words"), ARCHIVES.values(), ids=ARCHIVES)
def test_hostile_archive_is_refused(tmp_path, monkeypatch, given, change, words):
    monkeypatch.setattr(_base, "MAX_BYTES", 1 << 20)
    path = zipped(tmp_path / "net.keras", **({"weights": b"HDFx" + bytes(100)} | given))
    if change:
        change(path)
    with pytest.raises(FileFormatError, match=words):
        formats.read(path, "keras")


@pytest.mark.framework("port")
@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("net.keras", {"a/0": np.zeros(1)}, "ending .weights.h5"),
        ("net.h5", {"a": np.zeros(1)}, "names no layer"),
        ("net.h5", {"a/k": np.zeros(1, np.complex64)}, "which is complex64"),
        ("net.h5", {"a/../k": np.zeros(1)}, "no name for HDF5"),
        ("net.h5", {"a/k": np.zeros(1), "a/k/k": np.zeros(1)}, "cannot hold these names"),
        ("net.weights.h5", {"a:x/0": np.zeros(1), "a:y/1": np.zeros(1)}, "one name for each layer"),
        ("net.weights.h5", {"a/0": np.zeros(1), "a/vars/0/0": np.zeros(1)}, "cannot hold these names"),
    ],
)
def test_unsupported_tensors_are_not_written(tmp_path, name, given, words):
    with pytest.raises(FileFormatError, match=words):
        formats.write(tmp_path / name, given)
    assert not list(tmp_path.iterdir())
