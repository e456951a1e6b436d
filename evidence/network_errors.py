"""Compares the logits of every named network in every implementation with the oracle's, on the same weights.

``python -m evidence.network_errors --out docs/NETWORKS.md`` writes a page; names as arguments restrict it to these.

In float64 the largest error must be at most 1e-9 of the largest logit. In float32 there is no bound for so deep a
network: PyTorch's own error on the same weights and images is the measure, and no error may be more than twice as large
(medians over seeds, each of which draws weights and images). The error in float32 is the root mean square over the
logits. The largest error would measure the classifier's sum alone: its 2,048 products have three times the error if
they are added one after another and not in groups, and both orders are right.
"""

import argparse
import math
import os
import platform
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

import se_numpy
from se_conformance.files import save_parameters, write_atomically
from se_parity.implementations import IMPLEMENTATIONS, Implementation, Worker
from se_spec import NetworkSpec, SpecError, network
from se_spec.networks import NETWORKS
from se_spec.networks.layers import BatchNorm, Layer

LIMIT = 1e-9
"""The largest error in float64, relative to the largest logit."""
ALLOWANCE = 2.0
"""The largest error in float32, relative to PyTorch's own."""
DTYPES = ("float64", "float32")
SEEDS = 5
IMAGES = 2
"""Images per seed."""
CIFAR_FACTOR = 5
"""The factor on the number of images for CIFAR networks, which have ten logits only."""
JUDGED = tuple(target for target in IMPLEMENTATIONS.values() if not target.costly)


@dataclass
class NetworkRow:
    """One network: for each implementation, the largest error in float64 and the median error in float32."""

    name: str
    net: NetworkSpec
    also: list[str] = field(default_factory=list)
    double: dict[str, float] = field(default_factory=dict)
    single: dict[str, float] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """Descriptions of the errors that are too large, NaN included."""
        found = [
            f"{self.name}: {target} in float64 is {error:.1e} off, more than {LIMIT:.0e}"
            for target, error in self.double.items()
            if not error <= LIMIT
        ]
        of_torch = self.single.get("torch", math.inf)
        return found + [
            f"{self.name}: {target} in float32 is {error:.1e} off, more than {ALLOWANCE:g} times torch's {of_torch:.1e}"
            for target, error in self.single.items()
            if not error <= ALLOWANCE * of_torch
        ]


def make_rows(names: Iterable[str] = ()) -> list[NetworkRow]:
    """Make a row for each named network, or for all; networks that differ only in training share a row."""
    found: dict[NetworkSpec, NetworkRow] = {}
    for name in names or NETWORKS:
        net = network(name)
        row = found.setdefault(net.replace(momentum=0.9, input_size=1), NetworkRow(name, net))
        if row.name != name:
            row.also.append(name)
    return list(found.values())


class NetworkCase(NamedTuple):
    """The case of one seed: parameters in a file and images, both in float32, and the right logits."""

    parameters: Path
    x: np.ndarray
    want: np.ndarray


def make_case(path: Path, net: NetworkSpec, seed: int, images: int) -> NetworkCase:
    """Draw parameters and images of (64, 96), neither square nor centred; for CIFAR more images, of (24, 32).

    Batch norms change every channel differently, but their statistics are near those of their inputs. Otherwise maps
    would grow from unit to unit, logits of gates would reach thousands, and float32 would keep three digits.
    """
    random = np.random.default_rng(seed)
    shape = (CIFAR_FACTOR * images, 24, 32) if net.input_size <= 32 else (images, 64, 96)
    x = random.normal(0.3, 1.0, (*shape, net.channels)).astype(np.float32)
    parameters = se_numpy.initialize(net, seed=seed)

    def adjust_statistics(layer: Layer, entry: np.ndarray, values: dict[str, np.ndarray]) -> None:
        if isinstance(layer, BatchNorm):
            shape, spread = values["mean"].shape, float(entry.std())
            drawn = {
                "scale": random.uniform(0.5, 1.5, shape),
                "offset": random.normal(0.0, 0.2, shape),
                "mean": float(entry.mean()) + random.normal(0.0, 0.2 * spread, shape),
                "variance": spread**2 * random.uniform(0.5, 1.5, shape),
            }
            for name in values:
                parameter = parameters[f"{layer.name}.{name}"]
                parameter[...] = drawn[name]
                values[name] = parameter.astype(np.float64)

    steps = se_numpy.networks.walk(x, net, parameters, "channels_last", adjust_statistics)
    want = deque(steps, maxlen=1).pop()[2]
    save_parameters(path, parameters)
    return NetworkCase(path, x, want)


def make_cases(row: NetworkRow, seeds: int, images: int, folder: Path) -> list[NetworkCase]:
    """Make the cases of all seeds."""
    return [make_case(folder / f"{row.name}.{seed}.safetensors", row.net, seed, images) for seed in range(seeds)]


def largest_error(got: np.ndarray, want: np.ndarray) -> float:
    """Compute the largest error, relative to the largest value."""
    return float(abs(got - want).max() / abs(want).max())


def mean_error(got: np.ndarray, want: np.ndarray) -> float:
    """Compute the root mean square error, relative to the root mean square of the logits."""
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))


def prefetch(rows: list[NetworkRow], make: Callable[[NetworkRow], list[NetworkCase]]) -> Iterator[list[NetworkCase]]:
    """Yield the cases of each row, and make the next row's while these are used."""
    with ThreadPoolExecutor(1) as pool:
        pending = deque([pool.submit(make, rows[0])])
        for row in rows[1:]:
            cases = pending.popleft().result()
            pending.append(pool.submit(make, row))
            yield cases
        yield pending.popleft().result()


