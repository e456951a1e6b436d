"""``check`` accepts blocks of every framework: it recognises, runs and differentiates them, and modifies none."""

import contextlib
import dataclasses
import importlib
import io
import os
import pickle
import warnings

import numpy as np
import pytest

from se_conformance import adapt, check, trial
from se_conformance.adapters import AdaptedBlock, DepartureError
from se_conformance.adapters.departures import find_departure
from se_conformance.adapters.matching import NativeParameter, comes_first, match
from se_conformance.report import render_html, render_junit
from se_parity.implementations import IMPLEMENTATIONS
from se_spec import ParameterError, SESpec, SpecError
from se_spec.parameters import shapes

from ..conftest import OnDemand, read_exporters_operators_once

SPEC = SESpec(12, hidden=5, bias=True)
SQUARE = SESpec(6, hidden=6, bias=True)

torch, nn, onnx = OnDemand("torch"), OnDemand("torch.nn"), OnDemand("onnx")
keras, nnx, linen, jnp = OnDemand("keras"), OnDemand("flax.nnx"), OnDemand("flax.linen"), OnDemand("jax.numpy")

needs_torch = pytest.mark.framework("torch")
needs_keras = pytest.mark.framework("keras")
needs_flax = pytest.mark.framework("flax")


@pytest.fixture(autouse=True, scope="module")
def _keras_on_tensorflow():
    os.environ["KERAS_BACKEND"] = "tensorflow"


# Somebody's blocks


def torch_block(spec=SPEC, made=None):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = made or nn.Sequential(
                nn.Linear(spec.channels, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, spec.channels), nn.Sigmoid()
            )

        def forward(self, x):
            return x * self.fc(x.flatten(2).mean(-1)).reshape(*x.shape[:2], *(1 for _ in x.shape[2:]))

    return Block()


