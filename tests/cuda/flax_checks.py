"""What the checks of Flax do, each in JAX's own process; they raise AssertionError with what came."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import se_flax
import se_numpy
from se_conformance.cases import Case
from se_spec import SESpec

CASE = Case(SESpec(12, hidden=5, bias=True), dtype="float32")


def _devices() -> list[jax.Device]:
    """The device asked for and another: the processor beside a GPU, else a second, virtual one."""
    chosen = jax.devices()
    return [chosen[0], jax.devices("cpu")[0]] if chosen[0].platform != "cpu" else chosen[:2]


def _apply(api: str, jit: bool, parameters: dict[str, np.ndarray], x: jax.Array, on: jax.Device) -> jax.Array:
    """The block's answer, with its parameters put on a device."""
    if api == "nnx":
        block = se_flax.SqueezeExcitation(CASE.spec, rngs=nnx.Rngs(0))
        se_flax.set_parameters(block, parameters)
        graph, state = nnx.split(block)
        function, held = (lambda state, x: nnx.merge(graph, state)(x)), state
    else:
        linen = se_flax.linen.SqueezeExcitation(CASE.spec)
        function, held = linen.apply, se_flax.linen.set_parameters(linen, parameters)
    return (jax.jit(function) if jit else function)(jax.device_put(held, on), x)


def check_mixed_devices(api: str, jit: bool) -> None:
    """Arrays that were put on two devices are an error that says so; one device answers where it is."""
    here, there = _devices()
    inputs = CASE.inputs()
    want = se_numpy.squeeze_excitation(inputs.x, CASE.spec, inputs.parameters, data_format="channels_last")
    for on in (here, there):
        y = _apply(api, jit, inputs.parameters, jax.device_put(jnp.asarray(inputs.x), on), on)
        assert y.devices() == {on}, f"all on {on}, and the answer is on {y.devices()}"
        assert abs(np.asarray(y) - want).max() < 1e-5 * abs(want).max()
    try:
        _apply(api, jit, inputs.parameters, jax.device_put(jnp.asarray(inputs.x), there), here)
    except ValueError as error:
        text = str(error)
    else:
        raise AssertionError(f"parameters on {here}, x on {there}: no error")
    assert "incompatible devices" in text, f"the error says {text}"


def check_no_tf32(api: str, precision: str) -> None:
    """JAX's switch for plain products does not reach the block's: float32 stays float32 (N-4)."""
    device, inputs = jax.devices()[0], CASE.inputs()
    want = se_numpy.squeeze_excitation(inputs.x, CASE.spec, inputs.parameters, data_format="channels_last")
    with jax.default_matmul_precision(precision):
        y = _apply(api, True, inputs.parameters, jax.device_put(jnp.asarray(inputs.x), device), device)
    off = abs(np.asarray(y) - want).max() / abs(want).max()
    assert off < 1e-5, f"off by {off:.1e} where products are {precision}"


def check_memory() -> None:
    """A step of training under jit needs no more temporary memory than the plain block's."""
    x = jnp.ones((8, 64, 64, 12), jnp.float32)
    block = se_flax.SqueezeExcitation(CASE.spec, rngs=nnx.Rngs(0))
    graph, state = nnx.split(block)
    w, b, v, c = (jnp.ones(shape, jnp.float32) for shape in ((12, 5), (5,), (5, 12), (12,)))

    def plain(weights, x):
        w, b, v, c = weights
        g = jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2)) @ w + b) @ v + c)
        return x * g[:, None, None]

    def temporary(function, held) -> int:
        def step(held, x, dy):
            y, back = jax.vjp(function, held, x)
            return y, back(dy)

        return jax.jit(step).lower(held, x, x).compile().memory_analysis().temp_size_in_bytes

    ours = temporary(lambda state, x: nnx.merge(graph, state)(x), state)
    theirs = temporary(plain, (w, b, v, c))
    assert ours <= theirs + 2**16, f"{ours} bytes, a plain block {theirs}"
