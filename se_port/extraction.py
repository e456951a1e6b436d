"""Cut a block out of a model in ONNX or TensorFlow Lite: a model of its own, which ``se_conformance`` judges."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from se_spec import FileFormatError, LayoutError, SESpec

from . import formats
from .detect.blocks import match_graphs
from .formats import tflite
from .graphs.match import Match
from .sources import open_source

EXTENTS = ("N", None, "H", "W", "D")
"""Names of the axes of the map; None is the axis of the channels."""


class CutBlock(NamedTuple):
    """A block that was cut out of a model.

    Args:
        model: an ``onnx.ModelProto``, or TensorFlow's ``ModelT``, whose input is the map x and whose output is y, for
            any batch and size.
        spec: of the block, as the graph says.
        names: canonical names to those of the initializers or constants.

    Example:
        >>> CutBlock(None, SESpec(8, hidden=2), {}).spec.channels
        8
    """

    model: Any
    spec: SESpec
    names: Mapping[str, str]


def cut_block(source: str | Path, path: str) -> CutBlock:
    """Cut a block out of an ONNX or TensorFlow Lite model.

    The nodes stay as they are; constants become initializers. ``se_conformance.check`` draws parameters of its own, so
    what is judged is how the nodes compute.

    Args:
        source: an ``.onnx`` or ``.tflite`` file.
        path: of the block, as ``find_blocks`` gives it.

    Returns:
        The block's model, its spec and the names of its parameters.

    Raises:
        FileFormatError: the file is neither, or the package ``onnx`` or ``tensorflow`` is not installed.
        LayoutError: there is no such block, it lies in a branch or a function, or its weights are computed, as
            quantized ones are.

    Example:
        >>> cut_block("net.onnx", "layer1.se")  # doctest: +SKIP
        CutBlock(model=..., spec=SESpec(64, hidden=4), names={'reduce.weight': 'layer1.se.fc1.weight', ...})
    """
    source = Path(source)
    opened = open_source(source)
    if opened.format not in ("onnx", "tflite"):
        raise FileFormatError(
            f"{source}: is of the format {opened.format}; expected an ONNX model, or one of TensorFlow Lite"
        )
    found = {match.path: match for match in match_graphs(opened)[0]}
    if path not in found:
        raise LayoutError(f"there is no block {path!r}; there are {', '.join(map(repr, found)) or 'none'}")
    if opened.format == "tflite":
        formats.import_optional("tensorflow", f"cutting a block out of {source.name}", "keras-tf")
        return CutBlock(_cut_tflite(source, found[path]), found[path].spec, found[path].names)
    onnx = formats.import_optional("onnx", f"cutting a block out of {source.name}", "onnx")
    model = _cut(onnx, onnx.load(source), found[path])
    return CutBlock(model, found[path].spec, found[path].names)


def _cut(onnx: Any, model: Any, block: Match) -> Any:
    """Keep the nodes between x and y."""
    producers = {output: index for index, node in enumerate(model.graph.node) for output in node.output}
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    kept: set[int] = set()
    constants: dict[str, Any] = {}
    waiting, seen = [block.output], {block.input, ""}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in initializers:
            constants[name] = initializers[name]
            continue
        if name not in producers:
            raise LayoutError(f"{block.path}: {name!r} is computed in a branch or a function; expected the main graph")
        node = model.graph.node[producers[name]]
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[name] = onnx.TensorProto()
            constants[name].CopyFrom(node.attribute[0].t)
            constants[name].name = name
            continue
        kept.add(producers[name])
        waiting += node.input
    missing = [name for name in block.names.values() if name not in constants]
    if missing or not block.names or block.changes:
        reason = f"{missing[0]!r} is no constant" if missing else "; ".join(block.changes) or "they have no names"
        raise LayoutError(f"{block.path}: its parameters are computed ({reason}); expected initializers")
    rank = _count_axes(model, block)
    shape = [block.spec.channels if extent is None else extent for extent in EXTENTS[:rank]]
    kind = constants[block.names["expand.weight"]].data_type
    ends = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in (block.input, block.output)]
    nodes = [model.graph.node[index] for index in sorted(kept)]
    graph = onnx.helper.make_graph(nodes, "block", ends[:1], ends[1:], list(constants.values()))
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _count_axes(model: Any, block: Match) -> int:
    """Count the axes of x where the model says them; else a map has two spatial axes."""
    for info in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        if info.name in (block.input, block.output) and info.type.tensor_type.HasField("shape"):
            return len(info.type.tensor_type.shape.dim)
    return 4


def _cut_tflite(source: Path, block: Match) -> Any:
    """Keep the operators between x and y of the main subgraph; buffers that none of them uses become empty."""
    tensors = tflite.open_model(source).subgraphs[0].tensors
    numbers = {info.name: number for number, info in enumerate(tensors)}
    if block.changes or not all(name in numbers for name in (*block.names.values(), block.input, block.output)):
        reason = "; ".join(block.changes) or "they are not in the main graph as floats"
        raise LayoutError(f"{block.path}: its parameters are computed ({reason}); expected constants of floats")
    library = importlib.import_module("tensorflow.lite.tools.flatbuffer_utils")
    model = library.read_model_from_bytearray(bytearray(source.read_bytes()))
    graph = model.subgraphs[0]
    producers = {int(end): index for index, operator in enumerate(graph.operators) for end in operator.outputs}
    first, last = numbers[block.input], numbers[block.output]
    kept: set[int] = set()
    waiting, seen = [last], {first, -1}
    while waiting:
        number = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        if number in producers:
            kept.add(producers[number])
            waiting += [int(end) for end in graph.operators[producers[number]].inputs]
        elif model.buffers[graph.tensors[number].buffer].data is None:
            raise LayoutError(f"{block.path}: {tensors[number].name!r} is computed elsewhere; expected the main graph")
    graph.operators = [graph.operators[index] for index in sorted(kept)]
    graph.inputs, graph.outputs = [first], [last]
    x, rank = graph.tensors[first], len(tensors[first].shape)
    x.shape, x.shapeSignature = [*(1,) * (rank - 1), block.spec.channels], [*(-1,) * (rank - 1), block.spec.channels]
    used = {graph.tensors[number].buffer for number in seen if number >= 0}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    model.subgraphs, model.signatureDefs, model.metadata = [graph], None, None
    return model
