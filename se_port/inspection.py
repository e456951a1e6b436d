"""Description of a file: its format, layout, network, blocks and problems."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from se_spec import LayoutError, NetworkSpec, SESpec, network, notebook
from se_spec.networks import NETWORKS
from se_spec.texts import MAX_MESSAGE, quote, shorten

from .detect import blocks, networks
from .detect.found import CHOICES, Found, own_blocks
from .formats._base import MAX_PATH
from .identity import Identity
from .preprocessing import preprocessing
from .sources import Source, SourceLike, open_source


@dataclass(frozen=True)
class Inspection:
    """The description of a file, from its names and shapes.

    Args:
        source: the path, or the number of tensors of a mapping.
        format: the file's format; None for a mapping.
        dtypes: the number of tensors of each dtype.
        bytes: the total size of all tensors.
        networks: the networks that match; several can have the same names and shapes.
        blocks: every SE block by its path, if it can be read.
        lookalikes: paths of parts of a graph that resemble a block, and why each is none.
        said: what the file's metadata says that it is; None if it says nothing.
        problem: a description of the first fault: of the network that the file resembles, or of a block.

    Example:
        >>> import numpy as np
        >>> inspect({"se.fc.0.weight": np.ones((4, 64)), "se.fc.2.weight": np.ones((64, 4))}).dtypes
        {'float64': 2}
    """

    source: str
    format: str | None
    dtypes: dict[str, int]
    bytes: int
    networks: tuple[networks.NetworkMatch, ...]
    blocks: dict[str, Found]
    lookalikes: dict[str, str]
    said: Identity | None
    problem: str

    def to_dict(self) -> dict[str, Any]:
        """Return the description as data for JSON, without parameters.

        >>> import numpy as np
        >>> inspect({"se.fc.0.weight": np.ones((4, 64)), "se.fc.2.weight": np.ones((64, 4))}).to_dict()["tensors"]
        2
        """
        first = self.networks[0] if self.networks else None
        return {
            "source": self.source,
            "format": self.format,
            "tensors": sum(self.dtypes.values()),
            "bytes": self.bytes,
            "dtypes": self.dtypes,
            "layout": first and first.layout,
            "prefix": first and first.prefix,
            "networks": {match.name: match.net.to_dict() for match in self.networks},
            "images": {match.name: str(preprocessing(match.name)) for match in self.networks},
            "said": self.said and {"layout": self.said.layout, "spec": self.said.spec.to_dict()},
            "problem": self.problem,
            "blocks": {path: block.to_dict() for path, block in self.blocks.items()},
            "lookalikes": self.lookalikes,
        }

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what ``print`` shows, as a table of facts and one of the blocks."""
        head, *lines = self._describe_file()
        facts: dict[str, str] = {}
        for line in lines:
            if line.startswith(" "):  # it belongs to the line before
                facts[next(reversed(facts))] += f": {line.strip()}"
            else:
                name, _, fact = line.partition(": ")
                facts[name] = fact
        rows = [(shorten(path) or "(the file itself)", _describe(block)) for path, block in self.blocks.items()]
        tables = notebook.format_table(("SE block", f"{len(rows)} in the file"), rows)
        if self.lookalikes:
            alike = [(shorten(path), shorten(reason)) for path, reason in self.lookalikes.items()]
            tables += notebook.format_table(("no SE block, but alike", "why"), alike)
        return notebook.format_facts(head, facts, tables)

    def __str__(self) -> str:
        lines = [*self._describe_file(), f"SE blocks: {len(self.blocks)}"]
        lines += [
            f"    {shorten(path) or '(the file itself)'}: {_describe(block)}" for path, block in self.blocks.items()
        ]
        if self.lookalikes:
            lines.append(f"no SE blocks, but alike: {len(self.lookalikes)}")
            lines += [f"    {shorten(path)}: {shorten(reason)}" for path, reason in self.lookalikes.items()]
        return "\n".join(lines)

    def _describe_file(self) -> list[str]:
        """Describe the file without its blocks, in lines of which all but the first begin with a fact's name."""
        where, count = shorten(self.source, MAX_PATH), sum(self.dtypes.values())
        lines = [
            f"{where}: {self.format or 'a mapping'}, {count} tensors, {self.bytes:,} bytes",
            "dtypes: " + ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items()),
        ]
        if self.said is not None:
            lines.append(f"the file says: layout {shorten(self.said.layout)}, {_shorten(self.said.spec)}")
        if self.networks:
            first = self.networks[0]
            prefix = f" behind {quote(first.prefix)}" if first.prefix else ""
            lines.append(f"layout: {first.layout}, every name and shape{prefix}")
            lines.append("network: " + " or ".join(match.name for match in self.networks))
            lines.append(
                f"    {first.net.num_classes} classes, {first.net.channels} input channels, "
                f"{first.net.parameter_count():,} learnable parameters"
            )
            lines += [f"images for {match.name}: {preprocessing(match.name)}" for match in self.networks]
        if self.problem:
            lines.append(f"problem: {shorten(self.problem, MAX_MESSAGE)}")
        return lines


