"""The block as a PyTorch module: formats, devices, compilers, transforms, gradients, in place, parameters."""

import contextlib
import copy
import functools
import importlib
import io
import itertools
import pickle
import re
import warnings

import numpy as np
import pytest

import se_numpy
import se_spec
from se_conformance import Case, Result, compare, reference
from se_conformance.cases import DTYPES, FACTORS, round_to
from se_parity.implementations import IMPLEMENTATIONS
from se_spec import ParameterError, SESpec

from ..conftest import OnDemand, read_exporters_operators_once

pytestmark = pytest.mark.framework("torch")
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_squeeze = pytest.mark.parametrize("squeeze", FACTORS["squeeze"])
# torch calls its own deprecated functions when it first compiles, and when it first differentiates in forward mode
compiles = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
pushes_forward = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

SPEC = SESpec(12, hidden=5, bias=True)
SMOOTH = SPEC.replace(activation="silu", squeeze="avg_max", gain=2.0, residual=True)
ACTIVATIONS = [activation for activation in FACTORS["activation"] if activation != "single projection"]
FAMILIES = [
    *(SESpec(12, hidden=17, squeeze="max", activation=activation) for activation in ACTIVATIONS),
    *(SESpec(12, hidden=17, squeeze="max", gate=gate) for gate in FACTORS["gate"][1:]),
    *(SESpec(12, hidden=17, squeeze=squeeze) for squeeze in ("avg", "avg_max")),
]
few_and_all = pytest.mark.parametrize(
    "families", [FAMILIES[::5], pytest.param(FAMILIES, marks=pytest.mark.slow)], ids=["few", "all"]
)
ONNX = [] if IMPLEMENTATIONS["onnxruntime"].missing else ["onnxruntime"]


torch, se_torch, onnxruntime = OnDemand("torch"), OnDemand("se_torch"), OnDemand("onnxruntime")
target = OnDemand("se_parity.implementations.torch")


@pytest.fixture
def _low_thresholds(monkeypatch):
    monkeypatch.setattr(se_torch.fast.when, "MIN_ELEMENTS_TRAINING", 1)
    low = {
        "CHUNK_ELEMENTS": 100,
        "CHUNK_ELEMENTS_MEAN": 100,
        "MIN_SPATIAL_POSITIONS": 20,
        "MIN_SAMPLE_ELEMENTS": 1,
        "MIN_CHANNELS_POOLING": 1,
    }
    for name, value in low.items():
        monkeypatch.setattr(se_torch.fast.loops, name, value)


fast = pytest.mark.usefixtures("_low_thresholds")
"""Computes small maps with the kernels and handwritten gradients of large ones; ``test_match`` uses the formula."""


class Subject:
    """A block and its input, made from a case, and the comparison of its results with the oracle's."""

    def __init__(self, spec, stored="float32", layout="contiguous", **case):
        self.spec, self.inputs = spec, Case(spec, **case).inputs()
        self.block = target.block_of(spec, self.inputs.parameters, getattr(torch, stored))
        self.x, self.dy = target.to_tensor(self.inputs.x, layout), target.to_tensor(self.inputs.dy, layout)

    def derivatives(self, forward=None, context=contextlib.nullcontext()):  # noqa: B008
        """Compute y, dx and the parameters' gradients; the forward pass alone is within the context."""
        x = self.x.detach().requires_grad_()
        with context:
            y = self.block(x) if forward is None else forward(x)
        dx, *others = torch.autograd.grad(y, [x, *self.block.parameters()], self.dy)
        return y, dx, dict(zip(self.block.state_dict(), others, strict=True))

    def judge(self, y, dx=None, dparameters=None, *, dtype=None, **changed):
        """Compare results with the oracle's on these inputs, of which ``changed`` replaces some."""
        inputs = self.inputs._replace(**changed)
        dtype = dtype or inputs.x.dtype.name
        against = reference(inputs, self.spec, dtype, gradients=bool(dparameters))
        g = against.want.g if changed else array(self.block.excitation(self.x))
        gradients = [channels_last(dx), {n: array(v) for n, v in dparameters.items()}] if dparameters else []
        agree(Result(channels_last(y), g, *gradients), against)


def agree(got, against):
    assert [one for one in compare(got, against) if not one.passed] == []


def array(tensor):
    return tensor.detach().cpu().double().numpy()


def channels_last(tensor):
    return np.moveaxis(array(tensor), 1, -1)


def as_bytes(parameters):
    return {name: (value.dtype, value.tobytes()) for name, value in parameters.items()}


def exported(module, rank):
    """Export for any number of samples and any extent; it is not traced with 1, which torch.export makes a constant."""
    dynamic = {axis: torch.export.Dim(f"axis{axis}") for axis in range(rank) if axis != 1}
    return torch.export.export(module, (torch.ones(2, 12, *range(4, 2 + rank)),), dynamic_shapes=(dynamic,))


def onnx_model(module, rank):
    read_exporters_operators_once()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own
        return torch.onnx.export(exported(module, rank), dynamo=True, verbose=False).model_proto


