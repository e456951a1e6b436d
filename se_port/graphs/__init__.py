"""Graphs of models, whatever system wrote them, and the SE blocks in them.

One module per format that holds a graph, named as the format in ``formats``, with one function:

    read_graphs(path)          the graph of a model, and those of its branches and functions, as ``graph.Graph``

``match`` finds the blocks. Everything is read as data; nothing of a file runs. Modules with an underscore are what
TensorFlow's formats share.
"""

import importlib
from pathlib import Path

from .graph import Graph as Graph
from .graph import Node as Node
from .match import Lookalike as Lookalike
from .match import Match as Match
from .match import match_blocks as match_blocks

WITH_GRAPHS = ("onnx", "tflite", "graphdef", "tensorflow", "tfjs", "torchscript", "torch_export", "paddle")
"""Formats whose files hold a graph, each with a module here."""


def read_graphs(path: Path, format: str) -> list[Graph]:
    """Read the graphs of a file; none where its format has no graphs, or the file is of weights alone.

    Raises:
        FileFormatError: the file is broken.
    """
    if format not in WITH_GRAPHS:
        return []
    graphs: list[Graph] = importlib.import_module(f"{__package__}.{format}").read_graphs(path)
    return graphs
