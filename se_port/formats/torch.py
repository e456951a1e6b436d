"""PyTorch's files: a pickle that describes the tensors, and their storages; read without torch.

Source: ``torch/serialization.py`` and ``torch/_utils.py`` of https://github.com/pytorch/pytorch. Since 1.6 such a file
is a zip with ``data.pkl`` and one stored member for each storage; before, it was five pickles, then the storages.

A pickle is a program. This reader follows the opcodes that push numbers, names, lists, dictionaries and tensors on a
stack, and knows by name the few functions that a dictionary of dense real tensors needs: nothing is imported or
called, and any other opcode or name refuses the file. Values beside tensors (epochs, options) are left out. It is ours
because ``pickle`` runs the program, and ``torch.load(weights_only=True)`` needs the framework.

Not read: pickled modules and other objects, TorchScript, the tar files before 0.2, pickle protocols 0 and 1, sparse,
quantised and complex tensors, 8-bit floats and unsigned integers above 8 bits. CRCs are not checked: torch may omit
them (``torch.serialization.set_crc32_options``), and does not check them either.
"""

import io
import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from se_spec import FileFormatError

from . import _base
from ._base import Tensors, count_bytes, refuse
from ._buffers import dtype_code, encode_name, little_endian_dtype, map_file, to_bytes, view_at
from ._zips import add_stored, first_member_name, read_directory, read_member

NEEDS = ()

CODES = {
    "bool": "BoolStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
}
"""The storage's class for each dtype of NumPy."""

STORAGES = {f"torch {code}": name for name, code in CODES.items()}
GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    *STORAGES,
}
NESTED = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "network",
    "net",
    "weights",
    "params",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "ema",
)
"""Keys under which a checkpoint may keep its tensors."""

PICKLES = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
MAGIC = 0x1950A86A20F9469CFC6C
MAX_OPCODES = 1_000_000
"""Opcodes of one pickle; a tensor takes about 35."""

PLAIN = "a plain state_dict; where the file is trusted, torch.save(model.state_dict(), path) makes one"


@dataclass(frozen=True)
class Storage:
    """A part of a storage that tensors share: ``length`` items from ``offset`` of the ``total`` under ``key``."""

    key: str
    dtype: np.dtype
    total: int
    offset: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Global:
    """A function or class of ``GLOBALS``; only its name is kept."""

    name: str


def matches(path: Path, head: bytes) -> bool:
    """Whether a zip begins as torch's do, or the file is any pickle, which ``read`` may then refuse."""
    first = first_member_name(path, head)
    return first.endswith((b"/data.pkl", b"/byteorder", b"/version")) or b"/data/" in first or head[:2] in PICKLES


def read(path: Path) -> Tensors:
    """Read views of the mapped file.

    Raises:
        FileFormatError: the file is broken, or holds more than plain values and one mapping of names to tensors.
    """
    data = map_file(path)
    value, places = _read_zip(path, data) if data[:2] == b"PK" else _read_old_file(path, data)
    tensors: dict[str, np.ndarray] = {}
    left = _base.MAX_BYTES  # tensors may share bytes, or repeat them
    for name, tensor in _find_state_dict(path, value).items():
        encode_name(path, name)
        left -= count_bytes(path, name, tensor.shape, tensor.storage.dtype.itemsize, left)
        tensors[name] = _make_array(path, name, data, tensor, places)
    return tensors


def write(path: Path, tensors: Tensors) -> None:
    """Write a zip of a dictionary, which ``torch.load(path, weights_only=True, mmap=True)`` reads."""
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        add_stored(path, archive, "archive/byteorder", b"little")
        items: list[bytes] = []
        for number, (name, array) in enumerate(tensors.items()):
            code = dtype_code(path, name, array, CODES)
            items.append(_encode_text(encode_name(path, name)) + _encode_tensor(code, number, array.shape))
            add_stored(path, archive, f"archive/data/{number}", to_bytes(array))
        add_stored(path, archive, "archive/data.pkl", b"\x80\2}(" + b"".join(items) + b"u.")
        add_stored(path, archive, "archive/version", b"3\n")


def unpickle(path: Path, data: io.BytesIO | mmap.mmap, storages: dict[str, np.dtype] | None = None) -> Any:
    """Read the pickle at the file's position; its tensors become ``Tensor``.

    Args:
        path: the file, for the error.
        data: at the pickle.
        storages: is filled with the storages' dtypes, by key.

    Raises:
        FileFormatError: the pickle is broken, or holds more than plain values and tensors.
    """
    try:
        return _run_opcodes(path, data, {} if storages is None else storages)
    except FileFormatError:
        raise
    except (IndexError, KeyError, ValueError) as error:  # an empty stack, an unknown memo, an unknown opcode
        refuse(path, f"its pickle is broken ({type(error).__name__}: {error})", "an undamaged copy")


