"""``se_spec.networks``: named networks have their sources' numbers, and wrong descriptions are refused."""

import dataclasses
import itertools
import json
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest

from evidence.peer_blocks import _declare_operators_of_torchvision
from se_spec import LeakyReLU, NetworkSpec, ParameterError, SESpec, ShapeError, SpecError, network, parameters
from se_spec.networks import (
    NETWORKS,
    ConvStep,
    Head,
    Inception,
    PoolStep,
    Residual,
    SEFields,
    Shortcut,
    Stage,
    Stem,
    output_length,
    output_sizes,
    resolve_padding,
)
from se_spec.networks import layers as kinds

from ..conftest import OnDemand

timm = OnDemand("timm")
torch = OnDemand("torch")

SOURCES = {
    # hujie-frank/SENet 0262d43, models/*.prototxt, counted in Caffe: learnable, GMACs at 224, batch norm statistics.
    "se_resnet50": (28_088_024, 3.860, 53_173),
    "se_resnet101": (49_326_872, 7.575, 105_448),
    "se_resnet152": (66_821_848, 11.289, 151_579),
    "se_resnext50_32x4d": (27_559_896, 4.233, 68_277),
    "se_resnext101_32x4d": (48_955_416, 7.975, 137_960),
    "senet154": (115_088_984, 20.688, 247_709),
    "se_bn_inception": (11_931_622, 2.033, 20_101),
}
"""Parameters with Caffe's statistics: mean, variance and one factor per batch norm."""

COUNTS = {
    # timm 1.0.31, parameters of the model.
    "se_resnet18": 11_778_592,
    "se_resnet34": 21_958_868,
    "timm.legacy_seresnet18": 11_778_592,
    "timm.legacy_seresnet34": 21_958_868,
    "timm.legacy_seresnet50": 28_088_024,
    "timm.legacy_seresnext50_32x4d": 27_559_896,
    "timm.legacy_senet154": 115_088_984,
    "timm.seresnet50": 28_088_024,
    "timm.seresnext50_32x4d": 27_559_896,
    # shicai/SENet-Caffe d577a92, counted in Caffe; tensorpack 1547a54, its trainable variables.
    "shicai.se_resnet50": 28_088_024,
    "tensorpack.resnet50_se": 28_088_024,
    # bruinxiong/SENet.mxnet 5f0b469: counted from its two symbol files, layer by layer, bn_data's fixed gamma left out;
    # se-resnext-imagenet-50-0-symbol.json has 26,852,574 with those three.
    "mxnet.se_resnet18": 11_781_027,
    "mxnet.se_resnet34": 21_961_303,
    "mxnet.se_resnet50": 28_080_475,
    "mxnet.se_resnet101": 49_319_323,
    "mxnet.se_resnet152": 66_814_299,
    "mxnet.se_resnext50_32x4d": 27_559_899,
    "mxnet.se_resnext101_32x4d": 48_955_419,
    "mxnet.se_resnext152_32x4d": 66_580_443,
    "mxnet.se_resnext50_64x2d": 26_852_574 - 3,
    # moskomule/senet.pytorch 8cb2669: torchvision's ResNets and, by the paper's equation 5, two C * C / 16 per unit.
    "moskomule.se_resnet18": 11_689_512 + 87_040,
    "moskomule.se_resnet34": 21_797_672 + 157_184,
    "moskomule.se_resnet50": 28_071_976,
    "moskomule.se_resnet101": 44_549_160 + 4_743_168,
    "moskomule.se_resnet152": 60_192_808 + 6_578_176,
    # Its CIFAR nets of 3 n units: the state_dict of n = 3, and 97,888 for each further n.
    "se_resnet20": 274_490,
    "se_resnet32": 274_490 + 2 * 97_888,
    "se_resnet56": 274_490 + 6 * 97_888,
    # nutszebra/SENets 2a5a0b3, biases and batch norm included.
    "chainer.se_resnet_n18_r16": 1_875_906,
    # taki0112/SENet-Tensorflow 41b12c4, counted from SE_ResNeXt.py, eight branches per unit.
    "taki.se_resnext_cifar": 4_086_720,
    # torchvision 0.28, num_params of its weights.
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
}

