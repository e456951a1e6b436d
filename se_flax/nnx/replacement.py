"""Our block in place of every SE block of a live NNX model, and the way back."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from se_spec import InputError
from se_spec.live import Replacement

from ..examination import compare, limit_of, to_native
from .block import SqueezeExcitation
from .forms import AdaptedSqueezeExcitation
from .parameters import get_parameters, set_parameters
from .recognition import Recognized, examine_model
from .variables import list_parts, list_variables, read_value, set_attribute, write_value


class Step(NamedTuple):
    """A block that was replaced, at one of its places: theirs, and ours."""

    theirs: Recognized
    ours: SqueezeExcitation


class Before(NamedTuple):
    """The model before, and what was done to it."""

    model: nnx.Module
    steps: list[Step]


def replace(model: nnx.Module, inputs: Any = None) -> Replacement:
    """Put our block in place of every SE block of a live model, in place.

    Args:
        model: any NNX module.
        inputs: what the model is called with, to compare its answers before and after: an array, a tuple of arguments
            or a dict of keywords. Without it they are not compared.

    Returns:
        The model, the blocks that were replaced, and the modules that resemble one and were left, with the reason;
        ``print`` shows it as text. The model is the same object, unless it is a block itself.

    Raises:
        InputError: the model fails on ``inputs``.

    >>> def pool(x):
    ...     return x.mean((1, 2), keepdims=True)
    >>> class Net(nnx.Module):
    ...     def __init__(self, rngs):
    ...         linear = nnx.Linear(8, 2, rngs=rngs), nnx.Linear(2, 8, rngs=rngs)
    ...         self.gate = nnx.Sequential(pool, linear[0], nnx.relu, linear[1], nnx.sigmoid)
    ...     def __call__(self, x):
    ...         return x * self.gate(x)
    >>> model = Net(nnx.Rngs(0))
    >>> replacement = replace(model, jnp.ones((1, 4, 4, 8)))
    >>> print(replacement.blocks[""])
    the model: se_flax.nnx.replacement.Net, SESpec(8, hidden=2, bias=True)
    >>> restore(replacement) is model
    True
    """
    found, left = examine_model(model)
    foreign = {path: entry for path, entry in found.items() if not isinstance(entry.module, SqueezeExcitation)}
    want = _call_before(model, inputs)
    steps = _make_steps(model, foreign, left)
    result, difference = _put_all(model, steps, left, inputs, want)
    blocks = {path: entry.block for path, entry in foreign.items() if path not in left}
    notes = tuple(_write_notes(steps, difference))
    return Replacement(result, blocks, left, difference, notes, before=Before(model, steps))


def restore(replacement: Replacement) -> Any:
    """Put the modules that ``replace`` took out back, with the parameters that our blocks now have.

    Args:
        replacement: the result of ``replace``.

    Returns:
        The model, with the paths of its state as they were.

    Raises:
        ParameterError: a layer of our block was replaced or quantized; nothing is then put back.

    >>> model = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> restore(replace(model)) is model
    True
    """
    steps: list[Step] = replacement.before.steps
    held = [(step, get_parameters(step.ours)) for step in steps]
    for step, parameters in held:
        _return_parameters(step.theirs, parameters)
    for step in steps:
        _put(step, step.theirs.module)
    return replacement.before.model


def _make_steps(model: nnx.Module, found: Mapping[str, Recognized], left: dict[str, str]) -> list[Step]:
    """Make our blocks, one for each module, and load them; name those that cannot be replaced."""
    uses = _count_uses(model)
    inside = _count_uses(*{id(entry.module): entry.module for entry in found.values()}.values())
    made: dict[int, SqueezeExcitation] = {}
    steps = []
    for path, entry in found.items():
        variables = list_variables(entry.module)
        shared = [name for name, value in variables.items() if uses[id(value)] > inside[id(value)]]
        if shared:
            left[path] = f"its {', '.join(shared)} is also used outside of a block"
            continue
        if id(entry.module) not in made:
            made[id(entry.module)] = _make_block(entry)
        ours = made[id(entry.module)]
        if reason := _compare_block(entry, ours):
            left[path] = reason
        else:
            steps.append(Step(entry, ours))
    return steps


def _count_uses(*modules: nnx.Module) -> dict[int, int]:
    """Count the modules that hold each variable."""
    counts: dict[int, int] = {}
    parts = {id(part): part for module in modules for part in list_parts(module).values()}
    for part in parts.values():
        for value in vars(part).values():
            if isinstance(value, nnx.Variable):
                counts[id(value)] = counts.get(id(value), 0) + 1
    return counts


def _make_block(entry: Recognized) -> SqueezeExcitation:
    block, match = entry.block, entry.match
    options: dict[str, Any] = {
        "dtype": _find_result_dtype(entry),
        "param_dtype": next(iter(block.parameters.values())).dtype,
        "rngs": nnx.Rngs(0),
    }
    ours: SqueezeExcitation
    if (match.result, block.data_format) == ("map", "channels_last"):
        ours = SqueezeExcitation(match.spec, **options)
    else:
        ours = AdaptedSqueezeExcitation(match.spec, result=match.result, data_format=block.data_format, **options)
    set_parameters(ours, block.parameters)
    variables = list_variables(entry.module)
    for name, own in match.reading.tensors.items():
        layer, _, kind = name.partition(".")
        value = read_value(variables[own.name])
        if value.ndim == 1 or (value.ndim == 2 and own.is_transposed):  # the same variable, whose metadata stays
            setattr(getattr(ours, layer), kind.replace("weight", "kernel"), variables[own.name])
    return ours


def _find_result_dtype(entry: Recognized) -> Any:
    """Return the dtype of their result where it is not that of x."""
    x = _draw(entry)
    y = nnx.eval_shape(lambda module, x: module(x), entry.module, x)
    return None if y.dtype == x.dtype else y.dtype


def _draw(entry: Recognized) -> Any:
    x = entry.match.layout.draw(4, entry.block.spec.channels, 4)
    x = np.moveaxis(x, -1, 1) if entry.block.data_format == "channels_first" else x
    return jnp.asarray(x, next(iter(entry.block.parameters.values())).dtype)


def _limit(want: Any, modules: list[nnx.Module]) -> float:
    """Return the largest difference by rounding, in the dtypes in which their modules compute."""
    dtypes = [getattr(part, "dtype", None) for module in modules for part in list_parts(module).values()]
    computed = [jnp.zeros((), dtype) for dtype in dtypes if dtype is not None]
    return max(limit_of(want), limit_of(computed))


def _compare_block(entry: Recognized, ours: SqueezeExcitation) -> str | None:
    """Return how our answer differs from theirs for the block's own parameters."""
    x, twin = _draw(entry), nnx.clone(entry.module)
    twin.eval()
    want, got = twin(x), ours(x)
    difference = compare(want, got)
    if difference <= _limit(want, [entry.module]):
        return None
    return f"with its own parameters, its answer and ours are {difference:.1e} of the largest apart"


