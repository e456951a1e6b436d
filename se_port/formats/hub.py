"""Folders of the Hugging Face hub: a model in one file or in shards, with an index of names to shards.

The index is ``model.safetensors.index.json`` or ``pytorch_model.bin.index.json`` (``huggingface_hub/serialization``).
A shard may be a link, as in the hub's cache. Every name of the index must be in its shard, and every name of a shard in
the index. Nothing is written.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..lazy_arrays import LazyArrays
from ._base import Tensors, refuse

NEEDS = ()
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Files of a model that is not split."""
MAX_INDEX_BYTES = 64 << 20
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
        present = [name for name in (*INDEXES, *WHOLE) if (path / name).is_file()]
        if present[0] in WHOLE:
            return _read_file(path / present[0])
        path = path / present[0]
    names = _read_index(path)
    shards = {file: _read_shard(path, folder, file) for file in dict.fromkeys(names.values())}
    extra = [name for tensors in shards.values() for name in tensors if name not in names]
    missing = [f"{name} of {file}" for name, file in names.items() if name not in shards[file]]
    if extra or missing:
        refuse(
            path,
            f"and its shards differ: missing {missing[:3] or 'nothing'}, beyond the index {extra[:3] or 'nothing'}",
            "an index of these shards",
        )
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


def _read_file(path: Path, format: str | None = None) -> Tensors:
    from ._files import read as read_any  # which imports this module

    return read_any(path, format)


def _read_index(path: Path) -> dict[str, str]:
    if path.stat().st_size > MAX_INDEX_BYTES:
        refuse(path, f"has {path.stat().st_size:,} bytes", f"an index of at most {MAX_INDEX_BYTES:,}")
    try:
        index: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        refuse(path, f"is no JSON ({type(error).__name__})", "an index of shards")
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        refuse(path, "has no weight_map of names to files", "an index of shards")
    return names


def _read_shard(index: Path, folder: Path, file: str) -> Tensors:
    if not file or set(file) & set("/\\:\0") or file in (".", ".."):
        refuse(index, f"has a shard {file!r}", "names of files in the same folder")
    if not (folder / file).is_file():
        refuse(index, f"needs the shard {file!r}, which is not there", "all shards beside the index")
    return _read_file(folder / file, "safetensors" if file.endswith(".safetensors") else "torch")