GMACS = {
    # shicai's at its own 225.
    "shicai.se_resnet50": (4.094, 0.0005),
    # torchvision 0.28, _ops of its weights: the stride is on the 3x3.
    "moskomule.resnet18": (1.814, 0.0005),
    "moskomule.resnet34": (3.664, 0.0005),
    "moskomule.resnet50": (4.089, 0.0005),
    "moskomule.resnet101": (7.801, 0.0005),
    "moskomule.resnet152": (11.514, 0.0005),
    "mxnet.resnext50_32x4d": (4.230, 0.0005),
    # The paper's table 2, which counts a little more than multiply-adds.
    "resnet50": (3.86, 0.03),
    "resnet101": (7.58, 0.03),
    "resnet152": (11.30, 0.03),
    "resnext50_32x4d": (4.24, 0.03),
    "resnext101_32x4d": (7.99, 0.03),
    "bn_inception": (2.03, 0.03),
}

STEM_PADDING = {
    "se_resnet50": (0, 1),
    "timm.legacy_seresnet50": (0, 1),
    "shicai.se_resnet50": (0, 1),
    "tensorpack.resnet50_se": "same",
    "mxnet.se_resnet18": (1, 1),
    "moskomule.se_resnet50": (1, 1),
    "timm.seresnet50": (1, 1),
}
STRIDED = {
    "se_resnet18": "conv1",
    "se_resnet50": "conv1",
    "timm.legacy_seresnet50": "conv1",
    "chainer.se_resnet_n2_r16": "conv1",
    "moskomule.se_resnet18": "conv1",
    "moskomule.se_resnet50": "conv2",
    "se_resnext50_32x4d": "conv2",
    "senet154": "conv2",
    "shicai.se_resnet50": "conv2",
    "tensorpack.resnet50_se": "conv2",
    "mxnet.se_resnet50": "conv2",
    "taki.se_resnext_cifar": "conv2",
}
EPSILON_AND_BIAS = {
    "se_resnet50": (1e-5, True),
    "shicai.se_resnet50": (1e-4, True),
    "tensorpack.resnet50_se": (1e-5, True),
    "mxnet.se_resnext50_32x4d": (2e-5, True),
    "moskomule.se_resnet50": (1e-5, False),
    "se_resnet20": (1e-5, False),
    "chainer.se_resnet_n18_r16": (2e-5, True),
    "taki.se_resnext_cifar": (1e-3, False),
}

ALL = [*NETWORKS, "chainer.se_resnet_n2_r16"]


def layer(name: str, path: str):
    """Return one record of a named network."""
    return next(one for one in network(name).layers if one.name == path)


def taken(net: NetworkSpec, path: str) -> tuple[str, ...]:
    """Return the inputs of a layer."""
    return next(one.inputs for one in net.layers if one.name == path)


@pytest.mark.parametrize("name", SOURCES)
def test_m6_the_authors_networks_have_their_parameters_and_multiply_adds(name: str) -> None:
    learnable, giga, statistics = SOURCES[name]
    net = network(name)
    assert net.parameter_count() == learnable
    assert round(net.macs((224, 224)) / 1e9, 3) == giga
    norms = [one.out_channels for one in net.layers if isinstance(one, kinds.BatchNorm)]
    assert sum(2 * channels + 1 for channels in norms) == statistics


@pytest.mark.parametrize("name", COUNTS)
def test_m6_m7_a_named_network_has_its_sources_parameters(name: str) -> None:
    assert network(name).parameter_count() == COUNTS[name]


@pytest.mark.parametrize("name", GMACS)
def test_m6_a_named_network_has_its_sources_multiply_adds(name: str) -> None:
    giga, tolerance = GMACS[name]
    assert network(name).macs() / 1e9 == pytest.approx(giga, abs=tolerance)


def test_m6_every_network_with_se_is_counted_by_a_source() -> None:
    twins = {"tensorpack.resnet101_se", "tensorpack.resnet152_se"}  # of the authors', as their 50 is
    twins |= {f"timm.legacy_{name}" for name in ("seresnet101", "seresnet152", "seresnext101_32x4d")}
    twins |= {"chainer.se_resnet_n18_r8"}
    with_se = {name for name in NETWORKS if network(name).se}
    assert with_se - set(SOURCES) - set(COUNTS) == twins
    for depth in (101, 152):
        authors = network(f"se_resnet{depth}").parameter_count()
        assert network(f"tensorpack.resnet{depth}_se").parameter_count() == authors
        assert network(f"timm.legacy_seresnet{depth}").parameter_count() == authors


