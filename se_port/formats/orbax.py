"""Orbax's checkpoints: a folder with a tree of arrays, as ``StandardCheckpointer`` and ``PyTreeCheckpointer`` write it.

Orbax (github.com/google/orbax) lists the leaves of the tree as JSON in ``_METADATA``. The arrays are Zarr 2
(zarr-specs.readthedocs.io), each under its keys joined by dots, in one key-value store (``manifest.ocdbt``) or,
without OCDBT, each in a folder of its own. A name is the keys joined by ``/``: ``params/stage1/conv/kernel``. Names
are in the order of ``_METADATA``, which Orbax sorts. Text and empty branches are left out. A folder that holds one
checkpoint, such as a step of a ``CheckpointManager``, is read as that checkpoint.

Reading needs TensorStore, not Orbax, and makes no object of a class that the files name. TensorStore unpacks a chunk
to any size, so the frame of each chunk (RFC 8878) is checked first, and so is the JSON with shape and dtype. A missing
chunk, which TensorStore reads as zeros, is refused. Zarr 3 is not read. Writing needs Orbax, which cannot store empty
arrays.
"""

import itertools
import logging
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from se_spec.texts import quote, shorten

from . import _base
from ._base import Budget, Tensors, check_names, count_bytes, import_optional, refuse
from ._buffers import little_endian_dtype, open_file, read_file
from ._json import decode_json
from ._targets import INSTEAD
from .msgpack import to_tree

NEEDS = ("tensorstore",)

DTYPES = {
    "|b1": "bool", "|i1": "int8", "<i2": "int16", "<i4": "int32", "<i8": "int64", "|u1": "uint8", "<u2": "uint16",
    "<u4": "uint32", "<u8": "uint64", "<f2": "float16", "<f4": "float32", "<f8": "float64", "bfloat16": "bfloat16",
    "<c8": "complex64", "<c16": "complex128",
}  # fmt: skip
"""Dtypes by their names in Zarr."""
MAX_JSON_BYTES = 8 << 20
MAX_ZARRAY_BYTES = 1 << 16
MAX_FILES = 1 << 18
MAX_INFLATION, MIN_INFLATED_BYTES = 1024, 64 << 20
"""How many times as large as their files compressed arrays may be, and how large they may be in any case."""
MAX_LEAVES = 1 << 16
MAX_CHUNKS = 1 << 16
MAX_NAME = 1024
MAX_BLOCK_BYTES = 128 << 10
"""The largest size that a compressed block of Zstandard unpacks to."""
OWN_FILES = re.compile(
    r"_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt|checkpoint|descriptor/descriptor\.pbtxt"
    r"|array_metadatas/process_[0-9]+|(ocdbt\.process_[0-9]+/)?(manifest\.ocdbt|d/[0-9a-f]{32})"
)
"""Paths in a folder that Orbax writes."""
DESCRIPTORS = Path("/proc/self/fd")
"""Where Linux has a process's open files and folders by their numbers."""
ARRAYS, OTHERS = ("np.ndarray", "jax.Array", "scalar"), ("string", "None")


def matches(path: Path, head: bytes) -> bool:
    """Whether the path is a folder with ``_METADATA``, or with one folder that has it."""
    return path.is_dir() and len(_find_checkpoints(path)) == 1


def read(path: Path) -> Tensors:
    """Check the metadata; tensors are unpacked at every access.

    Raises:
        FileFormatError: the folder holds no checkpoint or several, a link, or metadata that Orbax does not write.
    """
    found = _find_checkpoints(path) if path.is_dir() else []
    if len(found) != 1:
        refuse(path, f"holds {len(found)} checkpoints with a _METADATA", "one")
    return _Checkpoint(found[0], _check_files(path, found[0]))


