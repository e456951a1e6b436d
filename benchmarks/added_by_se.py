"""What SE adds to ResNet-50 in time: with and without, in one process, in shuffled rounds, one image on one processor.

``python benchmarks/added_by_se.py``; the paper (section 5) gives 164 ms without and 167 ms with, +1.8 %, on a CPU.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

import se_numpy
from se_conformance.targets import TARGETS, Worker, load
from se_spec import network

WAYS = {
    "torch": ("torch", {}),
    "torch channels_last": ("torch channels_last", {}),
    "torch compiled": ("torch compiled", {}),
    "onnxruntime": ("onnxruntime", {}),
    "keras tensorflow": ("keras tensorflow", {}),
    "keras tensorflow, tf.function": ("keras tensorflow", {"mode": "graph"}),
    "keras tensorflow, XLA": ("keras tensorflow XLA", {}),
    "keras jax, jit": ("keras jax", {}),
    "keras torch": ("keras torch", {}),
    "nnx, jit": ("nnx", {}),
    "linen, jit": ("linen", {}),
}
"""A target, and what is asked of it instead of its own options."""

Times = dict[str, list[tuple[float, float]]]
"""Wall and processor seconds, by network."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--only", action="append", choices=WAYS, metavar="NAME", help=", ".join(WAYS))
    options = parser.parse_args()
    table = Table(title="SE-ResNet-50 against ResNet-50, one image on one processor, medians", title_justify="left")
    for heading in ("implementation", "without", "with SE", "SE adds", "of processor time", "rounds between"):
        table.add_column(heading, justify="left" if heading == "implementation" else "right", no_wrap=True)
    versions = []
    for way in options.only or WAYS:
        name, changed = WAYS[way]
        worker = Worker(TARGETS[name])
        times = worker.call(measure, name, changed, options.rounds, options.size)
        versions.append(worker.versions())
        worker.close()
        table.add_row(way, *cells(times))
        print(way, *cells(times), file=sys.stderr)
    console = Console(width=120)
    console.print(table)
    console.print("; ".join(dict.fromkeys(versions)), platform.machine(), highlight=False)


def measure(name: str, changed: dict[str, str], rounds: int, size: int) -> Times:
    """In the target's process: verify both networks, then time them in turns."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before the framework counts processors
    nets = {"without": network("resnet50"), "with": network("se_resnet50")}
    options = {**TARGETS[name].options, **changed}
    x = np.random.default_rng(0).normal(0.0, 1.0, (1, size, size, 3)).astype(np.float32)
    predict = {}
    for key, net in nets.items():
        parameters = se_numpy.initialize(net, seed=0)
        predict[key] = load(TARGETS[name].module).network(net, "float32", **options)(parameters)
        want = se_numpy.senet(x, net, parameters, data_format="channels_last")
        off = abs(predict[key](x) - want).max() / abs(want).max()
        if not off < 1e-3:
            raise AssertionError(f"{name} {key} SE is {off:.1e} off")
        predict[key](x)
    times: Times = {key: [] for key in nets}
    turns, order = random.Random(0), list(nets)
    for _ in range(rounds):
        turns.shuffle(order)
        for key in order:
            wall, own = time.perf_counter(), time.process_time()
            predict[key](x)
            times[key].append((time.perf_counter() - wall, time.process_time() - own))
    return times


def cells(times: Times) -> list[str]:
    """Of a row; what SE adds is the median over the rounds, beside it their quartiles."""
    walls = {key: statistics.median(wall for wall, _ in each) for key, each in times.items()}
    pairs = list(zip(times["with"], times["without"], strict=True))
    wall, own = ([with_se[i] / without[i] - 1.0 for with_se, without in pairs] for i in (0, 1))
    low, _, high = statistics.quantiles(own, n=4)
    return [
        f"{1000 * walls['without']:.0f} ms",
        f"{1000 * walls['with']:.0f} ms",
        f"{statistics.median(wall):+.1%}",
        f"{statistics.median(own):+.1%}",
        f"{low:+.1%} to {high:+.1%}",
    ]


if __name__ == "__main__":
    main()
