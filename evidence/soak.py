"""Runs correct implementations on random blocks and sizes, and counts false alarms of the bound.

Each run has one spec, one input and one implementation, drawn from a seed. The worst ratio per implementation and dtype
is recorded, and the seed of each alarm. Implementations that compile or export each shape, and JAX, which compiles each
operation per shape, get fixed shapes and new numbers.

``python -m evidence.soak --out docs/SOAK.md`` writes the page.
"""

import argparse
import contextlib
import itertools
import math
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import se_spec
from se_conformance import probes
from se_conformance.cases import DTYPES, Inputs, round_to
from se_conformance.comparison import FLOAT32_INTERMEDIATES, Reference, Result, compare, reference
from se_conformance.files import write_atomically
from se_parity.implementations import IMPLEMENTATIONS, Implementation, Worker, load_module
from se_spec import HardSigmoid, LeakyReLU, SESpec, SpecError

from . import correct_blocks

if TYPE_CHECKING:
    from rich.console import Console

MAX_BYTES, USUAL_BYTES = 4 << 20, 64 << 10
"""Limits of the size of x: one run in sixteen has the larger."""
SHAPES = 50
"""The number of fixed shapes."""

SHARES = {
    "numpy": 44,
    "torch": 18,
    "torch channels_last": 8,
    "keras torch": 4,
    "keras tensorflow": 10,
    "keras jax": 4,
    "nnx": 6,
    "linen": 6,
}
"""Shares of the runs in percent; implementations that compile run each fixed shape once, with changing dtypes."""
EAGER = {"keras jax", "nnx", "linen"}
"""These run op by op here: the compiler is the same, and each operation is compiled once per shape."""


@dataclass
class Tally:
    """The results of one implementation in one dtype."""

    runs: int = 0
    gradients: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    conclusive: int = 0
    inconclusive: int = 0
    alarms: list[str] = field(default_factory=list)

    def merge(self, other: "Tally") -> None:
        """Add the results of other runs."""
        self.runs += other.runs
        self.gradients += other.gradients
        self.conclusive += other.conclusive
        self.inconclusive += other.inconclusive
        self.alarms += other.alarms
        for quantity, ratio in other.worst.items():
            self.worst[quantity] = max(ratio, self.worst.get(quantity, 0.0))


Tallies = dict[tuple[str, str], Tally]


