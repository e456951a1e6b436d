"""Formats docs/PERFORMANCE.md and draws its pictures from the results."""

import json
import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import added_by_se, cuda_report, plots
from .blocks import SHAPES, Task
from .goals import GOALS, Line, Results, lines

CUDA_RESULTS = Path(__file__).parent / "results" / "cuda.json"
HEAD = """# How fast

`make bench` wrote this page, its pictures and [every number](../evidence/bench/results/latest.json).

Each framework has a process of its own, on one processor, with one thread. Whatever is timed has given the oracle's
answer first. All blocks of a table take their turns in rounds, in an order drawn anew each time, after one call that is
not timed. Times are processor time per call, medians over the rounds; a ratio is the median over the rounds of ours to
the other's in the same round. The input is the same each time, so that small maps lie in a cache.

*In place* is ours with `inplace=True`, which overwrites x; no goal and no peer is measured by it.

malloc keeps what is freed (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`, `MALLOC_ARENA_MAX=1`). By default it
gives arrays above 32 MB back to the system, and page faults of the next call are most of what is measured, for every
block alike: a large forward pass takes four times as long. The peaks of memory are measured without that.
"""
EVERY = """
## Every block

Ours in milliseconds of processor time (and by the clock); its ratio to the fastest peer, and which that is.
"""
FLOORS = """
## How far from what memory allows

Forward, float32 (float64 in NumPy): ours / the fastest peer, over a sum of x and a product with a number in the same
process, PyTorch's there and NumPy's elsewhere.
"""
PEAKS = """
## Memory of a step of training

What it adds at its highest, in arrays of x's size: y is one, dx another. Op by op, each product on the way back is an
array as well; ours in PyTorch, and compilers, do without. bfloat16 is widened to be multiplied and summed: by XLA's
compiler for CPUs for every block alike (dy and x in float32 are four of x's size), and in Keras without XLA for ours,
which computes in float32 (SPEC N-1), more than for Keras' layers.
"""
NETWORKS = f"""
## What SE adds to ResNet-50

224 × 224, float32, processor time; the paper gives +1.8 % for one image on a CPU (section 5).
A step of training is one with {added_by_se.IMAGES} images, and its update.

Under JAX it is the network without SE that is slow: XLA's compiler for CPUs gives the mean at its end to YNNPACK in
one piece with the seven convolutions before it. The row *apart* is without such pieces.
"""


def page(results: Results, folder: Path) -> str:
    """Format the page, and write the pictures to the folder."""
    machine, homes, every = results.get("machine", {}), results["homes"], list(_every(results))
    parts = [HEAD, "\n", "; ".join(machine.values()) + ".\n"]
    versions = {name: version for home in homes.values() for name, version in home["versions"].items()}
    parts.append(", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + ".\n")
    parts += ["\n## Where we want to be\n\n", *_goals(results)]
    plots.ratios(every, folder / "performance_ratios.png")
    parts.append("\n![Ours over the fastest peer, by framework, type and shape](performance_ratios.png)\n")
    for dtypes in (("float32", "float64"), ("bfloat16",)):
        name = f"performance_peers_{dtypes[0]}.png"
        plots.peers([one for one in every if one.task.dtype in dtypes], folder / name)
        parts.append(f"\n![Ours over each peer in {' and '.join(dtypes)}, by framework and shape]({name})\n")
    parts.append(EVERY)
    for name, home in homes.items():
        parts += _home(name, home)
    if "torch" in homes:
        plots.floors(every, folder / "performance_floor.png")
        parts += [FLOORS, "\n", *_floors(results)]
        parts.append("\n![Forward passes over a sum and a product of the same size](performance_floor.png)\n")
    if "peaks" in results:
        parts += [PEAKS, "\n", *_peaks(results["peaks"])]
    if any("sweeps" in home for home in homes.values()):
        parts += ["\n## Growth\n\n", *_growth(results)]
    if "imports" in results:
        parts += ["\n## Importing\n\n", *_imports(results["imports"])]
    if "networks" in results:
        parts += [NETWORKS, "\n", *_networks(results["networks"])]
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
"""Dtype and (home, way, training) of the README's five ranges: PyTorch forward, training, in bfloat16; Flax; Keras."""


def summary(results: Results) -> list[str]:
    """Format the ranges that the README gives, over all shapes but the smallest: PyTorch, Flax and Keras."""
    other = ("ours layer", "ours in place")
    every = [line for line in _every(results) if line.task.shape in SHAPES[1:] and line.who not in other]
    ranges = []
    for dtype, ways in SUMMARY:
        ratios = [
            line.ratio
            for line in every
            if line.task.dtype == dtype and (line.home, line.how, line.task.training) in ways
        ]
        ranges.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
    return ranges


def _every(results: Results) -> Iterator[Line]:
    for name, home in results["homes"].items():
        yield from lines(name, home["tasks"])


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    for row in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(row)} |\n".replace("|  |", "| |")


