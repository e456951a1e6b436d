"""The main job: the same weights in every implementation, on two photographs, and how far apart the answers are."""

import os
import platform
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import se_numpy
from se_conformance.cases import Inputs, revealing_parameters
from se_conformance.comparison import Comparison, Reference, Result, compare, reference
from se_spec import SESpec

from . import plots
from .datasets import photographs, to_patches
from .implementations import IMPLEMENTATIONS, Implementation, Worker, device

PRESETS = (
    "paper",
    "timm.SEModule.add_maxpool",
    "timm.EffectiveSEModule",
    "torchvision.mobilenet_v3",
    "keras.efficientnet",
    "monai.ResidualSELayer",
)
DTYPES = ("float64", "float32", "bfloat16")
COLUMNS = (("y", "float64"), ("y", "float32"), ("y", "bfloat16"), ("d", "float64"), ("d", "float32"))
PROCESSES = 2


@dataclass
class Row:
    """One implementation: the largest error per column, how near it came to its bound, and what went wrong."""

    name: str
    presets: int = 0
    worst: dict[tuple[str, str], float] = field(default_factory=dict)
    ratio: float = 0.0
    faults: list[str] = field(default_factory=list)
    version: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """``same``, ``DIFFERS``, or why there is none."""
        return self.note or ("DIFFERS" if self.faults else "same")

    def add(self, preset: str, dtype: str, comparisons: list[Comparison]) -> None:
        """Keep the worst of each column."""
        for one in comparisons:
            key = ("d" if one.quantity.startswith("d") else "y", dtype)
            self.worst[key] = max(one.error, self.worst.get(key, 0.0))
            self.ratio = max(one.ratio, self.ratio)
            if not one.passed:
                self.faults.append(
                    f"{self.name}: {preset} in {dtype}: {one.quantity}{list(one.where)} is {one.got:.6g}, expected "
                    f"{one.want:.6g} ± {one.bound:.1e}"
                )


def parity(console: Console, picture: Path | None) -> int:
    """Run everything, print the table; 0 if all are the same, 1 if any differs, 2 if nothing was compared."""
    begun = time.monotonic()
    inputs = {(name, dtype): preset_inputs(name, dtype) for name in PRESETS for dtype in DTYPES}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        wanted = {key: reference_of(*key, inputs[key]) for key in progress.track(inputs, description="numpy")}
        rows = [oracle_row(inputs, wanted), *implementation_rows(inputs, wanted, progress, console)]
    show(rows, console)
    if picture is not None:
        draw(picture, console)
    console.print(f"{time.monotonic() - begun:.0f} s on {device()}, {platform.machine()}, {os.cpu_count()} processors")
    for fault in [fault for row in rows for fault in row.faults]:
        console.print(f"  {fault}", style="red", highlight=False, markup=False)
    if any(row.faults for row in rows):
        return 1
    if all(not row.worst for row in rows[1:]):
        console.print(
            "nothing was compared: install a framework, as in pip install 'se-suite[torch]'", style="red", markup=False
        )
        return 2
    return 0


def draw(picture: Path, console: Console) -> None:
    """Save the picture of the gates; a run without matplotlib has none and says so."""
    try:
        plots.save_gates(picture)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        console.print("no picture: matplotlib is not installed", style="yellow")
    else:
        console.print(f"picture: {picture}")


def spec_of(preset: str) -> SESpec:
    """The preset on the 192 channels of a patch."""
    return SESpec.preset(preset, 192)


def reference_of(preset: str, dtype: str, inputs: Inputs) -> Reference:
    """What the oracle says, and how far from it rounding may lead."""
    return reference(inputs, spec_of(preset), dtype, gradients=dtype != "bfloat16")


def preset_inputs(preset: str, dtype: str) -> Inputs:
    """The photographs, what the gradient of the output is (the other photograph), and seeded weights."""
    x = to_patches(photographs())
    weights = revealing_parameters(x, spec_of(preset), np.random.default_rng(PRESETS.index(preset)))
    return Inputs(x, x[::-1], weights).rounded(dtype)


def oracle_row(inputs: dict[tuple[str, str], Inputs], wanted: dict[tuple[str, str], Reference]) -> Row:
    """The oracle against itself: channels first against last, and its gradients against central differences."""
    row = Row("numpy (the oracle)", presets=len(PRESETS), version=f"numpy {np.__version__}")
    for name in PRESETS:
        (x, _, parameters), against = inputs[name, "float64"], wanted[name, "float64"]
        first = se_numpy.squeeze_excitation(
            np.moveaxis(x, -1, 1).copy(), spec_of(name), parameters, data_format="channels_first"
        )
        comparisons = compare(Result(y=np.moveaxis(first, 1, -1)), against)
        off = differences(name, inputs[name, "float64"], against.want)
        # The steps of differences are coarse: within their limit they say nothing of the bound.
        checked = Comparison("d (differences)", 0.0 if off <= 1e-6 else off / 1e-6, off, (), off, 0.0, 1e-6, 1, 0)
        row.add(name, "float64", [*comparisons, checked])
    return row


