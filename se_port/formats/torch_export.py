"""Archives of ``torch.export.save``, ``.pt2``: a graph as JSON, and weights.

Source: ``torch/export/pt2_archive`` and ``torch/_export/serde`` of https://github.com/pytorch/pytorch. The file is a
zip in one of three layouts. PyTorch 2.1 to 2.7 wrote ``serialized_exported_program.json`` beside a
``serialized_state_dict.pt``, which is an archive of ``torch.save``; 2.8 wrote ``models/NAME.json`` beside
``data/weights/NAME.pt``, which is another; since 2.9 each storage is a member that a JSON describes. ``read`` returns
the state dict, and of a program without one its constants. Nothing is written: the file is a program, and weights are
none. ``graphs.torch_export`` reads the graph.

Not read: archives of several models, compiled code of AOTInductor, pickled tensors of subclasses, and complex and 8-bit
floats.
"""

import mmap
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from se_spec.texts import quote

from ._base import Budget, Tensors, count_bytes, refuse, refuse_to_write
from ._buffers import encode_name, little_endian_dtype, map_file
from ._json import MAX_JSON_BYTES, decode_json
from ._pickle import Storage, Tensor, make_array
from ._zips import Member, list_names, read_directory, read_member
from .torch import read_zip

NEEDS = ()

OLD_PROGRAM = "serialized_exported_program.json"
DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool",
    13: "bfloat16", 28: "uint16", 34: "uint32", 35: "uint64",
}  # fmt: skip
"""Names of dtypes by their numbers in the schema."""


