"""SE blocks in other people's files: found where they are, nowhere else, and to the bit.

Where a system can be installed, its own networks say where the blocks are and its own modules what their gates are. Of
the others there is one set of names each, typed by hand from its sources and not from the tables.
"""

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import se_numpy
import se_port
from evidence.peer_blocks import import_object
from evidence.peer_networks import of_torch
from evidence.peer_networks.network import Network, difference, find_any, zeros
from evidence.peer_networks.systems import SYSTEMS, TIMM, TORCHVISION
from se_port.detect import blocks
from se_port.layouts.base import UNKNOWN, BlockLayout
from se_port.layouts.blocks import BLOCK_LAYOUTS
from se_spec import LayoutError, SESpec

from ..conftest import OnDemand

torch = OnDemand("torch")
keras = OnDemand("keras")
REFERENCES = Path(__file__).parents[1] / "references"


def bits(parameters: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], np.dtype, bytes]]:
    return {name: (value.shape, value.dtype, value.tobytes()) for name, value in parameters.items()}


# Networks of timm and torchvision

WITH_SE = {
    "timm": [
        "coatnet_pico_rw_224",
        "ese_vovnet19b_slim",
        "fastvit_t8",
        "fbnetv3_b",
        "gcvit_xxtiny",
        "hgnet_tiny",
        "lcnet_035",
        "legacy_seresnet18",
        "maxvit_tiny_tf_224",
        "mnasnet_small",
        "mobilenetv3_small_050",
        "nf_seresnet26",
        "rdnet_tiny",
        "regnety_002",
        "regnetz_005",
        "repvgg_d2se",
        "rexnet_100",
        "seresnet18",
        "seresnet33ts",
        "tinynet_e",
        "tresnet_m",
    ],
    "torchvision": ["efficientnet_b0", "maxvit_t", "mobilenet_v3_small", "regnet_y_400mf"],
}
WITHOUT_SE = {
    "timm": [
        "convnext_atto",
        "eca_nfnet_l0",
        "gc_efficientnetv2_rw_t",
        "gcresnet33ts",
        "gmlp_s16_224",
        "hgnetv2_b0",
        "mixer_s32_224",
        "resmlp_12_224",
        "resnest14d",
        "skresnet18",
        "swinv2_cr_tiny_ns_224",
        "vit_tiny_patch16_224",
    ],
    "torchvision": ["convnext_tiny", "mnasnet0_5", "resnet18", "swin_t", "vit_b_16"],
}
KINDS = {
    ("SEModule", "relu", "sigmoid", False, True),
    ("SEModule", "relu", "sigmoid", True, True),
    ("SEModule", "silu", "sigmoid", False, True),
    ("SEModule", "gelu", "sigmoid", False, False),
    ("EffectiveSEModule", "identity", "hard_sigmoid", False, True),
    ("EseModule", "identity", "sigmoid", False, True),
    ("SqueezeExcite", "relu", "sigmoid", False, True),
    ("SqueezeExcite", "relu", "hard_sigmoid", False, True),
    ("SqueezeExcite", "silu", "sigmoid", False, True),
    ("SqueezeExcite", "hard_swish", "hard_sigmoid", False, True),
    ("SqueezeExcitation", "silu", "sigmoid", False, True),
    ("SqueezeExcitation", "relu", "hard_sigmoid", False, True),
    ("SqueezeExcitation", "relu", "sigmoid", False, True),
}
"""Class, activation, gate, whether there is a norm, whether there are biases: all that the networks above have."""

PLACES = {"se", "se_module", "attn", "attn_last", "5", "1"}
"""What their blocks are called where they stand."""


def every(networks: dict[str, list[str]]) -> Any:
    cases = [(package, name) for package, names in networks.items() for name in names]
    return pytest.mark.parametrize(("package", "name"), cases, ids=[" ".join(case) for case in cases])


BY_NAME = {system.name: system for system in SYSTEMS}


@cache
def network(package: str, name: str) -> Network:
    return BY_NAME[package].network(name)


@pytest.mark.framework("torch", "peers")
@every(WITH_SE)
@pytest.mark.parametrize("layout", ["auto", "its own"])
def test_every_block_of_a_network_is_found_where_it_is(package, name, layout):
    net = network(package, name)
    found = se_port.find_blocks(zeros(net.shapes), package if layout == "its own" else layout)
    assert list(found) == [block.path for block in net.blocks] != []
    for block in net.blocks:
        spec = found[block.path].spec
        hidden = None if spec.single_projection else spec.hidden
        assert (spec.channels, hidden, spec.bias) == (block.channels, block.hidden, block.bias)
        assert set(found[block.path].names.values()) == block.names
        assert bool(found[block.path].changes) == block.norm
        for choice in blocks.CHOICES:
            assert choice in found[block.path].unknown or getattr(spec, choice) == getattr(block, choice)


@pytest.mark.framework("torch", "peers")
@every(WITHOUT_SE)
def test_nothing_is_found_where_no_block_is(package, name):
    net = network(package, name)
    assert not net.blocks and len(net.shapes) > 50
    for layout in ("auto", package):
        assert find_any(zeros(net.shapes), layout) == {}


def kind_of(block) -> tuple:
    return (block.kind.rpartition(".")[2], block.activation, block.gate, block.norm, block.bias)


@pytest.mark.framework("torch", "peers")
def test_those_networks_have_every_kind_of_block_and_every_place():
    had = [block for package, names in WITH_SE.items() for name in names for block in network(package, name).blocks]
    assert {kind_of(block) for block in had} == KINDS
    assert {block.path.rpartition(".")[2] for block in had} >= PLACES


def agrees(block, answer, found: blocks.Found) -> None:
    assert answer.gate.max() - answer.gate.min() > 0.1
    assert difference(block, answer, found) < 1e-12


@pytest.mark.framework("torch", "peers")
@every(WITH_SE)
def test_gates_are_those_of_their_own_modules(package, name):
    one_of_each = {kind_of(block): block for block in network(package, name).blocks}
    for seed, block in enumerate(one_of_each.values()):
        answer = block.answer(seed)
        (found,) = se_port.find_blocks(answer.tensors).values()
        agrees(block, answer, found)
        known = {choice: getattr(block, choice) for choice in found.unknown}
        assert se_port.find_blocks(answer.tensors, **known)[block.path].unknown == ()


ALONE: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "timm.SEModule": ("timm.layers.squeeze_excite.SEModule", (24,), {"bias": False}),
    "timm.SEModule, wider inside": ("timm.layers.squeeze_excite.SEModule", (3,), {}),
    "timm.SqueezeExciteCl": ("timm.layers.squeeze_excite.SqueezeExciteCl", (24,), {}),
    "timm.SqueezeExcite": ("timm.models._efficientnet_blocks.SqueezeExcite", (24,), {}),
    "timm.EffectiveSEModule": ("timm.layers.squeeze_excite.EffectiveSEModule", (24,), {}),
    "timm.hgnet": ("timm.models.hgnet.EseModule", (24,), {}),
    "timm.legacy": ("timm.models.senet.SEModule", (24, 8), {}),
    "timm.rexnet": ("timm.models.rexnet.SEWithNorm", (24,), {}),
    "torchvision": ("torchvision.ops.SqueezeExcitation", (24, 6), {}),
}


