"""Graphs of ``torch.export``'s archives: the nodes of the program's graph, and of the graphs in it.

Source: ``torch/_export/serde/schema.py`` of https://github.com/pytorch/pytorch, of which the fields that are read here
have not changed since 2.1. Operators of ATen are translated by ``aten``; others keep their own names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..formats._base import refuse
from ..formats.torch_export import Archive
from .aten import UNKNOWN, Builder, Ref, find_refs
from .graph import Graph

OPERATORS = "torch.ops."
MAX_DEPTH = 32
"""Graphs within graphs."""
SCALARS = ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools", "as_strings")
"""Kinds of arguments that are the value itself."""
TENSOR_LISTS = ("as_tensors", "as_optional_tensors")


def read_graphs(path: Path) -> list[Graph]:
    """Read the graph of a program, and those of its branches.

    Raises:
        FileFormatError: the file is no archive of ``torch.export``, or is broken.
    """
    archive = Archive(path)
    module = _field(archive.read_program(), "graph_module")
    reader = _Reader(path, archive.read_weights() | archive.read_constants())
    constants = reader.bind(_field(module, "signature"))
    reader.read(_field(module, "graph"), constants, 0)
    return reader.graphs


class _Reader:
    def __init__(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        self.path, self.arrays = path, arrays
        self.quantized = frozenset(name for name, array in arrays.items() if array.dtype.name in ("int8", "uint8"))
        self.graphs: list[Graph] = []

    def bind(self, signature: Any) -> dict[str, Ref]:
        """Return the tensor of each of the graph's inputs that is a parameter, a buffer or a constant."""
        bound: dict[str, Ref] = {}
        for entry in _items(_field(signature, "input_specs")):
            for kind, key in (
                ("parameter", "parameter_name"),
                ("buffer", "buffer_name"),
                ("tensor_constant", "tensor_constant_name"),
            ):
                content = _field(entry, kind)
                name, target = _field(_field(content, "arg"), "name"), _field(content, key)
                if type(name) is str and type(target) is str and target in self.arrays:
                    bound[name] = Ref(target, self.arrays[target].ndim)
        return bound

    def read(self, graph: Any, bound: Mapping[str, Ref], depth: int) -> None:
        """Append a graph, and those that are arguments of its nodes."""
        if depth > MAX_DEPTH:
            refuse(self.path, "has graphs within graphs", f"at most {MAX_DEPTH} deep")
        if type(graph) is not dict:
            self._refuse_graph("no graph")
        builder = Builder(self.arrays, self.quantized)
        refs = dict(bound)
        inner: list[tuple[Any, list[Any]]] = []
        for node in _items(_field(graph, "nodes")):
            self._read_node(node, builder, refs, inner)
        for name, meta in _fields(_field(graph, "tensor_values")):
            shape = _read_shape(_field(meta, "sizes"))
            if shape is not None and name not in bound:
                builder.shapes[name] = shape
                changed = refs.get(name)
                if changed is not None:
                    builder.shapes[changed.name] = shape
        self.graphs.append(builder.make_graph())
        for branch, operands in inner:
            names = _list_names(_items(_field(branch, "inputs")))
            known = {name: ref for name, ref in zip(names, operands, strict=False) if self._is_constant(ref)}
            self.read(branch, known, depth + 1)

    def _is_constant(self, value: Any) -> bool:
        return isinstance(value, Ref) and value.name in self.arrays

    def _read_node(self, node: Any, builder: Builder, refs: dict[str, Ref], inner: list[tuple[Any, list[Any]]]) -> None:
        target, outputs = _field(node, "target"), _list_names(_items(_field(node, "outputs")))
        if type(target) is not str or not outputs:
            return
        positional: list[Any] = []
        named: dict[str, Any] = {}
        branches: list[Any] = []
        operands: list[Any] = []
        for argument in _items(_field(node, "inputs")):
            count = len(branches)
            value = self._read_argument(_field(argument, "arg"), refs, branches)
            if len(branches) == count:
                operands += find_refs(value)
            else:  # those of a branch are behind it
                operands = []
            name = _field(argument, "name")
            if type(name) is str and name:
                named[name] = value
            else:
                positional.append(value)
        inner += [(branch, operands) for branch in branches]
        stack = _field(_field(node, "metadata"), "nn_module_stack")
        path = _read_module_path(stack) if type(stack) is str else ""
        library, _, overloaded = target.removeprefix(OPERATORS).partition(".")
        op = overloaded.partition(".")[0]
        builder.name = f"{path}/{outputs[0]}" if path else outputs[0]
        if target.startswith(OPERATORS) and library in ("aten", "prims", "quantized_decomposed"):
            base = op[:-1] if op.endswith("_") and not op.startswith("__") else op
            builder.call(base, positional, named, outputs[0])
            written = named.get("self", named.get("input"))
            if base != op and isinstance(written, Ref) and written.name not in builder.constants:
                written.name = outputs[0]  # the tensor itself has changed
                refs[outputs[0]] = written
        else:
            tensors = [ref for value in (*positional, *named.values()) for ref in find_refs(value)]
            builder.add(f"{library}.{overloaded}", tensors, outputs[0])
        for output in outputs[1:]:
            builder.add("aten.output", [Ref(outputs[0])], output)

    def _read_argument(self, argument: Any, refs: dict[str, Ref], branches: list[Any]) -> Any:
        """Return the value of an argument: tensors as ``Ref``, what is not known as ``UNKNOWN``."""
        for kind, value in _fields(argument):
            if kind in SCALARS:
                return value
            if kind == "as_none":
                return None
            if kind in ("as_tensor", "as_optional_tensor"):
                return _to_ref(value, refs)
            if kind in TENSOR_LISTS:
                return [_to_ref(one, refs) for one in _items(value)]
            if kind in ("as_sym_ints", "as_sym_floats"):
                lengths = [_field(one, "as_int") for one in _items(value)]
                return [length if type(length) is int else UNKNOWN for length in lengths]
            if kind == "as_sym_int" and type(_field(value, "as_int")) is int:
                return value["as_int"]
            if kind == "as_graph":
                branches.append(_field(value, "graph"))
        return UNKNOWN

    def _refuse_graph(self, what: str) -> NoReturn:
        refuse(self.path, f"has {what} where a graph is", "a program that torch.export wrote")


