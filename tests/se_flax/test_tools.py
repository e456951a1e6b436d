"""Tools that change a Flax module: replaced layers, interception, stacks, shardings, boxes, export, eight devices."""

import ast
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import se_numpy
import se_spec
from se_spec import ParameterError, SESpec, ShapeError

from ..conftest import QUICKLY, OnDemand
from ..small_networks import BOTTLENECKS, INCEPTION, ZEROS, as_bytes, difference, images, weights_of

pytestmark = pytest.mark.framework("flax")
jax, nnx, linen, se_flax = OnDemand("jax"), OnDemand("flax.nnx"), OnDemand("flax.linen"), OnDemand("se_flax")

ROOT = Path(__file__).parents[2]
SPEC = SESpec(12, hidden=5, bias=True)
LAYERS = ("reduce", "expand")
both = pytest.mark.parametrize("api", ["nnx", "linen"])
every_squeeze = pytest.mark.parametrize("squeeze", ["avg", "max", "avg_max"])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def parameters_of(spec=SPEC, seed=0):
    return {name: array.astype("float64") for name, array in se_numpy.initialize(spec, seed=seed).items()}


def map_of(spec=SPEC, samples=3, spatial=(4, 6)):
    return np.random.default_rng(0).standard_normal((samples, *spatial, spec.channels))


def distance(got, want):
    """Compute the largest difference, relative to the largest value."""
    assert np.shape(got) == np.shape(want)
    return np.abs(np.asarray(got) - np.asarray(want)).max() / max(np.abs(np.asarray(want)).max(), 1e-300)


def value_of(variable):
    return variable.get_value() if hasattr(variable, "get_value") else variable.value  # Flax 0.12.0


def nnx_block(spec=SPEC, **options):
    block = se_flax.SqueezeExcitation(spec, rngs=nnx.Rngs(0), **{"param_dtype": "float64", **options})
    se_flax.set_parameters(block, parameters_of(spec))
    return block


def functions(api, spec=SPEC, **options):
    """Return a block as a function of its state and x, and its state."""
    if api == "nnx":
        graph, state = nnx.split(nnx_block(spec, **options))
        return lambda state, x: nnx.merge(graph, state)(x), state
    block = se_flax.linen.SqueezeExcitation(spec, param_dtype="float64", **options)
    return block.apply, se_flax.linen.set_parameters(block, parameters_of(spec))


def plain_block(block, x):
    """A block as a user writes it: two layers that are called."""
    g = nnx.sigmoid(block.expand(nnx.relu(block.reduce(x.mean((1, 2))))))
    return x * g[:, None, None]


def network_functions(api, net):
    """Return a network's inference as a function of its state and x, and its state."""
    if api == "nnx":
        model = nnx.eval_shape(lambda: se_flax.SENet(net, param_dtype="float64", rngs=nnx.Rngs(0)))
        se_flax.set_parameters(model, weights_of(net))
        model.eval()
        graph, state, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
        return lambda state, x: nnx.merge(graph, state, rest)(x), state
    model = se_flax.linen.SENet(net, param_dtype="float64")
    return model.apply, se_flax.linen.set_parameters(model, weights_of(net))


# Layers that are swapped, wrapped, set up otherwise or listened to


def swapped_for_lora(block, name):
    layer = getattr(block, name)
    lora = nnx.LoRALinear(*layer.kernel.shape, lora_rank=2, param_dtype="float64", rngs=nnx.Rngs(1))
    lora.kernel, lora.bias, lora.lora.lora_b = layer.kernel, layer.bias, nnx.Param(np.ones((2, layer.out_features)))
    setattr(block, name, lora)


def wrapped_in_lora(block, name):
    layer = getattr(block, name)
    lora = nnx.LoRA(layer.in_features, 2, layer.out_features, base_module=layer, rngs=nnx.Rngs(1))
    lora.lora_b = nnx.Param(np.ones((2, layer.out_features)))
    setattr(block, name, lora)


def swapped_for_a_subclass(block, name):
    class Doubling(nnx.Linear):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return 2 * super().__call__(*arguments, **options)

    layer = getattr(block, name)
    other = Doubling(layer.in_features, layer.out_features, rngs=nnx.Rngs(0))
    nnx.update(other, nnx.state(layer))
    setattr(block, name, other)


