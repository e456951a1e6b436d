"""torch's files: against torch, pickles typed out, and hostile ones; reading and writing work where it is missing."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from se_port import formats
from se_port.formats import _base, _pickle
from se_port.formats import torch as reader
from se_spec import FileFormatError

from ...conftest import OnDemand
from .tensors import is_mapped, peak_memory, same, samples

torch = OnDemand("torch")

REFERENCES = Path(__file__).parents[2] / "references"
ONE = np.array(1.5, np.float32).tobytes()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(key: str = "0", length: int = 2, kind: str = "torch\nFloatStorage") -> bytes:
    return b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + b"K%ct" % length + b"Q"


def tensor(
    data: bytes = storage(), offset: bytes = b"K\0", shape: bytes = b"K\2\x85", strides: bytes = b"K\1\x85"
) -> bytes:
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + data + offset + shape + strides + b"\x89" + hooks + b"tR"


def state(**values: bytes) -> bytes:
    return b"\x80\2}(" + b"".join(text(name) + value for name, value in values.items()) + b"u."


def archive(data: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", compression) as made:
        for name, content in {"x/data.pkl": data, "x/data/0": bytes(8), "x/version": b"3\n", **more}.items():
            made.writestr(name, content)
    return file.getvalue()


def old(value: bytes, keys: object = ("0",), data: bytes = b"\2" + bytes(15), **system: object) -> bytes:
    """Encode a file from before 1.6; ``data`` is the number of items, then the items."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    said = (0x1950A86A20F9469CFC6C, 1001, about | system)
    first = b"".join(pickle.dumps(one, 2) for one in said)
    return first + value + pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2) + data


OLD_STATE = state(w=tensor(storage().replace(b"tQ", b"NtQ")))


def checkpoint() -> dict[str, object]:
    """Make tensors of every kind that a network's file has."""
    shared = torch.arange(8.0)
    return {
        "turned": torch.arange(12.0).reshape(3, 4).T,
        "every other": torch.arange(10)[2:7:2],
        "repeated": torch.ones(1).expand(3, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "begin": shared[:4],
        "end": shared[2:],
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "half": torch.tensor([1.5, -0.0]).half(),
        "bfloat16": torch.tensor([1.5, -0.0]).bfloat16(),
        "double": torch.ones(2, 1, dtype=torch.float64),
        "bool": torch.tensor([True, False]),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "small": torch.tensor([-1], dtype=torch.int8),
    }


def arrays(tensors: dict[str, object]) -> dict[str, np.ndarray]:
    """Convert torch's tensors to arrays."""
    return {
        name: one.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if one.dtype == torch.bfloat16
        else one.detach().numpy()
        for name, one in tensors.items()
    }


def test_typed_file_is_read(tmp_path: Path) -> None:
    said = (
        b"\x80\2"
        b"}q\0("
        b"X\6\0\0\0weightq\1"
        b"ctorch._utils\n_rebuild_tensor_v2\nq\2("
        b"(X\7\0\0\0storageq\3ctorch\nFloatStorage\nq\4X\1\0\0\x000q\5X\6\0\0\0cuda:0q\6K\3tq\7Q"
        b"K\1"  # from the second number on
        b"K\2K\1\x86q\x08"  # 2 by 1
        b"K\1K\1\x86q\x09"  # strides
        b"\x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0d"
        b"X\5\0\0\0epochq\x0eK\7"
        b"u."
    )
    (path := tmp_path / "x.pth").write_bytes(archive(said, **{"x/data/0": ONE * 2 + b"\0\0\0\x80"}))
    got = formats.read(path, "torch")
    assert same(got, {"weight": np.array([[1.5], [-0.0]], np.float32)})
    assert is_mapped(got["weight"])


def test_typed_file_of_python_2_is_read(tmp_path: Path) -> None:
    """Names are bytes, a dictionary is made of a list, sizes are long, and a storage may be a part of another."""
    magic = b"\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    system = b"\x80\2}q\0(U\x10protocol_versionM\xe9\3U\rlittle_endian\x88U\ntype_sizes}u."
    part = b"(U\x0241K\2K\2t"
    said = (
        b"\x80\2ccollections\nOrderedDict\nq\0]q\1]q\2(U\5w\xc3\xa9.0"
        b"ctorch._utils\n_rebuild_tensor\n((U\7storagectorch\nFloatStorage\nU\00240U\3cpuK\4"
        + part
        + b"tQK\1\x8a\1\1\x85\x8a\1\1\x85tRea\x85R."
    )
    numbers = np.array([0, 1, 2, 3], np.float32).tobytes()
    whole = magic + b"\x80\2M\xe9\3." + system + said + b"\x80\2]U\00240a." + struct.pack("<q", 4) + numbers
    (path := tmp_path / "x.pkl").write_bytes(whole)
    assert reader.matches(path, whole[:64])
    got = formats.read(path, "torch")
    assert same(got, {"wé.0": np.array([3.0], np.float32)})
    assert is_mapped(got["wé.0"])


