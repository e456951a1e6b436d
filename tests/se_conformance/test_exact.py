"""Exact arithmetic is compared with the oracle and mpmath; probes are proven exact and proven to reveal mistakes."""

import decimal
import hashlib
import itertools
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import se_numpy
from se_conformance.cases import Case, Inputs, gate_kinks, round_to
from se_conformance.probes import HIDDEN_KINKS, LOGIT_KINKS, MARGIN, PARTS, SPATIAL, probe
from se_conformance.vectors import exact
from se_spec import HardSigmoid, InputError, LeakyReLU, ParameterError, SESpec, ShapeError, SpecError
from se_spec.nonlinearities import ACTIVATIONS, GATES

from ..repository.test_isolation import imports_of

ALL_ACTIVATIONS = (*ACTIVATIONS, LeakyReLU(slope=0.1))
ALL_GATES = (*GATES, HardSigmoid(slope=0.2, offset=0.5))


@pytest.mark.parametrize("activation", ALL_ACTIVATIONS, ids=str)
def test_exact_agrees_with_the_oracle(activation: object) -> None:
    for gate, squeeze in itertools.product(ALL_GATES, ("avg", "max", "avg_max")):
        spec = SESpec(
            4, hidden=3, bias=True, activation=activation, gate=gate, squeeze=squeeze, gain=2.0, residual=True
        )
        for spec_of_case in (spec, SESpec(4, single_projection=True, gate=gate, squeeze=squeeze)):
            case = Case(spec_of_case, dtype="float64", samples=2, spatial=(3,))
            x, _, parameters = case.inputs()
            agrees(exact.block(x, case.spec, parameters), x, case.spec, parameters)


def agrees(got: exact.Exact, x: np.ndarray, spec: SESpec, parameters: dict[str, np.ndarray]) -> None:
    want = se_numpy.block.trace(x, spec, parameters, "channels_last")
    assert (got.pre is None) == (want.pre is None)
    pairs = [(got.z, want.z), (got.h, want.h), (got.logits, want.logits), (got.g, want.g)]
    if got.pre is not None:
        pairs.append((got.pre, want.pre))
    for exactly, nearly in [*pairs, (got.y, se_numpy.block.scale_map(want, spec, "channels_last"))]:
        values = exact.round_fractions(exactly, "float64")
        np.testing.assert_allclose(nearly, values, rtol=0, atol=1e-14 * np.abs(values).max())


def test_exact_accepts_every_float_type_and_every_rank() -> None:
    for dtype, rank in itertools.product(("float64", "float32", "bfloat16", "float16"), (1, 2, 3)):
        case = Case(SESpec(3, hidden=2, bias=True, squeeze="avg_max"), rank=rank, dtype=dtype, samples=1)
        x, _, parameters = case.inputs()
        agrees(exact.block(x, case.spec, parameters), x, case.spec, parameters)


def test_exact_is_a_fraction_where_the_spec_is_rational() -> None:
    x = np.array([[[1.0, -3.0], [2.0, 5.0]]])  # means 3/2 and 1
    parameters = {"reduce.weight": np.array([[1.0, -1.0]]), "expand.weight": np.array([[1.0], [2.0]])}
    got = exact.block(x, SESpec(2, hidden=1, activation="hard_swish", gate="hard_sigmoid"), parameters)
    assert got.pre is not None
    assert got.pre.tolist() == [[Fraction(1, 2)]]
    assert got.h.tolist() == [[Fraction(7, 24)]]  # u (u + 3) / 6
    assert got.g.tolist() == [[Fraction(1, 2) + Fraction(7, 144), Fraction(1, 2) + Fraction(7, 72)]]
    assert got.y[0, 1].tolist() == [2 * got.g[0, 0], 5 * got.g[0, 1]]
    leaky = exact.activate(Fraction(-1), LeakyReLU(slope=0.1))
    assert leaky == -Fraction(0.1) != Fraction(-1, 10)  # a number that is given as a float is that float


@pytest.mark.framework("torch")
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "silu", "gelu", "gelu_tanh"])
def test_exact_agrees_with_mpmath_to_sixty_digits(name: str) -> None:
    import mpmath  # torch brings it

    functions = {
        "sigmoid": lambda u: 1 / (1 + mpmath.exp(-u)),
        "tanh": mpmath.tanh,
        "silu": lambda u: u / (1 + mpmath.exp(-u)),
        "gelu": lambda u: u * mpmath.erfc(-u / mpmath.sqrt(2)) / 2,
        "gelu_tanh": lambda u: u / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (u + u**3 * 44715 / 10**6))),
    }
    sevenths = [Fraction(k, 7) for k in (-280, -100, -23, -7, -1, 1, 9, 50, 140, 280)]
    with mpmath.workdps(1200):
        for u in [*sevenths, Fraction(1, 2**300), Fraction(-1, 2**1074), Fraction(-1, 10**9), Fraction(0)]:
            got, want = exact.activate(u, name), functions[name](mpmath.mpf(u.numerator) / u.denominator)
            assert abs(mpmath.mpf(got.numerator) / got.denominator - want) <= mpmath.mpf(10) ** -60 * abs(want), u


