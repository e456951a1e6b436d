"""Keras' tools act on blocks as on plain layers: quantization, LoRA, wrappers, distribution, export.

``on`` runs a function of this module on a backend, TensorFlow in this process and the others each in a process of its
own.
"""

import numpy as np
import pytest

import se_numpy
from se_conformance import Case
from se_spec import HardSigmoid, LeakyReLU, ParameterError, SESpec, ShapeError

from ..conftest import KERAS_BACKENDS, OnDemand
from ..small_networks import BOTTLENECKS, ZEROS, images, weights_of
from .test_networks import saved_model, xla

pytestmark = [
    pytest.mark.framework("keras"),
    # Keras' own way from tensors to arrays, which NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]
needs_jax = pytest.mark.skipif("keras jax" not in KERAS_BACKENDS, reason="needs JAX")
needs_torch = pytest.mark.skipif("keras torch" not in KERAS_BACKENDS, reason="needs PyTorch")
quiet_tflite = pytest.mark.filterwarnings(r"ignore:\s*Warning.*tf.lite.Interpreter is deprecated:UserWarning")

keras, se_keras = OnDemand("keras"), OnDemand("se_keras")

BIASED = SESpec(12, hidden=6, bias=True)
HALVES = HardSigmoid(slope=0.2, offset=0.5, low=0.1, high=0.9)


# NaN (N-3)

ACTIVATIONS = [
    "relu", "silu", "hard_swish", "gelu", "gelu_tanh", LeakyReLU(slope=0.1), "relu6", "sigmoid", "tanh", "identity"
]  # fmt: skip
GATES = ["sigmoid", "tanh", "relu", "identity", "hard_sigmoid", HALVES]
EVERY = [
    *(SESpec(12, hidden=6, bias=bias, activation=activation) for activation in ACTIVATIONS for bias in (True, False)),
    *(SESpec(12, hidden=6, bias=True, gate=gate) for gate in GATES),
    *(SESpec(12, bias=True, single_projection=True, gate=gate) for gate in GATES),
    *(SESpec(12, hidden=6, activation="gelu", gate="relu", squeeze=squeeze) for squeeze in ("max", "avg_max")),
]


def special_map():
    """Make samples without special values, with NaN, inf, -inf, and both infinities in one channel."""
    x = np.random.default_rng(0).normal(size=(5, 5, 7, 12)).astype(np.float32)
    x[1, 1, 1, 3], x[2, 2, 2, 3], x[3, 1, 4, 5], x[4, 0, 0, 0], x[4, 0, 1, 0] = np.nan, np.inf, -np.inf, np.inf, -np.inf
    return x


def model_of_every_block(policy="float32"):
    x = keras.Input((None, None, 12))
    ys = []
    for seed, spec in enumerate(EVERY):
        block = se_keras.SqueezeExcitation(spec, dtype=policy)
        ys.append(block(x))
        se_keras.set_parameters(block, Case(spec, dtype="float32", seed=seed).inputs().parameters)
    return keras.Model(x, ys)


def graph(tf, model, folder):
    return tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 12))])


def tflite(tf, model, folder, optimizations=()):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = list(optimizations)
    converter.target_spec.supported_types = [tf.float16] if optimizations else []
    run = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner()
    (name,) = run.get_input_details()

    def call(x):
        by_name = run(**{name: x})
        return [by_name[key] for key in sorted(by_name, key=lambda key: int(key.rpartition("_")[2]))]

    return call


def tflite_float16(tf, model, folder):
    return tflite(tf, model, folder, [tf.lite.Optimize.DEFAULT])


FORMS = {"eager": lambda tf, model, folder: model, "graph": graph, "xla": xla, "saved model": saved_model}
LITE = {"tflite": tflite, "tflite float16": tflite_float16}
PATHS = [("float32", name) for name in (*FORMS, *LITE)] + [
    (f"mixed_{half}", name) for half in ("float16", "bfloat16") for name in ("graph", "xla")
]


def kinds_of_every_block(form, policy, folder):
    """Classify the elements of y as NaN, inf, -inf or finite, by block."""
    import tensorflow as tf

    run = {**FORMS, **LITE}[form](tf, model_of_every_block(policy), folder)
    return [kind(numpy(y)) for y in run(special_map())]


def kind(y):
    """Classify elements: 0 is finite, 1 inf, -1 -inf, 2 NaN."""
    y = np.asarray(y).astype(np.float32)
    return np.where(np.isnan(y), 2, np.where(np.isinf(y), np.sign(y), 0)).astype(np.int8)