def wrapped_in_sequential(block, name):
    layer = getattr(block, name)
    setattr(block, name, nnx.Sequential(layer, nnx.LayerNorm(layer.out_features, rngs=nnx.Rngs(0)), nnx.tanh))


def swapped_for_einsum(block, name):
    layer = getattr(block, name)
    rows, columns = layer.in_features, layer.out_features
    setattr(block, name, nnx.Einsum("ni,io->no", (rows, columns), (columns,), rngs=nnx.Rngs(3)))


def given_another_product(block, name):
    def rounded(a: Any, b: Any, *arguments: Any, **options: Any) -> Any:
        return jax.lax.dot_general(jax.numpy.round(a), b, *arguments, **options)

    getattr(block, name).dot_general = rounded


def given_another_dtype(block, name):
    getattr(block, name).dtype = "bfloat16"


def given_another_promotion(block, name):
    getattr(block, name).promote_dtype = lambda arrays, **_: tuple(2 * array for array in arrays)


@pytest.mark.parametrize(
    "change",
    [
        swapped_for_lora,
        wrapped_in_lora,
        swapped_for_a_subclass,
        wrapped_in_sequential,
        swapped_for_einsum,
        given_another_product,
        given_another_dtype,
        given_another_promotion,
    ],
)
def test_changed_layers_act_as_in_a_plain_block(change):
    block, x = nnx_block(), map_of()
    before = block(x)
    for name in LAYERS:
        change(block, name)
    graph, parameters, rest = nnx.split(block, nnx.Param, ...)

    def derived(function):
        def squares(parameters):
            y = function(nnx.merge(graph, parameters, rest), x)
            return (y**2).sum(), y

        return jax.grad(squares, has_aux=True)(parameters)

    both_of_them = jax.jit(lambda: (derived(lambda block, x: block(x)), derived(plain_block)), compiler_options=QUICKLY)
    (gradient, y), (wanted_gradient, wanted) = both_of_them()
    assert y.dtype == "float64"
    assert difference(y, before) > 1e-6
    assert difference(y, wanted) < (1e-2 if change is given_another_dtype else 1e-12)
    if change is not given_another_dtype:
        for got, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
            assert np.abs(got - want).max() <= 1e-12 * max(
                np.abs(want).max(), 1
            )  # of the projection's own bias it is 0


def test_plain_linear_layer_is_as_exact_for_every_dtype_of_parameters():
    block, x = nnx_block(param_dtype="bfloat16"), map_of().astype("float32")
    before = block(x)
    block.reduce = nnx.Linear(12, 5, param_dtype="bfloat16", rngs=nnx.Rngs(0))
    se_flax.set_parameters(block, parameters_of())
    assert difference(block(x), before) < 1e-6
    assert block.excitation(x).dtype == "float32"


def test_nnx_subclasses_and_sow_receive_the_layers_results():
    class Noting(nnx.Linear):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            y = super().__call__(*arguments, **options)
            self.sow(nnx.Intermediate, "noted", y)
            return y

    block, x = nnx_block(), map_of()
    want = block(x)
    for name in LAYERS:
        layer = Noting(getattr(block, name).in_features, getattr(block, name).out_features, rngs=nnx.Rngs(0))
        nnx.update(layer, nnx.state(getattr(block, name)))
        setattr(block, name, layer)
    if hasattr(nnx, "capture"):
        _, noted = nnx.capture(block, nnx.Intermediate)(x)
    else:  # Flax before 0.12.3
        block(x)
        noted = nnx.pop(block, nnx.Intermediate)
    noted = nnx.to_pure_dict(noted)
    assert noted["reduce"]["noted"][0].shape == (3, 5)
    assert difference(x * nnx.sigmoid(noted["expand"]["noted"][0])[:, None, None], want) < 1e-12


def test_linen_interceptors_and_captured_intermediates_cover_both_layers():
    block, x = se_flax.linen.SqueezeExcitation(SPEC, param_dtype="float64"), map_of()
    variables = se_flax.linen.set_parameters(block, parameters_of())

    def double(call, arguments, options, context):
        y = call(*arguments, **options)
        return 2 * y if context.module.name == "expand" else y

    g, captured = block.apply(variables, x, method="excitation", capture_intermediates=True, mutable=["intermediates"])
    (v,) = captured["intermediates"]["expand"]["__call__"]
    assert captured["intermediates"]["reduce"]["__call__"][0].shape == (3, 5)
    assert difference(linen.sigmoid(v), g) < 1e-12
    with linen.intercept_methods(double):
        assert difference(block.apply(variables, x, method="excitation"), linen.sigmoid(2 * v)) < 1e-12