def test_exact_ignores_the_callers_decimal_context() -> None:
    want = [exact.activate(Fraction(-5, 3), name) for name in ("tanh", "gelu", "gelu_tanh", "silu")]
    with decimal.localcontext(decimal.Context(prec=3, Emin=-9, Emax=9, traps=[decimal.Inexact])):
        assert [exact.activate(Fraction(-5, 3), name) for name in ("tanh", "gelu", "gelu_tanh", "silu")] == want


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_rounded_is_to_nearest_even_once(dtype: str) -> None:
    rng = np.random.default_rng(0)
    stored = round_to(np.zeros(0), dtype).dtype
    info = ml_dtypes.finfo(stored)
    low, high = np.log10(float(info.smallest_subnormal)) - 1, np.log10(float(info.max)) + 1
    values = rng.choice([-1.0, 1.0], 4000) * 10 ** np.clip(rng.uniform(low, high, 4000), -323.0, 308.0)
    with np.errstate(over="ignore"):
        want = values.astype(stored)
    assert (
        exact.round_fractions(np.array([Fraction(value) for value in values.tolist()]), dtype).tobytes()
        == want.tobytes()
    )
    some = rng.standard_normal(500).astype(stored)
    further = (some.view(f"u{stored.itemsize}") + 1).view(stored)
    middles = [(Fraction(float(a)) + Fraction(float(b))) / 2 for a, b in zip(some, further, strict=True)]
    even = exact.round_fractions(np.array(middles), dtype)
    assert not (even.view(f"u{stored.itemsize}") & 1).any()  # each was half way: the last bit is 0
    largest, tiny = Fraction(float(info.max)), Fraction(float(info.smallest_subnormal))
    half = (largest - Fraction(float(np.nextafter(info.max, stored.type(0))))) / 2
    edges = [largest + half - tiny, largest + half, tiny / 2, tiny / 2 + tiny / 1000, -tiny * 3 / 2, Fraction(0)]
    wanted = [float(info.max), np.inf, 0.0, float(tiny), -2 * float(tiny), 0.0]
    assert exact.round_fractions(np.array(edges), dtype).astype(np.float64).tolist() == wanted


def test_exact_imports_no_other_implementation() -> None:
    path = Path(exact.__file__)
    library = {"collections", "contextlib", "decimal", "fractions", "functools", "typing"}
    assert imports_of(path) <= {*library, "numpy", "ml_dtypes", "se_spec"}
    assert "from ." not in path.read_text()


def test_exact_refuses_non_finite_and_misshapen_inputs() -> None:
    spec = SESpec(2, hidden=1)
    parameters = se_numpy.initialize(spec, seed=0)
    with pytest.raises(InputError, match="x holds NaN or inf"):
        exact.block(np.full((1, 2, 2), np.nan), spec, parameters)
    with pytest.raises(ShapeError):
        exact.block(np.ones((1, 2, 3)), spec, parameters)
    with pytest.raises(ParameterError):
        exact.block(np.ones((1, 2, 2)), spec, {})


SHAPES = [(1, 1), (8, 2), (12, 5), (12, 12), (12, 17), (64, 4), (512, 32), (2048, 128), (2048, 1)]
BITS = {"float32": 24, "bfloat16": 8}
PROBES = [("float32", part) for part in PARTS] + [("bfloat16", part) for part in PARTS if part != "squeeze"]


def specs(channels: int, hidden: int) -> list[SESpec]:
    block = SESpec(channels, hidden=hidden)
    some = [
        block.replace(bias=True),
        block.replace(activation="identity", squeeze="avg_max", gate="hard_sigmoid"),
        block.replace(activation="relu6", bias=True, squeeze="max", gate="relu"),
        block.replace(activation="silu", gate=HardSigmoid(slope=0.2, offset=0.5)),
        block.replace(activation="tanh", bias=True, gate="tanh"),
    ]
    return some if channels > 600 else [*some, SESpec(channels, single_projection=True, bias=True, squeeze="avg_max")]


@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize(("channels", "hidden"), [*SHAPES, (1, 512)])
def test_probes_are_exact_in_any_order(channels: int, hidden: int, precision: str) -> None:
    parts = [part for of, part in PROBES if of == precision]
    for number, (spec, part) in enumerate(itertools.product(specs(channels, hidden), parts)):
        rank = 1 + number % 3
        inputs = probe(spec, part=part, precision=precision, rank=rank)
        assert inputs.x.shape == inputs.dy.shape == (3, *SPATIAL[precision][rank], channels)
        assert {str(array.dtype) for array in (inputs.x, inputs.dy, *inputs.parameters.values())} == {precision}
        prove(inputs, spec, BITS[precision])


