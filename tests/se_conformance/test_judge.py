"""The judge's interface: what passes, what fails and why, what the verdict prints, what is refused. NumPy alone."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import se_conformance
from se_conformance import check, trial
from se_conformance.cases import DTYPES
from se_conformance.comparison import Precision, compare_arrays
from se_conformance.distance import Distance
from se_conformance.faults import CATALOGUE, inject
from se_conformance.faults.factors import FIXED_DROPOUT, HIDDEN_SCALE, TEMPERATURE
from se_conformance.verdict import Finding, Verdict
from se_spec import HardSigmoid, LeakyReLU, SESpec, SpecError

ROOT = Path(__file__).parents[2]
SPEC = SESpec(8, hidden=3, bias=True)
Array, Arrays = np.ndarray, dict[str, np.ndarray]


def relu(u: Array) -> Array:
    return np.maximum(u, 0)


def sigmoid(v: Array) -> Array:
    e = np.exp(-np.abs(v))
    return np.where(v >= 0, 1, e) / (1 + e)


def same(array: Array) -> Array:
    return array


def mean(x: Array) -> Array:
    return x.mean(tuple(range(1, x.ndim - 1)))


class Block:
    """A block written for these tests: float32 inside, float64 for float64, one rounding at the end.

    Every part can be exchanged; ``stored`` rounds each intermediate to x's type, ``operand`` what a product takes.
    """

    def __init__(
        self,
        squeeze: Callable[[Array], Array] = mean,
        activation: Callable[[Array], Array] = relu,
        gate: Callable[[Array], Array] = sigmoid,
        operand: Callable[[Array], Array] = same,
        stored: bool = False,
        data_format: str = "channels_last",
    ) -> None:
        self.squeeze, self.activation, self.gate, self.operand = squeeze, activation, gate, operand
        self.stored, self.first = stored, data_format == "channels_first"

    def __call__(self, x: Array, parameters: Arrays) -> Array:
        with np.errstate(all="ignore"):
            wide, p = self._widened(x, parameters)
            return self._given_back(wide * over(self._run(wide, p, x.dtype)[-1], wide), x.dtype)

    def excitation(self, x: Array, parameters: Arrays) -> Array:
        with np.errstate(all="ignore"):
            return self._run(*self._widened(x, parameters), x.dtype)[-1]

    def vjp(self, x: Array, dy: Array, parameters: Arrays) -> tuple[Array, Arrays]:
        wide, p = self._widened(x, parameters)
        dy, _ = self._widened(dy, {})
        z, u, g = self._run(wide, p, x.dtype)
        axes = tuple(range(1, x.ndim - 1))
        dv = (dy * wide).sum(axes) * g * (1 - g)
        du = dv @ p["expand.weight"] * (u > 0)
        dz = du @ p["reduce.weight"] / np.prod([wide.shape[axis] for axis in axes]).astype(wide.dtype)
        found = {"reduce.weight": du.T @ z, "reduce.bias": du.sum(0)}
        found |= {"expand.weight": dv.T @ relu(u), "expand.bias": dv.sum(0)}
        dparameters = {name: array.astype(x.dtype) for name, array in found.items()}
        return self._given_back(dy * over(g, wide) + over(dz, wide), x.dtype), dparameters

    def _run(self, x: Array, p: Arrays, dtype: Any) -> tuple[Array, Array, Array]:
        def kept(array: Array) -> Array:
            return array.astype(dtype).astype(x.dtype) if self.stored else array

        def projected(name: str, h: Array) -> Array:
            return self.operand(h) @ self.operand(p[f"{name}.weight"]).T + p.get(f"{name}.bias", 0)

        z = kept(self.squeeze(x))
        u = kept(projected("reduce", z))
        return z, u, kept(self.gate(kept(projected("expand", kept(self.activation(u))))))

    def _widened(self, x: Array, parameters: Arrays) -> tuple[Array, Arrays]:
        dtype = "float64" if x.dtype == np.float64 else "float32"
        x = np.moveaxis(x, 1, -1) if self.first else x
        return x.astype(dtype), {name: array.astype(dtype) for name, array in parameters.items()}

    def _given_back(self, y: Array, dtype: Any) -> Array:
        return (np.moveaxis(y, -1, 1) if self.first else y).astype(dtype)


def over(g: Array, x: Array) -> Array:
    return np.expand_dims(g, tuple(range(1, x.ndim - 1)))


RIGHT = Block()


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_block_passes(dtype: str, data_format: str) -> None:
    block = Block(data_format=data_format)
    verdict = check(block, SPEC, block.vjp, block.excitation, dtype, data_format, ranks=(1, 2, 3))
    verdict.raise_if_failed()
    assert verdict.passed
    assert 0 < verdict.worst_ratio <= 1
    assert verdict.conclusive > 50_000
    assert verdict.inconclusive < 0.01 * verdict.conclusive
    assert (verdict.not_run, verdict.causes, verdict.stage, verdict.failures) == ((), (), "", [])
    asked = {one.quantity for one in verdict.findings}
    assert asked == {"y", "g", "dx", "d reduce.weight", "d reduce.bias", "d expand.weight", "d expand.bias"}
    assert {rank for rank, _ in verdict.ran} == {1, 2, 3}
    assert str(verdict).startswith(f"passed: {SPEC!r} in {dtype}, seed 0\n")
    assert f"{len(verdict.ran)} of {len(verdict.ran)} trials right" in str(verdict)


@pytest.mark.parametrize("channels", [1, 2, 64, 640])
def test_a_right_block_of_any_width_passes(channels: int) -> None:
    check(RIGHT, SESpec(channels, reduction=16), excitation=RIGHT.excitation).raise_if_failed()


def test_a_pass_says_what_was_not_run() -> None:
    verdict = check(RIGHT, SPEC, ranks=(1,))
    assert verdict.passed
    assert verdict.not_run == (2, 3)
    assert "2-D not run, 3-D not run" in str(verdict)


def test_numpy_warnings_do_not_fail_a_right_block() -> None:
    def warned(x: Array, parameters: Arrays) -> Array:  # inf - inf, where the input holds inf; warnings are errors here
        z = mean(x)
        h = relu(z @ parameters["reduce.weight"].T + parameters["reduce.bias"])
        return x * over(sigmoid(h @ parameters["expand.weight"].T + parameters["expand.bias"]), x)

    check(warned, SPEC).raise_if_failed()


# what a wrong block is told

SILU = Block(activation=lambda u: u * sigmoid(u))


def test_verdict_names_place_size_and_cause_of_a_mistake() -> None:
    verdict = check(SILU, SPEC, excitation=SILU.excitation)
    text = str(verdict)
    assert not verdict.passed
    assert verdict.causes[0] == "activation is silu"
    assert verdict.stage == "activation"
    assert verdict.worst_ratio > 1e3
    worst = verdict.failures[0].comparison
    assert worst is not None
    at = ", ".join(map(str, worst.where))
    assert text.startswith(f"FAILED: {SPEC!r} in float32, seed 0\n")
    assert f"{verdict.failures[0].quantity}[{at}]" in text
    assert f"got {worst.got:.9g}, want {worst.want:.9g}, bound {worst.bound:.2g}, ratio {worst.ratio:.3g}" in text
    assert worst.ratio == pytest.approx(abs(worst.got - worst.want) / worst.bound)
    for part in ("agrees with: activation is silu", CATALOGUE["activation is silu"].remedy, "stage    activation"):
        assert part in text
    with pytest.raises(AssertionError) as raised:
        verdict.raise_if_failed()
    assert str(raised.value) == text


@pytest.mark.parametrize(
    ("spec", "dtype", "rank", "seed"),
    [
        (SPEC, "float32", 2, 0),
        (SESpec(8, hidden=3, gate=HardSigmoid(slope=0.2, offset=0.5), activation=LeakyReLU(0.1)), "bfloat16", 3, 5),
        (SESpec(6, single_projection=True, gain=2.0), "float64", 1, 1),
    ],
)
def test_reproduction_line_of_the_verdict_gives_the_same_inputs(spec: SESpec, dtype: str, rank: int, seed: int) -> None:
    def not_applied(x: Array, parameters: Arrays) -> Array:
        return x

    verdict = check(not_applied, spec, dtype=dtype, ranks=(rank,), seed=seed)
    (line,) = (line for line in str(verdict).splitlines() if line.startswith("  again"))
    names: dict[str, Any] = {"se_conformance": se_conformance, "SESpec": SESpec}
    exec(line.removeprefix("  again").strip(), names | {"HardSigmoid": HardSigmoid, "LeakyReLU": LeakyReLU}, names)
    one = verdict.failures[0]
    for got, want in zip(
        (names["x"], names["dy"]), trial(one.trial, spec, dtype, one.rank, seed).inputs[:2], strict=True
    ):
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes()
    assert one.comparison is not None
    assert float(not_applied(names["x"], names["parameters"])[one.comparison.where]) == pytest.approx(
        one.comparison.got, nan_ok=True
    )


def test_diagnose_false_skips_the_diagnosis() -> None:
    verdict = check(SILU, SPEC, excitation=SILU.excitation, diagnose=False)
    assert not verdict.passed
    assert (verdict.causes, verdict.stage, verdict.diagnosis) == ((), "", None)
    assert "cause" not in str(verdict)
    found = {"causes": 0, "stage": 0, "seen": 0}
    assert verdict.to_dict() | found == check(SILU, SPEC, excitation=SILU.excitation).to_dict() | found


@pytest.mark.parametrize("block", [RIGHT, SILU], ids=["right", "wrong"])
def test_verdict_is_deterministic(block: Block) -> None:
    first, second = (check(block, SPEC, block.vjp, block.excitation) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert str(first) == str(second)
    assert first.to_json() != check(block, SPEC, block.vjp, block.excitation, seed=1).to_json()


KEYS = {"passed", "spec", "dtype", "seed", "products", "intermediates", "data_format", "ranks", "not_run", "trials"}
KEYS |= {
    "causes",
    "stage",
    "seen",
    "worst_ratio",
    "conclusive",
    "inconclusive",
    "failures",
    "known",
    "unjudged",
    "outlived",
    "notes",
}
NUMBERS = {"ratio", "got", "want", "bound", "where", "conclusive", "inconclusive"}


def strict(text: str) -> Any:
    """JSON as the standard has it: neither NaN nor Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_report_is_json() -> None:
    def wrong(x: Array, parameters: Arrays) -> Array:
        if len(x) == 1:
            raise ValueError("one sample")
        return np.full_like(x, np.nan)

    report = strict(check(wrong, SPEC, vjp=RIGHT.vjp, excitation=RIGHT.excitation).to_json())
    assert report.keys() == KEYS
    assert report["passed"] is False
    assert report["worst_ratio"] == "inf"
    assert report["spec"] == SPEC.to_dict()
    assert (report["ranks"], report["not_run"], report["seed"], report["dtype"]) == ([2], [1, 3], 0, "float32")
    for one in report["failures"]:
        assert one.keys() >= {"rank", "trial", "quantity", "message"}
        assert one["message"] or one.keys() >= NUMBERS
    assert any(one.get("got") == "nan" and one["ratio"] == "inf" for one in report["failures"])
    assert any("one sample" in one["message"] for one in report["failures"])
    passed = strict(check(RIGHT, SPEC).to_json())
    assert passed.keys() == KEYS
    assert (passed["passed"], passed["failures"], passed["causes"], passed["stage"]) == (True, [], [], "")