def onnx_function(module, rank):
    session = onnxruntime.InferenceSession(onnx_model(module, rank).SerializeToString())
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]


def compiled(module, **options):
    torch.compiler.reset()  # torch keeps few compilations of one function, the blocks of other tests among them
    return torch.compile(module, fullgraph=True, **options)


# Memory formats, devices and types


@fast
@every_squeeze
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("rank", "memory_format"), [(2, "channels_last"), (3, "channels_last_3d")])
def test_channels_last_input_gives_channels_last_output(squeeze, dtype, rank, memory_format):
    subject = Subject(SPEC.replace(squeeze=squeeze), layout="channels_last", rank=rank, dtype=dtype)
    y, dx, dparameters = subject.derivatives()
    for tensor in (subject.x, y, dx):
        assert tensor.is_contiguous(memory_format=getattr(torch, memory_format))
        assert not tensor.is_contiguous()
    subject.judge(y, dx, dparameters)


@fast
@every_squeeze
def test_noncontiguous_view_matches_the_oracle(squeeze):
    subject = Subject(SPEC.replace(squeeze=squeeze))
    subject.x = torch.full((3, 24, 8, 21), torch.nan)[:, ::2, :5, ::3].copy_(subject.x)
    assert not subject.x.is_contiguous()
    subject.judge(*subject.derivatives())


@fast
@every_squeeze
def test_meta_and_fake_tensors_have_shape_and_dtype(squeeze):
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    subject = Subject(SPEC.replace(squeeze=squeeze))
    for device, mode in (("meta", contextlib.nullcontext()), ("cpu", FakeTensorMode())):
        with mode:
            block = se_torch.SqueezeExcitation(subject.spec, device=device)
            x = torch.empty(3, 12, 5, 7, device=device, dtype=torch.float16).to(memory_format=torch.channels_last)
            y = block(x)
        assert y.is_meta if device == "meta" else isinstance(y, FakeTensor)
        assert {value.device for value in block.parameters()} == {y.device}
        assert (y.shape, y.stride(), y.dtype) == (x.shape, x.stride(), torch.float16)
    block = se_torch.SqueezeExcitation(subject.spec, device="meta").to_empty(device=subject.x.device)
    se_torch.set_parameters(block, subject.inputs.parameters)
    subject.judge(block(subject.x))


@fast
def test_block_matches_the_oracle_on_every_device():
    for device in ["cpu", *["cuda"] * torch.cuda.is_available()]:
        subject = Subject(SMOOTH)
        subject.block, subject.x, subject.dy = (one.to(device) for one in (subject.block, subject.x, subject.dy))
        y, dx, dparameters = subject.derivatives()
        assert {one.device.type for one in (y, dx, *dparameters.values())} == {device}
        subject.judge(y, dx, dparameters)


@every_dtype
def test_n2_dtype_is_the_parameters_dtype_and_y_has_the_dtype_of_x(dtype):
    stored = getattr(torch, dtype)
    block = se_torch.SqueezeExcitation(SPEC, dtype=stored)
    assert {value.dtype for value in block.parameters()} == {stored}
    assert {value.dtype for value in se_torch.SqueezeExcitation(SPEC).to(stored).parameters()} == {stored}
    for other in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        assert block(torch.ones(2, 12, 5, 7, dtype=other)).dtype == other


@fast
@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_n1_parameters_of_another_dtype_match_the_oracle(dtype, stored):
    subject = Subject(SMOOTH, stored, dtype=dtype)
    parameters = {name: round_to(value, stored) for name, value in subject.inputs.parameters.items()}
    subject.inputs = subject.inputs._replace(parameters=parameters)
    y, dx, dparameters = subject.derivatives()
    assert {y.dtype, dx.dtype} == {getattr(torch, dtype)}
    assert {value.dtype for value in dparameters.values()} == {getattr(torch, stored)}
    subject.judge(y)
    subject.judge(y, dx, dparameters, dtype="bfloat16")


@fast
@pytest.mark.parametrize("squeeze", ["avg", "avg_max"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("dtype", "size", "value"), [("float16", 64, 1), ("float16", 32, 500), ("bfloat16", 56, 1)])
def test_n1_half_precision_is_squeezed_in_float32(squeeze, layout, dtype, size, value):
    # Linear, so that the gate shows any error of the mean; scaled, so that y does not overflow
    spec = SPEC.replace(squeeze=squeeze, activation="identity", gate="identity", gain=2.0**-10)
    subject = Subject(spec, layout=layout, dtype=dtype, spatial=(size, size))
    subject.inputs.x[...] = value
    subject.judge(subject.block(subject.x.fill_(value)))


@fast
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=compiles)])
def test_n4_autocast_changes_nothing(mode, dtype, stored):
    subject = Subject(SMOOTH, stored, dtype=dtype)
    block, autocast = subject.block, torch.autocast(subject.x.device.type, torch.bfloat16)
    forward = compiled(block, backend="aot_eager") if mode == "compiled" else block
    # torch compiles a backward pass under the autocast of its forward pass, unless a switch is off; torch 2.8 has none.
    config = importlib.import_module("torch._functorch.config")
    has_switch = hasattr(config, "backward_pass_autocast")
    with config.patch(backward_pass_autocast="off") if has_switch else contextlib.nullcontext():
        y, dx, dparameters = subject.derivatives(forward)
        y_cast, dx_cast, dparameters_cast = subject.derivatives(forward, autocast)
    g = block.excitation(subject.x)
    with autocast:
        assert torch.equal(block.excitation(subject.x), g)
        assert (g @ g.T).dtype == torch.bfloat16  # it is on
    assert y_cast.dtype == getattr(torch, dtype)
    assert torch.equal(y_cast, y)
    if mode == "compiled" and not has_switch:
        return
    assert torch.equal(dx_cast, dx)
    assert [name for name, value in dparameters.items() if not torch.equal(dparameters_cast[name], value)] == []


