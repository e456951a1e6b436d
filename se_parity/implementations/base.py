"""Where each implementation is found, and what its module gives."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from se_conformance.cases import DTYPES

Predictor = Callable[[np.ndarray], np.ndarray]
"""Images (N, H, W, C) to logits (N, classes), at inference."""
NetworkBuilder = Callable[[dict[str, np.ndarray]], Predictor]
"""Parameters to what a network makes of images with them; what a target's ``network(net, dtype, **options)`` gives."""


@dataclass(frozen=True)
class Implementation:
    """Where an implementation is found.

    Args:
        name: as in the tables.
        family: the framework package that must be installed to ask for it, and the name for ``SE_TARGETS``.
        module: of ``se_parity.implementations``.
        needs: distributions' modules that must be importable.
        options: keywords of the module's ``run``.
        environment: variables of its process.
        costly: compiled or exported anew for each spec, so asked for few.
        gradients: whether it has any.
        dtypes: what it computes.
        devices: where it runs; of one that is not among them, on the cpu.
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
        """What would have to be installed."""
        return [module for module in self.needs if importlib.util.find_spec(module) is None]

    @property
    def process_key(self) -> tuple[str, ...]:
        """Targets of which this is the same can be asked in one process."""
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
    """``cuda`` where the environment variable DEVICE says so, else ``cpu``."""
    return os.environ.get("DEVICE", "cpu")


def dtype_of(parameters: dict[str, np.ndarray]) -> str:
    """In which a network's parameters are, all alike."""
    (dtype,) = {value.dtype.name for value in parameters.values()}
    return dtype
