"""``se_flax.SENet``, NNX and linen, matches the oracle, and works with Flax' and JAX' tools."""

from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest

import se_numpy
from se_conformance.cases import round_to
from se_numpy import layers as oracle_layers
from se_parity.implementations import load_module
from se_spec import InputError, ParameterError, parameters
from se_spec.networks import Stage

from ..conftest import QUICKLY, OnDemand
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
    refused_channels_last,
    weights_of,
)
from .trees import assert_restored_to_the_bit, bits

pytestmark = pytest.mark.framework("flax")
flax, jax, nnx, se_flax = OnDemand("flax"), OnDemand("jax"), OnDemand("flax.nnx"), OnDemand("se_flax")

APIS = ("nnx", "linen")
both = pytest.mark.parametrize("api", APIS)
every_kind = pytest.mark.parametrize("net", [INCEPTION, BOTTLENECKS, ZEROS], ids=["Inception", "bottlenecks", "zeros"])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


class Network(NamedTuple):
    """A network of either API as functions of its state."""

    state: Any
    forward: Any
    """Maps state and x to logits."""
    step: Any
    """Maps state, x and a seed to the logits of training and the new state."""
    gradient: Any
    """Maps state, x and a seed to the nested gradient of a loss in training."""
    canonical: Any
    """Maps a state to canonical parameters."""


def build(api, net, values, param_dtype="float64", dtype=None):
    return {"nnx": nnx_network, "linen": linen_network}[api](net, values, param_dtype=param_dtype, dtype=dtype)


@cache
def abstract_model(net, **dtypes):
    return nnx.eval_shape(lambda: se_flax.SENet(net, rngs=nnx.Rngs(0), **dtypes))


def nnx_model(net, values, **dtypes):
    model = nnx.clone(abstract_model(net, **dtypes))
    se_flax.set_parameters(model, values)
    nnx.reseed(model, default=0)
    return model


def nnx_network(net, values, **dtypes):
    model = nnx_model(net, values, **dtypes)
    training = nnx.graphdef(model)
    model.eval()
    inference, state, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)

    def step(state, x, seed):
        model = nnx.merge(training, state, rest, copy=True)
        nnx.reseed(model, default=jax.random.key(seed))
        return model(x), nnx.state(model, (nnx.Param, nnx.BatchStat))

    def gradient(state, x, seed):
        def loss(learned):
            return (step(nnx.merge_state(learned, statistics), x, seed)[0] ** 2).sum()

        learned, statistics = nnx.split_state(state, nnx.Param, ...)
        return nnx.to_pure_dict(jax.grad(loss)(learned))

    def forward(state, x):
        return nnx.merge(inference, state, rest)(x)

    def canonical(state):
        return se_flax.get_parameters(nnx.merge(inference, state, rest))

    return Network(state, forward, step, gradient, canonical)


def linen_network(net, values, **dtypes):
    model = se_flax.linen.SENet(net, **dtypes)

    def step(state, x, seed):
        keys = {"dropout": jax.random.key(seed)}
        logits, changed = model.apply(state, x, train=True, mutable=["batch_stats"], rngs=keys)
        return logits, {**state, **changed}

    def gradient(state, x, seed):
        def loss(learned):
            return (step({**state, "params": learned}, x, seed)[0] ** 2).sum()

        return jax.grad(loss)(state["params"])

    def canonical(state):
        return se_flax.linen.get_parameters(state, model)

    return Network(se_flax.linen.set_parameters(model, values), model.apply, step, gradient, canonical)


def quickly(function):
    """Compile in half the time, to slower code."""
    return jax.jit(function, compiler_options=QUICKLY)


def last(x):
    """Draw images, channels last."""
    return np.moveaxis(x, 1, -1)


def as_linen(state):
    """Convert NNX's state to linen's variables: the same names, in two collections."""
    variables = {}
    for path, leaf in nnx.to_flat_state(state):
        collection = "batch_stats" if isinstance(leaf, nnx.BatchStat) else "params"
        variables[(collection, *path)] = leaf[...]
    return flax.traverse_util.unflatten_dict(variables)


# The right answer


@every_family
def test_m1_m7_every_family_matches_the_oracle(name):
    net = FAMILIES[name]
    values, x = weights_of(net), images(net, *SIZES.get(name, (33, 41)), samples=1)
    want = se_numpy.senet(x, net, values, data_format="channels_first")
    network, linen = build("nnx", net, values), se_flax.linen.SENet(net, param_dtype="float64")

    def logits(state, x):  # of one state, so that XLA compiles once what is the same in both
        return network.forward(state, x), linen.apply(as_linen(state), x)

    for got in quickly(logits)(network.state, last(x)):
        assert got.dtype == np.float64
        assert difference(got, want) < 1e-12