def _put(step: Step, module: Any) -> None:
    if step.theirs.place is not None:
        set_attribute(step.theirs.place, module)


def _put_all(
    model: nnx.Module, steps: list[Step], left: dict[str, str], inputs: Any, want: Any
) -> tuple[Any, float | None]:
    """Put our blocks in place; take those out again that change the model's answers."""

    def compare_all(chosen: list[Step]) -> tuple[Any, float | None, str]:
        for step in chosen:
            _put(step, step.ours)
        result = next((step.ours for step in chosen if step.theirs.place is None), model)
        if want is None:
            return result, None, ""
        try:
            difference = compare(want, _call_model(result, inputs))
        except Exception as error:  # whatever a model raises that uses more of a block than its call
            return result, None, f"with ours in its place, the model raises {type(error).__name__}: {error}"
        limit = _limit(want, [step.theirs.module for step in chosen])
        too_far = f"with ours in its place, the model's answers are {difference:.1e} of the largest apart"
        return result, difference, "" if difference <= limit else too_far

    result, difference, fault = compare_all(steps)
    if not fault:
        return result, difference
    for step in steps:
        _put(step, step.theirs.module)
    kept: list[Step] = []
    for step in list(steps):
        _, _, fault = compare_all([*kept, step])
        if fault:
            _put(step, step.theirs.module)
            left[step.theirs.block.path] = fault
            steps.remove(step)
        else:
            kept.append(step)
    result, difference, _ = compare_all(kept)
    return result, difference


def _call_before(model: Any, inputs: Any) -> Any:
    """Return the model's answers; None if it was not called."""
    if inputs is None:
        return None
    try:
        return _call_model(model, inputs)
    except Exception as error:
        raise InputError(f"the model raises {type(error).__name__} on the inputs: {error}") from error


def _call_model(model: Any, inputs: Any) -> Any:
    """Call a copy of the model in evaluation mode, so that no statistic and no mode of the model changes."""
    twin = nnx.clone(model)
    twin.eval()
    return call_module(twin, inputs)


def call_module(module: Any, inputs: Any) -> Any:
    """Call a module with an array, a tuple of arguments or a dict of keywords."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


def _return_parameters(theirs: Recognized, parameters: Mapping[str, np.ndarray]) -> None:
    variables = list_variables(theirs.module)
    for name, own in theirs.match.reading.tensors.items():
        variable = variables[own.name]
        write_value(variable, to_native(parameters[name], own.is_transposed, read_value(variable)))


def _write_notes(steps: list[Step], difference: float | None) -> Iterator[str]:
    if not steps:
        return
    blocks = [step.theirs.block for step in steps]
    zeros = [block.path for block in blocks if len(block.names) < len(block.parameters)]
    if zeros:
        yield f"a bias that one projection alone lacked is a new parameter of zeros: {', '.join(zeros)}"
    if difference is None:
        yield "the model was not called; give inputs to compare its answers"
    yield "paths of the state have changed; make the optimizer after the replacement"
