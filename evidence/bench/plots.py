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


def ratios(every: list[Line], path: Path) -> None:
    """Draw a row for each of our blocks and a column for each shape; blue where ours is faster than every peer."""
    _draw(((one, _name(one), one.ratio) for one in every), "our time over the fastest peer's", path)


def peers(every: list[Line], path: Path) -> None:
    """Draw the same for each peer."""
    each = ((one, f"{_name(one)} / {peer}", one.over(peer)) for one in every for peer in one.peers)
    _draw(each, "our time over each peer's", path)


def _name(one: Line) -> str:
    return ", ".join(filter(None, (one.home, one.who.removeprefix("ours").strip(), one.how, one.task.kind)))


def _draw(ratios: Iterable[tuple[Line, str, float]], title: str, path: Path) -> None:
    rows: dict[str, dict[tuple[int, ...], float]] = {}
    for one, name, ratio in ratios:
        if not one.is_twin:
            rows.setdefault(name, {})[one.task.shape] = ratio
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


def floors(every: list[Line], path: Path) -> None:
    """Forward passes in float32 over a sum and a product, ours as lines, the fastest peer's dashed."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    shown = [one for one in every if one.floor and one.task.dtype == "float32" and not one.task.training]
    for place, way in enumerate(TO_FLOOR):
        found = [one for one in shown if (one.home, one.who, one.how) == way]
        found.sort(key=lambda one: one.task.megabytes)
        sizes, colour = [one.task.megabytes for one in found], f"C{place}"
        label = ", ".join(way).replace(", ours,", ",")
        axes.plot(sizes, [one.time.median / (one.floor or 1) for one in found], "o-", color=colour, label=label)
        peers = [one.fastest / (one.floor or 1) for one in found]
        axes.plot(sizes, peers, ".--", color=colour, linewidth=0.8)
    axes.axhline(1.0, color="0.5", linewidth=1)
    axes.set(xscale="log", xlabel="x, MB", ylabel="time over a sum and a product", ylim=(0, None))
    axes.grid(color="0.92")
    axes.set_title("dashed: the fastest peer", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)
