"""SE blocks of live NNX and linen models: found by what they compute, replaced by ours, and put back."""

import numpy as np
import pytest

from se_spec import HardSigmoid, InputError, LeakyReLU, ParameterError, SESpec, SpecError

from ..conftest import OnDemand

pytestmark = pytest.mark.framework("flax")
jax, nnx, linen, se_flax = OnDemand("jax"), OnDemand("flax.nnx"), OnDemand("flax.linen"), OnDemand("se_flax")
jnp = OnDemand("jax.numpy")
BIASED = SESpec(16, hidden=4, bias=True)


def mean(x):
    return x.mean((1, 2), keepdims=True)


def own_clip(v):
    return jnp.clip(0.3 * v + 0.4, 0.05, 0.9)


def make_block(kind="SELayer", conv=False, act="relu", gate="sigmoid", pool=mean, bias=True, norm=False, drop=0.0):
    """A hand-written NNX block: two projections, and functions that are its own."""
    rngs = nnx.Rngs(0)

    class Block(nnx.Module):
        def __init__(self):
            options = {"use_bias": bias, "rngs": rngs}
            if conv:
                self.one, self.two = nnx.Conv(16, 4, (1, 1), **options), nnx.Conv(4, 16, (1, 1), **options)
            else:
                self.one, self.two = nnx.Linear(16, 4, **options), nnx.Linear(4, 16, **options)
            if norm:
                self.norm = nnx.BatchNorm(4, rngs=rngs)
            if drop:
                self.drop = nnx.Dropout(drop, rngs=rngs)

        def __call__(self, x):
            h = find(act)(self.one(pool(x)))
            h = self.norm(h) if norm else h
            h = self.drop(h) if drop else h
            return x * find(gate)(self.two(h))

    return type(kind, (Block,), {})()


def find(function):
    return getattr(jax.nn, function) if isinstance(function, str) else function


def make_gate():
    rngs = nnx.Rngs(0)
    layers = mean, nnx.Conv(16, 4, (1, 1), rngs=rngs), nnx.relu, nnx.Conv(4, 16, (1, 1), rngs=rngs), nnx.sigmoid
    return nnx.Sequential(*layers)


BLOCKS = {
    "linear": ({}, BIASED),
    "no bias": ({"bias": False}, SESpec(16, hidden=4)),
    "convolutions": ({"conv": True, "act": "silu"}, BIASED.replace(activation="silu")),
    "hard sigmoid": ({"gate": "hard_sigmoid"}, BIASED.replace(gate="hard_sigmoid")),
    "relu6 gate": ({"gate": lambda v: jax.nn.relu6(v + 3) / 6}, BIASED.replace(gate="hard_sigmoid")),
    "hard sigmoid of nobody": ({"gate": own_clip}, BIASED.replace(gate=HardSigmoid(0.3, 0.4, 0.05, 0.9))),
    "leaky": ({"act": lambda h: jax.nn.leaky_relu(h, 0.2)}, BIASED.replace(activation=LeakyReLU(0.2))),
    "maximum": ({"pool": lambda x: x.max((1, 2), keepdims=True)}, BIASED.replace(squeeze="max")),
    "residual": ({"gate": lambda v: 1 + jnp.tanh(v)}, BIASED.replace(gate="tanh", residual=True)),
}
NEAR = {
    "batch norm": ({"norm": True}, "it has BatchNorm ('norm')"),
    "dropout": ({"drop": 0.3}, "it has dropout (drop)"),
    "missing squeeze": ({"pool": lambda x: x}, "it does not scale each channel of a map by one number"),
    "wrong gate": ({"gate": "softmax"}, "its factors are those of no spec"),
    "detached gate": (
        {"gate": lambda v: jax.nn.sigmoid(jax.lax.stop_gradient(v))},
        "its gradients are others than ours",
    ),
}


def make_host(block):
    class Host(nnx.Module):
        def __init__(self):
            self.stem = nnx.Conv(3, 16, (3, 3), rngs=nnx.Rngs(1))
            self.parts = nnx.List([block])

        def __call__(self, x):
            x = self.stem(x)
            for part in self.parts:
                y = part(x)
                x = y if y.shape == x.shape else x * y
            return x

    return Host()


def image():
    return np.random.default_rng(0).standard_normal((2, 7, 6, 3)).astype("float32")


def flatten(module):
    return {path: np.asarray(value) for path, value in nnx.to_flat_state(nnx.state(module, nnx.Param))}


@pytest.mark.parametrize("name", BLOCKS)
def test_hand_written_block_is_replaced_and_put_back(name):
    options, spec = BLOCKS[name]
    judge(make_host(make_block(**options)), spec, "map")


def test_gate_alone_is_replaced_and_put_back():
    judge(make_host(make_gate()), BIASED, "gate")