# Compiled, exported, transformed


@fast
@compiles
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_dynamic_compilation_serves_all_sizes(backend):
    subject = Subject(SMOOTH, layout="channels_last")
    block, forward = subject.block, compiled(subject.block, dynamic=True, backend=backend)
    subject.judge(*subject.derivatives(forward))
    with torch.compiler.set_stance("fail_on_recompile"):
        for samples, spatial in ((2, (9, 4)), (4, (6, 11))):
            subject = Subject(SMOOTH, layout="channels_last", samples=samples, spatial=spatial)
            se_torch.set_parameters(block, subject.inputs.parameters)
            subject.block = block
            y, dx, dparameters = subject.derivatives(forward)
            assert y.stride() == subject.x.stride()
            subject.judge(y, dx, dparameters)


@fast
@pytest.mark.parametrize(
    "families", [FAMILIES[::5], pytest.param(FAMILIES, marks=pytest.mark.slow)], ids=["few", "all"]
)
@pytest.mark.parametrize("mode", ["eager", pytest.param("compiled", marks=compiles), *ONNX])
def test_n3_nan_and_inf_are_where_the_oracles_are(mode, families):
    class Families(torch.nn.ModuleList):
        def forward(self, x):
            return [block(x) for block in self]

    subjects = [Subject(spec) for spec in families]
    forward = blocks = Families(subject.block for subject in subjects)
    if mode != "eager":
        forward = compiled(blocks) if mode == "compiled" else onnx_function(blocks, 4)
    x, inputs_x = subjects[0].x, subjects[0].inputs.x
    clean = forward(x)
    for value in (np.nan, np.inf, -np.inf):
        x[1, 4, 2, 3] = inputs_x[1, 2, 3, 4] = value
        for subject, y, untouched in zip(subjects, forward(x), clean, strict=True):
            subject.judge(y, x=inputs_x)
            assert torch.equal(y[[0, 2]], untouched[[0, 2]]), subject.spec


@fast
@pytest.mark.parametrize(("rank", "squeeze"), [(1, "avg_max"), (2, "avg"), (2, "max"), (3, "avg_max")])
@pytest.mark.parametrize("how", ["torch.export", *ONNX])
def test_block_exported_at_one_size_runs_at_others(how, rank, squeeze):
    subject = Subject(SPEC.replace(squeeze=squeeze), rank=rank)
    make = onnx_function if how == "onnxruntime" else lambda *arguments: exported(*arguments).module()
    forward = make(subject.block, 2 + rank)
    for samples, spatial in ((3, (5, 7, 2)), (4, (6, 11, 3)), (1, (8, 1, 4)), (0, (5, 7, 4))):
        other = Subject(subject.spec, rank=rank, samples=samples, spatial=spatial[:rank])
        y = forward(other.x)
        other.judge(y[0] if how == "onnxruntime" else y, parameters=subject.inputs.parameters)


@fast
@pytest.mark.skipif(not ONNX, reason="needs onnx, onnxscript and onnxruntime")
def test_onnx_graph_has_eight_nodes_and_symbolic_sizes():
    graph = onnx_model(Subject(SPEC).block, 4).graph
    nodes = ["ReduceMean", "Gemm", "Relu", "Gemm", "Sigmoid", "Unsqueeze", "Unsqueeze", "Mul"]
    assert [node.op_type for node in graph.node] == nodes
    into, out = (value.type.tensor_type.shape.dim for value in (graph.input[0], graph.output[0]))
    assert [bool(one.dim_param) for one in into] == [True, False, True, True]
    assert list(into) == list(out)


@fast
@pytest.mark.parametrize("spec", [SPEC, SMOOTH], ids=str)
def test_vmap_over_blocks_and_over_a_fifth_axis_matches_the_oracle(spec):
    subjects = [Subject(spec, seed=seed) for seed in range(3)]
    parameters, _ = torch.func.stack_module_state([subject.block for subject in subjects])
    call = functools.partial(torch.func.functional_call, subjects[0].block)
    each = torch.func.vmap(call)(parameters, torch.stack([subject.x for subject in subjects]))
    for subject, y in zip(subjects, each, strict=True):
        subject.judge(y)
    many = torch.func.vmap(subject.block, in_dims=4, out_dims=4)(torch.stack([subject.x, -2 * subject.x], 4))
    for i, factor in enumerate((1, -2)):
        subject.judge(many[..., i], x=factor * subject.inputs.x)


