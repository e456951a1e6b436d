"""SE blocks of live models: found by what they compute, replaced by ours, and put back."""

import copy
from typing import Any

import numpy as np
import pytest

from evidence.peer_blocks import import_object
from se_spec import InputError, ParameterError, SESpec, SpecError

from ..conftest import OnDemand

torch, nn, se_torch = OnDemand("torch"), OnDemand("torch.nn"), OnDemand("se_torch")
live = OnDemand("tests.se_torch.live_blocks")
pytestmark = pytest.mark.framework("torch")
BLOCKS = (
    "tutorial",
    "tutorial, biases",
    "tutorial, hidden 1",
    "convolutions",
    "no bias",
    "silu module",
    "swish by hand",
    "hard swish by hand",
    "gelu tanh",
    "relu6",
    "leaky",
    "no activation",
    "hard sigmoid module",
    "hard sigmoid by relu6",
    "hard sigmoid by clip",
    "hard sigmoid of GhostNet",
    "hard sigmoid of nobody",
    "tanh gate plus 1",
    "gain",
    "maximum",
    "both",
    "pool of one size",
    "pool of square maps",
    "back to front",
    "matrices",
    "equal widths",
    "rank 1",
    "rank 3",
    "effective",
    "channels last",
    "one bias",
    "attribute without copies",
    "gate alone",
    "gate alone, vectors",
    "dropout of 0",
)
"""Names of ``live_blocks.BLOCKS``, which needs PyTorch."""
NEAR = (
    "dropout",
    "batch norm",
    "CBAM",
    "wrong gate",
    "detached gate",
    "window of seven",
    "silent frames",
    "softplus",
    "missing squeeze",
    "inside of another",
    "BAM",
    "pruned",
    "hooks of the state",
    "buffers",
    "parametrized",
    "hooks of a layer",
    "quantized",
    "PReLU",
    "groups",
)
"""Names of ``live_blocks.NEAR``."""


def test_every_hand_written_block_is_listed() -> None:
    assert set(BLOCKS) == set(live.BLOCKS) and set(NEAR) == set(live.NEAR)


def make_host(name: str) -> Any:
    torch.manual_seed(0)
    rank = int(name[-1]) if name.startswith("rank") else 2
    return live.Host(live.BLOCKS[name][0](), rank, name == "channels last")


def draw(model: Any, size: int = 9, samples: int = 2) -> Any:
    stem: Any = next(part for part in model.modules() if isinstance(part, nn.modules.conv._ConvNd))
    return torch.randn(samples, stem.in_channels, *(size for _ in stem.kernel_size)).to(stem.weight)


@pytest.mark.parametrize("name", BLOCKS)
def test_hand_written_block_is_replaced_and_put_back(name: str) -> None:
    model, spec = make_host(name).double().eval(), live.BLOCKS[name][1]
    x, state, modules = draw(model), copy.deepcopy(model.state_dict()), dict(model.named_modules())
    want = model(x)
    replacement = se_torch.replace(model, x)
    assert {path: block.spec for path, block in replacement.blocks.items()} == {"se": spec}
    assert replacement.left == {} and replacement.difference is not None and replacement.difference < 1e-12
    assert isinstance(model.se, se_torch.SqueezeExcitation)
    torch.testing.assert_close(model(x), want, rtol=1e-11, atol=1e-12)
    back = se_torch.restore(replacement)
    assert back is model and dict(model.named_modules()) == modules
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NEAR)
def test_module_that_resembles_a_block_is_left_and_named(name: str) -> None:
    make, reason = live.NEAR[name]
    model = live.Host(make())
    modules = dict(model.named_modules())
    replacement = se_torch.replace(model)
    assert dict(model.named_modules()) == modules and replacement.blocks == {}
    [(path, found)] = replacement.left.items()
    assert path.startswith("se") and reason in found
    assert f"left: {path}: {found}" in str(replacement)
    with pytest.raises(SpecError, match="is no Squeeze-and-Excitation block: "):
        se_torch.from_module(model.se)


def test_modules_without_squeeze_or_scaling_are_neither_found_nor_named() -> None:
    perceptron = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16))
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.TransformerEncoderLayer(16, 2, 64), perceptron, nn.Linear(16, 16))
    replacement = se_torch.replace(nn.Sequential(model, head))
    assert replacement.blocks == {} and replacement.left == {}


NETWORKS = {
    "timm.seresnet18": 8,
    "timm.mobilenetv3_small_050": 9,
    "timm.ese_vovnet19b_slim_dw": 4,
    "timm.seresnext50_32x4d": 16,
    "timm.efficientnet_b0": 16,
    "timm.regnety_002": 13,
    "timm.nf_seresnet26": 8,
    "timm.legacy_seresnet18": 8,
    "timm.ghostnet_100": 7,
    "timm.hgnetv2_b0": 0,
    "torchvision.efficientnet_b0": 16,
    "torchvision.mobilenet_v3_small": 9,
    "torchvision.regnet_y_400mf": 16,
}


