"""SE blocks of a live NNX model, found by what its modules compute and not by their names."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from se_spec import SESpec, live
from se_spec.live import LiveBlock, Reading

from ..examination import Candidate, Layout, Match, Values, examine, make_block, move_path
from .block import SqueezeExcitation
from .variables import Attribute, list_children, list_parts, list_variables, read_value, write_value


@dataclass(frozen=True)
class Recognized:
    """A block, the module that is the block, what it computes, and the attribute that holds it."""

    block: LiveBlock
    module: nnx.Module
    match: Match
    place: Attribute | None = None


def find_blocks(model: nnx.Module) -> dict[str, LiveBlock]:
    """Find every SE block of a live model, by what its modules compute.

    Args:
        model: any NNX module; it is not changed.

    Returns:
        Each block by its path; a module that is used at two places has two paths.

    Raises:
        No error of its own: a module that cannot be examined is no block.

    >>> def pool(x):
    ...     return x.mean((1, 2), keepdims=True)
    >>> rngs = nnx.Rngs(0)
    >>> layers = pool, nnx.Linear(8, 2, rngs=rngs), nnx.relu, nnx.Linear(2, 8, rngs=rngs), nnx.sigmoid
    >>> model = nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Sequential(*layers))
    >>> print(find_blocks(model)["layers.1"])
    layers.1: flax.nnx.helpers.Sequential, SESpec(8, hidden=2, bias=True), its gate alone
    """
    return {path: found.block for path, found in examine_model(model)[0].items()}


def from_module(module: nnx.Module) -> tuple[SESpec, dict[str, np.ndarray]]:
    """Read the spec and the canonical parameters of one block of any library.

    Args:
        module: the block.

    Returns:
        The spec that it computes, and its parameters in their dtype.

    Raises:
        SpecError: the module computes no SE block; the message has the reason.

    >>> class Block(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.down, self.up = nnx.Linear(8, 2, rngs=rngs), nnx.Linear(2, 8, rngs=rngs)
    ...     def __call__(self, x):
    ...         return x * nnx.sigmoid(self.up(nnx.silu(self.down(x.mean((1, 2), keepdims=True)))))
    >>> from_module(Block(nnx.Rngs(0)))[0]
    SESpec(8, hidden=2, bias=True, activation='silu')
    """
    found, left = examine_model(module, is_named=True)
    if len(found) == 1:
        [recognized] = found.values()
        return recognized.block.spec, recognized.block.parameters
    raise live.no_block_error(module, found, left)


def examine_model(model: Any, *, is_named: bool = False) -> tuple[dict[str, Recognized], dict[str, str]]:
    """Examine every module of a model.

    Returns:
        The blocks by path; the reason, by path, for each module that resembles a block and is none.
    """
    examination = _Examination()
    examination.visit(model, "", None, is_named or None)
    return examination.found, examination.left


class _Examination:
    """Walks through a model from the inside: the innermost whole block counts, and a gate alone if no block has it."""

    def __init__(self) -> None:
        self.found: dict[str, Recognized] = {}
        self.left: dict[str, str] = {}
        self._results: dict[int, tuple[Candidate, Match | str | None]] = {}
        self._hint: SESpec | None = None

    def visit(self, module: Any, path: str, place: Attribute | None, is_named: bool | None = None) -> tuple[bool, bool]:
        """Return whether a whole block is inside, and whether anything is."""
        if isinstance(module, SqueezeExcitation):
            self.found[path] = _recognize_own(module, path)
            return True, True
        inside = [
            self.visit(child, f"{path}.{name}" if path else name, attribute)
            for name, attribute, child in list_children(module)
        ]
        if any(has_block for has_block, _ in inside):
            return True, True
        if isinstance(module, nnx.Linear | nnx.Conv):
            return False, False
        return self._judge(module, path, place, any(has_any for _, has_any in inside), is_named)

    def _judge(
        self, module: Any, path: str, place: Attribute | None, has_inside: bool, is_named: bool | None
    ) -> tuple[bool, bool]:
        if id(module) not in self._results:
            candidate = make_candidate(module)
            self._results[id(module)] = candidate, examine(candidate, self._hint, is_named=is_named)
        candidate, result = self._results[id(module)]
        if isinstance(result, Match) and (result.result == "map" or not has_inside):
            self.found, self.left = (live.drop_inside(path, entries) for entries in (self.found, self.left))
            self._hint = result.spec
            block = move_path(make_block(path, candidate, result), path)
            self.found[path] = Recognized(block, module, result, place)
            return result.result == "map", True
        if isinstance(result, str) and not has_inside:
            self.left[path] = result
            return False, True
        return False, has_inside


def make_candidate(module: Any) -> Candidate:
    """Describe a module for its examination."""
    variables = list_variables(module)
    parameters = {name: read_value(value) for name, value in variables.items() if type(value) is nnx.Param}
    parts = {path: type(part).__name__ for path, part in list_parts(module).items()}

    def call(values: Values, x: jax.Array, training: bool) -> Any:
        twin = nnx.clone(module)
        for part in list_parts(twin).values():
            if str(getattr(part, "dtype", None) and jnp.dtype(part.dtype)) in ("float16", "bfloat16"):
                part.dtype = jnp.float32
        for name, variable in list_variables(twin).items():
            if name in values:
                write_value(variable, jnp.asarray(values[name]))
        twin.train() if training else twin.eval()
        return twin(x)

    return Candidate(live.name_class(module), parameters, call, parts, _list_obstacles(module, variables, parts))


def _list_obstacles(module: Any, variables: dict[str, Any], parts: dict[str, str]) -> list[str]:
    """List the reasons, as clauses, for which no block of ours can stand in the module's place."""
    norms = {path: kind for path, kind in parts.items() if "Norm" in kind}
    found = [f"it has {kind} ({path!r}) beside its projections" for path, kind in norms.items()]
    if any("LoRA" in kind for kind in parts.values()):
        found.append("it has LoRA's matrices; merge them first")
    for name, variable in variables.items():
        if any(name.startswith(f"{path}.") for path in norms if path):
            continue
        if type(variable) is not nnx.Param:
            found.append(f"its variable {name!r} is a {type(variable).__name__}, which ours would not have")
        elif not hasattr(read_value(variable), "dtype") or isinstance(read_value(variable), jax.ShapeDtypeStruct):
            found.append(f"its parameter {name!r} has no values")
    return found


def _recognize_own(block: SqueezeExcitation, path: str) -> Recognized:
    variables = list_variables(block)
    names = {name: name.replace("weight", "kernel") for name in block.spec.parameter_shapes()}
    tensors = {name: live.Tensor(own, own.endswith("kernel")) for name, own in names.items() if own in variables}
    reading = Reading(block.spec.channels, block.spec.hidden, block.spec.single_projection, tensors)
    match = Match(block.spec, reading, "map", Layout((3, 5)))
    parameters = {name: read_value(variable) for name, variable in variables.items()}
    held = {name: value for name, value in parameters.items() if not isinstance(value, jax.ShapeDtypeStruct)}
    arrays = {} if len(held) < len(tensors) else parameters
    candidate = Candidate(live.name_class(block), arrays, lambda values, x, training: block(x), {}, [])
    found = make_block(path, candidate, match) if arrays else LiveBlock(path, candidate.kind, block.spec, {}, names)
    return Recognized(found, block, match)