@fast
@pytest.mark.parametrize("spec", [SPEC, SMOOTH], ids=str)
def test_per_sample_gradients_match_the_oracle(spec):
    subject = Subject(spec, "float64", dtype="float64")
    inputs, arguments = subject.inputs, (dict(subject.block.named_parameters()), subject.x, subject.dy)

    def of_one(parameters, x, dy):
        return (torch.func.functional_call(subject.block, parameters, (x[None],))[0] * dy).sum()

    dparameters = torch.func.jacrev(torch.func.vmap(of_one, (None, 0, 0)))(*arguments)
    again, dx = torch.func.vmap(torch.func.grad(of_one, argnums=(0, 1)), (None, 0, 0))(*arguments)
    for i, each in itertools.product(range(3), (dparameters, again)):
        one, y = slice(i, i + 1), subject.block(subject.x[i : i + 1])
        each = {name: value[i] for name, value in each.items()}
        subject.judge(y, dx[one], each, x=inputs.x[one], dy=inputs.dy[one])


@fast
@pushes_forward
def test_forward_mode_is_the_transpose_of_the_oracles_vjp():
    subject, other = (Subject(SMOOTH, "float64", dtype="float64", seed=seed) for seed in (0, 1))
    at, along = ((dict(one.block.named_parameters()), one.x) for one in (subject, other))
    call = functools.partial(torch.func.functional_call, subject.block)
    ty = channels_last(torch.func.jvp(call, at, along)[1])
    pushed, pulled = [], []
    for seed in range(5):
        dy = Case(SMOOTH, dtype="float64", seed=seed).inputs().dy
        _, _, dx, dparameters = reference(subject.inputs._replace(dy=dy), SMOOTH, "float64").want
        pushed.append(np.vdot(dy, ty))
        pulled.append(sum(np.vdot(dparameters[name], other.inputs.parameters[name]) for name in dparameters))
        pulled[-1] += np.vdot(dx, other.inputs.x)
    np.testing.assert_allclose(pushed, pulled, rtol=1e-12)


@fast
@pushes_forward
@every_squeeze
def test_first_and_second_derivatives_of_both_modes_pass_gradcheck(squeeze):
    spec = SESpec(3, hidden=2, bias=True, activation="silu", squeeze=squeeze)
    subject = Subject(spec, "float64", dtype="float64", samples=2, spatial=(4, 5))
    names, values = zip(*subject.block.named_parameters(), strict=True)

    def call(x, *values):
        return torch.func.functional_call(subject.block, dict(zip(names, values, strict=True)), (x,))

    arguments = (subject.x.requires_grad_(), *values)
    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, arguments)


# Handwritten gradients


def path_of(y):
    return "handwritten" if y.grad_fn.name() == "_FusedSEBackward" else "formula"


def both_paths(monkeypatch, subject, dy, wanted):
    for large in (1, 1 << 60):
        monkeypatch.setattr(se_torch.fast.when, "MIN_ELEMENTS_TRAINING", large)
        x = subject.x.detach().requires_grad_("x" in wanted)
        leaves = [x, *subject.block.parameters()] if "x" in wanted else list(subject.block.parameters())
        y = subject.block(x)
        yield path_of(y), y, torch.autograd.grad(y, [leaf for leaf in leaves if leaf.requires_grad], dy)


@fast
@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize(
    ("rank", "layout"), [(1, "contiguous"), (2, "contiguous"), (2, "channels_last"), (3, "channels_last")]
)
@pytest.mark.parametrize("spec", [SPEC, SMOOTH.replace(squeeze="avg"), SESpec(12, single_projection=True)], ids=str)
def test_handwritten_gradients_equal_autograds(monkeypatch, spec, rank, layout, piece):
    monkeypatch.setattr(se_torch.fast.loops, "CHUNK_ELEMENTS", piece)
    monkeypatch.setattr(se_torch.fast.loops, "MIN_CHANNELS_POOLING", 1 << 60)  # pooling adds in another order
    subject = Subject(spec, "float64", layout, dtype="float64", rank=rank)
    for dy in (subject.dy, subject.dy.contiguous(), subject.dy.mean().expand(subject.dy.shape)):
        (hand, y, gradients), (formula, same, others) = both_paths(monkeypatch, subject, dy, "x and parameters")
        assert (hand, formula) == ("handwritten", "formula") and torch.equal(y, same)
        assert gradients[0].stride() == subject.x.stride()
        for gradient, other in zip(gradients, others, strict=True):
            assert (gradient - other).abs().max() <= 1e-14 * other.abs().max()


