"""Graphs of TensorFlow's SavedModels: what each signature computes, with the variables of the checkpoint as constants.

A variable is a resource in the graph. Which tensor of the checkpoint it is, the graph tells where it saves the
variables (``SaveV2``); a function that no signature calls has its variables by the object graph.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from ..formats._graphdef import TensorMessage, parse_texts
from ..formats._savedmodel import SavedModel, open_saved_model
from ..formats.tensorflow import Checkpoint, find_index, find_saved_model
from ..layouts.object_names import to_layer_names
from ._flatten import VARIABLES, FlatNode, Flattener
from ._tensorflow_nodes import Constants, translate
from .graph import Graph
from .graphdef import find_constants

SAVE = "SaveV2"
SAVING = (SAVE, "RestoreV2", "AssignVariableOp", "Assign", "VarIsInitializedOp", "DisableCopyOnRead")
"""Operators that use variables and compute nothing of a network."""
MOVES = ("Identity", "ReadVariableOp", "Cast", "NoOp", "Copy")
"""Operators between a variable and where it is saved."""


def read_graphs(path: Path) -> list[Graph]:
    """Read one graph for each signature that has other variables than those before it; none for a checkpoint alone.

    Raises:
        FileFormatError: a file of the SavedModel is broken.
    """
    saved = find_saved_model(path)
    return [] if saved is None else _Reader(path, saved).read()


class _Reader:
    def __init__(self, path: Path, saved: Path) -> None:
        self._path, self._saved = path, saved
        self._model: SavedModel = open_saved_model(saved)
        self._flattener = Flattener(saved, self._model.graph)

    def read(self) -> list[Graph]:
        """Read all graphs."""
        flattener, model = self._flattener, self._model
        scope = flattener.add_graph(model.graph.nodes)
        main = list(flattener.nodes)
        names = self._name_variables(main)
        selections = [
            _select(main, [scope.find(output) for output in outputs]) for outputs in model.signatures if outputs
        ]
        if not selections:
            selections = [_leave_out_saving(main)]
        selections += self._read_functions({key: output for output, key in names.items()})
        found, makers, variable_shapes = self._find_variables(names)
        graphs: list[Graph] = []
        seen = set[str]()
        for nodes in selections:
            used = {name for node in nodes for name in node.inputs if name in found}
            if not graphs or (used and not used <= seen):
                constants, shapes = find_constants(self._saved, nodes)
                graphs.append(translate(nodes, {**constants, **makers}, {**shapes, **variable_shapes}, found))
            seen |= used
        return graphs

    def _find_variables(self, names: Mapping[str, str]) -> tuple[dict[str, str], Constants, dict[str, tuple[int, ...]]]:
        """Find the variables in the checkpoint: names by tensors of the graph, arrays and shapes by these names."""
        index = find_index(self._path)
        if index is None:
            return {}, {}, {}
        checkpoint = Checkpoint(index)
        stored = to_layer_names(checkpoint, checkpoint.read_full_names())
        found = {output: stored[key] for output, key in names.items() if key in stored}
        keys = {key for key in names.values() if key in stored}
        makers = {stored[key]: partial(checkpoint.__getitem__, key) for key in keys}
        return found, makers, {stored[key]: checkpoint.shapes[key] for key in keys}

    def _name_variables(self, nodes: list[FlatNode]) -> dict[str, str]:
        """Find the checkpoint's name of each variable: where it is saved, else by the object graph, else its own."""
        producers = {node.output: node for node in nodes}
        names = {}
        for node in nodes:
            if node.op in VARIABLES:
                name = str(node.attributes.get("shared_name") or node.name)
                names[node.output] = self._model.keys.get(name, name)
        for node in nodes:
            texts = producers.get(node.inputs[1]) if node.op == SAVE and len(node.inputs) > 3 else None
            value = texts.attributes.get("value") if texts is not None else None
            if isinstance(value, TensorMessage):
                for key, tensor in zip(parse_texts(self._saved, value), node.inputs[3:], strict=False):
                    variable = _trace(tensor, producers)
                    if variable in names:
                        names[variable] = key
        return names

    def _read_functions(self, outputs: Mapping[str, str]) -> list[list[FlatNode]]:
        """Read the functions of the objects that the main graph does not call; outputs are by the checkpoint's keys."""
        selections = []
        flattener = self._flattener
        for function in self._model.functions:
            body = self._model.graph.functions.get(function.name)
            if body is None or function.name in flattener.called:
                continue
            first = len(flattener.nodes)
            flattener.add_function(body, [outputs.get(key, "") for key in function.captures])
            selections.append(flattener.nodes[first:])
        return selections


def _trace(tensor: str, producers: Mapping[str, FlatNode]) -> str:
    """Find the variable of which a tensor is a copy."""
    for _ in range(len(producers)):
        node = producers.get(tensor)
        if node is None or node.op not in MOVES or not node.inputs:
            break
        tensor = node.inputs[0]
    return tensor


def _select(nodes: list[FlatNode], outputs: Iterable[str]) -> list[FlatNode]:
    """Select the nodes from which outputs are computed."""
    producers = {node.output: node for node in nodes}
    needed, waiting = set(), list(outputs)
    while waiting:
        name = waiting.pop()
        node = producers.get(name) or producers.get(name.partition(":")[0])
        if node is not None and node.output not in needed:
            needed.add(node.output)
            waiting += (*node.inputs, *node.contents)
    return [node for node in nodes if node.output in needed]


def _leave_out_saving(nodes: list[FlatNode]) -> list[FlatNode]:
    """Leave out what reads variables only to save, to restore or to copy them."""
    return _select(nodes, [node.output for node in nodes if node.op not in (*SAVING, *MOVES, *VARIABLES)])
