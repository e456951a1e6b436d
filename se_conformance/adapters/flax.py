"""Flax NNX and linen modules as functions of NumPy arrays."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import se_spec
from se_spec import SESpec

from .base import AdaptedBlock, Arrays, own_excitation, shapes_of
from .jax import choose_quick_options, refuse_float64
from .lora import merge_lora
from .matching import NativeParameter, match

LARGE_ELEMENTS = 1 << 16
"""Elements of x from which a map is compiled as for users."""

Values = dict[str, jax.Array]
Ways = dict[str, Callable[[np.ndarray, Arrays], object]]


def adapt_nnx(block: Any, names: Mapping[str, str] | None, data_format: str) -> AdaptedBlock:
    """Adapt an NNX module; its parameters are given in x's dtype."""
    return _make_adapted(_Nnx(block, names), block, data_format)


def adapt_linen(block: Any, names: Mapping[str, str] | None, data_format: str) -> AdaptedBlock:
    """Adapt a linen module; its parameters are given in x's dtype."""
    return _make_adapted(_Linen(block, names), block, data_format)


def _make_adapted(adapter: "_Nnx | _Linen", block: Any, data_format: str) -> AdaptedBlock:
    def run(x: np.ndarray, parameters: Arrays, method: str = "__call__") -> object:
        values = _to_native_values(adapter.match_parameters(x, parameters), parameters)
        return _to_array(_run_compiled(adapter, values, jnp.asarray(x), method))

    def run_op_by_op(x: np.ndarray, parameters: Arrays) -> object:
        values = _to_native_values(adapter.match_parameters(x, parameters), parameters)
        return _to_array(adapter.call(values, jnp.asarray(x)))

    def vjp(x: np.ndarray, dy: np.ndarray, parameters: Arrays) -> tuple[np.ndarray, Arrays]:
        matched = adapter.match_parameters(x, parameters)
        arguments = _to_native_values(matched, parameters), jnp.asarray(x)
        # compiled as in training; op by op, each operation would be compiled alone, which takes longer
        dvalues, dx = adapter.compiled_vjp(arguments, jnp.asarray(dy))
        return np.asarray(dx), {
            name: native.to_canonical(np.asarray(dvalues[native.name])) for name, native in matched.items()
        }

    excitation = own_excitation(block, partial(run, method="excitation"))
    ways = {"op by op": run_op_by_op, **adapter.ways}
    return AdaptedBlock(run, vjp, excitation, data_format, adapter.reset, ways=ways, notes=adapter.notes)


def _run_compiled(adapter: "_Nnx | _Linen", values: Values, x: jax.Array, method: str) -> Any:
    """Run compiled, as models run; op by op where the block cannot be traced, or raises."""
    try:
        return adapter.call_compiled(values, x, method)
    except Exception:
        return adapter.call(values, x, method)


class _Compiled:
    """Compiles y of the usual map and of large ones as for users; y of other sizes, and gates, in less time."""

    def __init__(self, function: Callable[..., Any], static_argnums: Any) -> None:
        self.fully = jax.jit(function, static_argnums=static_argnums)
        self.quickly = jax.jit(function, static_argnums=static_argnums, compiler_options=choose_quick_options())
        self.usual: tuple[int, ...] | None = None

    def choose(self, x: jax.Array, method: str) -> Callable[..., Any]:
        self.usual = self.usual or x.shape
        is_full = method == "__call__" and (x.shape == self.usual or x.size >= LARGE_ELEMENTS)
        return self.fully if is_full else self.quickly


