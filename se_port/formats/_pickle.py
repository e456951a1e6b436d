"""Pickles as data: the opcodes that build plain values, and no others.

A pickle is a program. ``Unpickler`` follows the opcodes that push numbers, names, lists and dictionaries on a stack,
and knows by name the few functions that a format's pickles call: nothing is imported or called, and any other opcode
or name refuses the file. It is ours because ``pickle`` runs the program. Each format derives its own class from it,
with the names and objects that its files have.
"""

import io
import mmap
import pickletools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from se_spec import FileFormatError
from se_spec.texts import quote, shorten

from ._base import refuse
from ._buffers import little_endian_dtype, view_at

MAX_OPCODES = 1_000_000
"""Opcodes of one pickle; a tensor takes about 35."""
MAX_PICKLE_BYTES = 32 << 20
"""Bytes of a pickle without the numbers of its tensors, where it is alone in a member."""
MAX_ARGUMENTS = 7
MAX_KEY = 1 << 48
"""The largest integer that is the key of a dictionary."""
PLAIN = "a plain state_dict; where the file is trusted, torch.save(model.state_dict(), path) makes one"

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
"""The class of torch's storage for each dtype of NumPy."""
TENSORS = "torch._utils _rebuild"
"""How the names of functions begin that make tensors."""
CONTAINERS = ("collections defaultdict", "collections Counter")
"""Classes whose objects are dictionaries."""
ACTING = (
    "__builtin__", "builtins", "commands", "ctypes", "functools", "importlib", "multiprocessing", "nt", "operator",
    "os", "platform", "popen2", "posix", "pty", "runpy", "shutil", "socket", "subprocess", "sys", "timeit", "types",
    "urllib", "webbrowser",
)  # fmt: skip
"""Modules whose classes and functions may act on the machine."""
VALUES = (
    "__builtin__ set", "__builtin__ frozenset", "__builtin__ complex", "__builtin__ bytearray", "__builtin__ slice",
    "__builtin__ list", "__builtin__ dict", "__builtin__ int", "__builtin__ float", "__builtin__ str",
    "builtins list", "builtins dict", "builtins int", "builtins float", "builtins str",
    "builtins set", "builtins frozenset", "builtins complex", "builtins bytearray", "builtins slice",
    "_codecs encode", "copy_reg _reconstructor", "copyreg _reconstructor", "__builtin__ object", "builtins object",
    "collections defaultdict", "collections deque", "datetime datetime", "datetime date", "datetime timedelta",
    "pathlib PosixPath", "uuid UUID",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_parameter_with_state",
    "torch._tensor _rebuild_from_type_v2", "torch.serialization _get_layout",
    *(f"torch {name}" for name in (
        "float16", "bfloat16", "float32", "float64", "half", "float", "double", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
        "per_tensor_affine", "per_channel_affine", "strided", "sparse_coo", "qint8", "quint8", "qint32",
    )),
)  # fmt: skip
"""Functions and classes, besides those with a capital letter, that make a value and do nothing else."""
STORAGES = {f"torch {code}": name for name, code in CODES.items()}


