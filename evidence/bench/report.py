"""Formats docs/PERFORMANCE.md and draws its pictures from the results."""

import json
import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import added_by_se, cuda_report, plots
from .blocks import SHAPES, Task
from .goals import GOALS, Line, Results, iterate_lines

CUDA_RESULTS = Path(__file__).parent / "results" / "cuda.json"
HEAD = """# How fast

`make bench` wrote this page, its pictures and [every number](../evidence/bench/results/latest.json).

Each framework runs in its own process, on one processor, with one thread. The answer of every block is compared with
the oracle's before it is timed. All blocks of a table run in turns, in rounds whose order is drawn anew, after one call
that is not timed. A time is processor time per call, as the median over the rounds. A ratio is the median over the
rounds of our time to the other's time in the same round. All calls have the same input, so that small maps are in a
cache.

*In place* is our block with `inplace=True`, which overwrites x; no goal and no ratio to a peer uses it.

malloc is set to keep freed memory (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`, `MALLOC_ARENA_MAX=1`). By
default it returns arrays above 32 MB to the system, and the page faults of the next call dominate the time of every
block: a large forward pass takes four times as long. Peaks of memory are measured with malloc's defaults.
"""
EVERY = """
## Every block

A cell has our processor time in milliseconds, the wall time in parentheses, the ratio to the fastest peer, and its
name.
"""
FLOORS = """
## Distance from the memory floor

Each cell has the time of our block / that of the fastest peer for a forward pass in float32 (float64 in NumPy). Both
are divided by the memory floor: the time of a sum of x and of a product of x with a number, in PyTorch in its own
process, and in NumPy in the others.
"""
PEAKS = """
## Memory of a training step

The table has the peak of the memory that a training step adds, in arrays of x's size; y is one, and dx another. Op by
op, each product of the backward pass is an array as well; our block in PyTorch, and compilers, need none of these.
bfloat16 is widened before products and sums: XLA's compiler for CPUs does so for every block (dy and x in float32 are
four arrays of x's size), and in Keras without XLA our block, which computes in float32 (SPEC N-1), needs more memory
than Keras' layers.
"""
NETWORKS = f"""
## What SE adds to ResNet-50

Times are processor time for images of 224 × 224 in float32; the paper gives +1.8 % for one image on a CPU (section 5).
A training step has {added_by_se.IMAGES} images and includes the update.

Under JAX the network without SE is slow: XLA's compiler for CPUs fuses the mean at its end with the seven convolutions
before it, and YNNPACK runs them as one operation. The row *apart* is without this fusion.
"""


