"""Trains a small SE-ResNet on digits in one framework and runs the weights in every implementation.

``python -m se_parity.demo`` also trains the same network without SE from several seeds.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

try:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("the demo needs rich: pip install 'se-suite[parity]'", name=error.name) from error

import se_numpy
from se_conformance.files import load_parameters, save_parameters
from se_spec import NetworkSpec
from se_spec.command_line import make_parser, parse_or_help, run_program

from . import plots
from .datasets import BATCH, Digits, draw_batches, load_digits, small_network
from .implementations import IMPLEMENTATIONS, Logits, Worker
from .training import TRAINERS, Parameters, SGDConfig, train

EXTRAS = dict.fromkeys(("matplotlib", "sklearn"), "parity")
"""The modules that the demo needs besides, and the extra that has them."""
EPOCHS = 12
SEEDS = 5
REPEATS = 5
MIN_ACCURACY = 0.97
"""A lower accuracy means that the training is wrong."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 1 if a prediction differs from the oracle's, or the accuracy is too low; 2 if the command
        was wrong; 130 interrupted; 141 the reader of the output has gone.
    """
    parser = make_parser(
        "python -m se_parity.demo", "Train a small SE-ResNet on digits in one framework and run it in every one."
    )
    parser.add_argument(
        "--framework", choices=[*TRAINERS, "flax"], default="torch", help="the framework that trains (%(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each network (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="%(default)s")
    parser.add_argument(
        "--folder", type=Path, default=Path("out/demo"), help="the folder for weights and pictures (%(default)s)"
    )
    return run_program("python -m se_parity.demo", lambda: _run(parse_or_help(parser, arguments)), EXTRAS)


def _run(options: argparse.Namespace) -> int:
    console = Console() if sys.stdout.isatty() else Console(width=100)
    return demo(
        {"flax": "nnx"}.get(options.framework, options.framework),
        options.seeds,
        options.epochs,
        options.folder,
        console,
    )


def demo(trainer: str, seeds: int, epochs: int, folder: Path, console: Console) -> int:
    """Train, saves, runs everywhere, compares with and without SE, and draws; see ``main``."""
    data, net, weights = load_digits(), small_network(), folder / "se_resnet8.safetensors"
    os.environ.update(IMPLEMENTATIONS[TRAINERS[trainer]].environment)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        start, steps = time.monotonic(), count_steps(data, epochs)
        training_batches = progress.track(
            draw_batches(data.x, data.labels, steps), total=steps, description=f"train in {trainer}"
        )
        trained = train(trainer, net, se_numpy.initialize(net, seed=0), SGDConfig(), training_batches)
        console.print(
            f"trained in {trainer}: SE-ResNet-8, {steps} steps of {BATCH} digits, {time.monotonic() - start:.0f} s, "
            f"loss {trained.losses[0]:.2f} to {statistics.mean(trained.losses[-40:]):.4f}"
        )
        save_parameters(weights, trained.parameters)
        console.print(f"saved: {weights}, {weights.stat().st_size:,} bytes")
        parameters = load_parameters(weights)
        start = time.perf_counter()
        want = se_numpy.senet(data.x_held_out, net, parameters, data_format="channels_last")
        oracle = Logits(want, time.perf_counter() - start)
        same = run_everywhere(net, parameters, oracle, data, progress, console)
        compare_without_se(trainer, seeds, epochs, data, progress, console)
    gates = se_numpy.networks.gates(data.x_held_out, net, parameters, data_format="channels_last")
    draw(gates, data.labels_held_out, folder, console)
    learned = accuracy(want, data) >= MIN_ACCURACY
    if not same:
        console.print("the predictions of an implementation differ from the oracle's", style="red")
    if not learned:
        console.print(f"fewer than {MIN_ACCURACY:.0%} of the held-out digits are right", style="red")
    return int(not (same and learned))


def count_steps(data: Digits, epochs: int) -> int:
    """Count the batches in all epochs."""
    return epochs * (len(data.x) // BATCH)


def accuracy(logits: np.ndarray, data: Digits) -> float:
    """Compute the share of held-out digits that are classified correctly."""
    return float((logits.argmax(1) == data.labels_held_out).mean())


def run_everywhere(
    net: NetworkSpec, parameters: Parameters, oracle: Logits, data: Digits, progress: Progress, console: Console
) -> bool:
    """Run the saved weights in every implementation in turn, and returns whether all predict what the oracle does."""
    want = oracle.values
    table = Table(title=f"the same weights on {len(want)} held-out digits", title_justify="left")
    for heading in ("implementation", "accuracy", "other predictions", "logit error", "time"):
        table.add_column(heading, justify="left" if heading == "implementation" else "right", overflow="fold")
    table.add_row("numpy (the oracle)", f"{accuracy(want, data):.1%}", "0", "–", _format_ms(oracle.seconds))
    same = True
    for implementation in progress.track(list(IMPLEMENTATIONS.values()), description="run everywhere"):
        if implementation.missing:
            table.add_row(implementation.name, *"––––")
            continue
        worker = Worker(implementation)
        got: Logits = worker.logits(net, parameters, data.x_held_out, repeats=REPEATS).result()
        worker.close()
        others = int((got.values.argmax(1) != want.argmax(1)).sum())
        error = float(abs(got.values - want).max() / abs(want).max())
        same &= others == 0
        table.add_row(
            implementation.name,
            f"{accuracy(got.values, data):.1%}",
            str(others),
            f"{error:.1e}",
            _format_ms(got.seconds),
        )
    console.print(table)
    console.print(
        f"float32; logit error relative to the largest; time of all {len(want)}, median of {REPEATS}, one thread"
    )
    return same


def compare_without_se(
    trainer: str, seeds: int, epochs: int, data: Digits, progress: Progress, console: Console
) -> None:
    """Train with SE and without from the same seeds, and prints the difference with its standard error."""
    nets = [small_network(), small_network(se=None)]
    workers = [Worker(IMPLEMENTATIONS[TRAINERS[trainer]]) for _ in nets]
    futures = [
        [worker.submit_call(train_and_time, trainer, net, seed, epochs) for seed in range(seeds)]
        for net, worker in zip(nets, workers, strict=True)
    ]
    order = [future for pair in zip(*futures, strict=True) for future in pair]
    for future in progress.track(order, description="with SE and without"):
        future.result()
    (right, seconds), (plain_right, plain_seconds) = (
        zip(*(future.result() for future in each), strict=True) for each in futures
    )
    for worker in workers:
        worker.close()
    table = Table(title=f"SE-ResNet-8 and ResNet-8 from {seeds} seeds", title_justify="left")
    for heading in ("", "parameters", "multiply-adds", "accuracy per seed", "mean", "training"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for name, net, each, times in (
        ("with SE", nets[0], right, seconds),
        ("without", nets[1], plain_right, plain_seconds),
    ):
        shares = " ".join(f"{100 * share:.1f}" for share in each)
        mean, median = statistics.mean(each), statistics.median(times)
        table.add_row(name, f"{net.parameter_count():,}", f"{net.macs():,}", shares, f"{mean:.2%}", f"{median:.1f} s")
    console.print(table)
    console.print(describe_effect([100 * (a - b) for a, b in zip(right, plain_right, strict=True)]))


def describe_effect(differences: list[float]) -> str:
    """Describe the effect of SE from differences of accuracy, in points, one per seed.

    >>> describe_effect([0.2, -0.2, 0.4, 0.0, -0.4])
    'SE changes the accuracy by +0.00 ± 0.14 points (mean and its standard error): nothing that these seeds can show'
    >>> describe_effect([1.0, 1.2, 0.8, 1.1, 0.9])
    'SE changes the accuracy by +1.00 ± 0.07 points (mean and its standard error)'
    """
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"SE changes the accuracy by {mean:+.2f} points; one seed cannot say whether that is chance"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    text = f"SE changes the accuracy by {mean:+.2f} ± {error:.2f} points (mean and its standard error)"
    return text if abs(mean) > 3 * error else f"{text}: nothing that these seeds can show"


def train_and_time(trainer: str, net: NetworkSpec, seed: int, epochs: int) -> tuple[float, float]:
    """Train from a seed; return the accuracy and the seconds, the first steps included."""
    data, starts = load_digits(), []

    def timed_batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in draw_batches(data.x, data.labels, count_steps(data, epochs), seed):
            starts.append(time.perf_counter())
            yield batch

    trained = train(trainer, net, se_numpy.initialize(net, seed=seed), SGDConfig(), timed_batches())
    logits = se_numpy.senet(data.x_held_out, net, trained.parameters, data_format="channels_last")
    return accuracy(logits, data), statistics.median(np.diff(starts)) * len(starts)


def draw(gates: dict[str, np.ndarray], labels: np.ndarray, folder: Path, console: Console) -> None:
    """Draw the pictures, and print which channels each digit opens most."""
    paths = plots.save_pictures(folder, gates, labels=labels)
    late = list(gates)[-1]
    above = plots.above_average(gates[late], labels)
    console.print(f"channels of {late} that a digit opens most, and how far above their mean gate:")
    for digit, row in enumerate(above):
        most = np.argsort(row)[::-1][:4]
        console.print(f"  {digit}: " + ", ".join(f"{channel} +{row[channel]:.2f}" for channel in most), highlight=False)
    console.print(f"pictures: {', '.join(map(str, paths))}")


def _format_ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


if __name__ == "__main__":
    from se_parity.demo import main as run  # not __main__'s train_and_time, which no other process could import

    sys.exit(run())