def torch_convolutions(spec=SPEC):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_reduce = nn.Conv2d(spec.channels, spec.hidden, 1)
            self.conv_expand = nn.Conv2d(spec.hidden, spec.channels, 1)

        def forward(self, x):
            return x * self.conv_expand(self.conv_reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

    return Block()


def torch_products(spec=SPEC):
    """A block whose weights are (I, O), which torch's layers never have."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.b1 = self.drawn(spec.channels, spec.hidden), self.drawn(spec.hidden)
            self.w2, self.b2 = self.drawn(spec.hidden, spec.channels), self.drawn(spec.channels)

        def drawn(self, *shape):
            return nn.Parameter(torch.randn(shape))

        def forward(self, x):
            return x * ((x.mean((2, 3)) @ self.w1 + self.b1).relu() @ self.w2 + self.b2).sigmoid()[..., None, None]

    return Block()


def keras_layer(spec=SPEC, **options):
    class Block(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.squeeze = keras.layers.Dense(spec.hidden, "relu", dtype=self.dtype_policy)
            self.excite = keras.layers.Dense(spec.channels, "sigmoid", dtype=self.dtype_policy)

        def build(self, shape):
            self.squeeze.build((None, spec.channels))
            self.excite.build((None, spec.hidden))

        def call(self, x):
            return x * self.excite(self.squeeze(keras.ops.mean(x, (1, 2))))[:, None, None]

    return Block(**options)


def keras_model(spec=SPEC, space=(None, None)):
    x = keras.Input((*space, spec.channels))
    z = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    h = keras.layers.Conv2D(spec.hidden, 1, activation="relu", name="down")(z)
    g = keras.layers.Conv2D(spec.channels, 1, activation="sigmoid", name="up")(h)
    return keras.Model(x, keras.layers.Multiply()([x, g]))


def nnx_block(spec=SPEC, first="fc1", second="fc2"):
    class Block(nnx.Module):
        def __init__(self, rngs):
            setattr(self, first, nnx.Linear(spec.channels, spec.hidden, rngs=rngs))
            setattr(self, second, nnx.Linear(spec.hidden, spec.channels, rngs=rngs))

        def __call__(self, x):
            h = nnx.relu(getattr(self, first)(x.mean((1, 2))))
            return x * nnx.sigmoid(getattr(self, second)(h))[:, None, None]

    return Block(nnx.Rngs(0))


def linen_block(spec=SPEC):
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x):
            h = linen.relu(linen.Dense(spec.hidden)(x.mean((1, 2))))
            return x * linen.sigmoid(linen.Dense(spec.channels)(h))[:, None, None]

    return Block()


def onnx_model(block=None, spec=SPEC, *, dynamic=True, dtype="float32"):
    axes = {axis: torch.export.Dim(f"axis{axis}") for axis in (0, 2, 3)} if dynamic else None
    example = torch.ones((2, spec.channels, 4, 5), dtype=getattr(torch, dtype))
    block = (block or torch_convolutions(spec)).to(example.dtype)
    read_exporters_operators_once()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(block, (example,), dynamic_shapes=(axes,), dynamo=True, verbose=False)
    return program.model_proto


BLOCKS = [
    pytest.param(torch_block, marks=needs_torch),
    pytest.param(torch_convolutions, marks=needs_torch),
    pytest.param(keras_layer, marks=needs_keras),
    pytest.param(keras_model, marks=needs_keras),
    pytest.param(nnx_block, marks=needs_flax),
    pytest.param(linen_block, marks=needs_flax),
]
ONNX = [] if IMPLEMENTATIONS["onnxruntime"].missing else [pytest.param(onnx_model, marks=needs_torch)]
with_onnx = pytest.mark.parametrize("make", [*BLOCKS, *ONNX])
only_onnx = pytest.mark.parametrize("make", ONNX)


def forward_only(block):
    """JAX compiles each gradient of each map anew."""
    return dataclasses.replace(adapt(block), vjp=None)


# What the judge says of them


@with_onnx
def test_right_block_passes_and_cause_of_wrong_block_is_named(make):
    block = make()
    verdict = check(block, SPEC)
    verdict.raise_if_failed()
    judged = {finding.quantity for finding in verdict.findings if finding.passed}
    gradients = {"dx", *(f"d {name}" for name in shapes(SPEC))}
    assert judged == {"y"} | (set() if make is onnx_model else gradients)
    verdict = check(forward_only(block), SPEC.replace(squeeze="max"))
    assert verdict.causes[0] == "squeeze is the mean", verdict


@with_onnx
def test_square_weights_are_matched_by_order_or_names(make):
    check(forward_only(make(spec=SQUARE)), SQUARE).raise_if_failed()


@needs_torch
def test_wrong_gradients_are_found_where_the_output_is_right():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = torch_block()

        def forward(self, x):
            return x * (self.block(x) / torch.where(x == 0, 1.0, x)).detach() + 0.0 * self.block(x)

    verdict = check(Detached(), SPEC)
    assert not verdict.passed and verdict.stage == "gradient", verdict


@needs_torch
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_torch_block_is_cast_to_the_judged_dtype(dtype):
    check(torch_block(), SPEC, dtype=dtype).raise_if_failed()


@needs_torch
def test_block_with_state_between_calls_fails():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.kept = torch_block().fc, {}

        def forward(self, x):
            z = self.kept.setdefault(x.shape, x.mean((2, 3)).detach())
            return x * self.fc(z)[..., None, None]

    block = Remembers()
    assert check(block, SPEC).causes[0] == "squeezed values of the first call kept"
    assert block.kept == {}


@needs_torch
def test_data_format_overrides_the_frameworks_default():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = torch_block()

        def forward(self, x):
            return self.block(x.movedim(-1, 1)).movedim(1, -1)

    check(Last(), SPEC, data_format="channels_last").raise_if_failed()
    check(adapt(Last(), data_format="channels_last"), SPEC).raise_if_failed()
    with pytest.raises(SpecError, match="data_format='NHWC'"):
        adapt(Last(), data_format="NHWC")


@needs_torch
def test_excitation_method_is_used_of_own_blocks_only():
    assert adapt(importlib.import_module("se_torch").SqueezeExcitation(SPEC)).excitation is not None
    block = torch_block()
    type(block).excitation = lambda self, z: self.fc(z)
    assert adapt(block).excitation is None
    check(block, SPEC).raise_if_failed()


# Which parameter is which


@needs_torch
def test_given_names_match_parameters_and_weights_may_be_transposed():
    block = torch_products()
    with pytest.raises(ParameterError, match=r"'w2' \(5, 12\) has the shape of reduce.weight, and comes second"):
        check(block, SPEC)
    names = {"reduce.weight": "w1", "reduce.bias": "b1", "expand.weight": "w2", "expand.bias": "b2"}
    verdict = check(adapt(block, names), SPEC)
    verdict.raise_if_failed()
    assert "d reduce.weight" in {finding.quantity for finding in verdict.findings}


@needs_flax
def test_ambiguous_flax_names_are_refused():
    block = nnx_block(SQUARE, "alpha", "beta")
    with pytest.raises(ParameterError, match=r"alpha\.kernel and beta\.kernel are both \(6, 6\): which is reduce"):
        check(block, SQUARE)
    own = {"reduce": "alpha", "expand": "beta", "weight": "kernel", "bias": "bias"}
    names = {name: ".".join(own[part] for part in name.split(".")) for name in shapes(SQUARE)}
    check(dataclasses.replace(adapt(block, names), vjp=None), SQUARE).raise_if_failed()


def own(**shapes):
    return [NativeParameter(name.replace("_", "."), shape, "out") for name, shape in shapes.items()]


PLAIN = {"reduce.weight": (4, 8), "expand.weight": (8, 4)}
SQUARES = {"reduce.weight": (4, 4), "expand.weight": (4, 4)}


@pytest.mark.parametrize(
    ("expected", "held", "names", "message"),
    [
        (PLAIN, own(fc1_weight=(2, 8), fc2_weight=(8, 2)), None, r"missing reduce.weight \(4, 8\).*left over 'fc1"),
        (PLAIN, own(a=(4, 8), b=(8, 4), c=(8,)), None, r"fit: left over 'c' \(8,\). It has: a, b, c. To say which"),
        (PLAIN, own(a=(4, 8, 3, 3), b=(8, 4)), None, r"left over 'a' \(4, 8, 3, 3\)"),
        (SQUARES, own(expand=(4, 4), reduce=(4, 4)), None, r"expand and reduce are both \(4, 4\): which is reduce"),
        (SQUARES, own(a=(4, 4)), None, "missing reduce.weight or expand.weight"),
        (PLAIN, own(a=(4, 8), b=(8, 4)), {"reduce.weight": "a"}, r"names lacks expand.weight \(8, 4\); left over 'b'"),
        (PLAIN, own(a=(4, 8), b=(8, 4)), {"reduce.weight": "a", "expand.weight": "c"}, "'c', which is not there"),
        (PLAIN, own(a=(4, 8), b=(8, 4)), {"reduce.weight": "a", "expand.weight": "a"}, "'a' is named 2 times"),
        (PLAIN, own(p_w=(4, 8), q_w=(8, 4)), {"reduce.weight": "w", "expand.weight": "q.w"}, "which may be p.w, q.w"),
        (PLAIN, own(a=(3, 8), b=(8, 4)), {"reduce.weight": "a", "expand.weight": "b"}, r"'a' \(3, 8\), expected"),
        (PLAIN, own(a=(4, 8), b=(8, 4)), {"fc": "a"}, "names has 'fc', expected reduce.weight, expand.weight"),
    ],
)  # fmt: skip
def test_parameters_that_do_not_match_the_spec_are_listed(expected, held, names, message):
    with pytest.raises(ParameterError, match=message):
        match(expected, held, names, ordered=True)


@pytest.mark.parametrize(
    ("a", "b"),
    [("fc.0.weight", "fc.2.weight"), ("Dense_0.kernel", "Dense_1.kernel"), ("conv2d", "conv2d_1"), ("seDown", "seUp")],
)
def test_order_of_two_names_follows_words_and_numbers(a, b):
    assert comes_first(a, b) is True
    assert comes_first(b, a) is False
    assert comes_first(a, a) is None


@pytest.mark.parametrize(("rows", "shape"), [("out", (2, 3)), ("out", (2, 3, 1, 1)), ("in", (3, 2)), ("in", (1, 3, 2))])
def test_native_and_canonical_shapes_convert_both_ways(rows, shape):
    array = np.arange(6.0).reshape(2, 3)
    one = NativeParameter("w", shape, rows)
    assert one.canonical_shape == (2, 3)
    assert one.from_canonical(array).shape == shape
    np.testing.assert_array_equal(one.to_canonical(one.from_canonical(array)), array)


# What is refused, before anything is run


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (3, "block is a builtins.int; it must be a torch.nn.Module"),
        ("block.npz", "block is a builtins.str"),
        ("block.pt", r"path 'block.pt', whose code would run; if you trust it: check\(torch.jit.load"),
        (dict, "block is the class dict, not an instance"),
    ],
)
def test_object_that_is_no_block_is_refused(block, message):
    with pytest.raises(SpecError, match=message):
        check(block, SPEC)


def lazy():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.LazyConv2d(5, 1), nn.LazyConv2d(12, 1))


REFUSED = [
    (needs_torch, lazy, {}, SpecError, "no shapes yet; call it once"),
    (needs_torch, lambda: nn.Linear, {}, SpecError, "the class Linear, not an instance"),
    (needs_torch, torch_block, {"spec": SESpec(8, hidden=5, bias=True)}, ParameterError, r"left over 'fc.0.weight'"),
    (needs_torch, torch_block, {"dtype": "int8"}, SpecError, "dtype='int8' is not allowed"),
    (needs_keras, keras_model, {"dtype": "float64"}, SpecError, "computes in float32, but float64 is judged"),
    (needs_keras, lambda: keras_model(space=(7, 7)), {}, SpecError, r"accepts \(None, 7, 7, 12\) alone"),
    (needs_keras, lambda: keras_layer().__class__, {}, SpecError, "Block, not an instance"),
    (needs_keras, lambda: keras_layer(SESpec(8, hidden=5)), {}, SpecError, "is not built, and no copy of it can be"),
    (needs_flax, nnx_block, {"dtype": "float64"}, SpecError, "set jax_enable_x64"),
    (needs_flax, nnx_block, {"spec": SESpec(8, hidden=5, bias=True)}, ParameterError, "left over 'fc1.kernel'"),
    (needs_flax, linen_block, {"dtype": "float64"}, SpecError, "set jax_enable_x64"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "changed", "error", "message"), [pytest.param(*row, marks=mark) for mark, *row in REFUSED]
)
def test_block_that_cannot_be_judged_is_refused_before_any_trial(make, changed, error, message):
    with pytest.raises(error, match=message):
        check(make(), **{"spec": SPEC, **changed})


@only_onnx
def test_onnx_model_that_cannot_be_judged_is_refused_before_any_trial(make):
    model = make()
    for block, changed, message in (
        ("nowhere.onnx", {}, "'nowhere.onnx' is not a file"),
        (model, {"dtype": "float16"}, "accepts float32, but float16 is judged"),
        (model, {"spec": SESpec(8, hidden=5)}, "accepts 12 channels on axis 1, the spec has 8"),
        (make(dynamic=False), {}, "accepts maps of one size alone"),
    ):
        with pytest.raises(SpecError, match=message):
            check(block, **{"spec": SPEC, **changed})


# Parameters that are those of another block


@with_onnx
def test_another_width_is_a_verdict(make):
    verdict = check(make(), SPEC.replace(hidden=4))
    assert (verdict.passed, verdict.stage, verdict.causes) == (False, "reduce", ("another hidden width",))
    said = "hidden is 5, the spec says 4; reduce.weight has shape (5, 12), expected (4, 12)"
    assert said in " ".join(str(verdict).split())
    assert [finding.message for finding in verdict.failures] == [said]
    assert said in pickle.loads(pickle.dumps(verdict)).to_json()


@with_onnx
def test_biases_that_the_spec_has_not_are_a_verdict(make):
    verdict = check(make(), SPEC.replace(bias=False))
    assert (verdict.stage, verdict.causes) == ("reduce", ("bias that the spec has not",))
    assert "it has reduce.bias and expand.bias, the spec says bias=False" in str(verdict)


def test_a_verdict_about_parameters_is_excused_and_drawn_as_others_are(tmp_path):
    departure = find_departure(shapes(SPEC), [(4, 12), (4,), (12, 4), (12,)])
    block = AdaptedBlock(
        lambda x, parameters: x, None, None, "channels_last", reset=lambda *arguments: refuse(departure)
    )
    verdict = check(block, SPEC)
    assert verdict.reproduction().endswith(f"prepare({SPEC!r}, 'float32')")
    assert "▲ departs here" in render_html([verdict]) and 'failures="1"' in render_junit([verdict])
    (tmp_path / "known.txt").write_text("the block's parameters  # ours is narrower\n")
    known = check(block, SPEC, deviations=tmp_path / "known.txt")
    assert not known.failures and not known.passed  # nothing was judged


def refuse(departure):
    raise DepartureError("they do not fit", departure)


@pytest.mark.parametrize(
    ("spec", "found", "sentence", "stage"),
    [
        (SPEC, [(4, 12), (4,), (12, 4), (12,)], "hidden is 4, the spec says 5", "reduce"),
        (SPEC, [(12, 4), (4,), (4, 12), (12,)], "hidden is 4, the spec says 5", "reduce"),  # (I, O)
        (SPEC, [(5, 12), (12, 5)], "it has no reduce.bias and expand.bias, the spec says bias=True", "reduce"),
        (SPEC, [(5, 12), (5,), (12, 5)], "it has no expand.bias, the spec says bias=True", "expand"),
        (SPEC.replace(bias=False), [(5, 12), (12, 5), (12,)], "it has expand.bias, the spec says bias=False", "expand"),
        (SPEC, [(12, 12), (12,)], "it has 1 projection, the spec says 2 projections", "reduce"),
        (SPEC, [(5, 12), (7, 5), (12, 7)], "it has 3 projections, the spec says 2 projections", "reduce"),
        (SESpec(12, single_projection=True), [(5, 12), (12, 5)], "2 projections, the spec says 1 projection", "reduce"),
        (SPEC, [(5, 12), (5,), (12, 5), (12,)], None, ""),  # it may be the spec's
        (SPEC, [(5, 12, 3, 3), (5,), (12, 5), (12,)], None, ""),
        (SPEC, [(5, 8), (5,), (8, 5), (8,)], None, ""),  # of other channels
        (SPEC, [(4, 12), (4,), (4,), (12, 4), (12,)], None, ""),  # with a norm
        (SPEC, [], None, ""),
    ],
)  # fmt: skip
def test_parameters_of_another_block_are_described(spec, found, sentence, stage):
    departure = find_departure(shapes(spec), found)
    if sentence is None:
        assert departure is None
    else:
        assert sentence in departure.sentence and departure.stage == stage


# What is left as it was


@needs_torch
def test_torch_block_is_not_modified():
    block = torch_block().train()
    block.fc[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    check(block, SPEC, dtype="bfloat16")
    assert block.training and not block.fc[0].weight.requires_grad and block.fc[2].weight.grad is None
    assert all(value.dtype == torch.float32 for value in block.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


@needs_keras
def test_keras_block_is_not_modified():
    layer, model = keras_layer(), keras_model()
    before = model.get_weights()
    check(layer, SPEC)
    check(model, SPEC)
    assert not layer.built
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@needs_flax
def test_flax_block_is_not_modified():
    block = nnx_block()
    block.train()
    before = nnx.to_pure_dict(nnx.state(block))
    x, dy, parameters = trial("uneven map", SPEC, dtype="bfloat16").inputs
    adapted = adapt(block)
    adapted(x, parameters)
    adapted.vjp(x, dy, parameters)
    after = nnx.to_pure_dict(nnx.state(block))
    assert before.keys() == after.keys()
    for name, layer in after.items():
        assert all(value.dtype == jnp.float32 and (value == before[name][key]).all() for key, value in layer.items())


# ONNX files


@only_onnx
def test_onnx_file_is_read_and_an_added_constant_is_no_bias(make, tmp_path):
    class HardSigmoid(nn.Module):
        def forward(self, x):
            return nn.functional.relu6(x + 3) / 6

    spec = SESpec(12, hidden=1, bias=True, gate="hard_sigmoid")
    layers = nn.Sequential(nn.Linear(12, 1), nn.ReLU(), nn.Linear(1, 12), HardSigmoid())
    path = tmp_path / "block.onnx"
    onnx.save(make(torch_block(spec, layers), spec), path)
    for given in (path, str(path)):
        check(given, spec).raise_if_failed()


# What the machine does wrong


@needs_keras
@pytest.mark.processor
def test_block_of_convolutions_passes_on_every_machine():
    verdict = check(keras_model(), SPEC)
    verdict.raise_if_failed()
    assert set(verdict.unjudged) <= {(2, "empty batch"), (2, "NaN, graph")}


@needs_keras
def test_trial_is_unjudged_where_an_operation_contradicts_its_framework(tf):
    """oneDNN's convolutions do this on some machines; the operation here does it on all."""

    def lose_a_channel(x):
        y = tf.numpy_function(lambda x: x if len(x) else x[..., 1:], [x], x.dtype)
        y.set_shape(x.shape)  # what is inferred
        return y

    layer = forward_only(around(keras_layer(), lose_a_channel))
    verdict = check(layer, SPEC)
    verdict.raise_if_failed()
    told = "TensorFlow's PyFunc returns (0, 5, 7, 11), and infers (0, 5, 7, 12)"
    assert verdict.unjudged[2, "empty batch"] == told
    assert verdict.unjudged[2, "XLA"].startswith("XLA does not compile")
    assert verdict.to_dict()["unjudged"]["2: empty batch"] == told
    text = " ".join(str(verdict).split())
    count = len(verdict.ran) - len(verdict.unjudged)
    assert f"{count} of {count} trials right" in text
    assert f"unjudged empty batch (2-D), because on this machine {told}" in text
    assert check(layer, SPEC.replace(squeeze="max")).causes[0] == "squeeze is the mean"


@needs_keras
def test_block_that_refuses_an_empty_batch_fails_on_every_machine():
    def refuse(x):
        if x.shape[0] == 0:
            raise ValueError("no samples")
        return x

    verdict = check(forward_only(around(keras_layer(), refuse)), SPEC)
    assert verdict.causes == ("empty batch refused",) and (2, "empty batch") not in verdict.unjudged


def around(block, change):
    class Around(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.block = block

        def call(self, x):
            return self.block(change(x))

    layer = Around()
    layer(np.ones((2, 5, 7, SPEC.channels), np.float32))
    return layer
