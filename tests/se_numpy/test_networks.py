"""``se_numpy.senet`` alone: layers on numbers that a person can check, small networks computed by hand, errors."""

from functools import partial

import numpy as np
import pytest

import se_numpy
from se_numpy import layers
from se_spec import InputError, NetworkSpec, SESpec, ShapeError, SpecError, network, parameters
from se_spec.networks import ConvStep, Head, Inception, PoolStep, Residual, Shortcut, Stage, Stem

from ..small_networks import FAMILIES, assert_drawn, assert_refused

ROW = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
MAP = np.arange(1.0, 13.0).reshape(1, 1, 3, 4)  # 1 2 3 4 / 5 6 7 8 / 9 10 11 12


@pytest.mark.parametrize(
    ("arguments", "y"),
    [
        # The kernel is 1 at its middle row's first column and 100 at the third: left neighbour, and right times 100.
        ({"padding": (1, 1)}, [[200, 301, 402, 3], [600, 705, 806, 7], [1000, 1109, 1210, 11]]),
        ({}, [[705, 806]]),
        ({"stride": 2, "padding": (1, 1)}, [[200, 402], [1000, 1210]]),
        # SAME on 3 x 4 with stride 2: 2 x 2 windows, so one zero on each side of the 3, and one behind the 4.
        ({"stride": 2, "padding": "same"}, [[301, 3], [1109, 11]]),
    ],
)
def test_m2_convolution_is_a_cross_correlation_with_the_given_padding(arguments: dict, y: list) -> None:
    weight = np.zeros((1, 1, 3, 3))
    weight[0, 0, 1] = [1, 0, 100]
    assert layers.convolution(MAP, weight, **arguments)[0, 0].tolist() == y


def test_m5_a_grouped_convolution_takes_neighbouring_channels_and_has_a_bias() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    weight = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]).reshape(4, 2, 1, 1)
    bias = np.array([0.5, 0, 0, 0])
    assert layers.convolution(x, weight, bias, groups=2).ravel().tolist() == [21.5, 42, 129, 172]
    assert (
        layers.convolution(np.repeat(x, 2, 0)[:, :2], weight, bias).tolist()
        == [
            [[[21.5]], [[42]], [[63]], [[84]]],
        ]
        * 2
    )


@pytest.mark.parametrize(
    ("kernel", "padding", "y"),
    [
        (3, (1, 1), [[6, 8], [10, 12]]),
        (3, (0, 1), [[11, 12]]),  # Caffe: 3 rows are one window, 4 columns are two, the second over the border
        (3, "same", [[7, 8], [11, 12]]),  # one row before, none behind but one; columns only behind
        (2, (0, 0), [[6, 8]]),
        (1, (0, 0), [[1, 3], [9, 11]]),
    ],
)
def test_m2_maxima_ignore_padding(kernel: int, padding: object, y: list) -> None:
    assert layers.max_pool(MAP, kernel, 2, padding)[0, 0].tolist() == y
    lowest = layers.max_pool(MAP - 100.0, kernel, 2, padding)[0, 0]
    assert lowest.tolist() == [[value - 100 for value in row] for row in y]


@pytest.mark.parametrize(
    ("kernel", "padding", "counted", "y"),
    [
        (2, "same", True, [[3.5, 5.5], [19 / 4, 23 / 4]]),
        (2, "same", False, [[3.5, 5.5], [9.5, 11.5]]),
        (3, (1, 1), True, [[14 / 9, 30 / 9], [30 / 9, 54 / 9]]),
        (3, (1, 1), False, [[14 / 4, 30 / 6], [30 / 4, 54 / 6]]),
        (1, "same", False, [[1, 3], [9, 11]]),
    ],
)
def test_m2_m4_averages_count_padding_on_request(kernel: int, padding: object, counted: bool, y: list) -> None:
    got = layers.avg_pool(MAP, kernel, 2, padding, count_padding=counted)[0, 0]
    np.testing.assert_allclose(got, y, rtol=1e-15)


def test_the_other_layers() -> None:
    x = np.array([[[[-1.0, 3.0]], [[2.0, np.nan]]]])
    assert layers.relu(x)[0, 0].tolist() == [[0, 3]]
    assert np.isnan(layers.relu(x)).sum() == np.isnan(layers.max_pool(x, 1, 1, (0, 0))).sum() == 1
    assert layers.zero_channels(x[:, :1], 1, 2).tolist() == [[[[0, 0]], [[-1, 3]], [[0, 0]], [[0, 0]]]]
    assert layers.global_pool(x[:, :1]).tolist() == [[1]]
    each = [np.array(values) for values in ([2.0, 1.0], [0.5, 0.0], [1.0, 2.0], [3.0, 0.0])]
    # (-1 - 1) / 2 * 2 + 0.5 and (3 - 1) / 2 * 2 + 0.5; (2 - 2) / 1 * 1
    y = layers.batch_norm(x, *each, epsilon=1.0)
    assert y[0, 0].tolist() == [[-1.5, 2.5]]
    assert y[0, 1, 0, 0] == 0