@every_small_one
@pytest.mark.parametrize("size", [(23, 30), (16, 9)])
def test_m2_m3_m4_every_padding_place_and_shortcut_matches_the_oracle(net, size):
    values, x = weights_of(net), images(net, *size)
    want = se_numpy.senet(x, net, values, data_format="channels_first")
    networks = [build(api, net, values) for api in APIS]
    one, other = (np.asarray(quickly(network.forward)(network.state, last(x))) for network in networks)
    assert difference(one, want) < 1e-12
    assert bits(one) == bits(other)


@both
def test_eager_and_compiled_networks_match_the_oracle(api):
    net, values, x = INCEPTION, weights_of(INCEPTION), images(INCEPTION, 23, 30)
    want = se_numpy.senet(x, net, values, data_format="channels_first")
    network = build(api, net, values)
    assert difference(network.forward(network.state, last(x)), want) < 1e-12
    assert difference(load_module("flax").network(net, "float64", api=api, mode="jit")(values)(last(x)), want) < 1e-12


@both
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_n2_logits_have_the_dtype_of_x_or_the_given_one(api, dtype, tolerance):
    net = INCEPTION
    values, x = weights_of(net), images(net, 23, 30)
    want = se_numpy.senet(x, net, values, data_format="channels_first")
    own, asked = build(api, net, values, dtype), build(api, net, values, "float32", dtype)
    for network, given in ((own, jax.numpy.asarray(last(x), dtype)), (asked, last(x).astype("float32"))):
        got = quickly(network.forward)(network.state, given)
        assert got.dtype == dtype
        assert difference(got, want) < tolerance


@both
def test_n4_products_are_never_tf32(api):
    network = build(api, BOTTLENECKS, weights_of(BOTTLENECKS))
    text = str(jax.make_jaxpr(network.forward)(network.state, last(images(BOTTLENECKS, 17, 20))))
    products = sum(len(shape) in (2, 4) for shape in parameters.shapes(BOTTLENECKS).values())
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products
    assert text.count("conv_general_dilated[") + text.count("dot_general[") == products


@both
def test_n3_nan_stays_in_its_sample(api):
    net = INCEPTION.replace(channels=16)  # where it has 16 channels and more XLA drops NaN from a 2 x 2 window
    x = images(net, 16, 16, samples=3)
    x[1, 3, 5, 6] = np.nan
    values = weights_of(net)
    want = se_numpy.senet(x, net, values, data_format="channels_first")
    assert np.isnan(want).tolist() == [[False] * 5, [True] * 5, [False] * 5]
    network = build(api, net, values)
    got = np.asarray(jax.jit(network.forward)(network.state, last(x)))
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert difference(got[::2], want[::2]) < 1e-12


@both
def test_v1_v2_v5_samples_are_independent_and_nothing_is_modified(api):
    x = last(images(BOTTLENECKS, 17, 20, samples=3))
    network = build(api, BOTTLENECKS, weights_of(BOTTLENECKS))
    before = bits((x, network.state))
    forward = quickly(network.forward)
    logits = np.asarray(forward(network.state, x))
    assert difference(forward(network.state, x[1:2]), logits[1:2]) < 1e-12
    assert forward(network.state, x[:0]).shape == (0, 5)
    assert bits((x, network.state)) == before


# Parameters


def test_m5_layers_and_variables_are_found_by_their_paths():
    values = weights_of(BOTTLENECKS)
    model, network = nnx_model(BOTTLENECKS, values, param_dtype="float64"), build("linen", BOTTLENECKS, values)
    assert model.spec == BOTTLENECKS == se_flax.linen.SENet(BOTTLENECKS).spec
    kernel = np.asarray(model.stage2.block0.shortcut.conv.kernel)
    assert np.array_equal(kernel[0, 0].T, values["stage2.block0.shortcut.conv.weight"][:, :, 0, 0])
    block = jax.tree.map(np.shape, network.state["params"]["stage2"]["block0"])
    assert {name: block[name] for name in ("se", "shortcut", "bn2", "conv2")} == {
        "se": {"reduce": {"kernel": (32, 8), "bias": (8,)}, "expand": {"kernel": (8, 32), "bias": (32,)}},
        "shortcut": {"conv": {"kernel": (1, 1, 16, 32)}, "bn": {"scale": (32,), "bias": (32,)}},
        "bn2": {"scale": (16,), "bias": (16,)},
        "conv2": {"kernel": (3, 3, 4, 16)},
    }
    statistics = jax.tree.map(np.shape, network.state["batch_stats"]["stage2"]["block0"])
    assert statistics["shortcut"] == {"bn": {"mean": (32,), "var": (32,)}}


