"""Folders of the Hugging Face hub: a model in one file or in shards, with an index of names to shards.

The index is ``model.safetensors.index.json`` or ``pytorch_model.bin.index.json`` (``huggingface_hub/serialization``).
A shard may be a link, as in the hub's cache. Every name of the index must be in its shard, and every name of a shard in
the index. Nothing is written.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from se_spec.texts import quote, shorten

from ..lazy_arrays import LazyArrays
from ._base import Budget, Tensors, check_names, refuse
from ._buffers import read_file
from ._json import decode_json

NEEDS = ()
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Files of a model that is not split."""
PREFERRED = (WHOLE[0], INDEXES[0], WHOLE[1], INDEXES[1])
"""What the hub's own libraries take first where a folder has several."""
MAX_INDEX_BYTES = 16 << 20
MAX_SHARDS = 1024
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?:safetensors|bin)")


def matches(path: Path, head: bytes) -> bool:
    """Whether a path is such an index, a folder that has one or a whole model, or one of several shards."""
    if path.is_dir():
        return any((path / name).is_file() for name in (*INDEXES, *WHOLE))
    shard = SHARD.fullmatch(path.name)
    return path.name.endswith(".index.json") or (shard is not None and int(shard["count"]) > 1)


def read(path: Path) -> Tensors:
    """Read the tensors of all shards, each shard in its own format.

    Raises:
        FileFormatError: a shard is alone, missing or not in the folder, or index and shards do not have the same names.
    """
    if shard := SHARD.fullmatch(path.name):
        refuse(
            path,
            f"is shard {int(shard['number'])} of {int(shard['count'])}",
            "the folder, or the index beside it: a block may be in several shards",
        )
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        present = [name for name in PREFERRED if (path / name).is_file()]
        if present[0] in WHOLE:
            return _read_file(path / present[0])
        path = path / present[0]
    names = _read_index(path)
    check_names(path, names)
    if len(set(names.values())) > MAX_SHARDS:
        refuse(path, f"names {len(set(names.values())):,} files", f"at most {MAX_SHARDS:,}")
    shards: dict[str, Tensors] = {}
    budget = Budget(path)
    for file in dict.fromkeys(names.values()):
        shards[file] = _read_shard(path, folder, file)
        budget.spend((folder / file).stat().st_size)
        extra = [name for name in shards[file] if names.get(name) != file]
        if extra:
            _refuse_names(path, [], extra)
    missing = [f"{name} of {file}" for name, file in names.items() if name not in shards[file]]
    if missing:
        _refuse_names(path, missing, [])
    makers: dict[str, Callable[[], np.ndarray]] = {
        name: partial(shards[file].__getitem__, name) for name, file in names.items()
    }
    return LazyArrays(makers)


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always.
    """
    refuse(path, f"is a folder of the hub, into which {len(tensors)} tensors are not written", "another format")


def _refuse_names(path: Path, missing: list[str], extra: list[str]) -> NoReturn:
    lacking, beyond = (shorten(found[:3] or "nothing") for found in (missing, extra))
    wrong = f"and its shards differ: missing {lacking}, beyond the index {beyond}"
    refuse(path, wrong, "an index of these shards, with each name in one")


def _read_file(path: Path, format: str | None = None) -> Tensors:
    from ._files import read as read_any  # which imports this module

    return read_any(path, format)


def _read_index(path: Path) -> dict[str, str]:
    index = decode_json(path, "the index of shards", read_file(path, MAX_INDEX_BYTES), MAX_INDEX_BYTES)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        refuse(path, "has no weight_map of names to files", "an index of shards")
    return names


def _read_shard(index: Path, folder: Path, file: str) -> Tensors:
    if not file or set(file) & set("/\\:\0") or file in (".", ".."):
        refuse(index, f"has a shard {quote(file)}", "names of files in the same folder")
    if not (folder / file).is_file():
        refuse(index, f"needs the shard {quote(file)}, which is not there", "all shards beside the index")
    return _read_file(folder / file, "safetensors" if file.endswith(".safetensors") else "torch")