@pytest.mark.framework("torch", "peers")
@pytest.mark.parametrize("name", ALONE)
def test_a_file_may_be_the_block_itself_in_the_layout_that_is_named(name):
    path, arguments, options = ALONE[name]
    layout = name.partition(",")[0]
    block = of_torch.read(
        import_object(path)(*arguments, **options), "", {**TIMM, **TORCHVISION}.get(path, of_torch.Kind())
    )
    answer = block.answer(5)
    found = se_port.find_blocks(answer.tensors, layout, block.activation, block.gate)
    assert list(found) == [""] and found[""].layouts == (layout,)
    agrees(block, answer, found[""])


# Keras

KERAS = {
    "EfficientNetB0": ("keras.efficientnet", "_se", 16, "silu", "sigmoid"),
    "EfficientNetV2B0": ("keras.efficientnet", "_se", 16, "silu", "sigmoid"),
    "MobileNetV3Small": ("keras.mobilenet_v3", "", 9, "relu", "hard_sigmoid"),
}


@pytest.mark.framework("keras")
@pytest.mark.parametrize("name", KERAS)
def test_blocks_of_keras_applications(tf, name):
    layout, ending, number, activation, gate = KERAS[name]
    net = network("keras", name)
    found = se_port.find_blocks(zeros(net.shapes))
    assert [set(one.names.values()) for one in found.values()] == [block.names for block in net.blocks]
    assert len(found) == number and all(path.endswith(ending) for path in found)
    assert list(se_port.find_blocks(zeros(net.shapes), layout)) == list(found)
    for one, block in zip(found.values(), net.blocks, strict=True):
        assert (one.layouts, one.unknown) == ((layout,), ())
        assert (one.spec.activation, one.spec.gate, one.spec.bias) == (activation, gate, True)
        assert (block.activation, block.gate) == (activation, gate)
    block = net.blocks[1]
    answer = block.answer(7)
    (one,) = se_port.find_blocks(answer.tensors).values()
    agrees(block, answer, one)


@pytest.mark.framework("keras")
def test_dense_layers_of_keras_that_nobody_named(tf):
    """The first tutorial's block, twice: Keras counts the layers, and both pairs stand at the root."""
    layers, x = keras.layers, keras.Input((4, 4, 24))
    inputs, pairs = x, []
    for hidden in (3, 6):
        dense = (layers.Dense(hidden, "relu", use_bias=False), layers.Dense(24, "sigmoid", use_bias=False))
        gate = layers.Reshape((1, 1, 24))(dense[1](dense[0](layers.GlobalAveragePooling2D()(x))))
        x, pairs = layers.Multiply()([x, gate]), [*pairs, dense]
    model = keras.Model(inputs, layers.Dense(10)(x))
    found = se_port.find_blocks(zeros({weight.path: tuple(weight.shape) for weight in model.weights}))
    assert list(found) == [first.name for first, _ in pairs]
    for (first, second), block in zip(pairs, found.values(), strict=True):
        assert block.names == {"reduce.weight": f"{first.name}/kernel", "expand.weight": f"{second.name}/kernel"}
        assert block.spec == SESpec(24, hidden=first.units) and block.unknown == ()
        assert set(block.layouts) == {"tutorial.SqueezeAndExcitation.keras", "titu1994"}


# Our own modules

OWN = [SESpec(24, hidden=6), SESpec(24, hidden=6, bias=True), SESpec(24, single_projection=True, bias=True)]
every_own = pytest.mark.parametrize("spec", OWN, ids=str)


def is_own(spec: SESpec, tensors: dict[str, np.ndarray], layout: str, values: dict[str, np.ndarray]) -> None:
    name = f"{layout}.single" if spec.single_projection else layout
    for asked in ("auto", layout, name):
        (block,) = se_port.find_blocks(tensors, asked).values()
        assert name in block.layouts and bits(block.parameters) == bits(values)  # Keras and Flax have the same names
    assert set(block.unknown) == ({"gate"} if spec.single_projection else {"activation", "gate"})
    assert bits(blocks.save(values, name)) == bits({at.rpartition(":")[2]: value for at, value in tensors.items()})


@pytest.mark.framework("torch")
@every_own
def test_our_block_in_pytorch(spec):
    import se_torch

    values = se_numpy.initialize(spec, seed=3)
    block = se_torch.SqueezeExcitation(spec)
    block.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    is_own(spec, {name: value.numpy() for name, value in block.state_dict().items()}, "canonical", values)


@pytest.mark.framework("keras")
@every_own
def test_our_block_in_keras(tf, spec):
    import se_keras

    values = se_numpy.initialize(spec, seed=3)
    layer = se_keras.SqueezeExcitation(spec)
    layer.build((None, 4, 4, 24))
    variables = {weight.path.partition("/")[2]: weight for weight in layer.weights}
    for path, variable in variables.items():
        variable.assign(values[path.replace("/kernel", ".weight").replace("/bias", ".bias")].T)
    is_own(spec, {path: np.asarray(variable) for path, variable in variables.items()}, "se_keras", values)


@pytest.mark.framework("flax")
@every_own
def test_our_block_in_flax(spec):
    import jax
    from flax import traverse_util

    from se_flax import linen

    values = se_numpy.initialize(spec, seed=3)
    shapes = jax.eval_shape(linen.SqueezeExcitation(spec).init, jax.random.key(0), np.ones((1, 4, 4, 24), np.float32))
    flat = traverse_util.flatten_dict(shapes["params"], sep="/")
    names = {at: at.replace("/kernel", ".weight").replace("/bias", ".bias") for at in flat}
    tensors = {at: np.ascontiguousarray(values[names[at]].T) for at in flat}
    assert {at: value.shape for at, value in tensors.items()} == {at: value.shape for at, value in flat.items()}
    is_own(spec, tensors, "se_flax", values)


# What other people's code left behind


def test_blocks_in_the_reference_of_nutszebra():
    with np.load(REFERENCES / "nutszebra-N2_r16" / "weights.model") as file:
        given = {name: file[name] for name in file.files}
    found = se_port.find_blocks(given)
    assert list(found) == [f"res_block{stage}/se_block_{unit}" for stage in (1, 2, 3) for unit in (1, 2)]
    for path, block in found.items():
        hidden, channels = given[f"{path}/f1/W"].shape
        assert (block.layouts, block.unknown) == (("chainer",), ())
        assert block.spec == SESpec(channels, hidden=hidden, bias=True)
        assert (block.parameters["expand.weight"] == given[f"{path}/f2/W"]).all()


# Names typed by hand

Shape = tuple[int, ...]

