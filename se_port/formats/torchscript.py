"""TorchScript archives: what ``torch.jit.save`` writes of a traced or scripted module.

Source: ``torch/csrc/jit/serialization`` of https://github.com/pytorch/pytorch. The file is a zip: ``data.pkl`` is a
pickle of the module and its submodules with their attributes, ``constants.pkl`` one of the constants of the code, and
each of their tensors is a storage in a stored member. ``code`` has the methods as Python text, which
``graphs.torchscript`` parses. ``read`` names each tensor by its path, as ``state_dict`` does; of a frozen module, which
has no attributes, the constants. Nothing is written: the file is a program, and weights are none.

Not read: quantized and sparse tensors, objects of C++ classes, and the layout before PyTorch 1.4.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from se_spec.texts import quote

from ._base import Budget, Tensors, count_bytes, refuse, refuse_to_write
from ._buffers import encode_name, map_file
from ._pickle import Global, Tensor, TensorUnpickler, make_array
from ._zips import Member, list_names, read_directory, read_member
from .torch import read_pickle

NEEDS = ()

SCRIPT = "__torch__"
"""The first part of every name of TorchScript's code."""
LISTS = frozenset(f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor"))
TAG = "torch.jit._pickle restore_type_tag"
MAX_NAMES = 1_000_000
MAX_PATH = 4096
MAX_CODE_BYTES = 4 << 20
"""All code of an archive; that of a large traced network has 1 MB."""


@dataclass(eq=False)
class ScriptObject:
    """A module, or another object of a class of the archive's code.

    Args:
        type: qualified name of the class.
        attributes: by name.
    """

    type: str
    attributes: dict[str, Any] = field(default_factory=dict)


class ModuleUnpickler(TensorUnpickler):
    """Reads a pickle of modules, whose attributes are plain values, tensors and modules."""

    functions = frozenset({*TensorUnpickler.functions, *LISTS, TAG})
    expected = "a TorchScript archive of dense tensors; where the file is trusted, save the model's state_dict"

    def find_global(self, name: str) -> Global:
        """Return what stands for a name; those of the archive's own code are classes."""
        if name.startswith((f"{SCRIPT}.", f"{SCRIPT} ")) and not name.startswith(f"{SCRIPT}.torch.classes"):
            return Global(name.replace(" ", "."))
        if "quantized" in name or "qtensor" in name:
            dotted = name.replace(" ", ".")
            refuse(self.path, f"is a TorchScript archive of a quantized module, with {dotted}", "one of dense floats")
        return super().find_global(name)

    def make_object(self, name: Any, arguments: Any) -> ScriptObject:
        """Make an object without attributes."""
        if not isinstance(name, Global) or not name.name.startswith(SCRIPT) or arguments != ():
            raise ValueError("an object is of no class of the archive")
        return ScriptObject(name.name)

    def build(self, target: Any, state: Any) -> None:
        """Set the attributes of an object."""
        if not isinstance(target, ScriptObject):
            return super().build(target, state)
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise ValueError(f"the attributes of a {target.type} are no dictionary")
        target.attributes = state
        return None

    def reduce(self, function: Global, *arguments: Any) -> Any:
        """Return what torch's functions for lists and types would make."""
        match function.name, *arguments:
            case [name, list(items)] if name in LISTS:
                return items
            case [name, value, str()] if name == TAG:
                return value
        return super().reduce(function, *arguments)


class Archive:
    """An open TorchScript archive.

    Args:
        path: of the file.

    Raises:
        FileFormatError: it is no TorchScript archive, or is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: mmap.mmap = map_file(path)
        self.bytes = len(self._data)
        """Of the file."""
        self._members = read_directory(path, self._data)
        names = [name for name in self._members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            refuse(path, f"has {len(names)} members */data.pkl", "a TorchScript archive, which has one")
        self._folder = names[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in self._members and read_member(path, order, self._data, self._members[order]) != b"little":
            refuse(path, "is a TorchScript archive that is not little-endian", "a file from a processor of this kind")
        self._code_bytes = 0
        root = self._unpickle("data.pkl")
        if not isinstance(root, ScriptObject):
            refuse(path, f"is a TorchScript archive of a {type(root).__name__}", "one of a module")
        self.root = root
        constants = self._unpickle("constants.pkl") if f"{self._folder}constants.pkl" in self._members else ()
        self.constants = constants if type(constants) is tuple else ()

    def _unpickle(self, name: str) -> Any:
        member = self._members[self._folder + name]
        return ModuleUnpickler(self.path).read(read_pickle(self.path, name, self._data, member))

    def make_array(self, name: str, tensor: Tensor, *, is_constant: bool = False) -> np.ndarray:
        """View the numbers of a tensor of the module, or of a constant of the code."""
        folder = f"{self._folder}{'constants' if is_constant else 'data'}/{tensor.storage.key}"
        member = self._members.get(folder)
        if member is not None and not member.stored:
            refuse(self.path, f"the storage of {quote(name)} is compressed", "members that are stored")
        places = {} if member is None else {tensor.storage.key: (member.start, member.size)}
        return make_array(self.path, name, self._data, tensor, places)

    def iterate_attributes(self) -> Iterator[tuple[str, Any]]:
        """Yield path and value of every attribute of every object, the root first.

        An object that stands in several places is named by the first.

        Raises:
            FileFormatError: there are too many, or a path is too long.
        """
        seen: set[int] = set()
        stack: list[tuple[str, str, Any]] = [("", "", self.root)]
        count = 0
        while stack:
            prefix, name, item = stack.pop()
            path = prefix + name
            count += 1
            if isinstance(item, ScriptObject):
                if id(item) in seen:
                    continue
                seen.add(id(item))
                inner = f"{path}." if path else ""
                stack += [(inner, key, value) for key, value in reversed(item.attributes.items())]
            yield path, item
            if count + len(stack) > MAX_NAMES or len(path) > MAX_PATH:
                refuse(self.path, "has modules within modules", f"at most {MAX_NAMES:,} attributes, and short paths")

    def iterate_constants(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the code's constant tensors, each with its name there."""
        for number, value in enumerate(self.constants):
            if isinstance(value, Tensor):
                yield f"CONSTANTS.c{number}", value

    def read_source(self, module: str) -> str | None:
        """Read the code of a module, by its dotted name; None if there is none.

        Raises:
            FileFormatError: it is no text, or the archive has too much code.
        """
        name = f"{self._folder}code/{module.replace('.', '/')}.py"
        member: Member | None = self._members.get(name)
        if member is None:
            return None
        self._code_bytes += member.size
        if self._code_bytes > MAX_CODE_BYTES:
            refuse(self.path, f"has more than {MAX_CODE_BYTES:,} bytes of code", "the code of a network")
        try:
            return str(read_member(self.path, name, self._data, member), "utf-8")
        except UnicodeDecodeError as error:
            refuse(self.path, f"has code that is no text ({error})", "code in UTF-8")


def matches(path: Path, head: bytes) -> bool:
    """Whether a zip has a pickle of data and one of constants, or code."""
    if head[:4] != b"PK\3\4":
        return False
    names = list_names(path)
    ends = {name.partition("/")[2] for name in names}
    return "data.pkl" in ends and any(name == "constants.pkl" or name.startswith("code/") for name in ends)


def read(path: Path) -> Tensors:
    """Read views of the mapped file, by the paths of the module's parameters and buffers.

    Raises:
        FileFormatError: the file is broken, or has objects that are no modules and no dense tensors.
    """
    archive = Archive(path)
    named = [(name, value) for name, value in archive.iterate_attributes() if isinstance(value, Tensor)]
    is_constant = not named
    tensors: dict[str, np.ndarray] = {}
    budget = Budget.of_shared(path, archive.bytes)  # tensors may share bytes, or repeat them
    for name, tensor in named or archive.iterate_constants():
        encode_name(path, name)
        if name in tensors:
            refuse(path, f"has the attribute {quote(name)} twice", "each name once")
        budget.spend_name(name)
        budget.spend(count_bytes(path, name, tensor.shape, tensor.storage.dtype.itemsize, budget.left))
        tensors[name] = archive.make_array(name, tensor, is_constant=is_constant)
    if not tensors:
        refuse(path, "is a TorchScript archive without tensors", "a module with weights")
    return tensors


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always, since weights are no program.
    """
    refuse_to_write(path, "a TorchScript archive", tensors)