@every_small_one
def test_m6_learnable_parameters_are_those_that_the_spec_counts(net):
    model = abstract_model(net)
    x = jax.numpy.ones((1, 23, 30, 3), "float32")
    shapes = jax.eval_shape(se_flax.linen.SENet(net).init, jax.random.key(0), x)
    for learned in (nnx.state(model, nnx.Param), shapes["params"]):
        assert sum(leaf.size for leaf in jax.tree.leaves(learned)) == net.parameter_count()
    as_set = se_flax.linen.set_parameters(se_flax.linen.SENet(net), weights_of(net))
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, as_set)


@both
@every_small_one
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_k3_round_trip_of_parameters_is_exact(api, net, dtype):
    values = {name: round_to(value, dtype) for name, value in weights_of(net).items()}
    network = build(api, net, values, dtype)
    back = network.canonical(network.state)
    assert list(back) == list(parameters.shapes(net))
    assert as_bytes(back) == as_bytes(values)


def test_k1_without_the_module_variables_give_canonical_names_in_their_own_order():
    values = weights_of(ZEROS)
    network = build("linen", ZEROS, values)
    assert as_bytes(se_flax.linen.get_parameters(network.state)) == as_bytes(values)


def test_k2_wrong_parameters_are_refused_and_nothing_changes():
    values = weights_of(BOTTLENECKS)
    model = nnx_model(BOTTLENECKS, values, param_dtype="float64")
    assert_refused(partial(se_flax.set_parameters, model), values)
    assert_refused(partial(se_flax.linen.set_parameters, se_flax.linen.SENet(BOTTLENECKS)), values)
    assert as_bytes(se_flax.get_parameters(model)) == as_bytes(values)


def test_k2_a_layer_that_is_replaced_is_named_and_nothing_is_set():
    values = weights_of(BOTTLENECKS)
    model = nnx_model(BOTTLENECKS, values, param_dtype="float64")
    model.eval()
    model.classifier, classifier = nnx.Dict(), model.classifier
    with pytest.raises(ParameterError, match=r"classifier\.weight is not there"):
        se_flax.get_parameters(model)
    with pytest.raises(ParameterError, match=r"classifier\.\w+ is not there"):
        se_flax.set_parameters(model, {name: value + 1 for name, value in values.items()})
    model.classifier = classifier
    assert as_bytes(se_flax.get_parameters(model)) == as_bytes(values)


def test_k2_an_abstract_model_has_no_parameters_until_they_are_set():
    model = nnx.clone(abstract_model(BOTTLENECKS))
    with pytest.raises(ParameterError, match=r"stem\.conv1\.weight is abstract"):
        se_flax.get_parameters(model)
    se_flax.set_parameters(model, weights_of(BOTTLENECKS))
    assert {value.dtype.name for value in se_flax.get_parameters(model).values()} == {"float32"}


@both
def test_n6_float64_parameters_and_images_without_x64_are_refused(api):
    values, x = weights_of(BOTTLENECKS), last(images(BOTTLENECKS, 17, 20))
    with jax.enable_x64(False):
        network = build(api, BOTTLENECKS, values, "float32")
        with pytest.raises(InputError, match="jax_enable_x64"):
            network.forward(network.state, x)
        with pytest.raises(InputError, match="jax_enable_x64"):
            build(api, BOTTLENECKS, values, "float64")


def test_m10_new_parameters_have_the_documented_distributions():
    net = BOTTLENECKS.replace(stages=(Stage(1, 256, (128, 128)),), groups=32, conv_bias=True, num_classes=500)
    model = quickly(lambda: nnx.split(se_flax.SENet(net, rngs=nnx.Rngs(0)))[1])()
    graph = nnx.graphdef(abstract_model(net))
    linen = se_flax.linen.SENet(net)
    variables = quickly(linen.init)(jax.random.key(0), jax.numpy.ones((1, 9, 9, 3), "float32"))
    normal = {
        "stage1.block0.conv2.weight": 2 / (9 * 128 / 32),  # 32 groups: a value reaches 128 / 32 channels
        "stage1.block0.conv3.weight": 2 / 256,
    }
    uniform = {
        "stage1.block0.conv2.bias": 9 * 128 / 32,
        "stage1.block0.conv3.bias": 128,
        "stage1.block0.se.expand.weight": 64,
        "classifier.weight": 256,
        "classifier.bias": 256,
    }
    assert_drawn(se_flax.get_parameters(nnx.merge(graph, model)), normal, uniform)
    assert_drawn(se_flax.linen.get_parameters(variables, linen), normal, uniform)