# Whole networks, small enough to compute by hand: one channel, every convolution 1x1 or its middle alone


ONE = Stem((ConvStep(1, 1),), norm=False)
UNIT = Stage(1, 1, (1,))


def middle(value: float) -> np.ndarray:
    weight = np.zeros((1, 1, 3, 3))
    weight[0, 0, 1, 1] = value
    return weight


def by_hand(order: str, se_at: str = "standard", **fields: object) -> tuple[NetworkSpec, dict[str, np.ndarray]]:
    """The stem multiplies by 2, the branch by 3 and 5, batch norms are the identity, and the classifier is 7 z + 1."""
    se = SESpec(1, hidden=1, gate="identity")
    facts = {"se": se, "num_classes": 1, "channels": 1, "epsilon": 1e-300, **fields}
    net = NetworkSpec(ONE, Residual((UNIT,), order=order, se_at=se_at), **facts)
    values = {name: np.ones(shape) for name, shape in parameters.shapes(net).items()}
    values |= {name: np.zeros(1) for name in values if name.endswith((".mean", ".offset"))}
    values["stem.conv1.weight"] *= 2
    values["stage1.block0.conv1.weight"], values["stage1.block0.conv2.weight"] = middle(3), middle(5)
    values["classifier.weight"] *= 7
    return net, values


@pytest.mark.parametrize(
    ("order", "se_at", "pooled"),
    [
        # The image is 1 and 3: the stem gives 2 and 6, mean 4. The branch is 15 times that, and SE, whose gate is the
        # mean itself, multiplies by the mean.
        ("post", "standard", 15 * 4 * 60 + 4),
        ("post", "pre", 15 * 4 * 4 + 4),
        ("post", "post", 16 * 4 * 16 * 4),
        ("post", "identity", 15 * 4 + 4 * 4),
        ("pre", "standard", 15 * 4 * 60 + 4),
    ],
)
def test_m1_m3_unit_equals_a_hand_computation(order: str, se_at: str, pooled: float) -> None:
    net, values = by_hand(order, se_at)
    x = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    for data_format, image in (("channels_first", x), ("channels_last", np.moveaxis(x, 1, -1))):
        logits = se_numpy.senet(image, net, values, data_format=data_format)
        assert logits.dtype == np.float64
        np.testing.assert_allclose(logits, [[7 * pooled + 1]], rtol=1e-14)


def test_gates_of_a_unit_equal_a_hand_computation() -> None:
    net, values = by_hand("post")
    x = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    found = se_numpy.networks.gates(x, net, values, data_format="channels_last")
    assert {name: g.tolist() for name, g in found.items()} == {"stage1.block0.se": [[15 * 4]]}  # the mean itself


def test_m4_a_shortcut_that_averages_and_adds_channels() -> None:
    # Stride 2 on a 3 x 1 image of 1, 3, 8: averages 2 and 8 (the border is not counted), and a channel of zeros.
    stage = Stage(1, 2, (1,), 2)
    net = NetworkSpec(ONE, Residual((stage,), Shortcut("zero_pad", pool=2)), num_classes=2, channels=1)
    values = {name: np.zeros(shape) for name, shape in parameters.shapes(net).items()}
    values["stem.conv1.weight"][...] = 1
    values["classifier.weight"][...] = np.eye(2)
    x = np.array([1.0, 3.0, 8.0]).reshape(1, 3, 1, 1)
    assert se_numpy.senet(x, net, values, data_format="channels_last").tolist() == [[5, 0]]


