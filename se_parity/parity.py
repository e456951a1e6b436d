"""Runs the same weights in every implementation on two photographs and reports how far apart the answers are."""

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
from .datasets import load_photographs, to_patches
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
MIN_CHARACTERS = 132
"""The narrowest terminal for outputs and gradients in one table."""


@dataclass
class ParityRow:
    """One implementation: the largest error per column, the largest share of its bound, and what went wrong."""

    name: str
    presets: int = 0
    worst: dict[tuple[str, str], float] = field(default_factory=dict)
    ratio: float = 0.0
    faults: list[str] = field(default_factory=list)
    version: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """``same``, ``DIFFERS``, or why the implementation did not run."""
        return self.note or ("DIFFERS" if self.faults else "same")

    def add(self, preset: str, dtype: str, comparisons: list[Comparison]) -> None:
        """Add comparisons; each column keeps its largest error."""
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
    """Run everything and print the table; return 0 if all agree, 1 if one differs, 2 if nothing was compared."""
    start = time.monotonic()
    inputs = {(name, dtype): make_inputs(name, dtype) for name in PRESETS for dtype in DTYPES}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        references = {key: compute_reference(*key, inputs[key]) for key in progress.track(inputs, description="numpy")}
        rows = [check_oracle(inputs, references), *compare_implementations(inputs, references, progress, console)]
    print_table(rows, console)
    if picture is not None:
        draw(picture, console)
    console.print(f"{time.monotonic() - start:.0f} s on {device()}, {platform.machine()}, {os.cpu_count()} processors")
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
    """Save the picture of the gates, or prints that matplotlib is not installed."""
    try:
        plots.save_gates(picture)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        console.print("no picture: matplotlib is not installed", style="yellow")
    else:
        console.print(f"picture: {picture}")


def spec_of(preset: str) -> SESpec:
    """Make the spec of a preset on the 192 channels of a patch."""
    return SESpec.preset(preset, 192)


def compute_reference(preset: str, dtype: str, inputs: Inputs) -> Reference:
    """Compute the oracle's answer and its bounds."""
    return reference(inputs, spec_of(preset), dtype, gradients=dtype != "bfloat16")


def make_inputs(preset: str, dtype: str) -> Inputs:
    """Make x from the photographs, dy from the other photograph, and seeded weights."""
    x = to_patches(load_photographs())
    weights = revealing_parameters(x, spec_of(preset), np.random.default_rng(PRESETS.index(preset)))
    return Inputs(x, x[::-1], weights).round_to(dtype)


def check_oracle(inputs: dict[tuple[str, str], Inputs], references: dict[tuple[str, str], Reference]) -> ParityRow:
    """Check the oracle itself: channels first beside last, and its gradients beside central differences."""
    row = ParityRow("numpy (the oracle)", presets=len(PRESETS), version=f"numpy {np.__version__}")
    for name in PRESETS:
        (x, _, parameters), against = inputs[name, "float64"], references[name, "float64"]
        first = se_numpy.squeeze_excitation(
            np.moveaxis(x, -1, 1).copy(), spec_of(name), parameters, data_format="channels_first"
        )
        comparisons = compare(Result(y=np.moveaxis(first, 1, -1)), against)
        error = gradient_error(name, inputs[name, "float64"], against.want)
        # differences are coarse: an error within their limit says nothing of the bound
        checked = Comparison(
            "d (differences)", 0.0 if error <= 1e-6 else error / 1e-6, error, (), error, 0.0, 1e-6, 1, 0
        )
        row.add(name, "float64", [*comparisons, checked])
    return row


def gradient_error(preset: str, inputs: Inputs, want: Result) -> float:
    """Compute the error of the oracle's gradients relative to central differences along a random direction."""
    x, dy, parameters = inputs
    assert want.dparameters is not None
    rng = np.random.default_rng(0)
    direction = {name: rng.standard_normal(array.shape) for name, array in parameters.items()}
    step = 1e-5

    def loss_at(t: float) -> float:
        shifted = {name: array + t * direction[name] for name, array in parameters.items()}
        return float((dy * se_numpy.squeeze_excitation(x, spec_of(preset), shifted, data_format="channels_last")).sum())

    got = (loss_at(step) - loss_at(-step)) / (2 * step)
    terms = [float((want.dparameters[name] * direction[name]).sum()) for name in parameters]
    return abs(got - sum(terms)) / max(map(abs, terms))


