"""``se_port`` on whole networks: names typed from the sources, every layout there and back, and what is refused."""

import dataclasses
import itertools

import ml_dtypes
import numpy as np
import pytest

import se_numpy
import se_port
from se_port.canonical import to_layout
from se_port.detect import networks
from se_port.layouts.base import PEER
from se_port.layouts.mapping import map_network
from se_port.layouts.networks import NETWORK_LAYOUTS
from se_spec import LayoutError, NetworkSpec, network, parameters
from se_spec.networks import NETWORKS

from ..small_networks import as_bytes

# Typed by hand from the prototxts, symbols and scripts, not from the tables: name, shape.
GOLDEN = {
    ("caffe", "se_resnet50"): {
        "conv1/7x7_s2:0": (64, 3, 7, 7),
        "conv1/7x7_s2/bn:2": (1,),
        "conv2_1_1x1_reduce:0": (64, 64, 1, 1),
        "conv2_1_1x1_reduce/bn/scale:1": (64,),
        "conv2_1_1x1_down:0": (16, 256, 1, 1),
        "conv2_1_1x1_up:1": (256,),
        "conv3_1_1x1_proj:0": (512, 256, 1, 1),
        "conv5_3_3x3/bn:1": (512,),
        "conv5_3_1x1_increase:0": (2048, 512, 1, 1),
        "classifier:0": (1000, 2048),
        "classifier:1": (1000,),
    },
    ("caffe.senet154", "senet154"): {
        "conv1_1/3x3_s2:0": (64, 3, 3, 3),
        "conv1_3/3x3/bn/scale:0": (128,),
        "conv3_1_1x1_proj:0": (512, 256, 3, 3),
        "conv4_36_3x3:0": (1024, 8, 3, 3),
    },
    ("caffe.bn_inception", "se_bn_inception"): {
        "conv2/3x3_reduce:0": (64, 64, 1, 1),
        "inception_3a/1x1:0": (64, 192, 1, 1),
        "inception_3a/double3x3b/bn:0": (96,),
        "inception_3c/3x3_reduce:0": (128, 320, 1, 1),
        "inception_3c_1x1_down:0": (36, 576, 1, 1),
        "inception_4e/double3x3b:0": (256, 256, 3, 3),
        "inception_5b/pool_proj:0": (128, 1024, 1, 1),
        "inception_5b_1x1_up:0": (1024, 64, 1, 1),
    },
    ("matconvnet", "se_resnet50"): {
        "conv1_7x7_s2_filter": (7, 7, 3, 64),
        "conv1_7x7_s2_bn_mult": (64, 1),
        "conv1_7x7_s2_bn_moments": (64, 2),
        "conv2_1_1x1_down_filter": (1, 1, 256, 16),
        "conv2_1_1x1_up_bias": (256, 1),
        "classifier_filter": (1, 1, 2048, 1000),
    },
    ("shicai", "shicai.se_resnet50"): {
        "conv1:0": (64, 3, 7, 7),
        "conv2_1/x1/bn:0": (64,),
        "conv2_1/x1/scale:0": (64,),
        "conv2_1/prj:0": (256, 64, 1, 1),
        "fc2_1/sqz:0": (16, 256),
        "fc2_1/exc:0": (256, 16),
        "fc6:0": (1000, 2048, 1, 1),
    },
    ("tensorpack", "tensorpack.resnet50_se"): {
        "conv0/W": (7, 7, 3, 64),
        "conv0/bn/mean/EMA": (64,),
        "group0/block0/fc1/W": (256, 16),
        "group0/block0/fc2/b": (256,),
        "group3/block2/conv3/bn/gamma": (2048,),
        "group1/block0/convshortcut/W": (1, 1, 256, 512),
        "linear/W": (2048, 1000),
    },
    ("mxnet", "mxnet.se_resnext50_32x4d"): {
        "arg:bn_data_beta": (3,),
        "aux:bn_data_moving_var": (3,),
        "arg:conv0_weight": (64, 3, 7, 7),
        "arg:stage1_unit1_conv1_weight": (128, 64, 1, 1),
        "arg:stage1_unit1_excitation1_weight": (16, 256),
        "aux:stage1_unit1_sc_bn_moving_mean": (256,),
        "arg:fc1_weight": (1000, 2048),
    },
    ("mxnet", "mxnet.se_resnet50"): {"arg:bn1_gamma": (2048,), "arg:stage1_unit1_sc_weight": (256, 64, 1, 1)},
    ("moskomule", "moskomule.se_resnet50"): {
        "layer1.0.se.fc.0.weight": (16, 256),
        "layer1.0.se.fc.2.weight": (256, 16),
        "layer4.2.bn3.running_var": (2048,),
        "layer2.0.downsample.0.weight": (512, 256, 1, 1),
        "fc.bias": (1000,),
    },
    ("chainer", "chainer.se_resnet_n18_r16"): {
        "conv1/b": (16,),
        "res_block1/skip_bn/gamma": (16,),
        "res_block1/bn_relu_conv1_1/conv/W": (16, 16, 1, 1),
        "res_block1/se_block_1/f1/W": (4, 64),
        "res_block3/bn_relu_conv3_18/bn/avg_var": (64,),
        "bn_relu_conv/conv/W": (10, 256, 1, 1),
    },
    ("taki", "taki.se_resnext_cifar"): {
        "conv2d/kernel": (3, 3, 3, 64),
        "first_layer_batch1/moving_mean": (64,),
        "conv2d_153/kernel": (1, 1, 512, 256),
        "split_layer_1_0_splitN_3_batch1/beta": (64,),
        "trans_layer_3_2_batch1/gamma": (256,),
        "dense/kernel": (64, 16),
        "dense_1/kernel": (16, 64),
        "dense_18/kernel": (256, 10),
    },
    ("timm.legacy", "timm.legacy_senet154"): {
        "layer0.conv3.weight": (128, 64, 3, 3),
        "layer1.0.se_module.fc1.weight": (16, 256, 1, 1),
        "last_linear.weight": (1000, 2048),
    },
    ("timm", "timm.seresnet50"): {"layer1.0.se.fc1.weight": (16, 256, 1, 1), "fc.weight": (1000, 2048)},
}
COUNTS = {  # of tensors in the file, as the sources say
    ("tensorpack", "tensorpack.resnet50_se"): 331,
    ("moskomule", "moskomule.se_resnet50"): 352,
}
OF = {name: row.networks[0] if row.networks else "se_resnet50" for name, row in NETWORK_LAYOUTS.items()}
every_layout = pytest.mark.parametrize("layout", NETWORK_LAYOUTS)