@pytest.mark.parametrize(("policy", "form"), PATHS)
@pytest.mark.parametrize("onednn", ["0", "1"])
@quiet_tflite
def test_n3_nan_is_kept_on_every_path_of_tensorflow(workers, tmp_path, policy, form, onednn):
    worker = workers("keras tensorflow", TF_ENABLE_ONEDNN_OPTS=onednn)
    expect_kinds(worker.call(kinds_of_every_block, form, policy, str(tmp_path)))


def kinds_compiled():
    model = model_of_every_block()
    model.compile()
    return [kind(y) for y in model.predict_on_batch(special_map())]


@pytest.mark.parametrize("backend", [name for name in KERAS_BACKENDS if name != "keras tensorflow"])
def test_n3_nan_is_kept_on_other_backends(workers, backend):
    expect_kinds(workers(backend).call(kinds_compiled))


def expect_kinds(got):
    x = special_map()
    for seed, (spec, found) in enumerate(zip(EVERY, got, strict=True)):
        parameters = Case(spec, dtype="float32", seed=seed).inputs().parameters
        with np.errstate(all="ignore"):
            wanted = kind(se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last"))
        assert np.array_equal(found, wanted), f"{spec}: differs in samples {np.unique(np.nonzero(found != wanted)[0])}"


def test_g5_limits_of_a_hard_sigmoid_are_float64_on_every_backend(on):
    x, spec = np.random.default_rng(0).normal(size=(2, 3, 12)) * 9, SESpec(12, single_projection=True, gate=HALVES)
    parameters = Case(spec, dtype="float64").inputs().parameters
    got = on(gate_of, spec, parameters, x)
    assert {0.1, 0.9} <= set(got.ravel())
    wanted = se_numpy.excitation(x, spec, parameters, data_format="channels_last")
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


def gate_of(spec, parameters, x):
    block = block_of(spec, parameters, dtype="float64")
    return numpy(block.excitation(x))


def empties():
    import tensorflow as tf

    x = keras.Input((None, None, 12))
    blocks = [SESpec(12, hidden=6, squeeze=squeeze) for squeeze in ("avg", "max", "avg_max")]
    model = keras.Model(x, [se_keras.squeeze_excitation(x, spec=spec) for spec in blocks])
    maps = tf.zeros((0, 5, 7, 12))
    signature = [tf.TensorSpec((None, None, None, 12))]
    runs = [model, tf.function(model), tf.function(model, input_signature=signature), xla(tf, model, "")]
    return {tuple(y.shape) for run in runs for y in run(maps)}


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_v5_an_empty_batch_gives_an_empty_result_on_every_path_of_tensorflow(workers, onednn):
    assert workers("keras tensorflow", TF_ENABLE_ONEDNN_OPTS=onednn).call(empties) == {(0, 5, 7, 12)}


def networks_on_every_path():
    """Return which logits are NaN for a batch with NaN in one sample, and the shape of the logits of an empty batch."""
    import tensorflow as tf

    found, shapes = set(), set()
    for net in (ZEROS, BOTTLENECKS):  # the first has ReLU behind a convolution's bias
        model = se_keras.senet(net, dtype="float32")
        se_keras.set_parameters(model, weights_of(net))
        x = tf.constant(np.moveaxis(images(net, 16, 9, samples=2), 1, -1), "float32")
        x = tf.concat([tf.fill(x[:1].shape, np.float32(np.nan)), x[1:]], 0)
        signature = [tf.TensorSpec((None, None, None, net.channels))]
        runs = [model, tf.function(model, input_signature=signature)]
        runs += [xla(tf, model, "")] if net is ZEROS else []  # which takes long
        found |= {tuple(np.isnan(numpy(run(x))).mean(1)) for run in runs}
        shapes |= {tuple(run(x[:0]).shape) for run in (model, tf.function(model))}
    return found, shapes


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_n3_v5_networks_keep_nan_and_empty_batches_on_every_path_of_tensorflow(workers, onednn):
    found, shapes = workers("keras tensorflow", TF_ENABLE_ONEDNN_OPTS=onednn).call(networks_on_every_path)
    assert (found, shapes) == ({(1.0, 0.0)}, {(0, 5)})


# Products and devices (N-4)


@needs_jax
def test_n4_no_product_of_float32_on_jax_is_tf32(workers):
    counts = workers("keras jax").call(precisions)
    assert set(counts) == {"dot_general HIGHEST", "conv_general_dilated HIGHEST"}
    blocks = sum(name.endswith("se.reduce.weight") for name in weights_of(BOTTLENECKS))
    assert counts["dot_general HIGHEST"] == 3 * (2 * blocks + 1)  # forward, and back to both operands
    assert counts["conv_general_dilated HIGHEST"] > 20


def precisions():
    """Count the products of a small network and its gradients by precision."""
    import collections

    import jax
    from jax.extend import core

    model = se_keras.senet(BOTTLENECKS, dtype="float32")
    weights, rest = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))

    def loss(weights, x):
        return model.stateless_call(weights, rest, x)[0].sum()

    counts = collections.Counter()

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                names = {str(one).rpartition(".")[2] for one in np.atleast_1d(equation.params["precision"])}
                counts[f"{equation.primitive.name} {'/'.join(sorted(names))}"] += 1
            for value in equation.params.values():
                for inner in value if isinstance(value, (list, tuple)) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if isinstance(inner, core.Jaxpr):
                        visit(inner)

    visit(jax.make_jaxpr(jax.grad(loss, (0, 1)))(weights, np.ones((2, 16, 9, 3), np.float32)).jaxpr)
    return dict(counts)


