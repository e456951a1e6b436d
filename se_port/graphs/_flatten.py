"""TensorFlow's graphs without functions: every call is replaced by what it computes.

Branches of ``If`` and ``Case`` and the bodies of loops are put beside the node that has them; what such a node returns
is unknown. The nodes come in an order in which they can run. A small file can describe many calls: a function that has
variables is put in place once in each call of the main graph for the same variables, and the number of nodes is
limited by the file's.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..formats._base import refuse
from ..formats._graphdef import Function, GraphDef, NodeDef

CALLS = ("PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall")
BRANCHES = {"If": ("then_branch", "else_branch"), "StatelessIf": ("then_branch", "else_branch"),
            "Case": ("branches",), "StatelessCase": ("branches",)}  # fmt: skip
LOOPS = ("While", "StatelessWhile")
FIRST_OUTPUTS = {"FusedBatchNorm": "y", "FusedBatchNormV2": "y", "FusedBatchNormV3": "y", "_FusedBatchNormEx": "y",
                 "Merge": "output"}  # fmt: skip
"""The first output of operators that have several, of which others may be read alone."""
VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
MAX_DEPTH = 32
"""Of calls within calls."""
GROWTH, MIN_BUDGET_BYTES = 16, 1 << 21
"""Bytes of the names that the nodes may have, at most: so many times those of the file, or this number."""
NODE_BYTES = 16
"""Bytes that a node counts beside its names."""


@dataclass(frozen=True)
class FlatNode:
    """A node whose inputs and outputs are unique in the whole graph.

    ``contents`` are the results of its branches, or of the body of its loop.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    name: str
    contents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scope:
    """What references mean in a function that was put in place, or in the main graph.

    Args:
        arguments: tensors of the function's arguments.
        outputs: by a node's name, the first tensor that it computes.
        firsts: by a node's name, how the function calls its first output.
        aliases: of tensors, shared by all.
    """

    arguments: Mapping[str, str]
    outputs: Mapping[str, str]
    firsts: Mapping[str, str]
    aliases: Mapping[str, str]

    def find(self, reference: str) -> str:
        """Find the tensor of ``name``, ``name:1``, or ``name:output:0``."""
        node, *parts = reference.split(":")
        if node in self.arguments and not parts:
            return self.arguments[node]
        output = self.outputs.get(node, node)
        number = parts[-1] if parts else "0"
        if len(parts) > 1 and parts[0] != self.firsts.get(node, parts[0]):
            return f"{output}:{parts[0]}:{number}"
        tensor = output if number == "0" else f"{output}:{number}"
        return self.aliases.get(tensor, tensor)


