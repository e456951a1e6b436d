"""Heat maps of the tables."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from .blocks import SHAPES
from .goals import Line

mpl.use("Agg")

TO_FLOOR = (
    ("torch", "ours", "NCHW"),
    ("torch", "ours", "channels_last"),
    ("torch", "ours in place", "NCHW"),
    ("keras tensorflow", "ours", "XLA"),
    ("flax", "ours NNX", "jax.jit"),
    ("onnxruntime", "ours", "onnxruntime"),
)
"""The blocks that are drawn over the memory floor; the page's table has all."""


def draw_ratios(every: list[Line], path: Path) -> None:
    """Draw a row for each of our blocks and a column for each shape; blue where ours is faster than every peer."""
    _draw_heat_map(((line, _format_name(line), line.ratio) for line in every), "our time over the fastest peer's", path)


def draw_peers(every: list[Line], path: Path) -> None:
    """Draw the same for each peer."""
    rows = ((line, f"{_format_name(line)} / {peer}", line.over(peer)) for line in every for peer in line.peers)
    _draw_heat_map(rows, "our time over each peer's", path)


def _format_name(line: Line) -> str:
    return ", ".join(filter(None, (line.home, line.who.removeprefix("ours").strip(), line.how, line.task.kind)))


def _draw_heat_map(ratios: Iterable[tuple[Line, str, float]], title: str, path: Path) -> None:
    rows: dict[str, dict[tuple[int, ...], float]] = {}
    for line, name, ratio in ratios:
        if not line.is_twin:
            rows.setdefault(name, {})[line.task.shape] = ratio
    grid = np.array([[row.get(shape, np.nan) for shape in SHAPES] for row in rows.values()])
    figure = Figure(figsize=(8.5, 1 + 0.2 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.log2(grid), cmap="RdBu_r", vmin=-1.5, vmax=1.5, aspect="auto")
    for (height, place), ratio in np.ndenumerate(grid):
        if not np.isnan(ratio):
            colour = "black" if 0.5 < ratio < 2.0 else "white"
            axes.text(place, height, f"{ratio:.2f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_xticks(range(len(SHAPES)), ["{}×{}\n{}×{}".format(*shape) for shape in SHAPES], fontsize=7)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), list(rows), fontsize=6)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=120)


def draw_floors(every: list[Line], path: Path) -> None:
    """Forward passes in float32 over a sum and a product, ours as lines, the fastest peer's dashed."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    shown = [line for line in every if line.floor and line.task.dtype == "float32" and not line.task.training]
    for place, way in enumerate(TO_FLOOR):
        found = [line for line in shown if (line.home, line.who, line.how) == way]
        found.sort(key=lambda line: line.task.megabytes)
        sizes, colour = [line.task.megabytes for line in found], f"C{place}"
        label = ", ".join(way).replace(", ours,", ",")
        axes.plot(sizes, [line.time.median / (line.floor or 1) for line in found], "o-", color=colour, label=label)
        peers = [line.fastest / (line.floor or 1) for line in found]
        axes.plot(sizes, peers, ".--", color=colour, linewidth=0.8)
    axes.axhline(1.0, color="0.5", linewidth=1)
    axes.set(xscale="log", xlabel="x, MB", ylabel="time over a sum and a product", ylim=(0, None))
    axes.grid(color="0.92")
    axes.set_title("dashed: the fastest peer", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)
