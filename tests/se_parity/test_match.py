"""Every implementation against the oracle, on cases that reveal mistakes, with identical weights."""

import itertools
import os
from collections import Counter
from concurrent.futures import Future
from dataclasses import replace

import pytest

import se_numpy
from se_conformance import Case, Result, compare, difference, reference
from se_conformance.cases import DTYPES, FACTORS, covering_array
from se_parity.implementations import IMPLEMENTATIONS, Worker
from se_spec import SESpec

from ..conftest import COMPILED_FULLY, COMPILED_QUICKLY, Cells, read_exporters_operators_once, requested_targets


def names(parameters: list) -> list[str]:
    return [one.values[0] for one in parameters]


CHEAP = [
    pytest.param(target.name, marks=pytest.mark.framework(target.family)) for target in requested_targets(costly=False)
]
every_strength = pytest.mark.parametrize(
    "strength", [pytest.param(2, id="pairs"), pytest.param(3, id="triples", marks=pytest.mark.slow)]
)
"""The combinations of values that the cases cover."""
some_or_all = pytest.mark.parametrize(
    "few", [pytest.param(True, id="some"), pytest.param(False, id="all", marks=pytest.mark.slow)]
)
"""The factors of cases that are compiled one by one."""
JITTED = {name for name, target in IMPLEMENTATIONS.items() if target.options.get("mode") == "jit"}
COSTLY = [
    pytest.param(target.name + (" jit" if target.name in JITTED else ""), marks=pytest.mark.framework(target.family))
    for target in requested_targets()
    if target.costly or target.name in JITTED
]


def special_cases() -> list[Case]:
    """Makes cases that the covering array omits: extreme sizes and a wide block."""
    spec = SESpec(12, hidden=5, bias=True)
    return [
        replace(case, dtype=dtype)
        for dtype in ("float64", "bfloat16")
        for case in (
            Case(spec, samples=1),
            Case(SESpec(1, hidden=1, bias=True)),
            Case(SESpec(1, hidden=3, squeeze="max")),
            Case(spec, spatial=(1, 1)),
            Case(spec.replace(squeeze="avg_max"), spatial=(1, 1)),
            Case(spec, spatial=(1, 7)),
            Case(spec, samples=0),
            Case(spec.replace(squeeze="max"), samples=0),
            Case(SESpec(12, hidden=12), spatial=(12, 12)),  # N H W C = 3 12 12 12: axes that could be mistaken
            Case(SESpec(600, hidden=37, bias=True, squeeze="avg_max"), samples=2, spatial=(3, 4)),
        )
    ]


def test_covering_array_covers_every_triple_in_few_rows() -> None:
    cases = covering_array()
    rows = [[factor_of(case, name) for name in FACTORS] for case in cases]
    for columns in itertools.combinations(range(len(FACTORS)), 3):
        seen = {tuple(row[column] for column in columns) for row in rows}
        assert seen == set(itertools.product(*(list(FACTORS.values())[column] for column in columns)))
    print(f"covering array: {len(cases)} cases for {len(FACTORS)} factors")
    assert len(cases) < 300


def test_cases_exceed_three_and_six_and_avoid_kinks() -> None:
    for case in covering_array():
        inputs = case.inputs()
        assert case._reveals(inputs)
        assert inputs.x.shape[1] != inputs.x.shape[-1]
        if case.spec.activation not in ("sigmoid", "tanh") and not case.spec.single_projection:
            trace = se_numpy.block.trace(inputs.x, case.spec, inputs.parameters, "channels_last")
            assert trace.pre.max() > 6.5
            assert abs(trace.logits).max() > 3.5


@pytest.mark.parametrize("dtype", DTYPES)
@every_strength
@pytest.mark.parametrize("name", CHEAP)
def test_matches_the_oracle_for_every_value(name: str, strength: int, dtype: str, answers, cells: Cells) -> None:
    cases = [case for case in covering_array(strength) if case.dtype == dtype]
    faults = [fault for case in cases for fault in judged(name, case, answers[name, case], cells)]
    assert not faults, report(faults)
    asked = ((name, dtype, rank, what) for rank in (1, 2, 3) for what in ("output", "gradient"))
    empty = [cell for cell in asked if cell not in cells]
    assert not empty, f"{name} in {dtype}: no case ran for {empty}"


