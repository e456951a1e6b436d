"""The judge: ``check`` compares a block with the oracle on every trial, and looks for the cause of a failure."""

import dataclasses
import os
import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from se_spec import SESpec, SpecError

from . import diagnosis
from .adapters import AdaptedBlock, resolve_callables
from .calls import CallResult, call_excitation, call_function, call_vjp, to_data_format
from .comparison import Precision, Reference, Result, allow_rounded_gate, compare, reference
from .departed_parameters import fail_parameters, find_departure
from .deviations import read_deviations
from .excerpts import excerpt_elements, excerpt_gate
from .guard import TIMEOUT_SECONDS, Guard
from .observations import observe
from .records import TrialRecord
from .trial_inputs import Trial, trials
from .verdict import Finding, Verdict


def check(
    function: Any,
    spec: SESpec,
    vjp: Callable[..., Any] | None = None,
    excitation: Callable[..., Any] | None = None,
    dtype: str = "float32",
    data_format: str | None = None,
    ranks: Sequence[int] = (2,),
    products: str = "dtype",
    intermediates: str = "storage",
    seed: int | None = None,
    deviations: str | Path | None = None,
    diagnose: bool = True,
    timeout: float = TIMEOUT_SECONDS,
) -> Verdict:
    """Judge a block against the oracle, with a bound derived for each input, and name the mistake.

    Args:
        function: ``function(x, parameters) -> y``, NumPy in and out: x and y of one shape, (N, *space, C) or
            (N, C, *space), and one dtype; ``parameters`` is the canonical dict in ``dtype``. Or what
            ``se_conformance.adapt`` accepts: a torch module, a Keras layer or model, an NNX or linen module, an ONNX
            file.
        spec: which block it should be.
        vjp: ``vjp(x, dy, parameters) -> (dx, dparameters)``; with it gradients are judged, too.
        excitation: ``excitation(x, parameters) -> g``, (N, C); with it the verdict can name the stage that is wrong.
        dtype: the dtype of x and the parameters: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        data_format: ``"channels_last"``, the default for a function, or ``"channels_first"``.
        ranks: the numbers of spatial axes to try, of 1, 2 and 3.
        products: ``"dtype"``, or the precision that the block declares for its products: ``"tf32"``, ``"bfloat16"``.
        intermediates: in half precision, ``"storage"`` if intermediates may be rounded to it, ``"float32"`` if not.
        seed: the seed of the inputs, at least 0; None takes the environment's SE_CHECK_SEED, or draws one, which the
            verdict has.
        deviations: a text file of trials that are known to fail, one per line (``se_conformance.deviations``).
        diagnose: whether to search for the cause of a failure.
        timeout: seconds that one call may take; after one that takes longer no other is made. In the main thread the
            call is interrupted by SIGALRM, elsewhere it is left alone.

    Returns:
        The verdict. Whatever ``function`` does, an exception included, is part of it and is not raised; settings of
        the process that it changes are put back. Only KeyboardInterrupt passes.

    Raises:
        SpecError: an argument is none of the above.
        ParameterError: the parameters of an adapted block are those of no block, or it is not clear which is which.

    Example:
        >>> import se_numpy
        >>> spec = SESpec(8, hidden=2)
        >>> def block(x, parameters):
        ...     return se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last").astype(x.dtype)
        >>> check(block, spec).passed
        True
    """
    seed = choose_seed() if seed is None else seed
    _check_arguments(spec, ranks, seed, timeout, vjp=vjp, excitation=excitation)
    function, vjp, excitation, data_format = resolve_callables(function, dtype, vjp, excitation, data_format)
    precision = Precision(products, intermediates)
    verdict = Verdict(spec, dtype, seed, tuple(ranks), precision, data_format)
    known, guard = read_deviations(deviations), Guard(timeout, verdict.notes)
    departure = find_departure(function, spec, dtype)
    if isinstance(function, AdaptedBlock):
        verdict.notes += function.notes
    if departure is not None:
        fail_parameters(verdict, departure)
        verdict.excuse(known)
        return verdict
    records: dict[tuple[int, str], TrialRecord] = {}
    for rank in ranks:
        runner = TrialRunner(function, vjp, excitation, spec, dtype, data_format, guard)
        own_ways = tuple(function.ways) if isinstance(function, AdaptedBlock) else ()
        for trial, expected in trials_with_references(spec, dtype, rank, seed, precision, vjp is not None, own_ways):
            if guard.timed_out:
                verdict.unreached.append((rank, trial.name))
                continue
            verdict.findings += runner.run(trial, expected, rank)
            verdict.ran.append((rank, trial.name))
        records |= {(rank, record.trial.name): record for record in runner.records}
        verdict.unjudged |= {(rank, name): reason for name, reason in runner.unjudged.items()}
        if diagnose and verdict.diagnosis is None:  # the first rank that fails is enough
            verdict.diagnosis = runner.diagnose()
    verdict.excuse(known)
    if verdict.worst is not None:
        record = records[verdict.worst.rank, verdict.worst.trial]
        verdict.worst_elements = excerpt_elements(record, verdict.worst)
        verdict.worst_gate = excerpt_gate(record, verdict.worst, spec)
    return verdict


