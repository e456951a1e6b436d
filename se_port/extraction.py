"""Cut a block out of an ONNX model: a model of its own, which ``se_conformance`` judges as it computes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from se_spec import FileFormatError, LayoutError, SESpec

from . import formats
from .detect.blocks import match_graphs
from .graphs.match import Match
from .sources import open_source

EXTENTS = ("N", None, "H", "W", "D")
"""Names of the axes of the map; None is the axis of the channels."""


class CutBlock(NamedTuple):
    """A block that was cut out of a model.

    Args:
        model: an ``onnx.ModelProto`` whose input is the map x and whose output is y, for any batch and size.
        spec: of the block, as the graph says.
        names: canonical names to those of the initializers.

    Example:
        >>> CutBlock(None, SESpec(8, hidden=2), {}).spec.channels
        8
    """

    model: Any
    spec: SESpec
    names: Mapping[str, str]


def cut_block(source: str | Path, path: str) -> CutBlock:
    """Cut a block out of an ONNX model.

    The nodes stay as they are; constants become initializers. ``se_conformance.check`` draws parameters of its own, so
    what is judged is how the nodes compute.

    Args:
        source: an ``.onnx`` file.
        path: of the block, as ``find_blocks`` gives it.

    Returns:
        The block's model, its spec and the names of its parameters.

    Raises:
        FileFormatError: the file is no ONNX model, or the package ``onnx`` is not installed.
        LayoutError: there is no such block, it lies in a branch or a function, or its weights are computed, as
            quantized ones are.

    Example:
        >>> cut_block("net.onnx", "layer1.se")  # doctest: +SKIP
        CutBlock(model=..., spec=SESpec(64, hidden=4), names={'reduce.weight': 'layer1.se.fc1.weight', ...})
    """
    source = Path(source)
    opened = open_source(source)
    if opened.format != "onnx":
        raise FileFormatError(f"{source}: is of the format {opened.format}; expected an ONNX model")
    found = {match.path: match for match in match_graphs(opened)[0]}
    if path not in found:
        raise LayoutError(f"there is no block {path!r}; there are {', '.join(map(repr, found)) or 'none'}")
    onnx = formats.import_optional("onnx", f"cutting a block out of {source.name}")
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
