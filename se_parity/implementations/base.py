"""The table of implementations, and the types that their modules share."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from se_conformance.cases import DTYPES

Predictor = Callable[[np.ndarray], np.ndarray]
"""``(images) -> logits``: (N, H, W, C) to (N, classes), at inference."""
NetworkBuilder = Callable[[dict[str, np.ndarray]], Predictor]
"""``(parameters) -> predictor``; the function ``network(net, dtype, **options)`` of a module returns one."""


@dataclass(frozen=True)
class Implementation:
    """One implementation and how to run it.

    Args:
        name: its name in tables.
        family: the framework that it belongs to; ``SE_TARGETS`` names families.
        module: its module in ``se_parity.implementations``.
        needs: modules that must be importable.
        options: keywords for the module's ``run``.
        environment: environment variables of its process.
        costly: whether it compiles or exports each spec, so that it runs on few.
        gradients: whether it computes gradients.
        dtypes: the dtypes that it computes.
        devices: the devices that it supports; on another it runs on the CPU.

    Example:
        >>> IMPLEMENTATIONS["keras jax"].environment["KERAS_BACKEND"]
        'jax'
    """

    name: str
    family: str
    module: str
    needs: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    costly: bool = False
    gradients: bool = True
    dtypes: tuple[str, ...] = DTYPES
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def missing(self) -> list[str]:
        """The needed modules that are not installed."""
        return [module for module in self.needs if importlib.util.find_spec(module) is None]

    @property
    def process_key(self) -> tuple[str, ...]:
        """Implementations with an equal key may share a process."""
        return self.module, *(f"{name}={value}" for name, value in sorted(self.environment.items()))


_JAX = {"JAX_ENABLE_X64": "1"}

IMPLEMENTATIONS = {
    target.name: target
    for target in (
        Implementation("torch", "torch", "torch", ("torch",)),
        Implementation("torch channels_last", "torch", "torch", ("torch",), {"layout": "channels_last"}),
        Implementation("torch compiled", "torch", "torch", ("torch",), {"mode": "compile"}, costly=True),
        Implementation(
            "onnxruntime",
            "torch",
            "onnx",
            ("torch", "onnx", "onnxscript", "onnxruntime"),
            costly=True,
            gradients=False,
            dtypes=("float64", "float32", "float16"),
            devices=("cpu",),
        ),
        Implementation(
            "keras tensorflow", "keras", "keras", ("keras", "tensorflow"), {}, {"KERAS_BACKEND": "tensorflow"}
        ),
        Implementation(
            "keras tensorflow XLA",
            "keras",
            "keras",
            ("keras", "tensorflow"),
            {"mode": "xla"},
            {"KERAS_BACKEND": "tensorflow"},
            costly=True,
        ),
        Implementation(
            "keras jax", "keras", "keras", ("keras", "jax"), {"mode": "jit"}, {"KERAS_BACKEND": "jax", **_JAX}
        ),
        Implementation("keras torch", "keras", "keras", ("keras", "torch"), {}, {"KERAS_BACKEND": "torch"}),
        Implementation("nnx", "flax", "flax", ("flax",), {"api": "nnx", "mode": "jit"}, _JAX),
        Implementation("linen", "flax", "flax", ("flax",), {"api": "linen", "mode": "jit"}, _JAX),
    )
}


def device() -> str:
    """Return the device on which implementations run: the environment variable DEVICE.

    Returns:
        ``"cuda"`` or ``"cpu"``, which is the default.

    Example:
        >>> device() in ("cpu", "cuda")
        True
    """
    return os.environ.get("DEVICE", "cpu")


def dtype_of(parameters: dict[str, np.ndarray]) -> str:
    """Return the dtype that all parameters of a network have.

    Args:
        parameters: canonical parameters, at least one.

    Returns:
        The name of the dtype, such as ``"float32"``.

    Raises:
        ValueError: the parameters have several dtypes.

    Example:
        >>> dtype_of({"classifier.bias": np.zeros(10, np.float32)})
        'float32'
    """
    (dtype,) = {value.dtype.name for value in parameters.values()}
    return dtype