def differences(preset: str, inputs: Inputs, want: Result) -> float:
    """How far the oracle's gradients are from central differences along one random direction of all parameters."""
    x, dy, parameters = inputs
    assert want.dparameters is not None
    rng = np.random.default_rng(0)
    direction = {name: rng.standard_normal(array.shape) for name, array in parameters.items()}
    step = 1e-5

    def moved(t: float) -> float:
        there = {name: array + t * direction[name] for name, array in parameters.items()}
        return float((dy * se_numpy.squeeze_excitation(x, spec_of(preset), there, data_format="channels_last")).sum())

    got = (moved(step) - moved(-step)) / (2 * step)
    terms = [float((want.dparameters[name] * direction[name]).sum()) for name in parameters]
    return abs(got - sum(terms)) / max(map(abs, terms))


def implementation_rows(
    inputs: dict[tuple[str, str], Inputs],
    wanted: dict[tuple[str, str], Reference],
    progress: Progress,
    console: Console,
) -> list[Row]:
    """Every target that is installed, two processes at a time."""
    rows = {target.name: Row(target.name) for target in IMPLEMENTATIONS.values()}
    for target in IMPLEMENTATIONS.values():
        if target.missing:
            rows[target.name].note = f"not installed: {', '.join(target.missing)}"
    waiting = [target for target in IMPLEMENTATIONS.values() if not target.missing]
    waiting.sort(key=lambda target: not target.costly)  # the longest first
    running: dict[Future[Result], tuple[Worker, str, str]] = {}
    open_ones: dict[Worker, int] = {}
    task = progress.add_task("implementations", total=sum(len(plan(target)) for target in waiting))
    while waiting or running:
        while waiting and len(open_ones) < PROCESSES:
            target = waiting.pop(0)
            worker = Worker(target)
            rows[target.name].presets = len({preset for preset, _ in plan(target)})
            for preset, dtype in plan(target):
                future = worker.submit(
                    spec_of(preset), inputs[preset, dtype], gradients=target.gradients and dtype != "bfloat16"
                )
                running[future] = (worker, preset, dtype)
                open_ones[worker] = open_ones.get(worker, 0) + 1
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            worker, preset, dtype = running.pop(future)
            row = rows[worker.implementation.name]
            try:
                row.add(preset, dtype, compare(future.result(), wanted[preset, dtype]))
            except Exception as error:
                row.faults.append(f"{row.name}: {preset} in {dtype}: {type(error).__name__}: {error}")
            progress.advance(task)
            open_ones[worker] -= 1
            if not open_ones[worker]:
                finish(row, worker)
                del open_ones[worker]
                if not console.is_terminal:
                    console.print(f"{row.name}: {row.verdict}", highlight=False)
    return list(rows.values())


def finish(row: Row, worker: Worker) -> None:
    """End a row: which versions answered, and whether on the device that was asked for."""
    try:
        row.version = worker.versions()
    except Exception as error:  # it is among the faults already, if its process has ended
        row.version = f"{row.name} of an unknown version ({device()})"
        row.faults = row.faults or [f"{row.name}: {type(error).__name__}: {error}"]
    worker.close()
    asked = device() if device() in worker.implementation.devices else "cpu"
    if not row.version.endswith((f"({asked})", "(gpu)") if asked == "cuda" else "(cpu)"):
        row.faults.insert(0, f"{row.name}: DEVICE={asked} was asked for, and it ran as {row.version}")


def plan(target: Implementation) -> list[tuple[str, str]]:
    """Which presets and dtypes a target is asked for: those that compile or export anew, one preset."""
    presets = PRESETS[:1] if target.costly else PRESETS
    return [(preset, dtype) for preset in presets for dtype in DTYPES if dtype in target.dtypes]


def show(rows: list[Row], console: Console) -> None:
    """The table."""
    table = Table(title="largest difference from the oracle, relative to the largest value", title_justify="left")
    table.add_column("implementation", no_wrap=True)
    table.add_column("presets", justify="right")
    for heading in ("float64", "float32", "bfloat16", "grad float64", "grad float32", "of bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        cells = [f"{row.worst[column]:.1e}" if column in row.worst else "–" for column in COLUMNS]
        cells.append(f"{row.ratio:.2f}" if row.worst else "–")
        style = {"same": "green", "DIFFERS": "bold red"}.get(row.verdict, "yellow")
        table.add_row(row.name, str(row.presets or "–"), *cells, f"[{style}]{row.verdict}[/]")
    console.print(table)
    console.print("of bound: the largest share of what rounding can do to that element (docs/ERROR_BOUNDS.md)")
    console.print("presets: " + ", ".join(PRESETS), highlight=False)
    console.print(", ".join(dict.fromkeys(row.version for row in rows if row.version)), highlight=False)
