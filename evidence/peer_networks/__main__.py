"""``python -m evidence.peer_networks --out docs/PORT_PEERS.md`` writes the page; names select systems."""

import argparse
import importlib.metadata
import multiprocessing
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from se_conformance.files import write_atomically

from .network import BlockResult, NetworkResult, compare_blocks
from .systems import SYSTEMS, System

_HEAD = """# SE blocks of other libraries' networks

`python -m evidence.peer_networks --out docs/PORT_PEERS.md` wrote this page. Each network is built by its own system,
and its SE blocks are known from its own modules. Every block has drawn weights. `find_blocks` receives the names and
arrays of the whole network and nothing else. *Missed* counts blocks that it does not find, and *extra* counts paths
that it reports although they are no blocks. The gate of each block's own module, for a drawn map in float64, is
compared with the oracle's for the parameters that were found; only an activation or a gate that a file does not hold is
given. The *difference* is the largest of all blocks, relative to the block's largest gate. Systems whose requirements
conflict were installed with `pip install --no-deps`.
"""
BY_NAME = {system.name: system for system in SYSTEMS}
BATCH = 200
"""The number of networks that a pool of processes checks; some libraries leak much memory with each network."""
FRAMEWORKS = ("numpy", "torch", "tensorflow", "keras")


@dataclass
class Row:
    """Results of a system.

    Args:
        system: the library.
        networks: how many of its networks were built.
        with_se: how many of those have SE blocks.
        kinds: errors of the gates, by kind of block.
        missed: blocks that were not found, as network and kind.
        extra: paths that were found and are no block.
        failed: networks that could not be built here, by the reason.
    """

    system: System
    networks: int = 0
    with_se: int = 0
    kinds: dict[tuple[str, ...], list[float]] = field(default_factory=lambda: defaultdict(list))
    missed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    failed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, result: NetworkResult | str) -> None:
        """Add a network's result, or the reason why it could not be built."""
        if isinstance(result, str):
            self.failed[result].append(name)
            return
        self.networks += 1
        self.with_se += bool(result.blocks)
        self.extra += [f"{name}: {path}" for path in result.extra]
        for block in result.blocks:
            if block.layouts:
                self.kinds[_describe_kind(block)].append(block.difference)
            else:
                self.missed.append(f"{name}: {block.kind}")

    @property
    def differences(self) -> list[float]:
        """Errors of all blocks that were found."""
        return [difference for differences in self.kinds.values() for difference in differences]

    @property
    def faults(self) -> list[str]:
        """Descriptions of all faults: missed blocks, extra paths and gates that differ."""
        largest = [(kind[0], max(differences)) for kind, differences in self.kinds.items()]
        return [
            *(f"missed: {block}" for block in self.missed),
            *(f"no block: {path}" for path in self.extra),
            *(f"more than {self.limit:.0e}: {kind}, {off:.1e} off" for kind, off in largest if not off < self.limit),
        ]

    @property
    def limit(self) -> float:
        """The largest error that is accepted."""
        return self.system.limit


def _describe_kind(block: BlockResult) -> tuple[str, ...]:
    return (block.kind, f"{block.activation}, {block.gate}", ", ".join(f"`{layout}`" for layout in block.layouts))


def list_networks(system: str) -> list[str]:
    """List the networks of a system, in this process."""
    return list(BY_NAME[system].names())


def check_network(system: str, name: str) -> NetworkResult | str:
    """Check a network in this process, or return the reason why it cannot be built here."""
    try:
        network = BY_NAME[system].network(name)
    except Exception as error:  # whatever its constructor raises
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:100]}"
    return compare_blocks(network)


def check_system(system: System, processes: int, progress: Progress) -> Row:
    """Check every network of a system, in processes that are replaced before they hold too much memory."""
    row = Row(system)
    os.environ.update(dict(system.environment))
    with _pool(1) as pool:
        listed = pool.submit(list_networks, system.name).result()
    task = progress.add_task(system.name, total=len(listed))
    for begin in range(0, len(listed), BATCH):
        part = listed[begin : begin + BATCH]
        with _pool(processes) as pool:
            for name, result in zip(part, pool.map(check_network, [system.name] * len(part), part), strict=True):
                row.add(name, result)
                progress.update(task, advance=1, description=f"{system.name}: {name}")
    progress.update(task, description=system.name)
    for name, _ in system.environment:
        del os.environ[name]
    return row


def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _silence)


def _silence() -> None:
    """Limit a process to one thread, and discard what the libraries print."""
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def format_page(rows: Iterable[Row], minutes: float) -> str:
    """Format the page, in Markdown."""
    rows = list(rows)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in FRAMEWORKS)
    lines = [
        _HEAD,
        f"{minutes:.0f} minutes on {os.cpu_count()} processors, {platform.machine()}; {versions}.",
        "",
        "| system | selection | networks | with SE | blocks | missed | extra | difference | not built |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        counts = (row.networks, row.with_se, len(row.differences) + len(row.missed), len(row.missed), len(row.extra))
        largest = f"{max(row.differences, default=0.0):.1e}"
        cells = (row.system.version, row.system.note, *map(str, counts), largest, _count_failures(row.failed))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Their blocks", "", "| block | activation, gate | found as | blocks | difference |"]
    lines.append("|---|---|---|--:|--:|")
    for row in rows:
        for kind, differences in sorted(row.kinds.items()):
            lines.append(f"| {' | '.join(kind)} | {len(differences)} | {max(differences):.1e} |")
    reason = "These networks need a package that is not installed, a download or a configuration."
    lines += ["", "## Not built", "", reason, ""]
    for row in rows:
        for reason, failed in row.failed.items():
            lines.append(f"- {row.system.name}, {', '.join(failed)}: {reason}")
    for row in rows:
        lines += [f"- **{fault}**" for fault in row.faults]
    return "\n".join(lines) + "\n"


def _count_failures(failed: dict[str, list[str]]) -> str:
    return str(sum(len(names) for names in failed.values()))


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 1 if a block was missed, a path is no block or a gate differs, 2 if no network was checked.
    """
    parser = argparse.ArgumentParser("python -m evidence.peer_networks", description="find other people's SE blocks")
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"one of {', '.join(BY_NAME)} (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="processes of a gigabyte each (%(default)s)")
    parser.add_argument("--out", type=Path, help="a file for the page")
    options = parser.parse_args(arguments)
    if unknown := set(options.systems) - set(BY_NAME):
        parser.error(f"unknown system: {', '.join(sorted(unknown))}; known are {', '.join(BY_NAME)}")
    selected = [BY_NAME[name] for name in options.systems or BY_NAME]
    missing = [system.name for system in selected if not system.installed]
    if missing and options.out:
        parser.error(f"{options.out} would lack rows: {', '.join(missing)} is not installed")
    console, start = Console(stderr=True), time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        rows = []
        for system in selected:
            if system.installed:
                rows.append(check_system(system, options.processes, progress))
                if not console.is_terminal:
                    console.print(f"{system.name}: {rows[-1].networks} networks", highlight=False)
    text = format_page(rows, (time.monotonic() - start) / 60)
    if options.out:
        with write_atomically(options.out) as temporary:
            temporary.write_text(text)
    else:
        print(text, end="")
    faults = [fault for row in rows for fault in row.faults]
    for fault in faults:
        console.print(fault, style="red", highlight=False)
    return 1 if faults else 0 if any(row.networks for row in rows) else 2


if __name__ == "__main__":
    from evidence.peer_networks.__main__ import main as run  # not __main__'s names, which no other process could find

    sys.exit(run())