def compare_implementations(
    inputs: dict[tuple[str, str], Inputs],
    references: dict[tuple[str, str], Reference],
    progress: Progress,
    console: Console,
) -> list[ParityRow]:
    """Run every installed implementation, two processes at a time."""
    rows = {target.name: ParityRow(target.name) for target in IMPLEMENTATIONS.values()}
    for target in IMPLEMENTATIONS.values():
        if target.missing:
            rows[target.name].note = f"not installed: {', '.join(target.missing)}"
    waiting = [target for target in IMPLEMENTATIONS.values() if not target.missing]
    waiting.sort(key=lambda target: not target.costly)  # those that take longest first
    running: dict[Future[Result], tuple[Worker, str, str]] = {}
    pending: dict[Worker, int] = {}
    task = progress.add_task("implementations", total=sum(len(list_cases(target)) for target in waiting))
    while waiting or running:
        while waiting and len(pending) < PROCESSES:
            target = waiting.pop(0)
            worker = Worker(target)
            rows[target.name].presets = len({preset for preset, _ in list_cases(target)})
            for preset, dtype in list_cases(target):
                future = worker.submit(
                    spec_of(preset), inputs[preset, dtype], gradients=target.gradients and dtype != "bfloat16"
                )
                running[future] = (worker, preset, dtype)
                pending[worker] = pending.get(worker, 0) + 1
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            worker, preset, dtype = running.pop(future)
            row = rows[worker.implementation.name]
            try:
                row.add(preset, dtype, compare(future.result(), references[preset, dtype]))
            except Exception as error:
                row.faults.append(f"{row.name}: {preset} in {dtype}: {type(error).__name__}: {error}")
            progress.advance(task)
            pending[worker] -= 1
            if not pending[worker]:
                finish_row(row, worker)
                del pending[worker]
                if not console.is_terminal:
                    console.print(f"{row.name}: {row.verdict}", highlight=False)
    return list(rows.values())


def finish_row(row: ParityRow, worker: Worker) -> None:
    """Completes a row: records the versions, and a fault if the implementation ran on another device."""
    try:
        row.version = worker.versions()
    except Exception as error:  # the fault is recorded already if the process has ended
        row.version = f"{row.name} of an unknown version ({device()})"
        row.faults = row.faults or [f"{row.name}: {type(error).__name__}: {error}"]
    worker.close()
    requested = device() if device() in worker.implementation.devices else "cpu"
    if not row.version.endswith((f"({requested})", "(gpu)") if requested == "cuda" else "(cpu)"):
        row.faults.insert(0, f"{row.name}: DEVICE={requested} was requested, and it ran as {row.version}")


def list_cases(target: Implementation) -> list[tuple[str, str]]:
    """List the presets and dtypes that an implementation runs; one that compiles each spec runs one preset."""
    presets = PRESETS[:1] if target.costly else PRESETS
    return [(preset, dtype) for preset in presets for dtype in DTYPES if dtype in target.dtypes]


def print_table(rows: list[ParityRow], console: Console) -> None:
    """Print the table, in two parts where the terminal is narrow."""
    title = "largest difference from the oracle, relative to the largest value"
    first, *columns, verdict = _COLUMNS
    if console.width >= MIN_CHARACTERS:
        parts = {title: [first, *columns, verdict]}
    else:
        parts = {title: [first, *columns[1:4], verdict], "gradients, and the bound": [first, columns[0], *columns[4:]]}
    for heading, shown in parts.items():
        table = Table(title=heading, title_justify="left")
        for name in shown:
            text = name in (first, verdict)
            table.add_column(name, justify="left" if text else "right", no_wrap=name != verdict)
        for row in rows:
            table.add_row(*(_format_cell(row, name) for name in shown))
        console.print(table)
    console.print("of bound: the largest share of what rounding can do to that element (docs/ERROR_BOUNDS.md)")
    console.print("presets: " + ", ".join(PRESETS), highlight=False)
    console.print(", ".join(dict.fromkeys(row.version for row in rows if row.version)), highlight=False)


_ERRORS = {f"grad {dtype}" if quantity == "d" else dtype: (quantity, dtype) for quantity, dtype in COLUMNS}
_COLUMNS = ("implementation", "presets", *_ERRORS, "of bound", "verdict")


def _format_cell(row: ParityRow, column: str) -> str:
    if column in _ERRORS:
        return f"{row.worst[_ERRORS[column]]:.1e}" if _ERRORS[column] in row.worst else "–"
    if column == "verdict":
        style = {"same": "green", "DIFFERS": "bold red"}.get(row.verdict, "yellow")
        return f"[{style}]{row.verdict}[/]"
    return {
        "implementation": row.name,
        "presets": str(row.presets or "–"),
        "of bound": f"{row.ratio:.2f}" if row.worst else "–",
    }[column]