@needs_torch
def test_a_block_on_torch_makes_no_tensor_on_another_device(workers):
    assert workers("keras torch").call(devices) == {"meta"}


def devices():
    """List where tensors are made while every block runs on torch's meta device, which accepts no CPU tensor."""
    import torch
    from torch.utils import _pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    found = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            tensors = [value for value in _pytree.tree_leaves(out) if isinstance(value, torch.Tensor)]
            found.update(tensor.device.type for tensor in tensors if tensor.ndim)  # a number meets every device
            return out

    with keras.device("meta"):
        x = torch.ones(2, 5, 7, 12, device="meta")
        for spec in EVERY:
            block = se_keras.SqueezeExcitation(spec)
            block.build(x.shape)
            with Watch():
                assert block(x).device.type == "meta"
    return found


# Shapes and wrappers


def test_shapes_are_known_without_a_call(tf):
    block = se_keras.SqueezeExcitation(8, hidden=2)
    assert block.compute_output_shape((None, 6, None, 8)) == (None, 6, None, 8)
    for shape in ((None, 8), (None, 5, 7, 9), (None, 0, 7, 8)):
        with pytest.raises(ShapeError):
            block.compute_output_shape(shape)
        with pytest.raises(ShapeError):
            block.build(shape)
    model = keras.Sequential([se_keras.SqueezeExcitation(8, hidden=2)])
    model.build((None, 5, 7, 8))
    assert model.output_shape == (None, 5, 7, 8)


@pytest.mark.parametrize("steps", [3, None])
def test_time_distributed_applies_the_block_to_every_step(on, steps):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 7, 12)).astype(np.float32)
    symbolic, whole, each = on(distributed_over_time, steps, x)
    assert symbolic == (None, steps, None, 7, 12)
    np.testing.assert_allclose(whole, each, rtol=0, atol=1e-5)


def distributed_over_time(steps, x):
    block = se_keras.SqueezeExcitation(12, hidden=6, squeeze="avg_max", activation="relu6", gate="hard_sigmoid")
    symbol = keras.Input((steps, None, 7, 12))
    y = keras.layers.TimeDistributed(block)(symbol)
    return tuple(y.shape), numpy(keras.Model(symbol, y)(x)), np.stack([numpy(block(x[:, i])) for i in range(3)], 1)


# Layers within


def plain(dtype=None, **options):
    """Make the same block of Keras' own layers."""
    x = keras.Input((None, None, 12))
    h = keras.layers.Dense(6, activation="relu", name="reduce")(keras.layers.GlobalAveragePooling2D()(x))
    g = keras.layers.Dense(12, activation="sigmoid", name="expand")(h)
    return keras.Model(x, keras.layers.Multiply()([x, keras.layers.Reshape((1, 1, 12))(g)]))


def pair():
    """Make our model and one of Keras' own layers with the same parameters, and list the dense layers of each."""
    x = keras.Input((None, None, 12))
    ours, theirs = keras.Model(x, se_keras.squeeze_excitation(x, spec=BIASED, name="se")), plain()
    parameters = Case(BIASED, dtype="float32").inputs().parameters
    se_keras.set_parameters(ours, parameters)
    for name in ("reduce", "expand"):
        theirs.get_layer(name).set_weights([parameters[f"{name}.weight"].T, parameters[f"{name}.bias"]])
    block = ours.get_layer("se")
    return ours, theirs, (block.reduce, block.expand), (theirs.get_layer("reduce"), theirs.get_layer("expand"))