def _run_opcodes(path: Path, data: io.BytesIO | mmap.mmap, storages: dict[str, np.dtype]) -> Any:
    stack: list[Any] = []
    metastack: list[list[Any]] = []
    memo: dict[int, Any] = {}
    opcodes: Iterable[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(data)  # type: ignore[arg-type]
    for count, (opcode, argument, _) in enumerate(opcodes):
        if count == MAX_OPCODES:
            refuse(path, "its pickle does not end", f"at most {MAX_OPCODES:,} opcodes")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":  # from Python 2
                stack.append(argument.encode("latin-1").decode())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                items = [stack.pop() for _ in range(size)]
                stack.append(tuple(reversed(items)))
            case "MARK":
                metastack.append(stack)
                stack = []
            case "TUPLE":
                items, stack = stack, metastack.pop()
                stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                _append(stack[-1], [item])
            case "APPENDS":
                items, stack = stack, metastack.pop()
                _append(stack[-1], items)
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [(key, item)])
            case "SETITEMS":
                items, stack = stack, metastack.pop()
                _set_items(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_find_global(path, argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_find_global(path, f"{module} {name}" if type(module) is type(name) is str else "?"))
            case "BINPERSID":
                stack.append(_load_persistent(path, stack.pop(), storages))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_reduce(path, function, arguments))
            case "BUILD" if type(stack[-2]) is dict:
                stack.pop()  # the attributes of an OrderedDict, which torch pickles
            case "STOP":
                return stack.pop()
            case _:
                refuse(path, f"its pickle has the opcode {opcode.name}, which makes objects", PLAIN)
    raise ValueError("no end")