@pytest.mark.framework("torch", "peers")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_of_a_library_network_is_replaced(name: str) -> None:
    package, _, name = name.partition(".")
    torch.manual_seed(0)
    is_timm = package == "timm"
    model = import_object("timm.create_model")(name) if is_timm else import_object(f"torchvision.models.{name}")()
    state = copy.deepcopy(model.state_dict())
    replacement = se_torch.replace(model.double().eval())
    assert len(replacement.blocks) == NETWORKS[f"{package}.{name}"] and replacement.left == {}
    assert replacement.difference is not None and replacement.difference < 1e-9
    se_torch.restore(replacement)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value.float(), state[key].float()) for key, value in model.state_dict().items())


def test_a_module_at_several_places_is_replaced_by_one_module() -> None:
    block = live.Tutorial()
    lists = nn.ModuleDict({"a": nn.ModuleList([block]), "b": nn.Sequential(nn.Sequential(block))})
    lists.alias = block
    replacement = se_torch.replace(lists)
    assert list(replacement.blocks) == ["a.0", "b.0.0", "alias"]
    assert lists["a"][0] is lists["b"][0][0] is lists.alias and type(lists.alias) is se_torch.SqueezeExcitation
    se_torch.restore(replacement)
    assert lists["a"][0] is lists["b"][0][0] is lists.alias is block


def test_dtype_mode_gradients_marks_and_hooks_are_kept() -> None:
    model = live.Host(live.BLOCKS["convolutions"][0]()).to(torch.bfloat16).eval()
    one, two = model.se.one, model.se.two
    two.weight.requires_grad_(False)
    one.weight._no_weight_decay = True
    one.weight.grad = torch.ones_like(one.weight)
    seen: list[Any] = []
    handle = model.se.register_forward_hook(lambda module, arguments, y: seen.append(module))
    replacement = se_torch.replace(model)
    ours = model.se
    assert (ours.reduce.weight.dtype, ours.training) == (torch.bfloat16, False) and model.training is False
    assert [value.requires_grad for value in ours.parameters()] == [True, True, False, True]
    assert ours.reduce.weight._no_weight_decay and ours.reduce.weight.grad.shape == (4, 16)
    assert any("make the optimizer after" in note for note in replacement.notes)
    seen.clear()
    model(draw(model))
    assert seen == [ours]
    handle.remove()
    model(draw(model))
    assert seen == [ours]


def test_parameters_of_linear_layers_stay_the_same_objects() -> None:
    model = live.Host(live.Tutorial())
    first = model.se.fc[0].weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    replacement = se_torch.replace(model)
    assert model.se.reduce.weight is first
    before = first.detach().clone()
    model(draw(model)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.se.reduce.weight, before)
    assert se_torch.restore(replacement).se.fc[0].weight is first


def test_training_in_between_and_moves_reach_the_modules_that_are_put_back() -> None:
    model = live.Host(live.make_gate())
    replacement = se_torch.replace(model)
    model.double().train()
    torch.nn.init.ones_(model.se.expand.weight)
    se_torch.restore(replacement)
    assert model.se[3].weight.dtype == torch.float64 and torch.equal(
        model.se[3].weight, torch.ones(16, 4, 1, 1).double()
    )


def test_tied_parameters_stay_tied_or_the_block_is_left() -> None:
    blocks = nn.ModuleList(live.BLOCKS["convolutions"][0]() for _ in range(2))
    blocks[1].one.weight = blocks[0].one.weight
    assert len(se_torch.replace(blocks).blocks) == 2 and blocks[0].reduce.weight is blocks[1].reduce.weight
    model = live.Host(live.BLOCKS["convolutions"][0]())
    model.elsewhere = nn.Conv2d(16, 4, 1)
    model.elsewhere.weight = model.se.one.weight
    assert se_torch.replace(model).left == {"se": "its weight is also elsewhere.weight, outside of a block"}
    model = live.Host(live.Tutorial())
    model.blocks = [model.se]
    assert "blocks refers to it too" in se_torch.replace(model).left["se"]


def test_model_that_uses_more_of_a_block_than_its_call_keeps_it() -> None:
    class Reader(live.Host):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * len(self.se.fc)

    model = nn.Sequential(Reader(live.Tutorial()), nn.Conv2d(16, 3, 1), live.Host(live.Tutorial()))
    replacement = se_torch.replace(model)
    assert list(replacement.blocks) == ["2.se"] and replacement.difference is not None
    assert "the model raises AttributeError" in replacement.left["0.se"]
    assert isinstance(model[0].se, live.Tutorial) and isinstance(model[2].se, se_torch.SqueezeExcitation)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_wrapped_models() -> None:
    model = live.Host(live.Tutorial())
    compiled = torch.compile(model, backend="eager")
    x = draw(model)
    want = compiled(x)
    replacement = se_torch.replace(compiled, x)
    assert replacement.model is compiled and list(replacement.blocks) == ["se"]
    torch.testing.assert_close(compiled(x), want)
    assert se_torch.restore(replacement) is compiled and isinstance(model.se, live.Tutorial)
    parallel = live.Host(live.Tutorial())
    parallel.__class__ = type("DistributedDataParallel", (live.Host,), {})
    with pytest.raises(InputError, match="wrapped by DistributedDataParallel"):
        se_torch.replace(parallel)
    model.se = torch.compile(model.se, backend="eager")
    assert "compiled by itself" in se_torch.replace(model).left["se._orig_mod"]
    model.se = torch.jit.trace(live.Tutorial(), torch.ones(2, 16, 4, 4))
    assert "TorchScript" in se_torch.replace(model).left["se"]


