"""Our block in place of every SE block of a live model, and the way back."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from se_spec import InputError
from se_spec.live import Replacement

from .block import SqueezeExcitation
from .examination import Recognized
from .obstacles import HOOKS, copy_with
from .parameters import collect_targets
from .recognition import examine_model
from .verification import make_ours

WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel")
"""Wrappers that hold the parameters of the modules inside."""
IMAGE_SIZES = (64, 224, 256)
"""Pixels of the images on which a model is compared, if the caller gives none."""


class Step(NamedTuple):
    """A block that was replaced: theirs, ours, the modules that hold it, and the name that each has for it."""

    theirs: Recognized
    ours: SqueezeExcitation
    places: list[tuple[nn.Module, str]]


class Before(NamedTuple):
    """The model before, and what was done to it."""

    model: nn.Module
    steps: list[Step]


def replace(model: nn.Module, inputs: Any = None) -> Replacement:
    """Put our block in place of every SE block of a live model, in place.

    Args:
        model: any module, compiled or not, on any device, in any dtype and mode.
        inputs: what the model is called with, to compare its answers before and after: a tensor, a tuple of arguments
            or a dict of keywords. None draws two images, if the first layer is a convolution.

    Returns:
        The model, the blocks that were replaced, and the modules that resemble one and were left, with the reason;
        ``print`` shows it as text. The model is the same object, unless it is a block itself.

    Raises:
        InputError: the model is wrapped by a class that holds its parameters, such as ``DistributedDataParallel``; a
            parameter has no shape yet; or the model fails on ``inputs``.

    >>> layers = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Hardsigmoid()]
    >>> class Net(nn.Sequential):
    ...     def forward(self, x):
    ...         x = self[0](x)
    ...         return x * self[1](x)
    >>> model = Net(nn.Conv2d(3, 8, 3), nn.Sequential(*layers))
    >>> before = model.state_dict().keys()
    >>> replacement = replace(model)
    >>> print(replacement.blocks["1"])
    1: torch.nn.modules.container.Sequential, SESpec(8, hidden=2, bias=True, gate='hard_sigmoid'), its gate alone
    >>> restore(replacement).state_dict().keys() == before
    True
    """
    _refuse_wrappers(model)
    root = getattr(model, "_orig_mod", model)
    found, left = examine_model(root)
    foreign = {path: entry for path, entry in found.items() if not isinstance(entry.module, SqueezeExcitation)}
    arguments, want = _call_before(root, inputs)
    plans = _plan(root, foreign, left)
    steps = _make_steps(root, plans, left)
    result, difference = _put_all(root, steps, left, arguments, want)
    blocks = {path: entry.block for path, entry in foreign.items() if path not in left}
    notes = tuple(_write_notes(steps, difference, root is not model))
    return Replacement(result if root is model else model, blocks, left, difference, notes, before=Before(root, steps))


def restore(replacement: Replacement) -> nn.Module:
    """Put the modules that ``replace`` took out back, with the parameters that our blocks now have.

    Args:
        replacement: the result of ``replace``.

    Returns:
        The model; its ``state_dict`` has its names again, and without training in between its bits.

    Raises:
        ParameterError: a parameter of our block is computed, or its layer was replaced; nothing is then put back.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1))
    >>> restore(replace(model)) is model
    True
    """
    steps: list[Step] = replacement.before.steps
    held = [(step, collect_targets(step.ours)) for step in steps]
    with torch.no_grad():
        for step, values in held:
            _return_parameters(step, values)
            step.theirs.module.train(step.ours.training)
    for step in steps:
        _put(step.places, step.theirs.module)
    model = replacement.before.model
    return replacement.model if hasattr(replacement.model, "_orig_mod") else model


def _refuse_wrappers(model: nn.Module) -> None:
    for part in model.modules():
        if type(part).__name__ in WRAPPERS:
            raise InputError(
                f"the model is wrapped by {type(part).__name__}, which holds its parameters; "
                "replace inside the model first, and wrap it then"
            )


def _plan(root: nn.Module, found: Mapping[str, Recognized], left: dict[str, str]) -> dict[str, Recognized]:
    """Keep the blocks that can be replaced as they are held and used; name the others."""
    prefixes = tuple(f"{path}." for path in found if path) if "" not in found else ("",)
    places = _list_places(root)
    uses: dict[int, list[str]] = {}
    for name, value in root.named_parameters(remove_duplicate=False):
        uses.setdefault(id(value), []).append(name)
    plans = {}
    for path, entry in found.items():
        holders = [type(parent).__name__ for parent, _ in places.get(id(entry.module), [])]
        copied = [value for value, is_copied in _list_own(entry).values() if is_copied]
        outside = [name for value in copied for name in uses[id(value)] if not name.startswith(prefixes)]
        if "OptimizedModule" in holders:
            left[path] = "it is compiled by itself; replace before torch.compile"
        elif alias := _find_alias(root, entry.module):
            left[path] = f"{alias} refers to it too, where no module is registered"
        elif outside:
            left[path] = f"its weight is also {', '.join(outside)}, outside of a block"
        elif any(value._backward_hooks or getattr(value, "_post_accumulate_grad_hooks", None) for value in copied):
            left[path] = "a parameter of it has hooks, which a new parameter would not have"
        else:
            plans[path] = entry
    return plans


def _list_places(root: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """List, for each module, the modules that hold it and the names that they have for it."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in root.modules():
        for name, child in parent._modules.items():
            places.setdefault(id(child), []).append((parent, name))
    return places