def _append(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("the target of APPEND is no list")
    target.extend(items)


def _set_items(target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
    if type(target) is not dict:
        raise ValueError("the target of SETITEM is no dictionary")
    for key, item in pairs:
        if type(key) not in (str, int, float, bool, type(None)):
            raise ValueError(f"a dictionary's key is a {type(key).__name__}")
        if key in target:
            raise ValueError(f"a dictionary has {key!r} twice")
        target[key] = item


def _find_global(path: Path, name: str) -> Global:
    if name not in GLOBALS:
        refuse(
            path, f"its pickle asks for {name.replace(' ', '.')}: code, or a tensor of a kind that is not read", PLAIN
        )
    return Global(name)


def _load_persistent(path: Path, identity: Any, storages: dict[str, np.dtype]) -> Storage:
    match identity:
        case ("storage", Global(name), str(key), _, total, *view) if name in STORAGES and _are_counts(total):
            dtype = little_endian_dtype(STORAGES[name])
            if storages.setdefault(key, dtype) != dtype:
                raise ValueError(f"the storage {key!r} has two dtypes")
            match view:  # only old files have it: a part of the storage
                case [] | [None]:
                    return Storage(key, dtype, total, 0, total)
                case [(_, offset, length)] if _are_counts(offset, length) and offset + length <= total:
                    return Storage(key, dtype, total, offset, length)
    refuse(path, "its pickle refers to something that is no storage of numbers", PLAIN)


def _reduce(path: Path, function: Any, arguments: Any) -> Any:
    """Return what a known function would make of its arguments."""
    if not isinstance(function, Global) or type(arguments) is not tuple or len(arguments) > 7:
        raise ValueError("REDUCE has no function, or no tuple of at most 7 arguments")
    match function.name, *arguments:
        case ["collections OrderedDict"]:
            return {}
        case ["collections OrderedDict", list(pairs)] if all(type(pair) is list and len(pair) == 2 for pair in pairs):
            ordered: dict[Any, Any] = {}  # as Python 2 pickles it
            _set_items(ordered, pairs)
            pairs[:] = [None]  # used up, so that a few opcodes cannot copy it many times
            return ordered
        case ["torch._utils _rebuild_parameter", Tensor() as tensor, _, _]:
            return tensor
        case ["torch._utils _rebuild_tensor", Storage() as storage, offset, shape, strides]:
            return _view(storage, offset, shape, strides)
        case ["torch._utils _rebuild_tensor_v2", Storage() as storage, offset, shape, strides, _, _]:
            return _view(storage, offset, shape, strides)
        case ["torch Size", tuple(shape)]:
            return shape
        case ["torch device", *_]:
            return None
    refuse(path, f"its pickle calls {function.name.replace(' ', '.')} in a way that is not read", PLAIN)


def _view(storage: Storage, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not (type(shape) is type(strides) is tuple and len(shape) == len(strides) <= 32):
        raise ValueError("a tensor has no shape and strides of at most 32 axes")
    if not _are_counts(offset, *shape, *strides):
        raise ValueError("a tensor's offset, shape and strides are not all whole numbers from 0")
    return Tensor(storage, offset, shape, strides)


def _are_counts(*numbers: Any) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _read_zip(path: Path, data: mmap.mmap) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Read the pickle's value, and each storage's first byte and number of bytes."""
    found = read_directory(path, data)
    pickles = [name for name in found if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        refuse(path, f"has {len(pickles)} members */data.pkl", "one, as torch.save writes it")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in found and read_member(path, order, data, found[order]) != b"little":
        refuse(path, "is not little-endian", "a file from a processor of this kind")
    value = unpickle(path, io.BytesIO(read_member(path, pickles[0], data, found[pickles[0]])))
    keys = {name.removeprefix(f"{folder}data/"): member for name, member in found.items()}
    if not all(member.stored for member in keys.values()):
        refuse(path, "is compressed", "members that are stored, as torch.save writes them")
    return value, {key: (member.start, member.size) for key, member in keys.items()}


def _read_old_file(path: Path, data: mmap.mmap) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Read the same from a file of the format before 1.6."""
    if data[:2] not in PICKLES or unpickle(path, data) != MAGIC:
        refuse(path, f"begins with {data[:16]!r}", "a file that torch.save has written")
    version, system = unpickle(path, data), unpickle(path, data)
    if version != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        refuse(path, "is of another version or not little-endian", "version 1001, little-endian")
    storages: dict[str, np.dtype] = {}
    value, keys = unpickle(path, data, storages), unpickle(path, data)
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        refuse(path, "its list of storages is not that of its tensors", "an undamaged copy")
    places: dict[str, tuple[int, int]] = {}
    place = data.tell()
    for key in keys:
        left = len(data) - place - 8
        if left < 0:
            refuse(path, f"ends before its storage {key!r}", "an undamaged copy")
        length = int.from_bytes(data[place : place + 8], "little", signed=True)
        places[key] = place + 8, count_bytes(path, f"storage {key}", (length,), storages[key].itemsize, left)
        place = sum(places[key])
    return value, places


def _find_state_dict(path: Path, value: Any) -> dict[str, Tensor]:
    """Find the one mapping of names to tensors, at the top or under a usual key."""
    if type(value) is not dict:
        refuse(path, f"holds a {type(value).__name__}", PLAIN)
    top = _select_tensors(value)
    nested = {key: _select_tensors(value[key]) for key in NESTED if _select_tensors(value.get(key))}
    if nested and all(not tensor.shape for tensor in top.values()):
        top = {}  # single numbers beside the network, such as an accuracy
    found = {"the top": top, **nested} if top else nested
    if len(found) != 1:
        wrong = (
            f"holds tensors in {', '.join(found)}"
            if found
            else f"has no tensors where they are expected; its keys are {list(value)[:20]}"
        )
        refuse(path, wrong, f"one mapping of names to tensors, at the top or as one of {', '.join(NESTED)}")
    [(place, tensors)] = found.items()
    chosen = value if top else value[place]
    for key, item in chosen.items():
        inner = item.values() if type(item) is dict else item if type(item) in (list, tuple) else ()
        if any(isinstance(value, Tensor) for value in inner) or (key in tensors and type(key) is not str):
            refuse(path, f"has tensors in or under {key!r} that have no name of their own", "a plain state_dict")
    return tensors


def _select_tensors(value: Any) -> dict[str, Tensor]:
    return {key: item for key, item in value.items() if isinstance(item, Tensor)} if type(value) is dict else {}


def _make_array(
    path: Path, name: str, data: mmap.mmap, tensor: Tensor, places: dict[str, tuple[int, int]]
) -> np.ndarray:
    storage, item = tensor.storage, tensor.storage.dtype.itemsize
    start, size = places.get(storage.key, (0, -1))
    if size != storage.total * item:
        wrong = f"the storage {storage.key!r} of {name!r} " + ("is missing" if size < 0 else f"has {size:,} bytes")
        refuse(path, wrong, f"{storage.total * item:,} bytes")
    last = tensor.offset + sum(
        (length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if 0 not in tensor.shape and last >= storage.length:
        refuse(path, f"{name!r} {tensor.shape} reaches to item {last:,}", f"less than {storage.length:,}")
    # The stride of an axis of length 1 is not checked above, and has no effect.
    strides = [stride if length > 1 else 1 for length, stride in zip(tensor.shape, tensor.strides, strict=True)]
    first = start + (storage.offset + tensor.offset) * item
    return view_at(path, name, data, first, storage.dtype, tensor.shape, tuple(stride * item for stride in strides))


# Opcodes of a pickle of tensors, for ``write``.


def _encode_text(encoded: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _encode_tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _encode_numbers(*values: int) -> bytes:
    return _encode_tuple(*map(_encode_number, values))


def _encode_number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 1 << 31 else b"\x8a\x08" + struct.pack("<q", value)


def _encode_tensor(code: str, key: int, shape: tuple[int, ...]) -> bytes:
    """Encode the call with which torch rebuilds a contiguous tensor on a storage of its own."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    kind = b"ctorch\n" + code.encode() + b"\n"
    storage = (
        _encode_tuple(
            _encode_text(b"storage"),
            kind,
            _encode_text(b"%d" % key),
            _encode_text(b"cpu"),
            _encode_number(math.prod(shape)),
        )
        + b"Q"
    )
    hooks = b"ccollections\nOrderedDict\n)R"
    call = _encode_tuple(storage, _encode_number(0), _encode_numbers(*shape), _encode_numbers(*strides), b"\x89", hooks)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + call + b"R"