class Flattener:
    """Replaces calls; ``nodes`` has the result.

    Args:
        path: of the file, for errors.
        graph: its graph and functions.
    """

    def __init__(self, path: Path, graph: GraphDef) -> None:
        self.nodes: list[FlatNode] = []
        self.called: set[str] = set()
        """Names of the functions that were put in place."""
        self._path, self._functions = path, graph.functions
        self._costs = {name: _count_bytes(function.nodes) for name, function in graph.functions.items()}
        self._budget = max(MIN_BUDGET_BYTES, GROWTH * (_count_bytes(graph.nodes) + sum(self._costs.values())))
        self._used: dict[str, int] = {}
        self._handles: set[str] = set()
        self._aliases: dict[str, str] = {}
        self._inlined: set[tuple[str, ...]] = set()

    def add_graph(self, nodes: Sequence[NodeDef]) -> Scope:
        """Append the nodes of the main graph."""
        return self._add(nodes, {}, 0)

    def add_function(self, function: Function, variables: Sequence[str]) -> None:
        """Append the nodes of a function, with variables as its last arguments; ``""`` is an unknown one."""
        names = [self._make_unique(name) for name in function.arguments]
        first = max(0, len(names) - len(variables))
        given = [variables[place - first] if place >= first else "" for place in range(len(names))]
        self._handles.update(name for name in given if name)
        self._call(function, [variable or name for variable, name in zip(given, names, strict=True)], 0)

    def _add(self, nodes: Sequence[NodeDef], arguments: Mapping[str, str], depth: int) -> Scope:
        """Append nodes; arguments are of the function that has them."""
        outputs = {node.name: self._make_unique(node.name) for node in nodes}
        scope = Scope(arguments, outputs, _find_first_outputs(nodes), self._aliases)
        for node in _sort(nodes):
            if not depth:
                self._inlined.clear()
            inputs = tuple(scope.find(reference) for reference in node.inputs if reference[:1] != "^")
            self._add_node(node, inputs, outputs[node.name], depth)
        return scope

    def _add_node(self, node: NodeDef, inputs: tuple[str, ...], output: str, depth: int) -> None:
        called = node.attributes.get("f") if node.op in CALLS else node.op
        if isinstance(called, str) and called in self._functions and depth < MAX_DEPTH:
            variables = tuple(name for name in inputs if name in self._handles)
            key = (called, *variables)
            if not variables or key not in self._inlined:
                self._inlined.add(key)
                self._set_aliases(output, self._call(self._functions[called], inputs, depth + 1))
                return
        if node.op == "IdentityN":
            self._set_aliases(output, inputs)
            return
        if node.op == "Switch" and inputs:
            self._set_aliases(output, (inputs[0], inputs[0]))
            return
        if node.op in VARIABLES:
            self._handles.add(output)
        contents: list[str] = []
        if depth < MAX_DEPTH and node.op in BRANCHES:
            contents = self._add_branches(node, inputs, depth)
        elif depth < MAX_DEPTH and node.op in LOOPS:
            contents = self._add_loop(node, inputs, output, depth)
        self.nodes.append(FlatNode(node.op, inputs, output, node.attributes, node.name, tuple(contents)))

    def _set_aliases(self, output: str, tensors: Sequence[str]) -> None:
        self._spend(len(output) * len(tensors))
        for number, tensor in enumerate(tensors):
            self._aliases[f"{output}:{number}" if number else output] = tensor

    def _add_branches(self, node: NodeDef, inputs: tuple[str, ...], depth: int) -> list[str]:
        """Append the nodes of all branches; returns their results."""
        results = []
        for attribute in BRANCHES[node.op]:
            value = node.attributes.get(attribute)
            for name in value if isinstance(value, list) else [value]:
                if name in self._functions:
                    results += self._call(self._functions[name], inputs[1:], depth + 1)
        return results

    def _add_loop(self, node: NodeDef, inputs: tuple[str, ...], output: str, depth: int) -> list[str]:
        """Append the nodes of a loop's body, once; what it changes is unknown in it. Returns its results."""
        body = self._functions.get(node.attributes.get("body", ""))
        if body is None:
            return []
        self._spend(len(output) * len(inputs))
        stays = [result == argument for result, argument in zip(body.results, body.arguments, strict=False)]
        given = [
            name if name in self._handles or (place < len(stays) and stays[place]) else f"{output} in the loop:{place}"
            for place, name in enumerate(inputs)
        ]
        return self._call(body, given, depth + 1)

    def _call(self, function: Function, inputs: Sequence[str], depth: int) -> list[str]:
        """Append the nodes of a function; returns the tensors that are its results."""
        self._spend(self._costs[function.name] + sum(map(len, (*function.arguments, *function.results))))
        self.called.add(function.name)
        scope = self._add(function.nodes, dict(zip(function.arguments, inputs, strict=False)), depth)
        return [scope.find(result) for result in function.results]

    def _make_unique(self, name: str) -> str:
        self._used[name] = self._used.get(name, 0) + 1
        return name if self._used[name] == 1 else f"{name}#{self._used[name]}"

    def _spend(self, size: int) -> None:
        """Count bytes of names."""
        self._budget -= size
        if self._budget < 0:
            refuse(self._path, "calls its functions too often", f"at most {GROWTH} times the nodes that it has")


def _count_bytes(nodes: Iterable[NodeDef]) -> int:
    return sum(NODE_BYTES + len(node.name) + sum(map(len, node.inputs)) for node in nodes)


def _find_first_outputs(nodes: Iterable[NodeDef]) -> dict[str, str]:
    """Find the name of each node's first output, in a function: that of the table, or the only one that is used."""
    firsts = {node.name: FIRST_OUTPUTS[node.op] for node in nodes if node.op in FIRST_OUTPUTS}
    for node in nodes:
        for reference in node.inputs:
            name, *parts = reference.split(":")
            if len(parts) > 1:
                firsts.setdefault(name, parts[0])
    return firsts


def _sort(nodes: Sequence[NodeDef]) -> Iterator[NodeDef]:
    """Yield nodes after those that they depend on; nodes in a circle come last."""
    places = {node.name: place for place, node in enumerate(nodes)}
    waiting: list[int] = []
    followers: list[list[int]] = [[] for _ in nodes]
    for place, node in enumerate(nodes):
        sources = {places.get(reference.lstrip("^").partition(":")[0], place) for reference in node.inputs} - {place}
        waiting.append(len(sources))
        for source in sources:
            followers[source].append(place)
    ready = deque(place for place, count in enumerate(waiting) if not count)
    while ready:
        place = ready.popleft()
        yield nodes[place]
        for follower in followers[place]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    yield from (node for node, count in zip(nodes, waiting, strict=True) if count > 0)