def judge(model, spec, result):
    x, state, block = image(), flatten(model), model.parts[0]
    want = np.asarray(model(x))
    replacement = se_flax.replace(model, x)
    assert {path: found.spec for path, found in replacement.blocks.items()} == {"parts.0": spec}
    assert replacement.blocks["parts.0"].result == result
    assert replacement.left == {} and replacement.difference < 1e-5
    assert replacement.model is model and isinstance(model.parts[0], se_flax.SqueezeExcitation)
    assert abs(np.asarray(nnx.jit(lambda model, x: model(x))(model, x)) - want).max() < 1e-5 * abs(want).max()
    assert se_flax.restore(replacement) is model and model.parts[0] is block
    assert flatten(model).keys() == state.keys()
    assert all(np.array_equal(value, state[path]) for path, value in flatten(model).items())


@pytest.mark.parametrize("name", NEAR)
def test_module_that_resembles_a_block_is_left_and_named(name):
    options, reason = NEAR[name]
    block = make_block(**options)
    model = make_host(block)
    replacement = se_flax.replace(model)
    assert model.parts[0] is block and replacement.blocks == {}
    [(path, found)] = replacement.left.items()
    assert path == "parts.0" and reason in found
    with pytest.raises(SpecError, match="is no Squeeze-and-Excitation block: "):
        se_flax.from_module(block)


def test_perceptron_is_neither_found_nor_named():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(16, 64, rngs=rngs), nnx.gelu, nnx.Linear(64, 16, rngs=rngs))
    replacement = se_flax.replace(model)
    assert replacement.blocks == {} and replacement.left == {}


def test_shared_module_and_variables_used_elsewhere():
    block = make_block()
    model = make_host(block)
    model.again = block
    replacement = se_flax.replace(model, image())
    assert list(replacement.blocks) == ["parts.0", "again"] and model.again is model.parts[0]
    se_flax.restore(replacement)
    assert model.again is model.parts[0] is block
    model.other = nnx.Linear(16, 4, rngs=nnx.Rngs(2))
    model.other.kernel = block.one.kernel
    assert "also used outside of a block" in se_flax.replace(model).left["again"]


def test_training_in_between_reaches_the_modules_that_are_put_back():
    model = make_host(make_gate())
    replacement = se_flax.replace(model)
    ours = model.parts[0]
    parameters = {name: np.full_like(array, 0.25) for name, array in se_flax.get_parameters(ours).items()}
    se_flax.set_parameters(model, parameters)
    se_flax.restore(replacement)
    assert (np.asarray(model.parts[0].layers[1].kernel) == 0.25).all()
    assert model.parts[0].layers[1].kernel.shape == (1, 1, 16, 4)


def test_model_that_uses_more_of_a_block_than_its_call_keeps_it():
    model = make_host(make_block())
    type(model).width = property(lambda self: self.parts[0].one.out_features)
    call = type(model).__call__
    type(model).__call__ = lambda self, x: call(self, x) * self.width
    replacement = se_flax.replace(model, image())
    assert "the model raises AttributeError" in replacement.left["parts.0"] and replacement.blocks == {}
    with pytest.raises(InputError, match="on the inputs"):
        se_flax.replace(model, (image(), 3))


def test_half_precision_and_a_model_that_is_a_block():
    block = make_block()
    for layer in (block.one, block.two):
        layer.dtype = jnp.bfloat16
    replacement = se_flax.replace(block, np.ones((2, 5, 4, 16), "float32"))
    assert replacement.model.dtype is None and list(replacement.blocks) == [""]  # a float32 map stays float32
    assert se_flax.restore(replacement) is block


def test_parameters_by_path_in_our_models_and_in_others():
    model = make_host(make_block(conv=True))
    parameters = {name: 2 * array for name, array in se_flax.get_parameters(model, "parts.0").items()}
    se_flax.set_parameters(model, parameters, "parts.0")
    got = se_flax.get_parameters(model, "parts.0")
    assert all(np.array_equal(got[name], array) for name, array in parameters.items())
    with pytest.raises(ParameterError, match="the model has no module 'no'"):
        se_flax.get_parameters(model, "no")
    with pytest.raises(ParameterError, match="'stem' is no SE block"):
        se_flax.get_parameters(model, "stem")
    blocks = nnx.List([se_flax.SqueezeExcitation(8, rngs=nnx.Rngs(0)) for _ in range(2)])
    model.parts = blocks
    with pytest.raises(ParameterError, match=r"the model holds: parts\.0, parts\.1; give its path"):
        se_flax.get_parameters(model)
    assert se_flax.get_parameters(model, "parts.1").keys() == {"reduce.weight", "expand.weight"}


# linen


def make_linen(act="relu", gate="sigmoid", pool=mean, kernel=True, norm=False, drop=0.0, kind="SELayer"):
    """A hand-written linen block, which makes its layers when it is called."""

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, train=False):
            layer = (lambda width: linen.Conv(width, (1, 1))) if kernel else linen.Dense
            h = find(act)(layer(4)(pool(x)))
            h = linen.BatchNorm(use_running_average=not train)(h) if norm else h
            h = linen.Dropout(drop, deterministic=not train)(h) if drop else h
            return x * find(gate)(layer(16)(h))

    return type(kind, (Block,), {})()


