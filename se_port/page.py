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
## Files that hold a program

In these a block is found by its operators, whatever its parameters are called, and its activation, gate, squeeze, gain
and residual are read, so that nothing is asked for:

- ONNX: models, branches and functions, with data in the file or beside it, quantized ones too;
- TorchScript: archives of `torch.jit.save`, of traced, scripted and frozen modules;
- `torch.export`: `.pt2` archives since PyTorch 2.1, in their three layouts;
- Paddle: inference models, `.pdmodel` or PIR's `.json`, each with its `.pdiparams` beside it.

The program is data. The code of TorchScript is parsed, never compiled or run; it is read as at inference, and for
inputs of 4 axes where it depends on them, or of 3, 5 or 2 where it raises an exception for 4. A part that two branches
compute in different ways, or that has an unknown operator between pooling and product, is no block; `inspect` names it.
These are refused, with the reason: a program without its parameters, several programs in one archive, code that
AOTInductor has compiled, PyTorch's quantized tensors and objects of C++, Paddle models with a file for each parameter,
and programs that are nested too deep or have more than 4 MB of code or 1,000,000 steps. Programs are not written.
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
    return f"{_PAGE}{networks}{_BLOCKS}{blocks}\n## Formats\n\n{endings}{_GRAPHS}"


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