@pytest.mark.parametrize("name", CHEAP)
def test_v5_matches_the_oracle_at_the_edges(name: str, answers, cells: Cells) -> None:
    faults = [fault for case in special_cases() for fault in judged(name, case, answers[name, case], cells)]
    assert not faults, report(faults)


@some_or_all
@pytest.mark.parametrize("name", COSTLY)
def test_compiled_and_exported_match_the_oracle(name: str, few: bool, answers, cells: Cells) -> None:
    faults = [fault for case in compiled_cases(name, few) for fault in judged(name, case, answers[name, case], cells)]
    assert not faults, report(faults)


@pytest.mark.parametrize("name", [name for name in COSTLY if name.values[0].endswith(" jit")])
def test_jitted_cases_are_compiled_with_users_settings(name: str, workers) -> None:
    assert [worker_of(workers, one).call(jax_optimizes) for one in (name, name.removesuffix(" jit"))] == [True, False]


@pytest.mark.framework("torch", "keras", "flax")
@every_strength
@pytest.mark.parametrize(("name", "other"), list(itertools.combinations(names(CHEAP), 2)))
def test_implementations_agree_with_each_other_in_float64(name: str, other: str, strength: int, answers) -> None:
    for case in covering_array(strength):
        if case.dtype == "float64":
            arrays = (answers[one, case].result().arrays() for one in (name, other))
            for (quantity, x), (_, y) in zip(*arrays, strict=True):
                assert difference(x, y) < 1e-12, f"{name} and {other} on {case}: {quantity}"


@pytest.mark.framework("flax")
@every_strength
def test_nnx_and_linen_agree_bit_for_bit(strength: int, answers) -> None:
    same_bits(covering_array(strength), "", answers)


@pytest.mark.framework("flax")
@some_or_all
def test_nnx_and_linen_agree_bit_for_bit_under_jit(few: bool, answers) -> None:
    same_bits(compiled_cases("nnx jit", few), " jit", answers)


def same_bits(cases: list[Case], mode: str, answers) -> None:
    for case in cases:
        nnx, linen = answers[f"nnx{mode}", case].result(), answers[f"linen{mode}", case].result()
        for a, b in ((nnx.y, linen.y), (nnx.g, linen.g), (nnx.dx, linen.dx)):
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), case
        assert all(nnx.dparameters[name].tobytes() == linen.dparameters[name].tobytes() for name in nnx.dparameters)


def factor_of(case: Case, name: str) -> object:
    if name == "activation" and case.spec.single_projection:
        return "single projection"
    return getattr(case if name in ("rank", "dtype") else case.spec, name)


Answers = dict[tuple[str, Case], "Future[Result]"]


@pytest.fixture(scope="module")
def answers(workers, request: pytest.FixtureRequest) -> Answers:
    """All results that the chosen tests compare, computed in the background while the first tests already judge.

    What usually runs under ``jax.jit`` answers the many cases op by op, which compiles each operation once and not each
    case anew, and quickly, as there is nothing to fuse; those at the edges, few of which have a size in common, and the
    few, these compiled as users have it, under jit.
    """
    if not IMPLEMENTATIONS["onnxruntime"].missing:
        worker_of(workers, "onnxruntime").submit_call(read_exporters_operators_once)
    plan: dict[tuple[str, Case], dict[str, str]] = {}
    for item in request.session.items:
        if item.path == request.path:
            plan |= plan_of(item.originalname, getattr(item, "callspec", None))
    return {
        (name, case): worker_of(workers, name).submit(
            case.spec, case.inputs(), gradients=IMPLEMENTATIONS[name.removesuffix(" jit")].gradients, **options
        )
        for (name, case), options in sorted(plan.items(), key=lambda entry: entry[0][0] in names(COSTLY))
    }


