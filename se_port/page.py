"""The tables of layouts and formats, as plain text or as the Markdown of docs/PORTING.md."""

from . import formats
from .layouts.base import UNKNOWN, BlockLayout
from .layouts.blocks import BLOCK_LAYOUTS
from .layouts.networks import NETWORK_LAYOUTS

_PAGE = """# Porting

`se_port` moves the weights of SE blocks and SENets: a system's file becomes canonical parameters, and from there a file
of any other system. This page is printed by `se-port layouts --markdown`.

*Peer ran*: the system itself, installed, made the names and gave the same gates or logits, in the tests or in
[PORT_PEERS.md](PORT_PEERS.md). *Reference output*: weights and outputs of the system's own code stand in the tests.
*Framework ran*: so do those of a network, typed from the system's source, that its framework ran under these names
(MXNet, tensorpack, TensorFlow; of Caffe, OpenCV's importer). *Key list typed from source* is not verified: names and
shapes are as the source says, no file of the system was seen.

## Networks

A layout keeps the networks that are named, the same without SE, and those with other classes, widths and depths.

"""
_BLOCKS = """
## Blocks

Wherever they stand in a file. What a layout does not fix is –, and asked for.

"""
_GRAPHS = """
## Graphs

ONNX models, TensorFlow Lite models, TensorFlow's SavedModels and frozen `.pb`, and graph models of TensorFlow.js hold a
network's graph. A block is found in it by its operations, whatever its names are: a pooling of the whole map, one or
two products, the functions after them, and the multiplication of the map. Its activation, gate, squeeze, gain and
residual are read from the graph. Functions, branches and the bodies of loops are searched, too. Integers with a scale
are dequantized, and the report says so. What is reported is what the file computes: TensorFlow Lite's converter adds
the offset of a hard sigmoid to the last bias, and drops the pooling of a map that has one position.

A SavedModel's weights are its variables; without variables they are the graph's constants. A checkpoint of TensorFlow 2
has no graph, and neither has a layers model of TensorFlow.js: their blocks are found by the names that layers gave to
their variables, as in Keras' own files.

A file is refused if it is broken, if a TensorFlow Lite model has sparse tensors or tensors in another file, if weights
of TensorFlow.js are missing or outside of the model's folder, or if functions call each other so often that the graph
would be more than 16 times the file's. Not looked into are StableHLO programs (`XlaCallModule`, as jax2tf writes it),
and variables of TensorFlow Lite, which its converter leaves without values.
"""


def page(*, markdown: bool = True) -> str:
    """Format every layout of networks and of blocks, and every format."""
    networks = _format_table(
        ("layout", "networks", "format", "source", "how verified"),
        [
            (name, ", ".join(row.networks) or "every network", row.format, row.source, row.verified)
            for name, row in NETWORK_LAYOUTS.items()
        ],
        markdown,
    )
    blocks = _format_table(
        ("layout", "projections", "activation, gate", "source", "how verified"),
        [
            (name, _format_projections(row), _format_nonlinearities(row), row.source, row.verified)
            for name, row in BLOCK_LAYOUTS.items()
        ],
        markdown,
    )
    endings = _format_table(("format", "ending"), list(formats.FORMATS.items()), markdown)
    if not markdown:
        return f"{networks}\n{blocks}\n{endings}"
    return f"{_PAGE}{networks}{_BLOCKS}{blocks}{_GRAPHS}\n## Formats\n\n{endings}"


def _format_projections(row: BlockLayout) -> str:
    weight = row.leaves[0]
    names = " → ".join(f"{module}{weight}" for module in (row.reduce, row.expand) if module)
    return f"{names} ({row.weight})" + (f" in {' or '.join(row.parents)}" if row.parents else "")


def _format_nonlinearities(row: BlockLayout) -> str:
    return ", ".join("–" if value == UNKNOWN else str(value) for value in (row.activation, row.gate))


def _format_table(heading: tuple[str, ...], rows: list[tuple[str, ...]], markdown: bool) -> str:
    if markdown:
        cells = [(f"`{first}`", *rest) for first, *rest in rows]
        lines = [heading, tuple("---" for _ in heading), *cells]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
    widths = [max(len(row[index]) for row in (heading, *rows)) for index in range(len(heading) - 1)]
    return "".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) + "\n"
        for row in (heading, *rows)
    )