def prove(inputs: Inputs, spec: SESpec, bits: int) -> None:
    """Integers: all terms of a sum are multiples of one unit, and their magnitudes are fewer than 2**bits of it."""
    flat = inputs.x.reshape(inputs.x.shape[0], -1, spec.channels)
    positions = flat.shape[1]
    assert positions & (positions - 1) == 0  # x / positions in place of x is the same but for the unit
    counts, _ = units(flat)
    t = se_numpy.block.trace(inputs.x, spec, inputs.parameters, "channels_last")
    if spec.squeeze != "max":
        assert np.abs(counts).sum(1).max() < 2**bits
    fits(t.z, bits)
    fits(flat.astype(np.float64).mean(1), bits)
    if t.pre is not None:
        prove_product(t.z, inputs.parameters, "reduce", t.pre, bits)
    if spec.activation in ("relu", "relu6", "identity"):
        fits(t.h, bits)
        prove_product(t.h, inputs.parameters, "expand", t.logits, bits)
    for values, kinks in ((t.pre, HIDDEN_KINKS), (t.logits, LOGIT_KINKS + gate_kinks(spec.gate))):
        assert values is None or min(np.abs(values - kink).min() for kink in kinks) >= MARGIN


def prove_product(h: np.ndarray, parameters: dict[str, np.ndarray], name: str, want: np.ndarray, bits: int) -> None:
    weight, unit_of_weight = units(parameters[f"{name}.weight"])
    values, unit_of_values = units(h)
    bias, unit_of_bias = units(parameters.get(f"{name}.bias", np.zeros(len(weight))))
    unit = min(unit_of_weight * unit_of_values, unit_of_bias)
    factor, factor_of_bias = int(unit_of_weight * unit_of_values / unit), int(unit_of_bias / unit)
    sums = factor * (np.abs(values) @ np.abs(weight).T) + factor_of_bias * np.abs(bias)
    assert int(sums.max()) < 2**bits
    exactly = factor * (values @ weight.T) + factor_of_bias * bias
    assert (want == exactly * float(unit)).all()  # the oracle's sums are these, and in the precision itself:
    fits(want, bits)


def units(array: np.ndarray) -> tuple[np.ndarray, Fraction]:
    """The array as int64 multiples of the largest power of two of which all its values are."""
    values = array.astype(np.float64)
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2**53).astype(np.int64)
    lowest = np.frexp((whole & -whole).astype(np.float64))[1] - 1 + exponent - 53
    unit = int(lowest[values != 0].min(initial=0))
    counts = np.ldexp(values, -unit).astype(np.int64)
    assert (np.ldexp(counts.astype(np.float64), unit) == values).all()
    assert np.abs(counts).max() < 2**25  # so that sums of a few thousand products stay far below 2**63
    return counts, Fraction(2) ** unit


def fits(values: np.ndarray, bits: int) -> None:
    """Every value has at most so many significant bits."""
    mantissa, _ = np.frexp(values)
    assert (np.ldexp(mantissa, bits) == np.rint(np.ldexp(mantissa, bits))).all()


@pytest.mark.parametrize("precision", BITS)
def test_probes_give_the_same_sums_forwards_backwards_and_shuffled(precision: str) -> None:
    spec = SESpec(12, hidden=5, bias=True)
    rng = np.random.default_rng(0)
    for part in [part for of, part in PROBES if of == precision]:
        x, _, parameters = probe(spec, part=part, precision=precision)
        t = se_numpy.block.trace(x, spec, parameters, "channels_last")
        flat = x.reshape(3, -1, 12)
        share = flat.dtype.type(1 / flat.shape[1])
        orders = [np.arange(12), np.arange(12)[::-1], rng.permutation(12)]
        for order in orders:
            places = order[order < flat.shape[1]]
            z = added([flat[:, place] for place in places]) * share
            assert (z == t.z).all()
            assert (added([flat[:, place] * share for place in places]) == t.z).all()
            weight, bias = parameters["reduce.weight"], parameters["reduce.bias"]
            u = added([np.broadcast_to(bias, (3, 5)), *(z[:, [c]] * weight[:, c] for c in order)])
            assert u.dtype == x.dtype
            assert (u == t.pre).all()
            h, weight, bias = np.maximum(u, u.dtype.type(0)), parameters["expand.weight"], parameters["expand.bias"]
            terms = [np.broadcast_to(bias, (3, 12)), *(h[:, [r]] * weight[:, r] for r in order[order < 5])]
            assert (added(terms) == t.logits).all()


