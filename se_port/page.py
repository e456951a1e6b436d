"""The tables of layouts and formats, as plain text or as the Markdown of docs/PORTING.md."""

from . import formats
from .layouts.base import UNKNOWN, BlockLayout
from .layouts.blocks import BLOCK_LAYOUTS
from .layouts.networks import NETWORK_LAYOUTS

_PAGE = """# Porting

`se_port` converts the weights of SE blocks and SENets: it reads a system's file into canonical parameters, and writes
them as a file of any other system. `se-port layouts --markdown` prints this page.

`se-port` without arguments lists its commands, and each has `--help` with the layouts that it accepts. `--json` prints
data in place of text. `convert --format` names a format that no ending chooses, such as `orbax`, which is a folder.
`eval "$(se-port --print-completion bash)"` completes commands, layouts and networks in bash, and zsh and tcsh have the
same; this needs the extra `completion`. `se-check` and `se-parity` have it too.

The last column of the tables has one of four values:

- *Peer ran*: the system itself was installed, made the names and gave the same gates or logits, in the tests or in
  [PORT_PEERS.md](PORT_PEERS.md).
- *Reference output*: the tests hold weights and outputs of the system's own code.
- *Framework ran*: the tests hold weights and outputs of a network that was typed from the system's source and that the
  system's framework ran under these names (MXNet, tensorpack, TensorFlow; OpenCV's importer for Caffe).
- *Key list typed from source*: names and shapes are typed from the source; no file of the system was available, so this
  is not verified.

## Networks

A layout supports the listed networks, the same networks without SE, and variants with other classes, widths and depths.

"""
_BLOCKS = """
## Blocks

`find_blocks` finds these blocks anywhere in a file. Where the activation or the gate is –, the layout does not
determine it, and the caller gives it.

"""
_GRAPHS = """
## Graphs

These files hold a network's graph. A block is found in it by its operations, whatever its names are: a pooling of the
whole map, one or two products, the functions after them, and the multiplication of the map. Its activation, gate,
squeeze, gain and residual are read from the graph, so that the caller gives nothing. Integers with a scale are
dequantized, and the report says so.

- ONNX: models, with branches and functions, with data in the file or beside it;
- TensorFlow: SavedModels and frozen `.pb`, with the functions and the bodies of branches and loops;
- TensorFlow Lite, and graph models of TensorFlow.js;
- TorchScript: archives of `torch.jit.save`, of traced, scripted and frozen modules;
- `torch.export`: `.pt2` archives since PyTorch 2.1, in their three layouts;
- Paddle: inference models, `.pdmodel` or PIR's `.json`, each with its `.pdiparams` beside it.

What is reported is what the file computes: TensorFlow Lite's converter adds the offset of a hard sigmoid to the last
bias, and drops the pooling of a map that has one position. A SavedModel's weights are its variables; without variables
they are the graph's constants. A checkpoint of TensorFlow 2 has no graph, and neither has a layers model of
TensorFlow.js: their blocks are found by the names that layers gave to their variables, as in Keras' own files.

A graph is data. The code of TorchScript is parsed, never compiled or run; it is read as at inference, and for inputs of
4 axes where it depends on them, or of 3, 5 or 2 where it raises an exception for 4. A part that two branches compute in
different ways, or that has an unknown operator between pooling and product, is no block; `inspect` names it.

A file is refused, with the reason, if it is broken, nested too deep or too large for its size, if its parameters are
missing or outside of its folder, if a TensorFlow Lite model has sparse tensors, or if a file of PyTorch has quantized
tensors, objects of C++, several programs, or code that AOTInductor has compiled. Not looked into are StableHLO programs
(`XlaCallModule`, as jax2tf writes it) and variables of TensorFlow
Lite. Graphs are not written.
"""


_NETWORK_HEADING = ("layout", "networks", "format", "source", "how verified")
_BLOCK_HEADING = ("layout", "projections", "activation, gate", "source", "how verified")


def page(*, markdown: bool = True, in_columns: bool = True) -> str:
    """Format every layout of networks and of blocks, and every format.

    Args:
        markdown: whether the page of the documentation is made, else plain text.
        in_columns: whether plain text has a line for each layout, which is longer than a terminal's; else every fact
            has a line of its own.

    Returns:
        The text.
    """
    form = _format_markdown if markdown else _format_columns if in_columns else _format_facts
    networks, blocks = form(_NETWORK_HEADING, _list_network_rows()), form(_BLOCK_HEADING, _list_block_rows())
    endings = form(("format", "ending"), list(formats.FORMATS.items()))
    if not markdown:
        return f"{networks}\n{blocks}\n{endings}"
    return f"{_PAGE}{networks}{_BLOCKS}{blocks}{_GRAPHS}\n## Formats\n\n{endings}"


def list_layouts() -> dict[str, list[dict[str, str]]]:
    """List every layout of networks and of blocks, and every format, as data for JSON."""
    networks = [dict(zip(_NETWORK_HEADING, row, strict=True)) for row in _list_network_rows()]
    blocks = [dict(zip(_BLOCK_HEADING, row, strict=True)) for row in _list_block_rows()]
    endings = [{"format": name, "ending": ending} for name, ending in formats.FORMATS.items()]
    return {"networks": networks, "blocks": blocks, "formats": endings}


def _list_network_rows() -> list[tuple[str, ...]]:
    return [
        (name, ", ".join(row.networks) or "every network", row.format, row.source, row.verified)
        for name, row in NETWORK_LAYOUTS.items()
    ]


def _list_block_rows() -> list[tuple[str, ...]]:
    return [
        (name, _format_projections(row), _format_nonlinearities(row), row.source, row.verified)
        for name, row in BLOCK_LAYOUTS.items()
    ]


def _format_projections(row: BlockLayout) -> str:
    weight = row.leaves[0]
    names = " → ".join(f"{module}{weight}" for module in (row.reduce, row.expand) if module)
    return f"{names} ({row.weight})" + (f" in {' or '.join(row.parents)}" if row.parents else "")


def _format_nonlinearities(row: BlockLayout) -> str:
    return ", ".join("–" if value == UNKNOWN else str(value) for value in (row.activation, row.gate))


def _format_markdown(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [(f"`{first}`", *rest) for first, *rest in rows]
    lines = [heading, tuple("---" for _ in heading), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _format_columns(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[index]) for row in (heading, *rows)) for index in range(len(heading) - 1)]
    return "".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) + "\n"
        for row in (heading, *rows)
    )


def _format_facts(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines: list[str] = []
    for first, *rest in rows:
        lines += [
            f"{heading[0]} {first}",
            *(f"    {name}: {cell}" for name, cell in zip(heading[1:], rest, strict=True)),
        ]
    return "".join(f"{line}\n" for line in lines)