GOLDEN: dict[str, tuple[str, dict[str, Shape], tuple[int, int | None, bool]]] = {
    "canonical": (
        "stage1.block0.se",
        {
            "stage1.block0.se.reduce.weight": (16, 256),
            "stage1.block0.se.reduce.bias": (16,),
            "stage1.block0.se.expand.weight": (256, 16),
            "stage1.block0.se.expand.bias": (256,),
        },
        (256, 16, True),
    ),
    "canonical.single": ("net.se", {"net.se.expand.weight": (48, 48), "net.se.expand.bias": (48,)}, (48, None, True)),
    "se_keras": (
        "squeeze_excitation",
        {"squeeze_excitation/reduce/kernel": (64, 4), "squeeze_excitation/expand/kernel": (4, 64)},
        (64, 4, False),
    ),
    "se_keras.single": ("se", {"se/expand/kernel": (48, 48), "se/expand/bias": (48,)}, (48, None, True)),
    "se_flax": ("se", {"se/reduce/kernel": (64, 4), "se/expand/kernel": (4, 64)}, (64, 4, False)),
    "se_flax.single": ("se", {"se/expand/kernel": (48, 48), "se/expand/bias": (48,)}, (48, None, True)),
    "caffe": (
        "conv2_1",
        {
            "conv2_1_1x1_down:0": (16, 256, 1, 1),
            "conv2_1_1x1_down:1": (16,),
            "conv2_1_1x1_up:0": (256, 16, 1, 1),
            "conv2_1_1x1_up:1": (256,),
        },
        (256, 16, True),
    ),
    "shicai": (
        "conv2_1",
        {"conv2_1/sqz:0": (16, 256), "conv2_1/sqz:1": (16,), "conv2_1/exc:0": (256, 16), "conv2_1/exc:1": (256,)},
        (256, 16, True),
    ),
    "matconvnet": (
        "conv2_1",
        {
            "conv2_1_1x1_down_filter": (1, 1, 256, 16),
            "conv2_1_1x1_down_bias": (16, 1),
            "conv2_1_1x1_up_filter": (1, 1, 16, 256),
            "conv2_1_1x1_up_bias": (256, 1),
        },
        (256, 16, True),
    ),
    "tensorpack": (
        "group0/block0",
        {
            "group0/block0/fc1/W": (256, 16),
            "group0/block0/fc1/b": (16,),
            "group0/block0/fc2/W": (16, 256),
            "group0/block0/fc2/b": (256,),
        },
        (256, 16, True),
    ),
    "mxnet": (
        "arg:stage1_unit1",
        {
            "arg:stage1_unit1_excitation1_weight": (16, 256),
            "arg:stage1_unit1_excitation1_bias": (16,),
            "arg:stage1_unit1_excitation2_weight": (256, 16),
            "arg:stage1_unit1_excitation2_bias": (256,),
        },
        (256, 16, True),
    ),
    "chainer": (
        "res_block1/se_block_1",
        {
            "res_block1/se_block_1/f1/W": (16, 64),
            "res_block1/se_block_1/f1/b": (16,),
            "res_block1/se_block_1/f2/W": (64, 16),
            "res_block1/se_block_1/f2/b": (64,),
        },
        (64, 16, True),
    ),
    "chainer.Linear": ("se", {"se/fc1/W": (4, 64), "se/fc2/W": (64, 4)}, (64, 4, False)),
    "moskomule": (
        "layer1.0.se",
        {"layer1.0.se.fc.0.weight": (4, 64), "layer1.0.se.fc.2.weight": (64, 4)},
        (64, 4, False),
    ),
    "xmu": ("", {"fc.0.weight": (6, 100), "fc.2.weight": (100, 6)}, (100, 6, False)),
    "tutorial.SqueezeAndExcitation": ("", {"network.0.weight": (4, 32), "network.2.weight": (32, 4)}, (32, 4, False)),
    "tutorial.SqueezeAndExcitation.keras": (
        "",
        {"dense/kernel": (32, 4), "dense_1/kernel": (4, 32)},
        (32, 4, False),
    ),
    "tutorial.SEAttention": ("se", {"se.fc.0.weight": (64, 512), "se.fc.2.weight": (512, 64)}, (512, 64, False)),
    "tutorial.SE": ("model.2", {"model.2.l1.weight": (4, 64), "model.2.l2.weight": (64, 4)}, (64, 4, False)),
    "tutorial.SELayer": ("se", {"se.fc.0.weight": (4, 64), "se.fc.2.weight": (64, 4)}, (64, 4, False)),
    "tutorial.SEBlock": ("", {"fc1.weight": (16, 64), "fc2.weight": (64, 16)}, (64, 16, False)),
    "timm.SEModule": (
        "s1.b1.se",
        {
            "s1.b1.se.fc1.weight": (8, 24, 1, 1),
            "s1.b1.se.fc1.bias": (8,),
            "s1.b1.se.fc2.weight": (24, 8, 1, 1),
            "s1.b1.se.fc2.bias": (24,),
        },
        (24, 8, True),
    ),
    "timm.SqueezeExciteCl": (
        "attn",
        {"attn.fc1.weight": (8, 24), "attn.fc1.bias": (8,), "attn.fc2.weight": (24, 8), "attn.fc2.bias": (24,)},
        (24, 8, True),
    ),
    "timm.SqueezeExcite": (
        "blocks.0.0.se",
        {
            "blocks.0.0.se.conv_reduce.weight": (8, 32, 1, 1),
            "blocks.0.0.se.conv_reduce.bias": (8,),
            "blocks.0.0.se.conv_expand.weight": (32, 8, 1, 1),
            "blocks.0.0.se.conv_expand.bias": (32,),
        },
        (32, 8, True),
    ),
    "timm.EffectiveSEModule": (
        "stages.0.blocks.0.attn",
        {"stages.0.blocks.0.attn.fc.weight": (112, 112, 1, 1), "stages.0.blocks.0.attn.fc.bias": (112,)},
        (112, None, True),
    ),
    "timm.hgnet": (
        "stages.0.blocks.0.aggregation.1",
        {
            "stages.0.blocks.0.aggregation.1.conv.weight": (224, 224, 1, 1),
            "stages.0.blocks.0.aggregation.1.conv.bias": (224,),
        },
        (224, None, True),
    ),
    "timm.legacy": (
        "layer1.0.se_module",
        {
            "layer1.0.se_module.fc1.weight": (16, 256, 1, 1),
            "layer1.0.se_module.fc1.bias": (16,),
            "layer1.0.se_module.fc2.weight": (256, 16, 1, 1),
            "layer1.0.se_module.fc2.bias": (256,),
        },
        (256, 16, True),
    ),
    "timm.rexnet": (
        "features.3.se",
        {
            "features.3.se.fc1.weight": (19, 228, 1, 1),
            "features.3.se.fc1.bias": (19,),
            "features.3.se.bn.weight": (19,),
            "features.3.se.bn.bias": (19,),
            "features.3.se.bn.running_mean": (19,),
            "features.3.se.bn.running_var": (19,),
            "features.3.se.bn.num_batches_tracked": (),
            "features.3.se.fc2.weight": (228, 19, 1, 1),
            "features.3.se.fc2.bias": (228,),
        },
        (228, 19, True),
    ),
    "cadene": (
        "layer4.2.se_module",
        {
            "layer4.2.se_module.fc1.weight": (128, 2048, 1, 1),
            "layer4.2.se_module.fc1.bias": (128,),
            "layer4.2.se_module.fc2.weight": (2048, 128, 1, 1),
            "layer4.2.se_module.fc2.bias": (2048,),
        },
        (2048, 128, True),
    ),
    "torchvision": (
        "features.1.block.1",
        {
            "features.1.block.1.fc1.weight": (8, 16, 1, 1),
            "features.1.block.1.fc1.bias": (8,),
            "features.1.block.1.fc2.weight": (16, 8, 1, 1),
            "features.1.block.1.fc2.bias": (16,),
        },
        (16, 8, True),
    ),
    "efficientnet_pytorch": (
        "_blocks.1",
        {
            "_blocks.1._se_reduce.weight": (4, 96, 1, 1),
            "_blocks.1._se_reduce.bias": (4,),
            "_blocks.1._se_expand.weight": (96, 4, 1, 1),
            "_blocks.1._se_expand.bias": (96,),
        },
        (96, 4, True),
    ),
    "pycls": (
        "s1.b1.f.se",
        {
            "s1.b1.f.se.f_ex.0.weight": (8, 24, 1, 1),
            "s1.b1.f.se.f_ex.0.bias": (8,),
            "s1.b1.f.se.f_ex.2.weight": (24, 8, 1, 1),
            "s1.b1.f.se.f_ex.2.bias": (24,),
        },
        (24, 8, True),
    ),
    "monai": (
        "layer1.0.se_layer",
        {
            "layer1.0.se_layer.fc.0.weight": (16, 256),
            "layer1.0.se_layer.fc.0.bias": (16,),
            "layer1.0.se_layer.fc.2.weight": (256, 16),
            "layer1.0.se_layer.fc.2.bias": (256,),
        },
        (256, 16, True),
    ),
    "mmpretrain": (
        "backbone.layer1.0.se_layer",
        {
            "backbone.layer1.0.se_layer.conv1.conv.weight": (16, 256, 1, 1),
            "backbone.layer1.0.se_layer.conv1.conv.bias": (16,),
            "backbone.layer1.0.se_layer.conv2.conv.weight": (256, 16, 1, 1),
            "backbone.layer1.0.se_layer.conv2.conv.bias": (256,),
        },
        (256, 16, True),
    ),
    "pytorchcv": (
        "features.stage1.unit1.se",
        {
            "features.stage1.unit1.se.conv1.weight": (4, 64, 1, 1),
            "features.stage1.unit1.se.conv1.bias": (4,),
            "features.stage1.unit1.se.conv2.weight": (64, 4, 1, 1),
            "features.stage1.unit1.se.conv2.bias": (64,),
        },
        (64, 4, True),
    ),
    "pytorchcv.Linear": (
        "features.stage1.unit1.se",
        {
            "features.stage1.unit1.se.fc1.weight": (4, 64),
            "features.stage1.unit1.se.fc1.bias": (4,),
            "features.stage1.unit1.se.fc2.weight": (64, 4),
            "features.stage1.unit1.se.fc2.bias": (64,),
        },
        (64, 4, True),
    ),
    "hf.efficientnet": (
        "efficientnet.encoder.blocks.0.squeeze_excite",
        {
            "efficientnet.encoder.blocks.0.squeeze_excite.reduce.weight": (8, 32, 1, 1),
            "efficientnet.encoder.blocks.0.squeeze_excite.reduce.bias": (8,),
            "efficientnet.encoder.blocks.0.squeeze_excite.expand.weight": (32, 8, 1, 1),
            "efficientnet.encoder.blocks.0.squeeze_excite.expand.bias": (32,),
        },
        (32, 8, True),
    ),
    "hf.regnet": (
        "regnet.encoder.stages.0.layers.0.layer.2.attention",
        {
            "regnet.encoder.stages.0.layers.0.layer.2.attention.0.weight": (8, 48, 1, 1),
            "regnet.encoder.stages.0.layers.0.layer.2.attention.0.bias": (8,),
            "regnet.encoder.stages.0.layers.0.layer.2.attention.2.weight": (48, 8, 1, 1),
            "regnet.encoder.stages.0.layers.0.layer.2.attention.2.bias": (48,),
        },
        (48, 8, True),
    ),
    "hf.qwen2_5_omni": (
        "token2wav.blocks.1.se_block",
        {
            "token2wav.blocks.1.se_block.conv1.weight": (64, 256, 1),
            "token2wav.blocks.1.se_block.conv1.bias": (64,),
            "token2wav.blocks.1.se_block.conv2.weight": (256, 64, 1),
            "token2wav.blocks.1.se_block.conv2.bias": (256,),
        },
        (256, 64, True),
    ),
    "smp.cSE": (
        "decoder.blocks.0.attention1.attention.cSE",
        {
            "decoder.blocks.0.attention1.attention.cSE.1.weight": (16, 256, 1, 1),
            "decoder.blocks.0.attention1.attention.cSE.1.bias": (16,),
            "decoder.blocks.0.attention1.attention.cSE.3.weight": (256, 16, 1, 1),
            "decoder.blocks.0.attention1.attention.cSE.3.bias": (256,),
            "decoder.blocks.0.attention1.attention.sSE.0.weight": (1, 256, 1, 1),
            "decoder.blocks.0.attention1.attention.sSE.0.bias": (1,),
        },
        (256, 16, True),
    ),
    "smp.mobileone": (
        "stage2.3.se",
        {
            "stage2.3.se.reduce.weight": (16, 256, 1, 1),
            "stage2.3.se.reduce.bias": (16,),
            "stage2.3.se.expand.weight": (256, 16, 1, 1),
            "stage2.3.se.expand.bias": (256,),
        },
        (256, 16, True),
    ),
    "speechbrain.ecapa": (
        "blocks.1.se_block",
        {
            "blocks.1.se_block.conv1.conv.weight": (128, 1024, 1),
            "blocks.1.se_block.conv1.conv.bias": (128,),
            "blocks.1.se_block.conv2.conv.weight": (1024, 128, 1),
            "blocks.1.se_block.conv2.conv.bias": (1024,),
        },
        (1024, 128, True),
    ),
    "deepvision": (
        "blocks.3",
        {
            "blocks.3.se_conv1.weight": (6, 144, 1, 1),
            "blocks.3.se_conv1.bias": (6,),
            "blocks.3.se_conv2.weight": (144, 6, 1, 1),
            "blocks.3.se_conv2.bias": (144,),
        },
        (144, 6, True),
    ),
    "keras.efficientnet": (
        "block1a_se",
        {
            "block1a_se_reduce/kernel": (1, 1, 32, 8),
            "block1a_se_reduce/bias": (8,),
            "block1a_se_expand/kernel": (1, 1, 8, 32),
            "block1a_se_expand/bias": (32,),
        },
        (32, 8, True),
    ),
    "keras.mobilenet_v3": (
        "expanded_conv",
        {
            "expanded_conv_squeeze_excite_conv/kernel": (1, 1, 16, 8),
            "expanded_conv_squeeze_excite_conv/bias": (8,),
            "expanded_conv_squeeze_excite_conv_1/kernel": (1, 1, 8, 16),
            "expanded_conv_squeeze_excite_conv_1/bias": (16,),
        },
        (16, 8, True),
    ),
    "keras_cv": (
        "squeeze_and_excite2d",
        {
            "squeeze_and_excite2d/conv2d_4/kernel": (1, 1, 64, 16),
            "squeeze_and_excite2d/conv2d_4/bias": (16,),
            "squeeze_and_excite2d/conv2d_5/kernel": (1, 1, 16, 64),
            "squeeze_and_excite2d/conv2d_5/bias": (64,),
        },
        (64, 16, True),
    ),
    "keras_hub": (
        "se/se",
        {
            "se/se_conv_reduce/kernel": (1, 1, 64, 16),
            "se/se_conv_reduce/bias": (16,),
            "se/se_conv_expand/kernel": (1, 1, 16, 64),
            "se/se_conv_expand/bias": (64,),
        },
        (64, 16, True),
    ),
    "kecam.Conv": (
        "stack1_block1_se",
        {
            "stack1_block1_se_1_conv/kernel": (1, 1, 32, 8),
            "stack1_block1_se_1_conv/bias": (8,),
            "stack1_block1_se_2_conv/kernel": (1, 1, 8, 32),
            "stack1_block1_se_2_conv/bias": (32,),
        },
        (32, 8, True),
    ),
    "kecam.Dense": (
        "stem_down_extract_se",
        {
            "stem_down_extract_se_1_dense/kernel": (64, 16),
            "stem_down_extract_se_2_dense/kernel": (16, 64),
        },
        (64, 16, False),
    ),
    "kecam.MaxViT": (
        "stack_1_block_1/mbconv/se",
        {
            "stack_1_block_1/mbconv/se/1_conv/kernel": (1, 1, 256, 16),
            "stack_1_block_1/mbconv/se/1_conv/bias": (16,),
            "stack_1_block_1/mbconv/se/2_conv/kernel": (1, 1, 16, 256),
            "stack_1_block_1/mbconv/se/2_conv/bias": (256,),
        },
        (256, 16, True),
    ),
    "titu1994": ("", {"dense_14/kernel": (512, 32), "dense_15/kernel": (32, 512)}, (512, 32, False)),
    "qubvel": (
        "",
        {
            "conv2d_1/kernel": (1, 1, 256, 16),
            "conv2d_1/bias": (16,),
            "conv2d_2/kernel": (1, 1, 16, 256),
            "conv2d_2/bias": (256,),
        },
        (256, 16, True),
    ),
    "automl": (
        "efficientnetv2-b0/blocks_6/se",
        {
            "efficientnetv2-b0/blocks_6/se/conv2d/kernel": (1, 1, 192, 12),
            "efficientnetv2-b0/blocks_6/se/conv2d/bias": (12,),
            "efficientnetv2-b0/blocks_6/se/conv2d_1/kernel": (1, 1, 12, 192),
            "efficientnetv2-b0/blocks_6/se/conv2d_1/bias": (192,),
        },
        (192, 12, True),
    ),
    "tf_slim": (
        "MobilenetV3/expanded_conv_3/squeeze_excite",
        {
            "MobilenetV3/expanded_conv_3/squeeze_excite/Conv/weights": (1, 1, 72, 24),
            "MobilenetV3/expanded_conv_3/squeeze_excite/Conv/biases": (24,),
            "MobilenetV3/expanded_conv_3/squeeze_excite/Conv_1/weights": (1, 1, 24, 72),
            "MobilenetV3/expanded_conv_3/squeeze_excite/Conv_1/biases": (72,),
        },
        (72, 24, True),
    ),
    "efficientnet_jax": (
        "blocks_0_0/se",
        {
            "blocks_0_0/se/reduce/kernel": (1, 1, 32, 8),
            "blocks_0_0/se/reduce/bias": (8,),
            "blocks_0_0/se/expand/kernel": (1, 1, 8, 32),
            "blocks_0_0/se/expand/bias": (32,),
        },
        (32, 8, True),
    ),
    "scenic": (
        "SqueezeAndExcite_0",
        {
            "SqueezeAndExcite_0/Dense_0/kernel": (64, 16),
            "SqueezeAndExcite_0/Dense_0/bias": (16,),
            "SqueezeAndExcite_0/Dense_1/kernel": (16, 64),
            "SqueezeAndExcite_0/Dense_1/bias": (64,),
        },
        (64, 16, True),
    ),
    "hf.flax_regnet": (
        "regnet/encoder/stages/0/layers/0/layer/2/attention",
        {
            "regnet/encoder/stages/0/layers/0/layer/2/attention/0/kernel": (1, 1, 48, 8),
            "regnet/encoder/stages/0/layers/0/layer/2/attention/0/bias": (8,),
            "regnet/encoder/stages/0/layers/0/layer/2/attention/2/kernel": (1, 1, 8, 48),
            "regnet/encoder/stages/0/layers/0/layer/2/attention/2/bias": (48,),
        },
        (48, 8, True),
    ),
    "nfnets": (
        "nf_net/~/nf_block/~",
        {
            "nf_net/~/nf_block/~/squeeze_excite/~/linear/w": (256, 128),
            "nf_net/~/nf_block/~/squeeze_excite/~/linear/b": (128,),
            "nf_net/~/nf_block/~/squeeze_excite/~/linear_1/w": (128, 256),
            "nf_net/~/nf_block/~/squeeze_excite/~/linear_1/b": (256,),
        },
        (256, 128, True),
    ),
    "eqxvision": (
        "features.1.block.1",
        {
            "features.1.block.1.fc1.weight": (8, 16, 1, 1),
            "features.1.block.1.fc1.bias": (8, 1, 1),
            "features.1.block.1.fc2.weight": (16, 8, 1, 1),
            "features.1.block.1.fc2.bias": (16, 1, 1),
        },
        (16, 8, True),
    ),
    "paddleclas.conv": (
        "blocks5.0.se",
        {
            "blocks5.0.se.conv1.weight": (64, 256, 1, 1),
            "blocks5.0.se.conv1.bias": (64,),
            "blocks5.0.se.conv2.weight": (256, 64, 1, 1),
            "blocks5.0.se.conv2.bias": (256,),
        },
        (256, 64, True),
    ),
    "paddleclas.linear": (
        "block_list.0.scale",
        {
            "block_list.0.scale.squeeze.weight": (256, 16),
            "block_list.0.scale.squeeze.bias": (16,),
            "block_list.0.scale.excitation.weight": (16, 256),
            "block_list.0.scale.excitation.bias": (256,),
        },
        (256, 16, True),
    ),
    "paddleclas.adaface": (
        "body.0.res_layer.se_block",
        {
            "body.0.res_layer.se_block.fc1.weight": (4, 64, 1, 1),
            "body.0.res_layer.se_block.fc2.weight": (64, 4, 1, 1),
        },
        (64, 4, False),
    ),
}