def _find_alias(root: nn.Module, module: nn.Module) -> str:
    """Return the attribute that holds the module without registering it; empty if there is none."""
    for path, part in root.named_modules():
        for name, value in vars(part).items():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            if name != "_modules" and part is not module and any(entry is module for entry in held):
                return f"{path}.{name}" if path else name
    return ""


def _list_own(entry: Recognized) -> dict[str, tuple[nn.Parameter, bool]]:
    """List, by canonical name, a block's parameters, and whether ours is a copy since its shape is another."""
    own = {name: entry.module.get_parameter(tensor.name) for name, tensor in entry.reading.tensors.items()}
    is_turned = {name: tensor.is_transposed for name, tensor in entry.reading.tensors.items()}
    return {name: (value, value.ndim > 2 or is_turned[name]) for name, value in own.items()}


def _make_steps(root: nn.Module, plans: Mapping[str, Recognized], left: dict[str, str]) -> list[Step]:
    """Make our blocks, one for each module; the same new parameter for a parameter that several share."""
    places, steps = _list_places(root), dict[int, Step | str]()
    copies: dict[tuple[int, bool], nn.Parameter] = {}
    for path, entry in plans.items():
        key = id(entry.module)
        if key not in steps:
            ours = _make_block(entry, copies)
            reason = _compare_block(entry, ours)
            _share_hooks(entry.module, ours)
            steps[key] = reason or Step(entry, ours, places.get(key, []))
        step = steps[key]
        if isinstance(step, str):
            left[path] = step
    return [step for step in steps.values() if isinstance(step, Step)]


def _make_block(entry: Recognized, copies: dict[tuple[int, bool], nn.Parameter]) -> SqueezeExcitation:
    spec, block = entry.block.spec, entry.block
    own = _list_own(entry)
    first = next(value for value, _ in own.values())
    tensors: dict[str, nn.Parameter] = {}
    for name, shape in spec.parameter_shapes().items():
        if name not in own:  # one projection alone has a bias
            zeros = torch.zeros(shape, dtype=first.dtype, device=first.device)
            tensors[name] = nn.Parameter(zeros, requires_grad=False)
            continue
        value, is_copied = own[name]
        if is_copied:
            is_transposed = entry.reading.tensors[name].is_transposed
            value = copies.setdefault((id(value), is_transposed), _copy_parameter(value, is_transposed))
        tensors[name] = value
    return make_ours(spec, tensors, block.result, block.data_format).train(entry.module.training)


