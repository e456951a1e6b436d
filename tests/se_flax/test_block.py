"""The block in NNX and linen: JAX's transformations, dtypes, training, saving and restoring."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import se_numpy
import se_spec
from se_conformance import Case, Reference, Result, compare, reference
from se_conformance.cases import DTYPES, Inputs, round_to
from se_spec import InputError, LeakyReLU, ParameterError, SESpec

from .trees import assert_restored_to_the_bit, bits

pytestmark = pytest.mark.framework("flax")

ROOT = Path(__file__).parents[2]
SPEC = SESpec(12, hidden=5, bias=True)
RICH = SPEC.replace(squeeze="avg_max", activation=LeakyReLU(slope=0.1), gate="hard_sigmoid", gain=2.0, residual=True)
TWO = [Case(RICH, dtype="float64", seed=seed) for seed in (1, 2)]

NARROWER = [("float64", "float32"), ("float32", "bfloat16"), ("float32", "float16"), ("float16", "bfloat16")]
WIDER = [("bfloat16", None), ("bfloat16", "float32"), ("float16", "float64")]

APIS = ("nnx", "linen")
both = pytest.mark.parametrize("api", APIS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def module(name: str) -> Any:
    """Make a fixture that imports a module, so that this file can be imported where Flax is not installed."""
    return pytest.fixture(lambda: importlib.import_module(name), name=name.rpartition(".")[2], scope="session")


_jax, _nnx, _linen, _se_flax = map(module, ("jax", "flax.nnx", "flax.linen", "se_flax"))


class Block(NamedTuple):
    """A block of either API as functions of its state and x; ``canonical`` converts a state, or its gradient."""

    state: Any
    forward: Callable[[Any, Any], Any]
    gate: Callable[[Any, Any], Any]
    canonical: Callable[[Any], dict[str, np.ndarray]]

    def run(self, x: Any) -> Any:
        """Compute y and g, compiled."""
        return importlib.import_module("jax").jit(lambda *a: (self.forward(*a), self.gate(*a)))(self.state, x)


def build(api: str, spec: SESpec, parameters: Any = None, seed: int = 0, **dtypes: Any) -> Block:
    jax, nnx, se_flax = map(importlib.import_module, ("jax", "flax.nnx", "se_flax"))
    if api == "linen":
        block = se_flax.linen.SqueezeExcitation(spec, **dtypes)
        drawn = partial(block.init, jax.random.key(seed), np.ones((1, 2, spec.channels), np.float32))
        state = drawn() if parameters is None else se_flax.linen.set_parameters(block, parameters)
        return Block(state, block.apply, partial(block.apply, method="excitation"), se_flax.linen.get_parameters)
    graph, state = nnx.split(build_nnx(spec, parameters, seed, **dtypes))
    return Block(
        state,
        lambda state, x: nnx.merge(graph, state)(x),
        lambda state, x: nnx.merge(graph, state).excitation(x),
        lambda state: se_flax.get_parameters(nnx.merge(graph, state)),
    )


def build_nnx(spec: SESpec, parameters: Any = None, seed: int = 0, **dtypes: Any) -> Any:
    nnx, se_flax = map(importlib.import_module, ("flax.nnx", "se_flax"))
    block = se_flax.SqueezeExcitation(spec, rngs=nnx.Rngs(seed), **dtypes)
    if parameters is not None:
        se_flax.set_parameters(block, parameters)
    return block


def float64_if(wanted: bool) -> Any:
    """Make a context with or without JAX's float64."""
    return importlib.import_module("jax").enable_x64(wanted)


def judge(case: Case, inputs: Inputs | None = None, against: Reference | None = None, **got: Any) -> None:
    """Assert that y, g, dx and dparameters, as many as are given, are the oracle's."""
    against = against or reference(inputs or case.inputs(), case.spec, case.dtype, gradients="dx" in got)
    got = {name: value if isinstance(value, dict) else np.asarray(value) for name, value in got.items()}
    faults = [one for one in compare(Result(**got), against) if not one.passed]
    assert not faults, faults


def test_importing_se_flax_makes_linen_reachable() -> None:
    code = "import se_flax; print(se_flax.linen.SqueezeExcitation(64).spec)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "SESpec(64)", done.stderr