# whatever it does, there is a verdict


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class NoArray:
    def __array__(self, *arguments: Any, **options: Any) -> Array:
        raise RuntimeError("no")


def raises(error: BaseException) -> Callable[[Array, Arrays], Array]:
    def function(x: Array, parameters: Arrays) -> Array:
        raise error

    return function


def edits(change: Callable[[Array, Arrays], object]) -> Callable[[Array, Arrays], Array]:
    """Right, but for what it does to its arguments."""

    def function(x: Array, parameters: Arrays) -> Array:
        y = RIGHT(x, parameters)
        change(x, parameters)
        return y

    return function


def returns(change: Callable[[Array], Any]) -> Callable[[Array, Arrays], Any]:
    """Right, but for what becomes of y."""
    return lambda x, parameters: change(RIGHT(x, parameters))


MISBEHAVING = {
    "raises": (raises(ZeroDivisionError("division by\n zero")), "y: raised ZeroDivisionError: division by zero", None),
    "exits": (raises(SystemExit(3)), "y: raised SystemExit: 3", None),
    "raises without text": (raises(UnspeakableError()), "y: raised UnspeakableError", None),
    "returns None": (lambda x, parameters: None, "y: returned NoneType, expected an array", "None returned"),
    "returns a list": (returns(np.ndarray.tolist), "y: returned list, expected an array", None),
    "returns a pair": (returns(lambda y: (y, y)), "y: returned tuple, expected an array", None),
    "returns text": (returns(str), "y: returned str, expected an array", None),
    "returns complex": (returns(lambda y: y + 0j), "y: returned ndarray of complex64, expected an array", None),
    "returns what is none": (returns(lambda y: NoArray()), "y: returned NoArray, expected an array", None),
    "returns a number": (returns(lambda y: 1.0), "y: shape (), expected (3, 5, 7, 8)", None),
    "returns one sample": (returns(lambda y: y[:1]), "y: shape (1, 5, 7, 8), expected (3, 5, 7, 8)", None),
    "other shape": (
        returns(lambda y: np.moveaxis(y, -1, 1)),
        "y: shape (3, 8, 5, 7), expected (3, 5, 7, 8)",
        "output in the other data format",
    ),
    "other type": (
        returns(lambda y: y.astype("float64")),
        "y: dtype float64, expected float32",
        "output of another type",
    ),
    "modifies x": (edits(lambda x, p: x.__imul__(2)), "y: x was modified", "x modified"),
    "modifies a parameter": (
        edits(lambda x, p: p["expand.bias"].__iadd__(1)),
        "y: expand.bias was modified",
        "parameters modified",
    ),
    "drops a parameter": (
        edits(lambda x, p: p.pop("reduce.bias")),
        "y: reduce.bias was modified",
        "parameters modified",
    ),
    "sets a parameter to None": (
        edits(lambda x, p: p.update({"reduce.bias": None})),
        "y: reduce.bias was modified",
        "parameters modified",
    ),
    "adds a parameter": (edits(lambda x, p: p.update(more=x)), "y: more was modified", "parameters modified"),
}