def format_page(results: Results, folder: Path) -> str:
    """Format the page, and write the pictures to the folder."""
    machine, homes, every = results.get("machine", {}), results["homes"], list(_iterate_lines(results))
    parts = [HEAD, "\n", "; ".join(machine.values()) + ".\n"]
    versions = {name: version for home in homes.values() for name, version in home["versions"].items()}
    parts.append(", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + ".\n")
    parts += ["\n## Goals\n\n", *_format_goals(results)]
    plots.draw_ratios(every, folder / "performance_ratios.png")
    parts.append("\n![Ours over the fastest peer, by framework, type and shape](performance_ratios.png)\n")
    for dtypes in (("float32", "float64"), ("bfloat16",)):
        name = f"performance_peers_{dtypes[0]}.png"
        plots.draw_peers([line for line in every if line.task.dtype in dtypes], folder / name)
        parts.append(f"\n![Ours over each peer in {' and '.join(dtypes)}, by framework and shape]({name})\n")
    parts.append(EVERY)
    for name, home in homes.items():
        parts += _format_home(name, home)
    if "torch" in homes:
        plots.draw_floors(every, folder / "performance_floor.png")
        parts += [FLOORS, "\n", *_format_floors(results)]
        parts.append("\n![Forward passes over a sum and a product of the same size](performance_floor.png)\n")
    if "peaks" in results:
        parts += [PEAKS, "\n", *_format_peaks(results["peaks"])]
    if any("sweeps" in home for home in homes.values()):
        parts += ["\n## Growth\n\n", *_format_growth(results)]
    if "imports" in results:
        parts += ["\n## Importing\n\n", *_format_imports(results["imports"])]
    if "networks" in results:
        parts += [NETWORKS, "\n", *_format_networks(results["networks"])]
    if CUDA_RESULTS.exists():
        parts.append(cuda_report.section(json.loads(CUDA_RESULTS.read_text()), True))
    return "".join(parts)


SUMMARY = (
    ("float32", [("torch", "NCHW", False), ("torch", "channels_last", False)]),
    ("float32", [("torch", "NCHW", True), ("torch", "channels_last", True)]),
    ("bfloat16", [("torch", "NCHW", True), ("torch", "channels_last", True)]),
    ("float32", [("flax", "jax.jit", False), ("flax", "jax.jit", True)]),
    ("float32", [("keras tensorflow", "XLA", False)]),
)
"""The dtype and (home, way, training) of the README's five ranges: PyTorch forward, training, bfloat16; Flax; Keras."""


def format_summary(results: Results) -> list[str]:
    """Format the ranges that the README gives, over all shapes but the smallest: PyTorch, Flax and Keras."""
    other = ("ours layer", "ours in place")
    every = [line for line in _iterate_lines(results) if line.task.shape in SHAPES[1:] and line.who not in other]
    ranges = []
    for dtype, ways in SUMMARY:
        ratios = [
            line.ratio
            for line in every
            if line.task.dtype == dtype and (line.home, line.how, line.task.training) in ways
        ]
        ranges.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
    return ranges


def _iterate_lines(results: Results) -> Iterator[Line]:
    for name, home in results["homes"].items():
        yield from iterate_lines(name, home["tasks"])


def _format_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    for row in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(row)} |\n".replace("|  |", "| |")


def _format_goals(results: Results) -> Iterator[str]:
    rows: list[list[str]] = []
    limited: dict[str, list[str]] = {}
    for goal in GOALS:
        try:
            measured = goal.measured(results)
        except KeyError:  # raised for a part that has not been run
            continue
        worst = max(measured, key=measured.__getitem__)
        digits = max(2, len(f"{goal.limit:g}".partition(".")[2]))
        reached = sum(round(ratio, digits) <= goal.limit for ratio in measured.values())
        extent = f"{measured[worst]:.{digits}f}"
        if len(measured) > 1:
            extent = f"{min(measured.values()):.{digits}f} to {extent} ({worst})"
        rows.append([goal.what, f"≤ {goal.limit:g}", extent, f"{reached} of {len(measured)}"])
        if reached < len(measured):
            limited.setdefault(goal.limited_by, []).append(goal.what)
    yield from _format_table(
        ["what, over the fastest peer of its layout or compiler", "goal", "measured", "reached"], rows
    )
    yield "\nWhere a goal is not reached, these are the reasons and what was tried:\n\n"
    for why, goals in limited.items():
        yield f"- {'; '.join(goals)}. *{why}*\n"


def _format_home(name: str, home: dict[str, Any]) -> Iterator[str]:
    every = list(iterate_lines(name, home["tasks"]))
    for who, how in dict.fromkeys((line.who, line.how) for line in every):
        cells = {line.task: line for line in every if (line.who, line.how) == (who, how)}
        kinds = {task.kind: task for task in cells}
        shapes = dict.fromkeys(task.shape for task in cells)
        yield f"\n### {name}: {who}, {how}\n\n"
        rows = (
            [_format_shape(shape), *(_format_cell(cells.get(line._replace(shape=shape))) for line in kinds.values())]
            for shape in shapes
        )
        yield from _format_table(["shape", *kinds], rows)


