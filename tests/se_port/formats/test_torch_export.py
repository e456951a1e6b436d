"""Archives of torch.export: of the installed torch, archives typed out in each layout, and hostile ones."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from se_port import formats
from se_port.formats import _base
from se_port.formats import torch_export as reader
from se_spec import FileFormatError

from ...conftest import OnDemand
from . import fuzz
from .tensors import is_mapped
from .test_torch import archive as torch_archive
from .test_torch import state, tensor

torch = OnDemand("torch")

ARRAYS = {"w": np.float32([[1, 2, 3], [4, 5, 6]]), "b": np.int64([7])}
CODES = {"float32": 7, "int64": 5}
EMPTY: dict[str, Any] = {"graph_module": {"graph": {"nodes": []}, "signature": {"input_specs": []}}}


def describe(array: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Describe a contiguous array as the schema does."""
    strides = [stride // array.itemsize for stride in array.strides]
    meta = {
        "dtype": CODES[str(array.dtype)],
        "sizes": [{"as_int": length} for length in array.shape],
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": 0},
    }
    return meta | changes


def archive(
    program: Any = EMPTY,
    weights: dict[str, np.ndarray] | None = None,
    config: Any = None,
    constants: dict[str, np.ndarray] | None = None,
    **members: bytes,
) -> bytes:
    """Write an archive of the layout since PyTorch 2.9; ``config`` replaces the description of the weights."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as made:
        made.writestr("x/archive_format", "pt2")
        made.writestr("x/models/model.json", json.dumps(program))
        for kind, arrays in (("weights", weights or {}), ("constants", constants or {})):
            entries = {}
            for number, (name, array) in enumerate(arrays.items()):
                place = f"{'weight' if kind == 'weights' else 'tensor'}_{number}"
                made.writestr(f"x/data/{kind}/{place}", array.tobytes())
                entries[name] = {"path_name": place, "use_pickle": False, "tensor_meta": describe(array)}
            whole = config if config is not None and kind == "weights" else {"config": entries}
            made.writestr(f"x/data/{kind}/model_{kind}_config.json", json.dumps(whole))
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def nested(*, old: bool) -> bytes:
    """Write an archive whose weights are archives of torch.save: of PyTorch 2.8, or before."""
    weights = torch_archive(state(w=tensor()), **{"x/data/0": np.float32([1, 2]).tobytes()})
    with zipfile.ZipFile(file := io.BytesIO(), "w") as made:
        made.writestr("version" if old else "x/archive_format", "8.8" if old else "pt2")
        made.writestr("serialized_exported_program.json" if old else "x/models/model.json", json.dumps(EMPTY))
        for kind, name in (("weights", "serialized_state_dict"), ("constants", "serialized_constants")):
            data = weights if kind == "weights" else torch_archive(b"\x80\2}.")
            made.writestr(f"{name}.pt" if old else f"x/data/{kind}/model.pt", data)
    return file.getvalue()


def write(tmp_path: Path, data: bytes) -> Path:
    (path := tmp_path / "net.pt2").write_bytes(data)
    return path


def test_the_state_dict_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, archive(weights=ARRAYS))
    assert formats.format_of(path) == "torch_export"
    tensors = formats.read(path)
    assert list(tensors) == list(ARRAYS)
    assert all(np.array_equal(tensors[name], ARRAYS[name]) and is_mapped(tensors[name]) for name in ARRAYS)
    with pytest.raises(FileFormatError, match=r"is a torch\.export archive, which 2 tensors do not make"):
        reader.write(tmp_path / "other.pt2", tensors)


@pytest.mark.parametrize("old", [True, False], ids=["before 2.8", "2.8"])
def test_older_layouts_are_read(tmp_path: Path, old: bool) -> None:
    path = write(tmp_path, nested(old=old))
    assert formats.format_of(path) == "torch_export"
    tensors = formats.read(path)
    assert tensors["w"].tolist() == [1, 2]
    assert is_mapped(tensors["w"])


def test_constants_are_read_where_there_are_no_weights(tmp_path: Path) -> None:
    assert list(formats.read(write(tmp_path, archive(constants={"lifted_tensor_0": ARRAYS["w"]})))) == [
        "lifted_tensor_0"
    ]


def test_a_view_of_a_storage_is_read(tmp_path: Path) -> None:
    meta = describe(ARRAYS["w"].T, storage_offset={"as_int": 1}, sizes=[{"as_int": 2}, {"as_int": 2}])
    config = {"config": {"turned": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta}}}
    assert formats.read(write(tmp_path, archive(weights=ARRAYS, config=config)))["turned"].tolist() == [[2, 5], [3, 6]]


def changed(**changes: Any) -> bytes:
    entry = {"path_name": "weight_0", "use_pickle": False, "tensor_meta": describe(ARRAYS["w"], **changes)}
    return archive(weights=ARRAYS, config={"config": {"w": entry}})


ENTRY = {"path_name": "weight_0", "use_pickle": False, "tensor_meta": describe(ARRAYS["w"])}
HUGE = [{"as_int": 1 << 40}, {"as_int": 3}]
HOSTILE = {
    "half of it": (archive(weights=ARRAYS)[:400], "is no zip that can be read"),
    "two programs": (archive(**{"x/models/other.json": b"{}"}), "a torch.export archive of 2 programs"),
    "compiled code": (
        archive(**{"x/data/aotinductor/model/x.so": b"", "x/models/other.json": b"{}"}),
        "compiled code of AOTInductor"),
    "no tensors": (archive(), "without tensors"),
    "no description": (archive(config=[]), "has no dictionary 'config'"),
    "a description that is no JSON": (archive(weights=ARRAYS).replace(b'{"config"', b'{"conf;g"', 1), "no dictionary"),
    "an unknown dtype": (changed(dtype=9), "is of the dtype 9"),
    "a dtype that is a list": (changed(dtype=[7]), "is of the dtype [7]"),
    "a missing member": (
        archive(config={"config": {"w": {**ENTRY, "path_name": "y"}}}),
        "has no member 'x/data/weights/y'"),
    "a pickled tensor": (archive(config={"config": {"w": {**ENTRY, "use_pickle": True}}}), "is pickled"),
    "an entry that is a list": (archive(config={"config": {"w": []}}), "is pickled or not described"),
    "a negative axis": (changed(sizes=[{"as_int": -1}, {"as_int": 3}]), "whole numbers from 0"),
    "an axis without a length": (changed(sizes=[{"as_expr": {}}, {"as_int": 3}]), "whole numbers from 0"),
    "sizes that are a text": (changed(sizes="23"), "whole numbers from 0"),
    "another number of strides": (changed(strides=[{"as_int": 1}]), "2 axes and 1 strides"),
    "an enormous shape": (changed(sizes=HUGE, strides=[{"as_int": 0}, {"as_int": 0}]), "would take"),
    "a shape beyond its storage": (changed(sizes=[{"as_int": 3}, {"as_int": 3}]), "reaches to item 8"),
    "an offset beyond its storage": (changed(storage_offset={"as_int": 1}), "reaches to item 6"),
    "a name that climbs": (archive(**{"../x": b""}), "leads nowhere"),
    "weights that are no archive": (
        nested(old=False).replace(b"PK\3\4", b"PX\3\4").replace(b"PX\3\4", b"PK\3\4", 1), ""),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 1 << 30)
    path = write(tmp_path, data)
    with pytest.raises(FileFormatError) as caught:
        formats.read(path, "torch_export")
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["storages", "2.8", "before 2.8"])
def test_mutated_files_are_read_or_refused(tmp_path: Path, mutations: int, kind: str) -> None:
    data = archive(weights=ARRAYS) if kind == "storages" else nested(old=kind != "2.8")
    fuzz.check_mutations("torch_export", write(tmp_path, data), max(mutations, 500))


@pytest.mark.framework("torch")
@pytest.mark.filterwarnings("ignore")
def test_torchs_own_archive_has_the_state_dict(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.PReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 4, 4),)), tmp_path / "net.pt2")
    tensors = formats.read(tmp_path / "net.pt2")
    expected = {name: value.numpy() for name, value in net.state_dict().items()}
    assert set(tensors) == set(expected)
    assert all(np.array_equal(tensors[name], expected[name]) and is_mapped(tensors[name]) for name in expected)
