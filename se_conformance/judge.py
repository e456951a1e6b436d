"""Is this Squeeze-and-Excitation right? One call, any framework: ``check``."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from se_spec import SESpec, SpecError

from . import diagnosis
from .adapters import Adapted, adapted
from .calls import Outcome, called, called_gate, called_vjp, laid_out
from .comparison import Precision, Reference, Result, compare, reference
from .deviations import read_deviations
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
    seed: int = 0,
    deviations: str | Path | None = None,
    diagnose: bool = True,
) -> Verdict:
    """Judge a block against the oracle, to a bound derived for each input, and name what is wrong.

    Args:
        function: ``function(x, parameters) -> y``, NumPy in and out; ``parameters`` is the canonical dict in ``dtype``.
            Or what ``se_conformance.adapt`` takes: a torch module, a Keras layer or model, an NNX or linen module, an
            ONNX file.
        spec: which block it should be.
        vjp: ``vjp(x, dy, parameters) -> (dx, dparameters)``: gradients are judged too.
        excitation: ``excitation(x, parameters) -> g``, (N, C): lets the verdict say at which stage it departs.
        dtype: of x and parameters: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        data_format: ``"channels_last"`` (for a plain function, unless given) or ``"channels_first"``.
        ranks: how many spatial axes to try.
        products: ``"dtype"``, or the precision that it declares for its products: ``"tf32"``, ``"bfloat16"``.
        intermediates: in half precision, ``"storage"`` where each is rounded to it, ``"float32"`` where they are kept.
        seed: of the inputs.
        deviations: a text file of trials that are known to fail, one per line (``se_conformance.deviations``).
        diagnose: whether to look for the cause of a failure.

    Returns:
        The verdict. It never raises for what ``function`` does.

    Raises:
        SpecError: an argument that is none of the above.

    >>> import se_numpy
    >>> spec = SESpec(8, hidden=2)
    >>> def mine(x, parameters):
    ...     return se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last").astype(x.dtype)
    >>> check(mine, spec).passed
    True
    """
    _refuse_arguments(spec, ranks, seed, vjp=vjp, excitation=excitation)
    function, vjp, excitation, data_format = adapted(function, spec, dtype, vjp, excitation, data_format)
    precision = Precision(products, intermediates)
    verdict = Verdict(spec, dtype, seed, tuple(ranks), precision, data_format)
    known = read_deviations(deviations)
    for rank in ranks:
        run = Run(function, vjp, excitation, spec, dtype, data_format)
        for trial, against in prepared(spec, dtype, rank, seed, precision, vjp is not None):
            verdict.findings += run.judge(trial, against, rank)
            verdict.ran.append((rank, trial.name))
        verdict.unjudged |= {(rank, name): why for name, why in run.unjudged.items()}
        if diagnose:
            _settle(verdict, run, rank)
    verdict.apply(known)
    return verdict


@lru_cache(maxsize=2)  # one block after another is judged by the same spec, forward and backward
def prepared(
    spec: SESpec, dtype: str, rank: int, seed: int, precision: Precision, gradients: bool
) -> list[tuple[Trial, Reference]]:
    """Every trial, and what a right block answers."""
    return [
        (
            trial,
            reference(trial.inputs, spec, dtype, precision, gradients=gradients and trial.gradients, exact=trial.exact),
        )
        for trial in trials(spec, dtype, rank, seed)
    ]


class Run:
    """All trials of one rank, in order: a function that remembers shows it."""

    def __init__(
        self,
        function: Callable[..., Any],
        vjp: Callable[..., Any] | None,
        excitation: Callable[..., Any] | None,
        spec: SESpec,
        dtype: str,
        data_format: str,
    ) -> None:
        self.function, self.vjp, self.excitation = function, vjp, excitation
        self.spec, self.dtype, self.data_format = spec, dtype, data_format
        self.seen: list[TrialRecord] = []
        self.unjudged: dict[str, str] = {}

    def judge(self, trial: Trial, against: Reference, rank: int) -> list[Finding]:
        """Everything that is asked on one input."""
        wants_gradients = self.vjp is not None and trial.gradients
        outcome = called(self.function, trial.inputs, self.data_format)
        found = _structure("y", outcome, trial.inputs.x, self.dtype)
        result = Result(y=outcome.y if _fits(outcome.y, trial.inputs.x) else None)
        if self.excitation is not None:
            g, wrong = self._gate(trial, against)
            found, result = found + wrong, result._replace(g=g)
        seen = TrialRecord(trial, against, outcome)
        if wants_gradients and self.vjp is not None:
            seen.gradient, dparameters = called_vjp(self.vjp, trial.inputs, self.data_format)
            found += _structure("dx", seen.gradient, trial.inputs.x, self.dtype)
            if dparameters is not None:
                found += _names(dparameters, trial.inputs.parameters)
                fitting = {
                    name: dparameters[name]
                    for name, array in trial.inputs.parameters.items()
                    if name in dparameters and dparameters[name].shape == array.shape
                }
                result = result._replace(
                    dx=seen.gradient.y if _fits(seen.gradient.y, trial.inputs.x) else None, dparameters=fitting
                )
        comparisons = compare(result, self._for_returned(against, result), partial=True)
        seen.result, seen.comparisons, seen.malformed = result, comparisons, bool(found)
        seen.failed = bool(found) or any(not one.passed for one in comparisons)
        why = self._contradictions(trial) if seen.failed else ""
        if why:
            self.unjudged[trial.name] = why
        else:
            self.seen.append(seen)
        told = [Finding(rank, trial.name, "call", message=message) for message in found]
        return told + [Finding(rank, trial.name, one.quantity, one) for one in comparisons]

    def _contradictions(self, trial: Trial) -> str:
        """What the framework itself gets wrong on an empty batch; its numbers are what its users get."""
        x, function = trial.inputs.x, self.function
        if len(x) or not isinstance(function, Adapted) or function.contradictions is None:
            return ""
        return "; ".join(function.contradictions(laid_out(x, self.data_format)))

    def _gate(self, trial: Trial, against: Reference) -> tuple[np.ndarray | None, list[str]]:
        assert self.excitation is not None
        outcome, want = called_gate(self.excitation, trial.inputs, self.data_format), against.want.g
        assert want is not None
        if outcome.raised:
            return None, [f"excitation raised {outcome.raised}"]
        if outcome.y is None:
            return None, [f"excitation returned {outcome.returned}, expected an array"]
        g = outcome.y
        if g.size == want.size and g.shape != want.shape:  # (N, 1, 1, C), (N, C, 1, 1)
            g = g.reshape(want.shape)
        if g.shape != want.shape:
            return None, [f"excitation returned shape {g.shape}, expected {want.shape}"]
        return g, []

    def _for_returned(self, against: Reference, result: Result) -> Reference:
        """A gate that is handed out in half precision was rounded once more."""
        g, want, bound = result.g, against.want.g, against.bound.g
        if g is None or want is None or bound is None or g.dtype.itemsize > 2:
            return against
        rounding = 2.0**-8 if g.dtype.name == "bfloat16" else 2.0**-11
        return against._replace(bound=against.bound._replace(g=bound + rounding * (np.abs(want) + bound)))


def _structure(quantity: str, outcome: Outcome, x: np.ndarray, dtype: str) -> list[str]:
    """What is wrong before any number is compared."""
    if outcome.raised:
        return [f"{quantity}: raised {outcome.raised}"]
    found = [f"{quantity}: {name} was modified" for name in outcome.modified]
    if outcome.y is None:
        return [*found, f"{quantity}: returned {outcome.returned}, expected an array"]
    if outcome.y.shape != x.shape:
        found.append(f"{quantity}: shape {outcome.y.shape}, expected {x.shape} (channels last)")
    if outcome.y.dtype != x.dtype:
        found.append(f"{quantity}: dtype {outcome.y.dtype}, expected {dtype}")
    return found


def _names(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> list[str]:
    found = [] if got.keys() == want.keys() else [f"gradients of {sorted(got)}, expected {sorted(want)}"]
    shapes = ((name, got[name].shape, want[name].shape) for name in want if name in got)
    return found + [f"d {name}: shape {have}, expected {due}" for name, have, due in shapes if have != due]


def _fits(array: np.ndarray | None, x: np.ndarray) -> bool:
    return array is not None and array.shape == x.shape


def _refuse_arguments(spec: Any, ranks: Any, seed: Any, **functions: Any) -> None:
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
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise SpecError(f"{name}={function!r} is not allowed; it must be a function")


def _settle(verdict: Verdict, run: Run, rank: int) -> None:
    """Ask for the cause, once, of the first rank that failed."""
    if verdict.diagnosis is None and any(seen.failed for seen in run.seen):
        verdict.diagnosis = diagnosis.diagnose(
            run.seen, run.spec, run.dtype, run.function, run.excitation, run.data_format
        )
        verdict.diagnosed = rank