def judge_network(row: NetworkRow, workers: dict[str, Worker], cases: list[NetworkCase]) -> None:
    """Fill a row, two processes at a time, JAX's first since it takes longest, and delete the files."""
    by_process: dict[tuple[str, ...], dict[str, Worker]] = defaultdict(dict)
    for name, worker in reversed(workers.items()):
        by_process[worker.implementation.process_key][name] = worker
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(
            lambda group: {name: collect_logits(group[name], row.net, cases) for name in group}, by_process.values()
        )
        logits = {name: got for part in parts for name, got in part.items()}
    for case in cases:
        case.parameters.unlink()
    for name in workers:
        double, single = (list(zip(logits[name][dtype], cases, strict=True)) for dtype in DTYPES)
        row.double[name] = float(np.max([largest_error(got, case.want) for got, case in double]))
        row.single[name] = float(np.median([mean_error(got, case.want) for got, case in single]))


def collect_logits(worker: Worker, net: NetworkSpec, cases: list[NetworkCase]) -> dict[str, list[np.ndarray]]:
    """Collect the logits of an implementation by dtype and seed, and check their dtype."""
    found = {}
    for dtype in DTYPES:  # a network is built once for each
        futures = [worker.logits(net, case.parameters, case.x.astype(dtype), mode="eager") for case in cases]
        found[dtype] = [future.result().values for future in futures]
        if odd := {got.dtype.name for got in found[dtype]} - {dtype}:
            raise TypeError(f"{worker.implementation.name} returned {', '.join(odd)}, expected {dtype}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; exit status 1 if an error is too large, 2 if nothing was compared."""
    parser = argparse.ArgumentParser("python -m evidence.network_errors", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks (default: all)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="sets of weights and images (%(default)s)")
    parser.add_argument("--images", type=int, default=IMAGES, help="images per seed (%(default)s)")
    parser.add_argument("--out", type=Path, help="the file for the page")
    options = parser.parse_args(arguments)
    try:
        chosen = make_rows(options.names)
    except SpecError as error:
        parser.error(str(error))
    return compare_networks(chosen, options.seeds, options.images, options.out, Console())


def compare_networks(chosen: list[NetworkRow], seeds: int, images: int, out: Path | None, console: Console) -> int:
    """Compare networks and print the page; return 1 if an error is too large, 2 if nothing was compared."""
    begun = time.monotonic()
    targets = [target for target in JUDGED if not target.missing]
    workers: dict[str, Worker] = {}
    for target in targets:
        workers[target.name] = Worker.share(workers.values(), target)
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
        TemporaryDirectory() as folder,
    ):
        prepared = prefetch(chosen, lambda row: make_cases(row, seeds, images, Path(folder)))
        for row, cases in progress.track(zip(chosen, prepared, strict=True), len(chosen), description="networks"):
            judge_network(row, workers, cases)
            if not console.is_terminal:
                console.print(f"{row.name}: {'; '.join(row.faults) or 'same'}", highlight=False, soft_wrap=True)
    versions = dict.fromkeys(worker.versions() for worker in workers.values())
    for worker in workers.values():
        worker.close()
    text = format_page(chosen, targets, seeds, images, time.monotonic() - begun, ", ".join(versions))
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    faults = [fault for row in chosen for fault in row.faults]
    for fault in faults:
        console.print(fault, style="red", highlight=False)
    if out is not None:
        with write_atomically(out) as temporary:
            temporary.write_text(text)
    return 1 if faults else 0 if targets else 2


def format_page(
    found: list[NetworkRow], targets: list[Implementation], seeds: int, images: int, seconds: float, versions: str
) -> str:
    """Format the page in Markdown."""
    names = [target.name for target in targets]
    lines = [
        "# Networks",
        "",
        "`make networks` builds every network that `se_spec.network` names in every implementation, with the same",
        f"drawn weights and statistics, and compares the logits with the oracle's. Each of {seeds} seeds draws weights",
        f"and {images} images of 64 × 96 ({CIFAR_FACTOR * images} of 24 × 32 for CIFAR). In float64 the largest error "
        "of all seeds",
        f"must be at most {LIMIT:.0e} of the largest logit. In float32 the root mean square error, as the median over",
        f"the seeds, must be at most {ALLOWANCE:g} times PyTorch's. All networks run op by op: JAX compiles each",
        "operation alone. `make test` and `make demo` also compile whole networks.",
        "",
        f"{seconds / 60:.0f} minutes on {os.cpu_count()} processors, {platform.machine()}; {versions}.",
        "",
        "## Sizes",
        "",
        "The table counts learnable parameters, and the multiply-adds of convolutions and dense layers for one image",
        "of the source's size. *Added by SE* compares a network with the same network without SE.",
        "",
        "| network | the same at inference | parameters | GMACs | parameters added by SE | multiply-adds added by SE |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in found:
        net, same = row.net, ", ".join(f"`{name}`" for name in row.also)
        more = [f"{n:,} ({n / (total - n):+.2%})" for n, total in zip(net.added_by_se(), _totals(net), strict=True)]
        cells = more if net.se is not None else ["–", "–"]
        lines.append(
            f"| `{row.name}` | {same} | {net.parameter_count():,} | {net.macs() / 1e9:.3f} | {' | '.join(cells)} |"
        )
    for dtype in DTYPES:
        lines += ["", f"## {dtype}", "", f"| network | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
        for row in found:
            errors = row.double if dtype == "float64" else row.single
            lines.append(f"| `{row.name}` | {' | '.join(f'{errors[name]:.1e}' for name in names)} |")
    return "\n".join(lines) + "\n"


def _totals(net: NetworkSpec) -> tuple[int, int]:
    return net.parameter_count(), net.macs()


if __name__ == "__main__":
    sys.exit(main())