def _shorten(spec: SESpec | NetworkSpec) -> str:
    if isinstance(spec, SESpec):
        return shorten(repr(spec))
    named = [name for name in NETWORKS if network(name, num_classes=spec.num_classes, channels=spec.channels) == spec]
    return f"network {' or '.join(named) or 'without a name'}"


def _describe(block: Found) -> str:
    known = [f"{name} {getattr(block.spec, name)}" for name in CHOICES if name not in block.unknown]
    facts = [
        f"{block.spec.channels} channels",
        "one projection" if block.spec.single_projection else f"hidden {block.spec.hidden}",
        *(["biases"] if block.spec.bias else []),
        *known,
        *([f"{' and '.join(block.unknown)} unknown"] if block.unknown else []),
    ]
    return f"{', '.join(facts)} [{', '.join(block.layouts)}]"


def _measure(tensors: Source, name: str) -> tuple[str, int]:
    """Find the dtype and the bytes of a tensor, which is not kept."""
    array = tensors.view(name)
    return array.dtype.name, array.nbytes


def inspect(
    source: SourceLike,
    layout: str = "auto",
    names: Mapping[str, str] | None = None,
    *,
    part: str | None = None,
    prefix: str | None = None,
) -> Inspection:
    """Describe a file, or a mapping: its format, layout, network, blocks and faults.

    Args:
        source: a path, or a mapping such as a ``state_dict``.
        layout: the layout to search; ``"auto"`` is all.
        names: the names of a block's parameters, as of ``find_blocks``.
        part: the mapping to take, where the source has several, such as ``"model_ema"``.
        prefix: only names that begin with it are taken, without it.

    Returns:
        The description; ``print`` shows it as text.

    Raises:
        FileFormatError: the file is broken or of no known format.

    >>> import numpy as np
    >>> theirs = {"se.fc.0.weight": np.ones((4, 64)), "se.fc.2.weight": np.ones((64, 4))}
    >>> inspect(theirs).bytes, list(inspect(theirs).blocks)
    (4096, ['se'])
    """
    tensors = open_source(source, None, part, prefix)
    dtypes, size = Counter[str](), 0
    for name in tensors:
        dtype, count = _measure(tensors, name)
        dtypes[dtype] += 1
        size += count
    matches = tuple(networks.match_networks(tensors.shapes, layout))
    problem = "" if matches else networks.describe_nearest(tensors.shapes, layout)
    found: dict[str, Found] = {}
    lookalikes: dict[str, str] = {}
    try:
        if names is None:
            found, lookalikes = blocks.search(tensors, layout)
        else:
            found = blocks.find(tensors, layout, names=names)
    except LayoutError as error:
        problem = problem or str(error)
    else:
        if not found:
            problem = problem or blocks.explain_nothing(tensors, layout, lookalikes)
    where = f"{len(tensors)} tensors" if tensors.format is None else str(source)
    return Inspection(
        where, tensors.format, dict(dtypes), size, matches, own_blocks(found), lookalikes, tensors.identity, problem
    )
