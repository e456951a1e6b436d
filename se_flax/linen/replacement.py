"""Our block in place of every SE block of a live linen model, and the way back.

A linen module makes its submodules while it is called, so that none can be taken out. The model is therefore called by
``ReplacedBlocks``, which intercepts the calls of the blocks and calls ours at their paths of the variables.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from se_spec import ParameterError, SESpec
from se_spec.live import Replacement

from ..examination import compare, limit_of, to_native
from .block import SqueezeExcitation
from .parameters import get_parameters, set_parameters
from .recognition import Recognized, call_model, examine_model


class Entry(NamedTuple):
    """A block of ours in a model: its path, what it is, and how it is called."""

    path: tuple[str, ...]
    spec: SESpec
    result: str
    data_format: str
    dtype: DTypeLike | None
    param_dtype: DTypeLike

    def call(self, scope: Any, x: jax.Array) -> jax.Array:
        """Call our block with the variables of a scope, as theirs is called."""
        ours = SqueezeExcitation(self.spec, dtype=self.dtype, param_dtype=self.param_dtype, parent=scope)
        is_first = self.data_format == "channels_first"
        x = jnp.moveaxis(x, 1, -1) if is_first else x
        if self.result == "map":
            y = ours(x)
        else:
            s = self.spec.gain * ours.excitation(x) + float(self.spec.residual)
            s = s if self.result == "vector" else jnp.expand_dims(s, tuple(range(1, x.ndim - 1)))
            y = s.astype(self.dtype or x.dtype)
        return jnp.moveaxis(y, -1, 1) if is_first and y.ndim > 2 else y


class ReplacedBlocks(nn.Module):
    """A model that calls our blocks in place of its own; ``replace`` makes it.

    Args:
        model_inside: the model; its variables are those of this module, but for the blocks.
        blocks: the blocks.

    Raises:
        ShapeError: a map does not fit a block.

    >>> model, x = nn.Sequential([nn.Dense(2)]), jnp.ones((1, 3))
    >>> wrapped = ReplacedBlocks(model, ())
    >>> jax.tree.map(jnp.shape, wrapped.init(jax.random.key(0), x))
    {'params': {'layers_0': {'bias': (2,), 'kernel': (3, 2)}}}
    """

    model_inside: nn.Module
    blocks: tuple[Entry, ...]

    def setup(self) -> None:
        nn.share_scope(self, self.model_inside)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        entries = {(*self.path, *entry.path): entry for entry in self.blocks}
        # A module that the model was given, not one that it made, still has the path before the scope was shared.
        entries |= {(*self.path, "model_inside", *entry.path): entry for entry in self.blocks}

        def put(call: Callable[..., Any], arguments: Any, options: Any, context: Any) -> Any:
            module = context.module
            if context.method_name != "__call__" or isinstance(module, SqueezeExcitation | ReplacedBlocks):
                return call(*arguments, **options)
            entry = entries.get(module.path)
            if entry is None:
                return call(*arguments, **options)
            return entry.call(module.scope.rewound(), arguments[0])

        with nn.intercept_methods(put):
            return self.model_inside(*arguments, **options)


class Before(NamedTuple):
    """The model and the variables before, and the blocks that were replaced."""

    model: nn.Module
    variables: Mapping[str, Any]
    found: dict[str, Recognized]


def replace(model: nn.Module, variables: Mapping[str, Any], inputs: Any) -> Replacement:
    """Make a model with our block in place of every SE block of a live model, and its variables.

    Args:
        model: any linen module.
        variables: its variables.
        inputs: what it is called with, to find its blocks and to compare its answers before and after: an array, a
            tuple of arguments or a dict of keywords.

    Returns:
        The new model and its variables, the blocks that were replaced, and the modules that resemble one and were left,
        with the reason; ``print`` shows it as text. Nothing that is given is changed.

    Raises:
        InputError: the model fails on ``inputs``.

    >>> class Block(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         h = nn.relu(nn.Conv(2, (1, 1))(x.mean((1, 2), keepdims=True)))
    ...         return x * nn.sigmoid(nn.Conv(8, (1, 1))(h))
    >>> model, x = nn.Sequential([nn.Conv(8, (3, 3)), Block()]), jnp.ones((1, 5, 5, 3))
    >>> variables = model.init(jax.random.key(0), x)
    >>> replacement = replace(model, variables, x)
    >>> jax.tree.map(jnp.shape, replacement.variables["params"]["layers_1"]["reduce"])
    {'bias': (2,), 'kernel': (8, 2)}
    >>> y = replacement.model.apply(replacement.variables, x)
    >>> model_before, variables_before = restore(replacement)
    """
    found, left, want = examine_model(model, variables, inputs)
    foreign = {path: entry for path, entry in found.items() if not isinstance(entry.call.module, SqueezeExcitation)}
    entries = {path: _make_entry(path, entry) for path, entry in foreign.items()}
    result, new, difference, fault = _put(model, variables, foreign, entries, inputs, want)
    if fault:
        for path in list(entries):
            _, _, _, own = _put(model, variables, foreign, {path: entries[path]}, inputs, want)
            if own:
                left[path] = own
                del entries[path]
        result, new, difference, _ = _put(model, variables, foreign, entries, inputs, want)
    blocks = {path: foreign[path].block for path in entries}
    notes = tuple(_write_notes(blocks))
    before = Before(model, variables, {path: foreign[path] for path in entries})
    return Replacement(result, blocks, left, difference, notes, new, before)


def restore(replacement: Replacement, variables: Mapping[str, Any] | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model as it was before ``replace``, with its variables.

    Args:
        replacement: the result of ``replace``.
        variables: the variables of the new model, such as those after training; None is ``replacement.variables``.

    Returns:
        The old model, and the variables with the names and shapes that it had.

    Raises:
        ParameterError: the variables lack a block.

    >>> model, x = nn.Sequential([nn.Dense(2)]), jnp.ones((1, 3))
    >>> replacement = replace(model, model.init(jax.random.key(0), x), x)
    >>> restore(replacement)[0] is model
    True
    """
    before: Before = replacement.before
    given = replacement.variables if variables is None else variables
    flat = flatten_dict(unfreeze(given), keep_empty_nodes=True)
    for path, entry in before.found.items():
        place = ("params", *(path.split("/") if path else ()))
        tree = {name[len(place) :]: value for name, value in flat.items() if name[: len(place)] == place}
        if not tree:
            raise ParameterError(f"the variables have no block at {path!r}")
        parameters = get_parameters({"params": unflatten_dict(tree)})
        for name in tree:
            del flat[(*place, *name)]
        own = flatten_dict(entry.call.variables["params"], sep="/")
        for key, tensor in entry.match.reading.tensors.items():
            value = to_native(parameters[key], tensor.is_transposed, own[tensor.name])
            flat[(*place, *tensor.name.split("/"))] = value
    return before.model, unflatten_dict(flat)


def _make_entry(path: str, found: Recognized) -> Entry:
    block, match, call = found.block, found.match, found.call
    x = call.arguments[0]
    dtype = None if call.result.dtype == x.dtype else call.result.dtype
    param_dtype = next(iter(block.parameters.values())).dtype
    place = tuple(path.split("/")) if path else ()
    return Entry(place, match.spec, match.result, block.data_format, dtype, param_dtype)


def _put(
    model: nn.Module,
    variables: Mapping[str, Any],
    found: Mapping[str, Recognized],
    entries: Mapping[str, Entry],
    inputs: Any,
    want: Any,
) -> tuple[nn.Module, dict[str, Any], float, str]:
    """Return the new model and its variables, the difference of the answers, and what is wrong; empty if nothing is."""
    new = _convert_variables(variables, found, entries)
    result = ReplacedBlocks(model.clone(parent=None), tuple(entries.values())) if entries else model
    try:
        difference = compare(want, call_model(result, new, inputs))
    except Exception as error:  # whatever a model raises that uses more of a block than its call
        return result, new, 0.0, f"with ours in its place, the model raises {type(error).__name__}: {error}"
    limit = max([limit_of(want), *(limit_of(found[path].call.result) for path in entries)])
    too_far = f"with ours in its place, the model's answers are {difference:.1e} of the largest apart"
    return result, new, difference, "" if difference <= limit else too_far


def _convert_variables(
    variables: Mapping[str, Any], found: Mapping[str, Recognized], entries: Mapping[str, Entry]
) -> dict[str, Any]:
    """Return the variables with those of our blocks at their paths."""
    flat = flatten_dict(unfreeze(variables), keep_empty_nodes=True)
    for path, entry in entries.items():
        place = ("params", *entry.path)
        flat = {name: value for name, value in flat.items() if name[: len(place)] != place}
        ours = SqueezeExcitation(entry.spec, param_dtype=entry.param_dtype)
        tree = flatten_dict(set_parameters(ours, found[path].block.parameters)["params"])
        flat |= {(*place, *name): value for name, value in tree.items()}
    return unflatten_dict(flat)


def _write_notes(blocks: Mapping[str, Any]) -> Iterator[str]:
    if not blocks:
        return
    zeros = [path for path, block in blocks.items() if len(block.names) < len(block.parameters)]
    if zeros:
        yield f"a bias that one projection alone lacked is a new parameter of zeros: {', '.join(zeros)}"
    yield "methods of the model other than its call are not replaced"
    yield "names of variables have changed; make the optimizer after the replacement"
