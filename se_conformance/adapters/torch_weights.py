"""Weights that a torch module computes from others: parametrized, normalized, pruned, LoRA's.

A copy of the block gets plain parameters that hold the weights with which it computes.
"""

from typing import Any

import torch
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm

from se_spec import SpecError

NORMS = {"WeightNorm": remove_weight_norm, "SpectralNorm": remove_spectral_norm}
"""How to remove the older hooks of these names."""


def make_weights_plain(block: torch.nn.Module) -> tuple[torch.nn.Module, list[str]]:
    """Replace computed weights by plain parameters, in place.

    Args:
        block: a copy that may change, in eval mode.

    Returns:
        The block, or what replaces it; a sentence for each weight that was computed.

    Raises:
        SpecError: a weight is of integers, or LoRA's matrices cannot be merged.

    Example:
        >>> layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 1))
        >>> plain, notes = make_weights_plain(layer)
        >>> [name for name, _ in plain.named_parameters()], len(notes)
        (['bias', 'weight'], 1)
    """
    notes: list[str] = []
    holder = torch.nn.ModuleDict({"block": block})
    for path, module in list(holder.named_modules()):
        _refuse_integers(_name(path), module)
        if _is_mergeable(module):
            with torch.no_grad():
                module.merge()
            parent, _, name = path.rpartition(".")
            setattr(holder.get_submodule(parent), name, module.get_base_layer())
            notes.append(_note(_name(path), "its LoRA matrices are merged"))
    for path, module in list(holder.named_modules()):
        if parametrize.is_parametrized(module):
            for name, chain in list(module.parametrizations.items()):
                kinds = ", ".join(type(part).__name__.strip("_") for part in chain)
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                notes.append(_note(_name(f"{path}.{name}"), f"it is parametrized ({kinds})"))
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
                notes.append(_note(_name(f"{path}.{hook._tensor_name}"), "it is pruned"))
            elif type(hook).__name__ in NORMS and hasattr(hook, "name"):
                NORMS[type(hook).__name__](module, hook.name)
                notes.append(_note(_name(f"{path}.{hook.name}"), f"it is parametrized ({type(hook).__name__})"))
    plain = holder["block"]
    left = [name for name, _ in plain.named_parameters() if "lora" in name.lower()]
    if left:
        raise SpecError(
            f"{left[0]!r} is a matrix of LoRA, whose product is added to a weight; merge them (PEFT has "
            "merge_and_unload()), and judge the result"
        )
    return plain, notes


def keep_tensors(block: torch.nn.Module) -> dict[int, Any]:
    """Make the memo with which ``copy.deepcopy`` copies a block that holds computed weights, as pruned ones do."""
    held = (value for module in block.modules() for value in vars(module).values())
    computed = (value for value in held if isinstance(value, torch.Tensor) and not value.is_leaf)
    return {id(value): value.detach().clone() for value in computed}


def _refuse_integers(path: str, module: torch.nn.Module) -> None:
    kind = type(module)
    is_quantized = ".quantized" in kind.__module__
    if is_quantized or any(not value.is_floating_point() for value in module.parameters(recurse=False)):
        raise SpecError(
            f"{path or 'the block'} is a {kind.__module__}.{kind.__qualname__}, which computes with integers; their "
            "rounding is beyond every bound, so judge the block before it is quantized"
        )


def _is_mergeable(module: torch.nn.Module) -> bool:
    """Whether a module wraps a layer and can merge LoRA's matrices into it, as PEFT's can."""
    names = ("lora_A", "lora_B", "merge", "get_base_layer")
    return all(hasattr(module, name) for name in names)


def _name(path: str) -> str:
    return path.removeprefix("block").removeprefix(".")


def _note(name: str, reason: str) -> str:
    return f"{name or 'the block'}: {reason}; judged with the weight that it computes"