def a_map():
    return np.random.default_rng(1).normal(size=(4, 5, 7, 12)).astype(np.float32)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
def test_quantize_acts_as_on_plain_layers(on, tmp_path, mode):
    found = on(quantized, mode, str(tmp_path / "model.keras"))
    if found is None:  # a version of Keras without that mode
        return
    before, ours, theirs, loaded, error = found
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert np.abs(ours - before).max() > 1e-4  # it was done
    assert np.array_equal(loaded, ours)
    assert "quantized" in error


def quantized(mode, path):
    ours, theirs, *_ = pair()
    before = numpy(ours(a_map()))
    try:
        theirs.quantize(mode)
    except ValueError as refused:
        with pytest.raises(ValueError, match=str(refused)[:20]):
            ours.quantize(mode)
        return None
    ours.quantize(mode)
    ours.save(path)
    try:
        error = str(se_keras.get_parameters(ours))
    except ParameterError as refused:
        error = str(refused)
    return before, *(numpy(model(a_map())) for model in (ours, theirs, keras.saving.load_model(path))), error


def test_lora_acts_as_on_plain_layers(on, tmp_path):
    (ours, theirs, loaded), trained, effective, base, error = on(with_lora, str(tmp_path / "model.keras"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(loaded, ours, rtol=0, atol=1e-6)
    assert trained == ["lora_kernel_a", "lora_kernel_b"]
    assert not np.array_equal(effective["reduce.weight"], base["reduce.weight"])
    assert np.array_equal(effective["expand.weight"], base["expand.weight"])
    wanted = se_numpy.squeeze_excitation(a_map(), BIASED, effective, data_format="channels_last")
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)
    assert "enable_lora" in error


def with_lora(path):
    ours, theirs, *layers = pair()
    base = se_keras.get_parameters(ours)
    for model, (reduce, expand) in zip((ours, theirs), layers, strict=True):
        reduce.enable_lora(2, a_initializer=keras.initializers.RandomUniform(seed=0))
        reduce.bias.trainable = expand.trainable = False
        model.compile(keras.optimizers.SGD(1.0), "mse")
        for _ in range(3):
            model.train_on_batch(a_map(), np.ones((4, 5, 7, 12), np.float32))
    try:
        error = str(se_keras.set_parameters(ours, base))
    except ParameterError as refused:
        error = str(refused)
    ours.save(path)
    found = [numpy(model(a_map())) for model in (ours, theirs, keras.saving.load_model(path))]
    trained = [variable.name for variable in ours.trainable_variables]
    return found, trained, se_keras.get_parameters(ours), base, error


def test_regularizer_and_constraint_are_kept_in_the_config(tf):
    block = se_keras.SqueezeExcitation(BIASED, name="se")
    block.reduce.kernel_regularizer = keras.regularizers.L2(0.5)
    block.expand.kernel_constraint = keras.constraints.NonNeg()
    x = keras.Input((None, None, 12))
    for model in (first := keras.Model(x, block(x)), keras.models.clone_model(first)):
        kernel = numpy(model.get_layer("se").reduce.kernel)
        np.testing.assert_allclose(numpy(sum(model.losses)), 0.5 * np.square(kernel).sum(), rtol=1e-5)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(a_map(), a_map())
        assert se_keras.get_parameters(model)["expand.weight"].min() >= 0
    assert set(se_keras.SqueezeExcitation(BIASED).get_config()) & {"reduce", "expand"} == set()


def test_clone_function_may_replace_the_dense_layers(tf, tmp_path):
    ours, *_ = pair()

    def clone(layer):
        copy = type(layer).from_config(layer.get_config())
        if isinstance(copy, se_keras.SqueezeExcitation):
            copy.reduce = keras.layers.SpectralNormalization(copy.reduce, power_iterations=20)
        return copy

    cloned = keras.models.clone_model(ours, clone_function=clone)
    block = cloned.get_layer("se")
    for layer, source in ((block.reduce.layer, "reduce"), (block.expand, "expand")):
        layer.set_weights(getattr(ours.get_layer("se"), source).get_weights())
    cloned(a_map(), training=True)
    assert np.linalg.norm(numpy(block.reduce.layer.kernel), 2) == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(ParameterError, match=r"the layer of reduce.bias has no such parameter"):
        se_keras.get_parameters(cloned)
    cloned.save(tmp_path / "model.keras")
    assert np.array_equal(numpy(keras.saving.load_model(tmp_path / "model.keras")(a_map())), numpy(cloned(a_map())))


@needs_torch
def test_torch_forward_hooks_are_called_on_the_projections(workers):
    assert workers("keras torch").call(hooked) == [(2, 6), (2, 12)]


def hooked():
    block, shapes = se_keras.SqueezeExcitation(BIASED), []
    block.build((None, 5, 7, 12))
    for layer in (block.reduce, block.expand):
        layer.register_forward_hook(lambda layer, given, y: shapes.append(tuple(y.shape)))
    block(np.ones((2, 5, 7, 12), np.float32))
    return shapes


# Where parameters are


@needs_jax
def test_k3_set_parameters_keeps_the_sharding_of_variables(workers):
    worker = workers("keras jax", XLA_FLAGS="--xla_force_host_platform_device_count=8")
    before, after, sent, found = worker.call(sharded)
    assert before == after
    assert all("'model'" in one and "8" in one for one in before)
    assert {name: value.tobytes() for name, value in found.items()} == {name: v.tobytes() for name, v in sent.items()}


def sharded():
    import jax

    block = se_keras.SqueezeExcitation(64, hidden=8, bias=True)
    block.build((None, 5, 7, 64))
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("model",))
    spec = {2: jax.sharding.PartitionSpec(None, "model"), 1: jax.sharding.PartitionSpec("model")}
    for variable in block.weights:
        place = jax.sharding.NamedSharding(mesh, spec[len(variable.shape)])
        variable._value = jax.device_put(variable.value, place)  # as a user may, without Keras' distribution
    before = [f"{variable.value.sharding.spec} {variable.value.sharding.mesh}" for variable in block.weights]
    sent = se_numpy.initialize(block.spec, seed=1)
    se_keras.set_parameters(block, sent)
    after = [f"{variable.value.sharding.spec} {variable.value.sharding.mesh}" for variable in block.weights]
    return before, after, sent, se_keras.get_parameters(block)