class Archive:
    """An open archive.

    Args:
        path: of the file.

    Raises:
        FileFormatError: it is no archive of one program, or is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: mmap.mmap = map_file(path)
        self._members = read_directory(path, self._data)
        if OLD_PROGRAM in self._members:
            self._folder, self._name, self._program = "", "", OLD_PROGRAM
            return
        programs = [
            name
            for name in self._members
            if (parts := name.split("/"))[1:2] == ["models"] and len(parts) == 3 and name.endswith(".json")
        ]
        if len(programs) != 1:
            compiled = any("/data/aotinductor/" in name for name in self._members)
            what = ", and has compiled code of AOTInductor" if compiled else ""
            refuse(path, f"is a torch.export archive of {len(programs)} programs{what}", "one program")
        self._program = programs[0]
        self._folder, _, name = self._program.split("/")
        self._folder += "/"
        self._name = name.removesuffix(".json")

    def read_program(self) -> Any:
        """Read the JSON of the program."""
        return self._read_json(self._program)

    def read_weights(self) -> dict[str, np.ndarray]:
        """View the tensors of the state dict, by their names."""
        return self._read_tensors("weights", "serialized_state_dict")

    def read_constants(self) -> dict[str, np.ndarray]:
        """View the tensors that are in no state dict: constants of the code, and buffers that are not persistent."""
        return self._read_tensors("constants", "serialized_constants")

    def _read_tensors(self, kind: str, old: str) -> dict[str, np.ndarray]:
        if self._program == OLD_PROGRAM:
            whole = next((name for name in (f"{old}.pt", f"{old}.json") if name in self._members), "")
        else:
            whole = f"{self._folder}data/{kind}/{self._name}.pt"
        config = f"{self._folder}data/{kind}/{self._name}_{kind}_config.json"
        if whole in self._members and config in self._members:
            refuse(self.path, f"has its {kind} in {quote(whole)} and in {quote(config)}", "one of them")
        if whole in self._members:
            return self._read_archive(whole)
        if config not in self._members:
            refuse(self.path, f"is a torch.export archive without {kind}", f"a member {config}")
        return self._read_storages(config)

    def _find_member(self, name: str) -> Member:
        if name not in self._members:
            refuse(self.path, f"has no member {quote(name)}", "a whole torch.export archive")
        if not self._members[name].stored:
            refuse(self.path, f"{quote(name)} is compressed", "members that are stored, as torch.export writes them")
        return self._members[name]

    def _read_archive(self, name: str) -> dict[str, np.ndarray]:
        """View the tensors of a dictionary that ``torch.save`` wrote."""
        member = self._find_member(name)
        data = memoryview(self._data)[member.start : member.start + member.size]
        value, places = read_zip(self.path, data)
        if type(value) is not dict:
            refuse(self.path, f"has a {type(value).__name__} in {quote(name)}", "a dictionary of tensors")
        arrays: dict[str, np.ndarray] = {}
        budget = Budget.of_shared(self.path, len(self._data))
        for key, tensor in value.items():
            if isinstance(tensor, Tensor) and type(key) is str:
                self._add_array(arrays, key, data, tensor, places, budget)
        return arrays

    def _read_storages(self, config: str) -> dict[str, np.ndarray]:
        """View the tensors that a JSON describes."""
        entries = self._read_json(config)
        entries = entries.get("config") if type(entries) is dict else None
        if type(entries) is not dict:
            refuse(self.path, f"{config!r} has no dictionary 'config'", "one of names and tensors")
        arrays: dict[str, np.ndarray] = {}
        budget = Budget.of_shared(self.path, len(self._data))
        for name, entry in entries.items():
            match entry:
                case {"path_name": str(place), "use_pickle": False, "tensor_meta": dict(meta)}:
                    member = self._find_member(f"{config.rpartition('/')[0]}/{place}")
                    tensor = _to_tensor(self.path, name, meta, member.size)
                    places = {tensor.storage.key: (member.start, tensor.storage.total * tensor.storage.dtype.itemsize)}
                    self._add_array(arrays, name, memoryview(self._data), tensor, places, budget)
                case {"path_name": str(place)} if place.startswith(("custom_obj_", "opaque_obj_")):
                    pass
                case _:
                    refuse(self.path, f"{quote(name)} is pickled or not described", "tensors that are stored")
        return arrays

    def _add_array(
        self,
        arrays: dict[str, np.ndarray],
        name: str,
        data: memoryview,
        tensor: Tensor,
        places: dict[str, tuple[int, int]],
        budget: Budget,
    ) -> None:
        """Add a view; tensors may share bytes, or repeat them."""
        encode_name(self.path, name)
        budget.spend_name(name)
        budget.spend(count_bytes(self.path, name, tensor.shape, tensor.storage.dtype.itemsize, budget.left))
        arrays[name] = make_array(self.path, name, data, tensor, places)

    def _read_json(self, name: str) -> Any:
        member = self._members[name]
        if member.size > MAX_JSON_BYTES:
            refuse(self.path, f"{quote(name)} has {member.size:,} bytes", f"JSON of at most {MAX_JSON_BYTES:,}")
        return decode_json(self.path, name, read_member(self.path, name, self._data, member))


def _to_tensor(path: Path, name: str, meta: dict[str, Any], size: int) -> Tensor:
    """Describe a tensor in a storage of ``size`` bytes."""
    code = meta.get("dtype")
    if type(code) is not int or code not in DTYPES:
        refuse(path, f"{quote(name)} is of the dtype {code!r}", f"one of {', '.join(DTYPES.values())}")
    dtype = little_endian_dtype(DTYPES[code])
    shape = _read_counts(path, name, meta.get("sizes"))
    strides = _read_counts(path, name, meta.get("strides"))
    (offset,) = _read_counts(path, name, [meta.get("storage_offset")])
    if len(shape) != len(strides):
        refuse(path, f"{quote(name)} has {len(shape)} axes and {len(strides)} strides", "as many")
    total = size // dtype.itemsize
    return Tensor(Storage(name, dtype, total, 0, total), offset, shape, strides)


def _read_counts(path: Path, name: str, values: Any) -> tuple[int, ...]:
    numbers: list[Any] = [value.get("as_int") if type(value) is dict else None for value in values or ()]
    if type(values) is not list or len(values) > 32 or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
        refuse(
            path,
            f"{quote(name)} has the sizes, strides or offset {str(values)[:80]}",
            "at most 32 whole numbers from 0",
        )
    return tuple(numbers)


def matches(path: Path, head: bytes) -> bool:
    """Whether a zip has a program's JSON, or the marks of such an archive."""
    if head[:4] != b"PK\3\4":
        return False
    names = list_names(path)
    return OLD_PROGRAM in names or any(name.partition("/")[2] == "archive_format" for name in names)


def read(path: Path) -> Tensors:
    """Read views of the mapped file.

    Raises:
        FileFormatError: the file is broken, or holds more than one program and dense tensors.
    """
    archive = Archive(path)
    tensors = archive.read_weights() or archive.read_constants()
    if not tensors:
        refuse(path, "is a torch.export archive without tensors", "a program with weights")
    return tensors


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always, since weights are no program.
    """
    refuse_to_write(path, "a torch.export archive", tensors)
