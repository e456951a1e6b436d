"""What importing costs: seconds and memory of a fresh Python, ours beside what it is made of."""

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


def measure(rounds: int = 5) -> dict[str, list[float]]:
    """Medians by statement: wall and processor seconds, MiB at the highest."""
    found: dict[str, list[tuple[float, float, float]]] = {one: [] for one in STATEMENTS}
    turns, order = random.Random(0), list(STATEMENTS)
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for _ in range(rounds):
        turns.shuffle(order)
        for statement in order:
            begun = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", statement], env=quiet)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise AssertionError(f"{statement}: {status}")
            wall = time.perf_counter() - begun
            found[statement].append((wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    return {one: [statistics.median(each) for each in zip(*found[one], strict=True)] for one in STATEMENTS}