def _copy_parameter(value: nn.Parameter, is_transposed: bool) -> nn.Parameter:
    copied = nn.Parameter(_to_ours(value.detach(), is_transposed).clone(), value.requires_grad)
    if value.grad is not None:
        copied.grad = _to_ours(value.grad, is_transposed).clone()
    vars(copied).update(vars(value))  # marks such as those for weight decay
    return copied


def _to_ours(value: Tensor, is_transposed: bool) -> Tensor:
    value = value.flatten(1) if value.ndim > 1 else value
    return (value.T if is_transposed else value).contiguous()


def _to_theirs(value: Tensor, is_transposed: bool, shape: torch.Size) -> Tensor:
    return (value.T if is_transposed else value).reshape(shape)


def _share_hooks(theirs: nn.Module, ours: nn.Module) -> None:
    """Give our module the dictionaries of hooks themselves, so that a handle still removes its hook."""
    for name in (*HOOKS, "_is_full_backward_hook"):
        if name in vars(theirs):
            object.__setattr__(ours, name, vars(theirs)[name])


def _compare_block(entry: Recognized, ours: SqueezeExcitation) -> str | None:
    """Return how our answer differs from theirs for the block's own parameters."""
    values = dict(entry.module.named_parameters())
    first = next(iter(values.values()))
    if first.is_meta:
        return None
    x = entry.layout.draw(4, entry.block.spec.channels, 4, torch.float64).to(first.device, first.dtype)
    with torch.no_grad():
        want = entry.layout.call(
            copy_with(entry.module, {name: value.detach() for name, value in values.items()}), x.clone()
        )
        got = entry.layout.call(ours, x)
    difference = _compare([want], [got])
    if difference <= _limit(want.dtype):
        return None
    return f"with its own parameters, its answer and ours are {difference:.1e} of the largest apart"


def _put(places: list[tuple[nn.Module, str]], module: nn.Module) -> None:
    for parent, name in places:
        parent._modules[name] = module


def _put_all(
    root: nn.Module, steps: list[Step], left: dict[str, str], arguments: Any, want: list[Tensor] | None
) -> tuple[nn.Module, float | None]:
    """Put our blocks in place; take those out again that change the model's answers."""

    def compare(chosen: list[Step]) -> tuple[nn.Module, float | None, str]:
        for step in chosen:
            _put(step.places, step.ours)
        result = next((step.ours for step in chosen if step.theirs.module is root), root)
        if want is None:
            return result, None, ""
        try:
            difference = _compare(want, call_model(result, arguments))
        except Exception as error:  # whatever a model raises that uses more of a block than its call
            return result, None, f"with ours in its place, the model raises {type(error).__name__}: {error}"
        limit = max(map(_limit, {value.dtype for value in want}), default=0.0)
        too_far = f"with ours in its place, the model's answers are {difference:.1e} of the largest apart"
        return result, difference, "" if difference <= limit else too_far

    result, difference, fault = compare(steps)
    if not fault:
        return result, difference
    for step in steps:
        _put(step.places, step.theirs.module)
    kept: list[Step] = []
    for step in list(steps):
        _, _, fault = compare([*kept, step])
        if fault:
            _put(step.places, step.theirs.module)
            left[step.theirs.block.path] = fault
            steps.remove(step)
        else:
            kept.append(step)
    result, difference, _ = compare(kept)
    return result, difference


def _call_before(root: nn.Module, inputs: Any) -> tuple[Any, list[Tensor] | None]:
    """Return the arguments, and the model's answers; None if the model was not called."""
    if inputs is not None:
        try:
            return inputs, call_model(root, inputs)
        except Exception as error:
            raise InputError(f"the model raises {type(error).__name__} on the inputs: {error}") from error
    for images in _draw_images(root):
        try:
            return images, call_model(root, images)
        except Exception:  # an image of a size for which the model was not made
            continue
    return None, None


