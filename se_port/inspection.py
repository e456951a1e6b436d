"""What a file is, in words."""

from collections import Counter
from dataclasses import dataclass

from se_spec import LayoutError

from .detect import blocks, networks
from .preprocessing import preprocessing
from .sources import Source, opened


@dataclass(frozen=True)
class Inspection:
    """What can be told from names and shapes.

    Args:
        source: the path, or how many tensors a mapping has.
        format: of the file; None for a mapping.
        dtypes: how many tensors have each.
        bytes: all tensors together.
        networks: that the file may be; several have the same names and shapes.
        blocks: every SE block by its path, if it can be read.
        problem: what is wrong with the network that it resembles, or with a block.
    """

    source: str
    format: str | None
    dtypes: dict[str, int]
    bytes: int
    networks: tuple[networks.Known, ...]
    blocks: dict[str, blocks.Found]
    problem: str

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.format or 'a mapping'}, {sum(self.dtypes.values())} tensors, {self.bytes:,} bytes",
            "dtypes: " + ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items()),
        ]
        if self.networks:
            one = self.networks[0]
            lines.append(
                f"layout: {one.layout}, every name and shape" + (f" behind {one.prefix!r}" if one.prefix else "")
            )
            lines.append("network: " + " or ".join(known.name for known in self.networks))
            lines.append(
                f"    {one.net.num_classes} classes, {one.net.channels} input channels, "
                f"{one.net.parameter_count():,} learnable parameters"
            )
            lines += [f"images for {known.name}: {preprocessing(known.name)}" for known in self.networks]
        if self.problem:
            lines.append(f"problem: {self.problem}")
        lines.append(f"SE blocks: {len(self.blocks)}")
        for path, block in self.blocks.items():
            unknown = f", {' and '.join(block.unknown)} unknown" if block.unknown else ""
            told = ", ".join(
                f"{name} {getattr(block.spec, name)}" for name in blocks.CHOICES if name not in block.unknown
            )
            lines.append(
                f"    {path or '(the file itself)'}: {block.spec.channels} channels, "
                + ("one projection" if block.spec.single_projection else f"hidden {block.spec.hidden}")
                + (", biases" if block.spec.bias else "")
                + (f", {told}" if told else "")
                + f"{unknown} [{', '.join(block.layouts)}]"
            )
        return "\n".join(lines)


def inspect(source: Source, layout: str = "auto") -> Inspection:
    """What a file, or a mapping, is: format, layout, network, blocks, and what is missing.

    Raises:
        FileFormatError: the file is broken or of no known format.
    """
    tensors = opened(source)
    dtypes, size = Counter[str](), 0
    for array in tensors.values():
        dtypes[array.dtype.name] += 1
        size += array.nbytes
    found_networks = tuple(networks.networks(tensors.shapes, layout))
    problem, found = "" if found_networks else networks.nearest(tensors.shapes, layout), {}
    try:
        found = blocks.find(tensors, layout)
    except LayoutError as error:
        problem = problem or str(error)
    name = f"{len(tensors)} tensors" if tensors.format is None else str(source)
    return Inspection(name, tensors.format, dict(dtypes), size, found_networks, found, problem)
