"""Compares a block's answers with frozen vectors, and names the stage and the cause of a wrong one."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from se_numpy import error_bounds
from se_spec import SESpec
from se_spec.formats import FORMATS

from ..calls import CallResult, call_function
from ..cases import Inputs
from ..comparison import Comparison, Result, compare, compare_arrays, reference
from ..faults import CATALOGUE, Fault
from ..localization import failing_stage
from ..records import TrialRecord
from ..trial_inputs import Trial
from ..variants import forward_agrees
from .frozen import Vector

MAX_CAUSES = 3
"""How many causes the report of a vector names."""

Function = Callable[[np.ndarray, dict[str, np.ndarray], SESpec], Any]


@dataclass
class WrongAnswer:
    """A wrong answer to a vector.

    Args:
        vector: the inputs and the right answer.
        error: what is wrong, in one line.
        stage: the first stage that departs, ``"call"`` where nothing was returned that has y's form, or ``"unknown"``.
        causes: faults of the catalogue that give this answer.
    """

    vector: Vector
    error: str
    stage: str
    causes: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        causes = " or ".join(fault.name for fault in self.causes[:MAX_CAUSES])
        return f"{self.error}; stage {self.stage}, {f'agrees with: {causes}' if causes else 'none of the catalogue'}"


def select_vectors(vectors: Iterable[Vector], spec: SESpec | None = None, only: str = "*") -> list[Vector]:
    """Choose the vectors that apply to a block.

    Args:
        vectors: such as ``load()``.
        spec: the block; vectors of the same block with other widths are kept. None keeps all.
        only: a pattern of names, as in a shell.

    Returns:
        The chosen vectors in their order.

    Example:
        >>> from se_conformance import vectors
        >>> chosen = select_vectors(vectors.load(), SESpec(64, reduction=16, bias=True), "*bfloat16")
        >>> [vector.name for vector in chosen]
        ['activation relu bfloat16', '3 spatial axes bfloat16']
    """
    named = [vector for vector in vectors if fnmatchcase(vector.name, only)]
    return [vector for vector in named if spec is None or _is_same_kind(vector.spec, spec)]


def judge_answers(
    answer: Callable[[Vector], CallResult], vectors: Iterable[Vector], function: Function | None = None
) -> list[WrongAnswer]:
    """Compare answers with vectors, and search for the causes of the wrong ones.

    Args:
        answer: gives the answer to a vector.
        vectors: those that apply.
        function: gives further answers, which show the stage of a mistake that the catalogue lacks.

    Returns:
        The wrong answers in order; of several causes, those that explain most of the wrong answers come first.

    Example:
        >>> from se_conformance import vectors
        >>> wrong = judge_answers(lambda vector: CallResult(y=vector.x), vectors.load()[:1])
        >>> wrong[0].stage, wrong[0].causes[0].name
        ('scale', 'block not applied')
    """
    wrong = []
    for vector in vectors:
        call = answer(vector)
        error = describe_error(call, vector)
        if error:
            wrong.append(WrongAnswer(vector, error, *_explain(call, vector, function)))
    counts = Counter(fault.name for entry in wrong for fault in entry.causes)
    for entry in wrong:
        entry.causes.sort(key=lambda fault: -counts[fault.name])
        entry.stage = entry.causes[0].stage if entry.causes else entry.stage
    return wrong


def find_error(function: Function, vector: Vector) -> str:
    """Compare ``function(x, parameters, spec)`` with a vector.

    Args:
        function: returns y, (N, *space, C), in the vector's dtype.
        vector: the inputs and the right answer.

    Returns:
        What is wrong, in one line; empty if nothing is.

    Example:
        >>> from se_conformance import vectors
        >>> find_error(lambda x, p, spec: 2 * x, vectors.load()[0]).split(":")[0]
        'y[0, 1, 2, 1]'
    """
    return describe_error(call_with_spec(function, vector), vector)


def call_with_spec(function: Function, vector: Vector) -> CallResult:
    """Call ``function(x, parameters, spec)`` on a vector's inputs."""
    return call_function(lambda x, parameters: function(x, parameters, vector.spec), _make_inputs(vector))


def describe_error(call: CallResult, vector: Vector) -> str:
    """Say in one line what is wrong with an answer; empty if nothing is."""
    if call.raised:
        return f"raised {call.raised}"
    if call.y is None:
        return f"returned {call.returned}, expected an array"
    if (call.y.shape, call.y.dtype) != (vector.y.shape, vector.y.dtype):
        return f"{call.y.dtype} {call.y.shape}, expected {vector.y.dtype} {vector.y.shape}"
    found = _compare(call.y, vector)
    if found.passed:
        return ""
    numbers = f"got {found.got:.9g}, want {found.want:.9g}, bound {found.bound:.2g}, ratio {found.ratio:.3g}"
    return f"y{list(found.where)}: {numbers}"


def _compare(y: np.ndarray, vector: Vector) -> Comparison:
    r = error_bounds.make_rounding(vector.dtype, None, "dtype", "storage")
    bound = error_bounds.compute_bounds(
        vector.x, None, vector.spec, vector.parameters, r, "channels_last", exact=True
    ).y
    want = vector.y.astype(np.float64)
    bound = bound + FORMATS[vector.dtype].unit * np.abs(want)  # the expected y was rounded once
    return compare_arrays("y", y, want, bound, np.full_like(bound, np.inf))


def _explain(call: CallResult, vector: Vector, function: Function | None) -> tuple[str, list[Fault]]:
    """Find the stage, and every fault of the catalogue that gives the answer."""
    y, inputs, spec = call.y, _make_inputs(vector), vector.spec
    if y is None or (y.shape, y.dtype) != (vector.y.shape, vector.y.dtype):
        return "call", []
    expected = reference(inputs, spec, vector.dtype, gradients=False, exact=True)
    record = TrialRecord(Trial(vector.name, inputs, exact=True), expected, call, result=Result(y=y), failed=True)
    record.comparisons = compare(record.result, expected, partial=True)
    causes = []
    for fault in CATALOGUE.values():
        applies = fault.stage not in ("call", "gradient") and fault.is_detectable(spec, vector.dtype)
        if applies and any(forward_agrees((form,), spec, vector.dtype, [record]) for form in fault.variants()):
            causes.append(fault)
    if causes or function is None:
        return causes[0].stage if causes else "unknown", causes
    return failing_stage([record], spec, lambda x, parameters: function(x, parameters, spec), None, "channels_last"), []


def _make_inputs(vector: Vector) -> Inputs:
    return Inputs(vector.x, np.zeros_like(vector.x), vector.parameters)


def _is_same_kind(one: SESpec, other: SESpec) -> bool:
    """Whether two specs differ in their widths alone."""
    if one.single_projection or other.single_projection:
        return one.replace(channels=other.channels) == other
    return one.replace(channels=other.channels, hidden=other.hidden) == other