ITEM_BYTES = {"ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "QInt32Storage": 4}
"""Bytes of an item of storages that are skipped, where it is not 1."""


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names; only its name is kept."""

    name: str


@dataclass(frozen=True, eq=False)
class Opaque:
    """An object of a class that is not read, such as options of a training; its contents are left out."""

    name: str


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


class Unpickler:
    """Reads one pickle of plain values.

    Args:
        path: the file, for the error.
    """

    functions: frozenset[str] = frozenset({"collections OrderedDict"})
    """Names that the pickle may have, each a module, a space and a name in it."""
    expected = PLAIN
    """What the error says that a file should be."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, data: "io.BytesIO | mmap.mmap | Views") -> Any:
        """Read the pickle at the file's position.

        Raises:
            FileFormatError: the pickle is broken, or holds more than plain values.
        """
        try:
            return self._run_opcodes(data)
        except FileFormatError:
            raise
        except (IndexError, KeyError, ValueError, DeprecationWarning) as error:
            # An empty stack, an unknown memo, an unknown opcode, a text with unknown escapes.
            refuse(self.path, f"its pickle is broken ({type(error).__name__}: {shorten(error)})", "an undamaged copy")

    keeps_objects = False
    """Whether an object of an unknown class is left out; else it refuses the file."""

    def find_global(self, name: str) -> Global:
        """Return what stands for a name."""
        if name not in self.functions and not (self.keeps_objects and is_data(name)):
            dotted = name.replace(" ", ".")
            refuse(
                self.path,
                f"its pickle asks for {dotted}: code, or a tensor of a kind that is not read",
                self.expected,
            )
        return Global(name)

    def reduce(self, function: Global, *arguments: Any) -> Any:
        """Return what a known function would make of its arguments."""
        match function.name, *arguments:
            case ["collections OrderedDict"]:
                return {}
            case ["collections OrderedDict", list(pairs)] if all(type(one) is list and len(one) == 2 for one in pairs):
                ordered: dict[Any, Any] = {}  # as Python 2 pickles it
                set_items(ordered, pairs)
                pairs[:] = [None]  # used up, so that a few opcodes cannot copy it many times
                return ordered
        if self.keeps_objects and function.name in CONTAINERS:
            return {}
        if self.keeps_objects and function.name not in self.functions and is_data(function.name):
            return Opaque(function.name)
        dotted = function.name.replace(" ", ".")
        refuse(self.path, f"its pickle calls {dotted} in a way that is not read", self.expected)

    def load_persistent(self, identity: Any) -> Any:
        """Return what is stored under an identity outside the pickle."""
        refuse(self.path, "its pickle refers to something that is no storage of numbers", self.expected)

    def make_object(self, name: Any, arguments: Any) -> Any:
        """Make an object of a class."""
        if self.keeps_objects and isinstance(name, Global) and name.name not in self.functions:
            return {} if name.name in CONTAINERS else Opaque(name.name)
        self._refuse_opcode("NEWOBJ")

    def build(self, target: Any, state: Any) -> None:
        """Set the state of an object; a dictionary's is the attributes of an OrderedDict, which torch pickles."""
        if type(target) is not dict and not isinstance(target, Opaque):
            self._refuse_opcode("BUILD")

    def load_bytes(self, value: bytes | memoryview) -> Any:
        """Return what stands for bytes."""
        if self.keeps_objects:
            return Opaque("bytes")
        self._refuse_opcode("BINBYTES")

    def _refuse_opcode(self, name: str) -> None:
        refuse(self.path, f"its pickle has the opcode {name}, which makes objects", self.expected)

    def _run_opcodes(self, data: "io.BytesIO | mmap.mmap | Views") -> Any:
        stack: list[Any] = []
        metastack: list[list[Any]] = []
        memo: dict[int, Any] = {}
        opcodes: Iterable[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(data)  # type: ignore[arg-type]
        for count, (opcode, argument, _) in enumerate(opcodes):
            if count == MAX_OPCODES:
                refuse(self.path, "its pickle does not end", f"at most {MAX_OPCODES:,} opcodes")
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
                case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                    stack.append(self.load_bytes(argument))
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
                    set_items(stack[-1], [(key, item)])
                case "SETITEMS":
                    items, stack = stack, metastack.pop()
                    set_items(stack[-1], zip(items[::2], items[1::2], strict=True))
                case "GLOBAL":
                    stack.append(self.find_global(argument))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(self.find_global(f"{module} {name}" if type(module) is type(name) is str else "?"))
                case "EMPTY_SET" | "FROZENSET" if self.keeps_objects:
                    if opcode.name == "FROZENSET":
                        stack = metastack.pop()
                    stack.append(Opaque("set"))
                case "ADDITEMS" if self.keeps_objects:
                    stack = metastack.pop()
                case "BINPERSID":
                    stack.append(self.load_persistent(stack.pop()))
                case "NEWOBJ":
                    arguments, name = stack.pop(), stack.pop()
                    stack.append(self.make_object(name, arguments))
                case "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    if (
                        not isinstance(function, Global)
                        or type(arguments) is not tuple
                        or len(arguments) > MAX_ARGUMENTS
                    ):
                        raise ValueError(f"REDUCE has no function, or no tuple of at most {MAX_ARGUMENTS} arguments")
                    stack.append(self.reduce(function, *arguments))
                case "BUILD":
                    state = stack.pop()
                    self.build(stack[-1], state)
                case "STOP":
                    return stack.pop()
                case _:
                    self._refuse_opcode(opcode.name)
        raise ValueError("no end")


class TensorUnpickler(Unpickler):
    """Reads one pickle of plain values and torch's dense tensors, which become ``Tensor``.

    Where ``keeps_objects``, options, statistics and states of random generators beside the tensors, which are objects
    of many classes, become ``Opaque``, and nothing of them is used.

    Args:
        path: the file, for the error.
        storages: is filled with the storages' dtypes, by key.
    """

    functions = frozenset(
        {
            *Unpickler.functions,
            "torch._utils _rebuild_tensor",
            "torch._utils _rebuild_tensor_v2",
            "torch._utils _rebuild_parameter",
            "torch Size",
            "torch device",
            *STORAGES,
        }
    )

    def __init__(self, path: Path, storages: dict[str, np.dtype] | None = None) -> None:
        super().__init__(path)
        self.storages = {} if storages is None else storages

    def load_persistent(self, identity: Any) -> Storage | Opaque | Global:
        """Return the storage of an identity; one of a type that is not read is an object like any other."""
        match identity:
            case ("storage", Global(name), str(key), _, *_) if (
                self.keeps_objects and name not in STORAGES and name.endswith("Storage")
            ):
                self.storages.setdefault(key, np.dtype(f"V{ITEM_BYTES.get(name.rpartition(' ')[2], 1)}"))
                return Opaque(name)
            case ("module", Global() as module, *_) if self.keeps_objects:  # of a whole model, in an old file
                return module
            case ("storage", Global(name), str(key), _, total, *view) if name in STORAGES and _are_counts(total):
                dtype = little_endian_dtype(STORAGES[name])
                if self.storages.setdefault(key, dtype) != dtype:
                    raise ValueError(f"the storage {quote(key)} has two dtypes")
                match view:  # only old files have it: a part of the storage
                    case [] | [None]:
                        return Storage(key, dtype, total, 0, total)
                    case [(_, offset, length)] if _are_counts(offset, length) and offset + length <= total:
                        return Storage(key, dtype, total, offset, length)
        refuse(self.path, "its pickle refers to something that is no storage of numbers", self.expected)

    def reduce(self, function: Global, *arguments: Any) -> Any:
        """Return the tensor, shape or nothing that torch's function would make."""
        match function.name, *arguments:
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
            case [name, Opaque() as storage, *_] if name.startswith(TENSORS):
                return Opaque(f"{name} of {storage.name.rpartition(' ')[2]}")
        return super().reduce(function, *arguments)


class Views:
    """A position in bytes from which pickles are read; long strings of bytes are views, and not copied.

    Args:
        data: of the file.
    """

    LONG_BYTES = 64

    def __init__(self, data: memoryview) -> None:
        self._data, self._place = data, 0

    def tell(self) -> int:
        """Return the position."""
        return self._place

    def read(self, size: int) -> bytes | memoryview:
        """Read the next bytes, fewer at the end."""
        part = self._data[self._place : self._place + size]
        self._place += len(part)
        return part if len(part) > self.LONG_BYTES else bytes(part)

    def readline(self) -> bytes:
        """Read up to the next end of a line; only names are lines."""
        line = bytes(self._data[self._place : self._place + 1024]).partition(b"\n")
        whole = line[0] + line[1]
        self._place += len(whole)
        return whole


def is_data(name: str) -> bool:
    """Whether a name is of a class or of a function that makes a value; what could act is refused, though never run.

    >>> is_data("argparse Namespace"), is_data("numpy._core.multiarray scalar"), is_data("os system")
    (True, True, False)
    """
    module, _, last = name.rpartition(" ")
    if module.partition(".")[0] in ACTING:
        return name in VALUES
    if module.partition(".")[0] == "numpy":
        return True
    return name in VALUES or last.rpartition(".")[2][:1].isupper()


def _append(target: Any, items: list[Any]) -> None:
    if isinstance(target, Opaque):
        return
    if type(target) is not list:
        raise ValueError("the target of APPEND is no list")
    target.extend(items)


def set_items(target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
    """Set items of a dictionary, each key once."""
    if isinstance(target, Opaque):
        return
    if type(target) is not dict:
        raise ValueError("the target of SETITEM is no dictionary")
    for key, item in pairs:
        if type(key) is tuple or isinstance(key, Opaque | Global):
            continue  # no tensor of a model has such a name
        if type(key) is float or (type(key) is int and abs(key) > MAX_KEY):
            continue  # nor such a number; many of them may have one hash, which makes a dictionary slow
        if type(key) not in (str, int, bool, type(None)):
            raise ValueError(f"a dictionary's key is a {type(key).__name__}")
        if key in target:
            raise ValueError(f"a dictionary has {quote(key)} twice")
        target[key] = item


def _view(storage: Storage, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not (type(shape) is type(strides) is tuple and len(shape) == len(strides) <= 32):
        raise ValueError("a tensor has no shape and strides of at most 32 axes")
    if not _are_counts(offset, *shape, *strides):
        raise ValueError("a tensor's offset, shape and strides are not all whole numbers from 0")
    return Tensor(storage, offset, shape, strides)


def _are_counts(*numbers: Any) -> bool:
    return all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def make_array(
    path: Path, name: str, data: mmap.mmap | memoryview, tensor: Tensor, places: Mapping[str, tuple[int, int]]
) -> np.ndarray:
    """View a tensor's numbers in a file.

    Args:
        path: the file, for the error.
        name: of the tensor, for the error.
        data: that has the storages.
        tensor: as its pickle describes it.
        places: each storage's first byte and number of bytes.

    Raises:
        FileFormatError: the storage is missing or of another size, or the tensor reaches beyond it.
    """
    storage, item = tensor.storage, tensor.storage.dtype.itemsize
    start, size = places.get(storage.key, (0, -1))
    if size != storage.total * item:
        wrong = f"the storage {storage.key!r} of {quote(name)} " + ("is missing" if size < 0 else f"has {size:,} bytes")
        refuse(path, wrong, f"{storage.total * item:,} bytes")
    last = tensor.offset + sum(
        (length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if 0 not in tensor.shape and last >= storage.length:
        refuse(path, f"{quote(name)} {tensor.shape} reaches to item {last:,}", f"less than {storage.length:,}")
    # The stride of an axis of length 1 is not checked above, and has no effect.
    strides = [stride if length > 1 else 1 for length, stride in zip(tensor.shape, tensor.strides, strict=True)]
    first = start + (storage.offset + tensor.offset) * item
    return view_at(path, name, data, first, storage.dtype, tensor.shape, tuple(stride * item for stride in strides))
