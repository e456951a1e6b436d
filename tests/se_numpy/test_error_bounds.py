"""The derived bounds: cases that a person can check, the clauses, soundness and tightness."""

import json
import re
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import se_numpy
from evidence import correct_blocks, soak
from se_conformance.cases import DTYPES, Case, Inputs, covering_array
from se_conformance.comparison import Precision, Result, compare, reference
from se_numpy import error_bounds, sensitivities
from se_numpy.error_bounds import error_bound, excitation_error_bound, make_rounding, round_values, vjp_error_bound
from se_spec import LeakyReLU, SESpec, ShapeError, SpecError
from se_spec.formats import FORMATS
from se_spec.parameters import shapes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ERROR_BOUNDS.md").read_text()
U = 2.0**-24
LINE = SESpec(1, single_projection=True, gate="identity")


def ones(n: int, spec: SESpec = LINE, dtype: type = np.float32) -> tuple[np.ndarray, SESpec, dict[str, np.ndarray]]:
    """Bound the errors for a map of n ones and weights of 1, for which every intermediate is 1."""
    parameters = {name: np.ones(shape, dtype) for name, shape in shapes(spec).items()}
    return np.ones((1, n, spec.channels), dtype), spec, parameters


def in_units(bound: np.ndarray, unit: float = U) -> float:
    """Return the largest bound, in unit roundoffs."""
    return float(np.round(bound.max() / unit, 2))


def test_bound_of_a_mean_and_a_projection_counts_every_rounding() -> None:
    """The mean has n - 1 additions, 1/n and its product; then come the weight's product and the product with x."""
    for n in (1, 4, 100):
        assert in_units(excitation_error_bound(*ones(n), data_format="channels_last")) == n + 1 + 1
        assert in_units(error_bound(*ones(n), data_format="channels_last")) == n + 1 + 1 + 1


def test_bias_gain_and_residual_add_their_roundings() -> None:
    """v = 1 + 1, with a bias, has n + 1 roundings of z, and two roundings of terms of total size 1 + 1."""
    biased = LINE.replace(bias=True)
    assert in_units(excitation_error_bound(*ones(4, biased), data_format="channels_last")) == 5 + 2 * 2
    for gain, rounded in ((2.0, 0), (3.0, 2 * 3)):  # a power of two does not round, nor does its product
        gained = LINE.replace(gain=gain)
        assert in_units(error_bound(*ones(4, gained), data_format="channels_last")) == gain * (5 + 1) + rounded + gain
    residual = LINE.replace(residual=True)
    assert in_units(error_bound(*ones(4, residual), data_format="channels_last")) == 5 + 1 + 1 + 2 * 2


def test_a_maximum_does_not_round() -> None:
    top = LINE.replace(squeeze="max")
    assert in_units(excitation_error_bound(*ones(100, top), data_format="channels_last")) == 1


def test_stored_intermediates_add_roundings_in_half_precision() -> None:
    """z (N-1), the gate and y round once; stored intermediates also round the product, v and the gate."""
    x, spec, parameters = ones(4, dtype=ml_dtypes.bfloat16)
    unit = FORMATS["bfloat16"].unit
    kept = error_bound(x, spec, parameters, "bfloat16", data_format="channels_last", intermediates="float32")
    stored = error_bound(x, spec, parameters, "bfloat16", data_format="channels_last")
    assert in_units(kept, unit) == pytest.approx(3, abs=0.03)
    assert in_units(stored, unit) == pytest.approx(4, abs=0.05)


def test_b17_exact_sums_leave_the_errors_of_gate_and_product() -> None:
    x, spec, parameters = ones(4)

    def bound(x: np.ndarray, parameters: dict[str, np.ndarray], products: str = "dtype") -> error_bounds.Bounds:
        r = make_rounding("float32", None, products, "storage")
        return error_bounds.compute_bounds(x, None, spec, parameters, r, "channels_last", exact=True)

    assert in_units(bound(x, parameters).y) == 1
    assert in_units(bound(x, parameters).g) == 0
    assert in_units(bound(x, parameters, "tf32").y) > 2**14  # declared: operands round all the same
    third = {"expand.weight": np.full((1, 1), 1 / 3)}  # not of float32, nor is a sum of it
    assert in_units(bound(x, third).y) > 4 / 3


