"""TorchScript archives: those of torch, archives typed out, and hostile ones."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from se_port import formats
from se_port.formats import _base
from se_port.formats import torchscript as reader
from se_spec import FileFormatError

from ...conftest import OnDemand
from . import fuzz
from .tensors import is_mapped
from .test_torch import archive as torch_archive
from .test_torch import state, storage, tensor, text

torch = OnDemand("torch")


def module(kind: str = "Net", /, **attributes: bytes) -> bytes:
    """Encode a module; the attributes are encoded values."""
    items = b"".join(text(name) + value for name, value in attributes.items())
    return f"c__torch__\n{kind}\n".encode() + b")\x81}(" + items + b"ub"


def archive(root: bytes, storages: dict[str, bytes], code: str = "", **members: bytes) -> bytes:
    """Write an archive of a module, its storages and the code of its classes."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as made:
        made.writestr("net/data.pkl", b"\x80\2" + root + b".")
        for key, data in storages.items():
            made.writestr(f"net/data/{key}", data)
        made.writestr("net/code/__torch__.py", code)
        made.writestr("net/constants.pkl", members.pop("constants", b"\x80\2)."))
        for name, data in members.items():
            made.writestr(f"net/{name}", data)
    return file.getvalue()


def small() -> bytes:
    inner = module("Inner", training=b"\x89", weight=tensor(), bias=b"N")
    return archive(module(training=b"\x88", inner=inner, scale=tensor()), {"0": np.float32([1, 2]).tobytes()})


def write(tmp_path: Path, data: bytes) -> Path:
    (path := tmp_path / "net.pt").write_bytes(data)
    return path


def test_parameters_are_named_by_the_paths_of_their_modules(tmp_path: Path) -> None:
    path = write(tmp_path, small())
    assert formats.format_of(path) == "torchscript"
    tensors = formats.read(path)
    assert list(tensors) == ["inner.weight", "scale"]
    assert all(is_mapped(array) and array.tolist() == [1, 2] for array in tensors.values())
    with pytest.raises(FileFormatError, match="is a TorchScript archive, which 2 tensors do not make"):
        reader.write(tmp_path / "other.pt", tensors)


def test_an_archive_of_torch_save_stays_one(tmp_path: Path) -> None:
    assert formats.format_of(write(tmp_path, torch_archive(state(w=tensor())))) == "torch"


def test_a_frozen_module_has_its_constants(tmp_path: Path) -> None:
    constants = b"\x80\2" + tensor() + b"K\1\x86."
    data = archive(module(), {}, constants=constants, **{"constants/0": np.float32([3, 4]).tobytes()})
    assert formats.read(write(tmp_path, data))["CONSTANTS.c0"].tolist() == [3, 4]


def test_a_module_in_two_places_and_in_itself_is_named_once(tmp_path: Path) -> None:
    inner = module("Inner", weight=tensor())
    root = b"c__torch__\nNet\n)\x81q\1}(" + text("a") + inner + b"q\2" + text("b") + b"h\2" + text("self") + b"h\1ub"
    assert list(formats.read(write(tmp_path, archive(root, {"0": bytes(8)})))) == ["a.weight"]


def nested(depth: int) -> bytes:
    return (
        b"c__torch__\nM\n)\x81}"
        + text("m" * 99)
        + (b"c__torch__\nM\n)\x81}" + text("m" * 99)) * depth
        + b"N"
        + (b"sb" * (depth + 1))
    )


HOSTILE = {
    "half of it": (small()[:300], "is no zip that can be read"),
    "no module": (archive(b"}", {}), "is a TorchScript archive of a dict"),
    "no tensors": (archive(module(training=b"\x88"), {}), "without tensors"),
    "two modules": (archive(module(), {}, **{"../net/data.pkl": b""}), "leads nowhere"),
    "the highest byte first": (archive(module(w=tensor()), {"0": bytes(8)}, byteorder=b"big"), "not little-endian"),
    "a missing storage": (archive(module(w=tensor()), {}), "the storage '0' of 'w' is missing"),
    "a storage of another size": (archive(module(w=tensor()), {"0": bytes(9)}), "has 9 bytes; expected 8"),
    "an enormous shape": (
        archive(module(w=tensor(shape=b"\x8a\x08" + bytes(6) + b"\1\0\x85", strides=b"K\0\x85")), {"0": bytes(8)}),
        "would take",
    ),
    "a function of the system": (archive(b"cos\nsystem\n" + text("ls") + b"\x85R", {}), "asks for os.system"),
    "an object of another class": (archive(b"ccollections\nOrderedDict\n)\x81", {}), "of no class of the archive"),
    "an object of C++": (
        archive(module(w=b"c__torch__.torch.classes.quantized\nConv2dPackedParamsBase\n)\x81"), {}),
        "of a quantized module, with __torch__.torch.classes.quantized.Conv2dPackedParamsBase",
    ),
    "a quantized tensor": (archive(module(w=b"ctorch._utils\n_rebuild_qtensor\n)R"), {}), "of a quantized module"),
    "another object of C++": (archive(module(w=b"c__torch__.torch.classes.a\nB\n)\x81"), {}), "asks for __torch__"),
    "a call of a class": (archive(b"c__torch__\nNet\n)R", {}), "calls __torch__.Net"),
    "attributes of a list": (archive(b"c__torch__\nNet\n)\x81]b", {}), "are no dictionary"),
    "modules within modules": (archive(nested(200), {}), "has modules within modules"),
    "no pickle": (archive(b"", {}), "its pickle is broken"),
}


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 1 << 30)
    path = write(tmp_path, data)
    with pytest.raises(FileFormatError) as caught:
        formats.read(path, "torchscript")
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_shared_bytes_count_for_every_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 12)
    with pytest.raises(FileFormatError, match=r"'scale' .* would take 8 bytes"):
        formats.read(write(tmp_path, small()), "torchscript")


def test_mutated_files_are_read_or_refused(tmp_path: Path, mutations: int) -> None:
    fuzz.check_mutations("torchscript", write(tmp_path, small()), max(mutations, 500))


@pytest.mark.framework("torch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["traced", "scripted", "frozen"])
def test_torchs_own_archives_have_the_state_dict(tmp_path: Path, way: str) -> None:
    layers = [torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.PReLU())]
    if way != "frozen":  # which folds it
        layers.append(torch.nn.BatchNorm2d(4))
    net = torch.nn.Sequential(*layers).eval()
    made = torch.jit.trace(net, torch.zeros(1, 3, 4, 4)) if way == "traced" else torch.jit.script(net)
    if way == "frozen":
        made = torch.jit.freeze(made)
    made.save(str(tmp_path / "net.pt"))
    tensors = formats.read(tmp_path / "net.pt")
    expected = {name: value.numpy() for name, value in net.state_dict().items()}
    if way == "frozen":
        assert any(np.array_equal(array, expected["0.weight"]) for array in tensors.values())
        return
    assert set(tensors) == set(expected)
    assert all(np.array_equal(tensors[name], expected[name]) and is_mapped(tensors[name]) for name in expected)


def test_storages_that_are_compressed_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "net.pt", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("net/data.pkl", b"\x80\2" + module(w=tensor(storage())) + b".")
        made.writestr("net/data/0", bytes(8))
        made.writestr("net/constants.pkl", b"\x80\2).")
    with pytest.raises(FileFormatError, match="is compressed"):
        formats.read(path)