def test_every_layout_has_names_typed_by_hand():
    assert list(GOLDEN) == list(BLOCK_LAYOUTS)


@pytest.mark.parametrize("name", GOLDEN)
def test_names_typed_by_hand(name):
    path, shapes, (channels, hidden, bias) = GOLDEN[name]
    for layout in ("auto", name):
        found = se_port.find_blocks(zeros(shapes), layout)
        assert list(found) == [path]
        spec = found[path].spec
        assert (spec.channels, None if spec.single_projection else spec.hidden) == (channels, hidden)
        assert spec.bias == bias
        assert name in found[path].layouts


TOLD = {
    "caffe": ("caffe",),
    "timm.legacy": ("timm.legacy", "cadene"),
    "timm.rexnet": ("timm.rexnet",),
    "timm.hgnet": ("timm.hgnet",),
    "moskomule": ("moskomule", "xmu", "tutorial.SEAttention", "tutorial.SELayer"),
    "tutorial.SqueezeAndExcitation": ("tutorial.SqueezeAndExcitation",),
    "tutorial.SqueezeAndExcitation.keras": ("tutorial.SqueezeAndExcitation.keras", "titu1994"),
    "tutorial.SE": ("tutorial.SE",),
    "hf.regnet": ("hf.regnet",),
    "smp.mobileone": ("smp.mobileone",),
    "keras.efficientnet": ("keras.efficientnet",),
    "keras.mobilenet_v3": ("keras.mobilenet_v3",),
    "automl": ("automl",),
    "paddleclas.adaface": ("paddleclas.adaface",),
}
"""Where the names, or the place, tell activation and gate: all layouts that say the same."""


