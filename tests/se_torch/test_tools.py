"""Tools act on blocks as on plain layers of PyTorch: hooks, wrappers, tracing, scripts, quantization."""

import copy
import io
import logging
import warnings

import numpy as np
import pytest

import se_numpy
from se_conformance import Case
from se_parity.implementations import IMPLEMENTATIONS
from se_spec import HardSigmoid, LeakyReLU, ParameterError, SESpec

from ..conftest import OnDemand
from ..small_networks import BOTTLENECKS, INCEPTION, ZEROS, difference, images, weights_of

pytestmark = [
    pytest.mark.framework("torch"),
    # PyTorch's older tools, whose own code warns that they are old
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
torch, se_torch, onnxruntime = OnDemand("torch"), OnDemand("se_torch"), OnDemand("onnxruntime")
prune, quantization = OnDemand("torch.nn.utils.prune"), OnDemand("torch.ao.quantization")

SPEC = SESpec(16, hidden=4, bias=True)
SPECS = [
    SPEC,
    SPEC.replace(squeeze="max", activation="silu", gate=HardSigmoid(slope=0.2, offset=0.5), gain=2.0),
    SPEC.replace(squeeze="avg_max", activation=LeakyReLU(slope=0.1), gate="tanh", residual=True, bias=False),
    SESpec(16, single_projection=True, gate="hard_sigmoid"),
]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=["avg", "max", "avg_max", "single"])
LARGE = (2, 16, 129, 128)  # from half a million elements gradients of plain blocks are written by hand


def new_block(spec=SPEC, dtype="float32"):
    torch.manual_seed(0)
    return se_torch.SqueezeExcitation(spec, dtype=getattr(torch, dtype))


def plain_block():
    """A block as a user writes it: two linear layers that are called, with the weights of ``new_block``."""

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.reduce, self.expand = torch.nn.Linear(16, 4), torch.nn.Linear(4, 16)

        def forward(self, x):
            return x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))[:, :, None, None]

    block = Plain()
    block.load_state_dict(new_block().state_dict())
    return block


def random_map(*shape, dtype="float32", seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=getattr(torch, dtype))


# Tools that take hold of a layer. Each returns what it did to the block; a plain block is the reference.


def adapt_low_rank(block):
    class LowRank(torch.nn.Linear):
        def __init__(self, layer):
            super().__init__(layer.in_features, layer.out_features)
            self.load_state_dict(layer.state_dict())
            self.a = torch.nn.Parameter(random_map(2, layer.in_features))
            self.b = torch.nn.Parameter(random_map(layer.out_features, 2))

        def forward(self, z):
            return super().forward(z) + z @ self.a.T @ self.b.T

    block.reduce, block.expand = LowRank(block.reduce), LowRank(block.expand)
    return block


def wrap(block):
    block.reduce = torch.nn.Sequential(block.reduce, torch.nn.LayerNorm(4))
    block.expand = torch.nn.Sequential(torch.nn.Tanh(), block.expand)
    return block


def hook(block):
    block.reduce.register_forward_hook(lambda layer, inputs, u: 2 * u)
    block.expand.register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 1,))
    return block


def hook_gradients(block):
    block.expand.register_full_backward_hook(lambda layer, into, out: (2 * into[0],))
    block.reduce.register_full_backward_pre_hook(lambda layer, out: (3 * out[0],))
    return block


def replace_forward(block):
    """Replace the ``forward`` of one instance, as the hooks of accelerate do."""
    forward = block.reduce.forward
    block.reduce.forward = lambda z: forward(z) - 1
    return block


def prune_weights(block):
    prune.l1_unstructured(block.reduce, "weight", 0.5)
    prune.ln_structured(block.expand, "weight", 0.25, n=2, dim=0)
    return block


def normalize_weights(block):
    torch.nn.utils.weight_norm(block.reduce)
    torch.nn.utils.parametrizations.weight_norm(block.expand)
    return block


