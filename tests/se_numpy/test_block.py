"""The oracle alone: numbers that a person can check, exact rational arithmetic, finite differences."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

import se_numpy
import se_spec
from se_conformance.cases import Case, covering_array, round_to
from se_numpy.nonlinearities import activate, activate_derivative, apply_gate, gate_derivative
from se_spec import HardSigmoid, LeakyReLU, SESpec

FORMATS = ("channels_first", "channels_last")


def both(x: np.ndarray, spec: SESpec, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Compute y of a channels-last map, and assert that channels first gives the same."""
    last = se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last")
    first = se_numpy.squeeze_excitation(np.moveaxis(x, -1, 1), spec, parameters, data_format="channels_first")
    np.testing.assert_allclose(
        np.moveaxis(first, 1, -1), last, rtol=0, atol=1e-15 * abs(last[np.isfinite(last)]).max(initial=1)
    )
    return last


def test_c1_two_by_two_map_with_gates_one_half_and_three_quarters() -> None:
    # Means 3 and 1; hidden 3 - 1 = 2; logits 0 and 2 * log(3) / 2; sigmoid(0) = 1/2, sigmoid(log 3) = 3/4.
    x = np.ones((1, 2, 2, 2))
    x[0, ..., 0] = [[0, 2], [4, 6]]
    parameters = {"reduce.weight": np.array([[1.0, -1.0]]), "expand.weight": np.array([[0.0], [math.log(3) / 2]])}
    y = both(x, SESpec(2, hidden=1), parameters)
    assert y[0, ..., 0].tolist() == [[0, 1], [2, 3]]
    np.testing.assert_allclose(y[0, ..., 1], 0.75, rtol=1e-15)


@pytest.mark.parametrize(
    ("fields", "gate", "y"),
    [
        # x = 1, 2, 6: mean 3, max 6, half of each 4.5. One channel, weights 2 and 1: hidden 2 z, logit 2 z + bias.
        ({"squeeze": "avg"}, 6.0, [6, 12, 36]),  # S-1
        ({"squeeze": "max"}, 12.0, [12, 24, 72]),  # S-2
        ({"squeeze": "avg_max"}, 9.0, [9, 18, 54]),  # S-3
        ({"gain": 2.0}, 6.0, [12, 24, 72]),  # C-2
        ({"residual": True}, 6.0, [7, 14, 42]),  # C-3
        ({"gain": 2.0, "residual": True}, 6.0, [13, 26, 78]),
        ({"activation": "relu6", "squeeze": "max"}, 6.0, [6, 12, 36]),
        ({"gate": HardSigmoid(slope=0.25, offset=-1.0)}, 0.5, [0.5, 1, 3]),  # G-5
    ],
)
def test_s1_s2_s3_c2_c3_literals_of_one_channel(fields: dict, gate: float, y: list[float]) -> None:
    spec = SESpec(1, **{"gate": "identity", **fields})
    x = np.array([1.0, 2.0, 6.0]).reshape(1, 3, 1)
    parameters = {"reduce.weight": np.array([[2.0]]), "expand.weight": np.array([[1.0]])}
    assert se_numpy.excitation(x, spec, parameters, data_format="channels_last").tolist() == [[gate]]
    assert both(x, spec, parameters).ravel().tolist() == y


def test_e1_e3_orientation_and_biases_of_both_projections() -> None:
    # z = (1, 2, 3); u = (1 - 3 + 10, 2 - 20) = (8, -18); h = (8, 0); v = (8, 0, 16) + (1, 2, -3)
    x = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3)
    parameters = {
        "reduce.weight": np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
        "reduce.bias": np.array([10.0, -20.0]),
        "expand.weight": np.array([[1.0, 5.0], [0.0, 5.0], [2.0, 5.0]]),
        "expand.bias": np.array([1.0, 2.0, -3.0]),
    }
    spec = SESpec(3, hidden=2, bias=True, gate="identity")
    assert se_numpy.excitation(x, spec, parameters, data_format="channels_last").tolist() == [[9, 2, 13]]