def _to_ref(value: Any, refs: dict[str, Ref]) -> Any:
    if type(value) is dict and "as_none" in value:
        return None
    name = _field(_field(value, "as_tensor") if type(value) is dict and "as_tensor" in value else value, "name")
    return refs.setdefault(name, Ref(name)) if type(name) is str else UNKNOWN


def _list_names(outputs: list[Any]) -> list[str]:
    """Names of the tensors among a node's outputs, in their order; of other outputs a name that nobody uses."""
    names: list[str] = []
    for output in outputs:
        tensors = _items(_field(output, "as_tensors")) or [_field(output, "as_tensor")]
        names += [name for tensor in tensors if type(name := _field(tensor, "name")) is str]
    return names


def _read_module_path(stack: str) -> str:
    """Return the path of the innermost module of a stack of keys, paths and types.

    >>> _read_module_path("L__self__,,torch.nn.Sequential;L__self___0,0.se,timm.SEModule")
    '0.se'
    """
    fields = stack.rpartition(";")[2].split(",")
    path = fields[1] if len(fields) > 2 else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']")


def _read_shape(sizes: Any) -> tuple[int, ...] | None:
    """Return a shape, an axis of any length as -1; None if there is none."""
    if type(sizes) is not list or len(sizes) > 32:
        return None
    lengths = [_field(size, "as_int") for size in sizes]
    return tuple(length if type(length) is int else -1 for length in lengths)


def _field(value: Any, key: str) -> Any:
    return value.get(key) if type(value) is dict else None


def _fields(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if type(value) is dict else []


def _items(value: Any) -> list[Any]:
    return value if type(value) is list else []
