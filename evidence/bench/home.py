"""Measures one framework in a process of its own: ``python -m evidence.bench.home NAME`` prints JSON."""

import argparse
import gc
import json
import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

from .blocks import SHAPES, Task, compute_oracle_answer, make_floor_calls, verify
from .memory import measure_peak
from .rounds import time_side_by_side

CENTRE = (8, 256, 28, 28)
SWEEPS = {
    "N": [(n, *CENTRE[1:]) for n in (1, 4, 16, 64)],
    "C": [(8, c, 28, 28) for c in (16, 64, 256, 1024)],
    "H and W": [(*CENTRE[:2], side, side) for side in (7, 14, 28, 56, 112)],
}
"""Shapes of which one extent grows."""


class Home(NamedTuple):
    """One process of the bench and what it measures.

    Args:
        module: the module that holds the blocks.
        packages: packages whose versions are recorded.
        runs: the name of the module's function that makes the runs.
        dtypes: dtypes of the tasks.
        training: whether training steps are measured.
        backend: the backend of Keras, or None.
        sweeps: whether the growth of the time is measured.
    """

    module: str
    packages: tuple[str, ...]
    runs: str = "make_runs"
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    training: bool = True
    backend: str | None = None
    sweeps: bool = False


HOMES = {
    "torch": Home("torch_blocks", ("torch", "timm", "torchvision"), sweeps=True),
    "torch compiled": Home("torch_blocks", ("torch", "timm", "torchvision"), "make_compiled_runs"),
    "onnxruntime": Home("onnx_blocks", ("onnxruntime", "torch"), dtypes=("float32",), training=False),
    "flax": Home("flax_blocks", ("jax", "flax"), sweeps=True),
    "keras tensorflow": Home("keras_blocks", ("keras", "tensorflow"), backend="tensorflow", sweeps=True),
    "keras jax": Home("keras_blocks", ("keras", "jax"), backend="jax"),
    "keras torch": Home("keras_blocks", ("keras", "torch"), backend="torch"),
    "numpy": Home("numpy_blocks", ("numpy",), dtypes=("float64",), training=False, sweeps=True),
}


def make_environment(home: Home, keeps: bool = True) -> dict[str, str]:
    """Make the environment of a process: one thread; freed memory is kept, so that page faults do not dominate.

    Args:
        home: the process.
        keeps: whether freed memory is kept; measurements of memory must return it to the system.
    """
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    kept = {"MMAP_THRESHOLD_": "1073741824", "TRIM_THRESHOLD_": "4294967296", "ARENA_MAX": "1"}
    malloc = {f"MALLOC_{name}": value for name, value in kept.items()}
    return {
        **os.environ,
        **dict.fromkeys(threads, "1"),
        **(malloc if keeps else {"TF_ENABLE_ONEDNN_OPTS": "0"}),  # TensorFlow's allocator for oneDNN keeps all
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",  # a processor is timed, beside a GPU too
        "JAX_PLATFORMS": "cpu",
        **({"KERAS_BACKEND": home.backend} if home.backend else {}),
    }


def make_tasks(home: Home) -> list[Task]:
    """Make the tasks of a process, small ones first."""
    kinds = [(dtype, training) for dtype in home.dtypes for training in (False, True)[: 1 + home.training]]
    return [Task(shape, *kind) for kind in kinds for shape in SHAPES]


def measure(home: Home, todo: list[Task], seconds: float) -> list[dict[str, Any]]:
    """Verify and time every block on every task."""
    module = import_module(f"evidence.bench.{home.module}")
    measured = []
    for task in todo:
        runs, want = getattr(module, home.runs)(task), compute_oracle_answer(task)
        for name, run in runs.items():
            verify(name, task, run, want)
        calls = {name: run.call for name, run in runs.items()} | getattr(module, "make_floor_calls", make_floor_calls)(
            task
        )
        timings = time_side_by_side(calls, seconds)
        measured.append({**task._asdict(), "times": {name: timing._asdict() for name, timing in timings.items()}})
        print(task, *(f"{name} {timing.median:.0f}" for name, timing in timings.items()), sep="; ", file=sys.stderr)
        del runs, calls
        gc.collect()
    return measured


def measure_peaks(
    home: Home, shape: tuple[int, ...] = SHAPES[-1], only: tuple[str, ...] | None = None
) -> dict[str, dict[str, float]]:
    """Measure the peak memory that a training step adds, in sizes of x, by dtype and block."""
    found: dict[str, dict[str, float]] = {}
    for dtype in home.dtypes:
        task = Task(shape, dtype, training=True)
        found[dtype] = {}
        for name, run in getattr(import_module(f"evidence.bench.{home.module}"), home.runs)(task).items():
            if only is None or name in only:
                run.call()  # one-time allocations are not counted
                found[dtype][name] = round(measure_peak(run.call) / (1e6 * task.megabytes), 3)
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=HOMES)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="seconds per task, in which at least five rounds run"
    )
    parser.add_argument("--peaks", action="store_true", help="measure the memory that a training step adds, not times")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before the framework counts processors
    home = HOMES[options.name]
    if options.peaks:
        json.dump(measure_peaks(home), sys.stdout)
        return
    found: dict[str, Any] = {"versions": {name: version(name) for name in home.packages}}
    found["tasks"] = measure(home, make_tasks(home), options.seconds)
    if home.sweeps:
        dtype = home.dtypes[0]
        found["sweeps"] = {
            what: measure(home, [Task(shape, dtype) for shape in shapes], options.seconds / 3)
            for what, shapes in SWEEPS.items()
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
