"""SE blocks of live models: found by what they compute, replaced by ours, and put back."""

import numpy as np
import pytest

from se_spec import HardSigmoid, InputError, LeakyReLU, ParameterError, SESpec, SpecError

from ..conftest import OnDemand

pytestmark = [
    pytest.mark.framework("keras"),
    # Keras' own way from tensors to arrays, which NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

keras, se_keras = OnDemand("keras"), OnDemand("se_keras")
BIASED = SESpec(16, hidden=4, bias=True)


def make_layer(kind="SELayer", dense=True, act="relu", gate="sigmoid", bias=True, **methods):
    """A hand-written layer: two projections, and functions that are its own."""

    class Block(keras.layers.Layer):
        def build(self, shape):
            layers = keras.layers
            options = {"use_bias": bias}
            if dense:
                self.a, self.b = layers.Dense(4, **options), layers.Dense(shape[-1], **options)
                self.a.build((None, shape[-1])), self.b.build((None, 4))
            else:
                self.a, self.b = layers.Conv2D(4, 1, **options), layers.Conv2D(shape[-1], 1, **options)
                self.a.build((None, 1, 1, shape[-1])), self.b.build((None, 1, 1, 4))
            self.built = True

        def call(self, x):
            z = keras.ops.mean(x, (1, 2), keepdims=True)
            act_function = keras.activations.get(act) if isinstance(act, str) else act
            gate_function = keras.activations.get(gate) if isinstance(gate, str) else gate
            return x * gate_function(self.b(act_function(self.a(z))))

    return type(kind, (Block,), methods)()


def relu6_gate(v):
    return keras.ops.relu6(v + 3.0) / 6.0


LAYERS = {
    "dense": (lambda: make_layer(), BIASED),
    "no bias": (lambda: make_layer(bias=False), SESpec(16, hidden=4)),
    "convolutions": (lambda: make_layer(dense=False, act="silu"), BIASED.replace(activation="silu")),
    "relu6 gate": (lambda: make_layer(gate=relu6_gate), BIASED.replace(gate="hard_sigmoid")),
    "hard sigmoid of Keras 2": (
        lambda: make_layer(gate=lambda v: keras.ops.clip(0.2 * v + 0.5, 0, 1)),
        BIASED.replace(gate=HardSigmoid(slope=0.2, offset=0.5)),
    ),
    "leaky": (
        lambda: make_layer(act=lambda h: keras.ops.leaky_relu(h, 0.1)),
        BIASED.replace(activation=LeakyReLU(0.1)),
    ),
    "gain": (lambda: make_layer(gate=lambda v: 2 * keras.ops.sigmoid(v)), BIASED.replace(gain=2.0)),
}


def make_graph(layer=None, rank=2, pool="keepdims", **options):
    """A functional model around a layer, or around operations of a graph."""
    layers = keras.layers
    x = keras.Input((8,) * rank + (3,))
    y = getattr(layers, f"Conv{rank}D")(16, 3, name="stem")(x)
    y = add_operations(y, rank, pool, **options) if layer is None else layer(y)
    y = getattr(layers, f"GlobalAveragePooling{rank}D")()(y)
    return keras.Model(x, layers.Dense(5, name="head")(y), name="net")


def add_operations(y, rank=2, pool="keepdims", act="relu", gate="sigmoid", dropout=0.0, norm=False):
    layers = keras.layers
    z = getattr(layers, f"Global{'Max' if pool == 'max' else 'Average'}Pooling{rank}D")(keepdims=pool != "dense")(y)
    projection = layers.Dense if pool in ("dense", "max") else getattr(layers, f"Conv{rank}D")
    kernel = () if projection is layers.Dense else (1,)
    h = layers.Activation(act)(projection(4, *kernel, name="down")(z))
    h = layers.Dropout(dropout)(h) if dropout else h
    h = layers.BatchNormalization()(h) if norm else h
    g = projection(16, *kernel, activation=gate, name="up")(h)
    g = layers.Reshape((1,) * rank + (16,))(g) if pool == "dense" else g
    return layers.Multiply(name="scale")([g, y]) if pool == "max" else y * g


GRAPHS = {
    "convolutions": ({}, BIASED),
    "dense": ({"pool": "dense", "act": "silu"}, BIASED.replace(activation="silu")),
    "maximum": ({"pool": "max", "gate": "tanh"}, BIASED.replace(squeeze="max", gate="tanh")),
    "rank 1": ({"rank": 1, "gate": "hard_sigmoid"}, BIASED.replace(gate="hard_sigmoid")),
    "rank 3": ({"rank": 3, "act": "gelu"}, BIASED.replace(activation="gelu")),
}


def give_biases(model):
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.normal(0.0, 0.5, tuple(variable.shape)))


