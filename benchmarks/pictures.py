"""What the tables say, to be seen at a glance."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from .blocks import SHAPES
from .goals import Line

mpl.use("Agg")
COLOURS = mpl.colormaps["viridis"]


def ratios(every: list[Line], path: Path) -> None:
    """A row for each of ours, a dot for each shape: left of 1 we are faster."""
    rows = {}
    for one in every:
        kind = f"{one.task.dtype} {'training' if one.task.training else 'forward'}"
        rows.setdefault(f"{one.home}, {one.who}, {one.how}: {kind}".replace(", ours,", ","), []).append(one)
    figure = Figure(figsize=(9, 1 + 0.19 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for height, found in enumerate(reversed(rows.values())):
        for one in found:
            colour = COLOURS(SHAPES.index(one.task.shape) / (len(SHAPES) - 1))
            axes.plot(one.ratio, height, "o", color=colour, markersize=4)
    for shape in SHAPES:
        colour = COLOURS(SHAPES.index(shape) / (len(SHAPES) - 1))
        axes.plot([], [], "o", color=colour, markersize=4, label=" × ".join(map(str, shape)))
    axes.axvline(1.0, color="0.5", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(ticks := (0.25, 0.33, 0.5, 0.7, 1.0, 1.4, 2.0), [f"{one:g}" for one in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), reversed(rows), fontsize=6)
    axes.set_ylim(-1, len(rows))
    axes.grid(axis="both", color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel("our time over the fastest peer's")
    figure.legend(loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def floors(every: list[Line], path: Path) -> None:
    """Forward passes in float32 over a sum and a product, ours as lines, the fastest peer's dashed."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    shown = [one for one in every if one.floor and one.task.dtype == "float32" and not one.task.training]
    ways = [way for way in dict.fromkeys((one.home, one.who, one.how) for one in shown) if way[2] != "nnx.jit"]
    for place, way in enumerate(ways):
        found = [one for one in shown if (one.home, one.who, one.how) == way]
        found.sort(key=lambda one: one.task.megabytes)
        sizes, colour = [one.task.megabytes for one in found], f"C{place}"
        label = ", ".join(way).replace(", ours,", ",")
        axes.plot(sizes, [one.time.median / (one.floor or 1) for one in found], "o-", color=colour, label=label)
        peers = [one.peers[one.best].median / (one.floor or 1) for one in found]
        axes.plot(sizes, peers, ".--", color=colour, linewidth=0.8)
    axes.axhline(1.0, color="0.5", linewidth=1)
    axes.set(xscale="log", xlabel="x, MB", ylabel="time over a sum and a product", ylim=(0, None))
    axes.grid(color="0.92")
    axes.set_title("dashed: the fastest peer", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)
