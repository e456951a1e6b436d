"""The block in Keras: symbolic tensors, dtypes, saving, training, compilation and export, on three backends.

``on`` runs a function of this module on a backend, TensorFlow in this process and the others each in a process of its
own, and returns its arrays for this process to judge.
"""

import contextlib
import json
import random

import numpy as np
import pytest

from se_conformance import Case, Inputs, Result, compare, reference
from se_conformance.cases import DTYPES, round_to
from se_spec import HardSigmoid, InputError, LeakyReLU, ParameterError, SESpec, ShapeError

from ..conftest import KERAS_BACKENDS, OnDemand
from ..small_networks import ZEROS

pytestmark = [
    pytest.mark.framework("keras"),
    # Keras' own way from tensors to arrays, which NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

SPECS = [
    SESpec(12, hidden=6, bias=True),
    SESpec(12, hidden=6, bias=True, activation="silu", squeeze="max", residual=True),
    SESpec(12, hidden=17, bias=True, activation=LeakyReLU(slope=0.1), gate="hard_sigmoid", squeeze="avg_max", gain=2.0),
    SESpec(12, hidden=6, activation="gelu", gate=HardSigmoid(slope=0.2, offset=0.5)),
    SESpec(12, single_projection=True, bias=True, gate="tanh"),
]
RICH = SPECS[2]


keras, se_keras = OnDemand("keras"), OnDemand("se_keras")


# Symbolic tensors


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_n3_model_of_unknown_extents_matches_the_oracle_on_every_map(on, rank):
    spec = SPECS[rank - 1]  # avg, max, avg_max
    maps = three_maps(spec, rank)
    judge(on(answers, spec, maps), maps, spec)


def test_channels_are_read_from_the_tensor_and_fields_are_keywords(tf):
    x = keras.Input((None, None, 12))
    model = keras.Model(x, se_keras.squeeze_excitation(x, reduction=4, gate="tanh", name="se"))
    assert model.get_layer("se").spec == SESpec(12, hidden=3, gate="tanh")
    assert se_keras.squeeze_excitation(keras.ops.ones((2, 5, 7, 12)), reduction=4).shape == (2, 5, 7, 12)


def test_e3_excitation_as_a_function_is_the_gate_of_a_new_block(tf):
    x = keras.Input((None, None, 12))
    blocks = [se_keras.squeeze_excitation(x, spec=RICH, name="se"), se_keras.excitation(x, spec=RICH, name="gate")]
    assert [one.shape for one in blocks] == [(None, None, None, 12), (None, 12)]
    model, maps = keras.Model(x, blocks), three_maps(RICH)
    for name in ("se", "gate"):
        se_keras.set_parameters(model, maps[0].parameters, name=name)
    judge(results(model, maps), maps, RICH)


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [((12,), None, ShapeError), ((0, 12), None, ShapeError), ((7, 12), "int32", InputError)],
)
def test_x1_x3_x4_symbolic_tensors_are_refused_at_once(tf, shape, dtype, error):
    with pytest.raises(error):
        se_keras.squeeze_excitation(keras.Input(shape, dtype=dtype))


# Types


@pytest.mark.parametrize(
    ("policy", "given", "x", "weights", "y", "g"),
    [
        ("float32", None, "float32", "float32", "float32", "float32"),
        ("float32", None, "float64", "float64", "float64", "float64"),
        ("float32", None, "bfloat16", "bfloat16", "bfloat16", "float32"),
        ("float32", None, "float16", "float16", "float16", "float32"),
        ("float32", "float32", "float64", "float32", "float32", "float32"),
        ("float32", "float64", "float32", "float64", "float64", "float64"),
        ("float32", "mixed_float16", "float32", "float32", "float16", "float32"),
        ("float64", None, "float32", "float64", "float64", "float64"),
        ("mixed_bfloat16", None, "float32", "float32", "bfloat16", "float32"),
        ("mixed_bfloat16", None, "bfloat16", "float32", "bfloat16", "float32"),
        ("mixed_bfloat16", None, "float16", "float16", "float16", "float32"),
        ("mixed_bfloat16", None, "float64", "float64", "float64", "float64"),
        ("mixed_bfloat16", "float32", "bfloat16", "float32", "float32", "float32"),
    ],
)
def test_n2_n5_n7_weights_result_and_gate_have_the_specified_dtypes(on, policy, given, x, weights, y, g):
    assert on(types, policy, given, x) == {"y": {y}, "g": {g}, "weights": {weights}}