@pytest.mark.parametrize("name", MISBEHAVING)
def test_any_behaviour_of_the_function_gives_a_verdict(name: str) -> None:
    function, message, cause = MISBEHAVING[name]
    verdict = check(function, SPEC)
    assert not verdict.passed
    assert "uneven map" in {one.trial for one in verdict.failures} or name == "returns one sample"
    assert message in "\n".join(one.message for one in verdict.failures)
    assert message in str(verdict)
    assert "nothing was judged" not in str(verdict)  # it was: it is wrong
    assert verdict.causes[:1] == ((cause,) if cause else ())  # a known mistake is named, and nothing else is
    strict(verdict.to_json())


def test_keyboard_interrupt_is_not_caught() -> None:
    with pytest.raises(KeyboardInterrupt):
        check(raises(KeyboardInterrupt()), SPEC)


def test_nondeterministic_block_is_diagnosed() -> None:
    rng = np.random.default_rng(0)
    noisy = check(returns(lambda y: np.where(rng.random(y.shape) < 0.5, 2 * y, 0).astype(y.dtype)), SPEC)
    assert noisy.causes == ("not deterministic",)
    assert noisy.stage == "call"
    dimmed = check(returns(lambda y: (y * (1 + 0.1 * rng.random())).astype(y.dtype)), SPEC)
    assert dimmed.causes == ("not deterministic",)


def test_dependence_between_samples_is_found() -> None:
    def batch(x: Array, parameters: Arrays) -> Array:
        with np.errstate(all="ignore"):
            gates = RIGHT.excitation(x, parameters)
            return x * over(np.broadcast_to(gates.mean(0) if len(x) else gates, gates.shape), x)

    verdict = check(batch, SPEC, diagnose=False)
    assert not verdict.passed
    right = {name for _, name in verdict.ran if len(trial(name, SPEC).inputs.x) < 2} | {
        "samples and channels broadcast"
    }
    assert {"one sample", "empty batch", "large map"} < right
    assert {one.trial for one in verdict.failures} == {name for _, name in verdict.ran} - right


# gradients and gates in forms of their own


def with_gradients(change: Callable[[Array, Arrays], Any]) -> Callable[..., Any]:
    return lambda x, dy, parameters: change(*RIGHT.vjp(x, dy, parameters))


def without(name: str) -> Callable[[Array, Arrays], Any]:
    return lambda dx, dp: (dx, {key: array for key, array in dp.items() if key != name})


def modified_dy(x: Array, dy: Array, parameters: Arrays) -> tuple[Array, Arrays]:
    found = RIGHT.vjp(x, dy, parameters)
    dy += 1
    return found