def judge(model, path, spec):
    give_biases(model)
    x = np.random.default_rng(1).standard_normal((2, *model.inputs[0].shape[1:])).astype("float32")
    want, weights = np.asarray(model(x)), [np.asarray(value) for value in model.get_weights()]
    replacement = se_keras.replace(model, x)
    assert {name: block.spec for name, block in replacement.blocks.items()} == {path: spec}
    assert replacement.left == {} and replacement.difference < 1e-5
    ours = replacement.model
    assert abs(np.asarray(ours(x)) - want).max() < 1e-5 * abs(want).max()
    assert any(isinstance(layer, se_keras.SqueezeExcitation) for layer in ours.layers)
    assert se_keras.get_parameters(ours, path).keys() == spec.parameter_shapes().keys()
    parameters = {name: 2 * array for name, array in se_keras.get_parameters(ours, path).items()}
    assert se_keras.restore(replacement) is model
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True))
    se_keras.set_parameters(model, parameters, path)  # the other library's block, by its path
    assert np.array_equal(se_keras.get_parameters(model, path)["expand.weight"], parameters["expand.weight"])


@pytest.mark.parametrize("name", LAYERS)
def test_hand_written_layer_is_replaced_and_put_back(tf, name):
    make, spec = LAYERS[name]
    layer = make()
    judge(make_graph(layer), layer.name, spec)


@pytest.mark.parametrize("name", GRAPHS)
def test_operations_of_a_graph_are_replaced_and_put_back(tf, name):
    options, spec = GRAPHS[name]
    model = make_graph(**options)
    [path] = se_keras.find_blocks(model)
    judge(model, path, spec)


NEAR = {
    "dropout": ({"dropout": 0.2}, "it has dropout (dropout"),
    "batch norm": ({"norm": True}, "it has BatchNormalization ('batch_normalization"),
    "softmax": ({"gate": "softmax"}, "its factors are those of no spec"),
}


@pytest.mark.parametrize("name", NEAR)
def test_operations_that_resemble_a_block_are_left_and_named(tf, name):
    options, reason = NEAR[name]
    model = make_graph(**options)
    replacement = se_keras.replace(model)
    assert replacement.model is model and replacement.blocks == {}
    [(path, found)] = replacement.left.items()
    assert reason in found and f"left: {path}: {found}" in str(replacement)


