"""The verdict about a block whose parameters are other ones than the spec's: no input can be tried on it."""

from typing import Any

from se_spec import SESpec

from .adapters import AdaptedBlock, Departure, DepartureError
from .diagnosis import Diagnosis
from .faults import Fault
from .findings import Finding
from .verdict import PARAMETERS, Verdict


class ParameterFault(Fault):
    """A mistake that shows in the shapes of a block's parameters; it cannot be injected into a right block."""


def find_departure(function: Any, spec: SESpec, dtype: str) -> Departure | None:
    """Prepare an adapted block for ``check``.

    Args:
        function: what is judged; a plain function has no parameters, and needs no preparation.
        spec: what the block should be.
        dtype: of the block's parameters.

    Returns:
        The departure, if the block's parameters are those of another block.

    Raises:
        SpecError: the block cannot be judged.
        ParameterError: the block's parameters are those of no block, or cannot be matched.
    """
    if isinstance(function, AdaptedBlock):
        try:
            function.prepare(spec, dtype)
        except DepartureError as error:
            return error.departure
    return None


def fail_parameters(verdict: Verdict, departure: Departure) -> None:
    """Add the failure of the one trial, ``PARAMETERS``, and its cause.

    Args:
        verdict: without trials.
        departure: of the block's parameters.
    """
    rank = verdict.ranks[0]
    verdict.ran.append((rank, PARAMETERS))
    verdict.findings.append(Finding(rank, PARAMETERS, "call", message=departure.sentence))
    source = "the shapes of the block's parameters"
    fault = ParameterFault(departure.name, departure.stage, departure.sentence, source, departure.remedy, _keep)
    verdict.diagnosis = Diagnosis((fault,), (0.0,), False, departure.stage, agrees=True)


def _keep(block: object) -> None:
    """Change nothing: no right block has these parameters."""
