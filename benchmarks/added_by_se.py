"""What SE adds to ResNet-50 in time: with and without, in one process, in shuffled rounds, on one processor.

The paper (section 5) gives 164 ms without and 167 ms with, +1.8 %, for one image on a CPU.
"""

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import se_numpy
from se_conformance.targets import TARGETS, Worker, load
from se_spec import NetworkSpec, network

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
}
"""A target, and what is asked of it instead of its own options."""
TRAINING = "torch, a step of training with 8 images"

Times = dict[str, list[tuple[float, float]]]
"""Processor and wall seconds, by network."""


def measure(ways: Iterable[str] = (*WAYS, TRAINING), rounds: int = 15, size: int = 224) -> dict[str, Times]:
    """Every way's times, each in a process of its own."""
    found = {}
    for way in ways:
        name, changed = WAYS.get(way, ("torch", {}))
        worker = Worker(TARGETS[name])
        if way == TRAINING:
            found[way] = worker.call(_of_training, max(2, rounds // 3), size)
        else:
            found[way] = worker.call(_of_inference, name, changed, rounds, size)
        worker.close()
        print(way, *cells(found[way]), sep="; ", file=sys.stderr)
    return found


def cells(times: Times) -> list[str]:
    """Of a row; what SE adds is the median over the rounds of processor time, and its quartiles."""
    pairs = list(zip(times["with"], times["without"], strict=True))
    added = [with_se / without - 1.0 for (with_se, _), (without, _) in pairs]
    low, middle, high = statistics.quantiles(added, n=4)
    medians = (statistics.median(own for own, _ in times[key]) for key in ("without", "with"))
    return [*(f"{1000 * one:.0f} ms" for one in medians), f"{middle:+.1%}", f"{low:+.1%} to {high:+.1%}"]


def _nets() -> dict[str, NetworkSpec]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before the framework counts processors
    return {"without": network("resnet50"), "with": network("se_resnet50")}


def _of_inference(name: str, changed: dict[str, str], rounds: int, size: int) -> Times:
    """In the target's process: verify both networks, then time them in turns."""
    x = np.random.default_rng(0).normal(0.0, 1.0, (1, size, size, 3)).astype(np.float32)
    calls = {}
    for key, net in _nets().items():
        parameters = se_numpy.initialize(net, seed=0)
        options = {**TARGETS[name].options, **changed}
        predict = load(TARGETS[name].module).network(net, "float32", **options)(parameters)
        want = se_numpy.senet(x, net, parameters, data_format="channels_last")
        off = abs(predict(x) - want).max() / abs(want).max()
        if not off < 1e-3:
            raise AssertionError(f"{name} {key} SE is {off:.1e} off")
        calls[key] = lambda predict=predict: predict(x)
    return _in_turns(calls, rounds)


def _of_training(rounds: int, size: int) -> Times:
    import torch

    import se_torch

    torch.set_num_threads(1)
    x = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    calls = {}
    for key, net in _nets().items():
        model = se_torch.SENet(net)

        def step(model: torch.nn.Module = model) -> None:
            model.zero_grad()
            model(x).logsumexp(1).sum().backward()

        calls[key] = step
    return _in_turns(calls, rounds)


def _in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> Times:
    times: Times = {key: [] for key in calls}
    turns, order = random.Random(0), list(calls)
    for call in calls.values():
        call()
    for _ in range(rounds):
        turns.shuffle(order)
        for key in order:
            wall, own = time.perf_counter(), time.process_time()
            calls[key]()
            times[key].append((time.process_time() - own, time.perf_counter() - wall))
    return times