def types(policy, given, x):
    with global_policy(policy):
        block = se_keras.SqueezeExcitation(12, hidden=6, bias=True, dtype=given)
        tensors = [keras.Input((None, 7, 12), dtype=x), keras.ops.ones((2, 5, 7, 12), dtype=x)]
        seen = {"y": [block(one) for one in tensors], "g": [block.excitation(one) for one in tensors]}
    seen["weights"] = block.weights
    return {name: {keras.backend.standardize_dtype(one.dtype) for one in many} for name, many in seen.items()}


def test_n5_first_tensor_alone_decides_the_dtype(tf):
    block = se_keras.SqueezeExcitation(12)
    block(keras.Input((None, 12), dtype="float64"))
    assert block(keras.ops.ones((2, 7, 12), dtype="float16")).dtype == "float64"


@pytest.mark.parametrize("given", [None, "float32", "mixed_float16"])
def test_n5_config_of_an_unbuilt_layer_keeps_whether_a_dtype_was_given(tf, given):
    block = se_keras.SqueezeExcitation(12, dtype=given)
    copy = se_keras.SqueezeExcitation.from_config(block.get_config())
    x = keras.ops.ones((2, 7, 12), dtype="float64")
    assert copy(x).dtype == block(x).dtype


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_n4_mixed_precision_rounds_x_and_y_but_no_parameter(on, half):
    maps = three_maps(RICH)
    rounded = [inputs._replace(x=round_to(inputs.x, half)) for inputs in maps]
    judge(on(answers, RICH, maps, f"mixed_{half}"), rounded, RICH, half)


@pytest.mark.parametrize(("value", "side"), [(1.0, 64), (500.0, 32)])
def test_n1_float16_mean_is_exact_and_does_not_overflow(on, value, side):
    spec = SESpec(12, hidden=6)
    x = np.full((2, side, side, 12), value, np.float16)
    parameters = Case(spec, dtype="float16").inputs().parameters
    parameters["reduce.weight"] /= np.float16(value)  # keeps the gates from saturating
    inputs = [Inputs(x, x, parameters)]
    judge(on(answers, spec, inputs), inputs, spec, "float16")


@pytest.mark.skipif("keras jax" not in KERAS_BACKENDS, reason="needs JAX")
def test_n6_float64_on_jax_without_x64_is_refused(workers):
    assert workers("keras jax").call(errors_without_x64) == ["InputError"] * 5


def errors_without_x64():
    import jax

    with jax.enable_x64(False):
        return errors_in_float64()


def errors_in_float64():
    symbol, x = keras.Input((None, 12), dtype="float64"), np.ones((2, 7, 12))
    block, model = se_keras.SqueezeExcitation(12), keras.Model(symbol, se_keras.squeeze_excitation(symbol))
    functions = (block, block.excitation, model, se_keras.SqueezeExcitation(12, dtype="float64"))
    refused = [error_of(function, x) for function in functions]
    net = ZEROS.replace(stages=ZEROS.body.stages[:1])
    return [*refused, error_of(se_keras.senet(net, dtype="float64"), np.ones((1, 16, 9, 3)))]


def error_of(function, x):
    try:
        return f"none, but {function(x).dtype}"
    except InputError as error:
        return type(error).__name__


# Parameters


@pytest.mark.parametrize("dtype", DTYPES)
def test_k3_round_trip_is_exact(on, dtype):
    sent = Case(RICH, dtype=dtype).inputs().parameters
    for array in sent.values():
        array.flat[:3] = -0.0, -np.inf, 1e-7
        if dtype != "bfloat16":  # which Keras takes to torch by way of float32, and that gives NaN other bits
            array.view(f"i{array.itemsize}").flat[3] = -1  # a NaN of all ones
    assert bits(on(there_and_back, sent, dtype)) == bits(sent)


def test_k3_set_parameters_casts_to_the_variables_dtype(on):
    sent = Case(RICH, dtype="float64").inputs().parameters
    rounded = {name: round_to(array, "bfloat16") for name, array in sent.items()}
    assert bits(on(there_and_back, sent, "bfloat16")) == bits(rounded)


def there_and_back(parameters, dtype):
    block = se_keras.SqueezeExcitation(RICH, dtype=dtype)
    block.build((None, None, 12))
    se_keras.set_parameters(block, parameters)
    return se_keras.get_parameters(block)


