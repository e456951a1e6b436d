"""Workers: each calls one implementation in a process that imports its framework alone."""

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
    """Calls an implementation in another process, in the order in which calls are submitted.

    Args:
        implementation: the implementation to run.
        process: the process to use; None starts one.

    Raises:
        Exception: each call raises the exception that the other process raised; one that cannot be sent is a
            ``WorkerError`` with its text.

    Example:
        >>> from se_parity.implementations import IMPLEMENTATIONS
        >>> worker = Worker(IMPLEMENTATIONS["torch"])  # its process imports PyTorch when it runs a block
        >>> worker.call(sum, [1, 2])
        3
        >>> worker.close()
    """

    def __init__(self, implementation: Implementation, process: Process | None = None) -> None:
        self.implementation = implementation
        self._process = process or Process(_configure, implementation.environment)

    @classmethod
    def share(cls, started: Iterable["Worker"], implementation: Implementation) -> "Worker":
        """Make a worker in the process of a started one, if the two may share it, else in a process of its own.

        NNX and linen compile the same operations, and in one process each of these once.

        Args:
            started: workers that have a process.
            implementation: the implementation to run.
        """
        hosts = (
            worker._process for worker in started if worker.implementation.process_key == implementation.process_key
        )
        return cls(implementation, next(hosts, None))

    def submit(self, spec: SESpec, inputs: Inputs, *, gradients: bool = True, **changed: str) -> "Future[Result]":
        """Submit one block and input.

        Args:
            spec: of the block.
            inputs: x, dy and parameters.
            gradients: whether gradients are computed, too.
            changed: options that replace the implementation's.
        """
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
        """Submit a network at inference: its logits, in the dtype of the images, and the median time.

        Args:
            net: the network.
            parameters: canonical, or a file of ``files.save_parameters``, which is not sent through a pipe; the other
                process casts them to the dtype of ``x``.
            x: images, shape (N, H, W, C).
            repeats: the number of calls of which the median time is taken; 0 measures none.
            changed: options that replace the implementation's.
        """
        options = {**self.implementation.options, **changed}
        return self._process.submit(_logits, self.implementation.module, net, parameters, x, options, repeats)

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function in the worker's process and wait for its result.

        Args:
            function: an importable function.
            arguments: positional arguments, which pickle sends.
        """
        return self._process.submit(function, *arguments).result()

    def submit_call(self, function: Callable[..., Any], *arguments: object) -> "Future[Any]":
        """Submit a call of a function in the worker's process.

        Args:
            function: an importable function.
            arguments: positional arguments, which pickle sends.
        """
        return self._process.submit(function, *arguments)

    def versions(self) -> str:
        """Return the versions and the device, as in ``torch 2.13.0 (cpu)``."""
        return str(self.call(_versions, self.implementation.module))

    def close(self) -> None:
        """End the process."""
        self._process.close()


SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
"""Lets processes share a GPU: JAX and TensorFlow allocate most of its memory by default."""


def _configure(environment: dict[str, str]) -> None:
    os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", **environment})
    for name, value in {"OMP_NUM_THREADS": "1", **SHARED_GPU}.items():
        os.environ.setdefault(name, value)
    if device() == "cpu":
        os.environ.update({"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"})


def load_module(module: str) -> Any:
    """Import an implementation's module, and with it the framework, in this process.

    Args:
        module: the ``module`` of an ``Implementation``.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: there is no such module, or its framework is not installed.

    Example:
        >>> load_module("base").dtype_of.__name__
        'dtype_of'
    """
    return importlib.import_module(f"{__package__}.{module}")


def _versions(module: str) -> str:
    return str(load_module(module).versions())


class Logits(NamedTuple):
    """The result of ``Worker.logits``.

    Args:
        values: the logits, (N, classes).
        seconds: the median time of the repeated calls; NaN without repeats.

    Example:
        >>> Logits(np.zeros((2, 10)), math.nan).values.shape
        (2, 10)
    """

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
        start = time.perf_counter()
        predict(x)
        times.append(time.perf_counter() - start)
    return Logits(values, statistics.median(times) if times else math.nan)


@lru_cache(maxsize=1)  # calls of one network follow each other
def _build_network(module: str, net: NetworkSpec, dtype: str, options: tuple[tuple[str, str], ...]) -> NetworkBuilder:
    build: NetworkBuilder = load_module(module).network(net, dtype, **dict(options))
    return build


def _run(module: str, spec: SESpec, inputs: Inputs, options: dict[str, object]) -> Result:
    run: Run = load_module(module).run
    return run(spec, inputs, **options)