GRADIENTS = {
    "raises": (lambda x, dy, parameters: 1 / 0, "dx: raised ZeroDivisionError: division by zero"),
    "returns None": (lambda x, dy, parameters: None, "dx: "),
    "returns dx alone": (with_gradients(lambda dx, dp: dx), "dx: "),
    "returns a list": (with_gradients(lambda dx, dp: (dx, list(dp.values()))), "dx: "),
    "misses a name": (
        with_gradients(without("expand.bias")),
        "gradients of ['expand.weight', 'reduce.bias', 'reduce.weight'], "
        "expected ['expand.bias', 'expand.weight', 'reduce.bias', 'reduce.weight']",
    ),
    "has a name too many": (with_gradients(lambda dx, dp: (dx, {**dp, "more": dx})), "'more'"),
    "is transposed": (
        with_gradients(lambda dx, dp: (dx, {**dp, "expand.weight": dp["expand.weight"].T})),
        "d expand.weight: shape (3, 8), expected (8, 3)",
    ),
    "has None": (with_gradients(lambda dx, dp: (dx, {**dp, "expand.bias": None})), "expected an array"),
    "has another dx": (with_gradients(lambda dx, dp: (dx[:1], dp)), "dx: shape (1, 5, 7, 8), expected (3, 5, 7, 8)"),
    "is wide": (with_gradients(lambda dx, dp: (dx.astype("float64"), dp)), "dx: dtype float64, expected float32"),
    "modifies dy": (modified_dy, "dx: dy was modified"),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_a_wrong_form_are_reported(name: str) -> None:
    vjp, message = GRADIENTS[name]
    verdict = check(RIGHT, SPEC, vjp=vjp)
    assert not verdict.passed
    assert verdict.stage == "gradient"
    assert any(message in one.message for one in verdict.failures), str(verdict)
    assert message in str(verdict)
    assert not any(one.quantity in ("y", "g") for one in verdict.failures)


def test_a_wrong_gradient_is_named() -> None:
    def detached(x: Array, dy: Array, parameters: Arrays) -> tuple[Array, Arrays]:
        return dy * over(RIGHT.excitation(x, parameters), x), RIGHT.vjp(x, dy, parameters)[1]

    verdict = check(RIGHT, SPEC, vjp=detached)
    assert verdict.causes[0] == "gradient: gate detached"
    assert verdict.stage == "gradient"
    assert {one.quantity for one in verdict.failures} == {"dx"}

    verdict = check(RIGHT, SPEC, vjp=with_gradients(lambda dx, dp: (dx, {**dp, "reduce.bias": 2 * dp["reduce.bias"]})))
    assert {one.quantity for one in verdict.failures} == {"d reduce.bias"}


def test_float32_intermediates_in_float64_are_diagnosed() -> None:
    """Roundings anywhere and in any order are recognised, though no variant has exactly these."""

    def narrow(array: Array) -> Array:
        return array.astype("float32").astype(array.dtype)

    verdict = check(Block(squeeze=lambda x: narrow(mean(x[:, ::-1].astype("float32")))), SPEC, dtype="float64")
    assert verdict.causes[0] == "float64 computed in float32"
    assert verdict.diagnosis is not None
    assert verdict.diagnosis.agrees

    def back(x: Array, dy: Array, parameters: Arrays) -> tuple[Array, Arrays]:
        dx, dp = RIGHT.vjp(x, dy, parameters)
        return dx, {name: narrow(array) for name, array in dp.items()}

    verdict = check(RIGHT, SPEC, vjp=back, dtype="float64")
    assert verdict.causes[0] == "gradient: float64 computed in float32"
    more = check(Block(squeeze=lambda x: mean(x) * (1 + 1e-4)), SPEC, dtype="float64")
    assert more.causes[:1] != ("float64 computed in float32",)


def test_gate_may_have_spatial_axes_of_length_one() -> None:
    last = check(RIGHT, SPEC, excitation=lambda x, p: RIGHT.excitation(x, p)[:, None, None])
    block = Block(data_format="channels_first")
    first = check(
        block,
        SPEC,
        excitation=lambda x, p: block.excitation(x, p)[:, :, None, None],
        data_format="channels_first",
    )
    half = check(RIGHT, SPEC, excitation=lambda x, p: RIGHT.excitation(x, p).astype(x.dtype), dtype="float16")
    for verdict in (last, first, half):
        verdict.raise_if_failed()
        assert "g" in {one.quantity for one in verdict.findings}


@pytest.mark.parametrize(
    ("excitation", "message"),
    [
        (lambda x, p: RIGHT.excitation(x, p)[:, :3], "excitation returned shape (3, 3), expected (3, 8)"),
        (lambda x, p: None, "excitation returned NoneType, expected an array"),
        (lambda x, p: 1 / 0, "excitation raised ZeroDivisionError: division by zero"),
        (lambda x, p: 0.9 * RIGHT.excitation(x, p), "g["),
    ],
)
def test_wrong_excitation_of_a_right_block_fails(excitation: Callable[..., Any], message: str) -> None:
    verdict = check(RIGHT, SPEC, excitation=excitation)
    assert not verdict.passed
    assert message in str(verdict)
    assert not any(one.quantity == "y" for one in verdict.failures)
    assert verdict.causes == ()  # the catalogue speaks of y
    assert verdict.stage != "gradient"


PLAIN = SESpec(8, hidden=3)


@pytest.mark.parametrize(
    ("stage", "block"),
    [  # none of them in the catalogue
        ("squeeze", Block(squeeze=lambda x: mean(x) + x.std(tuple(range(1, x.ndim - 1))) / 3)),
        ("activation", Block(activation=lambda u: np.where(u > 0, u, 0.37 * np.sqrt(np.abs(u))))),
        ("gate", Block(gate=lambda v: sigmoid(v) ** 1.3)),
    ],
)
def test_excitation_localizes_the_failing_stage(stage: str, block: Block) -> None:
    verdict = check(block, PLAIN, excitation=block.excitation)
    assert verdict.diagnosis is not None
    assert not verdict.diagnosis.agrees
    assert verdict.stage == stage


@pytest.mark.parametrize("spec", [PLAIN, SESpec(8, hidden=3, gain=2.0, residual=True)], ids=["plain", "with gain"])
@pytest.mark.parametrize(
    ("stage", "block"),
    [
        ("squeeze", Block(squeeze=lambda x: mean(x) + x.std(tuple(range(1, x.ndim - 1))) / 3)),
        ("activation", Block(activation=lambda u: np.where(u > 0, u, 0.37 * np.sqrt(np.abs(u))))),
        ("gate", Block(gate=lambda v: sigmoid(v) ** 1.3)),
        (
            "unknown",
            Block(
                gate=lambda v: sigmoid(v) ** 1.3,
            ),
        ),
    ],
)
def test_quotient_of_y_and_x_localizes_the_failing_stage(stage: str, block: Block, spec: SESpec) -> None:
    def function(x: Array, parameters: Arrays) -> Array:
        y = spec.gain * block(x, parameters) + (x if spec.residual else 0)
        if stage == "unknown":  # another gate at each position
            y = y * np.linspace(1, 2, x.shape[-2])[:, None]
        return y.astype(x.dtype)

    verdict = check(function, spec)
    assert verdict.stage == stage
    assert f"cause    none of the catalogue; departs at: {stage}" in str(verdict)


UNKNOWN = [
    *(
        ("gate", SPEC, Block(gate=function))
        for function in (
            lambda v: 0.5 + np.arctan(v) / np.pi,
            lambda v: v * np.exp(-(v**2)),
            lambda v: v - np.tanh(v),
            lambda v: v / (1 + np.abs(v)),
            lambda v: np.sign(v) * np.sqrt(np.abs(v)),
            lambda v: sigmoid(1.1 * v + 0.1),
            lambda v: 1.05 * sigmoid(v),
            lambda v: np.clip(0.21 * v + 0.5, 0, 1),
            np.cos,
        )
    ),
    ("gate", SPEC.replace(gate="hard_sigmoid"), Block(gate=lambda v: np.clip(0.18 * v + 0.5, 0, 1))),
    ("gate", SPEC.replace(gate="tanh"), Block(gate=lambda v: v / np.sqrt(1 + v**2))),
    *(
        ("activation", SPEC, Block(activation=function))
        for function in (
            lambda u: np.where(u > 0, u, 1.1 * np.expm1(np.minimum(u, 0))),
            lambda u: np.where(u > 0, u, 0.05 * u),
            lambda u: np.where(u > 0, u, np.sin(u)),
        )
    ),
    *(
        ("squeeze", SPEC, Block(squeeze=lambda x, power=power: mean(np.abs(x) ** power) ** (1 / power)))
        for power in (3, 0.5)
    ),
    # which of several stages a factor is in cannot be told
    *(("reduce", SPEC, Block(squeeze=lambda x, by=by: by * mean(x))) for by in (0.97, 1.3)),
    ("reduce", SPEC, Block(activation=lambda u: relu(u) ** 1.5)),
    ("reduce", SPEC, Block(activation=lambda u: u * sigmoid(1.1 * u))),
]
"""Mistakes that are near a fault of the catalogue and are not that fault."""


@pytest.mark.parametrize(
    ("stage", "spec", "block"),
    [pytest.param(*one, marks=[pytest.mark.slow] if number % 3 else []) for number, one in enumerate(UNKNOWN)],
)
def test_mistake_that_only_resembles_a_fault_is_not_named(stage: str, spec: SESpec, block: Block) -> None:
    verdict = check(block, spec)
    assert verdict.diagnosis is not None
    assert not verdict.diagnosis.agrees, str(verdict)
    assert verdict.stage == stage
    assert verdict.seen
    assert "none of the catalogue" in str(verdict)
    assert "to do:" not in str(verdict)
    assert not any(word in str(verdict) for word in ("agrees with", "resembles"))


def test_named_cause_is_within_the_bound_of_the_block() -> None:
    """The same block, off by more and more: it agrees as long as rounding may be the reason, and no longer."""
    agrees = []
    for error in (0, 1e-7, 3e-3, 1e-2, 1e-1):
        verdict = check(Block(gate=lambda v, error=error: np.tanh(v) * (1 + error)), SPEC)
        assert verdict.diagnosis is not None
        agrees.append(verdict.diagnosis.agrees)
    assert agrees == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("cause", "block", "seen"),
    [
        (TEMPERATURE, Block(gate=lambda v: sigmoid(1.1 * v)), "the logits are 1.1 times the right ones"),
        (TEMPERATURE, Block(gate=lambda v: sigmoid(v / np.sqrt(np.float32(8)))), "the logits are 0.354 times"),
        (HIDDEN_SCALE, Block(activation=lambda u: relu(u) / np.float32(0.85)), ""),
        (FIXED_DROPOUT, Block(activation=lambda u: relu(u) * np.float32([2, 0, 2])), ""),
    ],
)
def test_number_of_a_mistake_is_fitted(cause: str, block: Block, seen: str) -> None:
    verdict = check(block, SPEC)
    assert verdict.causes[0] == cause
    assert f"agrees with: {cause}" in str(verdict)
    assert any(sentence.startswith(seen) for sentence in verdict.seen)