def _check_files(path: Path, folder: Path) -> int:
    """Refuse what is no file of a checkpoint; returns the bytes of all files.

    TensorStore opens the files by itself: it waits on a pipe, and reads a chunk whole, however long.
    """
    size = count = 0
    for inner, folders, names in os.walk(folder):
        for name in folders + names:
            count += 1
            file = Path(inner, name)
            state = file.lstat()
            if stat.S_ISLNK(state.st_mode):
                refuse(path, f"holds the link {name}", "files and folders of its own")
            if count > MAX_FILES:
                refuse(path, f"holds {count:,} files and folders or more", f"at most {MAX_FILES:,}")
            if not stat.S_ISDIR(state.st_mode):
                open_file(file).close()
                size += state.st_size
    if size > _base.MAX_BYTES:
        refuse(path, f"holds files of {size:,} bytes", f"at most {_base.MAX_BYTES:,}")
    return size


def write(path: Path, tensors: Tensors) -> None:
    """Write with ``StandardCheckpointer``.

    After a failure, threads of TensorStore go on to write, and make folders that are missing. So they are given the
    parent folder by its descriptor where the system can: once it is removed, nothing can be made in it. The descriptor
    then stays open, so that its number never means another folder to these threads.

    Raises:
        FileFormatError: an empty array, a dtype without a name in Zarr, or names that differ in dots for ``/`` alone.
    """
    orbax = import_optional("orbax.checkpoint", f"write {path.name}", "port-orbax")
    if not tensors:
        refuse(path, "would be empty", "one tensor or more")
    joined: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.size == 0 or tensor.dtype.name not in DTYPES.values():
            refuse(
                path, f"{quote(name)} is {tensor.shape} of {tensor.dtype}", f"no empty array, of {', '.join(DTYPES)}"
            )
        other = joined.setdefault(name.replace("/", "."), name)
        if other != name:
            refuse(
                path,
                f"{quote(name)} and {quote(other)} are one name to Orbax",
                "names that differ in more than '.' and '/'",
            )
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
    descriptor = os.open(path.parent, os.O_RDONLY) if DESCRIPTORS.is_dir() else None
    target = path.absolute() if descriptor is None else DESCRIPTORS / str(descriptor) / path.name
    try:
        with _silence_loggers(), orbax.StandardCheckpointer() as checkpointer:
            checkpointer.save(target, tree)
        if descriptor is not None:
            os.close(descriptor)
    except Exception as error:  # TensorStore raises ValueError where a disk is full
        code = re.search(r"os_error_code='([0-9]+)'", str(error))
        said = str(error).replace(str(target), str(path))
        reason = os.strerror(int(code[1])) if code else f"{type(error).__name__}: {said[:200]}"
        refuse(path, f"cannot be written ({reason})", INSTEAD)


