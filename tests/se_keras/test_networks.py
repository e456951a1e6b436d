"""``se_keras.senet`` matches the oracle on three backends, and works with Keras' tools.

``on`` runs a function of this module on a backend, TensorFlow in this process and the others each in a process of its
own, and returns its arrays for this process to judge.
"""

import dataclasses
from functools import partial

import numpy as np
import pytest

import se_numpy
from se_conformance.cases import round_to
from se_parity.implementations import dtype_of, load_module
from se_spec import InputError, ParameterError, ShapeError, parameters

from ..conftest import KERAS_BACKENDS, OnDemand
from ..small_networks import (
    BOTTLENECKS,
    FAMILIES,
    INCEPTION,
    SIZES,
    SMALL,
    ZEROS,
    as_bytes,
    assert_drawn,
    assert_refused,
    difference,
    every_small_one,
    images,
    refused_channels_last,
    weights_of,
)

pytestmark = [
    pytest.mark.framework("keras"),
    # Keras' own way from tensors to arrays, which NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

keras, se_keras = OnDemand("keras"), OnDemand("se_keras")
three_kinds = pytest.mark.parametrize("net", [INCEPTION, BOTTLENECKS, ZEROS], ids=["Inception", "bottlenecks", "zeros"])


SHORT = BOTTLENECKS.replace(stages=[dataclasses.replace(stage, units=1) for stage in BOTTLENECKS.body.stages])
"""A block per stage, where their number does not matter: TensorFlow compiles each shape of a convolution in groups."""


def model_of(net, values, dtype="float64"):
    model = load_module("keras").empty_network(net, dtype)
    se_keras.set_parameters(model, values)
    return model


def logits_of(net, values, x):
    return load_module("keras").network(net, dtype_of(values))(values)(x)


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def pictures(net, *size, samples=2):
    """Draw images, channels last."""
    return np.ascontiguousarray(np.moveaxis(images(net, *size, samples=samples), 1, -1))


def judge(got, net, x, values):
    assert got.dtype == np.float64
    assert difference(got, se_numpy.senet(x, net, values, data_format="channels_last")) < 1e-12


# The right answer


def case(net, *size):
    return net, weights_of(net), pictures(net, *size, samples=1)


def answer(net, *size):
    """Compute logits in another process, which draws the parameters itself: those of all families are gigabytes."""
    return logits_of(*case(net, *size))


COUNTED = {**SMALL, "SAME, counted": INCEPTION.replace(count_padding=True)}
SMALL_CASES = {name: (net, 16, 9) for name, net in COUNTED.items()}
ALL_CASES = {**SMALL_CASES, **{name: (net, *SIZES.get(name, (33, 41))) for name, net in FAMILIES.items()}}
OTHERS = {"keras jax": SMALL_CASES, "keras torch": ALL_CASES}  # torch compiles nothing, and takes a tenth of the time
OTHERS = {backend: cases for backend, cases in OTHERS.items() if backend in KERAS_BACKENDS}


@pytest.fixture(scope="module")
def elsewhere(workers, request):
    """Submit the chosen networks to the other backends at once, so that they run while this process does."""
    asked = [item.callspec.params for item in request.session.items if getattr(item, "originalname", "") == ELSEWHERE]
    keys = [(one["backend"], one["name"]) for one in asked if one["backend"] in OTHERS]  # pytest makes one item of none
    return {(backend, name): workers(backend).submit_call(answer, *OTHERS[backend][name]) for backend, name in keys}


ELSEWHERE = "test_m1_m2_m3_m4_m7_other_backends_match_the_oracle"


FEW = ["se_resnext50_32x4d", "se_bn_inception", "timm.seresnet50", "mxnet.se_resnet18", "chainer.se_resnet_n18_r16"]


@pytest.mark.parametrize("name", FEW if "keras torch" in OTHERS else FAMILIES)  # all of them on one backend
def test_m1_m7_families_match_the_oracle(tf, elsewhere, name):
    net, values, x = case(*ALL_CASES[name])
    judge(logits_of(net, values, x), net, x, values)


@pytest.mark.parametrize("net", COUNTED.values(), ids=COUNTED)
def test_m2_m3_m4_every_padding_place_and_shortcut_matches_the_oracle_at_any_size(tf, net):
    values = weights_of(net)
    model = model_of(net, values)
    for size in ((23, 30), (16, 9)):
        x = pictures(net, *size)
        judge(numpy(model(x)), net, x, values)


def test_m2_same_where_the_stride_is_longer_than_the_window(tf):
    steps = (dataclasses.replace(INCEPTION.stem.steps[0], kernel=2, stride=3), *INCEPTION.stem.steps[1:])
    net = INCEPTION.replace(stem=dataclasses.replace(INCEPTION.stem, steps=steps))
    values, x = weights_of(net), pictures(net, 24, 31)
    judge(logits_of(net, values, x), net, x, values)


def test_n3_nan_stays_in_its_sample(tf):
    x = pictures(SHORT, 16, 9)
    x[0, 3, 3, 0] = np.nan  # in a window of maxima
    got = logits_of(SHORT, weights_of(SHORT), x)
    assert np.isnan(got).all(1).tolist() == [True, False]


@pytest.mark.parametrize(("backend", "name"), [(backend, name) for backend in OTHERS for name in OTHERS[backend]])
def test_m1_m2_m3_m4_m7_other_backends_match_the_oracle(elsewhere, backend, name):
    net, values, x = case(*OTHERS[backend][name])
    judge(elsewhere[backend, name].result(), net, x, values)


# Parameters


def test_m5_layers_have_their_paths_with_underscores(tf):
    model = se_keras.senet(BOTTLENECKS, name="net")
    variables = {variable.path: tuple(variable.shape) for variable in model.variables}
    assert model.name == "net"
    assert {path: shape for path, shape in variables.items() if path.startswith("stage2_block0_s")} == {
        "stage2_block0_se/reduce/kernel": (32, 8),
        "stage2_block0_se/reduce/bias": (8,),
        "stage2_block0_se/expand/kernel": (8, 32),
        "stage2_block0_se/expand/bias": (32,),
        "stage2_block0_shortcut_conv/kernel": (1, 1, 16, 32),
        "stage2_block0_shortcut_bn/gamma": (32,),
        "stage2_block0_shortcut_bn/beta": (32,),
        "stage2_block0_shortcut_bn/moving_mean": (32,),
        "stage2_block0_shortcut_bn/moving_variance": (32,),
    }
    for net in FAMILIES.values():
        names = [layer.name.replace(".", "_") for layer in net.layers]
        assert len(names) == len(set(names))


@every_small_one
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_k3_round_trip_of_parameters_is_exact(tf, net, dtype):
    values = {name: round_to(value, dtype) for name, value in weights_of(net).items()}
    back = there_and_back(net, values, dtype)
    assert list(back) == list(parameters.shapes(net))
    assert as_bytes(back) == as_bytes(values)
    assert all(value.flags.c_contiguous for value in back.values())  # some writers of files look at the memory alone


def there_and_back(net, values, dtype):
    return se_keras.get_parameters(model_of(net, values, dtype))


@every_small_one
def test_m6_learnable_parameters_are_those_that_the_spec_counts(tf, net):
    model = se_keras.senet(net)
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == net.parameter_count()
    assert model.spec == net


def test_k2_wrong_parameters_are_refused_and_nothing_changes(tf):
    values = weights_of(BOTTLENECKS)
    model = model_of(BOTTLENECKS, values)
    before = as_bytes(se_keras.get_parameters(model))
    assert_refused(partial(se_keras.set_parameters, model), values)
    assert as_bytes(se_keras.get_parameters(model)) == before


def test_k2_one_block_of_a_network_and_a_network_in_a_model_are_found_by_name(tf):
    values, prefix = weights_of(BOTTLENECKS), "stage1.block0.se."
    model = model_of(BOTTLENECKS, values)
    block = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    for name in ("stage1.block0.se", "stage1_block0_se"):
        assert as_bytes(se_keras.get_parameters(model, name=name)) == as_bytes(block)
    se_keras.set_parameters(model, {name: -value for name, value in block.items()}, name="stage1.block0.se")
    changed = {
        name for name, value in se_keras.get_parameters(model).items() if not np.array_equal(value, values[name])
    }
    assert changed == {prefix + name for name in block}
    x = keras.Input((16, 16, 3))
    outer = keras.Model(x, keras.layers.Softmax()(model(x)))
    with pytest.raises(ParameterError, match=r"expected one block, the model holds: .*stage1_block0_se"):
        se_keras.get_parameters(outer)
    inner = se_keras.get_parameters(outer, name=model.name)
    assert as_bytes(inner) == as_bytes(se_keras.get_parameters(model))


def test_m10_new_parameters_have_the_documented_distributions(tf):
    keras.utils.set_random_seed(0)
    values = se_keras.get_parameters(
        se_keras.senet(FAMILIES["se_resnext50_32x4d"].replace(conv_bias=True, num_classes=500))
    )
    normal = {
        "stem.conv1.weight": 2 / (49 * 64),
        "stage3.block0.conv2.weight": 2 / (9 * 512 / 32),  # 32 groups: a value reaches 512 / 32 channels
        "stage3.block0.conv3.weight": 2 / 1024,
    }
    uniform = {
        "stage3.block0.conv3.bias": 512,
        "stage3.block0.se.expand.weight": 64,
        "classifier.weight": 2048,
        "classifier.bias": 2048,
    }
    assert_drawn(values, normal, uniform)
    assert not np.array_equal(values["stage1.block0.conv3.weight"], values["stage1.block1.conv3.weight"])


# Training


@every_small_one
def test_every_parameter_has_a_gradient(tf, net):
    model = model_of(net, weights_of(net))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(pictures(net, 23, 30, samples=5), training=True) ** 2)
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, [v.value for v in variables]), strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path


