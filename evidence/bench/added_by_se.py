"""Measures the time that SE adds to ResNet-50: with and without, in one process, in shuffled rounds.

The paper (section 5) gives 164 ms without and 167 ms with, +1.8 %, for one image on a CPU.
"""

import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

import se_numpy
from se_parity.implementations import IMPLEMENTATIONS, Worker, load_module
from se_parity.training import TRAINERS, SGDConfig, start
from se_spec import NetworkSpec, network

from .rounds import Timing, time_in_turns

WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "torch": ("torch", {}),
    "torch channels_last": ("torch channels_last", {}),
    "torch compiled": ("torch compiled", {}),
    "onnxruntime": ("onnxruntime", {}),
    "keras tensorflow, eager": ("keras tensorflow", {}),
    "keras tensorflow, tf.function": ("keras tensorflow", {"mode": "graph"}),
    "keras tensorflow, XLA": ("keras tensorflow XLA", {}),
    "keras jax, jit": ("keras jax", {}),
    "keras torch": ("keras torch", {}),
    "nnx, jit": ("nnx", {}),
    "linen, jit": ("linen", {}),
    "linen, jit, apart": ("linen", {}),
}
"""Maps each way to an implementation and the options that replace its own."""
ENVIRONMENT = {"linen, jit, apart": {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="}}
"""Additional environment variables; this one keeps XLA from fusing operations for a library."""
TRAINING = {f"{trainer}, a step of training": trainer for trainer in TRAINERS}
"""Maps each training row to its trainer."""
IMAGES = 8
"""Images per training step."""
NETS = {"without": "resnet50", "with": "se_resnet50"}

Times = dict[str, dict[str, list[int]]]
"""Maps each network to the fields of its ``Timing``."""


def measure(
    ways: Iterable[str] = (*WAYS, *TRAINING), rounds: int = 45, size: int = 224, names: dict[str, str] = NETS
) -> dict[str, Times]:
    """Time every way in a process of its own.

    Raises:
        AssertionError: logits differ from the oracle's, or first losses differ between trainers.
    """
    found, losses = {}, None
    for way in ways:
        trainer = TRAINING.get(way)
        target, changed = WAYS[way] if trainer is None else (TRAINERS[trainer], {})
        environment = IMPLEMENTATIONS[target].environment | ENVIRONMENT.get(way, {})
        worker = Worker(replace(IMPLEMENTATIONS[target], environment=environment))
        if trainer is None:
            found[way] = worker.call(_time_inference, target, changed, rounds, size, names)
        else:
            found[way], first = worker.call(_time_training, trainer, max(2, rounds // 5), size, names)
            losses = losses or first
            if not np.allclose(first, losses, rtol=1e-3, atol=0.0):
                raise AssertionError(f"{way}: losses of {first}, and {losses} of the first trainer")
        worker.close()
        print(way, *format_cells(found[way]), sep="; ", file=sys.stderr)
    return found


def format_cells(times: Times) -> list[str]:
    """Format a row: medians, and the median and quartiles over the rounds of the time that SE adds."""
    without, with_se = (Timing(**times[key]) for key in ("without", "with"))
    added = [a / b - 1.0 for a, b in zip(with_se.processor, without.processor, strict=True)]
    low, middle, high = statistics.quantiles(added, n=4)
    medians = (f"{timing.median / 1000:.0f} ms" for timing in (without, with_se))
    return [*medians, f"{middle:+.1%}", f"{low:+.1%} to {high:+.1%}"]


def _load_networks(names: dict[str, str]) -> dict[str, NetworkSpec]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before the framework counts processors
    return {key: network(name) for key, name in names.items()}


def _time_inference(target: str, changed: dict[str, str], rounds: int, size: int, names: dict[str, str]) -> Times:
    """Verify both networks and time them in turns, in the implementation's process."""
    x = np.random.default_rng(0).normal(0.0, 1.0, (1, size, size, 3)).astype(np.float32)
    calls: dict[str, Callable[[], object]] = {}
    for key, net in _load_networks(names).items():
        parameters = se_numpy.initialize(net, seed=0)
        options = {**IMPLEMENTATIONS[target].options, **changed}
        predict = load_module(IMPLEMENTATIONS[target].module).network(net, "float32", **options)(parameters)
        want = se_numpy.senet(x, net, parameters, data_format="channels_last")
        off = abs(predict(x) - want).max() / abs(want).max()
        if not off < 1e-3:
            raise AssertionError(f"{target} {key} SE is {off:.1e} off")
        calls[key] = partial(predict, x)
    return _time_in_turns(calls, rounds)


def _time_training(trainer: str, rounds: int, size: int, names: dict[str, str]) -> tuple[Times, list[float]]:
    """Time training steps; returns the times and the losses of the first step; runs in the trainer's process."""
    random = np.random.default_rng(0)
    x, labels = random.normal(0.0, 1.0, (IMAGES, size, size, 3)).astype(np.float32), random.integers(0, 1000, IMAGES)
    config = SGDConfig(learning_rate=2.0**-10)
    calls: dict[str, Callable[[], object]] = {}
    losses = []
    for key, net in _load_networks(names).items():
        step = start(trainer, net, se_numpy.initialize(net, seed=0), config).step
        losses.append(step(x, labels))
        calls[key] = partial(step, x, labels)
    return _time_in_turns(calls, rounds), losses


def _time_in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    timings = time_in_turns(calls, rounds, dict.fromkeys(calls, 1), before=0)
    return {key: timing._asdict() for key, timing in timings.items()}
