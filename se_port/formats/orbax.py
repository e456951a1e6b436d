"""Orbax's checkpoints: a folder with a tree of arrays, as ``StandardCheckpointer`` and ``PyTreeCheckpointer`` write it.

Orbax (github.com/google/orbax) says in ``_METADATA``, as JSON, which leaves the tree has; the arrays are Zarr 2
(zarr-specs.readthedocs.io), each under its keys joined by dots, in one key-value store (``manifest.ocdbt``) or,
without OCDBT, each in a folder of its own. A name is the keys joined by ``/``: ``params/stage1/conv/kernel``; names
are in the order of ``_METADATA``, which Orbax sorts. Text and empty branches are left out. A folder with one
checkpoint in it, such as a step of a ``CheckpointManager``, is read as that one.

Reading needs TensorStore, not Orbax, and no object of a class that the files name is made. TensorStore unpacks
whatever a chunk holds, however large, so each chunk's frame (RFC 8878) is looked through before, and so is the JSON
that says shape and dtype; a chunk that is missing would be read as zeros and is refused. Zarr 3 is not read. Writing
needs Orbax, which does not hold empty arrays.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._base import Tensors, count_bytes, import_optional, refuse
from ._buffers import little_endian_dtype
from .msgpack import to_tree

NEEDS = ("tensorstore",)

DTYPES = {
    "|b1": "bool", "|i1": "int8", "<i2": "int16", "<i4": "int32", "<i8": "int64", "|u1": "uint8", "<u2": "uint16",
    "<u4": "uint32", "<u8": "uint64", "<f2": "float16", "<f4": "float32", "<f8": "float64", "bfloat16": "bfloat16",
    "<c8": "complex64", "<c16": "complex128",
}  # fmt: skip
"""By Zarr's names."""
MAX_JSON = 8 << 20
MAX_LEAVES = 1 << 16
MAX_CHUNKS = 1 << 16
MAX_NAME = 1024
BLOCK = 128 << 10
"""What a compressed block of Zstandard's unpacks to at most."""
ARRAYS, OTHERS = ("np.ndarray", "jax.Array", "scalar"), ("string", "None")


def matches(path: Path, head: bytes) -> bool:
    """A folder with ``_METADATA``, or with one folder that has it."""
    return path.is_dir() and len(_checkpoints(path)) == 1


def read(path: Path) -> Tensors:
    """Tensors that are unpacked when they are asked for."""
    found = _checkpoints(path) if path.is_dir() else []
    if len(found) != 1:
        refuse(path, f"holds {len(found)} checkpoints with a _METADATA", "one")
    for folder, folders, names in os.walk(found[0]):
        for name in folders + names:
            if Path(folder, name).is_symlink():
                refuse(path, f"holds the link {name}", "files and folders of its own")
    return _Checkpoint(found[0])


def write(path: Path, tensors: Tensors) -> None:
    """With ``StandardCheckpointer``.

    Raises:
        FileFormatError: an empty array, a dtype without a name in Zarr, or names that differ in dots for ``/`` alone.
    """
    orbax = import_optional("orbax.checkpoint", f"write {path.name}")
    if not tensors:
        refuse(path, "would be empty", "one tensor or more")
    joined: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.size == 0 or tensor.dtype.name not in DTYPES.values():
            refuse(path, f"{name!r} is {tensor.shape} of {tensor.dtype}", f"no empty array, of {', '.join(DTYPES)}")
        other = joined.setdefault(name.replace("/", "."), name)
        if other != name:
            refuse(path, f"{name!r} and {other!r} are one name to Orbax", "names that differ in more than '.' and '/'")
    tree = to_tree(path, tensors)
    stack = [tree]
    while stack:
        node = stack.pop()
        for key, value in node.items():
            if isinstance(value, dict):
                stack.append(value)
            else:
                array = np.asarray(tensors[value])
                node[key] = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree)