def without_dropout(net, **changes):
    return net.replace(head=dataclasses.replace(net.head, dropout=0.0), **changes)


@three_kinds
def test_training_normalises_by_batch_statistics(tf, net):
    net, values, x = case(without_dropout(net, momentum=0.0), 16, 9)
    got, after = trained(net, values, x, 1)  # which are then the running ones
    assert as_bytes(after) != as_bytes(values)
    judge(got, net, x, after)


def test_training_normalises_by_batch_statistics_on_every_backend(on):
    net, values, x = case(ZEROS.replace(momentum=0.0), 16, 9)
    got, after = on(trained, net, values, x, 1)
    judge(got, net, x, after)


def test_momentum_is_the_specs_and_the_variance_is_divided_by_n(on):
    net = INCEPTION.replace(momentum=0.75)
    net, values, x = case(net, 16, 9)
    x += 1e6  # a mean that cancels
    _, after = on(trained, net, values, x, 2)
    share = 0.75**2
    for name, batch in {"mean": x.mean((0, 1, 2)), "variance": x.var((0, 1, 2))}.items():
        expected = share * values[f"input_bn.{name}"] + (1 - share) * batch
        np.testing.assert_allclose(after[f"input_bn.{name}"], expected, rtol=1e-9)


def trained(net, values, x, steps):
    """Train; return the last step's logits and the final parameters."""
    model = model_of(net, values)
    for _ in range(steps):
        y = model(x, training=True)
    return numpy(y), se_keras.get_parameters(model)


