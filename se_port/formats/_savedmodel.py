"""SavedModels: the graph, what it computes, and which tensor of the checkpoint each of its variables is.

The messages are those of saved_model.proto, meta_graph.proto, saved_object_graph.proto and
trackable_object_graph.proto of TensorFlow 2.21.
"""

from collections import deque
from pathlib import Path
from typing import NamedTuple

from se_spec.texts import quote

from . import _base
from ._base import refuse
from ._buffers import decode_name, map_file
from ._graphdef import GraphDef, iterate_messages, parse_entry, parse_graph
from ._wire import PartCounter, decode_varints, iterate_fields

FILE = "saved_model.pb"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
"""The end of a variable's name in a checkpoint of TensorFlow 2."""
GRAPH, SIGNATURES, OBJECTS = 2, 5, 7
"""Fields of a MetaGraphDef."""
DEFAULT_SIGNATURE = "serving_default"
MAX_STEPS = 1 << 20
"""From the variables to the first object, together; EfficientNet-B0 has 2,000."""
SERVICE = ("__saved_model_init_op", "__saved_model_train_op")
"""Signatures that compute nothing."""


class ConcreteFunction(NamedTuple):
    """A function that an object has: its name, and the variables that follow its arguments, as keys of the checkpoint.

    A key is ``""`` where something else than a variable follows.
    """

    name: str
    captures: tuple[str, ...]


class SavedModel(NamedTuple):
    """The parts of a SavedModel that describe a network.

    Args:
        graph: the main graph and its functions.
        signatures: of each, the tensors that it returns; the default one is first.
        functions: of the objects, those with the most variables first.
        keys: names of variables to the checkpoint's, as far as the object graph has them.
    """

    graph: GraphDef
    signatures: list[tuple[str, ...]]
    functions: list[ConcreteFunction]
    keys: dict[str, str]


def open_saved_model(path: Path) -> SavedModel:
    """Read a ``saved_model.pb``.

    Raises:
        FileFormatError: the file is broken, or has no graph.
    """
    metas = list(iterate_messages(path, memoryview(map_file(path)), 2))
    if not metas:
        refuse(path, "is a TensorFlow SavedModel without a graph", "one or more")
    graph, signatures, objects = memoryview(b""), {}, memoryview(b"")
    for number, value in iterate_fields(path, metas[0]):
        if not isinstance(value, memoryview):
            continue
        if number in (GRAPH, OBJECTS) and (graph if number == GRAPH else objects):
            refuse(path, f"has the field {number} twice", "one graph")  # protobuf joins them
        if number == GRAPH:
            graph = value
        elif number == SIGNATURES:
            name, signature = parse_entry(path, value)
            if name in signatures:
                refuse(path, f"has the signature {quote(name)} twice", "each once")
            signatures[name] = _parse_outputs(path, signature)
        elif number == OBJECTS:
            objects = value
    functions, keys = _parse_objects(path, objects)
    order = sorted(signatures, key=lambda name: name != DEFAULT_SIGNATURE)
    return SavedModel(
        parse_graph(path, graph), [signatures[name] for name in order if name not in SERVICE], functions, keys
    )


def _parse_outputs(path: Path, signature: memoryview) -> tuple[str, ...]:
    """Names of the tensors that a SignatureDef returns."""
    infos = [parse_entry(path, entry)[1] for entry in iterate_messages(path, signature, 2)]
    return tuple(decode_name(path, name) for info in infos for name in iterate_messages(path, info, 1))


def _parse_objects(path: Path, message: memoryview) -> tuple[list[ConcreteFunction], dict[str, str]]:
    """Functions and variables of a SavedObjectGraph."""
    children: list[list[tuple[str, int]]] = []
    names: dict[int, str] = {}
    captures: dict[str, list[int]] = {}
    counter = PartCounter(path)
    for number, value in iterate_fields(path, message):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            members = []
            counter.count()
            for part, content in iterate_fields(path, value):
                counter.count()
                if part == 1 and isinstance(content, memoryview):
                    members.append(_parse_reference(path, content))
                elif part == 7 and isinstance(content, memoryview):
                    texts = [decode_name(path, text) for text in iterate_messages(path, content, 6)]
                    names[len(children)] = texts[-1] if texts else ""
            children.append(members)
        elif number == 2:
            name, function = parse_entry(path, value)
            if name in captures:
                refuse(path, f"has the function {quote(name)} twice", "each once")
            captures[name] = []
            for part, content in iterate_fields(path, function):
                counter.count(len(content) if part == 2 and not isinstance(content, int) else 1)
                if part == 2:
                    captures[name] += [content] if isinstance(content, int) else decode_varints(path, content).tolist()
    paths = _find_paths(path, children, names)
    keys = {number: f"{inner}{SUFFIX}" for number, inner in paths.items() if inner}
    functions = [
        ConcreteFunction(name, tuple(keys.get(number, "") for number in numbers)) for name, numbers in captures.items()
    ]
    functions.sort(key=lambda function: -len(set(function.captures)))
    return functions, {names[number]: key for number, key in keys.items() if names[number]}


def _parse_reference(path: Path, message: memoryview) -> tuple[str, int]:
    number, name = 0, ""
    for part, content in iterate_fields(path, message):
        if part == 1 and isinstance(content, int):
            number = content
        elif part == 2 and isinstance(content, memoryview):
            name = decode_name(path, content)
    return name, number


def _find_paths(path: Path, children: list[list[tuple[str, int]]], variables: dict[int, str]) -> dict[int, str]:
    """Find the shortest path of names from the first object to each variable, which is its name in the checkpoint."""
    parents: dict[int, tuple[int, str]] = {0: (0, "")}
    queue = deque([0])
    while queue:
        parent = queue.popleft()
        for name, child in children[parent] if parent < len(children) else ():
            if child not in parents:
                parents[child] = parent, name.replace(".", "..").replace("/", ".S")
                queue.append(child)
    found: dict[int, str] = {}
    steps = characters = 0
    for variable in variables:
        parts, number = [], variable
        while number and number in parents:
            number, name = parents[number]
            parts.append(name)
            steps += 1
        if steps > MAX_STEPS:
            refuse(path, f"has objects within objects, {steps:,} in all", f"at most {MAX_STEPS:,} around its variables")
        if number == 0 and parts:
            found[variable] = "/".join(reversed(parts))
            characters += len(found[variable])
        if characters > _base.MAX_NAMES:
            refuse(path, f"has names of {characters:,} characters", f"at most {_base.MAX_NAMES:,} around its variables")
    return found


def parse_full_names(path: Path, message: memoryview) -> dict[str, str]:
    """Names that layers gave to variables, by their keys in the checkpoint, of a TrackableObjectGraph."""
    found: dict[str, str] = {}
    for node in iterate_messages(path, message, 1):
        for attribute in iterate_messages(path, node, 2):
            texts = {
                number: decode_name(path, value)
                for number, value in iterate_fields(path, attribute)
                if number in (2, 3) and isinstance(value, memoryview)
            }
            if texts.get(2) and texts.get(3):
                found.setdefault(texts[3], texts[2].removesuffix(":0"))
    return found