def _goals(results: Results) -> Iterator[str]:
    rows: list[list[str]] = []
    limited: dict[str, list[str]] = {}
    for goal in GOALS:
        try:
            measured = goal.measured(results)
        except KeyError:  # of a part that has not been run
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
    yield from _table(["what, over the fastest peer of its layout or compiler", "goal", "measured", "reached"], rows)
    yield "\nWhere it is not reached, what was tried and what is in the way:\n\n"
    for why, goals in limited.items():
        yield f"- {'; '.join(goals)}. *{why}*\n"


def _home(name: str, home: dict[str, Any]) -> Iterator[str]:
    every = list(lines(name, home["tasks"]))
    for who, how in dict.fromkeys((one.who, one.how) for one in every):
        cells = {one.task: one for one in every if (one.who, one.how) == (who, how)}
        kinds = {task.kind: task for task in cells}
        shapes = dict.fromkeys(task.shape for task in cells)
        yield f"\n### {name}: {who}, {how}\n\n"
        rows = (
            [_times(shape), *(_cell(cells.get(one._replace(shape=shape))) for one in kinds.values())]
            for shape in shapes
        )
        yield from _table(["shape", *kinds], rows)


def _times(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def _cell(one: Line | None) -> str:
    if one is None:
        return ""
    return f"{_ms(one.time.median)} ({_ms(statistics.median(one.time.wall))}); **{one.ratio:.2f}** {one.best}"


def _ms(microseconds: float) -> str:
    value = microseconds / 1000
    return f"{value:.{max(0, 2 - max(0, math.floor(math.log10(value)) if value else 0))}f}"


def _floors(results: Results) -> Iterator[str]:
    rows: dict[str, dict[tuple[int, ...], str]] = {}
    for one in _every(results):
        task = one.task
        if one.floor is None or task.training or task.dtype == "bfloat16" or one.is_twin or one.how == "nnx.jit":
            continue
        cells = rows.setdefault(f"{one.home}, {one.who}, {one.how}", {})
        cells[task.shape] = f"{one.time.median / one.floor:.2f} / {one.fastest / one.floor:.2f}"
    heads = [f"{_times(shape)}, {Task(shape).megabytes:.3g} MB" for shape in SHAPES]
    yield from _table(["", *heads], ([way, *(cells.get(shape, "") for shape in SHAPES)] for way, cells in rows.items()))


def _peaks(peaks: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    yield f"x is {_times(SHAPES[-1])}.\n\n"
    rows = (
        [f"{home}, {how}", *(_blocks(measured, how) for measured in dtypes.values())]
        for home, dtypes in peaks.items()
        for how in dict.fromkeys(name.rsplit(", ", 1)[1] for name in dtypes["float32"])
    )
    yield from _table(["", "float32", "bfloat16"], rows)


def _blocks(measured: dict[str, float], how: str) -> str:
    named = {name.rsplit(", ", 1)[0]: value for name, value in measured.items() if name.rsplit(", ", 1)[1] == how}
    return ", ".join(f"{name} {value:.2f}" for name, value in named.items())


def _growth(results: Results) -> Iterator[str]:
    yield "Nanoseconds per element as one extent grows, forward, from (8, 256, 28, 28): ours / the fastest peer.\n\n"
    rows = []
    for name, home in results["homes"].items():
        for what, tasks in home.get("sweeps", {}).items():
            best = list(_first_of_ours(name, tasks))
            rows.append([name, what, "; ".join(f"{one.task.shape[_axis(what)]}: {_pair(one)}" for one in best)])
    yield from _table(["", "grows", "extent: ns per element"], rows)


def _first_of_ours(name: str, tasks: list[dict[str, Any]]) -> Iterator[Line]:
    """Yield one line for each task: that of our first block."""
    done = set()
    for one in lines(name, tasks):
        if one.how != "nnx.jit" and one.task not in done:
            done.add(one.task)
            yield one


def _axis(what: str) -> int:
    return {"N": 0, "C": 1, "H and W": 2}[what]


def _pair(one: Line) -> str:
    per = 1000 / math.prod(one.task.shape)
    return f"{per * one.time.median:.2f} / {per * one.fastest:.2f}"


def _imports(imports: dict[str, list[float]]) -> Iterator[str]:
    yield "A fresh Python for each, medians of five.\n\n"
    rows = (
        [f"`{name}`", f"{wall:.2f} s", f"{own:.2f} s", f"{peak:.0f} MiB"] for name, (wall, own, peak) in imports.items()
    )
    yield from _table(["statement", "time", "processor time", "highest memory"], rows)


def _networks(networks: dict[str, added_by_se.Times]) -> Iterator[str]:
    rows = ([way, *added_by_se.cells(times)] for way, times in networks.items())
    yield from _table(["implementation", "ResNet-50", "SE-ResNet-50", "SE adds", "half of the rounds between"], rows)