def normalize_spectrum(block):
    torch.manual_seed(3)
    torch.nn.utils.spectral_norm(block.reduce)
    torch.nn.utils.parametrizations.spectral_norm(block.expand)
    return block


def quantize_dynamically(block):
    return quantization.quantize_dynamic(block.eval(), {torch.nn.Linear}, dtype=torch.qint8)


def prepare_for_quantized_training(block):
    block.train().qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return quantization.prepare_qat(block)


def observe_for_quantization(block):
    block.eval().qconfig = quantization.get_default_qconfig("fbgemm")
    return quantization.prepare(block)


TOOLS = [
    adapt_low_rank,
    wrap,
    hook,
    hook_gradients,
    replace_forward,
    prune_weights,
    normalize_weights,
    normalize_spectrum,
    quantize_dynamically,
    prepare_for_quantized_training,
    observe_for_quantization,
]


@pytest.mark.parametrize("shape", [(2, 16, 7, 5), LARGE], ids=["small", "large"])
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_tool_that_changes_a_layer_has_its_effect(tool, shape):
    x, answers = random_map(*shape), []
    for block in (tool(plain_block()), tool(new_block())):
        given = x.clone().requires_grad_()
        for _ in range(2):  # a second step, for what a tool computes anew in each
            y = block(given)
            gradients = [] if tool is quantize_dynamically else list(torch.autograd.grad(y.square().sum(), given))
        if gradients:
            block(given).square().sum().backward()
            gradients += [value.grad for _, value in sorted(block.named_parameters())]
        answers.append([y.detach(), *gradients])
    for want, got in zip(*answers, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("tool", [adapt_low_rank, wrap, hook, hook_gradients, replace_forward, prune_weights])
def test_every_tool_changes_the_output(tool):
    x = random_map(2, 16, 7, 5)
    answers = []
    for block in (new_block(), tool(new_block())):
        given = x.clone().requires_grad_()
        y = block(given)
        answers.append((y.detach(), *torch.autograd.grad(y.square().sum(), given)))
    assert not all(torch.equal(before, after) for before, after in zip(*answers, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("shape", [(2, 16, 7, 5), (2, 16, 20), LARGE])
def test_hooks_of_a_layer_and_of_all_modules_are_called(dtype, shape):
    block, called = new_block(dtype=dtype), []
    x = random_map(*shape, dtype=dtype)
    block(x)
    for layer in (block.reduce, block.expand):
        layer.register_forward_hook(lambda layer, inputs, u: called.append(tuple(u.shape)))
    with torch.no_grad():
        block(x)
    assert called == [(2, 4), (2, 16)]
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda layer, inputs, u: seen.append(layer))
    try:
        new_block(dtype=dtype)(x)
    finally:
        handle.remove()
    assert [type(layer) for layer in seen] == [torch.nn.Linear, torch.nn.Linear, se_torch.SqueezeExcitation]


def test_a_layer_that_is_called_gets_z_in_the_dtype_of_its_parameters():
    x = random_map(2, 16, 7, 5, dtype="bfloat16")
    for stored in ("float32", "bfloat16", "float64"):
        block = hook(new_block().to(getattr(torch, stored)))
        reference = hook(plain_block().to(getattr(torch, stored)))
        y, want = block(x), reference(x.to(getattr(torch, stored)))
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.double(), want.double(), rtol=2**-7, atol=2**-7)


def test_functional_call_and_vmap_use_the_given_weights():
    block, x = new_block(), random_map(2, 16, 7, 5)
    changed = {name: 2 * value for name, value in block.state_dict().items()}
    other = copy.deepcopy(block)
    other.load_state_dict(changed)
    torch.testing.assert_close(torch.func.functional_call(block, changed, x), other(x))


def test_a_pruned_block_has_the_widths_of_its_layers():
    """Prune rows and columns in place, as torch-pruning does."""
    block, keep, hidden = new_block(), [0, 3, 5, 7, 8, 15], [1, 2]
    values = se_torch.get_parameters(block)
    for layer, rows, columns in ((block.reduce, hidden, keep), (block.expand, keep, hidden)):
        layer.weight = torch.nn.Parameter(layer.weight.detach()[rows][:, columns])
        layer.bias = torch.nn.Parameter(layer.bias.detach()[rows])
        layer.out_features, layer.in_features = layer.weight.shape
    assert (block.spec.channels, block.spec.hidden) == (6, 2)
    assert block.spec == SESpec(6, hidden=2, bias=True)
    parts = {"reduce.weight": np.ix_(hidden, keep), "expand.weight": np.ix_(keep, hidden)}
    parts |= {"reduce.bias": hidden, "expand.bias": keep}
    expected = {name: value[parts[name]] for name, value in values.items()}
    x = random_map(2, 6, 7, 5)
    want = se_numpy.squeeze_excitation(x.numpy(), block.spec, expected, data_format="channels_first")
    assert difference(block(x).detach(), want) < 1e-6
    assert all(np.array_equal(value, expected[name]) for name, value in se_torch.get_parameters(block).items())


# Parameters of a block that a tool has changed


@pytest.mark.parametrize(
    ("tool", "fact"),
    [
        (adapt_low_rank, r"reduce\.a"),
        (wrap, r"reduce\.weight is not a parameter"),
        (prune_weights, r"reduce\.weight is not a parameter"),
        (normalize_weights, r"reduce\.weight is not a parameter"),
        (quantize_dynamically, r"reduce\.weight is not a parameter"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_k2_parameters_that_a_tool_computes_or_adds_are_refused(tool, fact):
    block = tool(new_block())
    values = se_torch.get_parameters(new_block())
    before = {name: copy.deepcopy(value) for name, value in block.state_dict().items()}
    for ask in (se_torch.get_parameters, lambda block: se_torch.set_parameters(block, values)):
        with pytest.raises(ParameterError, match=fact):
            ask(block)
    assert before.keys() == block.state_dict().keys()


def test_k2_a_parameter_of_another_shape_or_kind_is_refused():
    block = new_block()
    values = se_torch.get_parameters(block)
    block.reduce.weight = torch.nn.Parameter(torch.zeros(3, 4, 16))  # three blocks, stacked
    for ask in (se_torch.get_parameters, lambda block: se_torch.set_parameters(block, values)):
        with pytest.raises(
            ParameterError, match=r"reduce\.weight has shape \(3, 4, 16\) in the module, expected \(4, 16\)"
        ):
            ask(block)
    assert not block.reduce.weight.any()


# Records of the operations: for any size and batch


OTHER_SHAPES = (2, 16, 8, 8), (2, 16, 16, 16), (5, 16, 8, 8), (1, 16, 3, 40)


@every_spec
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("record", ["trace", "trace without gradients", "make_fx", "fx", "script", "frozen script"])
def test_recorded_block_is_right_at_any_size_and_batch(record, dtype, spec):
    block = new_block(spec, dtype).eval()
    recorded = record_block(record, block, random_map(2, 16, 8, 8, dtype=dtype))
    for shape in OTHER_SHAPES:
        x = random_map(*shape, dtype=dtype) + 2
        with torch.no_grad():
            got, want = recorded(x), block(x)
        assert got.dtype == x.dtype
        # fx and script call the layers as they are, in the parameters' own type
        unit = 1e-6 if dtype == "float32" else 2.0**-7
        torch.testing.assert_close(got.float(), want.float(), rtol=unit, atol=unit * float(want.abs().max()))


def record_block(record, block, x):
    check = x.dtype != torch.bfloat16  # its limit is 1e-5, where an eager block rounds bfloat16 once more
    match record:
        case "trace":
            return torch.jit.trace(block, x, check_trace=check)
        case "trace without gradients":
            with torch.no_grad():
                return torch.jit.trace(block, x, check_trace=check)
        case "make_fx":
            options = {"tracing_mode": "symbolic", "_allow_non_fake_inputs": True}
            return torch.fx.experimental.proxy_tensor.make_fx(block, **options)(x)
        case "fx":
            return torch.fx.symbolic_trace(block)
        case "script":
            return torch.jit.script(block)
        case "frozen script":
            return torch.jit.freeze(torch.jit.script(block))
    raise AssertionError(record)


def test_a_large_map_is_traced_with_gradients_and_saved():
    block, file = new_block(), io.BytesIO()
    torch.jit.save(torch.jit.trace(block, random_map(*LARGE)), file)
    file.seek(0)
    x = random_map(1, 16, 300, 200).requires_grad_()
    loaded, answers = torch.jit.load(file), []
    for each in (block, loaded):
        y = each(x)
        answers.append((y.detach(), *torch.autograd.grad(y.square().sum(), [x, *each.parameters()])))
    for want, got in zip(*answers, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_scripted_block_accepts_every_rank_and_calls_its_layers():
    block = new_block(SPECS[2])
    script = torch.jit.script(torch.nn.Sequential(block, torch.nn.ReLU()))
    recorded = torch.fx.symbolic_trace(block)
    for shape in ((2, 16, 9), (2, 16, 4, 5), (2, 16, 3, 4, 5)):
        x = random_map(*shape)
        torch.testing.assert_close(script(x), block(x).relu())
        torch.testing.assert_close(recorded(x), block(x))
    assert {name for name, _ in script.named_parameters()} == {"0.reduce.weight", "0.expand.weight"}
    called = [node.target for node in recorded.graph.nodes if node.op == "call_module"]
    assert called == ["reduce", "expand"]


def test_n3_recorded_block_keeps_nan():
    x = random_map(2, 16, 4, 5)
    x[0, 3, 1, 2] = torch.nan
    for spec in SPECS[:3]:
        block = new_block(spec)
        want = block(x).isnan()
        assert want.any() and not want.all()
        for record in ("trace", "make_fx", "fx", "script"):
            assert torch.equal(record_block(record, block, x.nan_to_num())(x).isnan(), want)


@pytest.mark.parametrize("net", [INCEPTION, BOTTLENECKS, ZEROS], ids=["Inception", "bottlenecks", "zeros"])
@pytest.mark.parametrize("record", ["trace", "fx", "script"])
def test_a_recorded_network_is_right_at_any_size_and_batch(record, net):
    model = se_torch.SENet(net, dtype=torch.float64).eval()
    se_torch.set_parameters(model, weights_of(net))
    recorded = record_block(record, model, torch.from_numpy(images(net, 23, 30)))
    for size, samples in (((23, 30), 2), ((32, 47), 3), ((40, 40), 1)):
        x = torch.from_numpy(images(net, *size, samples=samples))
        with torch.no_grad():
            assert difference(recorded(x), model(x).numpy()) < 1e-12
    assert isinstance(model, se_torch.SENet)


@pytest.mark.framework("torch", "peers")
def test_torchvision_extracts_features_of_a_network():
    from evidence.peer_blocks import _declare_operators_of_torchvision

    _declare_operators_of_torchvision()
    from torchvision.models.feature_extraction import create_feature_extractor

    model = se_torch.SENet(BOTTLENECKS).eval()
    extractor = create_feature_extractor(model, ["stage1.block0.se.scale", "stage2.block0.add"])
    kept = []
    model.stage1.block0.se.register_forward_hook(lambda block, inputs, y: kept.append(y))
    x = random_map(2, 3, 32, 40)
    model(x)
    torch.testing.assert_close(extractor(x)["stage1.block0.se.scale"], kept[0])


ONNX = pytest.mark.skipif(bool(IMPLEMENTATIONS["onnxruntime"].missing), reason="needs onnx, onnxscript and onnxruntime")


@ONNX
def test_the_legacy_exporter_of_onnx_takes_block_and_network():
    net = BOTTLENECKS
    model = se_torch.SENet(net, dtype=torch.float32).eval()
    for module, x in ((new_block(SPECS[2]), random_map(2, 16, 6, 7)), (model, random_map(2, 3, 32, 32))):
        session = legacy_session(module, x)
        y = session.run(None, {"x": (x + 1).numpy()})[0]
        with torch.no_grad():
            assert difference(y, module(x + 1).numpy()) < 1e-5


def legacy_session(module, x, path=None):
    file = io.BytesIO() if path is None else str(path)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(module.eval(), (x,), file, input_names=["x"], dynamo=False, opset_version=17)
    return onnxruntime.InferenceSession(file.getvalue()) if path is None else None


# Quantization to int8: within what it costs plain layers


@every_spec
def test_block_is_quantized_by_fx_graph_mode(spec):
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), new_block(spec)).eval()
    data = [random_map(4, 3, 10, 9, seed=seed) for seed in range(8)]
    prepared = prepare_fx(copy.deepcopy(model), quantization.get_default_qconfig_mapping("x86"), (data[0],))
    for x in data:
        prepared(x)
    quantized = convert_fx(prepared)
    with torch.no_grad():
        assert difference(quantized(data[0]), model(data[0]).numpy()) < 0.04
    assert "quantized" in str(type(quantized.get_submodule("1.expand")))


@ONNX
@pytest.mark.parametrize("squeeze", ["avg", "max", "avg_max"])
def test_block_is_quantized_by_onnxruntime(tmp_path, squeeze):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), new_block(SPEC.replace(squeeze=squeeze)))
    data = [random_map(1, 3, 8, 6, seed=seed) for seed in range(16)]

    class Data(CalibrationDataReader):
        rows = iter([{"x": x.numpy()} for x in data])

        def get_next(self):
            return next(self.rows, None)

    logging.disable(logging.WARNING)  # onnxruntime's advice
    try:
        legacy_session(model, data[0], tmp_path / "float.onnx")
        quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx"), Data())
    finally:
        logging.disable(logging.NOTSET)
    y = onnxruntime.InferenceSession(str(tmp_path / "int8.onnx")).run(None, {"x": data[0].numpy()})[0]
    with torch.no_grad():
        assert difference(y, model(data[0]).numpy()) < 0.03


# A module on its way through memory


@pytest.mark.parametrize("make", [copy.deepcopy, lambda block: torch.optim.swa_utils.AveragedModel(block).module])
def test_copied_block_gives_the_same_output(make):
    block, x = new_block(), random_map(2, 16, 7, 5)
    assert torch.equal(make(block)(x), block(x))


def test_network_without_storage_draws_parameters_after_to_empty():
    torch.manual_seed(0)
    drawn = se_torch.SENet(BOTTLENECKS)
    model = se_torch.SENet(BOTTLENECKS, device="meta").to_empty(device="cpu")
    for value in model.state_dict().values():
        value.fill_(7)
    model.reset_parameters()
    for name, value in drawn.state_dict().items():
        got = model.state_dict()[name].float()
        if value.numel() > 500:
            torch.testing.assert_close(got.std(), value.std(), rtol=0.2, atol=0)
        elif "bn" in name:
            assert torch.equal(got, value.float())
    assert not any((value == 7).any() for value in model.state_dict().values())


def test_cases_of_the_covering_array_match_the_oracle_through_a_called_layer():
    """A block whose layers are called matches the oracle, not only a plain block."""
    for spec in SPECS:
        inputs = Case(spec, dtype="float64").inputs()
        block = new_block(spec, "float64")
        se_torch.set_parameters(block, inputs.parameters)
        block.expand.register_forward_hook(lambda layer, inputs, u: None)
        y = block(torch.from_numpy(np.moveaxis(inputs.x, -1, 1).copy()))
        want = se_numpy.squeeze_excitation(inputs.x, spec, inputs.parameters, data_format="channels_last")
        assert np.abs(np.moveaxis(y.detach().numpy(), 1, -1) - want).max() < 1e-12 * np.abs(want).max()