def test_e2_e4_single_projection_skips_reduce_and_activation() -> None:
    x = np.array([-1.0, 2.0]).reshape(1, 1, 2)
    parameters = {"expand.weight": np.array([[1.0, 1.0], [3.0, 0.0]]), "expand.bias": np.array([0.0, 1.0])}
    spec = SESpec(2, single_projection=True, bias=True, activation="relu", gate="identity")
    assert se_numpy.excitation(x, spec, parameters, data_format="channels_last").tolist() == [[1, -2]]


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("relu", [-2, 0, 3], [0, 0, 3]),
        ("silu", [0, math.log(3), -math.log(3)], [0, 0.75 * math.log(3), -0.25 * math.log(3)]),
        ("hard_swish", [-4, -3, -1, 0, 1, 3, 4], [0, 0, -1 / 3, 0, 2 / 3, 3, 4]),
        ("gelu", [0, 1, -1], [0, 0.8413447460685429, -0.15865525393145705]),  # the normal table
        ("gelu_tanh", [0, 1, -1], [0, 0.8411919906082768, -0.15880800939172324]),
        (LeakyReLU(slope=0.25), [-4, 0, 4], [-1, 0, 4]),
        ("relu6", [-1, 0, 5, 6, 7], [0, 0, 5, 6, 6]),
        ("sigmoid", [0, math.log(3), -math.log(3)], [0.5, 0.75, 0.25]),
        ("tanh", [0, math.log(3), -math.log(3)], [0, 0.8, -0.8]),
        ("identity", [-2, 0, 3], [-2, 0, 3]),
    ],
)
def test_a1_a2_a3_a4_a5_a6_a7_a8_literals(name: se_spec.nonlinearities.Activation, at: list, value: list) -> None:
    np.testing.assert_allclose(activate(np.array(at, float), name), value, rtol=3e-16, atol=0)


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("sigmoid", [0, math.log(3), -math.log(3)], [0.5, 0.75, 0.25]),  # G-1
        ("tanh", [0, math.log(2)], [0, 0.6]),  # G-2
        ("relu", [-1, 0, 2], [0, 0, 2]),  # G-3
        ("identity", [-1, 0, 2], [-1, 0, 2]),  # G-4
        ("hard_sigmoid", [-4, -3, 0, 1.5, 3, 4], [0, 0, 0.5, 0.75, 1, 1]),  # G-5
        (HardSigmoid(slope=0.2, offset=0.5), [-3, -2.5, 1, 2.5, 3], [0, 0, 0.7, 1, 1]),
        (HardSigmoid(slope=1, offset=0, low=-2, high=2), [-3, -1, 3], [-2, -1, 2]),
    ],
)
def test_g1_g2_g3_g4_g5_literals(name: se_spec.nonlinearities.Gate, at: list, value: list) -> None:
    np.testing.assert_allclose(apply_gate(np.array(at, float), name), value, rtol=4e-16, atol=0)


RATIONAL = [
    SESpec(3, hidden=2, bias=True, squeeze=squeeze, activation=activation, gate=gate, gain=gain, residual=residual)
    for (squeeze, activation), (gate, gain, residual) in itertools.product(
        itertools.product(
            ("avg", "max", "avg_max"), ("relu", "relu6", "hard_swish", "identity", LeakyReLU(slope=0.25))
        ),
        (("identity", 2.0, False), ("relu", 1.0, True), (HardSigmoid(slope=0.125, offset=0.5), 1.0, False)),
    )
]


@pytest.mark.parametrize("spec", RATIONAL, ids=str)
def test_n2_exact_rational_arithmetic_gives_the_same(spec: SESpec) -> None:
    rng = np.random.default_rng(7)
    x = rng.integers(-40, 40, (2, 3, 5, 3)) / 8
    parameters = {name: rng.integers(-16, 16, shape) / 16 for name, shape in se_spec.parameters.shapes(spec).items()}
    want = rational(x, spec, parameters)
    got = both(x, spec, parameters)
    worst = max(abs(Fraction(float(got[at])) - want[at]) for at in np.ndindex(x.shape))
    assert worst <= Fraction(1, 10**14) * max(abs(value) for value in want.ravel())