def test_model_without_storage_and_model_that_is_a_block() -> None:
    with torch.device("meta"):
        model = live.Host(live.Tutorial())
    assert list(se_torch.replace(model).blocks) == ["se"] and model.se.expand.weight.is_meta
    block = live.Tutorial()
    replacement = se_torch.replace(block)
    assert isinstance(replacement.model, se_torch.SqueezeExcitation) and list(replacement.blocks) == [""]
    assert se_torch.restore(replacement) is block


def test_inputs_are_used_and_named_where_they_fail() -> None:
    model = live.Host(live.Tutorial())
    assert se_torch.replace(model, {"x": draw(model)}).difference == 0.0
    with pytest.raises(InputError, match="the model raises RuntimeError on the inputs"):
        se_torch.replace(live.Host(live.Tutorial()), (torch.ones(1, 5, 4, 4),))
    assert se_torch.replace(nn.Sequential(live.Tutorial())).difference is None


def test_buffers_random_numbers_and_modes_of_the_model_stay() -> None:
    class Counting(live.Host):
        def __init__(self) -> None:
            super().__init__(live.Tutorial())
            self.register_buffer("calls", torch.zeros(()))
            self.drop = nn.Sequential(*live.make_gate()[:3], nn.Dropout(0.5), *live.make_gate()[3:])

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return super().forward(x) * torch.rand(1).sign()

    model = Counting().train()
    model.drop.eval()
    state = torch.get_rng_state()
    replacement = se_torch.replace(model)
    assert list(replacement.blocks) == ["se"] and list(replacement.left) == ["drop"]
    assert model.calls == 0 and torch.equal(torch.get_rng_state(), state)
    assert model.training and model.se.training and not model.drop.training


def test_block_that_writes_into_its_map_and_lazy_parameters() -> None:
    class Inplace(live.Tutorial):
        def forward(self, x: Any) -> Any:
            x *= self.fc(x.mean((2, 3)))[..., None, None]
            return x

    assert list(se_torch.replace(live.Host(Inplace())).blocks) == ["se"]
    model = live.Host(nn.Sequential(nn.LazyConv2d(4, 1)))
    with pytest.raises(InputError, match=r"se\.0\.weight has no shape yet"):
        se_torch.replace(model)


def test_restore_refuses_computed_parameters() -> None:
    replacement = se_torch.replace(model := live.Host(live.Tutorial()))
    torch.nn.utils.parametrizations.weight_norm(model.se.reduce)
    with pytest.raises(ParameterError, match=r"reduce\.weight is not a parameter"):
        se_torch.restore(replacement)
    assert isinstance(model.se, se_torch.SqueezeExcitation)


def test_parameters_by_path_in_our_models_and_in_others() -> None:
    model = nn.ModuleDict({"ours": se_torch.SqueezeExcitation(16, hidden=4), "theirs": live.BLOCKS["matrices"][0]()})
    values = {"reduce.weight": np.full((4, 16), 0.5, "float32"), "expand.weight": np.full((16, 4), 2.0, "float32")}
    for path in ("ours", "theirs"):
        se_torch.set_parameters(model, values, path)
        got = se_torch.get_parameters(model, path)
        assert all(np.array_equal(got[name], value) for name, value in values.items())
    assert model["theirs"].first.shape == (16, 4)
    assert se_torch.get_parameters(model).keys() == values.keys()
    with pytest.raises(ParameterError, match="the model has no module 'no'"):
        se_torch.get_parameters(model, "no")
    two = nn.Sequential(*(se_torch.SqueezeExcitation(8) for _ in range(2)))
    with pytest.raises(ParameterError, match="the model holds: 0, 1; give its path"):
        se_torch.get_parameters(two)
    with pytest.raises(ParameterError, match="no SE block: "):
        se_torch.get_parameters(nn.Linear(2, 2), "")


def test_parameters_of_a_block_are_its_own() -> None:
    block = live.BLOCKS["convolutions"][0]()
    spec, parameters = se_torch.from_module(block)
    x = torch.randn(2, 16, 5, 4)
    torch.testing.assert_close(se_torch.squeeze_excitation(x, spec, parameters), block(x))
    with pytest.raises(SpecError, match="a call with one feature map raises TypeError"):
        se_torch.from_module(type("Two", (live.Tutorial,), {"forward": lambda self, x, y: x})())
    spec, parameters = se_torch.from_module(live.BLOCKS["one bias"][0]())
    assert spec == SESpec(16, hidden=4, bias=True) and not parameters["reduce.bias"].any()