def test_declared_products_are_counted_once_per_operand() -> None:
    found = {
        products: in_units(
            excitation_error_bound(*ones(4), data_format="channels_last", products=products),
            error_bounds.PRODUCTS[products] or U,
        )
        for products in error_bounds.PRODUCTS
    }
    assert found == pytest.approx({"dtype": 6, "tf32": 2, "bfloat16": 2}, abs=0.02)


def test_bound_of_gradients_counts_every_rounding() -> None:
    """Let y = x z w. Then ds is a sum of n products, dw = ds z, and dx = dy s + ds w / n."""
    x, spec, parameters = ones(4)
    dx, dparameters = vjp_error_bound(x, np.ones_like(x), spec, parameters, data_format="channels_last")
    # ds = 4, of 4 roundings; dv: one product by g' = 1 and its own two; d w = dv z: z's 5, and one.
    assert 4 * (4 + 5 + 1) <= in_units(dparameters["expand.weight"]) <= 4 * (4 + 2 + 5 + 1 + 1)
    # dx = 1 + 1: s is 6 off and its product rounds; dv / n is 4 + 2 off, w's product, /n to 3; one addition of size 2
    assert 6 + 1 + 4 + 1 + 2 <= in_units(dx) <= 6 + 1 + 4 + 2 + 1 + 3 + 2


def test_bound_at_a_kink_includes_every_subgradient() -> None:
    spec = SESpec(1, hidden=1, gate="identity")
    x = np.ones((1, 4, 1), np.float32)
    for weight, jumps in ((0.0, True), (0.5, False)):
        parameters = {
            "reduce.weight": np.full((1, 1), weight, np.float32),
            "expand.weight": np.ones((1, 1), np.float32),
        }
        _, found = vjp_error_bound(x, x, spec, parameters, data_format="channels_last")
        assert bool(found["reduce.weight"].max() >= 4.0) is jumps  # ds = 4, through relu' = 0 or 1


def test_bound_at_a_tie_includes_every_division() -> None:
    x, _, parameters = ones(4)
    top = LINE.replace(squeeze="max")
    dx, _ = vjp_error_bound(x, x, top, parameters, data_format="channels_last")
    assert dx.min() >= 4.0  # all of ds may go to one position
    x[0, 1] = 2.0
    dx, _ = vjp_error_bound(x, x, top, parameters, data_format="channels_last")
    assert dx.max() < 1e-4


@pytest.mark.parametrize(("n", "finite"), [(100, True), (300, False)])
def test_sum_of_more_than_one_over_u_terms_is_inconclusive(n: int, finite: bool) -> None:
    x, spec, parameters = ones(n, dtype=ml_dtypes.bfloat16)
    bound = error_bound(x, spec, parameters, "bfloat16", data_format="channels_last", accumulation="bfloat16")
    assert np.isfinite(bound).all() == finite


def test_possible_overflow_is_inconclusive() -> None:
    x, spec, parameters = ones(64, dtype=np.float16)
    large = (x * np.float16(2000)).astype(np.float16)
    wide = error_bound(large, spec, parameters, "float16", data_format="channels_last")
    own = error_bound(large, spec, parameters, "float16", data_format="channels_last", accumulation="float16")
    assert np.isinf(wide).all()  # y = 2000 * 2000
    assert np.isinf(own).all()
    fine = (x * np.float16(100)).astype(np.float16)
    assert np.isfinite(error_bound(fine, spec, parameters, "float16", data_format="channels_last")).all()
    many = np.full((1, 1024, 1), 100, np.float16)  # the sum is 102400
    own = error_bound(many, spec, parameters, "float16", data_format="channels_last", accumulation="float16")
    assert np.isinf(own).all()
    assert np.isfinite(error_bound(many, spec, parameters, "float16", data_format="channels_last")).all()


def test_nan_makes_its_sample_alone_inconclusive() -> None:
    spec = SESpec(3, hidden=2)
    x = np.ones((2, 4, 3), np.float32)
    x[1, 0, 0] = np.nan
    bound = error_bound(x, spec, se_numpy.initialize(spec, seed=0), data_format="channels_last")
    assert np.isfinite(bound[0]).all()
    assert np.isinf(bound[1]).all()