def cut(name: str) -> NetworkSpec:
    """Cut a network to two stages of two units, except where every layer is numbered or different."""
    net = network(name.replace("n18", "n2"), num_classes=7)
    if name.startswith(("taki.", "chainer.", "se_bn")):
        return net
    return net.replace(stages=[dataclasses.replace(stage, units=2) for stage in net.body.stages[:2]])


def drawn(net: NetworkSpec, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Draw different numbers, with positive variances, a negative zero and a NaN with a payload."""
    random = np.random.default_rng(0)
    values = {}
    for name, shape in parameters.shapes(net).items():
        value = random.uniform(0.5, 1.5, shape).astype(dtype)
        bits = value.reshape(-1).view({2: np.uint16, 4: np.uint32, 8: np.uint64}[value.itemsize])
        bits[0] = 1 << (8 * value.itemsize - 1)
        if bits.size > 1 and not name.endswith(("mean", "variance")):
            bits[1] = ((1 << value.itemsize) - 1) << (7 * value.itemsize) | 5  # all exponents are 1: NaN
        values[name] = value
    return values


@pytest.mark.parametrize(("layout", "name"), GOLDEN)
def test_names_and_shapes_are_those_typed_from_the_sources(layout: str, name: str) -> None:
    made = map_network(network(name), NETWORK_LAYOUTS[layout], layout)
    assert {key: made.shapes.get(key) for key in GOLDEN[layout, name]} == GOLDEN[layout, name]
    if (layout, name) in COUNTS:
        assert len(made.shapes) + len(made.constants) == COUNTS[layout, name]


def test_every_layout_of_a_system_has_typed_names() -> None:
    ours = {"canonical", "se_torch", "se_keras", "se_flax", "se_flax.linen"}
    assert {layout for layout, _ in GOLDEN} >= {name for name in NETWORK_LAYOUTS if "." not in name} - ours
    assert {name for row in NETWORK_LAYOUTS.values() for name in row.networks} <= set(NETWORKS)
    kept = {name for row in NETWORK_LAYOUTS.values() for name in row.networks if not row.source.startswith("se_")}
    with_se = {name for name in NETWORKS if network(name).se is not None}
    missing = with_se - kept - {"se_resnet18", "se_resnet34", "chainer.se_resnet_n18_r8"}  # no source, any r
    assert not missing, f"no system's layout has {missing}"


def test_takis_layers_are_numbered_in_order_of_creation() -> None:
    """The script makes a stem, then in each unit eight branches of two convolutions, one more, and two dense layers."""
    convs = itertools.count()
    expected = {"stem.conv1": [next(convs)]}
    for stage, block in itertools.product((1, 2, 3), range(3)):
        unit = f"stage{stage}.block{block}"
        for _ in range(8):
            expected.setdefault(f"{unit}.conv1", []).append(next(convs))
            expected.setdefault(f"{unit}.conv2", []).append(next(convs))
        expected[f"{unit}.conv3"] = [next(convs)]
    made = map_network(network("taki.se_resnext_cifar"), NETWORK_LAYOUTS["taki"], "taki")
    for module, numbers in expected.items():
        names = [f"conv2d_{number}/kernel" if number else "conv2d/kernel" for number in numbers]
        assert [entry.name for entry in made.entries[f"{module}.weight"]] == names


@every_layout
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_l2_layout_round_trip_is_exact(layout: str, dtype: str) -> None:
    net = cut(OF[layout])
    values = drawn(net, dtype)
    tensors = dict(to_layout(values, net, layout).tensors)
    back = se_port.load(tensors, net, layout)
    exact = {name for name in values if not (layout.startswith("matconvnet") and name.endswith("variance"))}
    assert as_bytes({name: back[name] for name in exact}) == as_bytes({name: values[name] for name in exact})
    for name in values.keys() - exact:  # sigma and back, to a unit or so
        value = values[name].astype(np.float64)
        assert abs(back[name] - value).max() <= 4 * np.finfo(dtype).eps * 1.5
    again = dict(to_layout(back, net, layout).tensors)
    assert list(again) == list(tensors)
    if not layout.startswith("matconvnet"):
        assert as_bytes(again) == as_bytes(tensors)


@pytest.mark.parametrize("other", ["se_torch", "se_keras", "se_flax", "se_flax.linen"])
@every_layout
def test_l2_round_trip_through_a_second_layout_is_exact(layout: str, other: str) -> None:
    net = cut(OF[layout])
    values = {name: value.astype(ml_dtypes.bfloat16) for name, value in drawn(net, "float16").items()}
    theirs = dict(to_layout(values, net, layout).tensors)
    ours = dict(to_layout(se_port.load(theirs, net, layout), net, other).tensors)
    back = dict(to_layout(se_port.load(ours, net, other), net, layout).tensors)
    same = {name for name in theirs if not name.endswith("_moments")}
    assert as_bytes({name: back[name] for name in same}) == as_bytes({name: theirs[name] for name in same})


def test_l2_caffes_statistics_are_divided_by_the_stored_factor() -> None:
    net = cut("se_resnet50")
    values = drawn(net)
    theirs = dict(to_layout(values, net, "caffe").tensors)
    for name in theirs:
        if name.endswith("/bn:2"):
            theirs[name] = np.array([999.98], np.float32)
    back = se_port.load(theirs, net)
    mean = theirs["conv1/7x7_s2/bn:0"].astype(np.float64) / float(np.float32(999.98))
    assert np.array_equal(back["stem.bn1.mean"], mean.astype(np.float32))
    theirs["conv1/7x7_s2/bn:2"] = np.zeros(1, np.float32)  # not yet trained
    assert not se_port.load(theirs, net)["stem.bn1.mean"].any()


def test_l2_matconvnet_stores_sigma_with_epsilon_and_an_rgb_filter() -> None:
    net = cut("se_resnet50")
    values = drawn(net)
    theirs = dict(to_layout(values, net, "matconvnet").tensors)
    moments = theirs["conv1_7x7_s2_bn_moments"]
    assert np.array_equal(moments[:, 0], values["stem.bn1.mean"])
    assert np.allclose(moments[:, 1] ** 2 - 1e-5, values["stem.bn1.variance"], rtol=1e-6)
    first, second = theirs["conv1_7x7_s2_filter"], theirs["conv2_1_3x3_filter"]
    assert np.array_equal(first[2, 5, 0], values["stem.conv1.weight"][:, 2, 2, 5], equal_nan=True)
    assert np.array_equal(second[1, 2, 0], values["stage1.block0.conv2.weight"][:, 0, 1, 2], equal_nan=True)
    squeezed = {name: value.reshape(-1) if value.shape[-1] == 1 else value for name, value in theirs.items()}
    assert np.array_equal(se_port.load(squeezed, net)["stem.bn1.mean"], values["stem.bn1.mean"])


def test_l1_extra_tensors_are_written_and_ignored_on_load() -> None:
    net = cut("mxnet.se_resnext50_32x4d")
    theirs = dict(to_layout(drawn(net), net, "mxnet").tensors)
    assert np.array_equal(theirs["arg:bn_data_gamma"], np.ones(3, np.float32))
    theirs["arg:bn_data_gamma"] = np.full(3, 7.0, np.float32)  # whatever stands there, it counts as 1
    assert se_port.load(theirs, net).keys() == parameters.shapes(net).keys()
    state = to_layout(drawn(net), net, "se_torch").tensors
    assert state["stem.bn1.num_batches_tracked"].dtype == np.int64
    assert state["stem.bn1.num_batches_tracked"].shape == ()


@every_layout
def test_network_is_recognised_with_its_classes_channels_and_ratio(layout: str) -> None:
    name = OF[layout]
    changes = {} if name.startswith(("chainer.", "taki.")) else {"channels": 1}
    net = network(name, num_classes=7, **changes)
    net = net.replace(se=dataclasses.replace(net.se, reduction=8))
    shapes = map_network(net, NETWORK_LAYOUTS[layout], layout).shapes
    for prefix in ("", "module."):
        found = networks.match_networks({prefix + key: shape for key, shape in shapes.items()})
        assert {(known.layout, known.prefix) for known in found} == {(layout, prefix)}
        assert net in [known.net for known in found]
        assert name in [known.name for known in found]
    if network(name).replace(se=None) in map(network, NETWORKS):
        plain = net.replace(se=None)
        found = networks.match_networks(map_network(plain, NETWORK_LAYOUTS[layout], layout).shapes)
        assert plain in [known.net for known in found]


def test_l3_ambiguous_network_is_an_error() -> None:
    net = network("se_resnet50")
    shapes = map_network(net, NETWORK_LAYOUTS["canonical"], "canonical").shapes
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    with pytest.raises(LayoutError, match=r"may be se_resnet50, .*shicai\.se_resnet50.*; say which"):
        se_port.load(zeros)
    assert se_port.load(zeros, "shicai.se_resnet50").keys() == parameters.shapes(net).keys()


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda theirs: theirs.pop("layer1.0.bn1.weight"), ["missing layer1.0.bn1.weight (64,)"]),
        (lambda theirs: theirs.update(extra=np.zeros(3)), ["left over 'extra' (3,)"]),
        (
            lambda theirs: theirs.update({"fc.weight": np.zeros((2048, 7))}),
            ["fc.weight has shape (2048, 7), expected (7, 2048)"],
        ),
    ],
    ids=["missing", "left over", "transposed"],
)
def test_l1_missing_left_over_and_misshapen_tensors_are_named(change, facts) -> None:
    net = network("moskomule.se_resnet50", num_classes=7)
    made = map_network(net, NETWORK_LAYOUTS["moskomule"], "moskomule")
    theirs = {name: np.broadcast_to(np.float32(0), shape) for name, shape in made.shapes.items()}
    change(theirs)
    for layout in ("auto", "moskomule"):
        with pytest.raises(LayoutError) as caught:
            se_port.load(theirs, net, layout)
        for fact in ("layout 'moskomule' does not fit", *facts):
            assert fact in str(caught.value)
    if "extra" not in theirs:
        assert facts[0] in se_port.inspect(theirs).problem or "fc.weight" in facts[0]


def test_integer_tensor_is_no_parameter() -> None:
    net = cut("tensorpack.resnet50_se")
    theirs = dict(to_layout(drawn(net), net, "tensorpack").tensors)
    theirs["conv0/W"] = np.zeros(theirs["conv0/W"].shape, np.int64)
    with pytest.raises(LayoutError, match="conv0/W has dtype int64, expected one of float16, bfloat16, float32"):
        se_port.load(theirs, net)


def test_unknown_layout_and_network_without_place_are_errors() -> None:
    net = network("se_resnet18", num_classes=7)
    with pytest.raises(LayoutError, match="layout 'cafe' is no network's; expected auto or one of canonical"):
        se_port.load({}, net, "cafe")
    with pytest.raises(LayoutError, match=r"layout 'moskomule' keeps .* this is another network"):
        to_layout({}, network("mxnet.se_resnet50"), "moskomule")
    with pytest.raises(LayoutError, match=r"layout 'caffe' keeps se_bn_inception"):
        to_layout({}, net, "caffe")


@pytest.mark.framework("torch", "peers")
@pytest.mark.parametrize("name", ["legacy_seresnet18", "legacy_seresnext50_32x4d", "seresnet50"])
def test_timms_state_round_trips_exactly(name: str) -> None:
    from evidence.peer_blocks import _declare_operators_of_torchvision

    _declare_operators_of_torchvision()
    import timm

    theirs = timm.create_model(name, num_classes=7).eval()
    values = se_port.load(theirs.state_dict())
    back = to_layout(
        values, network(f"timm.{name}", num_classes=7), "timm.legacy" if "legacy" in name else "timm"
    ).tensors
    state = theirs.state_dict()
    assert set(back) == set(state)
    assert all(back[key].tobytes() == state[key].numpy().tobytes() for key in back)


def test_layouts_marked_peer_ran_are_run_in_the_tests() -> None:
    ran = {"canonical", "se_torch", "se_keras", "se_flax", "se_flax.linen", "timm", "timm.legacy"}
    assert {name for name, row in NETWORK_LAYOUTS.items() if row.verified == PEER} == ran


def test_oracle_answers_alike_before_and_after_a_port() -> None:
    net = network("taki.se_resnext_cifar", num_classes=7)
    values = se_numpy.initialize(net, seed=0)
    x = np.random.default_rng(0).normal(size=(1, 9, 14, 3))
    back = se_port.load(dict(to_layout(values, net, "taki").tensors), net)
    one, other = (se_numpy.senet(x, net, given, data_format="channels_last") for given in (values, back))
    assert np.array_equal(one, other)
