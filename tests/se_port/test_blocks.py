"""SE blocks in other systems' files are found at their paths, nowhere else, and exactly.

Where a system can be installed, its own networks say where the blocks are and its own modules what their gates are. Of
the others there is one set of names each, typed by hand from its sources and not from the tables.
"""

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import se_numpy
import se_port
from evidence.peer_blocks import import_object
from evidence.peer_networks import of_torch
from evidence.peer_networks.network import Network, compute_gate_error, find_blocks_or_none, make_zeros
from evidence.peer_networks.systems import SYSTEMS, TIMM, TORCHVISION
from se_port.detect.found import CHOICES, Found
from se_port.layouts.base import UNKNOWN, BlockLayout
from se_port.layouts.block_mapping import map_block
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
"""Every kind of block in the networks above: class, activation, gate, whether it has a norm, and biases."""

PLACES = {"se", "se_module", "attn", "attn_last", "5", "1"}
"""Last elements of the paths of their blocks."""


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
def test_every_block_of_a_peer_network_is_found_at_its_path(package, name, layout):
    net = network(package, name)
    found = se_port.find_blocks(make_zeros(net.shapes), package if layout == "its own" else layout)
    assert list(found) == [block.path for block in net.blocks] != []
    for block in net.blocks:
        spec = found[block.path].spec
        hidden = None if spec.single_projection else spec.hidden
        assert (spec.channels, hidden, spec.bias) == (block.channels, block.hidden, block.bias)
        assert set(found[block.path].names.values()) == block.names
        assert bool(found[block.path].changes) == block.norm
        for choice in CHOICES:
            assert choice in found[block.path].unknown or getattr(spec, choice) == getattr(block, choice)


@pytest.mark.framework("torch", "peers")
@every(WITHOUT_SE)
def test_network_without_blocks_has_none(package, name):
    net = network(package, name)
    assert not net.blocks and len(net.shapes) > 50
    for layout in ("auto", package):
        assert find_blocks_or_none(make_zeros(net.shapes), layout) == {}


def kind_of(block) -> tuple:
    return (block.kind.rpartition(".")[2], block.activation, block.gate, block.norm, block.bias)


@pytest.mark.framework("torch", "peers")
def test_peer_networks_cover_every_layout_of_their_systems():
    had = [block for package, names in WITH_SE.items() for name in names for block in network(package, name).blocks]
    assert {kind_of(block) for block in had} == KINDS
    assert {block.path.rpartition(".")[2] for block in had} >= PLACES


def agrees(block, answer, found: Found) -> None:
    assert answer.gate.max() - answer.gate.min() > 0.1
    assert compute_gate_error(block, answer, found) < 1e-12


@pytest.mark.framework("torch", "peers")
@every(WITH_SE)
def test_gates_equal_those_of_the_peers_modules(package, name):
    one_of_each = {kind_of(block): block for block in network(package, name).blocks}
    for seed, block in enumerate(one_of_each.values()):
        answer = block.evaluate(seed)
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
def test_file_that_is_a_block_is_read_in_a_named_layout(name):
    path, arguments, options = ALONE[name]
    layout = name.partition(",")[0]
    block = of_torch.read_block(
        import_object(path)(*arguments, **options), "", {**TIMM, **TORCHVISION}.get(path, of_torch.Kind())
    )
    answer = block.evaluate(5)
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
def test_blocks_of_keras_applications_are_found(tf, name):
    layout, ending, number, activation, gate = KERAS[name]
    net = network("keras", name)
    found = se_port.find_blocks(make_zeros(net.shapes))
    assert [set(one.names.values()) for one in found.values()] == [block.names for block in net.blocks]
    assert len(found) == number and all(path.endswith(ending) for path in found)
    assert list(se_port.find_blocks(make_zeros(net.shapes), layout)) == list(found)
    for one, block in zip(found.values(), net.blocks, strict=True):
        assert (one.layouts, one.unknown) == ((layout,), ())
        assert (one.spec.activation, one.spec.gate, one.spec.bias) == (activation, gate, True)
        assert (block.activation, block.gate) == (activation, gate)
    block = net.blocks[1]
    answer = block.evaluate(7)
    (one,) = se_port.find_blocks(answer.tensors).values()
    agrees(block, answer, one)


