"""What every adapter makes of a block."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from se_spec import SESpec

Arrays = dict[str, np.ndarray]


def shapes_of(parameters: Arrays) -> dict[str, tuple[int, ...]]:
    """By name."""
    return {name: array.shape for name, array in parameters.items()}


def gate_of(block: Any, excitation: Callable[..., object]) -> Callable[..., object] | None:
    """``excitation`` if the block is this project's; a stranger's method of that name may be anything."""
    return excitation if isinstance(getattr(block, "spec", None), SESpec) else None


@dataclass(frozen=True)
class Adapted:
    """A block of some framework as functions of NumPy arrays; the block itself is never changed.

    Args:
        run: ``(x, parameters) -> y``; what a call of the whole is.
        vjp: ``(x, dy, parameters) -> (dx, dparameters)``, or None.
        excitation: ``(x, parameters) -> g``, or None.
        data_format: of x, dy, y and dx.
        begin: ``(spec, dtype, data_format)``, see ``prepare``.
        contradictions: ``(x) -> sentences``: what the framework's own operations, which the block uses, get wrong on an
            empty batch on this machine; or None, where that cannot be asked.
    """

    run: Callable[[np.ndarray, Arrays], object]
    vjp: Callable[[np.ndarray, np.ndarray, Arrays], tuple[np.ndarray, Arrays]] | None
    excitation: Callable[[np.ndarray, Arrays], object] | None
    data_format: str
    begin: Callable[[SESpec, str, str], None]
    contradictions: Callable[[np.ndarray], list[str]] | None = None

    def __call__(self, x: np.ndarray, parameters: Arrays) -> object:
        """``run``; what comes back is an array of the dtype that the block returned, or what else it returned."""
        return self.run(x, parameters)

    def prepare(self, spec: SESpec, dtype: str) -> None:
        """Forget the calls before, and refuse early.

        Raises:
            ParameterError: its parameters are not those of the spec, or it cannot be told which is which.
            SpecError: it cannot run in ``dtype``, or on maps of any size.
        """
        self.begin(spec, dtype, self.data_format)
