"""``se_torch.SENet`` matches the oracle and timm's own models, and works with PyTorch's tools."""

import copy
import pickle
import re
from functools import partial

import numpy as np
import pytest

import se_numpy
import se_port
from evidence.peer_blocks import _declare_operators_of_torchvision
from se_conformance.cases import round_to
from se_spec import InputError, ParameterError, ShapeError, network, parameters

from ..conftest import OnDemand
from ..small_networks import (
    BOTTLENECKS,
    FAMILIES,
    INCEPTION,
    SIZES,
    ZEROS,
    as_bytes,
    assert_drawn,
    assert_refused,
    difference,
    every_family,
    every_small_one,
    images,
    weights_of,
)

pytestmark = pytest.mark.framework("torch")
torch, se_torch, timm = OnDemand("torch"), OnDemand("se_torch"), OnDemand("timm")


@pytest.fixture(autouse=True)
def _one_thread():
    """Use one thread: grouped convolutions in float64 take 800 times as long on two threads of a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(net, values, dtype="float64"):
    model = se_torch.SENet(net, dtype=getattr(torch, dtype)).eval()
    se_torch.set_parameters(model, values)
    return model


def logits_of(model, x):
    with torch.no_grad():
        return model(x)


def judge(net, x):
    values = weights_of(net)
    got = logits_of(model_of(net, values), torch.from_numpy(x))
    assert got.dtype == torch.float64
    want = se_numpy.senet(x, net, values, data_format="channels_first")
    assert difference(got, want) < 1e-12


# The right answer


@every_family
def test_m1_m7_every_family_matches_the_oracle(name):
    judge(FAMILIES[name], images(FAMILIES[name], *SIZES.get(name, (33, 41)), samples=1))


@every_small_one
@pytest.mark.parametrize("size", [(23, 30), (16, 9)])
def test_m2_m3_m4_every_padding_place_and_shortcut_matches_the_oracle(net, size):
    judge(net, images(net, *size))


@pytest.mark.framework("torch", "peers")
@pytest.mark.parametrize("name", ["legacy_seresnet50", "legacy_seresnext50_32x4d", "legacy_senet154", "seresnet50"])
def test_m7_timms_own_models_give_the_same_logits(name):
    _declare_operators_of_torchvision()
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7).double().eval()
    net = network(f"timm.{name}", num_classes=7)
    for key, value in theirs.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.2)
        elif key.endswith("running_var") or re.search(r"(bn\d|downsample\.1)\.weight$", key):
            value.uniform_(0.5, 1.5)
    values = se_port.load(theirs.state_dict(), net)
    x = images(net, 33, 49, samples=1)
    want = logits_of(theirs, torch.from_numpy(x)).numpy()
    assert difference(logits_of(model_of(net, values), torch.from_numpy(x)), want) < 1e-12
    oracle = se_numpy.senet(x, net, values, data_format="channels_first")
    assert difference(oracle, want) < 1e-12


# Parameters


def test_m5_names_in_the_state_dict_are_paths():
    state = se_torch.SENet(BOTTLENECKS).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items() if name.startswith("stage2.block0.s")} == {
        "stage2.block0.se.reduce.weight": (8, 32),
        "stage2.block0.se.reduce.bias": (8,),
        "stage2.block0.se.expand.weight": (32, 8),
        "stage2.block0.se.expand.bias": (32,),
        "stage2.block0.shortcut.conv.weight": (32, 16, 1, 1),
        "stage2.block0.shortcut.bn.weight": (32,),
        "stage2.block0.shortcut.bn.bias": (32,),
        "stage2.block0.shortcut.bn.running_mean": (32,),
        "stage2.block0.shortcut.bn.running_var": (32,),
        "stage2.block0.shortcut.bn.num_batches_tracked": (),
    }
    assert "input_bn.bias" in se_torch.SENet(INCEPTION).state_dict()
    assert "input_bn.weight" not in se_torch.SENet(INCEPTION).state_dict()


@every_small_one
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_k3_round_trip_of_parameters_is_exact(net, dtype):
    values = {name: round_to(value, dtype) for name, value in weights_of(net).items()}
    model = model_of(net, values, dtype)
    back = se_torch.get_parameters(model)
    assert list(back) == list(parameters.shapes(net))
    assert as_bytes(back) == as_bytes(values)
    assert as_bytes(se_torch.get_parameters(copy.deepcopy(model))) == as_bytes(values)
    other = se_torch.SENet(net, dtype=getattr(torch, dtype)).eval()
    other.load_state_dict(model.state_dict())
    x = torch.ones(1, net.channels, 17, 20, dtype=getattr(torch, dtype))
    assert torch.equal(other(x), model(x))


@every_small_one
def test_m6_learnable_parameters_are_those_that_the_spec_counts(net):
    model = se_torch.SENet(net)
    assert sum(value.numel() for value in model.parameters()) == net.parameter_count()
    assert model.spec == net


def test_k2_wrong_parameters_are_refused_and_nothing_changes():
    values = weights_of(BOTTLENECKS)
    model = model_of(BOTTLENECKS, values)
    before = as_bytes(se_torch.get_parameters(model))
    assert_refused(partial(se_torch.set_parameters, model), values)
    assert as_bytes(se_torch.get_parameters(model)) == before
    torch.nn.utils.parametrizations.weight_norm(model.classifier)
    with pytest.raises(ParameterError, match=r"classifier\.weight is not a parameter"):
        se_torch.set_parameters(model, {name: value + 1 for name, value in values.items()})
    torch.nn.utils.parametrize.remove_parametrizations(model.classifier, "weight")
    assert as_bytes(se_torch.get_parameters(model)).keys() == before.keys()
    assert np.array_equal(model.stem.conv1.weight.detach(), values["stem.conv1.weight"])


def test_k2_a_model_without_storage_is_filled_after_to_empty():
    values = weights_of(INCEPTION)
    model = se_torch.SENet(INCEPTION, device="meta", dtype=torch.float64).eval()
    assert model(torch.ones(2, 3, 17, 20, device="meta", dtype=torch.float64)).shape == (2, 5)
    with pytest.raises(ParameterError, match="meta device"):
        se_torch.set_parameters(model, values)
    model.to_empty(device="cpu")
    se_torch.set_parameters(model, values)
    x = images(INCEPTION, 17, 20)
    want = se_numpy.senet(x, INCEPTION, values, data_format="channels_first")
    assert difference(logits_of(model, torch.from_numpy(x)), want) < 1e-12


def test_m10_new_parameters_have_the_documented_distributions():
    torch.manual_seed(0)
    model = se_torch.SENet(FAMILIES["se_resnext50_32x4d"].replace(conv_bias=True, num_classes=500))
    normal = {
        "stem.conv1.weight": 2 / (49 * 64),
        "stage3.block0.conv2.weight": 2 / (9 * 512 / 32),  # 32 groups: a value reaches 512 / 32 channels
        "stage3.block0.conv3.weight": 2 / 1024,
    }
    uniform = {"stage3.block0.conv3.bias": 512, "stage3.block0.se.expand.weight": 64, "classifier.weight": 2048}
    assert_drawn(se_torch.get_parameters(model), normal, uniform)


# Training


@every_small_one
def test_every_parameter_has_a_gradient(net):
    model = model_of(net, weights_of(net)).train()
    model(torch.from_numpy(images(net, 23, 30, samples=5))).square().sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name


def test_momentum_is_the_specs_and_dropout_acts_in_training_alone():
    model = se_torch.SENet(BOTTLENECKS.replace(momentum=0.75), dtype=torch.float64)
    x = torch.from_numpy(images(BOTTLENECKS, 23, 30))
    first = model.stem.conv1(model.stem.pool1(x))
    assert not torch.equal(model(x), model(x))
    model.eval()
    expected = (1 - 0.75**2) * first.mean((0, 2, 3))  # two steps, from 0
    torch.testing.assert_close(model.stem.bn1.running_mean, expected, rtol=1e-12, atol=0)
    assert torch.equal(model(x), model(x))


# Memory formats, compilers


@every_small_one
def test_channels_last_images_and_float32_match_the_oracle(net):
    values, x = weights_of(net), images(net, 23, 30)
    want = se_numpy.senet(x, net, values, data_format="channels_first")
    model = model_of(net, values, "float32").to(memory_format=torch.channels_last)
    given = torch.from_numpy(x).float().contiguous(memory_format=torch.channels_last)
    seen = []
    model.stage1.block0.se.register_forward_hook(lambda module, inputs, y: seen.append(y))
    assert difference(logits_of(model, given), want) < 1e-4
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("net", [INCEPTION, BOTTLENECKS, ZEROS], ids=["Inception", "bottlenecks", "zeros"])
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
def test_network_is_compiled_and_exported_as_one_graph(net):
    values, x = weights_of(net), torch.from_numpy(images(net, 23, 30))
    model = model_of(net, values)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = logits_of(model, x).numpy()
    assert difference(logits_of(compiled, x), want) < 1e-12
    sizes = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
    exported = torch.export.export(model, (torch.ones(2, 3, 17, 20, dtype=x.dtype),), dynamic_shapes=sizes).module()
    assert difference(logits_of(exported, x), want) < 1e-12
    larger = torch.from_numpy(images(net, 32, 47, samples=3))
    assert difference(logits_of(exported, larger), logits_of(model, larger).numpy()) < 1e-12
    assert as_bytes(se_torch.get_parameters(compiled)) == as_bytes(values)


def test_pickled_model_is_the_same_and_a_layer_can_be_replaced():
    model = model_of(BOTTLENECKS, weights_of(BOTTLENECKS))
    x = torch.from_numpy(images(BOTTLENECKS, 17, 20))
    again = pickle.loads(pickle.dumps(model))
    assert again.spec == BOTTLENECKS
    assert torch.equal(again(x), model(x))
    again.classifier = torch.nn.Identity()
    assert again(x).shape == (2, 32)


# Refusals


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "facts"),
    [
        ((3, 8, 8), "float32", ShapeError, ["(3, 8, 8)", "C = 3", "2 spatial axes (rank 4)", "rank 3"]),
        ((1, 8, 8, 3), "float32", ShapeError, ["(1, 8, 8, 3)", "C = 3", "8 channels", "channels_first"]),
        ((1, 3, 0, 8), "float32", ShapeError, ["empty spatial axis 2"]),
        ((1, 3, 1, 1), "float32", ShapeError, ["(1, 1) is too small", "stem.pool1"]),
        ((1, 3, 8, 8), "int64", InputError, ["int64", "float32"]),
    ],
)
def test_x1_x2_x3_x4_m9_wrong_images_are_refused(shape, dtype, error, facts):
    model = se_torch.SENet(BOTTLENECKS)
    with pytest.raises(error) as caught:
        model(torch.ones(shape, dtype=getattr(torch, dtype)))
    for fact in facts:
        assert fact in str(caught.value)


def test_x5_array_of_another_framework_is_refused():
    with pytest.raises(InputError, match=r"numpy\.ndarray, expected a torch\.Tensor"):
        se_torch.SENet(BOTTLENECKS)(np.ones((1, 3, 8, 8)))


def test_v1_v2_v5_samples_are_independent_and_x_is_not_modified():
    model = model_of(BOTTLENECKS, weights_of(BOTTLENECKS))
    x = torch.from_numpy(images(BOTTLENECKS, 17, 20, samples=3))
    before = x.clone()
    logits = logits_of(model, x)
    assert torch.equal(x, before)
    torch.testing.assert_close(logits_of(model, x[1:2]), logits[1:2], rtol=0, atol=1e-12)
    assert logits_of(model, x[:0]).shape == (0, 5)