def test_torch_is_not_needed(tmp_path: Path) -> None:
    path = REFERENCES / "moskomule-se_resnet20" / "weights.pth"
    assert reader.matches(path, path.read_bytes()[:64])
    code = f"""
import sys
from se_port import formats
tensors = formats.read({str(path)!r}, "torch")
formats.write({str(tmp_path / "x.pth")!r}, tensors)
print(len(tensors), tensors["layer1.0.se.fc.0.weight"].shape, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "146 (1, 16) False\n"


@pytest.mark.framework("torch")
@pytest.mark.parametrize("path", sorted(REFERENCES.rglob("*.pth")), ids=lambda path: path.parent.name)
def test_weights_of_the_references_are_read(path: Path) -> None:
    assert same(formats.read(path, "torch"), arrays(torch.load(path, weights_only=True)))


def write_with_torch(folder: Path, protocol: int, *, new: bool, nested: bool) -> tuple[Path, formats.Tensors]:
    """Write a checkpoint, alone or among other values; ``new`` is the zip format."""
    tensors = checkpoint()
    others = {"epoch": 3, "best": torch.tensor(0.9), "optimizer": {"state": {0: {"step": torch.ones(2)}}, "lr": [0.1]}}
    whole = {"state_dict": tensors, **others} if nested else tensors
    torch.save(whole, folder / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    return folder / "x.pt", arrays(tensors)


@pytest.mark.framework("torch")
@pytest.mark.parametrize("new", [True, False])
def test_state_of_a_network_is_read(tmp_path: Path, new: bool) -> None:
    net = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)))
    torch.save(net.state_dict(), tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    got = formats.read(tmp_path / "x.pth", "torch")
    assert same(got, arrays(net.state_dict()))
    assert "module.1.num_batches_tracked" in got


@pytest.mark.framework("torch")
@pytest.mark.parametrize("mapped", [True, False])
def test_torch_reads_written_files(tmp_path: Path, mapped: bool) -> None:
    want = samples(reader.CODES)
    formats.write(tmp_path / "x.pt", want)
    theirs = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mapped)
    assert same(arrays(theirs), want)
    assert all(one.is_contiguous() for one in theirs.values())


@pytest.mark.framework("torch")
@pytest.mark.parametrize("new", [True, False])
def test_unsupported_files_of_torch_are_refused(tmp_path: Path, new: bool) -> None:
    numbers = torch.zeros(2)
    for words, value in {
        "Sequential": torch.nn.Sequential(torch.nn.Linear(1, 1)),
        "ComplexFloatStorage": {"w": numbers.to(torch.complex64)},
        "_rebuild_sparse_tensor": {"w": numbers.to_sparse()},
        "_rebuild_tensor_v3": {"w": numbers.to(torch.uint16)},
        "_rebuild_tensor_v3 ": {"w": numbers.to(torch.float8_e5m2)},
        "holds a Tensor": numbers,
        "holds a list": [numbers],
        "no tensors where they are expected": {"generator": {"w": 1.0}},
        r"holds tensors in model \(1 tensors\), ema": {"model": {"w": numbers}, "ema": {"w": numbers}},
        "under 'heads'": {"w": numbers, "heads": [numbers]},
        "two tensors that would be named '1'": {1: numbers, "1": numbers},
    }.items():
        torch.save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(FileFormatError, match=words.strip()):
            formats.read(tmp_path / "x.pth", "torch")


def test_round_trip_is_exact_and_aligned_to_64_bytes(tmp_path: Path) -> None:
    want = samples(reader.CODES)
    formats.write(tmp_path / "x.pth", want)
    got = formats.read(tmp_path / "x.pth", "torch")
    assert same(got, want)
    assert all(is_mapped(array) and array.ctypes.data % 64 == 0 for array in got.values() if array.size)
    formats.write(tmp_path / "y.pth", got)
    assert (tmp_path / "y.pth").read_bytes() == (tmp_path / "x.pth").read_bytes()
    assert reader.matches(tmp_path / "x.pth", (tmp_path / "x.pth").read_bytes()[:64])


def test_only_one_tensor_is_in_memory(tmp_path: Path) -> None:
    formats.write(tmp_path / "x.pth", {str(number): np.zeros(1 << 18, np.float32) for number in range(16)})

    def pass_on() -> None:
        formats.write(tmp_path / "y.pth", formats.read(tmp_path / "x.pth", "torch"), force=True)

    assert peak_memory(pass_on) < 1 << 18


class Runs:
    """An object whose unpickling creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("whole", [archive, old, bytes])