def test_k2_wrong_parameters_are_all_named_and_nothing_changes(tf):
    model = two_blocks()
    before = summary(model)
    wrong = {"reduce.weight": np.ones((6, 12)), "reduce.bias": np.ones(5), "gamma": np.ones(8)}
    with pytest.raises(ParameterError, match=r"missing expand.weight.*reduce.bias has shape.*left over 'gamma'"):
        se_keras.set_parameters(model, wrong, name="first")
    assert summary(model) == before


def test_k2_one_built_block_is_required(tf):
    model, none = two_blocks(), keras.Sequential([keras.Input((7, 12))])
    for holder, name, message in [
        (model, None, "expected one block.*first, second"),
        (model, "third", "named 'third'.*first, second"),
        (none, None, "holds: none"),
        (se_keras.SqueezeExcitation(12, name="new"), None, "'new' has no parameters yet"),
    ]:
        with pytest.raises(ParameterError, match=message):
            se_keras.get_parameters(holder, name=name)
        with pytest.raises(ParameterError, match=message):
            se_keras.set_parameters(holder, {}, name=name)


def test_k2_a_block_in_a_model_in_a_model_is_found(tf):
    inner, x = two_blocks(), keras.Input((5, 7, 12))
    outer = keras.Model(x, inner(x))
    with pytest.raises(ParameterError, match=r"expected one block, .*first, second"):
        se_keras.get_parameters(outer)
    found, wanted = (se_keras.get_parameters(model, name="second") for model in (outer, inner))
    assert all(found[key].tobytes() == wanted[key].tobytes() for key in wanted)


def test_k4_new_parameters_are_uniform_up_to_one_over_the_root_of_fan_in(on):
    limits = {"reduce": 256**-0.5, "expand": 64**-0.5}
    for name, array in on(new_parameters).items():
        limit = limits[name.partition(".")[0]]
        assert 0.9 * limit < abs(array).max() <= limit, name
        assert abs(array.mean()) < 0.2 * limit, name
        assert array.std() == pytest.approx(limit / 3**0.5, rel=0.15), name


def test_k4_biases_and_weights_are_drawn_independently(on):
    new = on(new_parameters)
    for layer in ("reduce", "expand"):
        assert np.isin(new[f"{layer}.bias"], new[f"{layer}.weight"]).mean() < 0.1


def new_parameters():
    random.seed(0)  # from which Keras draws its seeds
    block = se_keras.SqueezeExcitation(256, hidden=64, bias=True)
    block.build((None, None, 256))
    return se_keras.get_parameters(block)


def test_training_changes_every_parameter_and_lowers_the_loss(on):
    before, after, losses = on(trained)
    assert losses[-1] < losses[0]
    assert not any(np.array_equal(before[name], after[name]) for name in before)


def trained():
    random.seed(0)
    rng = np.random.default_rng(0)
    model = two_blocks()
    before = se_keras.get_parameters(model, name="first")
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
    history = model.fit(rng.standard_normal((8, 5, 7, 12)), rng.standard_normal((8, 3)), epochs=3, verbose=0)
    return before, se_keras.get_parameters(model, name="first"), history.history["loss"]


# Saving


def test_config_round_trip_through_json_is_exact(tf):
    for spec in SPECS:
        block = se_keras.SqueezeExcitation(spec, name="se", dtype="mixed_bfloat16", trainable=False)
        copy = se_keras.SqueezeExcitation.from_config(json.loads(json.dumps(block.get_config())))
        assert (copy.spec, copy.name, copy.dtype_policy.name, copy.trainable) == (spec, "se", "mixed_bfloat16", False)


def test_registered_name_of_the_layer_is_stable(tf):
    assert keras.saving.get_registered_name(se_keras.SqueezeExcitation) == "se_keras>SqueezeExcitation"


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_saved_models_and_weights_are_restored_exactly(on, tmp_path, policy):
    model, from_weights, from_file = on(saved_and_loaded, str(tmp_path), policy)
    assert from_weights == model
    assert from_file == model


def saved_and_loaded(folder, policy):
    with global_policy(policy):
        model, other = two_blocks(), two_blocks()
    model.save_weights(f"{folder}/model.weights.h5")
    other.load_weights(f"{folder}/model.weights.h5")
    model.save(f"{folder}/model.keras")
    return [summary(one) for one in (model, other, keras.saving.load_model(f"{folder}/model.keras"))]