@pytest.mark.parametrize("name", TOLD)
def test_names_that_tell_activation_and_gate(name):
    (block,) = se_port.find_blocks(zeros(GOLDEN[name][1])).values()
    assert (block.layouts, block.unknown) == (TOLD[name], ())


@pytest.mark.parametrize(
    "name", ["tutorial.SEBlock", "timm.SEModule", "torchvision", "keras_cv", "keras_hub", "kecam.Conv"]
)
def test_names_that_tell_neither_activation_nor_gate(name):
    (block,) = se_port.find_blocks(zeros(GOLDEN[name][1])).values()
    assert block.unknown == ("activation", "gate")
    (block,) = se_port.find_blocks(zeros(GOLDEN[name][1]), gate="tanh").values()
    assert (block.unknown, block.spec.gate) == (("activation",), "tanh")


@pytest.mark.parametrize(
    "shapes",
    [
        {"se.conv_reduce.weight": (8, 3, 1, 1), "se.conv_reduce.bias": (8,)}
        | {"se.conv_expand.weight": (3, 8, 1, 1), "se.conv_expand.bias": (3,)},
        {"a_se_reduce/kernel": (1, 1, 3, 8), "a_se_reduce/bias": (8,)}
        | {"a_se_expand/kernel": (1, 1, 8, 3), "a_se_expand/bias": (3,)},
    ],
    ids=["timm", "Keras"],
)
def test_names_that_say_enough_for_a_block_that_is_wider_inside(shapes):
    (block,) = se_port.find_blocks(zeros(shapes)).values()
    assert (block.spec.channels, block.spec.hidden) == (3, 8)