@pytest.mark.framework("keras")
def test_unnamed_dense_layers_of_keras_are_found(tf):
    """Keras numbers the layers of two blocks of the first tutorial, and both pairs are at the root."""
    layers, x = keras.layers, keras.Input((4, 4, 24))
    inputs, pairs = x, []
    for hidden in (3, 6):
        dense = (layers.Dense(hidden, "relu", use_bias=False), layers.Dense(24, "sigmoid", use_bias=False))
        gate = layers.Reshape((1, 1, 24))(dense[1](dense[0](layers.GlobalAveragePooling2D()(x))))
        x, pairs = layers.Multiply()([x, gate]), [*pairs, dense]
    model = keras.Model(inputs, layers.Dense(10)(x))
    found = se_port.find_blocks(make_zeros({weight.path: tuple(weight.shape) for weight in model.weights}))
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
    assert bits(save_block(values, name)) == bits({at.rpartition(":")[2]: value for at, value in tensors.items()})


@pytest.mark.framework("torch")
@every_own
def test_se_torch_block_is_found(spec):
    import se_torch

    values = se_numpy.initialize(spec, seed=3)
    block = se_torch.SqueezeExcitation(spec)
    block.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    is_own(spec, {name: value.numpy() for name, value in block.state_dict().items()}, "canonical", values)


@pytest.mark.framework("keras")
@every_own
def test_se_keras_block_is_found(tf, spec):
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
def test_se_flax_block_is_found(spec):
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


def test_blocks_of_nutszebras_reference_are_found():
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

Shapes = dict[str, tuple[int, ...]]


class TypedBlock(NamedTuple):
    """A block whose names and shapes were typed from the system's source, not from the table of layouts."""

    path: str
    channels: int
    hidden: int | None
    bias: bool
    tensors: Shapes


def read_typed(name: str) -> dict[str, dict[str, Any]]:
    """Read a data file beside this module; shapes become tuples."""
    typed = json.loads((Path(__file__).parent / name).read_text())
    for block in typed.values():
        block["tensors"] = {tensor: tuple(shape) for tensor, shape in block["tensors"].items()}
    return typed


TYPED = {layout: TypedBlock(**block) for layout, block in read_typed("typed_blocks.json").items()}
"""Each typed block, by its layout."""


def test_every_layout_has_typed_names():
    assert list(TYPED) == list(BLOCK_LAYOUTS)


@pytest.mark.parametrize("name", TYPED)
def test_typed_names_are_found(name):
    typed = TYPED[name]
    for layout in ("auto", name):
        found = se_port.find_blocks(make_zeros(typed.tensors), layout)
        assert list(found) == [typed.path]
        spec = found[typed.path].spec
        assert (spec.channels, None if spec.single_projection else spec.hidden) == (typed.channels, typed.hidden)
        assert spec.bias == typed.bias
        assert name in found[typed.path].layouts


