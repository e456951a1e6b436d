"""Formats the section of docs/PERFORMANCE.md about a GPU, and draws its picture."""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from se_conformance.files import write_atomically

PAGE = Path(__file__).parents[2] / "docs" / "PERFORMANCE.md"
PICTURE = "performance_cuda.png"
TITLE = "\n## On a GPU\n"
HEAD = """
`DEVICE=cuda make bench` wrote this section and [its numbers](../evidence/bench/results/cuda.json).

Microseconds on the device, medians of calls in shuffled rounds with a cold L2 cache, while the host is ahead. *Host* is
the time by the clock of a call in a row of calls, which small maps are bound by: ours, and ours over that of the peer
that is fastest there. *Copy* copies x, which is the least that a block can take. Memory is what a step of training adds
at its highest, in arrays of x's size.
"""


def section(results: dict[str, Any], has_picture: bool) -> str:
    """Format the section."""
    parts = [TITLE, HEAD, f"\n{results['device']}.\n\n"]
    heads = [
        "shape",
        "",
        "layout",
        "ours",
        "fastest peer",
        "ratio",
        "host",
        "ratio",
        "ours compiled",
        "fastest compiled",
        "copy",
    ]
    parts += _table([*heads, "memory: ours / least of the peers'"], map(_row, results["lines"]))
    if missing := sorted({name for line in results["lines"] for name in line["missing"]}):
        parts.append(f"\nNot installed, or left out for want of time: {', '.join(missing)}.\n")
    if results["networks"]:
        parts.append("\n64 images of 224 × 224, bfloat16, channels last; what SE adds, in milliseconds:\n\n")
        heads = ["network", "without SE", "timm's SE adds", "ours adds", "ours over timm's"]
        parts += _table(heads, (_network(name, times) for name, times in results["networks"].items()))
    if has_picture:
        parts.append(f"\n![Ours over the fastest peer on a GPU]({PICTURE})\n")
    return "".join(parts)


def write_section(results: dict[str, Any]) -> None:
    """Write the section to the end of the page, in the place of an older one, and the picture beside it."""
    has_picture = importlib.util.find_spec("matplotlib") is not None
    if has_picture:
        _draw(results["lines"], PAGE.parent / PICTURE)
    text = PAGE.read_text().partition(TITLE)[0] + section(results, has_picture)
    with write_atomically(PAGE) as temporary:
        temporary.write_text(text)


def _fastest(times: dict[str, Any], compiled: bool, field: int = 0) -> tuple[str, float] | None:
    """Return the fastest peer and its time on the device, or by the host if ``field`` is 1."""
    peers = {
        name: timing[field]
        for name, timing in times.items()
        if not name.startswith(("ours", "copy")) and name.endswith("compiled") == compiled
    }
    return min(peers.items(), key=lambda item: item[1]) if peers else None


def _row(line: dict[str, Any]) -> list[str]:
    times, memory = line["times"], line["memory"]
    eager, compiled, by_host = _fastest(times, False), _fastest(times, True), _fastest(times, False, field=1)
    ours, host = times["ours"]
    kind = f"{line['dtype']} {'training' if line['training'] else 'forward'}"
    peers = [value for name, value in memory.items() if not name.startswith(("ours", "copy"))]
    return [
        " × ".join(map(str, line["shape"])),
        kind,
        line["layout"],
        f"{ours:.0f}",
        f"{eager[1]:.0f} {eager[0]}" if eager else "",
        f"**{ours / eager[1]:.2f}**" if eager else "",
        f"{host:.0f}",
        f"{host / by_host[1]:.2f}" if by_host else "",
        f"{times['ours compiled'][0]:.0f}" if "ours compiled" in times else "",
        f"{compiled[1]:.0f} {compiled[0]}" if compiled else "",
        f"{times['copy'][0]:.0f}",
        f"{memory['ours']:.2f} / {min(peers):.2f}" if peers else "",
    ]


def _network(name: str, times: dict[str, Any]) -> list[str]:
    without, theirs, ours = (times[way][0] / 1000 for way in ("none", "timm", "ours"))
    ratio = (ours - without) / (theirs - without)
    return [name, f"{without:.1f}", f"{theirs - without:.2f}", f"{ours - without:.2f}", f"**{ratio:.2f}**"]


def _table(heads: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    for cells in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(cells)} |\n"


def _draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw our time, the fastest peer's and a compiler's over a copy's, by the size of x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 6), layout="constrained")
    for axes, (dtype, training) in zip(
        figure.subplots(2, 2).flat,
        ((dtype, training) for dtype in ("float32", "bfloat16") for training in (False, True)),
        strict=True,
    ):
        for place, layout in enumerate(("NCHW", "channels_last")):
            chosen = [
                line for line in lines if (line["dtype"], line["training"], line["layout"]) == (dtype, training, layout)
            ]
            labels = [f"{line['shape'][0]}×{line['shape'][1]}\n{line['shape'][2]}²" for line in chosen]
            ours = [line["times"]["ours"][0] / line["times"]["copy"][0] for line in chosen]
            theirs = [(_fastest(line["times"], False) or ("", 0.0))[1] / line["times"]["copy"][0] for line in chosen]
            axes.plot(labels, ours, "o-", color=f"C{place}", label=f"ours, {layout}")
            axes.plot(labels, theirs, ".--", color=f"C{place}", linewidth=0.8, label=f"fastest peer, {layout}")
        axes.set_title(f"{dtype} {'training' if training else 'forward'}", fontsize=9)
        axes.set(ylabel="time over a copy of x", ylim=(0, None))
        axes.tick_params(labelsize=6)
        axes.legend(fontsize=6, frameon=False)
    figure.savefig(path, dpi=110)