def test_code_in_a_pickle_never_runs(tmp_path: Path, protocol: int, whole: type) -> None:
    (path := tmp_path / "x.pth").write_bytes(whole(pickle.dumps({"w": Runs(tmp_path / "ran")}, protocol)))
    with pytest.raises(FileFormatError, match=r"its pickle asks for posix.mkdir: code.*expected a plain state_dict"):
        formats.read(path, "torch")
    assert not (tmp_path / "ran").exists()


def far(shape: bytes, strides: bytes, offset: bytes = b"K\0") -> bytes:
    return archive(state(w=tensor(shape=shape, strides=strides, offset=offset)))


EXPONENTIAL = b"\x80\2}(" + b")" + b"q\0h\0\x86" * 200 + b"K\1u."
HOSTILE = {
    "nothing": (b"", "cannot be read"),
    "a picture": (b"GIF89a" + bytes(99), "begins with b'GIF89a"),
    "half of it": (archive(state(w=tensor()))[:100], "not a zip file"),
    "another pickle": (pickle.dumps({"w": 1}, 2), "a file that torch.save has written"),
    "a pickle in letters": (archive(pickle.dumps({"w": 1}, 0)), "which makes objects"),
    "compressed": (archive(state(w=tensor()), zipfile.ZIP_DEFLATED), "is compressed"),
    "no pickle": (archive(state(w=tensor())).replace(b"data.pkl", b"data.txt"), "has 0 members */data.pkl"),
    "two pickles": (archive(state(w=tensor()), **{"y/data.pkl": b""}), "has 2 members */data.pkl"),
    "the highest byte first": (archive(state(w=tensor()), **{"x/byteorder": b"big"}), "not little-endian"),
    "a name that climbs": (archive(state(w=tensor()), **{"../x": b""}), "leads nowhere"),
    "an empty pickle": (archive(b""), "its pickle is broken"),
    "no end": (archive(b"\x80\2}"), "its pickle is broken"),
    "no instruction": (archive(b"\x80\2\xff."), "its pickle is broken"),
    "an empty stack": (archive(b"\x80\2."), "its pickle is broken (IndexError"),
    "no mark": (archive(b"\x80\2t."), "its pickle is broken (IndexError"),
    "a note that nobody made": (archive(b"\x80\2h\5."), "its pickle is broken (KeyError"),
    "a name that is no text": (archive(b"\x80\2X\1\0\0\0\xff."), "its pickle is broken (UnicodeDecodeError"),
    "a name of a lone surrogate": (archive(b"\x80\2}X\3\0\0\0\xed\xa0\x80" + tensor() + b"s."), "no Unicode text"),
    "a name without a value": (archive(b"\x80\2}(K\1u."), "its pickle is broken"),
    "one name twice": (archive(b"\x80\2}(" + (text("w") + tensor()) * 2 + b"u."), "'w' twice"),
    "a list as a name": (archive(b"\x80\2}]K\1s."), "key is a list"),
    "a name that takes for ever to compare": (archive(EXPONENTIAL), "has no tensors"),
    "a name in a list": (archive(b"\x80\2]K\1K\1s."), "no dictionary"),
    "more in a dictionary": (archive(b"\x80\2}K\1a."), "no list"),
    "a list in itself": (archive(b"\x80\2]q\0h\0a."), "holds a list"),
    "a dictionary in itself": (archive(b"\x80\2}q\0X\5\0\0\0modelh\0s."), "one mapping in several places"),
    "tensors in themselves": (
        archive(b"\x80\2}q\0(" + text("w") + tensor() + text("model") + b"h\0u."),
        "has one mapping in several places",
    ),
    "lists in lists": (archive(b"\x80\2" + b"]" * 50_000 + b"a" * 49_999 + b"."), "holds a list"),
    "a program of evil": (archive(b"\x80\2cbuiltins\neval\n(X\1\0\0\x001tR."), "asks for builtins.eval"),
    "the same by two strings": (archive(b"\x80\4\x8c\2os\x8c\6system\x93\x8c\2ls\x85R."), "asks for os.system"),
    "one by no strings": (archive(b"\x80\4K\1K\1\x93."), "asks for ?"),
    "torch's own, of another kind": (archive(b"\x80\2ctorch.hub\nload\n."), "asks for torch.hub.load"),
    "a call of a number": (archive(b"\x80\2K\1)R."), "no function"),
    "a call of a storage": (archive(b"\x80\2ctorch\nFloatStorage\n)R."), "calls torch.FloatStorage"),
    "a dictionary of numbers": (archive(b"\x80\2ccollections\nOrderedDict\n]K\1a\x85R."), "calls collections"),
    "a call with too much": (archive(b"\x80\2ctorch\ndevice\n(" + b"N" * 8 + b"tR."), "at most 7 arguments"),
    "a list that serves twice": (
        archive(b"\x80\2ccollections\nOrderedDict\nq\0]]K\1aK\1aa\x85q\1Rh\0h\1R."),
        "way that is not read",
    ),
    "an object by its class": (archive(b"\x80\2ccollections\nOrderedDict\n)\x81."), "the opcode NEWOBJ"),
    "an object of old": (archive(b"(ios\nsystem\n."), "the opcode INST"),
    "attributes of a list": (archive(b"\x80\2]}b."), "the opcode BUILD"),
    "an extension": (archive(b"\x80\2\x82\1."), "the opcode EXT1"),
    "a reference to anything": (archive(b"\x80\2K\1Q."), "no storage of numbers"),
    "a module": (archive(b"\x80\2(X\6\0\0\0moduleNNNtQ."), "no storage of numbers"),
    "a storage of a dictionary": (archive(b"\x80\2" + storage(kind="collections\nOrderedDict") + b"."), "no storage"),
    "a storage that is missing": (archive(state(w=tensor(storage("7")))), "the storage '7' of 'w' is missing"),
    "a storage of another size": (archive(state(w=tensor(storage(length=3)))), "has 8 bytes; expected 12"),
    "a storage of two kinds": (
        archive(state(w=tensor(), v=tensor(storage(length=1, kind="torch\nDoubleStorage")))),
        "two dtypes",
    ),
    "a tensor beyond its storage": (far(b"K\3\x85", b"K\1\x85"), "reaches to item 2"),
    "an offset beyond its storage": (far(b"K\2\x85", b"K\1\x85", b"K\1"), "reaches to item 2"),
    "strides beyond its storage": (far(b"K\2\x85", b"K\2\x85"), "reaches to item 2"),
    "an axis that is enormous": (far(b"\x8a\x08" + bytes(6) + b"\1\0\x85", b"K\0\x85"), "would take"),
    "a repetition that is enormous": (far(b"M\xff\xffM\xff\xff\x86", b"K\0K\0\x86"), "would take"),
    "an axis that no array can have": (far(b"K\0\x8a\x08" + bytes(7) + b"\x40\x86", b"K\0K\0\x86"), "would take"),
    "a negative axis": (far(b"J\xff\xff\xff\xff\x85", b"K\1\x85"), "whole numbers"),
    "a negative stride": (far(b"K\2\x85", b"J\xff\xff\xff\xff\x85"), "whole numbers"),
    "a negative offset": (far(b"K\2\x85", b"K\1\x85", b"J\xff\xff\xff\xff"), "whole numbers"),
    "strides for other axes": (far(b"K\2\x85", b")"), "of at most 32 axes"),
    "a shape of truths": (far(b"\x88\x85", b"K\1\x85"), "whole numbers"),
    "too many axes": (far(b"(" + b"K\1" * 33 + b"t", b"(" + b"K\1" * 33 + b"t"), "of at most 32 axes"),
    "a tensor that is negated on reading": (archive(state(w=tensor().replace(b")RtR", b")R}tR"))), "way that is not"),
    "old, of another version": (old(OLD_STATE).replace(b"M\xe9\3.", b"M\xea\3.", 1), "of another version"),
    "old, the highest byte first": (old(OLD_STATE, little_endian=False), "not little-endian"),
    "old, storages of no name": (old(OLD_STATE, keys={}), "list of storages"),
    "old, storages of another name": (old(OLD_STATE, keys=("1",)), "list of storages"),
    "old, storages forgotten": (old(OLD_STATE, keys=()), "list of storages"),
    "old, storages twice": (old(OLD_STATE, keys=("0", "0")), "list of storages"),
    "old, without storages": (old(OLD_STATE, data=b""), "ends before its storage"),
    "old, with half a storage": (old(OLD_STATE, data=b"\2" + bytes(12)), "at most 5"),
    "old, with a storage of minus one": (old(OLD_STATE, data=b"\xff" * 16), "none negative"),
    "old, a part beyond its storage": (
        old(state(w=tensor(storage().replace(b"tQ", b"(X\1\0\0\x001K\1K\2ttQ")))),
        "no storage of numbers",
    ),
}


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 1 << 30)
    (path := tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        formats.read(path, "torch")
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_hostile_files_are_readable_without_their_defect(tmp_path: Path) -> None:
    for whole in (archive(state(w=tensor())), old(OLD_STATE)):
        (path := tmp_path / "x.pth").write_bytes(whole)
        assert same(formats.read(path, "torch"), {"w": np.zeros(2, np.float32)})


def test_endless_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pickle, "MAX_OPCODES", 20)
    (path := tmp_path / "x.pth").write_bytes(archive(b"\x80\2" + b"N" * 30 + b"."))
    with pytest.raises(FileFormatError, match="at most 20 opcodes"):
        formats.read(path, "torch")


def test_shared_bytes_count_for_every_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 20)
    (path := tmp_path / "x.pth").write_bytes(archive(state(a=tensor(), b=tensor(), c=tensor())))
    with pytest.raises(FileFormatError, match=r"'c' .* would take 8 bytes; expected at most 4"):
        formats.read(path, "torch")


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("w", np.zeros(1, np.complex64), "complex64"),
        ("w", np.zeros(1, np.uint16), "uint16"),
        ("w", np.array([None]), "object"),
        ("\ud800", np.zeros(1), "no Unicode text"),
    ],
)
def test_unsupported_tensors_are_not_written(tmp_path: Path, name: str, array: np.ndarray, words: str) -> None:
    with pytest.raises(FileFormatError, match=words):
        formats.write(tmp_path / "x.pth", {name: array})
    assert not list(tmp_path.iterdir())