def draw_spec(rng: np.random.Generator) -> SESpec:
    """Draw a spec of 1 to 2048 channels."""
    channels = int(2 ** rng.uniform(0, 11))
    slope = float(np.round(rng.uniform(-0.5, 0.5), 2))
    activations = (*se_spec.nonlinearities.ACTIVATIONS, "relu", LeakyReLU(slope=slope))
    gates = (*se_spec.nonlinearities.GATES, "sigmoid", HardSigmoid(slope=0.2, offset=0.5))
    most = max(1, (1 << 20 if rng.random() < 1 / 32 else 1 << 14) // channels)  # this limits the weights
    width: dict[str, object] = {"hidden": min(most, max(1, int(channels / 2 ** rng.uniform(-0.5, 5))))}
    if rng.random() < 0.1 and channels <= most:
        width = {"single_projection": True}
    return SESpec(
        channels,
        **width,  # type: ignore[arg-type]
        bias=bool(rng.integers(2)),
        activation=activations[rng.integers(len(activations))],
        gate=gates[rng.integers(len(gates))],
        squeeze=("avg", "avg", "max", "avg_max")[rng.integers(4)],
        gain=(1.0, 1.0, 2.0, 0.7)[rng.integers(4)],
        residual=bool(rng.random() < 0.2),
    )


def draw_shape(rng: np.random.Generator, channels: int, dtype: str) -> tuple[int, ...]:
    """Draw a shape of x, channels last: 1 to 4 samples, 1 to 3 spatial axes of 1 to 128, within the limit of bytes."""
    bytes_each = {"float64": 8, "float32": 4}.get(dtype, 2)
    limit = MAX_BYTES if rng.random() < 1 / 16 else USUAL_BYTES
    while True:
        rank = (1, 2, 2, 2, 3)[rng.integers(5)]
        shape = (int(rng.integers(1, 5)), *(int(2 ** rng.uniform(0, 7)) for _ in range(rank)), channels)
        if math.prod(shape) * bytes_each <= limit:
            return shape


def draw_inputs(rng: np.random.Generator, spec: SESpec, shape: tuple[int, ...], dtype: str) -> Inputs:
    """Draw normal numbers at scales from 1e-3 to 1e3; some have an offset, outliers, or are constant along an axis."""
    x = rng.standard_normal(shape)
    match rng.integers(6):
        case 0:
            x += 10.0 * rng.standard_normal(shape[-1])
        case 1:
            x *= np.exp(2.0 * rng.standard_normal(shape))
        case 2:
            x = np.broadcast_to(x[:, :1], shape).copy()
    x = np.clip(x * 10.0 ** rng.uniform(-3, 3), -6e4, 6e4)  # below float16's largest
    parameters = {}
    for name, extents in se_spec.parameters.shapes(spec).items():
        scale = 10.0 ** rng.uniform(-3, 3) if rng.random() < 0.3 else 10.0 ** rng.uniform(-1, 1)
        fan_in = extents[-1] if len(extents) == 2 else 1
        parameters[name] = round_to(scale * rng.standard_normal(extents) / math.sqrt(fan_in), dtype)
    return Inputs(round_to(x, dtype), round_to(rng.standard_normal(shape), dtype), parameters)


def run_batch(name: str, module: str, options: dict[str, object], seeds: list[int], fixed: bool) -> Tallies:
    """Run many seeds in this process."""
    tallies: Tallies = {}
    for seed in seeds:
        spec, inputs, dtype, exact = make_case(seed, fixed, list_dtypes(name))
        gradients = seed % 3 == 0 and options.get("gradients", True) is True
        if name == "numpy":
            style_name, style = list(correct_blocks.STYLES.items())[seed % len(correct_blocks.STYLES)]
            precision = style.precision
            if precision.accumulation:
                precision = precision._replace(accumulation=dtype)
            got = correct_blocks.run(spec, inputs, style)
            label = f"numpy: {style_name}"
        else:
            precision, label = FLOAT32_INTERMEDIATES, name
            try:
                got = load_module(module).run(spec, inputs, **{**options, "gradients": gradients})
            except Exception as error:
                text = f"{label}, seed {seed}, {dtype}, {spec}: {type(error).__name__}: {error}"
                tallies.setdefault((label, dtype), Tally()).merge(Tally(runs=1, alarms=[text]))
                continue
        against = reference(inputs, spec, dtype, precision, gradients=gradients, exact=exact)
        tallies.setdefault((label, dtype), Tally()).merge(
            judge_result(got, against, f"{label}, seed {seed}, {dtype}, {spec}")
        )
    return tallies


def list_dtypes(name: str) -> tuple[str, ...]:
    """List the dtypes in which an implementation computes every block; onnxruntime lacks many float64 kernels."""
    if name == "onnxruntime":
        return ("float32", "float16")
    return IMPLEMENTATIONS[name].dtypes if name in IMPLEMENTATIONS else DTYPES


def make_case(seed: int, fixed: bool, dtypes: tuple[str, ...]) -> tuple[SESpec, Inputs, str, bool]:
    """Make the case of a seed, and whether it is an exact probe, as one in 31 is.

    A fixed case has one of ``SHAPES`` shapes, and numbers drawn from the seed.
    """
    rng = np.random.default_rng(seed % SHAPES if fixed else seed)
    dtype = str(dtypes[(seed % SHAPES if fixed else seed) % len(dtypes)])
    spec = draw_spec(rng)
    shape = draw_shape(rng, spec.channels, dtype)
    if seed % 31 == 7 and not fixed and spec.channels <= 512:
        with contextlib.suppress(SpecError):  # raised if every draw is too close to a kink
            return spec, draw_probe(spec, len(shape) - 2, dtype, seed), dtype, True
    return spec, draw_inputs(np.random.default_rng((seed, 1)), spec, shape, dtype), dtype, False


def draw_probe(spec: SESpec, rank: int, dtype: str, seed: int) -> Inputs:
    """Make inputs on which sums are exact."""
    parts = probes.parts(dtype)
    return probes.probe_for(dtype, spec, part=parts[seed % len(parts)], rank=rank, seed=seed)


def judge_result(got: Result, against: Reference, what: str) -> Tally:
    """Compare one result with the oracle's."""
    tally = Tally(runs=1, gradients=int(got.dx is not None and against.want.dx is not None))
    for found in compare(got, against):
        quantity = found.quantity.partition(" ")[0]
        tally.worst[quantity] = max(found.ratio, tally.worst.get(quantity, 0.0))
        tally.conclusive += found.conclusive
        tally.inconclusive += found.inconclusive
        if not found.passed:
            values = f"{found.got!r}, {found.want!r} ± {found.bound:.1e}"
            tally.alarms.append(f"{what}: {found.quantity} at {found.where}: {values}")
    return tally


def make_plan(runs: int) -> list[tuple[Implementation, dict[str, object], list[int], bool]]:
    """Plan about ``runs`` runs: implementations, options, batches of seeds, and whether shapes are fixed."""
    work = []
    for name, share in SHARES.items():
        target = IMPLEMENTATIONS.get(name, Implementation("numpy", "numpy", "", ()))
        options: dict[str, object] = {**target.options, **({"mode": "eager"} if name in EAGER else {})}
        seeds = list(range(math.ceil(runs * share / sum(SHARES.values()))))
        work += [(target, options, seeds[begin : begin + 400], name in EAGER) for begin in range(0, len(seeds), 400)]
    for target in IMPLEMENTATIONS.values():
        options = {**target.options, "gradients": target.gradients}
        seeds = list(range(min(SHAPES, runs)))
        if target.costly or target.name in EAGER:
            work.append((target, options, seeds, True))
    return [batch for batch in work if not batch[0].missing]


def soak(runs: int, console: "Console", out: Path | None) -> int:
    """Run the plan, two processes at a time; return 1 if there was an alarm, 2 if nothing ran."""
    from rich.progress import Progress

    begun = time.monotonic()
    tallies: Tallies = {}
    work = make_plan(runs)
    by_target = [list(group) for _, group in itertools.groupby(work, key=lambda batch: batch[0].name)]
    by_target.sort(key=lambda group: -sum(len(seeds) * (20 if target.costly else 1) for target, _, seeds, _ in group))
    running: dict[Future[Tallies], Worker] = {}
    left: Counter[Worker] = Counter()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("runs", total=sum(len(seeds) for _, _, seeds, _ in work))
        done = 0
        while by_target or running:
            while by_target and len(left) < 2:
                group = by_target.pop(0)
                worker = Worker(group[0][0])
                for target, options, seeds, fixed in group:
                    running[worker.submit_call(run_batch, target.name, target.module, options, seeds, fixed)] = worker
                    left[worker] += 1
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker = running.pop(future)
                found = future.result()
                for key, tally in found.items():
                    tallies.setdefault(key, Tally()).merge(tally)
                    for alarm in tally.alarms:
                        console.print(f"ALARM {alarm}", style="red", highlight=False, soft_wrap=True)
                count = sum(tally.runs for tally in found.values())
                done += count
                progress.advance(task, count)
                if not console.is_terminal:
                    console.print(f"{done} runs, {time.monotonic() - begun:.0f} s", highlight=False)
                left[worker] -= 1
                if not left[worker]:
                    worker.close()
                    del left[worker]
    page = format_page(tallies, time.monotonic() - begun)
    console.print(page, highlight=False, soft_wrap=True)
    if out is not None:
        with write_atomically(out) as temporary:
            temporary.write_text(page)
    if not tallies:
        return 2
    return int(any(tally.alarms for tally in tallies.values()))


def format_page(tallies: Tallies, seconds: float) -> str:
    """Format the page in Markdown."""
    total = sum(tally.runs for tally in tallies.values())
    alarms = sum(len(tally.alarms) for tally in tallies.values())
    lines = [
        "# What correct implementations use of their bound",
        "",
        f"`make soak` ran correct blocks {total:,} times in {seconds / 60:.0f} minutes on 2 processors; {alarms} runs",
        "were false alarms. One run is one random block on one random input. The columns y, gate, dx and parameters",
        "have the largest ratio of a difference to its bound; a ratio above 1 is a false alarm. *Inconclusive* is the",
        "share of elements whose bound is too large to decide.",
        "",
        "| implementation | dtype | runs | with gradients | y | gate | dx | parameters | inconclusive | alarms |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (name, dtype), tally in sorted(tallies.items(), key=lambda item: (item[0][0], DTYPES.index(item[0][1]))):
        cells = (f"{tally.worst[key]:.2f}" if key in tally.worst else "–" for key in ("y", "g", "dx", "d"))
        share = tally.inconclusive / max(1, tally.inconclusive + tally.conclusive)
        lines.append(
            f"| {name} | {dtype} | {tally.runs:,} | {tally.gradients:,} | {' | '.join(cells)} "
            f"| {share:.1%} | {len(tally.alarms)} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; exit status 0 without a false alarm, 1 with one, 2 if nothing ran."""
    from rich.console import Console

    parser = argparse.ArgumentParser("python -m evidence.soak", description="count false alarms on random blocks")
    parser.add_argument("--runs", type=int, default=100_000, help="%(default)s")
    parser.add_argument("--out", type=Path, help="the file for the page")
    options = parser.parse_args(arguments)
    try:
        return soak(options.runs, Console(), options.out)
    except SpecError as error:
        print(f"evidence.soak: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    from evidence.soak import main as run  # not __main__'s functions, which no other process could import

    sys.exit(run())