@needs_jax
def test_k2_stacked_variables_are_refused_and_kept(workers):
    error, shapes = workers("keras jax").call(stacked)
    assert "(3, 12, 6), expected (12, 6)" in error
    assert shapes == [(3, 12, 6), (3, 6), (3, 6, 12), (3, 12)]


def stacked():
    import jax.numpy as jnp

    block = block_of(BIASED, values := se_numpy.initialize(BIASED, seed=1))
    for variable in block.weights:
        variable._value = jnp.stack([variable.value] * 3)
    errors = []
    for call in (lambda: se_keras.set_parameters(block, values), lambda: se_keras.get_parameters(block)):
        try:
            call()
        except ParameterError as error:
            errors.append(str(error))
    assert len(errors) == 2
    return errors[0], [tuple(variable.value.shape) for variable in block.weights]


# int8


@pytest.mark.parametrize("squeeze", ["avg", "max", "avg_max"])
@pytest.mark.parametrize("form", ["int8", "dynamic range", "float16"])
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected:UserWarning")
@quiet_tflite
def test_tflite_models_that_are_quantized_are_within_two_percent(tf, squeeze, form):
    rng = np.random.default_rng(0)
    spec = SESpec(12, hidden=6, bias=True, squeeze=squeeze)
    x = keras.Input((8, 6, 12))
    signed = keras.layers.BatchNormalization()(x)  # so that it is no input of the whole model
    block = se_keras.SqueezeExcitation(spec)
    model = keras.Model(x, block(signed))
    se_keras.set_parameters(block, Case(spec, dtype="float32").inputs().parameters)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    maps = rng.uniform(-1, 1, size=(64, 1, 8, 6, 12)).astype(np.float32)  # no outliers, so that 8 bits are enough
    if form == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([one] for one in maps)
    elif form == "float16":
        converter.target_spec.supported_types = [tf.float16]
    run = tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner()
    (name,) = run.get_input_details()
    got = np.concatenate([*(value for one in maps[:16] for value in run(**{name: one}).values())])
    wanted = numpy(model(maps[:16, 0]))
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


# What the tests share


def block_of(spec, parameters, **options):
    block = se_keras.SqueezeExcitation(spec, **options)
    block.build((None, 5, 7, spec.channels))
    se_keras.set_parameters(block, parameters)
    return block


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def test_m2_a_networks_weights_are_all_within_its_layers(tf):
    model = se_keras.senet(BOTTLENECKS)
    se_keras.set_parameters(model, weights_of(BOTTLENECKS))
    assert all(variable.path.count("/") == (2 if "_se/" in variable.path else 1) for variable in model.variables)