DETERMINED = {
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
"""Layouts whose names or path determine activation and gate, each with all layouts that agree."""


@pytest.mark.parametrize("name", DETERMINED)
def test_layout_determines_activation_and_gate(name):
    (block,) = se_port.find_blocks(make_zeros(TYPED[name].tensors)).values()
    assert (block.layouts, block.unknown) == (DETERMINED[name], ())


@pytest.mark.parametrize(
    "name", ["tutorial.SEBlock", "timm.SEModule", "torchvision", "keras_cv", "keras_hub", "kecam.Conv"]
)
def test_common_names_leave_activation_and_gate_unknown(name):
    (block,) = se_port.find_blocks(make_zeros(TYPED[name].tensors)).values()
    assert block.unknown == ("activation", "gate")
    (block,) = se_port.find_blocks(make_zeros(TYPED[name].tensors), gate="tanh").values()
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
def test_distinctive_names_allow_a_hidden_width_above_channels(shapes):
    (block,) = se_port.find_blocks(make_zeros(shapes)).values()
    assert (block.spec.channels, block.spec.hidden) == (3, 8)


def test_blocks_are_in_the_order_of_the_file():
    order = ["block2_se", "block10_se", "block1_se"]
    tensors = {}
    for path in order:
        tensors |= make_zeros({f"{path}_expand/kernel": (1, 1, 2, 8), f"{path}_expand/bias": (8,)})
    for path in reversed(order):
        tensors |= make_zeros({f"{path}_reduce/bias": (2,), f"{path}_reduce/kernel": (1, 1, 8, 2)})
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
"""Each layout, with and without biases where it can hold them."""
LAYOUTS = [pytest.param(name, bias, id=f"{name}, {'biases' if bias else 'no biases'}") for name, bias in HELD]
every_layout = pytest.mark.parametrize(("name", "bias"), LAYOUTS)


def save_block(parameters, layout: str, path: str = "", number: int = 0) -> dict[str, np.ndarray]:
    return map_block(parameters, layout, path, number).save(parameters)


def a_path(row: BlockLayout) -> str:
    path = PATHS[row.separator]
    return f"{path}{row.separator}{row.parents[0]}" if row.parents else path


def a_spec(row: BlockLayout, bias: bool, channels: int = 12, hidden: int = 3) -> SESpec:
    width: dict[str, Any] = {"single_projection": True} if row.reduce is None else {"hidden": hidden}
    return SESpec(channels, bias=bias, **width)


def is_the_block(found: dict[str, Found], path: str, spec: SESpec, values: dict[str, np.ndarray]) -> None:
    assert list(found) == [path]
    block = found[path]
    assert (block.spec.channels, block.spec.single_projection) == (spec.channels, spec.single_projection)
    assert (block.spec.hidden, block.spec.bias) == (spec.hidden, spec.bias)
    assert list(block.parameters) == list(values)
    assert bits(block.parameters) == bits(values)


@every_layout
@pytest.mark.parametrize("bare", [False, True], ids=["at a path", "a file of its own"])
def test_saved_block_is_found_in_its_layout(name, bias, bare):
    row = BLOCK_LAYOUTS[name]
    path, spec = "" if bare else a_path(row), a_spec(row, bias)
    values = se_numpy.initialize(spec, seed=1)
    tensors = save_block(values, name, path)
    kept = {at: value.copy() for at, value in tensors.items()}
    found = se_port.find_blocks(tensors, name)
    is_the_block(found, path, spec, values)
    assert found[path].layouts == (name,)
    assert bits(tensors) == bits(kept)
    norm = {at for at in tensors if row.norm and f".{row.norm[0]}." in f".{at}"}
    assert set(found[path].names.values()) == tensors.keys() - norm
    assert bool(found[path].changes) == bool(norm) == (row.norm is not None)
    given = {"activation": "identity" if row.reduce is None else row.activation, "gate": row.gate}
    assert found[path].unknown == tuple(choice for choice in CHOICES if given[choice] == UNKNOWN)
    for choice, value in given.items():
        assert value == UNKNOWN or getattr(found[path].spec, choice) == value
    assert found[path].spec.gain == row.gain


@every_layout
def test_saved_block_is_found_without_a_layout(name, bias):
    """Layouts with the same names are all listed, and only what all of them determine is known."""
    row = BLOCK_LAYOUTS[name]
    path, spec = a_path(row), a_spec(row, bias)
    values = se_numpy.initialize(spec, seed=1)
    found = se_port.find_blocks(save_block(values, name, path))
    is_the_block(found, path, spec, values)
    block = found[path]
    assert name in block.layouts
    rows = [BLOCK_LAYOUTS[one] for one in block.layouts]
    for choice in CHOICES:
        told = {getattr(one, choice) for one in rows}
        if choice == "activation" and row.reduce is None:
            told = {"identity"}
        assert (choice in block.unknown) == (told == {UNKNOWN} or len(told) > 1)
        assert choice in block.unknown or {getattr(block.spec, choice)} == told


@every_layout
def test_square_block_is_found_or_both_readings_are_named(name, bias):
    """A square block has hidden == channels, so that only the layout determines the axes."""
    row = BLOCK_LAYOUTS[name]
    path, spec = a_path(row), a_spec(row, bias, channels=5, hidden=5)
    values = se_numpy.initialize(spec, seed=1)
    tensors = save_block(values, name, path)
    is_the_block(se_port.find_blocks(tensors, name), path, spec, values)
    if bias and name in ("tensorpack", "chainer.Linear"):
        text = refused(tensors)
        assert "two ways" in text and "tensorpack" in text and "chainer.Linear" in text
    else:
        is_the_block(se_port.find_blocks(tensors), path, spec, values)


@pytest.mark.parametrize(("name", "bias"), [one for one in LAYOUTS if BLOCK_LAYOUTS[one.values[0]].reduce is not None])
def test_hidden_width_above_channels_needs_distinctive_names(name, bias):
    """Names that a perceptron may have are no block, unless the file is the block and the layout is named."""
    row = BLOCK_LAYOUTS[name]
    path, spec = a_path(row), a_spec(row, bias, channels=3, hidden=8)
    values = se_numpy.initialize(spec, seed=1)
    tensors = save_block(values, name, path)
    if row.narrow:
        assert path not in find_blocks_or_none(tensors, name)
    else:
        is_the_block(se_port.find_blocks(tensors, name), path, spec, values)
    is_the_block(se_port.find_blocks(save_block(values, name), name), "", spec, values)


@pytest.mark.parametrize("name", [name for name, row in BLOCK_LAYOUTS.items() if "{_k" in row.expand])
def test_numbered_layers_are_paired(name):
    row = BLOCK_LAYOUTS[name]
    spec = a_spec(row, bool(row.bias))
    values = [se_numpy.initialize(spec, seed) for seed in (1, 2, 3)]
    for path in ("", "net/part"):
        tensors = {}
        for number, one in zip((0, 2, 14), values, strict=True):
            tensors |= save_block(one, name, path, number)
        found = se_port.find_blocks(tensors, name)
        layer, before = row.reduce.removesuffix("{_k}"), f"{path}/" if path else ""
        assert list(found) == [f"{before}{layer}{number}" for number in ("", "_2", "_14")]
        for one, block in zip(values, found.values(), strict=True):
            assert bits(block.parameters) == bits(one)
        (alone,) = se_port.find_blocks(save_block(values[0], name, path, 7), name)
        assert alone == path


ODD = {
    "float16": np.array([0x7E01, 0xFE55, 0x8000, 0x0001, 0x7C00, 0x83FF], np.uint16).view(np.float16),
    "bfloat16": np.array([0x7FC1, 0xFFD5, 0x8000, 0x0001, 0x7F80, 0x807F], np.uint16).view(ml_dtypes.bfloat16),
    "float32": np.array([0x7FC12345, 0xFFC00001, 1 << 31, 1, 0x7F800000, 0x807FFFFF], np.uint32).view(np.float32),
    "float64": np.array([0x7FF8000000012345, 1 << 63, 1, 0x7FF0000000000000, (1 << 63) + 1], np.uint64).view(
        np.float64
    ),
}
"""Bits of NaNs with a payload, negative zero, the smallest number, infinity, and a negative subnormal."""


def odd_values(spec: SESpec, dtype: str, *rows: BlockLayout) -> dict[str, np.ndarray]:
    """Draw parameters that begin with those bits, unless a layout computes, as folding does."""
    values = se_numpy.initialize(spec, seed=1, dtype=dtype)
    if all(row.norm is None for row in rows):
        for value in values.values():
            value.ravel()[: len(ODD[dtype])] = ODD[dtype][: value.size]
    return values


@pytest.mark.parametrize("dtype", ODD)
@every_layout
def test_every_bit_survives_a_layout(name, bias, dtype):
    row = BLOCK_LAYOUTS[name]
    spec, path = a_spec(row, bias), a_path(row)
    values = odd_values(spec, dtype, row)
    tensors = save_block(values, name, path)
    assert {str(value.dtype) for value in tensors.values()} == {dtype}
    (block,) = se_port.find_blocks(tensors, name).values()
    assert bits(block.parameters) == bits(values)
    assert bits(save_block(block.parameters, name, path)) == bits(tensors)


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
@pytest.mark.parametrize("single", [False, True], ids=["two projections", "one projection"])
def test_every_bit_survives_any_two_layouts(single, bias):
    """A block goes to the other layout and back; each of thousands of pairs has one dtype, each layout has all."""
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
        given = save_block(odd_values(a_spec(one, bias), dtype, one, other), first, a_path(one))
        (there,) = se_port.find_blocks(given, first).values()
        (back,) = se_port.find_blocks(save_block(there.parameters, second, a_path(other)), second).values()
        assert bits(save_block(back.parameters, first, a_path(one))) == bits(given), (first, second, dtype)


@pytest.mark.framework("torch")
@pytest.mark.parametrize("dtype", ODD)
def test_every_bit_of_a_pytorch_tensor_survives(dtype):
    values = se_numpy.initialize(SESpec(12, hidden=3, bias=True), seed=1, dtype=dtype)
    for value in values.values():
        value.ravel()[: len(ODD[dtype])] = ODD[dtype][: value.size]
    width = np.dtype(dtype).itemsize
    tensors = {
        name: torch.nn.Parameter(
            torch.from_numpy(value.view(f"int{8 * width}").copy()).view(getattr(torch, dtype)), requires_grad=True
        )
        for name, value in save_block(values, "timm.SqueezeExcite", "se").items()
    }
    (block,) = se_port.find_blocks(tensors).values()
    assert bits(block.parameters) == bits(values)


def test_batch_norm_between_the_projections_is_folded():
    """Scale 3, offset 1, mean 2 and variance 4 (with epsilon) make 1.5 W z + 1.5 (b - 2) + 1, by hand."""
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


def test_file_without_a_block_is_an_error():
    assert "no SE block of any layout in these 1 tensors" in refused(make_zeros({"conv.weight": (8, 4, 3, 3)}))
    assert "no SE block of layout 'caffe' in these 0 tensors" in refused({}, "caffe")
    assert "no SE block of layout 'timm'" in refused(make_zeros(TYPED["caffe"].tensors), "timm")


def test_unknown_layout_is_an_error():
    text = refused(make_zeros(TYPED["caffe"].tensors), "coffee")
    assert "layout 'coffee' is not known" in text and "caffe" in text and "timm.SEModule" in text
    with pytest.raises(LayoutError, match=r"layout 'coffee' is not a block's; expected one of canonical, "):
        save_block(se_numpy.initialize(SESpec(8, hidden=2), seed=0), "coffee")


def test_ambiguous_square_block_is_an_error():
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


def test_blocks_that_share_a_layer_are_refused():
    text = refused(make_zeros({"dense/kernel": (8, 8), "dense_1/kernel": (8, 8), "dense_2/kernel": (8, 8)}))
    assert "dense_1/kernel can be of two blocks, that of dense and that of dense_1" in text


@pytest.mark.parametrize(
    "name", [name for name, row in BLOCK_LAYOUTS.items() if row.bias and row.reduce is not None and not row.norm]
)
@pytest.mark.parametrize("missing", ["reduce.bias", "expand.bias"])
def test_bias_that_one_projection_lacks_is_zeros(name, missing):
    row = BLOCK_LAYOUTS[name]
    tensors = save_block(se_numpy.initialize(a_spec(row, True), seed=0), name, a_path(row))
    (block,) = se_port.find_blocks(tensors, name).values()
    del tensors[block.names[missing]]
    (other,) = se_port.find_blocks(tensors, name).values()
    assert other.spec.bias
    assert other.changes == (f"zeros for {missing}, which the file does not have",)
    assert not other.parameters.pop(missing).any()
    assert bits(other.parameters) == bits({at: block.parameters[at] for at in other.parameters})


@pytest.mark.parametrize("name", [name for name, row in BLOCK_LAYOUTS.items() if row.reduce is not None])
def test_projection_without_its_partner_is_no_block(name):
    row = BLOCK_LAYOUTS[name]
    tensors = save_block(se_numpy.initialize(a_spec(row, bool(row.bias)), seed=0), name, a_path(row))
    (block,) = se_port.find_blocks(tensors, name).values()
    for weight in ("reduce.weight", "expand.weight"):
        rest = {at: value for at, value in tensors.items() if at != block.names[weight]}
        assert find_blocks_or_none(rest) == {}


@every_layout
def test_misshapen_projection_is_no_block(name, bias):
    row = BLOCK_LAYOUTS[name]
    tensors = save_block(se_numpy.initialize(a_spec(row, bias), seed=0), name, a_path(row))
    (block,) = se_port.find_blocks(tensors, name).values()
    for at in block.names.values():
        shape = tensors[at].shape
        deeper = [] if "1" in row.weight and row.reduce is None else [(*shape, 1)]  # 3-D
        for wrong in (*deeper, shape[1:], (shape[0] + 1, *shape[1:]), (0, *shape[1:])):
            assert find_blocks_or_none(tensors | make_zeros({at: wrong}), name) == {}, (at, wrong)


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool", "complex64", "float8_e4m3fn"])
def test_dtype_outside_the_spec_is_an_error(dtype):
    tensors = make_zeros(TYPED["torchvision"].tensors)
    tensors["features.1.block.1.fc2.bias"] = np.zeros(16, dtype=getattr(ml_dtypes, dtype, dtype))
    text = refused(tensors)
    assert f"features.1.block.1.fc2.bias has dtype {dtype}, expected one of float16, bfloat16" in text


NO_BLOCKS: dict[str, Shapes] = {name: file["tensors"] for name, file in read_typed("no_blocks.json").items()}
"""Files that look like blocks and are none, such as perceptrons."""


@pytest.mark.parametrize("name", NO_BLOCKS)
def test_perceptron_is_no_block(name):
    assert find_blocks_or_none(make_zeros(NO_BLOCKS[name])) == {}


@pytest.mark.parametrize("leaf", ["weight", "bias", "running_mean", "running_var"])
def test_incomplete_batch_norm_is_not_folded(leaf):
    shapes = {at: shape for at, shape in TYPED["timm.rexnet"].tensors.items() if at != f"features.3.se.bn.{leaf}"}
    assert find_blocks_or_none(make_zeros(shapes)) == {}
    assert (
        find_blocks_or_none(
            make_zeros(TYPED["timm.rexnet"].tensors | {f"features.3.se.bn.{leaf}": (1,)}), "timm.rexnet"
        )
        == {}
    )


CANNOT_SAVE = {
    "caffe": (SESpec(8, hidden=2), "has biases, this block has none"),
    "moskomule": (SESpec(8, hidden=2, bias=True), "has no biases, this block has"),
    "timm.hgnet": (SESpec(8, hidden=2, bias=True), "has one projection"),
    "timm.SEModule": (SESpec(8, single_projection=True, bias=True), "has two projections"),
}


@pytest.mark.parametrize("layout", CANNOT_SAVE)
def test_block_without_place_in_a_layout_is_an_error(layout):
    spec, text = CANNOT_SAVE[layout]
    with pytest.raises(LayoutError, match=f"layout '{layout}' {text}"):
        save_block(se_numpy.initialize(spec, seed=0), layout)
