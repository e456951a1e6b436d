"""Eight devices give the results of one: JAX meshes over batch, rows, columns, channels and hidden units.

Blocks and networks of NNX and linen are trained for ten steps in float64; each line has the errors of outputs,
gradients and trained state relative to one device's. The devices are virtual, so that the script runs on any machine.
"""

import os
from functools import partial
from math import prod

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import se_flax
import se_spec
from se_spec import SESpec
from se_spec.networks import Stage

jax.config.update("jax_enable_x64", True)

SPEC = SESpec(16, hidden=8, bias=True, squeeze="avg_max")
SPLITS = {
    "batch": P("a"),
    "rows": P(None, "a"),
    "columns": P(None, None, "a"),
    "channels": P(None, None, None, "a"),
    "batch, rows, columns": P("a", "b", "c"),
    "batch, rows, channels": P("a", "b", None, "c"),
}
NET = se_spec.network("se_resnet20").replace(stages=(Stage(1, 16, (16,), stride=2),))
RATE = 0.01
RNG = np.random.default_rng(0)
X, TARGET = RNG.standard_normal((2, 8, 8, 8, 16))
IMAGES, LOGITS = RNG.standard_normal((8, 16, 16, 3)), RNG.standard_normal((8, 10))


def nnx_functions(spec, **options):
    """Return an NNX block as a function of its state and x, and its state."""
    block = se_flax.SqueezeExcitation(spec, param_dtype="float64", rngs=nnx.Rngs(0), **options)
    graph, state = nnx.split(block)
    return lambda state, x: nnx.merge(graph, state)(x), state


def linen_functions(spec, **options):
    """Return a linen block as a function of its variables and x, and its variables."""
    block = se_flax.linen.SqueezeExcitation(spec, param_dtype="float64", **options)
    return block.apply, block.init(jax.random.key(0), X)


def nnx_network(net):
    """Return an NNX network in training mode, and its state; batch norms use the statistics of the whole batch."""
    graph, state, rest = nnx.split(se_flax.SENet(net, param_dtype="float64", rngs=nnx.Rngs(0)), nnx.Param, ...)
    return lambda state, x: nnx.merge(graph, state, rest, copy=True)(x), state


def linen_network(net):
    """Return a linen network in training mode, and its parameters."""
    model = se_flax.linen.SENet(net, param_dtype="float64")
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES)

    def forward(state, x):
        return model.apply({**variables, "params": state}, x, train=True, mutable=["batch_stats"])[0]

    return forward, variables["params"]


def train(forward, state, x, target):
    """Train for ten steps; return outputs and gradients of the first step, and the state after the last."""

    def loss(state, x):
        y = forward(state, x)
        return ((y - target) ** 2).sum() / len(x), y

    @jax.jit
    def step(state, x):
        (dstate, dx), y = jax.grad(loss, argnums=(0, 1), has_aux=True)(state, x)
        return y, (dstate, dx), jax.tree.map(lambda p, dp: p - RATE * dp, state, dstate)

    start = state
    y, gradients, state = step(state, x)
    for _ in range(9):
        _, _, state = step(state, x)
    moved = jax.tree.map(lambda p, start: abs(p - start).max(), state, start)
    assert max(jax.tree.leaves(moved)) > 1e-2  # or ten steps would compare the start with itself
    return y, gradients, state


def compare(name, api, got, want):
    """Print the errors of outputs, gradients and trained state relative to one device's, and assert their limit."""
    columns = []
    for one, other in zip(got, want, strict=True):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        columns.append(max(np.abs(np.asarray(a) - b).max() / np.abs(b).max() for a, b in pairs))
    print(f"{name:42} {api:5}", *(f"{column:9.1e}" for column in columns), flush=True)
    assert max(columns) < 1e-12


def make_mesh(kind, shape=(2, 2, 2)):
    """Make a mesh with three axes of type ``kind``: XLA decides about shardings, or the types of arrays do."""
    return jax.make_mesh(shape, ("a", "b", "c"), axis_types=(kind,) * 3, devices=jax.devices()[: prod(shape)])