@both
def test_orbax_and_flax_bytes_restore_every_bit(api, tmp_path):
    saved, other = (build(api, INCEPTION, weights_of(INCEPTION, seed), "bfloat16").state for seed in (1, 2))
    assert_restored_to_the_bit(api, saved, other, tmp_path / "network")


# Training


@both
@every_kind
def test_every_parameter_has_a_gradient(api, net):
    network = build(api, net, weights_of(net))
    gradient = quickly(network.gradient)(network.state, last(images(net, 23, 30, samples=5)), 0)
    found = se_flax.parameters.from_tree(gradient)
    assert set(found) == {name for name in parameters.shapes(net) if not name.endswith((".mean", ".variance"))}
    for name, value in found.items():
        assert np.isfinite(value).all(), name
        assert value.any() or ".se." in name, name  # of so few hidden units all may be off


@both
def test_momentum_is_the_specs_and_dropout_acts_in_training_alone(api):
    net, x = BOTTLENECKS.replace(momentum=0.75), images(BOTTLENECKS, 23, 30)
    before = weights_of(net)
    network = build(api, net, before)
    step = quickly(network.step)
    logits, state = step(network.state, last(x), 0)
    again, _ = step(network.state, last(x), 0)
    other, state = step(state, last(x), 1)
    assert np.array_equal(logits, again)
    assert not np.array_equal(logits, other)
    after = network.canonical(state)
    first = oracle_layers.convolution(
        oracle_layers.max_pool(x, 3, 2, (0, 1)), before["stem.conv1.weight"], padding=(1, 1)
    )
    for name, of_batch in (("mean", first.mean((0, 2, 3))), ("variance", first.var((0, 2, 3)))):
        expected = 0.75**2 * before[f"stem.bn1.{name}"] + (1 - 0.75**2) * of_batch  # two steps; of n, not n - 1
        assert difference(after[f"stem.bn1.{name}"], expected) < 1e-12
    learned = [name for name in before if not name.endswith((".mean", ".variance"))]
    assert all(np.array_equal(after[name], before[name]) for name in learned)


@both
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_step_changes_no_dtype(api, dtype):
    network = build(api, BOTTLENECKS, weights_of(BOTTLENECKS), dtype)
    for given in (dtype, "float64"):
        x = jax.numpy.asarray(last(images(BOTTLENECKS, 17, 20)), given)
        logits, state = jax.eval_shape(network.step, network.state, x, 0)
        assert logits.dtype == given
        assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [
            leaf.dtype for leaf in jax.tree.leaves(network.state)
        ]


def test_nnx_trains_in_place_and_has_flaxs_modes():
    import optax

    net = ZEROS.replace(stages=(Stage(1, 8, (8,)),))
    model = nnx_model(net, weights_of(net), param_dtype="float64")
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)
    x, before = last(images(net, 17, 20, samples=4)), se_flax.get_parameters(model)

    @nnx.jit
    def step(model, optimizer, x):
        loss, gradient = nnx.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
        optimizer.update(model, gradient)
        return loss

    losses = [float(step(model, optimizer, x)) for _ in range(4)]
    assert losses == sorted(set(losses), reverse=True)
    after = se_flax.get_parameters(model)
    for name in ("stem.conv1.weight", "stage1.block0.se.expand.bias", "stage1.block0.bn2.mean", "head.bn1.variance"):
        assert not np.array_equal(before[name], after[name]), name
    if hasattr(nnx, "view"):
        inference = nnx.view(model, use_running_average=True)
    else:  # Flax 0.12.0
        inference = nnx.clone(model)
        inference.eval()
    logits = inference(x)
    assert as_bytes(se_flax.get_parameters(model)) == as_bytes(after)
    model.eval()
    assert bits(model(x)) == bits(logits)
    model.train()
    assert bits(model(x)) != bits(logits)


# Refusals


@both
@refused_channels_last
def test_x1_x2_x3_x4_m9_wrong_images_are_refused(api, shape, dtype, error, facts):
    network = build(api, BOTTLENECKS, weights_of(BOTTLENECKS))
    for function in (network.forward, jax.jit(network.forward)):
        with pytest.raises(error) as caught:
            function(network.state, np.ones(shape, dtype))
        for fact in facts:
            assert fact in str(caught.value)


@both
def test_x5_array_of_no_framework_is_refused(api):
    network = build(api, BOTTLENECKS, weights_of(BOTTLENECKS))
    with pytest.raises(InputError, match=r"builtins\.list, expected a jax\.Array or numpy\.ndarray"):
        network.forward(network.state, [[[[1.0, 1.0, 1.0]]]])