def test_dropout_acts_in_training_alone(tf):
    model, x = model_of(SHORT, weights_of(SHORT)), pictures(SHORT, 16, 9)
    assert not np.array_equal(model(x, training=True), model(x, training=True))
    assert np.array_equal(model(x), model(x))


def test_fit_changes_every_parameter(tf):
    model = se_keras.senet(without_dropout(SHORT))
    before = se_keras.get_parameters(model)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", jit_compile=False)
    model.fit(pictures(SHORT, 16, 9, samples=4), np.ones((4, 5)), verbose=0)
    after = se_keras.get_parameters(model)
    assert not [name for name in before if np.array_equal(before[name], after[name])]
    assert all(np.isfinite(value).all() for value in after.values())


# Types


@pytest.mark.parametrize(
    ("dtype", "x", "stored", "result"),
    [
        (None, "float32", "float32", "float32"),
        ("float64", "float32", "float64", "float64"),
        ("bfloat16", "bfloat16", "bfloat16", "bfloat16"),
        ("mixed_bfloat16", "float32", "float32", "bfloat16"),
    ],
)
def test_dtypes_of_parameters_statistics_and_logits_follow_the_policy(tf, dtype, x, stored, result):
    model = se_keras.senet(INCEPTION, dtype=dtype)
    assert {value.dtype.name for value in se_keras.get_parameters(model).values()} == {stored}
    for training in (False, True):
        y = model(keras.ops.ones((2, 16, 9, 3), dtype=x), training=training)
        assert keras.backend.standardize_dtype(y.dtype) == result
    assert {value.dtype.name for value in se_keras.get_parameters(model).values()} == {stored}


def test_channels_are_last_whatever_keras_image_data_format_is(tf):
    values, x = weights_of(ZEROS), pictures(ZEROS, 16, 9)
    keras.config.set_image_data_format("channels_first")
    try:
        judge(logits_of(ZEROS, values, x), ZEROS, x, values)
    finally:
        keras.config.set_image_data_format("channels_last")


# Saving, compilation and export