def test_rounding_of_inputs_is_counted_exactly() -> None:
    """The error of x counts twice in y = x mean(x) = x x."""
    x, spec, parameters = ones(1)
    for given, dtype, stored in ((np.float64, "float32", np.float32), (np.float32, "bfloat16", ml_dtypes.bfloat16)):
        third = np.full(x.shape, 1 / 3, given)
        off = abs(float(third[0, 0, 0]) - float(third.astype(stored)[0, 0, 0]))
        assert off > 0
        fitting = error_bound(third.astype(stored), spec, parameters, dtype, data_format="channels_last")
        rounded = error_bound(third, spec, parameters, dtype, data_format="channels_last")
        assert float((rounded - fitting).max()) == pytest.approx(2 / 3 * off, rel=0.02)


def test_bounds_of_both_layouts_are_equal() -> None:
    case = Case(SESpec(12, hidden=5, bias=True), rank=2, dtype="float32")
    x, dy, parameters = case.inputs()
    last = error_bound(x, case.spec, parameters, data_format="channels_last")
    first = error_bound(np.moveaxis(x, -1, 1), case.spec, parameters, data_format="channels_first")
    np.testing.assert_allclose(np.moveaxis(first, 1, -1), last, rtol=1e-12)
    dx, found = vjp_error_bound(x, dy, case.spec, parameters, data_format="channels_last")
    moved, other = vjp_error_bound(
        np.moveaxis(x, -1, 1), np.moveaxis(dy, -1, 1), case.spec, parameters, data_format="channels_first"
    )
    np.testing.assert_allclose(np.moveaxis(moved, 1, -1), dx, rtol=1e-9)
    assert found.keys() == other.keys() == parameters.keys()


def test_bound_grows_with_lower_precision() -> None:
    case = Case(SESpec(12, hidden=5, bias=True), rank=2, dtype="bfloat16")
    x, _, parameters = case.inputs()

    def total(dtype: str, **declared: str) -> float:
        return float(error_bound(x, case.spec, parameters, dtype, data_format="channels_last", **declared).sum())

    chain = [
        total("float64"),
        total("float32"),
        total("float32", products="tf32"),
        total("float32", products="bfloat16"),
    ]
    half = [
        total("bfloat16", intermediates="float32"),
        total("bfloat16"),
        total("bfloat16", accumulation="bfloat16"),
    ]
    for row in (chain, half):
        assert all(a < b for a, b in pairwise(row)), row


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "float8"}, "dtype='float8' is not allowed; it must be one of 'float64', 'float32'"),
        ({"accumulation": "int8"}, "accumulation='int8' is not allowed"),
        ({"products": "fp8"}, "products='fp8' is not allowed; it must be one of 'dtype', 'tf32', 'bfloat16'"),
        ({"intermediates": "none"}, "intermediates='none' is not allowed; it must be one of 'storage', 'float32'"),
        ({"dtype": "float64", "products": "tf32"}, "products='tf32' is not allowed with float64 arithmetic"),
    ],
)
def test_unknown_precision_is_refused(given: dict[str, str], message: str) -> None:
    x, spec, parameters = ones(2)
    for function in (error_bound, excitation_error_bound):
        with pytest.raises(SpecError, match=re.escape(message)):
            function(x, spec, parameters, data_format="channels_last", **given)
    with pytest.raises(SpecError, match=re.escape(message)):
        vjp_error_bound(x, x, spec, parameters, data_format="channels_last", **given)


def test_dy_of_another_shape_is_refused() -> None:
    x, spec, parameters = ones(2)
    with pytest.raises(ShapeError, match=re.escape("dy has shape (1, 1, 1), expected that of x, (1, 2, 1)")):
        vjp_error_bound(x, x[:, :1], spec, parameters, data_format="channels_last")


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_round_values_equals_the_cast(dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(4000) * 2.0 ** rng.integers(-30, 14, 4000)
    values = np.concatenate([values, [0.0, -0.0, np.inf, 65519.0, 65504.0, 2.0**-24, 2.0**-25]])
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    with np.errstate(over="ignore"):
        want = values.astype(kind).astype(np.float64)
    np.testing.assert_array_equal(round_values(values, dtype), want)


NAMES = [*sensitivities.SMOOTH, "relu", "relu6", "identity", "hard_swish", "hard_sigmoid", LeakyReLU(slope=-0.4)]


@pytest.mark.parametrize("name", sensitivities.SMOOTH)
def test_b9_largest_derivatives_are_right_within_two_percent(name: str) -> None:
    v = np.linspace(-12, 12, 2_400_001)
    slope = sensitivities.evaluate_derivative(name, v)
    first, second = np.abs(slope).max(), np.abs(np.diff(slope)).max() / (v[1] - v[0])
    assert first <= sensitivities.SMOOTH[name][0] <= first * 1.02
    assert second <= sensitivities.SMOOTH[name][1] * (1 + 1e-6)
    assert sensitivities.SMOOTH[name][1] <= second * 1.02


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_b9_b10_changes_are_within_their_bounds(name: sensitivities.Nonlinearity) -> None:
    rng = np.random.default_rng(0)
    v = np.concatenate([rng.normal(0, 3, 2000), [0.0, 6.0, 3.0, -3.0]])
    e = 10.0 ** rng.uniform(-8, 1, len(v))
    t = v + e * np.linspace(-1, 1, 41)[:, None]
    f, df = sensitivities.evaluate(name, v), sensitivities.evaluate_derivative(name, v)
    room = 1 + 1e-9
    allowed = sensitivities.bound_change(name, v, e) * room + 1e-15
    assert (np.abs(sensitivities.evaluate(name, t) - f) <= allowed).all()
    allowed = sensitivities.bound_derivative_change(name, v, e) * room + 1e-15
    assert (np.abs(sensitivities.evaluate_derivative(name, t) - df) <= allowed).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES, ids=str)