def choose_seed() -> int:
    """Return the environment's SE_CHECK_SEED, or draw a seed, so that no block can know the inputs.

    Raises:
        SpecError: SE_CHECK_SEED is no integer.
    """
    given = os.environ.get("SE_CHECK_SEED", "")
    if given and not given.isdecimal():
        raise SpecError(f"SE_CHECK_SEED={given!r} is not allowed; it must be an integer, at least 0")
    return int(given) if given else secrets.randbelow(1 << 31)


@lru_cache(maxsize=4)  # one block after another is judged by the same spec, forward and backward
def trials_with_references(
    spec: SESpec,
    dtype: str,
    rank: int,
    seed: int,
    precision: Precision,
    gradients: bool,
    own_ways: tuple[str, ...] = (),
) -> list[tuple[Trial, Reference]]:
    """List every trial of one rank with the oracle's answer and its bounds."""
    return [
        (
            trial,
            reference(trial.inputs, spec, dtype, precision, gradients=gradients and trial.gradients, exact=trial.exact),
        )
        for trial in trials(spec, dtype, rank, seed, own_ways)
    ]


class TrialRunner:
    """Runs all trials of one rank in order, so that a block that keeps state shows it.

    Args:
        function, vjp, excitation, spec, dtype, data_format: as in ``check``; nothing is left to a default.
        guard: of the calls; None if the function is trusted.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        vjp: Callable[..., Any] | None,
        excitation: Callable[..., Any] | None,
        spec: SESpec,
        dtype: str,
        data_format: str,
        guard: Guard | None = None,
    ) -> None:
        self.guard = guard
        self.function, self.vjp, self.excitation = function, vjp, excitation
        self.spec, self.dtype, self.data_format = spec, dtype, data_format
        self.records: list[TrialRecord] = []
        self.unjudged: dict[str, str] = {}

    def run(self, trial: Trial, expected: Reference, rank: int) -> list[Finding]:
        """Call the block on one trial and compares everything that it returns."""
        x = trial.inputs.x
        function = self._choose_function(trial)
        forward = call_function(function, trial.inputs, self.data_format, self.guard, trial.way)
        record = TrialRecord(trial, expected, forward)
        errors = _structural_errors("y", forward, x, self.dtype)
        result = Result(y=forward.y if _has_shape_of(forward.y, x) else None)
        if self.excitation is not None:
            g, gate_errors = self._call_excitation(self.excitation, trial, expected)
            errors, result = errors + gate_errors, result._replace(g=g)
        if self.vjp is not None and trial.gradients:
            record.backward, dparameters = call_vjp(self.vjp, trial.inputs, self.data_format, self.guard, trial.way)
            errors += _structural_errors("dx", record.backward, x, self.dtype)
            if dparameters is not None:
                errors += _gradient_errors(dparameters, trial.inputs.parameters)
                usable = {
                    name: dparameters[name]
                    for name, array in trial.inputs.parameters.items()
                    if name in dparameters and dparameters[name].shape == array.shape
                }
                dx = record.backward.y if _has_shape_of(record.backward.y, x) else None
                result = result._replace(dx=dx, dparameters=usable)
        record.result, record.is_malformed = result, bool(errors)
        record.comparisons = compare(result, allow_rounded_gate(expected, result.g), partial=True)
        record.failed = bool(errors) or not all(comparison.passed for comparison in record.comparisons)
        reason = self._find_contradictions(trial, forward) if record.failed else ""
        if reason:
            self.unjudged[trial.name] = reason
        else:
            self.records.append(record)
        findings = [Finding(rank, trial.name, "call", message=error) for error in errors]
        return findings + [Finding(rank, trial.name, entry.quantity, entry) for entry in record.comparisons]

    def _choose_function(self, trial: Trial) -> Callable[..., Any]:
        """Choose the function of a trial: an adapted block has others for ways of its own."""
        function = self.function
        return function.ways.get(trial.way, function) if isinstance(function, AdaptedBlock) else function

    def diagnose(self) -> diagnosis.Diagnosis | None:
        """Search for the cause; None where no judged trial failed."""
        if not any(record.failed for record in self.records):
            return None
        if self.guard is not None and self.guard.timed_out:  # it would not answer again
            return diagnosis.Diagnosis((), (), False, "call")
        found = diagnosis.diagnose(
            self.records, self.spec, self.dtype, self.function, self.excitation, self.data_format
        )
        return dataclasses.replace(found, seen=observe(self.records, self.spec))

    def _find_contradictions(self, trial: Trial, forward: CallResult) -> str:
        """Describe how the framework contradicts itself on an empty batch; on other inputs its numbers are judged."""
        x, function = trial.inputs.x, self.function
        is_usual = len(x) and trial.way not in ("graph", "XLA")
        if is_usual or not isinstance(function, AdaptedBlock) or function.find_contradictions is None:
            return ""
        return "; ".join(function.find_contradictions(to_data_format(x, self.data_format), trial.way, forward.raised))

    def _call_excitation(
        self, excitation: Callable[..., Any], trial: Trial, expected: Reference
    ) -> tuple[np.ndarray | None, list[str]]:
        """Call ``excitation``; return the gate, (N, C), and the errors that need no comparison of numbers."""
        call, want = call_excitation(excitation, trial.inputs, self.data_format, self.guard), expected.want.g
        assert want is not None
        changed = [f"excitation: {name} is changed by the call" for name in call.changed]
        if call.raised:
            return None, [f"excitation raised {call.raised}", *changed]
        if call.y is None:
            return None, [f"excitation returned {call.returned}, expected an array"]
        g = call.y
        if g.size == want.size and g.shape != want.shape:  # (N, 1, 1, C), (N, C, 1, 1)
            g = g.reshape(want.shape)
        if g.shape != want.shape:
            return None, [f"excitation returned shape {g.shape}, expected {want.shape}"]
        return g, changed


def _structural_errors(quantity: str, call: CallResult, x: np.ndarray, dtype: str) -> list[str]:
    """List the errors that need no comparison of numbers: an exception, a changed argument, a shape, a dtype."""
    errors = [f"{quantity}: {name} is changed by the call" for name in call.changed]
    if call.raised:
        return [f"{quantity}: raised {call.raised}", *errors]
    errors += [f"{quantity}: {name} was modified" for name in call.modified]
    if call.y is None:
        return [*errors, f"{quantity}: returned {call.returned}, expected an array"]
    if call.y.shape != x.shape:
        errors.append(f"{quantity}: shape {call.y.shape}, expected {x.shape} (channels last)")
    if call.y.dtype != x.dtype:
        errors.append(f"{quantity}: dtype {call.y.dtype}, expected {dtype}")
    return errors


def _gradient_errors(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> list[str]:
    errors = [] if got.keys() == want.keys() else [f"gradients of {sorted(got)}, expected {sorted(want)}"]
    shapes = ((name, got[name].shape, want[name].shape) for name in want if name in got)
    return errors + [f"d {name}: shape {have}, expected {due}" for name, have, due in shapes if have != due]


def _has_shape_of(array: np.ndarray | None, x: np.ndarray) -> bool:
    return array is not None and array.shape == x.shape


def _check_arguments(spec: Any, ranks: Any, seed: Any, timeout: Any, **functions: Any) -> None:
    if not isinstance(spec, SESpec):
        raise SpecError(f"spec={spec!r} is not allowed; it must be an SESpec")
    if (
        not isinstance(ranks, (tuple, list))
        or not ranks
        or any(type(r) is not int or r not in (1, 2, 3) for r in ranks)
    ):
        raise SpecError(f"ranks={ranks!r} is not allowed; it must hold 1, 2 or 3")
    if not isinstance(seed, int) or seed < 0:
        raise SpecError(f"seed={seed!r} is not allowed; it must be an integer, at least 0")
    if not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
        raise SpecError(f"timeout={timeout!r} is not allowed; it must be a positive number of seconds")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise SpecError(f"{name}={function!r} is not allowed; it must be a function")