@three_kinds
def test_saved_loaded_and_cloned_models_are_the_same(tf, tmp_path, net):
    values = weights_of(net)
    for spec, frozen, saved in saved_and_loaded(net, values, str(tmp_path)):
        assert (spec, frozen) == (net, True)
        assert as_bytes(saved) == as_bytes(values)


def test_k3_saved_loaded_and_cloned_models_are_the_same_on_every_backend(on, tmp_path):
    net = ZEROS.replace(stages=ZEROS.body.stages[:1])  # JAX compiles a draw for each shape of a loaded model
    values = weights_of(net)
    for spec, frozen, saved in on(saved_and_loaded, net, values, str(tmp_path)):
        assert (spec, frozen) == (net, True)
        assert as_bytes(saved) == as_bytes(values)


def saved_and_loaded(net, values, folder):
    model = model_of(net, values)
    model.get_layer("classifier").trainable = False
    model.save(f"{folder}/model.keras")
    model.save_weights(f"{folder}/model.weights.h5")
    loaded, cloned = keras.saving.load_model(f"{folder}/model.keras"), keras.models.clone_model(model)
    cloned.load_weights(f"{folder}/model.weights.h5")
    x = pictures(net, 16, 9)
    assert np.array_equal(numpy(loaded(x)), numpy(model(x)))
    return [
        (one.spec, not one.get_layer("classifier").trainable, se_keras.get_parameters(one)) for one in (loaded, cloned)
    ]


def test_registered_names_of_the_layers_are_stable(tf):
    names = ("SENet", "Images", "Conv2D", "ReLU", "BatchNorm", "Pooling", "ZeroChannels", "GlobalPooling", "Dense")
    module = se_keras.networks
    for name in names:
        assert keras.saving.get_registered_name(getattr(module, name)) == f"se_keras>{name}"


def graph(tf, model, folder):
    return tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 3), "float64")])


def xla(tf, model, folder):
    return tf.function(model, jit_compile=True)


def saved_model(tf, model, folder):
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(folder)
    return lambda x: loaded.serve(x)


@three_kinds
@pytest.mark.parametrize("form", [graph, xla, saved_model])
def test_compiled_and_exported_models_accept_every_size(tf, tmp_path, net, form):
    values = weights_of(net)
    run = form(tf, model_of(net, values), str(tmp_path))
    for size in ((16, 9), (17, 20)):
        x = pictures(net, *size)
        judge(numpy(run(tf.constant(x))), net, x, values)


# Refusals


@refused_channels_last
def test_x1_x2_x3_x4_m9_wrong_images_are_refused(tf, shape, dtype, error, facts):
    model = se_keras.senet(BOTTLENECKS)
    for _ in range(2):  # what was refused is refused again
        with pytest.raises(error) as caught:
            model(keras.ops.ones(shape, dtype=dtype))
        for fact in facts:
            assert fact in str(caught.value)
    with pytest.raises(error):
        model(keras.KerasTensor(shape, dtype=dtype))


def test_x5_array_of_another_framework_is_refused(tf):
    with pytest.raises(InputError, match=r"builtins\.list, expected a tensor of Keras' tensorflow backend"):
        se_keras.senet(BOTTLENECKS)([[[[1.0, 2.0, 3.0]]]])


@pytest.mark.parametrize(
    ("shape", "facts"),
    [
        ((8, 3), ["(None, 8, 3)", "rank 3"]),
        ((8, 8, 4), ["C = 3", "4 channels"]),
        ((1, 1, 3), ["(1, 1) is too small", "stem.pool1"]),
    ],
)
def test_x1_x2_m9_wrong_input_shape_is_refused(tf, shape, facts):
    with pytest.raises(ShapeError) as caught:
        se_keras.senet(BOTTLENECKS, input_shape=shape)
    for fact in facts:
        assert fact in str(caught.value)


def test_input_shape_may_fix_the_size(tf):
    values, x = weights_of(INCEPTION), pictures(INCEPTION, 16, 9)
    model = se_keras.senet(INCEPTION, input_shape=(16, 9, 3), dtype="float64")
    se_keras.set_parameters(model, values)
    assert model.input_shape == (None, 16, 9, 3)
    judge(numpy(model(x)), INCEPTION, x, values)


def test_v1_v2_v5_samples_are_independent_and_x_is_not_modified(tf):
    model = model_of(SHORT, weights_of(SHORT))
    x = pictures(SHORT, 17, 20, samples=3)
    before = x.copy()
    logits = numpy(model(x))
    assert np.array_equal(x, before)
    np.testing.assert_allclose(numpy(model(x[1:2])), logits[1:2], rtol=0, atol=1e-12)
    assert model(x[:0]).shape == (0, 5)