class _Nnx:
    """Keeps one copy from call to call, so that a block with state shows it."""

    def __init__(self, block: Any, names: Mapping[str, str] | None) -> None:
        self.names = names
        self.block, self.notes = merge_lora(block)
        self.ways: Ways = {"training mode": self.run_in_training}
        self.copy: Any = None
        quickly = choose_quick_options()
        self.compiled_vjp = jax.jit(
            lambda arguments, dy: jax.vjp(self.pure, *arguments)[1](dy), compiler_options=quickly
        )
        self.compiled_step = _Compiled(self._step, static_argnums=(0, 4))

    def reset(self, spec: SESpec, dtype: str, data_format: str) -> None:
        refuse_float64(dtype)
        self._match(se_spec.parameters.shapes(spec))
        self.copy = None

    def match_parameters(self, x: np.ndarray, parameters: Arrays) -> dict[str, NativeParameter]:
        return self._match(shapes_of(parameters))

    def call(self, values: Values, x: jax.Array, method: str = "__call__") -> Any:
        block = self._load(values)
        return getattr(block, method)(x)

    def call_compiled(self, values: Values, x: jax.Array, method: str) -> Any:
        block = self._load(values)
        graph, _, rest = nnx.split(block, nnx.Param, ...)
        y, rest = self.compiled_step.choose(x, method)(graph, values, rest, x, method)
        nnx.update(block, rest)
        return y

    def run_in_training(self, x: np.ndarray, parameters: Arrays) -> object:
        block = nnx.clone(self.block)
        block.train()
        nnx.update(block, self._state(_to_native_values(self.match_parameters(x, parameters), parameters)))
        return _to_array(block(jnp.asarray(x)))

    def _load(self, values: Values) -> Any:
        if self.copy is None:
            self.copy = nnx.clone(self.block)
            self.copy.eval()
        nnx.update(self.copy, self._state(values))
        return self.copy

    def _step(self, graph: Any, values: Values, rest: Any, x: jax.Array, method: str) -> tuple[Any, Any]:
        block = nnx.merge(graph, self._state(values), rest)
        y = getattr(block, method)(x)
        return y, nnx.split(block, nnx.Param, ...)[2]

    def pure(self, values: Values, x: jax.Array) -> Any:
        graph, _, rest = nnx.split(nnx.clone(self.block), nnx.Param, ...)
        block = nnx.merge(graph, self._state(values), rest)
        block.eval()
        return block(x)

    def _state(self, values: Values) -> Any:
        return nnx.from_flat_state(
            [(path, variable.replace(values[_join_path(path)])) for path, variable in self.parameters]
        )

    @cached_property
    def parameters(self) -> list[tuple[tuple[Any, ...], Any]]:
        """The paths and variables of the block's parameters."""
        return list(nnx.to_flat_state(nnx.state(self.block, nnx.Param)))

    def _match(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NativeParameter]:
        native = [NativeParameter(_join_path(path), tuple(value.shape), "in") for path, value in self.parameters]
        return match(shapes, native, self.names, ordered=False)


class _Linen:
    def __init__(self, block: Any, names: Mapping[str, str] | None) -> None:
        self.block, self.names = block, names
        self.notes: list[str] = []
        self.ways: Ways = {}  # a linen module has no training mode of its own
        quickly = choose_quick_options()
        self.compiled_vjp = jax.jit(
            lambda arguments, dy: jax.vjp(self.call, *arguments)[1](dy), compiler_options=quickly
        )
        self.compiled_call = _Compiled(self.call, static_argnums=2)
        self.known_variables: dict[tuple[tuple[int, ...], str], Mapping[str, Any]] = {}

    def reset(self, spec: SESpec, dtype: str, data_format: str) -> None:
        refuse_float64(dtype)
        for rank in (2, 1, 3):  # a module that accepts no rank fails in the trials
            space = (2,) * rank
            shape = (1, spec.channels, *space) if data_format == "channels_first" else (1, *space, spec.channels)
            try:
                variables = self._variables(jax.ShapeDtypeStruct(shape, dtype))
            except Exception:
                continue
            self._match(variables, se_spec.parameters.shapes(spec))
            return

    def match_parameters(self, x: np.ndarray, parameters: Arrays) -> dict[str, NativeParameter]:
        variables = self._variables(jax.ShapeDtypeStruct(x.shape, x.dtype))
        return self._match(variables, shapes_of(parameters))

    def call(self, values: Values, x: jax.Array, method: str | None = None) -> Any:
        others = {}
        if set(self._variables(jax.ShapeDtypeStruct(x.shape, x.dtype))) - {"params"}:  # such as statistics of a norm
            drawn = self.block.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype))
            others = {name: tree for name, tree in drawn.items() if name != "params"}
        tree = flax.traverse_util.unflatten_dict({tuple(name.split(".")): value for name, value in values.items()})
        return self.block.apply({**others, "params": tree}, x, method=method)

    def call_compiled(self, values: Values, x: jax.Array, method: str) -> Any:
        return self.compiled_call.choose(x, method)(values, x, method)

    def _variables(self, x: jax.ShapeDtypeStruct) -> Mapping[str, Any]:
        key = x.shape, x.dtype.name
        if key not in self.known_variables:
            self.known_variables[key] = jax.eval_shape(self.block.init, jax.random.key(0), x)
        return self.known_variables[key]

    def _match(self, variables: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NativeParameter]:
        flat = flax.traverse_util.flatten_dict(variables.get("params", {}))
        native = [NativeParameter(_join_path(path), tuple(value.shape), "in") for path, value in flat.items()]
        return match(shapes, native, self.names, ordered=False)


def _to_native_values(matched: dict[str, NativeParameter], parameters: Arrays) -> Values:
    return {native.name: jnp.asarray(native.from_canonical(parameters[name])) for name, native in matched.items()}


def _join_path(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _to_array(value: Any) -> object:
    return np.asarray(value) if isinstance(value, jax.Array) else value