def _draw_images(root: nn.Module) -> Iterator[Tensor]:
    """Draw images for a model whose first layer is a convolution."""
    first = next((part for part in root.modules() if part._parameters.get("weight") is not None), None)
    if not isinstance(first, nn.modules.conv._ConvNd) or first.weight.is_meta:
        return
    generator = torch.Generator().manual_seed(0)
    for size in IMAGE_SIZES:
        images = torch.randn(2, first.in_channels, *(size for _ in first.kernel_size), generator=generator)
        yield images.to(first.weight.device, first.weight.dtype)


def call_model(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Call the model in evaluation mode without gradients; its modes, buffers and the random numbers stay."""
    modes = {part: part.training for part in model.modules()}
    buffers = [(value, value.clone()) for value in model.buffers()]
    with suppress(NotImplementedError):  # an exported program has one mode
        model.eval()
    try:
        with torch.no_grad(), _keep_random_numbers(model):
            if isinstance(inputs, Mapping):
                result = model(**inputs)
            else:
                result = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    finally:
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for value, before in buffers:
                value.copy_(before)  # such as a counter of calls
    return [value.clone() for value in _pytree.tree_leaves(result) if isinstance(value, Tensor)]


def _keep_random_numbers(model: nn.Module) -> AbstractContextManager[None]:
    devices = {value.device.index or 0 for value in model.parameters() if value.is_cuda}
    return torch.random.fork_rng(sorted(devices))


def _compare(want: list[Tensor], got: list[Tensor]) -> float:
    """Return the largest difference as a share of the largest value."""
    worst = 0.0
    for a, b in zip(want, got, strict=True):
        if a.numel() and a.is_floating_point():
            a, b = a.double(), b.double()
            off = (torch.nan_to_num(a) - torch.nan_to_num(b)).abs().max().item()
            is_same = torch.equal(a.isnan(), b.isnan())
            worst = max(worst, off / (torch.nan_to_num(a).abs().max().item() or 1.0) if is_same else float("inf"))
    return worst


def _limit(dtype: torch.dtype) -> float:
    """Return the largest difference by rounding: half of the dtype's digits, since many layers follow a block."""
    return float(torch.finfo(dtype).eps ** 0.5) if dtype.is_floating_point else 0.0


def _return_parameters(step: Step, values: Mapping[str, Tensor]) -> None:
    theirs = step.theirs
    for name, tensor in theirs.reading.tensors.items():
        value, target = values[name], theirs.module.get_parameter(tensor.name)
        if value is target:
            continue
        if (target.device, target.dtype) != (value.device, value.dtype):
            theirs.module.to(value.device, value.dtype)
        target = theirs.module.get_parameter(tensor.name)
        target.copy_(_to_theirs(value, tensor.is_transposed, target.shape))
        grad = value.grad
        target.grad = None if grad is None else _to_theirs(grad, tensor.is_transposed, target.shape).clone()
        target.requires_grad_(value.requires_grad)


def _write_notes(steps: list[Step], difference: float | None, is_compiled: bool) -> Iterator[str]:
    if not steps:
        return
    copied = [own for step in steps for own in _list_own(step.theirs).values() if own[1]]
    if any(value.requires_grad for value, _ in copied):
        yield "weights of convolutions are new parameters; make the optimizer after the replacement"
    zeros = [
        step.theirs.block.path for step in steps if len(step.theirs.block.names) < len(step.theirs.block.parameters)
    ]
    if zeros:
        yield f"a bias that one projection alone lacked is zeros that are not trained: {', '.join(zeros)}"
    if difference is None:
        yield "the model was not called; give inputs to compare its answers"
    if is_compiled:
        yield "compiled code is compiled anew at the next call"
    yield "a state_dict from before fits after restore(replacement), not now"