def test_mistakes_with_the_same_numbers_are_both_named() -> None:
    leaky = LeakyReLU(slope=0.1)
    twice = Block(activation=lambda u: np.where(u > 0, u, np.float32(0.01) * u))
    verdict = check(twice, SPEC.replace(activation=leaky))
    assert verdict.causes[0] == "activation is leaky_relu(0.01)"
    assert "or activation applied twice: on these inputs the numbers are the same" in str(verdict)


@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("gate returned instead of the scaled map", lambda x, g: g),
        ("gate returned instead of the scaled map", lambda x, g: over(g, x)),
        ("squeezed values scaled instead of x", lambda x, g: mean(x) * g),
        ("NaN taken as 0", lambda x, g: np.where(np.isnan(x * over(g, x)), 0, x * over(g, x))),
        ("activation on the product", lambda x, g: relu(x * over(g, x))),
    ],
)
def test_form_of_the_output_does_not_hide_the_cause(cause: str, change: Callable[[Array, Array], Array]) -> None:
    verdict = check(lambda x, p: change(x, RIGHT.excitation(x, p)).astype(x.dtype), SPEC)
    assert verdict.causes[0] == cause
    assert f"agrees with: {cause}" in str(verdict)


class Stateful:
    """A right block, but for what it keeps between calls."""

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum, self.mean = momentum, np.float32(0)
        self.parameters: Arrays = {}
        self.buffers: dict[tuple[int, ...], Array] = {}

    def average(self, x: Array, parameters: Arrays) -> Array:
        now = mean(x)
        if len(x):
            self.mean = (self.momentum * self.mean + (1 - self.momentum) * now.mean(0)).astype(x.dtype)
        return Block(squeeze=lambda x: now - now.mean(0) + self.mean if len(x) else now)(x, parameters)

    def keep_parameters(self, x: Array, parameters: Arrays) -> Array:
        self.parameters = self.parameters or {name: array.copy() for name, array in parameters.items()}
        return RIGHT(x, self.parameters)

    def share(self, x: Array, parameters: Arrays) -> Array:
        y = self.buffers.setdefault(x.shape, np.empty_like(x))
        y[...] = RIGHT(x, parameters)
        return y