def test_b11_b12_evaluation_errors_are_within_their_bounds(name: sensitivities.Nonlinearity, dtype: str) -> None:
    v = np.random.default_rng(0).normal(0, 4, 20_000).astype(dtype)
    unit, none = FORMATS[dtype].unit, np.zeros(len(v))
    exact = sensitivities.evaluate(name, v.astype(np.float64))
    with np.errstate(over="ignore"):
        got = sensitivities.evaluate(name, v)
    assert (
        np.abs(got - exact) <= sensitivities.bound_evaluation(name, v.astype(np.float64), none, unit) + 1e-7 * unit
    ).all()


def test_b18_overflowing_cube_in_float16_makes_the_slope_inconclusive() -> None:
    spec = SESpec(1, hidden=1, activation="gelu_tanh", gate="tanh")
    parameters = {name: np.ones(shape, np.float16) for name, shape in shapes(spec).items()}
    for level, finite in ((30, True), (50, False)):
        x = np.full((1, 4, 1), level, np.float16)
        for accumulation in (None, "float16"):
            dx, _ = vjp_error_bound(
                x, x, spec, parameters, "float16", data_format="channels_last", accumulation=accumulation
            )
            assert np.isfinite(dx).all() == finite
        kept, _ = vjp_error_bound(
            x, x, spec, parameters, "float16", data_format="channels_last", intermediates="float32"
        )
        assert np.isfinite(kept).all()


def test_accuracy_constants_cover_every_measured_row() -> None:
    forms = {"sigmoid (1+tanh(v/2))/2": "sigmoid", "sigmoid 1/(1+exp(-v))": "sigmoid"}
    rows = json.loads((ROOT / "docs" / "accuracy.json").read_text())["rows"]
    seen = set()
    for row in rows:
        name = forms.get(row["function"], row["function"])
        half = row["dtype"] in ("bfloat16", "float16")
        a, b = (sensitivities.HALF_ACCURACY if half else sensitivities.ACCURACY)[name]
        assert row["a_normal"][f"{b:g}"] <= a, (row["dtype"], row["backend"], row["function"])
        seen.add((name, row["dtype"], row["backend"]))
    assert {dtype for _, dtype, _ in seen} == {"float64", "float32", "bfloat16", "float16"}
    for name in sensitivities.ACCURACY:
        backends = {backend for function, dtype, backend in seen if (function, dtype) == (name, "float32")}
        assert len(backends) >= (4 if name == "erf" else 5), (name, backends)  # NumPy has no erf


def test_code_and_page_have_the_same_clauses() -> None:
    clauses = re.findall(r"^- \*\*(B-\d+)\*\*", PAGE, re.MULTILINE)
    assert set(clauses) == {f"B-{number}" for number in range(1, len(clauses) + 1)}
    quoted: set[str] = set()
    for path in sorted((ROOT / "se_numpy").glob("*.py")):
        text = path.read_text()
        quoted |= set(re.findall(r"\bB-\d+\b", text))
        for first, last in re.findall(r"\bB-(\d+) to B-(\d+)\b", text):
            quoted |= {f"B-{number}" for number in range(int(first), int(last) + 1)}
    assert quoted == set(clauses)