def _format_shape(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def _format_cell(line: Line | None) -> str:
    if line is None:
        return ""
    own, wall = map(_format_milliseconds, (line.time.median, statistics.median(line.time.wall)))
    return f"{own} ({wall}); **{line.ratio:.2f}** {line.best}"


def _format_milliseconds(microseconds: float) -> str:
    value = microseconds / 1000
    return f"{value:.{max(0, 2 - max(0, math.floor(math.log10(value)) if value else 0))}f}"


def _format_floors(results: Results) -> Iterator[str]:
    rows: dict[str, dict[tuple[int, ...], str]] = {}
    for line in _iterate_lines(results):
        task = line.task
        if line.floor is None or task.training or task.dtype == "bfloat16" or line.is_twin or line.how == "nnx.jit":
            continue
        cells = rows.setdefault(f"{line.home}, {line.who}, {line.how}", {})
        cells[task.shape] = f"{line.time.median / line.floor:.2f} / {line.fastest / line.floor:.2f}"
    heads = [f"{_format_shape(shape)}, {Task(shape).megabytes:.3g} MB" for shape in SHAPES]
    table = ([way, *(cells.get(shape, "") for shape in SHAPES)] for way, cells in rows.items())
    yield from _format_table(["", *heads], table)


def _format_peaks(peaks: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    yield f"x is {_format_shape(SHAPES[-1])}.\n\n"
    rows = (
        [f"{home}, {how}", *(_format_blocks(measured, how) for measured in dtypes.values())]
        for home, dtypes in peaks.items()
        for how in dict.fromkeys(name.rsplit(", ", 1)[1] for name in dtypes["float32"])
    )
    yield from _format_table(["", "float32", "bfloat16"], rows)


def _format_blocks(measured: dict[str, float], how: str) -> str:
    named = {name.rsplit(", ", 1)[0]: value for name, value in measured.items() if name.rsplit(", ", 1)[1] == how}
    return ", ".join(f"{name} {value:.2f}" for name, value in named.items())


def _format_growth(results: Results) -> Iterator[str]:
    yield "A cell has nanoseconds per element of a forward pass, of our block / of the fastest peer, as one extent of\n"
    yield "(8, 256, 28, 28) grows.\n\n"
    rows = []
    for name, home in results["homes"].items():
        for what, tasks in home.get("sweeps", {}).items():
            axis = {"N": 0, "C": 1, "H and W": 2}[what]
            pairs = (f"{line.task.shape[axis]}: {_format_pair(line)}" for line in _iterate_first_lines(name, tasks))
            rows.append([name, what, "; ".join(pairs)])
    yield from _format_table(["", "grows", "extent: ns per element"], rows)


def _iterate_first_lines(name: str, tasks: list[dict[str, Any]]) -> Iterator[Line]:
    """Yield one line for each task: that of our first block."""
    done = set()
    for line in iterate_lines(name, tasks):
        if line.how != "nnx.jit" and line.task not in done:
            done.add(line.task)
            yield line


def _format_pair(line: Line) -> str:
    per = 1000 / math.prod(line.task.shape)
    return f"{per * line.time.median:.2f} / {per * line.fastest:.2f}"


def _format_imports(imports: dict[str, list[float]]) -> Iterator[str]:
    yield "Each statement runs in a fresh Python; the numbers are medians of five runs.\n\n"
    rows = (
        [f"`{name}`", f"{wall:.2f} s", f"{own:.2f} s", f"{peak:.0f} MiB"] for name, (wall, own, peak) in imports.items()
    )
    yield from _format_table(["statement", "time", "processor time", "highest memory"], rows)


def _format_networks(networks: dict[str, added_by_se.Times]) -> Iterator[str]:
    rows = ([way, *added_by_se.format_cells(times)] for way, times in networks.items())
    heads = ["implementation", "ResNet-50", "SE-ResNet-50", "SE adds", "half of the rounds between"]
    yield from _format_table(heads, rows)
