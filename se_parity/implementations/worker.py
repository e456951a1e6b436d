"""A process that holds one implementation's framework and answers what is asked of it."""

import importlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from se_conformance.cases import Inputs
from se_conformance.comparison import Result
from se_conformance.files import load_parameters
from se_spec import NetworkSpec, SESpec

from .base import Implementation, NetworkBuilder, device, dtype_of
from .process import Process

Run = Callable[..., Result]


class Worker:
    """A target's process; cases are answered in the order in which they were submitted.

    What is raised there is raised here with its text, as a ``WorkerError`` where it cannot be sent.
    """

    def __init__(self, implementation: Implementation, process: Process | None = None) -> None:
        self.implementation = implementation
        self._process = process or Process(_configure, implementation.environment)

    @classmethod
    def share(cls, started: Iterable["Worker"], implementation: Implementation) -> "Worker":
        """A worker for ``target``, in the process of one that is started if it can be asked there.

        NNX and linen compile the same operations, and in one process each of them once.
        """
        hosts = (
            worker._process for worker in started if worker.implementation.process_key == implementation.process_key
        )
        return cls(implementation, next(hosts, None))

    def submit(self, spec: SESpec, inputs: Inputs, *, gradients: bool = True, **changed: str) -> "Future[Result]":
        """The target's answer, later; its options may be changed for this one."""
        options = {**self.implementation.options, "gradients": gradients, **changed}
        return self._process.submit(_run, self.implementation.module, spec, inputs, options)

    def logits(
        self,
        net: NetworkSpec,
        parameters: dict[str, np.ndarray] | Path,
        x: np.ndarray,
        *,
        repeats: int = 0,
        **changed: str,
    ) -> "Future[Logits]":
        """What a network makes of images (N, H, W, C) at inference, in their dtype; and how long it takes.

        Parameters in a file (``files.save_parameters``) need not go through a pipe, and are cast to that dtype there.
        """
        options = {**self.implementation.options, **changed}
        return self._process.submit(_logits, self.implementation.module, net, parameters, x, options, repeats)

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Any importable function, in the target's process."""
        return self._process.submit(function, *arguments).result()

    def submit_call(self, function: Callable[..., Any], *arguments: object) -> "Future[Any]":
        """``call``, answered later."""
        return self._process.submit(function, *arguments)

    def versions(self) -> str:
        """What answers, and on which device, as in ``torch 2.13.0 (cpu)``."""
        return str(self.call(_versions, self.implementation.module))

    def close(self) -> None:
        """End the process."""
        self._process.close()


SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
"""Processes that share a GPU take memory as they need it; JAX's and TensorFlow's default is to take most of it."""


def _configure(environment: dict[str, str]) -> None:
    os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", **environment})
    for name, value in {"OMP_NUM_THREADS": "1", **SHARED_GPU}.items():
        os.environ.setdefault(name, value)
    if device() == "cpu":
        os.environ.update({"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"})


def load_module(module: str) -> Any:
    """The module that asks a framework, imported in this process."""
    return importlib.import_module(f"{__package__}.{module}")


def _versions(module: str) -> str:
    return str(load_module(module).versions())


class Logits(NamedTuple):
    """(N, classes), and the median time of the repeated calls in seconds; NaN without repeats."""

    values: np.ndarray
    seconds: float


def _logits(
    module: str,
    net: NetworkSpec,
    parameters: dict[str, np.ndarray] | Path,
    x: np.ndarray,
    options: dict[str, str],
    repeats: int,
) -> Logits:
    if isinstance(parameters, Path):
        parameters = {name: value.astype(x.dtype) for name, value in load_parameters(parameters).items()}
    predict = _build_network(module, net, dtype_of(parameters), tuple(options.items()))(parameters)
    values, times = predict(x), []
    for _ in range(repeats):
        begun = time.perf_counter()
        predict(x)
        times.append(time.perf_counter() - begun)
    return Logits(values, statistics.median(times) if times else math.nan)


@lru_cache(maxsize=1)  # the same network with other parameters comes next, if at all
def _build_network(module: str, net: NetworkSpec, dtype: str, options: tuple[tuple[str, str], ...]) -> NetworkBuilder:
    build: NetworkBuilder = load_module(module).network(net, dtype, **dict(options))
    return build


def _run(module: str, spec: SESpec, inputs: Inputs, options: dict[str, object]) -> Result:
    run: Run = load_module(module).run
    return run(spec, inputs, **options)