def test_constants_on_the_page_are_those_of_the_code() -> None:
    for name, (a, b) in sensitivities.ACCURACY.items():
        in_half = "{:g}, {:g}".format(*sensitivities.HALF_ACCURACY[name])
        assert re.search(rf"\| {name} \| {a:g}, {b:g} \|.*\| {in_half} \|", PAGE), name
    (smooth,) = re.findall(r"\|f″\|: (.*?\(both gelu\))", PAGE.replace("\n", " "))
    for name, (first, second) in sensitivities.SMOOTH.items():
        assert f"{first:g} and {second:g} ({'both gelu' if 'gelu' in name else name})" in smooth, name


def worst_case(n: int, k: int) -> tuple[float, float]:
    """Compute the error if every operation on a block of ones rounds up by u, and its bound; both relative to y."""
    spec = SESpec(k, single_projection=True, gate="identity")
    x, _, parameters = ones(n, spec)
    up = 1.0 + U
    z = (up ** (n - 1) + sum(up**i for i in range(1, n))) / n * up * up  # sequential, then times 1/n
    v = z * (up**k + sum(up**i for i in range(2, k + 1)))
    y = v * up
    bound = error_bound(x, spec, parameters, data_format="channels_last").max()
    return y - k, float(bound)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 2), (49, 4), (300, 1), (3, 200)])
def test_roundings_in_one_direction_reach_half_of_the_bound(n: int, k: int) -> None:
    error, bound = worst_case(n, k)
    assert 0.45 * bound <= error <= bound


def test_no_correct_block_of_the_covering_array_is_refused() -> None:
    styles = list(correct_blocks.STYLES.items())
    for number, case in enumerate(covering_array()):
        inputs = case.inputs()
        for offset in (0, 5):
            name, style = styles[(number + offset) % len(styles)]
            precision = style.precision
            if precision.accumulation:
                precision = precision._replace(accumulation=case.dtype)
            against = reference(inputs, case.spec, case.dtype, precision)
            for one in compare(correct_blocks.run(case.spec, inputs, style), against):
                assert one.passed, (name, case, one)


def test_a_short_soak_raises_no_alarm_and_uses_a_visible_part_of_the_bound() -> None:
    """docs/SOAK.md has the largest ratios of many more runs."""
    tallies = soak.run_batch("numpy", "", {}, list(range(300)), False)
    assert not [alarm for tally in tallies.values() for alarm in tally.alarms]
    assert sum(tally.runs for tally in tallies.values()) == 300
    for dtype, least in {"float64": 0.05, "float32": 0.2, "bfloat16": 0.5, "float16": 0.5}.items():
        found = [tally for (_, of), tally in tallies.items() if of == dtype]
        assert max(max(tally.worst.values()) for tally in found) >= least
        assert sum(tally.conclusive for tally in found) > sum(tally.inconclusive for tally in found)


def test_soak_detects_a_wrong_block(monkeypatch: pytest.MonkeyPatch) -> None:
    right = correct_blocks.run
    monkeypatch.setattr(
        correct_blocks, "run", lambda spec, inputs, style: right(spec.replace(gain=spec.gain * 1.01), inputs, style)
    )
    tallies = soak.run_batch("numpy", "", {}, list(range(40)), False)
    alarms = [alarm for tally in tallies.values() for alarm in tally.alarms]
    assert len(alarms) >= 10
    assert "seed 1" in " ".join(alarms)


def test_accumulation_in_half_precision_is_refused_unless_declared() -> None:
    """A sequential sum of 16,384 ones in float16 stops at 2048."""
    x, spec, parameters = ones(1 << 14, dtype=np.float16)
    y = x * np.float16(2048 / (1 << 14))
    inputs = Inputs(x, x, parameters)
    for accumulation, passes in (("float16", True), (None, False)):
        against = reference(inputs, spec, "float16", Precision(accumulation=accumulation), gradients=False)
        (one,) = compare(Result(y), against)
        assert one.passed is passes
        assert (one.conclusive == 0) is passes  # 16384 u > 1: the bound has nothing to say


def test_make_rounding_has_two_models_of_half_precision() -> None:
    assert make_rounding("bfloat16", None, "dtype", "storage").stored == 2.0**-8
    assert make_rounding("bfloat16", None, "dtype", "float32").stored == 0.0
    assert make_rounding("bfloat16", "bfloat16", "dtype", "storage").stored == 0.0  # the arithmetic itself is that
    assert make_rounding("float32", None, "dtype", "storage").stored == 0.0