def test_blocks_stand_in_the_order_of_the_file():
    order = ["block2_se", "block10_se", "block1_se"]
    tensors = {}
    for path in order:
        tensors |= zeros({f"{path}_expand/kernel": (1, 1, 2, 8), f"{path}_expand/bias": (8,)})
    for path in reversed(order):
        tensors |= zeros({f"{path}_reduce/bias": (2,), f"{path}_reduce/kernel": (1, 1, 8, 2)})
    assert list(se_port.find_blocks(tensors)) == order


# Every layout, there and back

PATHS = {
    ".": "net.stage1.block0",
    "/": "net/stage1/block0",
    "_": "net_stage1_block0",
}
HELD = [
    (name, bias)
    for name, row in BLOCK_LAYOUTS.items()
    for bias in (False, True)
    if row.optional or bias == bool(row.bias)
]
"""Every layout with the biases that it can hold."""
LAYOUTS = [pytest.param(name, bias, id=f"{name}, {'biases' if bias else 'no biases'}") for name, bias in HELD]
every_layout = pytest.mark.parametrize(("name", "bias"), LAYOUTS)


def a_path(row: BlockLayout) -> str:
    path = PATHS[row.separator]
    return f"{path}{row.separator}{row.at[0]}" if row.at else path


def a_spec(row: BlockLayout, bias: bool, channels: int = 12, hidden: int = 3) -> SESpec:
    width: dict[str, Any] = {"single_projection": True} if row.reduce is None else {"hidden": hidden}
    return SESpec(channels, bias=bias, **width)


def is_the_block(found: dict[str, blocks.Found], path: str, spec: SESpec, values: dict[str, np.ndarray]) -> None:
    assert list(found) == [path]
    block = found[path]
    assert (block.spec.channels, block.spec.single_projection) == (spec.channels, spec.single_projection)
    assert (block.spec.hidden, block.spec.bias) == (spec.hidden, spec.bias)
    assert list(block.parameters) == list(values)
    assert bits(block.parameters) == bits(values)


@every_layout
@pytest.mark.parametrize("bare", [False, True], ids=["at a path", "a file of its own"])
def test_what_a_layout_saves_it_finds(name, bias, bare):
    row = BLOCK_LAYOUTS[name]
    path, spec = "" if bare else a_path(row), a_spec(row, bias)
    values = se_numpy.initialize(spec, seed=1)
    tensors = blocks.save(values, name, path)
    kept = {at: value.copy() for at, value in tensors.items()}
    found = se_port.find_blocks(tensors, name)
    is_the_block(found, path, spec, values)
    assert found[path].layouts == (name,)
    assert bits(tensors) == bits(kept)
    norm = {at for at in tensors if row.norm and f".{row.norm[0]}." in f".{at}"}
    assert set(found[path].names.values()) == tensors.keys() - norm
    assert bool(found[path].changes) == bool(norm) == (row.norm is not None)
    given = {"activation": "identity" if row.reduce is None else row.activation, "gate": row.gate}
    assert found[path].unknown == tuple(choice for choice in blocks.CHOICES if given[choice] == UNKNOWN)
    for choice, value in given.items():
        assert value == UNKNOWN or getattr(found[path].spec, choice) == value
    assert found[path].spec.gain == row.gain


@every_layout
def test_what_a_layout_saves_is_found_by_itself(name, bias):
    """Other layouts may have the same names; then they are named too, and only what all of them say is known."""
    row = BLOCK_LAYOUTS[name]
    path, spec = a_path(row), a_spec(row, bias)
    values = se_numpy.initialize(spec, seed=1)
    found = se_port.find_blocks(blocks.save(values, name, path))
    is_the_block(found, path, spec, values)
    block = found[path]
    assert name in block.layouts
    rows = [BLOCK_LAYOUTS[one] for one in block.layouts]
    for choice in blocks.CHOICES:
        told = {getattr(one, choice) for one in rows}
        if choice == "activation" and row.reduce is None:
            told = {"identity"}
        assert (choice in block.unknown) == (told == {UNKNOWN} or len(told) > 1)
        assert choice in block.unknown or {getattr(block.spec, choice)} == told


@every_layout
def test_a_square_block_is_found_or_both_ways_are_named(name, bias):
    """As wide inside as outside: nothing but the layout says which axis is which."""
    row = BLOCK_LAYOUTS[name]
    path, spec = a_path(row), a_spec(row, bias, channels=5, hidden=5)
    values = se_numpy.initialize(spec, seed=1)
    tensors = blocks.save(values, name, path)
    is_the_block(se_port.find_blocks(tensors, name), path, spec, values)
    if bias and name in ("tensorpack", "chainer.Linear"):
        text = refused(tensors)
        assert "two ways" in text and "tensorpack" in text and "chainer.Linear" in text
    else:
        is_the_block(se_port.find_blocks(tensors), path, spec, values)


@pytest.mark.parametrize(("name", "bias"), [one for one in LAYOUTS if BLOCK_LAYOUTS[one.values[0]].reduce is not None])
def test_a_block_that_is_wider_inside(name, bias):
    """Under names that any perceptron has it is no block, unless the file is the block and the layout is named."""
    row = BLOCK_LAYOUTS[name]
    path, spec = a_path(row), a_spec(row, bias, channels=3, hidden=8)
    values = se_numpy.initialize(spec, seed=1)
    tensors = blocks.save(values, name, path)
    if row.narrow:
        assert path not in find_any(tensors, name)
    else:
        is_the_block(se_port.find_blocks(tensors, name), path, spec, values)
    is_the_block(se_port.find_blocks(blocks.save(values, name), name), "", spec, values)


