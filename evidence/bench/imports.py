"""Measures time and memory of imports in a fresh Python: our packages beside their dependencies."""

import os
import random
import statistics
import subprocess
import sys
import time

STATEMENTS = (
    "pass",
    "import numpy",
    "import se_spec",
    "import se_numpy",
    "import torch",
    "import se_torch",
    "import flax.nnx, flax.linen",
    "import se_flax",
    "import keras",
    "import se_keras",
    "import se_port",
    "import se_conformance",
)


PEAK = "[print(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')]"
"""The process prints its own peak, since the peak that its parent sees starts at the parent's."""


def measure(rounds: int = 5) -> dict[str, list[float]]:
    """Measure each statement: medians of wall seconds, processor seconds and peak MiB."""
    found: dict[str, list[tuple[float, float, float]]] = {statement: [] for statement in STATEMENTS}
    turns, order = random.Random(0), list(STATEMENTS)
    for _ in range(rounds):
        turns.shuffle(order)
        for statement in order:
            found[statement].append(_measure_once(statement))
    return {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}


def _measure_once(statement: str) -> tuple[float, float, float]:
    before, begun = os.times(), time.perf_counter()
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = subprocess.check_output([sys.executable, "-c", f"{statement}\n{PEAK}"], env=quiet, text=True)
    wall, after = time.perf_counter() - begun, os.times()
    own = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, own, int(output.split()[-1]) / 1024