def test_m6_chainer_counts_its_weights_and_its_readme_rounds_them() -> None:
    net = network("chainer.se_resnet_n18_r16")
    weights = [shape for name, shape in net.parameter_shapes().items() if name.endswith("weight")]
    assert sum(prod(shape) for shape in weights) == 1_830_576  # count_parameters(): no biases, no batch norm
    for name, millions in (("se_resnet_n18_r16", 1.8), ("se_resnet_n18_r8", 2.0), ("resnet_n18", 1.7)):
        count = network(f"chainer.{name}").parameter_count()
        assert abs(count / 1e6 - millions) < 0.1


@pytest.mark.parametrize(("reduction", "millions"), [(2, 45.7), (4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9)])
def test_m6_counts_are_those_of_the_papers_table_10(reduction: int, millions: float) -> None:
    count = network("se_resnet50", se={"reduction": reduction}).parameter_count()
    assert count / 1e6 == pytest.approx(millions, abs=0.15)  # the paper does not say what it rounds


def test_m6_parameters_and_multiply_adds_that_se_adds() -> None:
    squares = 20_119_552  # of the channels of the 16 units
    products, biases = squares // 8, 16_048
    assert network("se_resnet50").added_by_se() == (products + biases, products)
    assert network("moskomule.se_resnet50").added_by_se((64, 64)) == (products, products)
    assert network("resnet50").added_by_se() == (0, 0)


@pytest.mark.parametrize("name", ALL)
def test_m1_m5_layers_are_a_graph_with_consistent_channels(name: str) -> None:
    net = network(name)
    given = {kinds.INPUT: net.channels}
    for one in net.layers:
        assert one.name not in given
        channels = [given[source] for source in one.inputs]
        if isinstance(one, kinds.Concatenation):
            assert one.in_channels == one.out_channels == sum(channels)
        else:
            assert set(channels) == {one.in_channels}
        assert len(channels) == 1 or isinstance(one, kinds.Concatenation | kinds.Addition)
        if isinstance(one, kinds.ZeroChannels):
            assert one.out_channels == one.before + one.in_channels + one.after
        elif not isinstance(one, kinds.Convolution | kinds.Dense):
            assert one.in_channels == one.out_channels
        if isinstance(one, kinds.SqueezeExcitation):
            assert one.spec.channels == one.in_channels
        if isinstance(one, kinds.Convolution):
            assert one.in_channels % one.groups == one.out_channels % one.groups == 0
        given[one.name] = one.out_channels
    used = {source for one in net.layers for source in one.inputs}
    assert set(given) - used == {net.layers[-1].name}
    assert net.layers[-1].out_channels == net.num_classes
    assert output_sizes(net.layers, (net.input_size, net.input_size))[net.layers[-1].name] == (1, 1)
    assert list(net.parameter_shapes()) == list(parameters.shapes(net))


def test_m1_layers_of_the_papers_unit() -> None:
    names = [one.name for one in network("se_resnet50").layers if one.name.startswith("stage2.block0.")]
    path = "stage2.block0."
    assert [name.removeprefix(path) for name in names] == [
        *("conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3", "se"),
        *("shortcut.conv", "shortcut.bn", "add", "relu"),
    ]
    assert taken(network("se_resnet50"), path + "add") == (path + "se", path + "shortcut.bn")
    assert taken(network("resnet50"), path + "add") == (path + "bn3", path + "shortcut.bn")


@pytest.mark.parametrize(
    ("rule", "kernel", "stride", "lengths"),
    [
        ((3, 3), 7, 2, {224: 112, 225: 113}),
        ((1, 1), 3, 2, {112: 56, 113: 57}),
        ((0, 1), 3, 2, {112: 56, 113: 56}),  # Caffe's ceil
        ("same", 3, 2, {112: 56, 113: 57}),
        ((0, 0), 1, 2, {56: 28, 57: 29}),
    ],
)
def test_m2_padding_of_every_kind_is_resolved(rule, kernel: int, stride: int, lengths: dict[int, int]) -> None:
    for length, found in lengths.items():
        assert output_length(length, kernel, stride, rule) == found


