"""Graphs of TensorFlow's frozen ``.pb``: the nodes of a GraphDef, its functions put in place."""

from functools import partial
from pathlib import Path

from ..formats._buffers import map_file
from ..formats._graphdef import TensorMessage, decode_tensor, parse_graph, parse_tensor_head
from ._flatten import FlatNode, Flattener
from ._tensorflow_nodes import Constants, translate
from .graph import Graph


def read_graphs(path: Path) -> list[Graph]:
    """Read the graph.

    Raises:
        FileFormatError: the file is no GraphDef, or is broken.
    """
    graph = parse_graph(path, memoryview(map_file(path)))
    flattener = Flattener(path, graph)
    flattener.add_graph(graph.nodes)
    constants, shapes = find_constants(path, flattener.nodes)
    return [translate(flattener.nodes, constants, shapes, {})]


def find_constants(path: Path, nodes: list[FlatNode]) -> tuple[Constants, dict[str, tuple[int, ...]]]:
    """Find the constants of a graph, by the tensors that they are, and their shapes.

    Raises:
        FileFormatError: a constant is broken.
    """
    makers, shapes = {}, {}
    for node in nodes:
        tensor = node.attributes.get("value")
        if node.op == "Const" and isinstance(tensor, TensorMessage):
            head = parse_tensor_head(path, node.output, tensor)
            if head.dtype is not None:
                makers[node.output] = partial(decode_tensor, path, node.output, tensor)
                shapes[node.output] = head.shape
    return makers, shapes