@pytest.mark.parametrize(
    ("cause", "function"),
    [
        ("running average over calls", Stateful(0.9).average),
        ("running average over calls", Stateful(0.5).average),
        ("parameters of the first call kept", Stateful().keep_parameters),
        ("output buffer shared by all calls", Stateful().share),
    ],
)
def test_state_between_calls_is_named(cause: str, function: Callable[[Array, Arrays], Array]) -> None:
    verdict = check(function, SPEC)
    assert verdict.causes[0] == cause
    assert verdict.stage == "call"


def test_gradient_of_zeros_where_dy_is_nan_does_not_hide_the_cause() -> None:
    def detached(x: Array, dy: Array, parameters: Arrays) -> tuple[Array, Arrays]:
        dx = dy * over(RIGHT.excitation(x, parameters), x)
        return dx, {name: np.zeros_like(array) for name, array in parameters.items()}

    verdict = check(RIGHT, SPEC, vjp=detached)
    assert verdict.causes[0] == "gradient: gate detached"
    assert "agrees with" in str(verdict)


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("reduce", lambda p: {"reduce.weight": p["reduce.weight"] ** 3}),
        ("expand", lambda p: {"expand.bias": p["expand.bias"][::-1]}),
    ],
)
def test_excitation_localizes_a_wrong_projection(stage: str, change: Callable[[Arrays], Arrays]) -> None:
    def excitation(x: Array, parameters: Arrays) -> Array:
        return RIGHT.excitation(x, {**parameters, **change(parameters)})

    verdict = check(lambda x, p: RIGHT(x, {**p, **change(p)}), SPEC, excitation=excitation)
    assert verdict.diagnosis is not None
    assert not verdict.diagnosis.agrees
    assert verdict.stage == stage


def test_failing_stage_is_scale_where_the_gate_is_right() -> None:
    def wrong(x: Array, parameters: Arrays) -> Array:
        return (1.7 * RIGHT(x, parameters)).astype(x.dtype)

    assert check(wrong, SPEC, excitation=RIGHT.excitation).stage == "scale"


@pytest.mark.parametrize(
    ("got", "bound", "variant", "expected"),
    [
        ([1.0, 2.0], 0.25, [1.25, 1.75], 0.0),  # within the bound of what was got
        ([1.0, 2.0], 0.25, [0.5, 2.0], 1 / 3),  # 0.25 beyond it, where the right answer is 0.75 beyond it
        ([1.0, 2.0], 0.25, [0.0, 2.0], 1.0),  # the right answer itself
        ([1.0, 2.0], 0.25, [np.nan, 2.0], 3.0),
        ([0.0, 2.0], 0.25, [0.25, 2.25], 1.0),  # the right answer is not refuted: in terms of the bound
        ([0.0, 2.0], 0.0, [0.0, 2.0], 0.0),
        ([0.0, 2.0], 0.0, [0.0, 2.5], 3.0),
    ],
)
def test_distance_counts_only_what_exceeds_the_bound(
    got: list[float], bound: float, variant: list[float], expected: float
) -> None:
    distance = Distance(np.array(got), np.array([0.0, 2.0]), np.full(2, bound))
    assert distance(np.array(variant)) == pytest.approx(expected, abs=1e-15)


# two mistakes at once

SLOPE = "hard_sigmoid slope 0.2 (Keras 2) instead of 1/6"
HARD = SESpec(16, hidden=4, bias=True, gate="hard_sigmoid")


@pytest.mark.parametrize(
    "pair",
    [
        (SLOPE, "biases ignored"),
        (SLOPE, "reduce.bias ignored"),
        (SLOPE, "activation is silu"),
    ],
)
def test_two_simultaneous_mistakes_are_named_together(pair: tuple[str, str]) -> None:
    function = inject(tuple(CATALOGUE[name] for name in pair), HARD, "float32").function()
    verdict = check(function, HARD)
    assert set(verdict.causes[:2]) == set(pair)
    assert verdict.diagnosis is not None
    assert verdict.diagnosis.together
    assert ", together" in str(verdict)


# declared precision

WIDE = SESpec(64, hidden=16, bias=True)