def plan_of(test: str, callspec) -> dict[tuple[str, Case], dict[str, str]]:
    """Map the implementations and cases that a test compares to the options with which they run."""
    parameters = callspec.params if callspec else {}
    name, strength, few = (parameters.get(key) for key in ("name", "strength", "few"))
    if test == "test_v5_matches_the_oracle_at_the_edges":
        return {(name, case): {} for case in special_cases()}
    if test == "test_compiled_and_exported_match_the_oracle":
        return {(name, case): {} for case in compiled_cases(name, few)}
    if test == "test_nnx_and_linen_agree_bit_for_bit_under_jit":
        return {(name, case): {} for name in ("nnx jit", "linen jit") for case in compiled_cases(name, few)}
    targets, dtypes = {
        "test_matches_the_oracle_for_every_value": ([name], [parameters.get("dtype")]),
        "test_implementations_agree_with_each_other_in_float64": ([name, parameters.get("other")], ["float64"]),
        "test_nnx_and_linen_agree_bit_for_bit": (["nnx", "linen"], DTYPES),
    }.get(test, ([], []))
    return {
        (target, case): {"mode": "eager"} if target in JITTED else {}
        for target in targets
        for case in covering_array(strength or 2)
        if case.dtype in dtypes
    }


def worker_of(workers, name: str) -> Worker:
    target = name.removesuffix(" jit")
    if target not in JITTED:
        return workers(target)  # a process that other files share; the settings below are JAX's
    return workers(target, **(COMPILED_QUICKLY if name == target else COMPILED_FULLY))


def jax_optimizes() -> bool:
    """Asked in a target's process."""
    import jax

    return not jax.config.read("jax_disable_most_optimizations") and "level=0" not in os.environ.get("XLA_FLAGS", "")


def compiled_cases(name: str, few: bool) -> list[Case]:
    """Every value of every factor once, for the targets that compile or export anew for each spec.

    The first few hold every dtype, number of axes and squeeze.
    """
    cases = covering_array(strength=1)
    if name != "onnxruntime":
        return cases[:4] if few else cases
    # onnxruntime has no bfloat16 kernels, and no double ones for Erf, HardSigmoid and LeakyRelu; and the exporter keeps
    # Python numbers as float32. So float64 is judged where no constant and none of these stand in the graph.
    single = [replace(case, dtype="float32" if i % 3 else "float16") for i, case in enumerate(cases)]
    kinds = [("relu", "sigmoid", "avg"), ("silu", "tanh", "max"), ("tanh", "relu", "avg_max")]
    double = [SESpec(12, hidden=5, bias=True, activation=a, gate=g, squeeze=s) for a, g, s in kinds]
    first, *others = [Case(spec, rank=1 + i, dtype="float64") for i, spec in enumerate(double)]
    return [first, *single[:3]] if few else [first, *single, *others]


def judged(name: str, case: Case, future: "Future[Result]", cells: Cells) -> list[str]:
    """Describes what is wrong with an answer and how to reproduce it; counts the case if nothing is."""
    inputs = case.inputs()
    try:
        got = future.result()
    except Exception as error:
        return [f"{name} on {case}: {type(error).__name__}: {error}"]
    against = reference(inputs, case.spec, case.dtype, gradients=got.dx is not None)
    gate_dtype = "float64" if case.dtype == "float64" else "float32"  # N-7
    expected = {"y": case.dtype, "g": gate_dtype, **({"dx": case.dtype} if got.dx is not None else {})}
    faults = [
        f"{name} on {case}: {quantity} is {getattr(got, quantity).dtype}, expected {dtype}"
        for quantity, dtype in expected.items()
        if getattr(got, quantity).dtype.name != dtype
    ]
    faults += [f"{name} on {case}: {one}" for one in compare(got, against) if not one.passed]
    if not faults:
        for what in ("output", "gradient") if got.dx is not None else ("output",):
            key = (name, case.dtype, case.rank, what)
            cells[key] = cells.get(key, 0) + 1
    return faults


def report(faults: list[str]) -> str:
    by_case = Counter(fault.partition(": ")[0] for fault in faults)
    return f"{len(faults)} faults in {len(by_case)} cases, the first: " + "\n".join(faults[:5])