@fast
@pytest.mark.parametrize("short", [1, 1 << 60], ids=["long rows", "short rows"])
@pytest.mark.parametrize("sample", [1, 1 << 60], ids=["large samples", "small samples"])
@pytest.mark.parametrize(
    ("rank", "layout"), [(1, "contiguous"), (2, "contiguous"), (2, "channels_last"), (3, "channels_last")]
)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_kernels_round_their_results_once(monkeypatch, dtype, rank, layout, sample, short):
    monkeypatch.setattr(se_torch.fast.loops, "MIN_SAMPLE_ELEMENTS", sample)
    monkeypatch.setattr(se_torch.fast.loops, "MIN_SPATIAL_POSITIONS", short)
    subject = Subject(SPEC, dtype, layout, dtype=dtype, rank=rank)
    x, wide = subject.x, torch.float64 if dtype == "float64" else torch.float32
    s, dz = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *x.shape[:2]))).to(wide)
    u, axes, spread = torch.finfo(wide).eps, tuple(range(2, x.ndim)), (..., *(None,) * rank)
    rounding = torch.finfo(x.dtype).eps / 2 + u

    for dy in (subject.dy, subject.dy.contiguous(), subject.dy.mean().expand(x.shape)):
        products, total = dy.double() * x.double(), se_torch.fast.loops.sum_of_products(dy, x)
        assert total.dtype == wide and total.shape == x.shape[:2]
        assert ((total.double() - products.sum(axes)).abs() <= 8 * u * products.abs().sum(axes)).all()

        one, other = dy.double() * s.double()[spread], dz.double()[spread] / x[0, 0].numel()
        dx = se_torch.fast.loops.dx(dy, s, dz, x)
        assert dx.dtype == x.dtype and dx.stride() == x.stride()
        assert ((dx.double() - one - other).abs() <= rounding * (one + other).abs() + 2 * u * (one - other).abs()).all()

    if x.is_contiguous():
        y, exact = se_torch.fast.loops.scale(x, s, torch.empty_like(x)), x.double() * s.double()[spread]
        assert ((y.double() - exact).abs() <= rounding * exact.abs()).all()
        assert torch.equal(se_torch.fast.loops.scale(x, s, x), y)


@pytest.mark.parametrize(
    ("dtype", "layout", "shape", "pieces"),
    [
        ("float32", "contiguous_format", (2, 8, 16, 16), ["dot"]),
        ("float32", "channels_last", (2, 8, 128, 128), ["dot", "dx"]),
        ("bfloat16", "contiguous_format", (2, 8, 16, 16), []),
        ("bfloat16", "contiguous_format", (2, 8, 7, 7), ["dot"]),
        ("bfloat16", "channels_last", (2, 8, 128, 128), []),
        ("bfloat16", "channels_last", (2, 8, 16, 16), ["dot", "dx"]),
    ],
)
def test_large_maps_are_computed_in_chunks(monkeypatch, dtype, layout, shape, pieces):
    taken = []
    for name, function in (("dot", "_sum_of_products_in_chunks"), ("dx", "_multiply_add_in_chunks")):
        monkeypatch.setattr(se_torch.fast.loops, function, lambda *arrays, name=name: taken.append(name))
    x = torch.ones(shape, dtype=getattr(torch, dtype)).to(memory_format=getattr(torch, layout))
    s = torch.ones(shape[:2])
    se_torch.fast.loops.sum_of_products(x, x)
    se_torch.fast.loops.dx(x, s, s, x)
    assert taken == pieces
    assert se_torch.fast.loops.is_normalized(x) == (shape[2] == 7)