@pytest.mark.parametrize(("api", "other"), [("nnx", "linen"), ("linen", "nnx")])
def test_nnx_and_linen_share_only_the_spec_and_jax_code(api: str, other: str) -> None:
    imported = {name for path in (ROOT / "se_flax" / api).glob("*.py") for name in imports(path)}
    shared = {".".join(name.split(".")[:3]) for name in imported if name.startswith("..")}
    assert shared == {"..examination", "..nonlinearities", "..ops", "..parameters"}
    roots = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert roots == {"", "flax", "jax", "numpy", "se_spec"}
    assert f"flax.{api}" in imported
    assert not [name for name in imported if other in name.split(".")]


def imports(path: Path) -> Iterator[str]:
    """List the modules that a file imports; relative imports with their dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            start = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (start + alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@every_dtype
def test_nnx_and_linen_agree_bit_for_bit_under_jit(dtype: str) -> None:
    case = Case(RICH, dtype=dtype)
    with float64_if(dtype == "float64"):
        one, other = (
            build(api, RICH, case.inputs().parameters, param_dtype=dtype).run(case.inputs().x) for api in APIS
        )
    judge(case, y=one[0], g=one[1])
    assert bits(one) == bits(other)


def test_nnx_jit_grad_and_value_and_grad_match_the_oracle(nnx: Any, se_flax: Any) -> None:
    x, dy, parameters = TWO[0].inputs()
    against = reference(TWO[0].inputs(), RICH, "float64", gradients=False)
    terms, room = against.want.y * dy, against.bound.y * np.abs(dy)
    with float64_if(True):
        block = build_nnx(RICH, parameters, param_dtype="float64")
        y = nnx.jit(lambda block, x: block(x))(block, x)
        dblock, dx = nnx.jit(nnx.grad(lambda block, x: (block(x) * dy).sum(), argnums=(0, 1)))(block, x)
        value, again = nnx.jit(nnx.value_and_grad(lambda block: (block(x) * dy).sum()))(block)
        for gradient in (dblock, again):
            dparameters = se_flax.get_parameters(nnx.merge(nnx.graphdef(block), gradient))
            judge(TWO[0], y=y, dx=dx, dparameters=dparameters)
    assert abs(float(value) - terms.sum()) <= room.sum() + terms.size * 2.0**-52 * np.abs(terms).sum()


@both
def test_jax_jit_and_jax_grad_over_the_state_match_the_oracle(api: str, jax: Any) -> None:
    x, dy, parameters = TWO[0].inputs()
    with float64_if(True):
        block = build(api, RICH, parameters, param_dtype="float64")
        y = jax.jit(block.forward)(block.state, x)
        gradient = jax.grad(lambda state, x: (block.forward(state, x) * dy).sum(), argnums=(0, 1))
        dstate, dx = jax.jit(gradient)(block.state, x)
        judge(TWO[0], y=y, dx=dx, dparameters=block.canonical(dstate))


@both
def test_jax_jvp_is_the_oracles_jacobian(api: str, jax: Any) -> None:
    case = Case(RICH, dtype="float64", samples=2, spatial=(3, 4))
    (x, _, parameters), other = case.inputs(), replace(case, seed=1).inputs()
    with float64_if(True):
        block, direction = (build(api, RICH, one, param_dtype="float64") for one in (parameters, other.parameters))
        _, got = jax.jit(partial(jax.jvp, block.forward))((block.state, x), (direction.state, other.x))
    want, bound = np.zeros(x.shape), np.zeros(x.shape)
    for at in np.ndindex(x.shape):  # one entry of y after the other; the same sums, the other way round
        unit = np.zeros(x.shape)
        unit[at] = 1.0
        dx, dparameters = se_numpy.vjp(x, unit, RICH, parameters, data_format="channels_last")
        want[at] = (dx * other.x).sum() + sum((dparameters[name] * other.parameters[name]).sum() for name in parameters)
        dx, dparameters = se_numpy.vjp_error_bound(x, unit, RICH, parameters, "float64", data_format="channels_last")
        bound[at] = (dx * np.abs(other.x)).sum()
        bound[at] += sum((dparameters[name] * np.abs(other.parameters[name])).sum() for name in parameters)
    assert np.isfinite(bound).all()
    assert (np.abs(np.asarray(got) - want) <= bound).all()


@both
def test_jax_vmap_over_blocks_and_maps_equals_a_loop(api: str, jax: Any) -> None:
    with float64_if(True):
        blocks = [build(api, RICH, case.inputs().parameters, param_dtype="float64") for case in TWO]
        states = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *(block.state for block in blocks))
        y = jax.jit(jax.vmap(blocks[0].forward))(states, np.stack([case.inputs().x for case in TWO]))
    for case, one in zip(TWO, y, strict=True):
        judge(case, y=one)


def test_nnx_vmap_over_maps_equals_a_loop(nnx: Any) -> None:
    parameters = TWO[0].inputs().parameters
    with float64_if(True):
        block = build_nnx(RICH, parameters, param_dtype="float64")
        mapped = nnx.jit(nnx.vmap(lambda block, x: block(x), in_axes=(None, 0)))
        y = mapped(block, np.stack([case.inputs().x for case in TWO]))
    for case, one in zip(TWO, y, strict=True):
        judge(case, case.inputs()._replace(parameters=parameters), y=one)


@both
@pytest.mark.parametrize(("given", "dtype"), NARROWER + WIDER)
def test_n2_n7_y_is_rounded_once_to_dtype_and_the_gate_stays_wide(api: str, given: str, dtype: str | None) -> None:
    output = dtype or given
    inputs = Case(SPEC, dtype=given).inputs()
    inputs = inputs._replace(parameters={name: one.astype("float32") for name, one in inputs.parameters.items()})
    with float64_if("float64" in (given, output)):
        block = build(api, SPEC, inputs.parameters, dtype=dtype)
        y, g = block.run(inputs.x)
        assert {array.dtype.name for array in block.canonical(block.state).values()} == {"float32"}
    assert (y.dtype, g.dtype) == (output, "float64" if output == "float64" else "float32")
    judge(Case(SPEC, dtype=output), inputs, y=y, g=g)


@both
@every_dtype
@pytest.mark.parametrize("mode", [("numpy_dtype_promotion", "strict"), ("numpy_rank_promotion", "raise")])
def test_dtypes_are_not_promoted_implicitly(api: str, dtype: str, mode: tuple[str, str], jax: Any) -> None:
    x, dy, parameters = Case(RICH, dtype=dtype).inputs()
    with float64_if(dtype == "float64"):
        block = build(api, RICH, parameters, param_dtype=dtype)
        with getattr(jax, mode[0])(mode[1]):
            dstate, dx = jax.eval_shape(lambda *a: jax.vjp(block.forward, *a)[1](dy), block.state, x)
    assert {leaf.dtype for leaf in (dx, *jax.tree.leaves(dstate))} == {x.dtype}


@both
def test_n4_projections_are_never_tf32(api: str, jax: Any) -> None:
    x, dy, parameters = Case(SPEC).inputs()
    block = build(api, SPEC, parameters)
    text = str(jax.make_jaxpr(lambda *a: jax.vjp(block.forward, *a)[1](dy))(block.state, x))
    assert text.count("dot_general[") == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 6


@both
def test_n6_float64_without_x64_is_refused(api: str) -> None:
    x, _, parameters = Case(SPEC).inputs()
    for array, dtype in ((x.astype("float64"), None), (x, "float64")):
        block = build(api, SPEC, parameters, dtype=dtype)
        for function in (block.forward, block.gate):
            with pytest.raises(InputError, match="jax_enable_x64"):
                function(block.state, array)


@both
def test_n6_float64_parameters_without_x64_are_refused(api: str) -> None:
    for parameters in (None, se_numpy.initialize(SPEC, seed=0)):
        with pytest.raises(InputError, match="jax_enable_x64"):
            build(api, SPEC, parameters, param_dtype="float64")


@both
@pytest.mark.parametrize(("value", "size", "dtype"), [(1, 64, "float16"), (500, 32, "float16"), (1, 56, "bfloat16")])
def test_n1_half_precision_is_squeezed_in_float32(api: str, value: int, size: int, dtype: str) -> None:
    case = Case(SPEC.replace(gate="identity"), dtype=dtype)
    inputs = case.inputs()._replace(x=round_to(np.full((2, size, size, 12), value), dtype))
    judge(case, inputs, g=build(api, case.spec, inputs.parameters, param_dtype=dtype).run(inputs.x)[1])


@both
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_n1_no_float32_copy_of_the_map_is_stored(api: str, dtype: str, jax: Any) -> None:
    block = build(api, SESpec(64))
    x = jax.numpy.ones((4, 28, 28, 64), dtype)
    memory = jax.jit(block.forward).lower(block.state, x).compile().memory_analysis()
    assert memory.output_size_in_bytes == x.nbytes > 10 * memory.temp_size_in_bytes


@both
@pytest.mark.parametrize("squeeze", ["avg", "max", "avg_max"])
@pytest.mark.parametrize("nonlinear", [{"activation": "relu6", "gate": "hard_sigmoid"}, {"activation": "hard_swish"}])
def test_n3_nan_and_inf_under_jit_match_the_oracle(api: str, squeeze: str, nonlinear: dict[str, str], jax: Any) -> None:
    case = Case(SPEC.replace(squeeze=squeeze, **nonlinear), spatial=(16, 9))  # in a small map XLA keeps NaN anyway
    inputs = case.inputs()
    block = build(api, case.spec, inputs.parameters)
    forward = jax.jit(block.forward)
    clean = forward(block.state, inputs.x)
    for value in (np.nan, np.inf, -np.inf):
        x = inputs.x.copy()
        x[1, 2, 3, 4] = value
        y = forward(block.state, x)
        judge(case, inputs._replace(x=x), y=y)
        assert bits(y[::2]) == bits(clean[::2])


@both
def test_v1_numpy_x_is_not_modified_and_a_donated_x_may_be(api: str, jax: Any) -> None:
    case = Case(RICH)
    x, _, parameters = case.inputs()
    block = build(api, RICH, parameters)
    judge(case, y=block.forward(block.state, x))
    assert bits(x) == bits(case.inputs().x)
    given = jax.numpy.array(x)
    judge(case, y=jax.jit(block.forward, donate_argnums=1)(block.state, given))
    assert given.is_deleted()


def test_linen_takes_a_spec_or_its_fields_and_equal_blocks_compile_once(jax: Any, se_flax: Any) -> None:
    one, same = se_flax.linen.SqueezeExcitation(64, reduction=16), se_flax.linen.SqueezeExcitation(SESpec(64, hidden=4))
    assert (one, hash(one)) == (same, hash(same))
    x, _, parameters = Case(one.spec).inputs()
    variables = se_flax.linen.set_parameters(one, parameters)
    traced = []

    @partial(jax.jit, static_argnums=0)
    def forward(block: Any, x: Any) -> Any:
        traced.append(block)
        return block.apply(variables, x)

    for block in (one, same, one.clone(), one.clone(dtype="bfloat16")):
        assert forward(block, x).dtype == (block.dtype or "float32")
    assert traced == [one, one.clone(dtype="bfloat16")]
    assert traced[1].spec == one.spec


def test_linen_block_works_in_a_users_module(jax: Any, linen: Any, se_flax: Any) -> None:
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return se_flax.linen.SqueezeExcitation(SPEC, name="attention")(linen.Dense(12)(x))

    key, x = jax.random.key(0), jax.numpy.ones((2, 3, 4, 7))
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(Net().init, key, x))["params"]["attention"]
    assert shapes == {"reduce": {"kernel": (12, 5), "bias": (5,)}, "expand": {"kernel": (5, 12), "bias": (12,)}}
    table = Net().tabulate(key, x)
    assert "attention" in table
    assert f"Total Parameters: {7 * 12 + 12 + 12 * 5 + 5 + 5 * 12 + 12}" in table


def test_nnx_block_in_a_users_module_trains(jax: Any, nnx: Any, se_flax: Any) -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.norm = nnx.LayerNorm(12, rngs=rngs)
            self.attention = se_flax.SqueezeExcitation(SPEC, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.attention(self.norm(x))

    @nnx.jit
    def step(net: Any) -> Any:
        loss, gradient = nnx.value_and_grad(lambda net: ((net(x) - wanted) ** 2).mean())(net)
        nnx.update(net, jax.tree.map(lambda p, dp: p - 0.1 * dp, nnx.state(net, nnx.Param), gradient))
        return loss

    (x, wanted, _), net = Case(SPEC).inputs(), Net(nnx.Rngs(0))
    before = se_flax.get_parameters(net.attention)
    losses = [float(step(net)) for _ in range(4)]
    assert losses == sorted(set(losses), reverse=True)
    assert all((array != before[name]).any() for name, array in se_flax.get_parameters(net.attention).items())


@both
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_orbax_and_flax_bytes_restore_every_bit(api: str, dtype: str, tmp_path: Path) -> None:
    saved, other = (build(api, SPEC, seed=seed, param_dtype=dtype).state for seed in (1, 2))
    assert {kind.name for kind, _ in bits(saved)} == {dtype}
    assert_restored_to_the_bit(api, saved, other, tmp_path / "block")


@both
@pytest.mark.parametrize(("given", "dtype"), [*zip(DTYPES, DTYPES, strict=True), *NARROWER])
def test_k3_parameters_are_cast_once_or_exact_to_the_bit(api: str, given: str, dtype: str) -> None:
    parameters = Case(SPEC, dtype=given).inputs().parameters
    parameters["expand.weight"][0, :2] = -0.0, np.nan
    want = bits({name: round_to(array, dtype) for name, array in parameters.items()})
    with float64_if(dtype == "float64"):
        block = build(api, SPEC, parameters, param_dtype=dtype)
        back = block.canonical(block.state)
    assert list(back) == list(se_spec.parameters.shapes(SPEC))
    assert bits(back) == want


def test_k2_wrong_parameters_are_named_and_nothing_changes(jax: Any, se_flax: Any) -> None:
    parameters = Case(SPEC).inputs().parameters
    block, linen = build_nnx(SPEC, parameters), se_flax.linen.SqueezeExcitation(SPEC)
    doubled = {name: 2 * array for name, array in parameters.items()}
    for wrong, message in [
        ({name: doubled[name] for name in doubled if name != "expand.bias"}, r"missing expand\.bias \(12,\)"),
        ({**doubled, "gain": np.ones(1)}, "left over 'gain'"),
        ({**doubled, "expand.weight": np.ones((5, 12))}, r"expand\.weight has shape \(5, 12\), expected \(12, 5\)"),
        ({**doubled, "expand.bias": jax.numpy.ones(12)}, r"expand\.bias must be a NumPy array"),
    ]:
        for setter, target in ((se_flax.set_parameters, block), (se_flax.linen.set_parameters, linen)):
            with pytest.raises(ParameterError, match=message):
                setter(target, wrong)
    assert bits(se_flax.get_parameters(block)) == bits(parameters)


@both
def test_k2_bias_for_a_spec_without_bias_is_left_over(api: str) -> None:
    with pytest.raises(ParameterError, match=r"left over 'reduce\.bias'; left over 'expand\.bias'"):
        build(api, SPEC.replace(bias=False), Case(SPEC).inputs().parameters)


@both
@pytest.mark.parametrize("spec", [SESpec(256, hidden=60, bias=True), SESpec(256, single_projection=True, bias=True)])
def test_k4_new_parameters_are_uniform_within_one_over_root_fan_in(api: str, spec: SESpec) -> None:
    block = build(api, spec)
    for name, array in block.canonical(block.state).items():
        limit = se_spec.parameters.shapes(spec)[name.replace("bias", "weight")][1] ** -0.5
        assert np.abs(array).max() <= np.float32(limit)
        quantiles = np.linspace(-limit, limit, array.size)
        spread = np.abs(np.sort(array, axis=None) - quantiles).max() / (2 * limit)
        assert spread < 2 / array.size**0.5, name  # Kolmogorov and Smirnov: a right draw fails once in 1500
    assert bits(build(api, spec).state) == bits(block.state) != bits(build(api, spec, seed=1).state)
