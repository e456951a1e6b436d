"""SE blocks of a live linen model, found by what its modules compute while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import unfreeze
from flax.core.meta import AxisMetadata
from flax.traverse_util import flatten_dict, unflatten_dict

from se_spec import InputError, SESpec, live
from se_spec.live import LiveBlock, Reading

from ..examination import Candidate, Layout, Match, Values, examine, make_block
from .block import SqueezeExcitation

MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
"""Arguments by which modules are told that they train, and their values then."""


class Call(NamedTuple):
    """A call of a module inside a model: the module alone, its variables, and shapes of its arguments and result."""

    module: nn.Module
    variables: Mapping[str, Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    result: Any


@dataclass(frozen=True)
class Recognized:
    """A block, the call in which it was seen, and what it computes."""

    block: LiveBlock
    call: Call
    match: Match


def find_blocks(model: nn.Module, variables: Mapping[str, Any], inputs: Any) -> dict[str, LiveBlock]:
    """Find every SE block of a live model, by what its modules compute.

    Args:
        model: any linen module.
        variables: its variables.
        inputs: what it is called with: an array, a tuple of arguments or a dict of keywords. A linen model has its
            modules only while it is called.

    Returns:
        Each block by its path in the variables, joined by ``/``.

    Raises:
        InputError: the model fails on ``inputs``.

    >>> class Block(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         h = nn.silu(nn.Dense(2)(x.mean((1, 2), keepdims=True)))
    ...         return x * nn.sigmoid(nn.Dense(8)(h))
    >>> model, x = nn.Sequential([nn.Conv(8, (3, 3)), Block()]), jnp.ones((1, 5, 5, 3))
    >>> print(find_blocks(model, model.init(jax.random.key(0), x), x)["layers_1"])
    layers_1: se_flax.linen.recognition.Block, SESpec(8, hidden=2, bias=True, activation='silu')
    """
    return {path: found.block for path, found in examine_model(model, variables, inputs)[0].items()}


def from_module(module: nn.Module, variables: Mapping[str, Any], inputs: Any) -> tuple[SESpec, dict[str, np.ndarray]]:
    """Read the spec and the canonical parameters of one block of any library.

    Args:
        module: the block.
        variables: its variables.
        inputs: a map with which it is called.

    Returns:
        The spec that it computes, and its parameters in their dtype.

    Raises:
        SpecError: the module computes no SE block; the message has the reason.
        InputError: the module fails on ``inputs``.

    >>> block, x = SqueezeExcitation(8, hidden=2), jnp.ones((1, 5, 5, 8))
    >>> from_module(block, block.init(jax.random.key(0), x), x)[0]
    SESpec(8, hidden=2)
    """
    found, left, _ = examine_model(module, variables, inputs, is_named=True)
    if len(found) == 1:
        [recognized] = found.values()
        return recognized.block.spec, recognized.block.parameters
    raise live.no_block_error(module, found, left)


def examine_model(
    model: nn.Module, variables: Mapping[str, Any], inputs: Any, *, is_named: bool = False
) -> tuple[dict[str, Recognized], dict[str, str], Any]:
    """Examine every module that a call of the model calls.

    Returns:
        The blocks by path; the reason, by path, for each module that resembles a block and is none; the model's answer.

    Raises:
        InputError: the model fails on ``inputs``.
    """
    calls, answer = _record_calls(model, variables, inputs)
    found: dict[str, Recognized] = {}
    left: dict[str, str] = {}
    hint: SESpec | None = None
    for path, call in calls.items():  # the inner ones first
        prefix = f"{path}/" if path else ""
        inside = {inner: entry for inner, entry in found.items() if inner.startswith(prefix)}
        is_part_of_ours = isinstance(call.module, nn.Dense | nn.Conv)
        if any(entry.match.result == "map" for entry in inside.values()) or is_part_of_ours:
            continue
        if isinstance(call.module, SqueezeExcitation):
            found[path] = _recognize_own(path, call)
            continue
        candidate = make_candidate(path, call, calls)
        result = examine(candidate, hint, is_named=(is_named and not path) or None)
        if isinstance(result, Match) and (result.result == "map" or not inside):
            for entries in (found, left):
                for inner in [inner for inner in entries if inner.startswith(prefix)]:
                    del entries[inner]
            hint = result.spec
            found[path] = Recognized(make_block(path, candidate, result), call, result)
        elif isinstance(result, str) and not inside and not any(inner.startswith(prefix) for inner in left):
            left[path] = result
    return found, left, answer


def call_model(model: nn.Module, variables: Mapping[str, Any], inputs: Any) -> Any:
    """Call the model without changes of its variables."""
    if isinstance(inputs, Mapping):
        return model.apply(variables, **inputs)
    return model.apply(variables, *inputs) if isinstance(inputs, tuple) else model.apply(variables, inputs)


def _record_calls(model: nn.Module, variables: Mapping[str, Any], inputs: Any) -> tuple[dict[str, Call], Any]:
    """Call the model; return the first call of each module inside by its path, and the answer."""
    calls: dict[str, Call] = {}

    def record(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        result = call(*arguments, **options)
        path = "/".join(context.module.path)
        if context.method_name == "__call__" and path not in calls:
            own = {name: _find_tree(tree, context.module.path) for name, tree in unfreeze(variables).items()}
            shapes = jax.tree.map(_describe_array, (arguments, dict(options), result))
            calls[path] = Call(context.module.unbind()[0], own, *shapes)
        return result

    try:
        with nn.intercept_methods(record):
            answer = call_model(model, variables, inputs)
    except Exception as error:
        raise InputError(f"the model raises {type(error).__name__} on the inputs: {error}") from error
    return calls, answer


def _find_tree(tree: Any, path: tuple[str, ...]) -> Any:
    """Return a module's variables, not those of the call, which a transformation may trace."""
    for name in path:
        tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    return tree


def _describe_array(value: Any) -> Any:
    """Return shape and dtype of an array, which may be traced; return anything else unchanged."""
    is_array = isinstance(value, jax.Array | np.ndarray)
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if is_array else value


def make_candidate(path: str, call: Call, calls: Mapping[str, Call]) -> Candidate:
    """Describe a module for its examination."""
    flat = flatten_dict(call.variables.get("params", {}), sep="/")
    parameters = {name: value for name, value in flat.items() if not isinstance(value, AxisMetadata)}
    prefix = f"{path}/" if path else ""
    inside = {inner.removeprefix(prefix): entry for inner, entry in calls.items() if inner.startswith(prefix)}
    parts = {inner: type(entry.module).__name__ for inner, entry in inside.items()}

    def run(values: Values, x: jax.Array, training: bool) -> Any:
        tree = unflatten_dict({name: jnp.asarray(value) for name, value in values.items()}, sep="/")
        options = {name: _choose_mode(name, value, training) for name, value in call.options.items()}
        others = [not value if training and isinstance(value, bool) else value for value in call.arguments[1:]]
        keys = {"dropout": jax.random.key(0)}
        return call.module.apply({"params": tree}, x, *others, **options, rngs=keys)

    feature_map = call.arguments[0] if call.arguments else None
    shape = getattr(feature_map, "shape", ())
    size = tuple(shape[1:-1]) if len(shape) in (3, 4, 5) and max(shape[1:-1]) > 1 else ()
    return Candidate(live.name_class(call.module), parameters, run, parts, _list_obstacles(call, inside, flat), size)


def _choose_mode(name: str, value: Any, training: bool) -> Any:
    return MODES[name] if training and name in MODES and isinstance(value, bool) else value


def _list_obstacles(call: Call, inside: Mapping[str, Call], parameters: Mapping[str, Any]) -> list[str]:
    """List the reasons, as clauses, for which no block of ours can stand in the module's place."""
    kinds = {path: type(entry.module).__name__ for path, entry in inside.items()}
    found = [f"it has {kind} ({path!r}) beside its projections" for path, kind in kinds.items() if "Norm" in kind]
    found += [
        f"it has dropout ({path})"
        for path, entry in inside.items()
        if isinstance(entry.module, nn.Dropout) and entry.module.rate
    ]
    found += [f"its parameter {name!r} is in a box" for name, value in parameters.items() if _is_boxed(value)]
    norms = any("Norm" in kind for kind in kinds.values())
    others = [name for name, tree in call.variables.items() if name != "params" and tree and not norms]
    if others:
        found.append(f"it has variables of {', '.join(others)}, which ours would not have")
    if len(call.arguments) == 0 or any(getattr(argument, "ndim", 0) for argument in call.arguments[1:]):
        found.append("it is called with more than a map")
    return found


def _is_boxed(value: Any) -> bool:
    return isinstance(value, AxisMetadata)


def _recognize_own(path: str, call: Call) -> Recognized:
    spec = call.module.spec
    flat = flatten_dict(call.variables["params"], sep="/")
    tensors = {
        name: live.Tensor(name.replace(".weight", "/kernel").replace(".bias", "/bias"), name.endswith("weight"))
        for name in spec.parameter_shapes()
    }
    match = Match(spec, Reading(spec.channels, spec.hidden, spec.single_projection, tensors), "map", Layout((3, 5)))
    parameters = {name: value.unbox() if isinstance(value, AxisMetadata) else value for name, value in flat.items()}
    candidate = Candidate(live.name_class(call.module), parameters, lambda values, x, training: x, {}, [])
    return Recognized(make_block(path, candidate, match), call, match)