@pytest.mark.parametrize("name", [name for name, row in BLOCK_LAYOUTS.items() if "{_k" in row.expand])
def test_layers_that_are_counted(name):
    row = BLOCK_LAYOUTS[name]
    spec = a_spec(row, bool(row.bias))
    values = [se_numpy.initialize(spec, seed) for seed in (1, 2, 3)]
    for path in ("", "net/part"):
        tensors = {}
        for number, one in zip((0, 2, 14), values, strict=True):
            tensors |= blocks.save(one, name, path, number)
        found = se_port.find_blocks(tensors, name)
        layer, before = row.reduce.removesuffix("{_k}"), f"{path}/" if path else ""
        assert list(found) == [f"{before}{layer}{number}" for number in ("", "_2", "_14")]
        for one, block in zip(values, found.values(), strict=True):
            assert bits(block.parameters) == bits(one)
        (alone,) = se_port.find_blocks(blocks.save(values[0], name, path, 7), name)
        assert alone == path


ODD = {
    "float16": np.array([0x7E01, 0xFE55, 0x8000, 0x0001, 0x7C00, 0x83FF], np.uint16).view(np.float16),
    "bfloat16": np.array([0x7FC1, 0xFFD5, 0x8000, 0x0001, 0x7F80, 0x807F], np.uint16).view(ml_dtypes.bfloat16),
    "float32": np.array([0x7FC12345, 0xFFC00001, 1 << 31, 1, 0x7F800000, 0x807FFFFF], np.uint32).view(np.float32),
    "float64": np.array([0x7FF8000000012345, 1 << 63, 1, 0x7FF0000000000000, (1 << 63) + 1], np.uint64).view(
        np.float64
    ),
}
"""NaNs with something in them, negative zero, the smallest number, infinity, and the largest subnormal, negative."""


def odd_values(spec: SESpec, dtype: str, *rows: BlockLayout) -> dict[str, np.ndarray]:
    """Parameters that begin with those, unless a layout computes, as folding does."""
    values = se_numpy.initialize(spec, seed=1, dtype=dtype)
    if all(row.norm is None for row in rows):
        for value in values.values():
            value.ravel()[: len(ODD[dtype])] = ODD[dtype][: value.size]
    return values


@pytest.mark.parametrize("dtype", ODD)
@every_layout
def test_every_bit_comes_through(name, bias, dtype):
    row = BLOCK_LAYOUTS[name]
    spec, path = a_spec(row, bias), a_path(row)
    values = odd_values(spec, dtype, row)
    tensors = blocks.save(values, name, path)
    assert {str(value.dtype) for value in tensors.values()} == {dtype}
    (block,) = se_port.find_blocks(tensors, name).values()
    assert bits(block.parameters) == bits(values)
    assert bits(blocks.save(block.parameters, name, path)) == bits(tensors)


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
@pytest.mark.parametrize("single", [False, True], ids=["two projections", "one projection"])
def test_every_bit_comes_through_any_two_layouts(single, bias):
    """There, on to the other and back; of thousands of pairs each has one dtype, but each layout meets all of them."""
    rows = {name: BLOCK_LAYOUTS[name] for name, biased in HELD if biased == bias}
    rows = {name: row for name, row in rows.items() if (row.reduce is None) == single}
    assert len(rows) >= 3
    asked = [
        (first, second, dtype)
        for (i, first), (j, second), (k, dtype) in product(enumerate(rows), enumerate(rows), enumerate(ODD))
        if len(rows) < 10 or (i + j) % len(ODD) == k
    ]
    assert {one[:2] for one in asked} == set(product(rows, rows))
    assert {one[::2] for one in asked} == {one[1:] for one in asked} == set(product(rows, ODD))
    for first, second, dtype in asked:
        one, other = BLOCK_LAYOUTS[first], BLOCK_LAYOUTS[second]
        given = blocks.save(odd_values(a_spec(one, bias), dtype, one, other), first, a_path(one))
        (there,) = se_port.find_blocks(given, first).values()
        (back,) = se_port.find_blocks(blocks.save(there.parameters, second, a_path(other)), second).values()
        assert bits(blocks.save(back.parameters, first, a_path(one))) == bits(given), (first, second, dtype)


@pytest.mark.framework("torch")
@pytest.mark.parametrize("dtype", ODD)
def test_every_bit_of_a_tensor_of_pytorch_comes_through(dtype):
    values = se_numpy.initialize(SESpec(12, hidden=3, bias=True), seed=1, dtype=dtype)
    for value in values.values():
        value.ravel()[: len(ODD[dtype])] = ODD[dtype][: value.size]
    width = np.dtype(dtype).itemsize
    tensors = {
        name: torch.nn.Parameter(
            torch.from_numpy(value.view(f"int{8 * width}").copy()).view(getattr(torch, dtype)), requires_grad=True
        )
        for name, value in blocks.save(values, "timm.SqueezeExcite", "se").items()
    }
    (block,) = se_port.find_blocks(tensors).values()
    assert bits(block.parameters) == bits(values)


def test_batch_norm_between_the_projections_is_folded():
    """By hand: scale 3, offset 1, mean 2 and variance 4 (with epsilon) make 1.5 W z + 1.5 (b - 2) + 1."""
    tensors = {
        "se.fc1.weight": np.array([[2.0, 4.0]]).reshape(1, 2, 1, 1),
        "se.fc1.bias": np.array([6.0]),
        "se.bn.weight": np.array([3.0]),
        "se.bn.bias": np.array([1.0]),
        "se.bn.running_mean": np.array([2.0]),
        "se.bn.running_var": np.array([4.0 - 1e-5]),
        "se.bn.num_batches_tracked": np.array(7),
        "se.fc2.weight": np.array([[1.0], [-1.0]]).reshape(2, 1, 1, 1),
        "se.fc2.bias": np.array([0.0, 5.0]),
    }
    (block,) = se_port.find_blocks(tensors).values()
    assert (block.layouts, block.unknown, block.changes) == (
        ("timm.rexnet",),
        (),
        ("batch norm folded into the first projection",),
    )
    np.testing.assert_allclose(block.parameters["reduce.weight"], [[3.0, 6.0]], rtol=1e-15)
    np.testing.assert_allclose(block.parameters["reduce.bias"], [7.0], rtol=1e-15)
    assert block.parameters["expand.weight"].tolist() == [[1.0], [-1.0]]
    assert block.parameters["expand.bias"].tolist() == [0.0, 5.0]


# What is refused


def refused(tensors, layout: str = "auto") -> str:
    with pytest.raises(LayoutError) as caught:
        se_port.find_blocks(tensors, layout)
    return str(caught.value)


def test_no_block():
    assert "no SE block of any layout in these 1 tensors" in refused(zeros({"conv.weight": (8, 4, 3, 3)}))
    assert "no SE block of layout 'caffe' in these 0 tensors" in refused({}, "caffe")
    assert "no SE block of layout 'timm'" in refused(zeros(GOLDEN["caffe"][1]), "timm")


def test_a_layout_that_is_not_known():
    text = refused(zeros(GOLDEN["caffe"][1]), "coffee")
    assert "layout 'coffee' is not known" in text and "caffe" in text and "timm.SEModule" in text
    with pytest.raises(LayoutError, match=r"layout 'coffee' is not a block's; expected one of canonical, "):
        blocks.save(se_numpy.initialize(SESpec(8, hidden=2), seed=0), "coffee")