def test_layers_that_resemble_a_block_are_left_and_named(tf):
    def call(self, x):
        return x * keras.ops.sigmoid(self.b(keras.ops.relu(self.a(x))))

    for layer, reason in (
        (make_layer(call=call), "it does not scale each channel"),
        (make_layer(act="softplus"), "its factors are those of no spec"),
    ):
        assert reason in se_keras.replace(make_graph(layer)).left[layer.name]
        with pytest.raises(SpecError, match=reason):
            se_keras.from_module(layer)
    layer = make_layer()
    model = make_graph(layer)
    layer.a.enable_lora(2)
    assert "has LoRA's matrices" in se_keras.replace(model).left[layer.name]
    layer = make_layer()
    model = make_graph(layer)
    layer.b.quantize("int8")
    assert "quantized" in se_keras.replace(model).left[layer.name]
    perceptron = [keras.Input((8, 8, 3)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]
    assert not se_keras.replace(keras.Sequential(perceptron)).left


def test_uses_outside_of_a_block_are_named(tf):
    layers = keras.layers
    x = keras.Input((8, 8, 16))
    down, up = layers.Conv2D(4, 1, activation="relu"), layers.Conv2D(16, 1, activation="sigmoid")
    z = layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = up(down(z))
    used = keras.Model(x, [x * g, layers.Flatten()(g)])
    assert "its gates are used by 'flatten" in next(iter(se_keras.replace(used).left.values()))
    again = keras.Model(x, [x * g, down(x)])
    assert "is used elsewhere too" in next(iter(se_keras.replace(again).left.values()))
    other = keras.Model(x, layers.ReLU()(x) * g)
    assert "the map that is scaled is not the one that is pooled" in next(iter(se_keras.replace(other).left.values()))


def test_gate_that_is_a_layer_is_part_of_the_operations(tf):
    layers = keras.layers
    x = keras.Input((8, 8, 16))
    parts = layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(4, 1, activation="relu"), layers.Conv2D(16, 1)
    gate = keras.Sequential([*parts, layers.Activation("sigmoid")])
    replacement = se_keras.replace(keras.Model(x, layers.Multiply(name="scale")([x, gate(x)])))
    assert list(replacement.blocks) == ["scale"] and replacement.left == {}


def test_channels_first_is_named(tf):
    layers = keras.layers
    x = keras.Input((16, 8, 8))
    z = layers.GlobalAveragePooling2D("channels_first")(x)
    g = layers.Dense(16, "sigmoid")(layers.Dense(4, "relu")(z))
    model = keras.Model(x, layers.Multiply(name="scale")([x, layers.Reshape((16, 1, 1))(g)]))
    assert se_keras.replace(model).left == {"scale": "its channels are first, ours are last"}


def test_nested_sequential_subclassed_and_shared(tf):
    shared = make_layer()
    inner = make_graph(shared, pool="dense")

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.stem = keras.layers.Conv2D(16, 3)
            self.parts = [shared, keras.Sequential([shared])]
            self.inner = inner

        def call(self, x):
            y = self.stem(x)
            for part in self.parts:
                y = part(y)
            return keras.ops.mean(y, (1, 2, 3))[:, None] + self.inner(x)

    model, x = Net(), np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    want, names = np.asarray(model.predict(x, verbose=0)), [layer.name for layer in model._layers]
    replacement = se_keras.replace(model, x)
    assert list(replacement.blocks) == [
        "parts/0",
        f"parts/1/{shared.name}",
        f"inner/{shared.name}",
    ]
    assert replacement.model is model and model.parts[0] is model.parts[1].layers[0]
    assert abs(np.asarray(model.predict(x, verbose=0)) - want).max() < 1e-6
    se_keras.restore(replacement)
    assert [layer.name for layer in model._layers] == names and model.parts[0] is shared and model.inner is inner
    assert np.array_equal(model.predict(x, verbose=0), want)


def test_policy_frozen_variables_and_regularizers_are_kept(tf):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = make_layer()
        model = make_graph(layer)
    finally:
        keras.config.set_dtype_policy(before)
    layer.a.kernel.trainable = False
    layer.b.kernel.regularizer = keras.regularizers.L2(0.1)
    model.compile("sgd", "mse")
    loss = float(sum(model.losses))
    replacement = se_keras.replace(model)
    ours = replacement.model.get_layer(layer.name)
    assert not ours.reduce.kernel.trainable and ours.reduce.bias.trainable
    assert loss == pytest.approx(float(sum(replacement.model.losses)), rel=1e-6)
    assert any("compile it" in note for note in replacement.notes)
    assert ours.compute_dtype == layer.compute_dtype == layer.a.compute_dtype == "bfloat16"


def test_replaced_model_is_saved_loaded_and_trained(tf, tmp_path):
    model = make_graph()
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("float32")
    replacement = se_keras.replace(model)
    ours = replacement.model
    ours.save(tmp_path / "ours.keras")
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    assert np.array_equal(loaded.predict(x, verbose=0), ours.predict(x, verbose=0))
    ours.compile("sgd", "mse")
    ours.fit(x, np.zeros((4, 5)), verbose=0)
    se_keras.restore(replacement)
    assert abs(model.predict(x, verbose=0) - ours.predict(x, verbose=0)).max() < 1e-6


@pytest.mark.parametrize(("name", "blocks"), [("MobileNetV3Small", 9), ("EfficientNetB0", 16)])
def test_every_block_of_keras_applications_is_replaced(tf, name, blocks):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=3)
    replacement = se_keras.replace(model)
    assert len(replacement.blocks) == blocks and replacement.left == {} and replacement.difference < 1e-5


def test_mistakes_of_a_caller_are_named(tf):
    with pytest.raises(InputError, match="the model has no variables yet"):
        se_keras.replace(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(InputError, match="on the inputs"):
        se_keras.replace(make_graph(), np.ones((1, 8, 8, 7), "float32"))
    with pytest.raises(ParameterError, match="expected one block named 'no'"):
        se_keras.get_parameters(make_graph(), "no")


def test_blocks_are_replaced_on_every_backend(on):
    specs, difference = on(replace_graph)
    assert specs == [BIASED.to_json()] * 2 and difference < 1e-5


def replace_graph():
    x = keras.Input((8, 8, 16))
    model = keras.Model(x, add_operations(make_layer()(x)))
    give_biases(model)
    replacement = se_keras.replace(model)
    return [block.spec.to_json() for block in replacement.blocks.values()], replacement.difference