def added(terms: list[np.ndarray]) -> np.ndarray:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def tf32(array: np.ndarray) -> np.ndarray:
    """Ten explicit bits of mantissa, half to even."""
    words = np.ascontiguousarray(array).view(np.uint32)
    return ((words + 0xFFF + ((words >> 13) & 1)) & ~np.uint32(0x1FFF)).view(np.float32)


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("channels", "hidden"), SHAPES)
def test_probes_reveal_rounded_weights_rounded_maps_and_dropped_pixels(channels: int, hidden: int, part: str) -> None:
    for spec in specs(channels, hidden):
        x, _, parameters = probe(spec, part=part, precision="float32")
        y = se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last")

        def moved(
            squeezed: np.ndarray, weights: dict, spec: SESpec = spec, x: np.ndarray = x, y: np.ndarray = y
        ) -> float:
            """How far y moves when its gate is of another map or of other weights."""
            g = se_numpy.excitation(squeezed, spec, weights, data_format="channels_last")
            other = x * se_numpy.block.expand_over_space(spec.gain * g, x.ndim, "channels_last") + spec.residual * x
            return float(np.abs(other - y).max() / np.abs(y).max())

        if part == "squeeze":
            z = se_numpy.block.trace(x, spec, parameters, "channels_last").z[:, None].astype(np.float32)
            for rounding in (tf32, to_bfloat16):
                assert moved(rounding(z), parameters) >= 1e-5, (spec, rounding)
            assert (np.abs(units(z)[0]) >= 2**11).all()
            assert all(
                np.abs(units(weight)[0]).max() <= 2**5 for name, weight in parameters.items() if "weight" in name
            )
        else:
            wide = "expand.weight" if spec.single_projection else f"{part}.weight"
            for rounding in (tf32, to_bfloat16):
                assert moved(x, {**parameters, wide: rounding(parameters[wide])}) >= 1e-5, (spec, rounding)
            assert (np.abs(units(parameters[wide])[0]) >= 2**12).sum(1).min() >= 1
        if spec.squeeze != "max":
            for dtype in ("float16", "bfloat16"):
                assert moved(round_to(x, dtype), parameters) >= 1e-5, (spec, dtype)
        if spec.squeeze != "max" or (channels > 1 and hidden > 1):  # else no maximum somewhere, or none that counts
            flat = x.reshape(3, -1, channels)
            for place in range(flat.shape[1]):
                assert moved(np.delete(flat, place, 1), parameters) >= 1e-5, (spec, place)


@pytest.mark.parametrize("precision", BITS)
def test_probes_use_all_channels_and_hidden_units_and_exceed_every_kink(precision: str) -> None:
    parts = [part for of, part in PROBES if of == precision]
    for (channels, hidden), part in itertools.product(SHAPES[1:-1], parts):
        for spec in specs(channels, hidden):
            x, _, parameters = probe(spec, part=part, precision=precision)
            t = se_numpy.block.trace(x, spec, parameters, "channels_last")
            if precision == "float32":
                assert all(array.astype(bool).any(0).all() for array in parameters.values())
            far, near = (2.0, -2.0) if spec.activation == "tanh" else (6.5, -3.5)
            assert t.pre is None or (far < t.pre.max() <= 16 and t.pre.min() < near)
            assert 3.5 < t.logits.max() <= 12
            assert -12 <= t.logits.min() < -3.5
            assert np.abs(t.logits).min() < 1.5
            assert all(len(set(means)) == 3 for means in t.z.T.tolist())  # no two samples alike
            if channels <= 8:
                assert all(len(set(means)) >= channels - 1 for means in t.z.tolist())
            for axis in range(1, x.ndim - 1):
                one, other = np.take(x, 0, axis), np.take(x, 1, axis)
                assert (one != other).mean() > 0.5


def test_probes_are_reproducible_and_depend_on_the_seed() -> None:
    spec = SESpec(12, hidden=5, bias=True)
    digest = hashlib.sha256()
    for precision, part in PROBES:
        inputs = probe(spec, part=part, precision=precision, seed=3)
        for array in (inputs.x, inputs.dy, *inputs.parameters.values()):
            digest.update(array.tobytes())
        assert (inputs.x != probe(spec, part=part, precision=precision, seed=4).x).any()
    assert digest.hexdigest() == "639c5e3bcad2fa7c3563e58e12ac7ccfdfb3c8cd8d6d3275f69f0e4f2f553cfd"


def test_probes_refuse_unknown_arguments() -> None:
    spec = SESpec(4, hidden=2)
    with pytest.raises(SpecError, match="part='squeeze' is not allowed; it must be reduce or expand in bfloat16"):
        probe(spec, part="squeeze", precision="bfloat16")
    for wrong in ({"part": "scale"}, {"precision": "float64"}, {"rank": 4}, {"samples": 0}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            probe(spec, **{"part": "reduce", "precision": "float32", **wrong})