# Precision


@both
@every_squeeze
def test_n4_every_product_of_a_block_and_its_gradient_has_highest_precision(api, squeeze):
    forward, state = functions(api, SPEC.replace(squeeze=squeeze))
    assert_highest(forward, state, map_of(), 6)


@both
@pytest.mark.parametrize("net", [BOTTLENECKS, INCEPTION, ZEROS], ids=["bottlenecks", "Inception", "zeros"])
def test_n4_every_product_of_a_network_and_its_gradient_has_highest_precision(api, net):
    forward, state = network_functions(api, net)
    layers = sum(len(shape) in (2, 4) for shape in se_spec.parameters.shapes(net).values())
    assert_highest(forward, state, np.moveaxis(images(net, 23, 30), 1, -1), 3 * layers)


def assert_highest(forward, state, x, products):
    def there_and_back(state, x):
        y, back = jax.vjp(forward, state, x)
        return back(y)

    found = list(precisions(jax.make_jaxpr(there_and_back)(state, x).jaxpr))
    assert len(found) == products
    assert set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


def precisions(jaxpr):
    """List the precision of every product, those within calls and loops included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated", "ragged_dot"):
            yield equation.params["precision"]
        for value in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
            if is_jaxpr(value):
                yield from precisions(getattr(value, "jaxpr", value))


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


# Stacks of blocks


def stacked_nnx(count=3):
    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return se_flax.SqueezeExcitation(SPEC, param_dtype="float64", rngs=rngs)

    return make(nnx.Rngs(0))


def stacked_parameters(count=3):
    found = [parameters_of(seed=seed) for seed in range(count)]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}, found


def test_k2_k3_stacked_nnx_blocks_use_stacked_arrays_and_refuse_single_ones():
    stack, (stacked, found) = stacked_nnx(), stacked_parameters()
    se_flax.set_parameters(stack, stacked)
    assert as_bytes(se_flax.get_parameters(stack)) == as_bytes(stacked)
    with pytest.raises(ParameterError, match=r"reduce\.weight has shape \(5, 12\), expected \(3, 5, 12\)"):
        se_flax.set_parameters(stack, found[0])
    assert as_bytes(se_flax.get_parameters(stack)) == as_bytes(stacked)
    x = map_of()
    want = x
    for one in found:
        want = se_numpy.squeeze_excitation(want, SPEC, one, data_format="channels_last")
    scanned = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    assert difference(scanned(x, stack), want) < 1e-12


def test_k2_stack_along_another_axis_is_refused_and_nothing_changes():
    stack, (stacked, _) = stacked_nnx(), stacked_parameters()
    graph, state = nnx.split(stack)
    other = nnx.merge(graph, jax.tree.map(lambda leaf: jax.numpy.moveaxis(leaf, 0, -1), state))
    shape = other.reduce.kernel.shape
    with pytest.raises(ParameterError, match="shape"):
        se_flax.get_parameters(other)
    with pytest.raises(ParameterError, match="shape"):
        se_flax.set_parameters(other, stacked)
    assert other.reduce.kernel.shape == shape


def test_k2_k3_scanned_linen_blocks_use_stacked_arrays():
    class Step(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return se_flax.linen.SqueezeExcitation(SPEC, param_dtype="float64", name="se")(x), None

    scan = linen.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    x, (stacked, found), one = map_of(), stacked_parameters(), se_flax.linen.SqueezeExcitation(SPEC)
    like = {"params": jax.eval_shape(scan.init, jax.random.key(0), x, None)["params"]["se"]}
    with pytest.raises(ParameterError, match=r"expand\.bias has shape \(12,\), expected \(3, 12\)"):
        se_flax.linen.set_parameters(one, found[0], like)
    variables = se_flax.linen.set_parameters(one, stacked, like)
    y, _ = scan.apply({"params": {"se": variables["params"]}}, x, None)
    for block in found:
        x = se_numpy.squeeze_excitation(x, SPEC, block, data_format="channels_last")
    assert difference(y, x) < 1e-12
    assert as_bytes(se_flax.linen.get_parameters(variables, one)) == as_bytes(stacked)
    with pytest.raises(ParameterError, match="name the block"):
        se_flax.linen.get_parameters(variables)


# Boxes, shardings, layers that are no longer of floats


@pytest.mark.parametrize("kind", ["Partitioned", "LogicallyPartitioned"])
def test_k3_linen_boxes_are_read_and_kept(kind):
    block, values = se_flax.linen.SqueezeExcitation(SPEC, param_dtype="float64"), parameters_of()
    boxed = jax.tree.map(lambda leaf: getattr(linen, kind)(leaf, names=("a",) * leaf.ndim), functions("linen")[1])
    assert as_bytes(se_flax.linen.get_parameters(boxed)) == as_bytes(values)
    assert as_bytes(se_flax.linen.get_parameters(boxed, block)) == as_bytes(values)
    doubled = {name: 2 * array for name, array in values.items()}
    again = se_flax.linen.set_parameters(block, doubled, like=boxed)
    assert type(again["params"]["reduce"]["kernel"]) is getattr(linen, kind)
    assert linen.get_partition_spec(again) == linen.get_partition_spec(boxed)
    assert as_bytes(se_flax.linen.get_parameters(again)) == as_bytes(doubled)
    assert as_bytes(se_flax.linen.get_parameters(boxed)) == as_bytes(values)


def test_k2_linen_like_is_checked_and_its_other_entries_are_kept():
    block, values = se_flax.linen.SqueezeExcitation(SPEC), parameters_of()
    like = {**functions("linen")[1], "cache": {"calls": np.zeros(1)}}
    assert se_flax.linen.set_parameters(block, values, like)["cache"] == like["cache"]
    del like["params"]["expand"]["kernel"]
    with pytest.raises(ParameterError, match=r"expand\.kernel is not there"):
        se_flax.linen.set_parameters(block, values, like)


@both
def test_k3_dtype_sharding_and_memory_of_committed_parameters_are_kept(api):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=host_memory())
    _, state = functions(api)
    state = jax.device_put(jax.tree.map(lambda leaf: leaf.astype("float32"), state), device)
    values = {name: array.astype("float32") for name, array in parameters_of(seed=1).items()}
    if api == "nnx":
        block = nnx_block()
        nnx.update(block, state)
        se_flax.set_parameters(block, values)
        leaves, back = jax.tree.leaves(nnx.state(block)), se_flax.get_parameters(block)
    else:
        block = se_flax.linen.SqueezeExcitation(SPEC, param_dtype="float64")
        variables = se_flax.linen.set_parameters(block, values, like=state)
        leaves, back = jax.tree.leaves(variables), se_flax.linen.get_parameters(variables)
    assert all(leaf.committed and leaf.sharding == device for leaf in leaves)
    assert as_bytes(back) == as_bytes(values)


def host_memory():
    return [memory.kind for memory in jax.devices()[0].addressable_memories()][-1]


def test_k3_parameters_of_one_device_are_not_bound_to_it():
    assert not value_of(nnx_block().reduce.kernel).committed  # else a mesh could not take them


def test_k3_abstract_block_gets_the_shardings_of_its_shapes():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=host_memory())
    block = nnx.eval_shape(lambda: se_flax.SqueezeExcitation(SPEC, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(block)
    shape = partial(jax.ShapeDtypeStruct, sharding=sharding)
    block = nnx.merge(graph, jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), state))
    se_flax.set_parameters(block, parameters_of())
    kernel = value_of(block.reduce.kernel)
    assert (kernel.sharding, kernel.committed, kernel.dtype) == (sharding, True, "float32")


def test_k2_quantized_and_biased_layers_are_refused_and_nothing_is_set():
    block, values = nnx_block(), parameters_of()
    before = value_of(block.expand.kernel)
    block.reduce.kernel = nnx.Param(jax.numpy.ones((12, 5), "int8"))
    for function in (se_flax.get_parameters, lambda block: se_flax.set_parameters(block, values)):
        with pytest.raises(ParameterError, match=r"reduce\.\w+ h\w+ .*int8, expected"):
            function(block)
    assert value_of(block.expand.kernel) is before
    block.reduce = nnx.Linear(12, 7, rngs=nnx.Rngs(0))
    for function in (se_flax.get_parameters, lambda block: se_flax.set_parameters(block, values)):
        with pytest.raises(ParameterError, match=r"reduce\.\w+ has shape \(\d+, \d+\), expected"):
            function(block)
    block = nnx_block(SPEC.replace(bias=False))
    values = parameters_of(SPEC.replace(bias=False))
    block.reduce = nnx.Linear(12, 5, rngs=nnx.Rngs(0))  # which has a bias
    for function in (se_flax.get_parameters, lambda block: se_flax.set_parameters(block, values)):
        with pytest.raises(ParameterError, match=r"reduce\.bias is there and the spec has none"):
            function(block)


# A squeeze over parts of a map


@both
@every_squeeze
@pytest.mark.parametrize("ties", [False, True])
def test_s1_s2_s3_v4_split_map_has_the_squeeze_and_gradients_of_the_whole(api, squeeze, ties):
    x = map_of(spatial=(4, 6))
    x = np.round(x).clip(-1, 1) if ties else x
    spec = SPEC.replace(squeeze=squeeze)
    parts = np.stack(np.split(x, 2, axis=2))  # columns, as two devices have them
    (whole, state), (forward, _) = functions(api, spec), functions(api, spec, axis_name="parts")
    split = jax.vmap(forward, in_axes=(None, 0), axis_name="parts")

    def joined(state, parts):
        return jax.numpy.concatenate(list(split(state, parts)), axis=2)

    assert distance(joined(state, parts), whole(state, x)) < 1e-12
    cotangent = map_of() ** 2
    dstate, dparts = jax.grad(lambda *a: (joined(*a) * cotangent).sum(), argnums=(0, 1))(state, parts)
    want, dx = jax.grad(lambda *a: (whole(*a) * cotangent).sum(), argnums=(0, 1))(state, x)
    assert distance(np.concatenate(list(dparts), axis=2), dx) < 1e-12
    for one, other in zip(jax.tree.leaves(dstate), jax.tree.leaves(want), strict=True):
        assert distance(one, other) < 1e-12


@both
@every_squeeze
def test_n3_nan_in_one_part_reaches_every_part_of_its_sample(api, squeeze):
    x = map_of(samples=3, spatial=(16, 18))  # in a small map XLA keeps NaN anyway
    x[1, 2, 15, 3] = np.nan
    parts = np.stack(np.split(x, 2, axis=2))
    forward, state = functions(api, SPEC.replace(squeeze=squeeze), axis_name="parts")
    y = jax.jit(jax.vmap(forward, in_axes=(None, 0), axis_name="parts"))(state, parts)
    assert np.isnan(y).all((0, 2, 3, 4)).tolist() == [False, True, False]
    assert np.isnan(y).any((0, 2, 3, 4)).tolist() == [False, True, False]


def test_linen_init_needs_no_mapped_axis_and_the_axis_is_part_of_the_block():
    block = se_flax.linen.SqueezeExcitation(SPEC, axis_name=("rows", "columns"))
    shapes = jax.eval_shape(block.init, jax.random.key(0), map_of().astype("float32"))
    assert jax.tree.map(np.shape, shapes["params"]["reduce"]) == {"kernel": (12, 5), "bias": (5,)}
    assert block.clone(axis_name=None) == se_flax.linen.SqueezeExcitation(SPEC) != block


# Export and transformations


def export(forward, state, dimensions, dtype="float64"):
    """Export a function of x with symbolic dimensions."""
    from jax import export

    x = jax.ShapeDtypeStruct(export.symbolic_shape(dimensions), dtype)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), jax.tree.leaves(state))
    structure = jax.tree.structure(state)
    plain = jax.jit(lambda leaves, x: forward(jax.tree.unflatten(structure, leaves), x))
    exported = export.export(plain)(shapes, x)
    return lambda x: exported.call(jax.tree.leaves(state), x)


@both
@every_squeeze
def test_a_block_is_exported_for_any_batch_height_and_width(api, squeeze):
    spec = SPEC.replace(squeeze=squeeze)
    forward, state = functions(api, spec)
    exported = export(forward, state, "n, h, w, 12")
    for samples, spatial in [(3, (4, 6)), (1, (9, 1)), (2, (16, 17))]:
        x = map_of(samples=samples, spatial=spatial)
        x[0, 0, 0, 0] = np.nan
        want = se_numpy.squeeze_excitation(x, spec, parameters_of(spec), data_format="channels_last")
        got = np.asarray(exported(x))
        assert np.array_equal(np.isnan(got), np.isnan(want))
        if samples > 1:
            assert distance(got[1:], want[1:]) < 1e-12


@both
@pytest.mark.parametrize("net", [BOTTLENECKS, ZEROS], ids=["bottlenecks", "zeros"])
def test_a_network_is_exported_for_any_batch_height_and_width(api, net):
    forward, state = network_functions(api, net)
    exported = export(forward, state, f"n, h, w, {net.channels}")
    for samples, size in [(2, (23, 30)), (1, (32, 17))]:
        x = images(net, *size, samples=samples)
        want = se_numpy.senet(x, net, weights_of(net), data_format="channels_first")
        assert difference(exported(np.moveaxis(x, 1, -1)), want) < 1e-12


def test_n3_maxima_of_a_map_of_symbolic_size_keep_nan():
    layer = se_spec.networks.layers.Pooling("pool", ("x",), 16, 16, "max", 2, 2, (0, 0), False)  # XLA drops NaN of it
    x = np.random.default_rng(0).standard_normal((2, 16, 17, 16))
    x[0, ::3, ::2, ::5] = np.nan
    x[1, :4, :4] = -np.inf
    pool = se_flax.linen.networks.Pooling(layer)
    assert np.array_equal(export(pool.apply, {}, "n, h, w, 16")(x), jax.jit(pool.apply)({}, x), equal_nan=True)


def test_m9_symbolic_images_of_unequal_branches_are_refused_with_a_remedy():
    net = se_spec.network("se_bn_inception").replace(num_classes=2)
    model = se_flax.linen.SENet(net)
    forward, x = model.apply, jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    from jax import export

    def logits(dimensions):
        return jax.eval_shape(forward, variables, jax.ShapeDtypeStruct(export.symbolic_shape(dimensions), "float32"))

    with pytest.raises(ShapeError, match=r"at stage1\.block2\.concat meet .* 32\*h"):
        logits("n, h, w, 3")
    assert logits("n, 32*h, 32*w, 3").shape[1:] == (2,)
    with pytest.raises(ShapeError, match="does not fit the strides"):
        logits("n, 33, w, 3")


@both
def test_checkpoint_linearize_and_donation_equal_a_plain_call(api):
    forward, state = functions(api, SPEC.replace(squeeze="avg_max"))
    x = jax.numpy.asarray(map_of())
    y, back = jax.vjp(forward, state, x)
    again, back_again = jax.vjp(jax.checkpoint(forward), state, x)
    tangent, linear = jax.linearize(partial(forward, state), x)
    for one, other in [
        (again, y),
        (tangent, y),
        (linear(x), jax.jvp(partial(forward, state), (x,), (x,))[1]),
        *zip(jax.tree.leaves(back_again(y)), jax.tree.leaves(back(y)), strict=True),
    ]:
        assert distance(one, other) < 1e-12
    assert jax.eval_shape(forward, state, x).shape == x.shape
    given = jax.tree.map(jax.numpy.array, (state, x))
    kept, donated = jax.jit(lambda state, x: (state, forward(state, x)), donate_argnums=(0, 1))(*given)
    assert distance(donated, y) < 1e-12
    assert distance(forward(kept, x), y) < 1e-12
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    if api == "nnx":
        block = nnx_block(SPEC.replace(squeeze="avg_max"))
        assert distance(nnx.jit(nnx.remat(lambda block, x: block(x)))(block, x), y) < 1e-12


# Eight devices


def test_the_example_sets_its_devices_before_jax_is_imported():
    lines = ast.parse((ROOT / "examples/distributed_jax.py").read_text()).body
    names = [ast.unparse(line) for line in lines]
    at = next(index for index, line in enumerate(names) if "xla_force_host_platform_device_count=8" in line)
    assert at < names.index("import jax")