@fast
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "relu", "identity"])
@pytest.mark.parametrize("trained", [False, True])
def test_n3_infinite_logits_in_bfloat16_give_the_gates_limits(monkeypatch, gate, trained):
    monkeypatch.setattr(se_torch.fast.loops, "MIN_SPATIAL_POSITIONS", 1 << 60)
    block = se_torch.SqueezeExcitation(8, hidden=4, bias=True, gate=gate)
    with torch.no_grad():
        block.expand.bias[:3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    x = torch.ones(2, 8, 3, 3, dtype=torch.bfloat16)
    y = block(x.requires_grad_(trained)).detach()[:, :3, 0, 0].float().numpy()
    low = {"identity": -np.inf}.get(gate, 0.0)
    np.testing.assert_array_equal(y, [[np.inf if gate in ("relu", "identity") else 1.0, low, np.nan]] * 2)


@fast
@pytest.mark.parametrize(
    "frozen", [(), ("reduce.weight", "expand.bias"), ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias")]
)
@pytest.mark.parametrize("wanted", ["x", ""])
def test_handwritten_gradients_of_some_parameters_equal_autograds(monkeypatch, frozen, wanted):
    subject = Subject(SPEC, "float64", dtype="float64")
    for name, value in subject.block.named_parameters():
        value.requires_grad_(name not in frozen)
    if not wanted and len(frozen) == 4:
        assert subject.block(subject.x).grad_fn is None
        return
    (hand, _, gradients), (_, _, others) = both_paths(monkeypatch, subject, subject.dy, wanted)
    assert hand == "handwritten" and len(gradients) == bool(wanted) + 4 - len(frozen)
    for gradient, other in zip(gradients, others, strict=True):
        assert (gradient - other).abs().max() <= 1e-14 * other.abs().max()


def maps_made(call):
    """Count the arrays of a map's size that a call makes."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            given = [*arguments, *(keywords or {}).values()]
            before = {one.untyped_storage().data_ptr() for one in given if isinstance(one, torch.Tensor)}
            y = function(*arguments, **(keywords or {}))
            if isinstance(y, torch.Tensor) and y.numel() >= 3 * 12 * 5 * 7:
                self.made += y.untyped_storage().data_ptr() not in before
            return y

    with Counting() as counting:
        call()
    return counting.made


@fast
def test_handwritten_gradients_allocate_one_array_of_the_maps_size(monkeypatch):
    made = []
    for large in (1, 1 << 60):
        monkeypatch.setattr(se_torch.fast.when, "MIN_ELEMENTS_TRAINING", large)
        subject = Subject(SPEC)
        y = subject.block(subject.x.requires_grad_())
        made.append(maps_made(lambda y=y, dy=subject.dy: y.backward(dy)))
    assert made[0] == 1 < made[1]


@fast
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("spec", [SPEC, SPEC.replace(gain=2.0, gate="tanh"), SMOOTH.replace(squeeze="avg")], ids=str)
def test_n1_bfloat16_is_widened_only_for_a_residual(spec, layout):
    subject = Subject(spec, "bfloat16", layout, dtype="bfloat16")
    with torch.no_grad():
        y = subject.block(subject.x)
        made = maps_made(lambda: subject.block(subject.x))
    assert made == (4 if spec.residual else 1)  # x in float32, a product, a sum, y; or y alone
    assert y.stride() == subject.x.stride()
    subject.judge(y)


@fast
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (2, 12, 16, 9), (3, 12, 1, 80), (0, 12, 9, 9)])
def test_pooling_kernel_computes_the_mean(shape, dtype):
    x = torch.from_numpy(np.random.default_rng(0).normal(3.0, 1.0, shape)).to(getattr(torch, dtype))
    x = x.contiguous(memory_format=torch.channels_last)
    assert se_torch.fast.loops.is_pooled(x) or x.is_contiguous()
    z = se_torch.fast.loops.mean(x)
    assert z.dtype == (torch.float64 if dtype == "float64" else torch.float32) and z.shape == shape[:2]
    off = {"bfloat16": 2.0**-8, "float32": 4e-7, "float64": 1e-15}[dtype]  # bfloat16 is rounded once, to half an ulp
    assert torch.allclose(z.double(), x.double().mean((2, 3)), rtol=off, atol=0.0)


@fast
def test_channels_last_maps_are_pooled(monkeypatch):
    monkeypatch.setattr(se_torch.fast.loops, "MIN_CHANNELS_POOLING", 12)
    x = torch.ones(2, 12, 5, 7).contiguous(memory_format=torch.channels_last)
    assert se_torch.fast.loops.is_pooled(x)
    assert not se_torch.fast.loops.is_pooled(x.contiguous()) and not se_torch.fast.loops.is_pooled(x[:, :11])
    assert not se_torch.fast.loops.is_pooled(x[:, :, 0]) and not se_torch.fast.loops.is_pooled(x[:, :, ::2])
    taken = []
    monkeypatch.setattr(se_torch.fast.when, "run", lambda block, x, *others: taken.append(x.shape))
    with torch.no_grad():
        for one in (x, x.contiguous()):
            se_torch.SqueezeExcitation(12)(one)
    assert len(taken) == 1


@fast
@compiles
def test_compiler_and_exporter_record_the_formula(monkeypatch):
    monkeypatch.setattr(se_torch.fast.when, "run", None)
    subject = Subject(SPEC)
    subject.judge(*subject.derivatives(compiled(subject.block, backend="aot_eager")))
    subject.judge(exported(subject.block, 4).module()(subject.x))


@fast
def test_handwritten_gradients_are_used_for_large_dense_maps(monkeypatch):
    subject = Subject(SPEC.replace(bias=False))
    block, x = subject.block, subject.x.requires_grad_()
    assert path_of(block(x)) == "handwritten"
    assert path_of(block(x[:, :, ::2])) == path_of(Subject(SMOOTH).block(x)) == "formula"
    with torch.no_grad():
        assert block(x).grad_fn is None
    monkeypatch.setattr(se_torch.fast.when, "MIN_ELEMENTS_TRAINING", x.numel() + 1)
    assert path_of(block(x)) == "formula"


# In place


def without_gradients(block, x):
    with torch.no_grad():
        return block(x)


def overwrites(subject, call):
    """Call a block without and with ``inplace``, compare the results, and return whether x was overwritten."""
    block, x = subject.block, subject.x.clone(memory_format=torch.preserve_format)
    want, block.inplace = call(block, x), True
    assert torch.equal(x, subject.x)
    got = call(block, x)
    assert torch.equal(got, want) and got.stride() == want.stride()
    overwritten = not torch.equal(x, subject.x)
    assert overwritten == (got.data_ptr() == x.data_ptr())
    return overwritten


@fast
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("dtype", "spec"),
    [
        ("float64", SPEC),
        ("float32", SPEC),
        ("bfloat16", SPEC.replace(gain=2.0)),
        ("float32", SPEC.replace(squeeze="avg_max", gate="tanh")),
        ("float32", SESpec(12, single_projection=True)),
    ],
    ids=str,
)
def test_inplace_y_has_the_memory_of_x(dtype, spec, layout, context):
    with context():
        assert overwrites(Subject(spec, layout=layout, dtype=dtype), lambda block, x: block(x))


@fast
@pytest.mark.parametrize(
    "call",
    [
        lambda block, x: block(x),
        lambda block, x: without_gradients(block, x[:, :, ::2]),
        lambda block, x: without_gradients(block, x[:1].expand_as(x)),
        lambda block, x: without_gradients(torch.func.vmap(block), x[None]),
        lambda block, x: block.excitation(x),
    ],
    ids=["gradients are recorded", "a slice", "one sample for all", "vmap", "the gate alone"],
)
def test_inplace_keeps_x_where_it_is_needed(call):
    assert not overwrites(Subject(SPEC), call)
    subject = Subject(SPEC)
    subject.block.inplace = True
    subject.judge(*subject.derivatives())


@fast
def test_inplace_keeps_x_of_a_residual():
    assert not overwrites(Subject(SMOOTH), without_gradients)


@fast
@compiles
def test_compiler_and_exporter_ignore_inplace():
    subject = Subject(SPEC)
    with torch.no_grad():
        assert not overwrites(subject, lambda block, x: compiled(block, backend="aot_eager")(x))
        x = subject.x.clone()
        subject.judge(exported(subject.block, 4).module()(x))
    assert torch.equal(x, subject.x)


@fast
@pushes_forward
def test_inplace_supports_forward_mode():
    subject, found = Subject(SPEC, "float64", dtype="float64"), []
    for subject.block.inplace in (False, True):
        with torch.no_grad(), torch.autograd.forward_ad.dual_level():
            x = torch.autograd.forward_ad.make_dual(subject.x.clone(), subject.dy.clone())
            found.append(torch.autograd.forward_ad.unpack_dual(subject.block(x)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# A module among modules


def test_k1_state_dict_has_the_canonical_names():
    subject = Subject(SPEC)
    block, fresh, plain = subject.block, se_torch.SqueezeExcitation(SPEC), se_torch.SqueezeExcitation(12, hidden=5)
    assert {name: tuple(value.shape) for name, value in block.state_dict().items()} == se_spec.parameters.shapes(SPEC)
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in subject.inputs.parameters.items()}, file)
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert torch.equal(fresh(subject.x), block(subject.x))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*reduce\.bias"):
        plain.load_state_dict(block.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*reduce\.bias"):
        block.load_state_dict(plain.state_dict())


@fast
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))])
def test_copies_keep_spec_and_output_and_share_no_memory(copied):
    subject = Subject(SMOOTH)
    block, y = copied(subject.block), subject.block(subject.x)
    assert block.spec == SMOOTH
    assert torch.equal(block(subject.x), y)
    torch.nn.init.zeros_(block.expand.weight)
    assert torch.equal(subject.block(subject.x), y)


@fast
def test_repr_shows_the_spec_and_hooks_are_called():
    subject, seen = Subject(SPEC), {}
    assert repr(subject.block).startswith(f"SqueezeExcitation(\n  {SPEC!r}\n")
    assert f"{SPEC!r}, inplace=True" in repr(se_torch.SqueezeExcitation(SPEC, inplace=True))
    y = subject.block(subject.x)
    subject.block.register_forward_pre_hook(lambda _, arguments: seen.update(x=arguments[0]))
    subject.block.register_forward_hook(lambda _, arguments, y: 2 * y)
    subject.block.register_full_backward_hook(lambda _, dx, dy: seen.update(dx=dx[0], dy=dy[0]))
    doubled, dx, _ = subject.derivatives()
    pairs = ((doubled, 2 * y), (seen["x"], subject.x), (seen["dx"], dx), (seen["dy"], subject.dy))
    assert [torch.equal(got, want) for got, want in pairs] == [True] * 4


@fast
@pytest.mark.parametrize("autocast", [False, True])
def test_block_trains_inside_a_network(autocast):
    torch.manual_seed(0)
    block = se_torch.SqueezeExcitation(SPEC)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3), block, torch.nn.Flatten(), torch.nn.Linear(12 * 3 * 5, 1))
    assert [name for name in net.state_dict() if name.startswith("1.")] == [f"1.{name}" for name in block.state_dict()]
    before, losses = se_torch.get_parameters(block), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    x, wanted = torch.randn(4, 3, 5, 7), torch.randn(4, 1)
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = ((net(x) - wanted) ** 2).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert all((before[name] != value).any() for name, value in se_torch.get_parameters(block).items())


@fast
@every_squeeze
def test_v1_v2_arguments_are_not_modified_and_samples_are_independent(squeeze):
    subject = Subject(SMOOTH.replace(squeeze=squeeze))
    tensors = [subject.x, subject.dy, *subject.block.parameters()]
    before = [(value._version, value.detach().clone()) for value in tensors]
    y, _, _ = subject.derivatives()
    for value, (version, old) in zip(tensors, before, strict=True):
        assert value._version == version
        assert torch.equal(value, old)
    subject.judge(y)
    for one in (slice(i, i + 1) for i in range(3)):
        subject.judge(subject.block(subject.x[one]), x=subject.inputs.x[one])


# Parameters


@every_dtype
def test_k3_round_trip_is_exact_and_copied(dtype):
    numpy_dtype, rng, parameters = round_to(np.zeros(1), dtype).dtype, np.random.default_rng(0), {}
    for name, shape in se_spec.parameters.shapes(SPEC).items():
        any_bits = rng.integers(0, 256, (*shape, numpy_dtype.itemsize), np.uint8)  # NaNs of all kinds among them
        parameters[name] = any_bits.view(numpy_dtype)[..., 0].copy()
    parameters["reduce.bias"][:3] = -0.0, np.nan, -np.inf
    block, given = se_torch.SqueezeExcitation(SPEC, dtype=getattr(torch, dtype)), as_bytes(parameters)
    se_torch.set_parameters(block, parameters)
    got = se_torch.get_parameters(block)
    assert list(as_bytes(got).items()) == list(given.items())
    for value in (*parameters.values(), *got.values()):
        value[...] = 0
    assert as_bytes(se_torch.get_parameters(block)) == given


@pytest.mark.parametrize(("source", "dtype"), [*itertools.permutations(DTYPES, 2)])
def test_k3_set_parameters_casts_to_the_blocks_dtype(source, dtype):
    block = se_torch.SqueezeExcitation(SPEC, dtype=getattr(torch, dtype))
    block.expand.requires_grad_(False)
    parameters = se_numpy.initialize(SPEC, seed=0, dtype=source)
    se_torch.set_parameters(block, parameters)
    want = {name: round_to(value, dtype) for name, value in parameters.items()}
    assert as_bytes(se_torch.get_parameters(block)) == as_bytes(want)
    assert [value.requires_grad for value in block.parameters()] == [True, True, False, False]
    assert all(value.is_leaf for value in block.parameters())


def test_k2_wrong_parameters_are_refused_and_nothing_changes():
    right = se_numpy.initialize(SPEC, seed=0)
    faults = {
        "missing reduce.weight (5, 12)": {"reduce.weight": None},
        "left over 'scale'": {"scale": np.ones(12)},
        "expand.weight has shape (5, 12), expected (12, 5)": {"expand.weight": right["expand.weight"].T},
        "expand.bias must be a NumPy array, got torch.Tensor": {"expand.bias": torch.ones(12)},
        "expand.bias has dtype int64": {"expand.bias": np.ones(12, np.int64)},
    }
    cases = [(SPEC, message, change) for message, change in faults.items()]
    for spec, message, change in [*cases, (SPEC.replace(bias=False), "left over 'reduce.bias'", {})]:
        block = se_torch.SqueezeExcitation(spec)
        before = as_bytes(se_torch.get_parameters(block))
        given = {name: value for name, value in {**right, **change}.items() if value is not None}
        with pytest.raises(ParameterError, match=re.escape(message)):
            se_torch.set_parameters(block, given)
        assert as_bytes(se_torch.get_parameters(block)) == before


def test_k2_block_without_storage_is_refused():
    block = se_torch.SqueezeExcitation(SPEC, device="meta")
    for call in (
        lambda: se_torch.set_parameters(block, se_numpy.initialize(SPEC, seed=0)),
        lambda: se_torch.get_parameters(block),
    ):
        with pytest.raises(ParameterError, match=r"meta device; call block\.to_empty"):
            call()


def test_k2_block_with_a_computed_weight_is_refused():
    block = se_torch.SqueezeExcitation(SPEC)
    torch.nn.utils.parametrizations.weight_norm(block.expand)
    before = copy.deepcopy(block.state_dict())
    with pytest.raises(ParameterError, match=r"expand\.weight"):
        se_torch.set_parameters(block, se_numpy.initialize(SPEC, seed=0))
    assert [name for name, value in block.state_dict().items() if not torch.equal(value, before[name])] == []


def test_k2_parameters_of_a_compiled_block_are_set():
    block, parameters = compiled(se_torch.SqueezeExcitation(SPEC), backend="eager"), se_numpy.initialize(SPEC, seed=0)
    se_torch.set_parameters(block, parameters)
    assert as_bytes(se_torch.get_parameters(block)) == as_bytes(parameters)


def test_k4_new_parameters_are_uniform_within_one_over_root_fan_in():
    torch.manual_seed(0)
    block = se_torch.SqueezeExcitation(256, hidden=32, bias=True)
    for linear, bound in ((block.reduce, 1 / 16), (block.expand, 1 / np.sqrt(32))):
        assert 0.99 * bound < linear.weight.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.02)
        assert 0.8 * bound < linear.bias.abs().max() <= bound
        assert linear.bias.unique().numel() == linear.bias.numel()
    torch.manual_seed(0)
    again, other = se_torch.SqueezeExcitation(block.spec), se_torch.SqueezeExcitation(block.spec)
    assert as_bytes(se_torch.get_parameters(again)) == as_bytes(se_torch.get_parameters(block))
    assert not torch.equal(other.reduce.weight, block.reduce.weight)