def test_two_ways_to_read_a_square_block():
    """Tensorpack keeps (in, out), Chainer (out, in), and both say ``fc1/W``."""
    random = np.random.default_rng(0)
    tensors = {
        f"x/fc{n}/{leaf}": random.normal(size=shape) for n in (1, 2) for leaf, shape in (("W", (6, 6)), ("b", 6))
    }
    text = refused(tensors)
    assert "x can be read in two ways" in text and "tensorpack" in text and "chainer.Linear" in text
    assert "layout=" in text
    for layout, of in (("tensorpack", np.transpose), ("chainer.Linear", np.asarray)):
        (block,) = se_port.find_blocks(tensors, layout).values()
        assert (block.parameters["reduce.weight"] == of(tensors["x/fc1/W"])).all()
        assert (block.parameters["expand.weight"] == of(tensors["x/fc2/W"])).all()


def test_blocks_that_share_a_layer():
    text = refused(zeros({"dense/kernel": (8, 8), "dense_1/kernel": (8, 8), "dense_2/kernel": (8, 8)}))
    assert "dense_1/kernel can be of two blocks, that of dense and that of dense_1" in text


@pytest.mark.parametrize(
    "name", [name for name, row in BLOCK_LAYOUTS.items() if row.bias and row.reduce is not None and not row.norm]
)
@pytest.mark.parametrize("missing", ["reduce.bias", "expand.bias"])
def test_a_bias_of_one_projection_only(name, missing):
    row = BLOCK_LAYOUTS[name]
    tensors = blocks.save(se_numpy.initialize(a_spec(row, True), seed=0), name, a_path(row))
    (block,) = se_port.find_blocks(tensors, name).values()
    del tensors[block.names[missing]]
    assert find_any(tensors, name) == {}


@pytest.mark.parametrize("name", [name for name, row in BLOCK_LAYOUTS.items() if row.reduce is not None])
def test_a_projection_alone(name):
    row = BLOCK_LAYOUTS[name]
    tensors = blocks.save(se_numpy.initialize(a_spec(row, bool(row.bias)), seed=0), name, a_path(row))
    (block,) = se_port.find_blocks(tensors, name).values()
    for weight in ("reduce.weight", "expand.weight"):
        rest = {at: value for at, value in tensors.items() if at != block.names[weight]}
        assert find_any(rest) == {}


@every_layout
def test_shapes_that_do_not_fit(name, bias):
    row = BLOCK_LAYOUTS[name]
    tensors = blocks.save(se_numpy.initialize(a_spec(row, bias), seed=0), name, a_path(row))
    (block,) = se_port.find_blocks(tensors, name).values()
    for at in block.names.values():
        shape = tensors[at].shape
        for wrong in ((*shape, 1), shape[1:], (shape[0] + 1, *shape[1:]), (0, *shape[1:])):
            assert find_any(tensors | zeros({at: wrong}), name) == {}, (at, wrong)


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool", "complex64", "float8_e4m3fn"])
def test_numbers_that_are_no_floats_of_the_spec(dtype):
    tensors = zeros(GOLDEN["torchvision"][1])
    tensors["features.1.block.1.fc2.bias"] = np.zeros(16, dtype=getattr(ml_dtypes, dtype, dtype))
    text = refused(tensors)
    assert f"features.1.block.1.fc2.bias has dtype {dtype}, expected one of float16, bfloat16" in text


PERCEPTRONS = {
    "ViT of timm": {
        "blocks.0.mlp.fc1.weight": (768, 192),
        "blocks.0.mlp.fc1.bias": (768,),
        "blocks.0.mlp.fc2.weight": (192, 768),
        "blocks.0.mlp.fc2.bias": (192,),
    },
    "convolutions": {"mlp.fc1.weight": (64, 16, 1, 1), "mlp.fc2.weight": (16, 64, 1, 1)},
    "Sequential": {"ffn.fc.0.weight": (64, 16), "ffn.fc.2.weight": (16, 64)},
    "scenic": {
        "MlpBlock_0/Dense_0/kernel": (192, 768),
        "MlpBlock_0/Dense_0/bias": (768,),
        "MlpBlock_0/Dense_1/kernel": (768, 192),
        "MlpBlock_0/Dense_1/bias": (192,),
    },
    "Keras": {"dense/kernel": (16, 64), "dense_1/kernel": (64, 16)},
    "nothing inside": {"se.fc1.weight": (0, 8, 1, 1), "se.fc2.weight": (8, 0, 1, 1)},
    "CBAM of pytorchcv": {
        "cbam.ch_gate.mlp.fc1.weight": (4, 64),
        "cbam.ch_gate.mlp.fc1.bias": (4,),
        "cbam.ch_gate.mlp.fc2.weight": (64, 4),
        "cbam.ch_gate.mlp.fc2.bias": (64,),
    },
    "channel mixer of kecam": {
        "stack1_block1_channel_mixer_1_conv/kernel": (1, 1, 48, 96),
        "stack1_block1_channel_mixer_2_conv/kernel": (1, 1, 96, 48),
    },
    "projection head of mmpretrain": {
        "neck.fc1.weight": (64, 64),
        "neck.bn1.weight": (64,),
        "neck.bn1.running_mean": (64,),
        "neck.fc2.weight": (64, 64),
    },
    "PReLU of pytorchcv's SINet": {
        "down_conv.se.fc1.weight": (42, 84),
        "down_conv.se.fc1.bias": (42,),
        "down_conv.se.activ.weight": (42,),
        "down_conv.se.fc2.weight": (84, 42),
        "down_conv.se.fc2.bias": (84,),
        "down_conv.se.sigmoid.weight": (84,),
    },
    "another way out": {"head.fc1.weight": (32, 64), "head.fc2.weight": (10, 32)},
    "with a norm between": {
        "attn.mlp_add.fc1.weight": (8, 64, 1, 1),
        "attn.mlp_add.fc1.bias": (8,),
        "attn.mlp_add.norm.weight": (8,),
        "attn.mlp_add.norm.bias": (8,),
        "attn.mlp_add.fc2.weight": (64, 8, 1, 1),
        "attn.mlp_add.fc2.bias": (64,),
    },
    "with statistics between": {
        "fc1.weight": (8, 64, 1, 1),
        "bn.running_mean": (8,),
        "bn.running_var": (8,),
        "fc2.weight": (64, 8, 1, 1),
    },
}


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_a_perceptron_is_no_block(name):
    assert find_any(zeros(PERCEPTRONS[name])) == {}


@pytest.mark.parametrize("leaf", ["weight", "bias", "running_mean", "running_var"])
def test_half_a_batch_norm_is_not_folded(leaf):
    shapes = {at: shape for at, shape in GOLDEN["timm.rexnet"][1].items() if at != f"features.3.se.bn.{leaf}"}
    assert find_any(zeros(shapes)) == {}
    assert find_any(zeros(GOLDEN["timm.rexnet"][1] | {f"features.3.se.bn.{leaf}": (1,)}), "timm.rexnet") == {}


CANNOT_SAVE = {
    "caffe": (SESpec(8, hidden=2), "has biases, this block has none"),
    "moskomule": (SESpec(8, hidden=2, bias=True), "has no biases, this block has"),
    "timm.hgnet": (SESpec(8, hidden=2, bias=True), "has one projection"),
    "timm.SEModule": (SESpec(8, single_projection=True, bias=True), "has two projections"),
}


@pytest.mark.parametrize("layout", CANNOT_SAVE)
def test_what_a_layout_has_no_place_for(layout):
    spec, text = CANNOT_SAVE[layout]
    with pytest.raises(LayoutError, match=f"layout '{layout}' {text}"):
        blocks.save(se_numpy.initialize(spec, seed=0), layout)