def split_by_jit(functions, kind, split):
    """Divide the map by a mesh; the parameters are on every device."""
    mesh, (forward, state) = make_mesh(kind), functions(SPEC)
    with jax.set_mesh(mesh):
        x, target = (jax.device_put(array, NamedSharding(mesh, split)) for array in (X, TARGET))
        state = jax.device_put(state, NamedSharding(mesh, P()))
        return train(forward, state, x, target)


def split_hidden_units(kind):
    """Divide reduce over its outputs and expand over its inputs, the hidden units: tensor parallelism."""
    mesh = make_mesh(kind)
    block = se_flax.SqueezeExcitation(SPEC, param_dtype="float64", rngs=nnx.Rngs(0))
    parameters = se_flax.get_parameters(block)
    graph, state = nnx.split(block)
    splits = {"reduce": {"kernel": P(None, "c"), "bias": P("c")}, "expand": {"kernel": P("c", None), "bias": P()}}
    shardings = jax.tree.map(partial(NamedSharding, mesh), splits)
    nnx.update(block, jax.device_put(nnx.to_pure_dict(state), shardings))
    se_flax.set_parameters(block, parameters)  # this keeps the shardings
    assert block.reduce.kernel[...].sharding.spec == P(None, "c")
    graph, state = nnx.split(block)

    def forward(state, x):
        return nnx.merge(graph, state)(x)

    if kind == AxisType.Explicit:  # the sharding of a product over a split axis is ambiguous: XLA decides
        forward = jax.sharding.auto_axes(forward, out_sharding=P("a"))
    with jax.set_mesh(mesh):
        x, target = (jax.device_put(array, NamedSharding(mesh, P("a"))) for array in (X, TARGET))
        return train(forward, state, x, target)


def split_by_shard_map(functions):
    """Run the block on each device's part of the maps; with ``axis_name`` the squeeze is computed over all parts."""
    forward, state = functions(SPEC, axis_name=("b", "c"))
    parts = P("a", "b", "c")
    mapped = jax.shard_map(forward, mesh=make_mesh(AxisType.Auto), in_specs=(P(), parts), out_specs=parts)
    return train(mapped, state, X, TARGET)


def split_network(functions, shape, split):
    """Divide images by a mesh; XLA exchanges the rows and columns that convolutions need at the borders."""
    # XLA has a thread for each virtual device; if all eight wait, no thread is left for convolutions. So four are used.
    mesh, (forward, state) = make_mesh(AxisType.Auto, shape), functions(NET)
    x = jax.device_put(IMAGES, NamedSharding(mesh, split))
    return train(forward, jax.device_put(state, NamedSharding(mesh, P())), x, LOGITS)


def main():
    """Run every way, print its errors and assert that they are small."""
    assert len(jax.devices()) == 8
    print(f"{'difference from one device':42} {'':5} {'outputs':>9} {'gradients':>9} {'10 steps':>9}")
    for api, functions, network in [("nnx", nnx_functions, nnx_network), ("linen", linen_functions, linen_network)]:
        want = train(*functions(SPEC), jnp.asarray(X), TARGET)
        for kind in (AxisType.Auto, AxisType.Explicit):
            for name, split in SPLITS.items():
                compare(f"{name} ({kind.name})", api, split_by_jit(functions, kind, split), want)
            if api == "nnx":
                compare(f"batch, hidden units ({kind.name})", api, split_hidden_units(kind), want)
        compare("batch, rows, columns (shard_map)", api, split_by_shard_map(functions), want)
        want = train(*network(NET), jnp.asarray(IMAGES), LOGITS)
        for name, shape in [("batch, rows", (2, 2, 1)), ("rows, columns", (1, 2, 2))]:
            compare(f"a network: {name} (Auto)", api, split_network(network, shape, P("a", "b", "c")), want)


if __name__ == "__main__":
    main()