def rational(x: np.ndarray, spec: SESpec, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Compute the block in exact arithmetic, with loops."""
    weights = {name: np.vectorize(Fraction, otypes=[object])(array) for name, array in parameters.items()}
    y = np.empty(x.shape, object)
    for n in range(x.shape[0]):
        z = []
        for c in range(spec.channels):
            values = [Fraction(value) for value in x[n, ..., c].ravel().tolist()]
            mean = sum(values) / len(values)
            z.append({"avg": mean, "max": max(values), "avg_max": (mean + max(values)) / 2}[spec.squeeze])
        u = [dot(row, z) + b for row, b in zip(weights["reduce.weight"], weights["reduce.bias"], strict=True)]
        h = [rational_activation(value, spec.activation) for value in u]
        v = [dot(row, h) + b for row, b in zip(weights["expand.weight"], weights["expand.bias"], strict=True)]
        for c, logit in enumerate(v):
            g = {"identity": logit, "relu": max(logit, 0)}.get(
                str(spec.gate), min(max(logit / 8 + Fraction(1, 2), 0), 1)
            )
            for at in np.ndindex(x.shape[1:-1]):
                value = Fraction(float(x[(n, *at, c)]))
                y[(n, *at, c)] = value * Fraction(spec.gain) * g + (value if spec.residual else 0)
    return y


def rational_activation(u: Fraction, name: se_spec.nonlinearities.Activation) -> Fraction:
    if isinstance(name, LeakyReLU):
        return u if u > 0 else u / 4
    six = min(max(u, Fraction(0)), Fraction(6))
    return {"relu": max(u, Fraction(0)), "relu6": six, "identity": u}.get(name, u * min(max(u + 3, 0), 6) / 6)


def dot(row: np.ndarray, values: list[Fraction]) -> Fraction:
    return sum((weight * value for weight, value in zip(row, values, strict=True)), Fraction(0))


@pytest.mark.parametrize(
    "case", [case for case in covering_array() if case.dtype == "float64"], ids=lambda case: str(case.seed)
)
def test_v3_gradients_agree_with_differences(case: Case) -> None:
    x, dy, parameters = case.inputs()
    rng = np.random.default_rng(0)
    dx, dparameters = se_numpy.vjp(x, dy, case.spec, parameters, data_format="channels_last")
    directions = {name: rng.standard_normal(array.shape) for name, array in {"x": x, **parameters}.items()}
    for name, direction in directions.items():

        def moved(t: float, name: str = name, direction: np.ndarray = direction) -> float:
            if name == "x":
                arguments = x + t * direction, case.spec, parameters
            else:
                arguments = x, case.spec, {**parameters, name: parameters[name] + t * direction}
            return float((dy * se_numpy.squeeze_excitation(*arguments, data_format="channels_last")).sum())

        gradient = dx if name == "x" else dparameters[name]
        e = 1e-5  # five points: the error is e^4 of the fifth derivative, and 1e-16 / e of rounding
        difference = (8 * (moved(e) - moved(-e)) - (moved(2 * e) - moved(-2 * e))) / (12 * e)
        scale = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert abs(difference - float((gradient * direction).sum())) <= 1e-8 * max(scale, abs(moved(0))), name


@pytest.mark.parametrize("name", [*se_spec.nonlinearities.ACTIVATIONS, LeakyReLU(slope=0.1)], ids=str)
def test_v3_derivatives_at_kinks_and_large_arguments(name: se_spec.nonlinearities.Activation) -> None:
    kinks = {"relu": {0.0: 0}, "relu6": {0.0: 0, 6.0: 0}, LeakyReLU(slope=0.1): {0.0: 0.1}}
    for at, value in kinks.get(name, {}).items():
        assert activate_derivative(np.array([at]), name)[0] == value
    far = np.array([-1000.0, 1000.0])
    assert np.isfinite(activate(far, name)).all()
    assert np.isfinite(activate_derivative(far, name)).all()
    assert np.isnan(activate_derivative(np.array([np.nan]), name)).all() or name == "identity"


@pytest.mark.parametrize("name", [*se_spec.nonlinearities.GATES, HardSigmoid(slope=0.2, offset=0.5)], ids=str)
def test_v3_gate_derivatives_at_kinks_and_large_arguments(name: se_spec.nonlinearities.Gate) -> None:
    kinks = {"relu": [0.0], "hard_sigmoid": [-3.0, 3.0], HardSigmoid(slope=0.2, offset=0.5): [-2.5, 2.5]}
    assert not gate_derivative(np.array(kinks.get(name, [])), name).any()
    far = np.array([-1000.0, 1000.0])
    assert np.isfinite(apply_gate(far, name)).all()
    assert np.isfinite(gate_derivative(far, name)).all()


def test_v4_tied_maxima_share_evenly() -> None:
    x = np.array([5.0, 1.0, 5.0, 5.0]).reshape(1, 4, 1)
    spec = SESpec(1, squeeze="max", gate="identity")
    ones = {"reduce.weight": np.ones((1, 1)), "expand.weight": np.ones((1, 1))}
    dx, _ = se_numpy.vjp(x, np.ones_like(x), spec, ones, data_format="channels_last")
    # y = x * max(x): dy/dx = max = 5 everywhere, and the sum of x, 16, shared by three.
    np.testing.assert_allclose(dx.ravel(), [5 + 16 / 3, 5, 5 + 16 / 3, 5 + 16 / 3], rtol=1e-15)


@pytest.mark.parametrize("size", [1e3, 1e30, 1e200])
def test_n3_no_warning_at_huge_logits(size: float) -> None:
    for activation, kind in itertools.product(se_spec.nonlinearities.ACTIVATIONS, se_spec.nonlinearities.GATES):
        spec = SESpec(2, hidden=2, activation=activation, gate=kind)
        x = np.array([[[size, -size]]])
        weights = {"reduce.weight": np.eye(2), "expand.weight": np.array([[1.0, 0.5], [-1.0, 0.5]])}
        y = se_numpy.squeeze_excitation(x, spec, weights, data_format="channels_last")
        se_numpy.vjp(x, np.ones_like(x), spec, weights, data_format="channels_last")
        assert np.isfinite(y).all() or size > 1e3


def test_n3_nan_and_inf_follow_ieee_and_stay_in_their_sample() -> None:
    spec = SESpec(2, hidden=2, bias=False, squeeze="avg_max")
    weights = {
        "reduce.weight": np.array([[1.0, 2.0], [3.0, 1.0]]),
        "expand.weight": np.array([[1.0, 2.0], [-1.0, -2.0]]),
    }
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    clean = both(x, spec, weights)
    x[1, 2, 0], x[2, 0, 1] = np.nan, np.inf
    y = both(x, spec, weights)
    assert (y[0] == clean[0]).all()
    assert np.isnan(y[1]).all()
    gates = np.array([1.0, 0.0])  # the sigmoid of inf and of -inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(y[2], x[2] * gates)
    assert np.isnan(y[2, 0, 1])  # inf * 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_n1_half_precision_is_squeezed_in_float64(dtype: str) -> None:
    spec = SESpec(1, gate="identity")
    ones = {name: round_to(np.ones((1, 1)), dtype) for name in ("reduce.weight", "expand.weight")}
    for value, size in ((1.0, 64), (500.0, 32)):
        x = round_to(np.full((1, size, size, 1), value), dtype)
        assert se_numpy.excitation(x, spec, ones, data_format="channels_last").item() == value
        assert se_numpy.squeeze_excitation(x, spec, ones, data_format="channels_last").dtype == np.float64


def test_v1_arguments_are_not_modified() -> None:
    case = Case(SESpec(12, hidden=5, bias=True, squeeze="avg_max", residual=True), dtype="float64")
    inputs, again = case.inputs(), case.inputs()
    se_numpy.squeeze_excitation(inputs.x, case.spec, inputs.parameters, data_format="channels_last")
    se_numpy.vjp(inputs.x, inputs.dy, case.spec, inputs.parameters, data_format="channels_last")
    assert inputs.x.tobytes() == again.x.tobytes()
    assert all(inputs.parameters[name].tobytes() == again.parameters[name].tobytes() for name in again.parameters)


def test_v2_samples_are_independent() -> None:
    case = Case(SESpec(12, hidden=5, bias=True, squeeze="avg_max"), dtype="float64")
    x, _, parameters = case.inputs()
    whole = se_numpy.squeeze_excitation(x, case.spec, parameters, data_format="channels_last")
    for i in range(len(x)):
        alone = se_numpy.squeeze_excitation(x[i : i + 1], case.spec, parameters, data_format="channels_last")
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-14, atol=1e-14)


def test_v5_empty_batch_gives_empty_results() -> None:
    spec = SESpec(4, hidden=2, squeeze="max", bias=True)
    weights = se_numpy.initialize(spec, seed=0)
    x = np.zeros((0, 3, 5, 4))
    assert se_numpy.squeeze_excitation(x, spec, weights, data_format="channels_last").shape == x.shape
    dx, dweights = se_numpy.vjp(x, x, spec, weights, data_format="channels_last")
    assert dx.shape == x.shape
    assert all(not dweights[name].any() and dweights[name].shape == weights[name].shape for name in weights)


def test_k4_initialize_is_seeded_uniform_and_has_biases() -> None:
    spec = SESpec(512, hidden=64, bias=True)
    parameters = se_numpy.initialize(spec, seed=3)
    for name, fan_in in (("reduce", 512), ("expand", 64)):
        limit = fan_in**-0.5
        for kind in ("weight", "bias"):
            values = parameters[f"{name}.{kind}"]
            assert values.dtype == np.float32
            assert 0.95 * limit < abs(values).max() <= limit * (1 + 1e-6)
            assert abs(values.std() - limit / 3**0.5) < 0.1 * limit
    again, other = se_numpy.initialize(spec, seed=3), se_numpy.initialize(spec, seed=4)
    assert all(parameters[name].tobytes() == again[name].tobytes() != other[name].tobytes() for name in parameters)
    assert se_numpy.initialize(spec, seed=3, dtype="float64")["reduce.bias"].dtype == np.float64


@pytest.mark.parametrize("data_format", FORMATS)
def test_s1_every_rank_and_both_layouts_have_the_same_result(data_format: str) -> None:
    spec = SESpec(2, gate="identity", hidden=2)
    eyes = {"reduce.weight": np.eye(2), "expand.weight": np.eye(2)}
    for space in ((3,), (3, 5), (3, 5, 4)):
        x = np.arange(2 * 2 * math.prod(space), dtype=float).reshape(2, 2, *space)
        g = x.reshape(2, 2, -1).mean(-1)
        x = x if data_format == "channels_first" else np.moveaxis(x, 1, -1)
        assert se_numpy.excitation(x, spec, eyes, data_format=data_format).tolist() == g.tolist()