def tf32(values: Array) -> Array:
    """Rounded to 11 significant bits."""
    return ((values.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def bfloat16(values: Array) -> Array:
    return ((values.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize(("products", "operand"), [("tf32", tf32), ("bfloat16", bfloat16)])
def test_low_precision_products_fail_unless_declared(products: str, operand: Callable[[Array], Array]) -> None:
    block = Block(operand=lambda values: operand(np.ascontiguousarray(values)))
    verdict = check(block, WIDE, excitation=block.excitation)
    assert not verdict.passed
    assert verdict.causes[0] == {"tf32": "products in TF32", "bfloat16": "products in bfloat16"}[products]
    assert f"declare products={products!r}" in str(verdict)
    declared = check(block, WIDE, excitation=block.excitation, products=products)
    declared.raise_if_failed()
    assert f"products={products!r}" in str(declared)
    assert 0 < declared.worst_ratio <= 1


def test_declared_precision_excuses_nothing_else() -> None:
    assert not check(SILU, WIDE, products="bfloat16").passed


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_intermediates_that_are_rounded_must_be_declared(dtype: str) -> None:
    block = Block(stored=True)
    check(block, WIDE, excitation=block.excitation, dtype=dtype, intermediates="storage").raise_if_failed()
    kept = check(block, WIDE, excitation=block.excitation, dtype=dtype, intermediates="float32")
    assert not kept.passed
    assert "intermediates='float32'" in str(kept)
    check(RIGHT, WIDE, excitation=RIGHT.excitation, dtype=dtype, intermediates="float32").raise_if_failed()
    strict_about_y = check(block, WIDE, dtype=dtype, intermediates="float32").worst_ratio
    assert strict_about_y > 1.5 * check(block, WIDE, dtype=dtype).worst_ratio


# nothing judged is no pass


def test_verdict_without_conclusive_elements_does_not_pass() -> None:
    one = compare_arrays("y", np.ones(3), np.ones(3), np.full(3, np.inf), np.ones(3))
    assert (one.conclusive, one.inconclusive, one.passed) == (0, 3, True)
    verdict = Verdict(SPEC, "float16", 0, (2,), Precision(), "channels_last")
    verdict.findings, verdict.ran = [Finding(2, "uneven map", "y", one)], [(2, "uneven map")]
    assert not verdict.passed
    assert (verdict.conclusive, verdict.inconclusive, verdict.failures) == (0, 3, [])
    assert str(verdict).startswith("FAILED")
    assert "nothing was judged" in str(verdict)
    assert verdict.to_dict()["passed"] is False


@pytest.mark.parametrize(("dtype", "gain"), [("float32", 1e39), ("float16", 1e30)])
def test_overflowing_output_does_not_pass(dtype: str, gain: float) -> None:
    def seven(x: Array, parameters: Arrays) -> Array:  # but NaN in the samples that hold NaN or inf
        bad = ~np.isfinite(x.astype("float64")).all(tuple(range(1, x.ndim)), keepdims=True)
        return np.where(bad, np.nan, np.full_like(x, 7)).astype(x.dtype)

    assert not check(seven, SESpec(8, hidden=3, gain=gain, gate="identity"), dtype=dtype, diagnose=False).passed


def test_gain_of_zero_is_judged() -> None:
    def seven(x: Array, parameters: Arrays) -> Array:
        bad = ~np.isfinite(x).all((1, 2, 3), keepdims=True)
        return np.where(bad, np.nan, np.full_like(x, 7))

    assert not check(seven, SESpec(8, hidden=3, gain=0.0)).passed


# known deviations


def refuses_one_position(x: Array, parameters: Arrays) -> Array:
    if x.size and x.shape[1:-1] == (1,) * (x.ndim - 2):
        raise ValueError("one position")
    return RIGHT(x, parameters)


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "deviations.txt"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("line", ["one position", "2: one position", "one pos*"])
def test_known_deviation_is_excused_and_printed(line: str, listed: Callable[[str], Path]) -> None:
    assert not check(refuses_one_position, SPEC).passed
    verdict = check(refuses_one_position, SPEC, deviations=listed(f"# ours\n\n{line}  # maps of one position, #7\n"))
    verdict.raise_if_failed()
    assert "known    one position (2-D): maps of one position, #7" in str(verdict)
    assert verdict.to_dict()["known"] == {"2: one position": "maps of one position, #7"}
    assert verdict.causes == ()
    assert verdict.worst_ratio <= 1


def test_deviation_excuses_no_other_trial(listed: Callable[[str], Path]) -> None:
    assert not check(refuses_one_position, SPEC, deviations=listed("3: one position  # another rank")).passed
    assert not check(refuses_one_position, SPEC, deviations=listed("one row  # another trial")).passed
    verdict = check(refuses_one_position, SPEC, ranks=(2, 3), deviations=listed("3: one position  # issue 7"))
    assert {(one.rank, one.trial) for one in verdict.failures} == {(2, "one position")}
    assert set(verdict.known) == {(3, "one position")}


def test_stale_deviation_fails(listed: Callable[[str], Path]) -> None:
    verdict = check(RIGHT, SPEC, deviations=listed("one position  # mended long ago\n3: NaN  # not run here\n"))
    assert not verdict.passed
    assert verdict.failures == []
    assert verdict.to_dict()["outlived"] == ["one position"]
    assert "stale    line 1 of the deviations, 'one position'" in str(verdict)


def test_verdict_does_not_pass_if_every_trial_is_excused(listed: Callable[[str], Path]) -> None:
    assert not check(lambda x, p: x, SPEC, deviations=listed("*  # all known")).passed


@pytest.mark.parametrize("line", ["NaN", "NaN  #  "])
def test_a_deviation_needs_a_reason(line: str, listed: Callable[[str], Path]) -> None:
    path = listed(f"inf  # ours\n{line}\n")
    with pytest.raises(SpecError, match=r"deviations\.txt, line 2: 'NaN' has no reason"):
        check(RIGHT, SPEC, deviations=path)
    with pytest.raises(SpecError, match="is not a file"):
        check(RIGHT, SPEC, deviations=path.with_name("other.txt"))


# what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype='float8' is not allowed; it must be one of float64, float32, bfloat16, float16"),
        ({"dtype": np.float32}, "must be one of float64, float32"),
        ({"dtype": None}, "must be one of float64, float32"),
        ({"data_format": "NHWC"}, "data_format='NHWC' is not allowed; it must be one of channels_last, channels_first"),
        ({"data_format": 3}, "must be one of channels_last, channels_first"),
        ({"ranks": ()}, "1, 2 or 3"),
        ({"ranks": (4,)}, "1, 2 or 3"),
        ({"ranks": (2, 0)}, "1, 2 or 3"),
        ({"ranks": 2}, "1, 2 or 3"),
        ({"ranks": "12"}, "1, 2 or 3"),
        ({"ranks": (2.0,)}, "1, 2 or 3"),
        ({"products": "fp8"}, "products='fp8' is not allowed; it must be one of 'dtype', 'tf32', 'bfloat16'"),
        ({"products": "tf32", "dtype": "float64"}, "not allowed with float64"),
        ({"intermediates": "float16"}, "it must be one of 'storage', 'float32'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "a"}, "seed='a'"),
        ({"function": 3}, "block is a builtins.int; it must be"),
        ({"function": None}, "it must be a torch.nn.Module"),
        ({"function": Block}, "the class Block, not an instance"),
        ({"vjp": 3}, "vjp"),
        ({"excitation": "g"}, "excitation"),
        ({"spec": {"channels": 8}}, "SESpec"),
        ({"spec": None}, "SESpec"),
        ({"deviations": 3}, "deviations=3"),
    ],
    ids=str,
)
def test_invalid_argument_is_refused_and_valid_values_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        check(**{"function": RIGHT, "spec": SPEC, **options})
    assert message in str(refused.value)


# mistakes at awkward places


def beyond_512(x: Array, parameters: Arrays) -> Array:
    y = RIGHT(x, parameters)
    return np.concatenate([y[..., :512], x[..., 512:]], -1)


def test_a_mistake_beyond_channel_512_is_found() -> None:
    spec = SESpec(640, hidden=40)
    verdict = check(beyond_512, spec, diagnose=False)
    assert not verdict.passed
    assert verdict.failures[0].comparison is not None
    assert verdict.failures[0].comparison.where[-1] >= 512
    assert check(RIGHT, SESpec(512, hidden=32)).passed


def test_small_mistake_beyond_channel_512_is_found() -> None:
    factor = np.where(np.arange(520) < 512, 1, 1.001).astype("float32")
    verdict = check(lambda x, p: RIGHT(x, p) * factor, SESpec(520, hidden=8))
    assert not verdict.passed
    assert verdict.diagnosis is not None
    assert not verdict.diagnosis.agrees


def test_a_mistake_in_the_last_sample_alone_is_found() -> None:
    def wrong(x: Array, parameters: Arrays) -> Array:
        y = RIGHT(x, parameters)
        return np.concatenate([y[:-1], x[-1:]]) if len(x) > 1 else y

    verdict = check(wrong, SPEC)
    assert verdict.causes[0] == "last sample not scaled"
    places = [one.comparison.where[0] for one in verdict.failures if one.comparison and one.trial == "uneven map"]
    assert places == [2]


def test_a_mistake_for_odd_sizes_alone_is_found() -> None:
    odd = Block(squeeze=lambda x: mean(x[:, 1:]) if x.shape[1] % 2 and x.shape[1] > 1 else mean(x))
    verdict = check(odd, SPEC, diagnose=False)
    failed = {one.trial for one in verdict.failures}
    assert failed >= {"uneven map", "one sample", "as many samples as the last axis is long"}
    assert failed.isdisjoint({"even map", "equal axes", "one position", "one row"})


def test_a_mistake_from_the_second_call_on_is_found() -> None:
    seen: dict[tuple[int, ...], Array] = {}

    def remembers(x: Array, parameters: Arrays) -> Array:  # the gate of the first map of each shape
        gate = seen.setdefault(x.shape, RIGHT.excitation(x, parameters))
        with np.errstate(all="ignore"):
            return x * over(gate, x)

    verdict = check(remembers, SPEC, diagnose=False)
    assert not verdict.passed
    assert "uneven map" not in {one.trial for one in verdict.failures}

    calls = itertools.count()
    late = check(lambda x, p: RIGHT(x, p) if next(calls) == 0 else x, SPEC, diagnose=False)
    failed = {one.trial for one in late.failures}
    assert failed >= {"uneven map again", "even map"}
    assert "uneven map" not in failed


# what it costs


def test_check_is_fast() -> None:
    start = time.process_time()
    check(RIGHT, WIDE, RIGHT.vjp, RIGHT.excitation)
    check(SILU, WIDE)
    assert time.process_time() - start < 4.0  # two of them


def test_diagnosis_of_an_unknown_mistake_is_fast() -> None:
    start = time.process_time()
    assert not check(lambda x, p: np.full_like(x, 7), WIDE).passed
    assert time.process_time() - start < 5.0


def fresh(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)


def test_import_is_fast() -> None:
    code = "import time; start = time.perf_counter(); import se_conformance; print(time.perf_counter() - start)"
    assert min(float(fresh(code)) for _ in range(5)) < 0.3  # the least: others may be at work


def test_judging_a_function_loads_no_framework() -> None:
    code = (
        "import sys, se_conformance, se_spec\n"
        "assert not se_conformance.check(lambda x, p: x, se_spec.SESpec(4, hidden=1)).passed\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = set(fresh(code).split())
    assert {"numpy", "se_numpy", "se_conformance"} <= loaded  # the probe sees
    heavy = {"torch", "keras", "tensorflow", "jax", "flax", "onnx", "rich", "sklearn", "matplotlib", "ml_dtypes"}
    assert loaded.isdisjoint(heavy)
