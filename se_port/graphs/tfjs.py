"""Graphs of TensorFlow.js graph models: a GraphDef as JSON, whose constants are the weights of the manifest."""

from functools import partial
from pathlib import Path

from ..formats.tfjs import load_weight, parse_topology, read_json, read_weights
from ._flatten import Flattener
from ._tensorflow_nodes import translate
from .graph import Graph


def read_graphs(path: Path) -> list[Graph]:
    """Read the graph; one without nodes for a layers model.

    Raises:
        FileFormatError: the JSON, its manifest or a node is broken.
    """
    model = read_json(path)
    graph, weights = parse_topology(path, model), read_weights(path, model)
    flattener = Flattener(path, graph)
    flattener.add_graph(graph.nodes)
    makers = {name: partial(load_weight, path, name, weight) for name, weight in weights.items()}
    shapes = {name: weight.shape for name, weight in weights.items()}
    quantized = frozenset(name for name, weight in weights.items() if weight.scale is not None)
    return [translate(flattener.nodes, makers, shapes, {}, quantized)]
