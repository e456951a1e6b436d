"""Blocks whose weights are computed are judged with those weights; what cannot be is one clear error."""

import pytest

import se_numpy
from se_conformance import adapt, check, trial
from se_spec import SESpec, SpecError

from ..conftest import OnDemand
from .test_adapters import keras_layer, nnx_block, torch_block

SPEC = SESpec(12, hidden=5, bias=True)

torch, nn, keras, nnx = OnDemand("torch"), OnDemand("torch.nn"), OnDemand("keras"), OnDemand("flax.nnx")
needs_torch = pytest.mark.framework("torch")
needs_keras = pytest.mark.framework("keras")
needs_flax = pytest.mark.framework("flax")


def parametrize(name):
    def change(block):
        for layer in (block.fc[0], block.fc[2]):
            getattr(nn.utils.parametrizations, name)(layer)

    return change


def hook(name):
    def change(block):
        getattr(nn.utils, name)(block.fc[0])
        block(torch.ones(1, 12, 2, 2))  # what the hook computes is no leaf, and cannot be copied as it is

    return change


def prune(block):
    nn.utils.prune.l1_unstructured(block.fc[0], "weight", 0.5)


def add_lora(block):
    """Wrap a layer as PEFT does."""

    class Lora(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base
            self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

        def forward(self, x):
            return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

        def merge(self):
            self.base_layer.weight += self.lora_B["default"].weight @ self.lora_A["default"].weight

        def get_base_layer(self):
            return self.base_layer

    block.fc[0] = Lora(block.fc[0])


COMPUTED = {
    "weight_norm": (parametrize("weight_norm"), "fc.2.weight: it is parametrized (WeightNorm)"),
    "spectral_norm": (parametrize("spectral_norm"), "fc.2.weight: it is parametrized (SpectralNorm)"),
    "orthogonal": (parametrize("orthogonal"), "fc.2.weight: it is parametrized (Orthogonal)"),
    "older weight_norm": (hook("weight_norm"), "fc.0.weight: it is parametrized (WeightNorm)"),
    "older spectral_norm": (hook("spectral_norm"), "fc.0.weight: it is parametrized (SpectralNorm)"),
    "pruned": (prune, "fc.0.weight: it is pruned"),
    "LoRA": (add_lora, "fc.0: its LoRA matrices are merged"),
}


@needs_torch
@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torch_block_with_computed_weights_is_judged_with_them(kind):
    change, note = COMPUTED[kind]
    block = torch_block()
    change(block)
    names = [name for name, _ in block.named_parameters()]
    verdict = check(block, SPEC)
    verdict.raise_if_failed()
    assert "d reduce.weight" in {finding.quantity for finding in verdict.findings}
    assert f"{note}; judged with the weight that it computes" in verdict.notes
    assert [name for name, _ in block.named_parameters()] == names


@needs_torch
def test_a_wrong_block_with_computed_weights_is_found():
    block = torch_block(made=nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 12), nn.Sigmoid()))
    nn.utils.parametrizations.weight_norm(block.fc[0])
    assert check(block, SPEC).causes[0] == "activation missing"


@needs_torch
@pytest.mark.filterwarnings("ignore")  # of quantization, which PyTorch gives up
def test_weights_of_integers_and_lora_that_cannot_be_merged_are_refused():
    quantized = torch.ao.quantization.quantize_dynamic(torch_block(), {nn.Linear})
    with pytest.raises(
        SpecError, match=r"fc\.0 is a torch\..*Linear, which computes with integers.*before it is quant"
    ):
        check(quantized, SPEC)

    class ByHand(nn.Linear):
        def __init__(self):
            super().__init__(12, 5)
            self.lora_a, self.lora_b = nn.Parameter(torch.zeros(2, 12)), nn.Parameter(torch.zeros(5, 2))

    block = torch_block()
    block.fc[0] = ByHand()
    with pytest.raises(SpecError, match=r"'fc\.0\.lora_a' is a matrix of LoRA.*merge them \(PEFT has merge_and_unload"):
        check(block, SPEC)


def expect_right_answer(adapted):
    x, _, parameters = trial("uneven map", SPEC).inputs
    adapted.prepare(SPEC, "float32")
    want = se_numpy.squeeze_excitation(x, SPEC, parameters, data_format="channels_last")
    assert abs(adapted(x, parameters) - want).max() < 1e-5 * abs(want).max()


@needs_keras
def test_keras_lora_is_judged_as_zeros_that_are_added_to_the_kernel():
    layer = keras_layer()
    layer(keras.ops.ones((1, 2, 2, 12)))
    for inner in (layer.squeeze, layer.excite):
        inner.enable_lora(2)
        inner.lora_kernel_b.assign(keras.ops.ones_like(inner.lora_kernel_b))
    adapted = adapt(layer)
    expect_right_answer(adapted)
    assert len(adapted.notes) == 2
    assert adapted.notes[0].endswith("lora_kernel_a: LoRA is enabled; judged with the kernel that it is added to")
    assert keras.ops.convert_to_numpy(layer.squeeze.lora_kernel_b).all()  # the block is as it was


@needs_keras
def test_keras_layers_of_integers_are_refused():
    layer = keras_layer()
    layer(keras.ops.ones((1, 2, 2, 12)))
    layer.squeeze.quantize("int8")
    with pytest.raises(SpecError, match=r"layer '.*' is quantized \(int8\).*judge the block before quantize\(\)"):
        check(layer, SPEC)


@needs_flax
def test_nnx_lora_is_merged():
    block = nnx_block()
    block.fc1 = nnx.LoRALinear(12, 5, lora_rank=2, rngs=nnx.Rngs(1))
    block.fc2 = nnx.LoRA(5, 2, 12, base_module=block.fc2, rngs=nnx.Rngs(2))
    adapted = adapt(block)
    expect_right_answer(adapted)
    assert [note.partition(":")[0] for note in adapted.notes] == ["fc1", "fc2"]
    assert isinstance(block.fc1, nnx.LoRALinear) and isinstance(block.fc2, nnx.LoRA)
    block.fc2.base_module = None
    with pytest.raises(SpecError, match=r"nnx\.LoRA without a Linear as base_module"):
        adapt(block)