def test_m2_same_padding_has_the_odd_position_last() -> None:
    assert resolve_padding(224, 7, 2, "same") == (2, 3)
    assert resolve_padding(112, 3, 2, "same") == (0, 1)
    assert resolve_padding(113, 3, 2, "same") == (1, 1)
    assert resolve_padding(10, 3, 4, "same") == (0, 1)
    for length, kernel, stride in itertools.product(range(1, 40), range(1, 9), range(1, 9)):
        windows = -(-length // stride)  # TensorFlow's definition
        missing = max((windows - 1) * stride + kernel - length, 0)
        assert resolve_padding(length, kernel, stride, "same") == (missing // 2, missing - missing // 2)


@pytest.mark.parametrize(("name", "padding"), STEM_PADDING.items())
def test_m2_pooling_of_the_stem_is_the_sources(name: str, padding) -> None:
    pool = layer(name, "stem.pool1")
    assert (pool.pool, pool.kernel, pool.stride, pool.padding) == ("max", 3, 2, padding)


def test_m2_tensorpack_pads_convolutions_as_tensorflow_does() -> None:
    paths = ("stem.conv1", "stage2.block0.conv2", "stage2.block0.shortcut.conv", "stage2.block1.conv2")
    assert [layer("tensorpack.resnet50_se", path).padding for path in paths] == ["same", "same", (0, 0), (1, 1)]


def test_m2_m7_layers_of_bn_inception_are_the_sources() -> None:
    pools = [one for one in network("se_bn_inception").layers if isinstance(one, kinds.Pooling)]
    average, strided, last = ("avg", 1, (1, 1), True), ("max", 2, (0, 1), False), ("max", 1, (1, 1), False)
    found = [(one.pool, one.stride, one.padding, one.count_padding) for one in pools]
    assert found == [strided] * 2 + [average] * 2 + [strided] + [average] * 4 + [strided] + [average, last]
    widths = [one.spec.hidden for one in network("se_bn_inception").layers if isinstance(one, kinds.SqueezeExcitation)]
    assert widths == [16, 20, 36, 36, 36, 38, 38, 66, 64, 64]
    assert taken(network("se_bn_inception"), "stage1.block2.se") == ("stage1.block2.concat",)
    maps = output_sizes(network("se_bn_inception").layers, (224, 224))
    assert [maps[f"stage{stage}.block0.concat"] for stage in (1, 2, 3)] == [(28, 28), (14, 14), (7, 7)]


def test_m3_se_block_scales_the_map_of_its_place() -> None:
    unit = "stage1.block0."
    net = network("moskomule.se_resnet50")
    pre, post, identity = (net.replace(se_at=place) for place in ("pre", "post", "identity"))
    assert taken(pre, unit + "se") == ("stem.pool1",) and taken(pre, unit + "conv1") == (unit + "se",)
    assert taken(pre, unit + "shortcut.conv") == ("stem.pool1",)
    assert taken(post, unit + "se") == (unit + "relu",) and taken(post, "stage1.block1.conv1") == (unit + "se",)
    assert taken(post, "stage1.block1.add") == ("stage1.block1.bn3", unit + "se")
    assert taken(identity, unit + "se") == (unit + "shortcut.bn",)
    assert taken(identity, unit + "add") == (unit + "bn3", unit + "se")
    assert taken(identity, "stage1.block1.se") == (unit + "relu",)
    counts = [one.parameter_count() for one in (net, pre, post, identity)]
    assert counts[0] == counts[2] == counts[3] > counts[1]  # what enters a stage is narrower than what leaves it


def test_m3_m4_m7_layers_of_mxnets_pre_activation_are_the_sources() -> None:
    net = network("mxnet.se_resnet50")
    assert taken(net, "stage1.block0.se") == ("stage1.block0.conv3",)
    assert taken(net, "stage1.block0.shortcut.conv") == taken(net, "stage1.block0.conv1") == ("stage1.block0.relu1",)
    assert taken(net, "stage1.block0.add") == ("stage1.block0.se", "stage1.block0.shortcut.conv")
    assert taken(net, "stage1.block1.add") == ("stage1.block1.se", "stage1.block0.add")
    assert "stage1.block0.shortcut.conv.weight" in network("mxnet.se_resnet18").parameter_shapes()  # 64 to 64
    assert "stage1.block0.shortcut.conv.weight" not in network("moskomule.se_resnet18").parameter_shapes()
    assert [name for name in net.parameter_shapes() if name.startswith("input_bn")] == [
        *("input_bn.offset", "input_bn.mean", "input_bn.variance")
    ]


def test_m4_m7_layers_of_chainers_shortcut_are_the_sources() -> None:
    net = network("chainer.se_resnet_n2_r16")
    unit = "stage2.block0.shortcut."
    chain = [one for one in net.layers if one.name.startswith(unit)]
    assert [type(one).__name__ for one in chain] == ["BatchNorm", "ReLU", "Pooling", "ZeroChannels"]
    assert chain[0].inputs == ("stage1.block1.add",)
    assert (chain[2].pool, chain[2].kernel, chain[2].stride, chain[2].padding) == ("avg", 1, 2, (0, 0))
    assert (chain[3].before, chain[3].after) == (0, 64)
    assert layer("chainer.se_resnet_n2_r16", "stage2.block0.conv1").stride == 2
    assert [one.name for one in net.layers[-5:]] == ["head.relu1", "head.bn1", "head.relu2", "classifier", "head.pool"]
    assert net.parameter_shapes()["classifier.weight"] == (10, 256, 1, 1)
    biases = [name for name in net.parameter_shapes() if "conv" in name and name.endswith("bias")]
    assert len(biases) == 1 + 3 * 2 * 3


def test_m4_m7_layers_of_takis_shortcut_are_the_sources() -> None:
    chain = [one for one in network("taki.se_resnext_cifar").layers if one.name.startswith("stage2.block0.shortcut.")]
    pool, zeros = chain
    assert (pool.pool, pool.kernel, pool.stride, pool.padding, pool.count_padding) == ("avg", 2, 2, "same", False)
    assert (zeros.before, zeros.after) == (32, 32)
    assert "classifier.bias" not in network("taki.se_resnext_cifar").parameter_shapes()
    assert layer("taki.se_resnext_cifar", "stage1.block0.conv2").groups == 8


@pytest.mark.parametrize(("name", "convolution"), STRIDED.items())
def test_m7_stride_is_on_the_sources_convolution(name: str, convolution: str) -> None:
    strides = {f"conv{number}": layer(name, f"stage2.block0.conv{number}").stride for number in (1, 2)}
    assert strides == {"conv1": 1, "conv2": 1} | {convolution: 2}


def test_m7_layers_of_senet154_are_the_sources() -> None:
    projections = [layer("senet154", f"stage{stage}.block0.shortcut.conv") for stage in (1, 2)]
    assert [(one.kernel, one.stride, one.padding) for one in projections] == [(1, 1, (0, 0)), (3, 2, (1, 1))]
    unit = [layer("senet154", f"stage1.block0.conv{number}") for number in (1, 2, 3)]
    assert [(one.out_channels, one.groups) for one in unit] == [(128, 1), (256, 64), (256, 1)]
    stem = [layer("senet154", f"stem.conv{number}") for number in (1, 2, 3)]
    assert [(one.kernel, one.stride, one.out_channels) for one in stem] == [(3, 2, 64), (3, 1, 64), (3, 1, 128)]
    assert layer("senet154", "head.dropout").rate == 0.2
    assert sum(isinstance(one, kinds.SqueezeExcitation) for one in network("senet154").layers) == 3 + 8 + 36 + 3


def test_m7_timms_basic_block_has_one_relu_more() -> None:
    assert taken(network("timm.legacy_seresnet18"), "stage1.block0.se") == ("stage1.block0.relu2",)
    assert taken(network("se_resnet18"), "stage1.block0.se") == ("stage1.block0.bn2",)


@pytest.mark.parametrize("name", EPSILON_AND_BIAS)
def test_m7_epsilon_and_se_bias_are_the_sources(name: str) -> None:
    epsilon, bias = EPSILON_AND_BIAS[name]
    net = network(name)
    assert {one.epsilon for one in net.layers if isinstance(one, kinds.BatchNorm)} == {epsilon}
    assert {one.spec.bias for one in net.layers if isinstance(one, kinds.SqueezeExcitation)} == {bias}


def test_m7_tensorpack_has_331_variables_and_moskomule_352_tensors() -> None:
    assert len(network("tensorpack.resnet50_se").parameter_shapes()) == 331
    shapes = network("moskomule.se_resnet50").parameter_shapes()
    assert len(shapes) + sum(name.endswith(".mean") for name in shapes) == 352  # torch counts batches too


def test_m7_networks_without_se_and_overrides_have_their_parameters() -> None:
    assert network("resnet50") == network("se_resnet50", se=None)
    assert network("tensorpack.resnet50") == network("tensorpack.resnet50_se", se=None)
    assert network("chainer.resnet_n18") == network("chainer.se_resnet_n18_r8", se=None)
    small = network("se_resnet20", num_classes=7, channels=1)
    assert small.parameter_shapes()["stem.conv1.weight"] == (16, 1, 3, 3)
    assert small.parameter_shapes()["classifier.weight"] == (7, 64)
    assert network("se_resnet50", se=SESpec(64, reduction=8, gate="tanh")).se == SEFields(8, gate="tanh")
    fixed = network("se_resnet50", se=SESpec(64, hidden=12))
    assert fixed.parameter_shapes()["stage4.block0.se.reduce.weight"] == (12, 2048)
    single = network("se_resnet20", se={"single_projection": True})
    assert "stage1.block0.se.reduce.weight" not in single.parameter_shapes()


def test_m5_names_and_shapes_of_se_resnet20_are_canonical() -> None:
    shapes = parameters.shapes(network("se_resnet20"))
    assert [*shapes.items()][:7] == [
        ("stem.conv1.weight", (16, 3, 3, 3)),
        *((f"stem.bn1.{name}", (16,)) for name in ("scale", "offset", "mean", "variance")),
        ("stage1.block0.conv1.weight", (16, 16, 3, 3)),
        ("stage1.block0.bn1.scale", (16,)),
    ]
    assert shapes["stage2.block0.se.reduce.weight"] == (2, 32) and shapes["stage2.block0.se.expand.weight"] == (32, 2)
    assert shapes["stage3.block0.shortcut.conv.weight"] == (64, 32, 1, 1)
    assert [*shapes][-2:] == ["classifier.weight", "classifier.bias"]
    with pytest.raises(ParameterError, match=r"missing stem\.conv1\.weight \(16, 3, 3, 3\)"):
        parameters.check({}, shapes)


@pytest.mark.parametrize("name", ALL)
def test_m8_json_round_trip_is_exact(name: str) -> None:
    net = network(name)
    again = NetworkSpec.from_json(net.to_json())
    assert again == net and hash(again) == hash(net)
    assert again.layers == net.layers
    assert json.loads(net.to_json()) == json.loads(again.to_json())


@pytest.mark.parametrize(
    "se", [{"hidden": 3}, {"single_projection": True}, {"activation": LeakyReLU(0.1), "gain": 2.0}]
)
def test_m8_json_round_trip_of_other_blocks_is_exact(se: dict) -> None:
    net = network("se_resnet20", se=se, se_at="identity")
    assert NetworkSpec.from_json(net.to_json()) == net != network("se_resnet20", se_at="identity")


def test_m8_networks_of_different_ratios_differ() -> None:
    assert network("se_resnet20") != network("se_resnet20", se={"reduction": 8})
    assert len({network(name) for name in ("se_resnet50", "resnet50", "moskomule.se_resnet50")}) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        network("se_resnet20").groups = 2  # type: ignore[misc]


BASIC = Stage(1, 16, (16,), 2)
BOTTLENECK = Stage(1, 64, (16, 16), 2)
STEM = Stem((ConvStep(16, 3),))


def changed_body(**changes: object) -> dict:
    data = network("resnet18").to_dict()
    return {**data, "body": {**data["body"], **changes}}


REFUSED = {
    "name": (lambda: network("se_resnet51"), "se_resnet51.*did you mean se_resnet"),
    "no name": (lambda: network(50), "must be given by its name"),
    "override": (lambda: network("se_resnet50", classes=10), "classes is not a field of this network"),
    "classes": (lambda: network("se_resnet50", num_classes=0), "num_classes=0 is not allowed"),
    "se": (lambda: network("se_resnet50", se=16), "se=16 is not allowed"),
    "se field": (lambda: network("se_resnet50", se={"ratio": 16}), "se=.*ratio.* is not allowed"),
    "se width": (lambda: network("se_resnet50", se={"hidden": 0}), "hidden=0 is not allowed"),
    "place": (lambda: network("se_resnet50", se_at="after"), "se_at='after' is not allowed"),
    "place, pre-activation": (lambda: network("mxnet.se_resnet18", se_at="post"), "se_at='post' is not allowed"),
    "place, Inception": (lambda: network("se_bn_inception", se_at="pre"), "se_at is not a field of this network"),
    "order, Inception": (lambda: network("se_bn_inception", order="pre"), "order is not a field of this network"),
    "shared": (lambda: network("se_resnet50", shortcut=Shortcut(entry="shared")), "shortcut.entry='shared'"),
    "last ReLU": (lambda: network("mxnet.se_resnet18", last_relu=True), "last_relu=True is not allowed"),
    "groups": (lambda: network("se_resnet50", groups=48), "groups=48 is not allowed; it must be a divisor"),
    "groups, basic": (lambda: network("se_resnet18", groups=2), "groups=2 is not allowed; it must be 1"),
    "momentum": (lambda: network("se_resnet50", momentum=1.0), "momentum=1.0 is not allowed"),
    "epsilon": (lambda: network("se_resnet50", epsilon=0), "epsilon=0 is not allowed"),
    "padding": (lambda: network("se_resnet50", padding="valid"), "padding='valid' is not allowed"),
    "stem": (lambda: NetworkSpec("7x7", Residual((BASIC,))), "stem='7x7' is not allowed; it must be a Stem"),
    "no stage": (lambda: Residual(()), r"stages=\(\) is not allowed"),
    "no step": (lambda: Stem(()), r"steps=\(\) is not allowed"),
    "kernel": (lambda: ConvStep(16, 0), "kernel=0 is not allowed"),
    "pool": (lambda: PoolStep("mean"), "pool='mean' is not allowed"),
    "widths": (lambda: Stage(1, 64, (16, 16, 16)), "widths=.* is not allowed"),
    "branches": (lambda: Inception(((((ConvStep(8, 3, 2),), (ConvStep(8, 1),)),),)), "of branches with one stride"),
    "dropout": (lambda: Head(dropout=1.0), "head.dropout=1.0 is not allowed"),
    "before": (lambda: Head(before=("gelu",)), "head.before='gelu' is not allowed"),
    "shortcut": (lambda: Shortcut("sum"), "shortcut.kind='sum' is not allowed"),
    "zeros without a pool": (
        lambda: NetworkSpec(STEM, Residual((BASIC,), Shortcut("zero_pad"))),
        "shortcut.pool=0 is not allowed",
    ),
    "zeros that take away": (
        lambda: NetworkSpec(STEM, Residual((BOTTLENECK, BASIC), Shortcut("zero_pad", pool=1))),
        "'projection' from 64 to 16 channels",
    ),
    "an odd number on both sides": (
        lambda: NetworkSpec(STEM, Residual((Stage(1, 19, (16,), 2),), Shortcut("zero_pad", pool=1, zeros="both"))),
        "'projection' from 16 to 19 channels",
    ),
    "averages over the border": (
        lambda: NetworkSpec(Stem((ConvStep(16, 3), PoolStep("avg"))), Residual((BASIC,)), pool_padding="ceil"),
        "pool_padding='ceil' is not allowed",
    ),
    "not JSON": (lambda: NetworkSpec.from_json("{"), "a network must be JSON"),
    "not a dict": (lambda: NetworkSpec.from_json("[]"), "is not a NetworkSpec"),
    "no stem": (lambda: NetworkSpec.from_dict({"body": {}}), "is not a NetworkSpec"),
    "no body": (lambda: NetworkSpec(STEM, (BASIC,)), "body=.* is not allowed; it must be a Residual or Inception"),
    "family": (lambda: NetworkSpec.from_dict(changed_body(family="dense")), "family is one of residual, inception"),
    "stages": (lambda: NetworkSpec.from_dict(changed_body(stages=4)), "4 must be a list"),
    "a flag of another family": (lambda: NetworkSpec.from_dict(changed_body(modules=())), "is not a Residual"),
    "a step's name": (
        lambda: NetworkSpec.from_dict({**network("resnet18").to_dict(), "stem": {"steps": [{"width": 3}]}}),
        "is not a ConvStep",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_m9_wrong_fields_are_refused(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(SpecError, match=message):
        make()


def test_m9_image_too_small_for_the_strides_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 1\) is too small: nothing is left of it at stem\.pool1"):
        network("se_resnet50").macs((1, 1))
    with pytest.raises(ShapeError, match=r"at stage1\.block2\.concat meet"):
        network("se_bn_inception").macs((216, 216))  # 27 x 27 before the pooling that rounds the other way
    assert network("se_resnet50").macs((33, 65)) > 0


@pytest.mark.framework("torch", "peers")
@pytest.mark.parametrize("name", sorted(name for name in NETWORKS if name.startswith("timm.")))
def test_m7_timms_own_models_have_as_many_parameters_of_the_same_shapes(name: str) -> None:
    _declare_operators_of_torchvision()
    with torch.device("meta"):
        model = timm.create_model(name.removeprefix("timm."))
    theirs = [(*parameter.shape,) for parameter in model.parameters()]
    shapes = network(name).parameter_shapes()
    ours = [shape for path, shape in shapes.items() if not path.endswith((".mean", ".variance"))]
    assert sum(map(prod, theirs)) == network(name).parameter_count()
    assert sorted(map(prod, theirs)) == sorted(map(prod, ours))


def test_describing_networks_imports_nothing_else() -> None:
    code = "import sys, se_spec; se_spec.network('se_resnet50').layers; print('numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_block_imports_no_network() -> None:
    code = "import sys, se_numpy, se_spec; print('se_spec.networks' in sys.modules, callable(se_numpy.senet))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False True"


@pytest.mark.framework("parity")
def test_errors_above_the_limit_are_reported() -> None:
    from evidence.network_errors import NetworkRow

    right = NetworkRow("resnet18", network("resnet18"), double={"torch": 1e-15}, single={"torch": 1e-7, "nnx": 2e-7})
    assert right.faults == []
    for wrong in (2e-9, float("nan")):
        assert len(NetworkRow("resnet18", network("resnet18"), double={"torch": wrong}).faults) == 1
    for wrong in (2.1e-7, float("nan")):
        (fault,) = NetworkRow("resnet18", network("resnet18"), single={"torch": 1e-7, "nnx": wrong}).faults
        assert "nnx in float32" in fault


@pytest.mark.framework("torch", "parity")
def test_networks_are_judged_in_their_processes(workers: Any, tmp_path: Path) -> None:
    from evidence.network_errors import NetworkRow, judge_network, make_cases

    row = NetworkRow("se_resnet20", network("se_resnet20"))
    judge_network(row, {"torch": workers("torch")}, make_cases(row, seeds=2, images=1, folder=tmp_path))
    assert not list(tmp_path.iterdir())
    assert 0 < row.double["torch"] < 1e-13 < 1e-9 < row.single["torch"] < 1e-5


# The page


PAGE = Path(__file__).parents[2] / "docs" / "NETWORKS.md"


def rows_of(heading: str) -> dict[str, list[str]]:
    """Read the table below a heading of the page: cells by network."""
    part = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = (line.strip("|").split("|") for line in part.splitlines() if line.startswith("| `"))
    return {first.strip(" `"): [cell.strip() for cell in rest] for first, *rest in cells}


@pytest.mark.framework("parity")
def test_the_page_has_every_network_in_every_implementation() -> None:
    from evidence.network_errors import ALLOWANCE, JUDGED, LIMIT, make_rows

    wanted = {row.name: row for row in make_rows()}
    assert {name for row in wanted.values() for name in (row.name, *row.also)} == set(NETWORKS)
    facts = rows_of("Sizes")
    assert list(facts) == list(wanted)
    for name, row in wanted.items():
        assert facts[name][0] == ", ".join(f"`{also}`" for also in row.also)
        assert facts[name][1] == f"{row.net.parameter_count():,}"
    for dtype in ("float64", "float32"):
        errors = rows_of(dtype)
        assert list(errors) == list(wanted)
        for cells in errors.values():
            numbers = dict(zip((target.name for target in JUDGED), map(float, cells), strict=True))
            limit = LIMIT if dtype == "float64" else 1.1 * ALLOWANCE * numbers["torch"]  # printed with two digits
            assert all(0 < number <= limit for number in numbers.values())
