"""SE blocks of a live model, found by what its modules compute and not by their names."""

import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from se_spec import InputError, SESpec, live
from se_spec.live import LiveBlock, Reading

from .block import SqueezeExcitation
from .examination import Recognized, examine_module, to_arrays
from .layout import Layout


def find_blocks(model: nn.Module) -> dict[str, LiveBlock]:
    """Find every SE block of a live model, by what its modules compute.

    Args:
        model: any module, on any device, in any dtype and mode; it is not changed, and none of its hooks is called.

    Returns:
        Each block by its path; a module that is used at two places has two paths.

    Raises:
        InputError: a parameter has no shape yet.

    >>> layers = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid()]
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), SqueezeExcitation(8, hidden=2), nn.Sequential(*layers))
    >>> for block in find_blocks(model).values():
    ...     print(block)
    1: se_torch.block.SqueezeExcitation, SESpec(8, hidden=2)
    2: torch.nn.modules.container.Sequential, SESpec(8, hidden=2, bias=True), its gate alone
    """
    return {path: found.block for path, found in examine_model(model)[0].items()}


def from_module(module: nn.Module) -> tuple[SESpec, dict[str, np.ndarray]]:
    """Read the spec and the canonical parameters of one block of any library.

    Args:
        module: the block.

    Returns:
        The spec that it computes, and its parameters in their dtype.

    Raises:
        SpecError: the module computes no SE block; the message has the reason.
        InputError: a parameter has no shape yet.

    >>> import torch
    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
    ...     def forward(self, x):
    ...         return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))[..., None, None]
    >>> spec, parameters = from_module(Block())
    >>> spec, list(parameters)
    (SESpec(8, hidden=2), ['reduce.weight', 'expand.weight'])
    """
    inside, left = examine_model(module)
    found = examine_module(module, is_named=True)
    if isinstance(found, Recognized):
        return found.block.spec, found.block.parameters
    if len(inside) == 1:
        [recognized] = inside.values()
        return recognized.block.spec, recognized.block.parameters
    raise live.no_block_error(module, inside, left, found or "")


def examine_model(model: nn.Module) -> tuple[dict[str, Recognized], dict[str, str]]:
    """Examine every module of a model.

    Returns:
        The blocks by path; the reason, by path, for each module that resembles a block and is none.

    Raises:
        InputError: a parameter has no shape yet.
    """
    lazy = [name for name, value in model.named_parameters() if nn.parameter.is_lazy(value)]
    if lazy:
        raise InputError(f"{lazy[0]} has no shape yet, as {len(lazy)} parameters of the model; call the model once")
    examination = _Examination()
    with torch.random.fork_rng([]), warnings.catch_warnings():  # dropout draws from the global generator
        warnings.simplefilter("ignore")  # of code that is only tried
        examination.visit(model, "")
    return examination.found, examination.left


class _Examination:
    """Walks through a model from the inside: the innermost whole block counts, and a gate alone if no block has it."""

    def __init__(self) -> None:
        self.found: dict[str, Recognized] = {}
        self.left: dict[str, str] = {}
        self._results: dict[int, Recognized | str | None] = {}
        self._hint: SESpec | None = None

    def visit(self, module: nn.Module, path: str) -> tuple[bool, bool]:
        """Return whether a whole block is inside, and whether anything is."""
        if isinstance(module, SqueezeExcitation):
            self.found[path] = _recognize_own(module, path)
            return True, True
        children = [(name, child) for name, child in module._modules.items() if child is not None]  # with its aliases
        inside = [self.visit(child, f"{path}.{name}" if path else name) for name, child in children]
        if any(has_block for has_block, _ in inside):
            return True, True
        return self._judge(module, path, any(has_any for _, has_any in inside))

    def _judge(self, module: nn.Module, path: str, has_inside: bool) -> tuple[bool, bool]:
        if id(module) not in self._results:
            self._results[id(module)] = examine_module(module, self._hint)
        result = self._results[id(module)]
        if isinstance(result, Recognized) and (result.block.result == "map" or not has_inside):
            self.found, self.left = (live.drop_inside(path, entries) for entries in (self.found, self.left))
            self._hint = result.block.spec
            self.found[path] = replace(result, block=replace(result.block, path=path))
            return result.block.result == "map", True
        if isinstance(result, str) and not has_inside:
            self.left[path] = result
            return False, True
        return False, has_inside


def _recognize_own(block: SqueezeExcitation, path: str) -> Recognized:
    held = dict(block.named_parameters())
    tensors = {name: live.Tensor(name) for name in block.spec.parameter_shapes() if name in held}
    reading = Reading(block.spec.channels, block.spec.hidden, block.spec.single_projection, tensors)
    arrays = to_arrays(block, tensors)
    found = LiveBlock(path, live.name_class(block), block.spec, arrays, {name: name for name in tensors})
    return Recognized(found, block, reading, Layout((3, 5)))