def make_linen_host(block, result="map"):
    class Host(linen.Module):
        given: linen.Module

        def setup(self):
            self.stem = linen.Sequential([linen.Conv(16, (3, 3)), make_linen()])

        def __call__(self, x):
            x = self.stem(x)
            y = self.given(x)
            return y if result == "map" else x * y

    return Host(block)


LINEN_BLOCKS = {
    "convolutions": ({}, BIASED),
    "dense, silu": ({"kernel": False, "act": "silu"}, BIASED.replace(activation="silu")),
    "hard sigmoid": ({"gate": "hard_sigmoid"}, BIASED.replace(gate="hard_sigmoid")),
}


@pytest.mark.parametrize("name", LINEN_BLOCKS)
def test_linen_block_is_replaced_and_put_back(name):
    options, spec = LINEN_BLOCKS[name]
    judge_linen(make_linen_host(make_linen(**options)), spec)


def test_linen_gate_alone_is_replaced_and_put_back():
    layers = mean, linen.Conv(4, (1, 1)), linen.relu, linen.Conv(16, (1, 1)), linen.sigmoid
    judge_linen(make_linen_host(linen.Sequential(layers), "gate"), BIASED)


def judge_linen(model, spec):
    x = image()
    variables = model.init(jax.random.key(0), x)
    want = np.asarray(model.apply(variables, x))
    replacement = se_flax.linen.replace(model, variables, x)
    assert {path: found.spec for path, found in replacement.blocks.items()} == {"stem/layers_1": BIASED, "given": spec}
    assert replacement.left == {} and replacement.difference < 1e-5
    ours, new = replacement.model, replacement.variables
    assert new["params"]["given"]["reduce"]["kernel"].shape == (16, 4)
    got = jax.jit(ours.apply)(new, x)
    assert abs(np.asarray(got) - want).max() < 1e-5 * abs(want).max()
    shapes = jax.tree.map(jnp.shape, new)
    assert jax.tree.map(jnp.shape, jax.eval_shape(ours.init, jax.random.key(0), x)) == shapes
    gradient = jax.grad(lambda params: ours.apply({"params": params}, x).sum())(new["params"])
    assert abs(gradient["given"]["expand"]["kernel"]).max() > 0
    back, same = se_flax.linen.restore(replacement)
    assert back is model and jax.tree.structure(same) == jax.tree.structure(variables)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(variables), strict=True))
    parameters = {name: 2 * array for name, array in se_flax.linen.get_parameters(new, path="given").items()}
    doubled = se_flax.linen.set_parameters(ours, parameters, new, "given")
    _, trained = se_flax.linen.restore(replacement, doubled)
    first = jax.tree.leaves(variables["params"]["given"])
    assert all(
        np.array_equal(a, 2 * b) for a, b in zip(jax.tree.leaves(trained["params"]["given"]), first, strict=True)
    )


LINEN_NEAR = {
    "batch norm": ({"norm": True}, "it has BatchNorm ('BatchNorm_0')"),
    "dropout": ({"drop": 0.3}, "it has dropout (Dropout_0)"),
    "missing squeeze": ({"pool": lambda x: x}, "it does not scale each channel of a map by one number"),
    "wrong gate": ({"gate": "softmax"}, "its factors are those of no spec"),
}


@pytest.mark.parametrize("name", LINEN_NEAR)
def test_linen_module_that_resembles_a_block_is_left_and_named(name):
    options, reason = LINEN_NEAR[name]
    model, x = make_linen(**options), np.ones((2, 5, 4, 16), "float32")
    variables = model.init(jax.random.key(0), x)
    replacement = se_flax.linen.replace(model, variables, x)
    assert replacement.blocks == {} and replacement.model is model
    assert reason in replacement.left[""]
    with pytest.raises(SpecError, match="is no Squeeze-and-Excitation block: "):
        se_flax.linen.from_module(model, variables, x)


def test_linen_model_that_is_a_block_and_mistakes_of_a_caller():
    model, x = make_linen(), np.ones((2, 5, 4, 16), "float32")
    variables = model.init(jax.random.key(0), x)
    replacement = se_flax.linen.replace(model, variables, x)
    assert list(replacement.blocks) == [""] and set(replacement.variables["params"]) == {"reduce", "expand"}
    assert jax.tree.structure(se_flax.linen.restore(replacement)[1]) == jax.tree.structure(variables)
    with pytest.raises(InputError, match="on the inputs"):
        se_flax.linen.find_blocks(model, variables, x[..., :3])
    with pytest.raises(ParameterError, match="no block of ours at 'no'"):
        se_flax.linen.get_parameters(variables, path="no")


def test_linen_block_inside_a_transformation_is_replaced():
    class Host(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.remat(type(make_linen()))()(x)

    model, x = Host(), np.ones((2, 5, 4, 16), "float32")
    replacement = se_flax.linen.replace(model, model.init(jax.random.key(0), x), x)
    assert [found.spec for found in replacement.blocks.values()] == [BIASED] and replacement.difference < 1e-6