@contextmanager
def _silence_loggers() -> Iterator[None]:
    """Keep Orbax from logging a failure of each of its threads, since one error reports them."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio", "concurrent.futures")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def is_own_folder(path: Path) -> bool:
    """Whether a folder holds a checkpoint as Orbax writes it, and nothing else."""
    if not (path / "_METADATA").is_file():
        return False
    for folder, folders, names in os.walk(path):
        place = Path(folder).relative_to(path)
        if any(Path(folder, name).is_symlink() for name in folders):
            return False
        if not all(OWN_FILES.fullmatch((place / name).as_posix()) for name in names):
            return False
    return True


class _Checkpoint(Mapping[str, np.ndarray]):
    """The arrays of a checkpoint, by name; the metadata is checked when it is opened, chunks when they are read."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._store = path, import_optional("tensorstore", f"read {path.name}")
        metadata = _parse_json(path, "_METADATA", read_file(path / "_METADATA", MAX_JSON_BYTES))
        if metadata.get("use_zarr3"):
            refuse(path, "is of Zarr 3", "Zarr 2, which Orbax writes by itself")
        if (path / "manifest.ocdbt").exists() != bool(metadata.get("use_ocdbt", True)):
            refuse(path, "has a manifest.ocdbt and a _METADATA that says otherwise", "one kind of store")
        base: dict[str, Any] = {"driver": "file", "path": f"{path}/"}
        self._base = {"driver": "ocdbt", "base": base} if metadata.get("use_ocdbt", True) else base
        self._values = self._try("its store", lambda: self._store.KvStore.open(self._base).result())
        self._leaves = {"/".join(keys): ".".join(keys) for keys in _iterate_leaves(path, metadata.get("tree_metadata"))}
        check_names(path, self._leaves)
        compressed = Budget(path, MIN_INFLATED_BYTES + MAX_INFLATION * size)
        budgets = {False: Budget(path, size), True: compressed}
        self._shapes = {name: self._read_metadata(leaf, budgets) for name, leaf in self._leaves.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        leaf = self._leaves[name]
        shape, chunk, dtype, compressed = self._shapes[name]
        size = math.prod(chunk) * dtype.itemsize
        counts = [-(-length // step) for length, step in zip(shape, chunk, strict=True)]
        for place in itertools.product(*map(range, counts)):
            data = self._read_value(f"{leaf}/{'.'.join(map(str, place)) or 0}", 2 * size + 8 * MAX_BLOCK_BYTES)
            if compressed:
                _check_frame(self._path, name, data, size)
            elif len(data) != size:
                refuse(self._path, f"{quote(name)} has a chunk of {len(data):,} bytes", f"{size:,}")
        zarray = {"shape": shape, "chunks": chunk, "dtype": {name: key for key, name in DTYPES.items()}[dtype.name]}
        # With this metadata, which was checked, TensorStore refuses any other.
        spec = {"driver": "zarr", "kvstore": self._kvstore(leaf), "metadata": zarray}
        stored = self._try(name, lambda: self._store.open(spec, open=True, read=True).result())
        array = np.asarray(self._try(name, lambda: stored.read().result()))
        if array.shape != shape or array.dtype != dtype:
            refuse(self._path, f"{quote(name)} came as {array.shape} of {array.dtype}", f"{shape} of {dtype}")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    def _kvstore(self, leaf: str) -> dict[str, Any]:
        if self._base["driver"] == "file":
            return self._base | {"path": f"{self._base['path']}{leaf}/"}
        return self._base | {"path": f"{leaf}/"}

    def _read_value(self, key: str, most: int) -> bytes | bytearray:
        """Read a value of at most so many bytes."""
        if self._base["driver"] == "file":
            if not (self._path / key).is_file():
                refuse(self._path, f"has no {key}", "every chunk, as Orbax writes them")
            return read_file(self._path / key, most)
        found = self._try(key, lambda: self._values.read(key.encode()).result())
        if found.state != "value":
            refuse(self._path, f"has no {key}", "every chunk, as Orbax writes them")
        value: bytes = found.value
        if len(value) > most:
            refuse(self._path, f"{quote(key)} has {len(value):,} bytes", f"at most {most:,}")
        return value

    def _try(self, what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # TensorStore raises errors of many types
            refuse(self._path, f"{what} cannot be read: {shorten(error)}", "a whole checkpoint")

    def _read_metadata(
        self, leaf: str, budgets: dict[bool, Budget]
    ) -> tuple[tuple[int, ...], tuple[int, ...], np.dtype, bool]:
        """Read shape, chunks' shape, dtype, and whether chunks are compressed."""
        metadata = _parse_json(self._path, leaf, self._read_value(f"{leaf}/.zarray", MAX_ZARRAY_BYTES))
        shape, chunk = (_check_lengths(self._path, leaf, metadata.get(key)) for key in ("shape", "chunks"))
        compressor = metadata.get("compressor")
        as_written = (
            metadata.get("zarr_format") == 2
            and metadata.get("order") == "C"
            and metadata.get("filters") is None
            and metadata.get("dimension_separator", ".") == "."
            and metadata.get("dtype") in [*DTYPES]
            and (compressor is None or (isinstance(compressor, dict) and compressor.get("id") == "zstd"))
            and len(shape) == len(chunk)
            and 0 not in chunk
        )
        if not as_written:
            refuse(self._path, f"{leaf} is {shorten(metadata)}", "Zarr 2 as Orbax writes it, bare or by Zstandard")
        dtype = little_endian_dtype(DTYPES[metadata["dtype"]])
        budget = budgets[compressor is not None]
        budget.spend(count_bytes(self._path, leaf, shape, dtype.itemsize, budget.left))
        count_bytes(self._path, leaf, chunk, dtype.itemsize)
        if any(step > max(length, 1) for length, step in zip(shape, chunk, strict=True)):
            refuse(self._path, f"{leaf} {shape} has chunks of {chunk}", "chunks that are no larger")
        chunks = math.prod(-(-length // step) for length, step in zip(shape, chunk, strict=True))
        if chunks > MAX_CHUNKS:
            refuse(self._path, f"{leaf} is in {chunks:,} chunks", f"at most {MAX_CHUNKS:,}")
        return shape, chunk, dtype, compressor is not None


def _find_checkpoints(folder: Path) -> list[Path]:
    if (folder / "_METADATA").is_file():
        return [folder]
    return sorted(file.parent for file in folder.glob("*/_METADATA") if file.is_file())


def _parse_json(path: Path, name: str, data: bytes | bytearray) -> dict[str, Any]:
    """Parse an object in JSON."""
    parsed = decode_json(path, name, data, MAX_JSON_BYTES)
    if not isinstance(parsed, dict):
        refuse(path, f"{name} is {shorten(parsed, 80)}", "an object in JSON")
    return parsed


def _iterate_leaves(path: Path, tree: object) -> Iterator[list[str]]:
    """Yield the keys on the way to each array."""
    if not isinstance(tree, dict) or len(tree) > MAX_LEAVES:
        refuse(path, "_METADATA names no leaves of a tree, or too many", f"tree_metadata of at most {MAX_LEAVES:,}")
    seen = set()
    for leaf in tree.values():
        try:
            keys = [str(part["key"]) for part in leaf["key_metadata"]]
            kind, left_out = leaf["value_metadata"]["value_type"], leaf["value_metadata"].get("skip_deserialize")
        except (KeyError, TypeError, AttributeError):
            refuse(path, f"_METADATA has the leaf {shorten(leaf)}", "its keys and its type")
        if left_out or kind in OTHERS:
            continue
        joined = ".".join(keys)
        if not keys or any(key in ("", ".", "..") or set(key) & set("/\\\0") for key in keys) or len(joined) > MAX_NAME:
            refuse(path, f"_METADATA has the keys {shorten(keys)}", "keys without '/', none of them empty")
        if kind not in ARRAYS:
            refuse(path, f"{joined} is a {kind}", f"one of {', '.join(ARRAYS + OTHERS)}")
        if joined in seen:
            refuse(path, f"_METADATA names {joined} twice", "each leaf once")
        seen.add(joined)
        yield keys


def _check_lengths(path: Path, leaf: str, lengths: object) -> tuple[int, ...]:
    if (
        not isinstance(lengths, list)
        or not all(type(length) is int and length >= 0 for length in lengths)
        or len(lengths) > 32
    ):
        refuse(path, f"{leaf} has the lengths {shorten(lengths)}", "a list of at most 32 integers")
    return tuple(lengths)


def _check_frame(path: Path, name: str, data: bytes | bytearray, size: int) -> None:
    """Refuse a chunk that is not one Zstandard frame of ``size`` bytes, or whose blocks could unpack to far more.

    TensorStore up to 0.1.84 writes frames that announce no size; their blocks bound it.
    """
    flags = data[4] if len(data) > 4 else 0
    place = 5 + (not flags & 0x20) + (0, 1, 2, 4)[flags & 3]
    width = (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
    announced = int.from_bytes(data[place : place + width], "little") + 256 * (width == 2)
    place += width
    most, last = 0, False
    while not last and place + 3 <= len(data) and most <= 2 * size + 8 * MAX_BLOCK_BYTES:
        head = int.from_bytes(data[place : place + 3], "little")
        last, kind, length = bool(head & 1), head >> 1 & 3, head >> 3
        most += length if kind < 2 else MAX_BLOCK_BYTES
        place += 3 + (1 if kind == 1 else length)
    whole = last and place + 4 * (flags >> 2 & 1) == len(data)
    if (
        data[:4] != b"\x28\xb5\x2f\xfd"
        or (width and announced != size)
        or not whole
        or most > 2 * size + 8 * MAX_BLOCK_BYTES
    ):
        wrong = (
            f"{quote(name)} has a chunk of {len(data):,} bytes which announces {announced:,} and may unpack to {most:,}"
        )
        refuse(path, wrong, f"one frame of Zstandard's for {size:,}")
