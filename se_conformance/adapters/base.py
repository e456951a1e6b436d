"""The form that every adapter gives a block: functions of NumPy arrays and canonical parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from se_spec import SESpec

Arrays = dict[str, np.ndarray]


def shapes_of(parameters: Arrays) -> dict[str, tuple[int, ...]]:
    """Map each parameter's name to its shape."""
    return {name: array.shape for name, array in parameters.items()}


def own_excitation(block: Any, excitation: Callable[..., object]) -> Callable[..., object] | None:
    """``excitation`` if the block is this project's, else None: another block's method of that name may do anything."""
    return excitation if isinstance(getattr(block, "spec", None), SESpec) else None


@dataclass(frozen=True)
class AdaptedBlock:
    """A block of some framework as functions of NumPy arrays; the block itself is never changed.

    Args:
        run: ``(x, parameters) -> y``; calling the adapted block calls this.
        vjp: ``(x, dy, parameters) -> (dx, dparameters)``, or None.
        excitation: ``(x, parameters) -> g``, (N, C), or None.
        data_format: the layout of x, dy, y and dx: ``"channels_last"`` or ``"channels_first"``.
        reset: ``(spec, dtype, data_format)``: does what ``prepare`` says.
        find_contradictions: ``(x, way, raised) -> sentences``: how operations of the framework that the block uses
            contradict the framework itself on this machine, on an empty batch or in a graph. None where the framework
            offers no such check.
        notes: what is noted of the block beside the verdict, such as weights that it computes; ``reset`` fills it.
        ways: other functions like ``run``, by names of ``trial_inputs.OWN_WAYS``: in training mode, in a graph, ...
    """

    run: Callable[[np.ndarray, Arrays], object]
    vjp: Callable[[np.ndarray, np.ndarray, Arrays], tuple[np.ndarray, Arrays]] | None
    excitation: Callable[[np.ndarray, Arrays], object] | None
    data_format: str
    reset: Callable[[SESpec, str, str], None]
    find_contradictions: Callable[[np.ndarray, str, str], list[str]] | None = None
    ways: Mapping[str, Callable[[np.ndarray, Arrays], object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __call__(self, x: np.ndarray, parameters: Arrays) -> object:
        """Call ``run``: an array in the dtype that the block returned, or whatever else it returned."""
        return self.run(x, parameters)

    def prepare(self, spec: SESpec, dtype: str) -> None:
        """Drop the state of earlier calls and check that the block can be judged.

        Raises:
            ParameterError: the block's parameters are not those of the spec, or cannot be matched to them.
            SpecError: the block cannot run in ``dtype``, or not on maps of any size.
        """
        self.reset(spec, dtype, self.data_format)