def test_m1_branches_of_an_inception_module_in_order() -> None:
    module = ((ConvStep(1, 1),), (PoolStep("max", 3, 1),), (PoolStep("avg", 3, 1), ConvStep(1, 1)))
    net = NetworkSpec(ONE, Inception(((module,),)), num_classes=3, channels=1, epsilon=1e-300)
    values = {name: np.ones(shape) for name, shape in parameters.shapes(net).items()}
    values |= {
        name: np.zeros(shape) for name, shape in parameters.shapes(net).items() if name.endswith(("mean", "offset"))
    }
    values["classifier.weight"], values["classifier.bias"] = np.eye(3), np.zeros(3)
    # 9 and 27 side by side: mean 18; maximum 27 twice; the average counts nine positions: 4 and 4
    x = np.array([9.0, 27.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(se_numpy.senet(x, net, values, data_format="channels_last"), [[18, 27, 4]], rtol=1e-14)


def test_m1_a_convolution_as_classifier_is_pooled_after_it() -> None:
    net, values = by_hand("post", head=Head("conv"))
    values["classifier.weight"] = values["classifier.weight"].reshape(1, 1, 1, 1)
    x = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    got = se_numpy.senet(x, net, values, data_format="channels_first")
    np.testing.assert_allclose(got, [[7 * (15 * 4 * 60 + 4) + 1]], rtol=1e-14)


def test_v1_v2_v5_samples_are_independent_and_nothing_is_modified() -> None:
    net = network("se_resnet20", num_classes=7)
    values = se_numpy.initialize(net, seed=3)
    x = np.random.default_rng(0).normal(size=(3, 9, 13, 3)).astype("float32")
    before = (x.tobytes(), {name: value.tobytes() for name, value in values.items()})
    logits = se_numpy.senet(x, net, values, data_format="channels_last")
    assert (x.tobytes(), {name: value.tobytes() for name, value in values.items()}) == before
    one = se_numpy.senet(x[1:2], net, values, data_format="channels_last")
    np.testing.assert_allclose(one, logits[1:2], rtol=0, atol=1e-13 * abs(logits).max())
    assert len(np.unique(logits)) == 21
    assert se_numpy.senet(x[:0], net, values, data_format="channels_last").shape == (0, 7)


def test_n3_nan_and_inf_stay_in_their_sample() -> None:
    net = network("se_resnet20")
    x = np.ones((2, 8, 8, 3))
    x[1, 3, 3, 0] = np.nan
    logits = se_numpy.senet(x, net, se_numpy.initialize(net, seed=0), data_format="channels_last")
    assert np.isnan(logits).tolist() == [[False] * 10, [True] * 10]


# New parameters


def test_m10_new_parameters_have_the_documented_distributions() -> None:
    net = FAMILIES["senet154"]
    drawn = se_numpy.initialize(net, seed=0)
    assert {name: value.shape for name, value in drawn.items()} == parameters.shapes(net)
    assert {value.dtype.name for value in drawn.values()} == {"float32"}
    normal = {
        "stem.conv2.weight": 2 / (9 * 64),
        "stage3.block0.conv1.weight": 2 / 512,
        "stage3.block0.conv2.weight": 2 / (9 * 1024 / 64),  # 64 groups: a value reaches 1024 / 64 channels
    }
    uniform = {"stage4.block0.se.reduce.bias": 2048, "stage4.block0.se.expand.weight": 128, "classifier.weight": 2048}
    assert_drawn(drawn, normal, uniform)


def test_m10_biases_of_convolutions_and_a_seed_that_decides() -> None:
    net = network("chainer.se_resnet_n2_r16")
    drawn, again, other = (se_numpy.initialize(net, seed, dtype="float64") for seed in (0, 0, 1))
    assert 0.8 < abs(drawn["stage3.block1.conv2.bias"]).max() * (9 * 64) ** 0.5 <= 1
    name = "stage3.block1.conv3.weight"
    assert drawn[name].tobytes() == again[name].tobytes() != other[name].tobytes()


# Refusals


NET = network("se_resnet20")


@pytest.mark.parametrize(
    ("x", "error", "facts"),
    [
        (np.ones((1, 8, 3)), ShapeError, ["(1, 8, 3)", "C = 3", "2 spatial axes (rank 4)", "rank 3"]),
        (np.ones((1, 3, 8, 8)), ShapeError, ["(1, 3, 8, 8)", "C = 3", "8 channels", "channels_last"]),
        (np.ones((1, 0, 8, 3)), ShapeError, ["empty spatial axis 1"]),
        (np.ones((1, 8, 8, 3), int), InputError, ["int64", "float32"]),
        ([[1.0]], InputError, ["list", "numpy.ndarray"]),
    ],
)
def test_x1_x2_x3_x4_x5_wrong_images_are_refused(x: object, error: type, facts: list[str]) -> None:
    with pytest.raises(error) as caught:
        se_numpy.senet(x, NET, se_numpy.initialize(NET, seed=0), data_format="channels_last")
    for fact in facts:
        assert fact in str(caught.value)


def test_m9_image_too_small_for_the_strides_is_refused() -> None:
    net = network("se_resnet50", num_classes=2)
    with pytest.raises(ShapeError, match=r"too small: nothing is left of it at stem\.pool1"):
        se_numpy.senet(np.ones((1, 1, 1, 3)), net, se_numpy.initialize(net, seed=0), data_format="channels_last")


def test_x6_wrong_data_format_is_refused() -> None:
    values = se_numpy.initialize(NET, seed=0)
    with pytest.raises(TypeError, match="data_format"):
        se_numpy.senet(np.ones((1, 8, 8, 3)), NET, values)
    with pytest.raises(SpecError, match="'channels_first', 'channels_last'"):
        se_numpy.senet(np.ones((1, 8, 8, 3)), NET, values, data_format="NHWC")


def test_k2_parameters_that_do_not_fit_are_all_named() -> None:
    asked = partial(se_numpy.senet, np.ones((1, 8, 8, 3)), NET, data_format="channels_last")
    assert_refused(lambda wrong: asked(parameters=wrong), se_numpy.initialize(NET, seed=0))