# Compilation and export


def graph(tf, model, folder, xla=False):
    return tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 12))], jit_compile=xla)


def xla(tf, model, folder):
    return graph(tf, model, folder, xla=True)


def saved_model(tf, model, folder):
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(folder)
    return lambda x: loaded.serve(x)


def tflite(tf, model, folder):
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    run = tf.lite.Interpreter(model_content=content).get_signature_runner()
    (name,) = run.get_input_details()
    return lambda x: sorted(run(**{name: x}).values(), key=np.ndim, reverse=True)  # y, g


FORMS = [(form, spec, "float32") for form in (graph, xla, saved_model, tflite) for spec in SPECS]
FORMS += [(saved_model, RICH, dtype) for dtype in DTYPES if dtype != "float32"]


@pytest.mark.parametrize(("form", "spec", "dtype"), FORMS)
@pytest.mark.filterwarnings(r"ignore:\s*Warning.*tf.lite.Interpreter is deprecated:UserWarning")
def test_n3_compiled_and_exported_models_match_the_oracle_on_every_map(tf, tmp_path, form, spec, dtype):
    model, maps = model_of(spec, dtype=dtype), three_maps(spec, dtype=dtype)
    se_keras.set_parameters(model, maps[0].parameters)
    judge(results(form(tf, model, tmp_path), maps), maps, spec, dtype)


# What the tests share


def three_maps(spec, rank=2, dtype="float32"):
    """Make inputs of three extents for one set of parameters; in the last, samples have a NaN, an inf and a -inf."""
    one, last = Case(spec, rank, dtype).inputs(), Case(spec, rank, dtype, samples=4).inputs()
    other = Case(spec, rank, dtype, seed=1, samples=2, spatial=(4, 9, 8)[:rank]).inputs()
    for sample, value in enumerate((np.nan, np.inf, -np.inf), 1):
        last.x[sample].flat[37 * sample] = value
    return [one, *(inputs._replace(parameters=one.parameters) for inputs in (other, last))]


def model_of(spec, rank=2, dtype=None):
    """Make a model from a map of unknown extents to y and the gate of one block."""
    x = keras.Input((*[None] * rank, spec.channels), dtype=dtype)
    y = se_keras.squeeze_excitation(x, spec=spec, name="se")
    return keras.Model(x, [y, keras.Model(x, y).get_layer("se").excitation(x)])


def two_blocks():
    """Make a small network of unknown spatial extent, with two different blocks."""
    x = keras.Input((None, None, 12))
    y = se_keras.squeeze_excitation(x, spec=SPECS[1], name="first")
    y = se_keras.squeeze_excitation(keras.layers.Dense(8)(y), reduction=2, name="second")
    return keras.Model(x, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(y)))


def summary(model):
    """Return the bytes of a model's outputs and gates, and its specs."""
    y = numpy(model(np.random.default_rng(0).standard_normal((2, 9, 4, 12))))
    blocks = [layer for layer in model.layers if isinstance(layer, se_keras.SqueezeExcitation)]
    facts = [(one.name, one.spec, one.dtype_policy.name, bits(se_keras.get_parameters(one))) for one in blocks]
    return bits({"y": y}), facts


def bits(arrays):
    return [(name, array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()]


def answers(spec, maps, policy="float32"):
    """Compute y and the gate of one model with the first map's parameters: eagerly there, compiled on the others."""
    x = maps[0].x
    with global_policy(policy):
        model = model_of(spec, x.ndim - 2, x.dtype.name)
    se_keras.set_parameters(model, maps[0].parameters)
    model.compile(jit_compile=keras.backend.backend() != "torch")
    return results(model, maps[:1]) + results(model.predict_on_batch, maps[1:])


def results(forward, maps):
    return [Result(*map(numpy, forward(inputs.x))) for inputs in maps]


@contextlib.contextmanager
def global_policy(name):
    """Set Keras' policy for new layers within the context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def judge(got, maps, spec, dtype="float32"):
    """Compare each result with the oracle's, by the bounds of ``dtype``."""
    for result, inputs in zip(got, maps, strict=True):
        assert result.y.dtype.name == dtype
        comparisons = compare(result, reference(inputs, spec, dtype, gradients=False))
        assert all(one.passed for one in comparisons), f"{spec} on {inputs.x.shape}: {comparisons}"