class _Checkpoint(Mapping[str, np.ndarray]):
    """Names to arrays; what was checked when it was opened are the metadata."""

    def __init__(self, path: Path) -> None:
        self._path, self._store = path, import_optional("tensorstore", f"read {path.name}")
        metadata = _parsed(path, "_METADATA", (path / "_METADATA").read_bytes())
        if metadata.get("use_zarr3"):
            refuse(path, "is of Zarr 3", "Zarr 2, which Orbax writes by itself")
        base: dict[str, Any] = {"driver": "file", "path": f"{path}/"}
        self._base = {"driver": "ocdbt", "base": base} if metadata.get("use_ocdbt", True) else base
        self._values = self._tried("its store", lambda: self._store.KvStore.open(self._base).result())
        self._leaves = {"/".join(keys): ".".join(keys) for keys in _leaves(path, metadata.get("tree_metadata"))}
        self._shapes = {name: self._metadata(leaf) for name, leaf in self._leaves.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        leaf = self._leaves[name]
        shape, chunk, dtype, compressed = self._shapes[name]
        size = math.prod(chunk) * dtype.itemsize
        counts = [-(-length // step) for length, step in zip(shape, chunk, strict=True)]
        for place in itertools.product(*map(range, counts)):
            data = self._value(f"{leaf}/{'.'.join(map(str, place)) or 0}")
            if compressed:
                _check_frame(self._path, name, data, size)
            elif len(data) != size:
                refuse(self._path, f"{name!r} has a chunk of {len(data):,} bytes", f"{size:,}")
        told = {"shape": shape, "chunks": chunk, "dtype": {name: key for key, name in DTYPES.items()}[dtype.name]}
        where = {"driver": "zarr", "kvstore": self._kvstore(leaf), "metadata": told}  # no other than were checked
        opened = self._tried(name, lambda: self._store.open(where, open=True, read=True).result())
        array = np.asarray(self._tried(name, lambda: opened.read().result()))
        if array.shape != shape or array.dtype != dtype:
            refuse(self._path, f"{name!r} came as {array.shape} of {array.dtype}", f"{shape} of {dtype}")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    def _kvstore(self, leaf: str) -> dict[str, Any]:
        if self._base["driver"] == "file":
            return self._base | {"path": f"{self._base['path']}{leaf}/"}
        return self._base | {"path": f"{leaf}/"}

    def _value(self, key: str) -> bytes:
        found = self._tried(key, lambda: self._values.read(key.encode()).result())
        if found.state != "value":
            refuse(self._path, f"has no {key}", "every chunk, as Orbax writes them")
        value: bytes = found.value
        return value

    def _tried(self, what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # TensorStore's errors are of many kinds
            refuse(self._path, f"{what} cannot be read: {str(error)[:300]}", "a whole checkpoint")

    def _metadata(self, leaf: str) -> tuple[tuple[int, ...], tuple[int, ...], np.dtype, bool]:
        """Shape, chunks' shape, dtype, and whether chunks are compressed."""
        told = _parsed(self._path, leaf, self._value(f"{leaf}/.zarray"))
        shape, chunk = (_lengths(self._path, leaf, told.get(key)) for key in ("shape", "chunks"))
        compressor = told.get("compressor")
        as_written = (
            told.get("zarr_format") == 2
            and told.get("order") == "C"
            and told.get("filters") is None
            and told.get("dimension_separator", ".") == "."
            and told.get("dtype") in [*DTYPES]
            and (compressor is None or (isinstance(compressor, dict) and compressor.get("id") == "zstd"))
            and len(shape) == len(chunk)
            and 0 not in chunk
        )
        if not as_written:
            refuse(self._path, f"{leaf} is {str(told)[:300]}", "Zarr 2 as Orbax writes it, bare or by Zstandard")
        dtype = little_endian_dtype(DTYPES[told["dtype"]])
        for lengths in (shape, chunk):
            count_bytes(self._path, leaf, lengths, dtype.itemsize)
        chunks = math.prod(-(-length // step) for length, step in zip(shape, chunk, strict=True))
        if chunks > MAX_CHUNKS:
            refuse(self._path, f"{leaf} is in {chunks:,} chunks", f"at most {MAX_CHUNKS:,}")
        return shape, chunk, dtype, compressor is not None


def _checkpoints(folder: Path) -> list[Path]:
    if (folder / "_METADATA").is_file():
        return [folder]
    return sorted(one.parent for one in folder.glob("*/_METADATA") if one.is_file())


def _parsed(path: Path, name: str, data: bytes) -> dict[str, Any]:
    """JSON, of which nothing is more than data."""
    try:
        if len(data) > MAX_JSON:
            raise ValueError(f"{len(data):,} bytes")
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        refuse(path, f"{name} is no JSON: {error}", f"an object in JSON, of at most {MAX_JSON:,} bytes")
    if not isinstance(told, dict):
        refuse(path, f"{name} is {str(told)[:80]}", "an object in JSON")
    return told


def _leaves(path: Path, tree: object) -> Iterator[list[str]]:
    """The keys on the way to each array."""
    if not isinstance(tree, dict) or len(tree) > MAX_LEAVES:
        refuse(path, "_METADATA names no leaves of a tree, or too many", f"tree_metadata of at most {MAX_LEAVES:,}")
    seen = set()
    for leaf in tree.values():
        try:
            keys = [str(one["key"]) for one in leaf["key_metadata"]]
            kind, left_out = leaf["value_metadata"]["value_type"], leaf["value_metadata"].get("skip_deserialize")
        except (KeyError, TypeError, AttributeError):
            refuse(path, f"_METADATA has the leaf {str(leaf)[:200]}", "its keys and its type")
        if left_out or kind in OTHERS:
            continue
        joined = ".".join(keys)
        if not keys or any(key in ("", ".", "..") or set(key) & set("/\\\0") for key in keys) or len(joined) > MAX_NAME:
            refuse(path, f"_METADATA has the keys {str(keys)[:200]}", "keys without '/', none of them empty")
        if kind not in ARRAYS:
            refuse(path, f"{joined} is a {kind}", f"one of {', '.join(ARRAYS + OTHERS)}")
        if joined in seen:
            refuse(path, f"_METADATA names {joined} twice", "each leaf once")
        seen.add(joined)
        yield keys


def _lengths(path: Path, leaf: str, told: object) -> tuple[int, ...]:
    if not isinstance(told, list) or not all(type(length) is int and length >= 0 for length in told) or len(told) > 32:
        refuse(path, f"{leaf} has the lengths {str(told)[:80]}", "a list of at most 32 integers")
    return tuple(told)


def _check_frame(path: Path, name: str, data: bytes, size: int) -> None:
    """Refuse a chunk which is not one frame of Zstandard's of that size, or whose blocks could unpack to far more.

    TensorStore up to 0.1.84 writes frames that announce no size; the blocks bound those too.
    """
    flags = data[4] if len(data) > 4 else 0
    place = 5 + (not flags & 0x20) + (0, 1, 2, 4)[flags & 3]
    width = (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
    told = int.from_bytes(data[place : place + width], "little") + 256 * (width == 2)
    place += width
    most, last = 0, False
    while not last and place + 3 <= len(data) and most <= 2 * size + 8 * BLOCK:
        head = int.from_bytes(data[place : place + 3], "little")
        last, kind, length = bool(head & 1), head >> 1 & 3, head >> 3
        most += length if kind < 2 else BLOCK
        place += 3 + (1 if kind == 1 else length)
    whole = last and place + 4 * (flags >> 2 & 1) == len(data)
    if data[:4] != b"\x28\xb5\x2f\xfd" or (width and told != size) or not whole or most > 2 * size + 8 * BLOCK:
        wrong = f"{name!r} has a chunk of {len(data):,} bytes which announces {told:,} and may unpack to {most:,}"
        refuse(path, wrong, f"one frame of Zstandard's for {size:,}")
