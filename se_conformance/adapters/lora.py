"""LoRA of Flax NNX: its matrices are added to the kernels."""

from typing import Any

from flax import nnx

from se_spec import SpecError


def merge_lora(block: Any) -> tuple[Any, list[str]]:
    """Add the products of LoRA's matrices to the kernels of a copy; a block without LoRA is returned as it is.

    Args:
        block: an NNX module.

    Returns:
        The block or the copy, and a sentence for each layer that was merged.

    Raises:
        SpecError: a module of LoRA stands alone, so that there is no kernel.

    Example:
        >>> layer = nnx.Dict(fc=nnx.LoRALinear(3, 2, lora_rank=1, rngs=nnx.Rngs(0)))
        >>> merged, notes = merge_lora(layer)
        >>> type(merged.fc).__name__, len(notes)
        ('Linear', 1)
    """
    if not any(isinstance(module, nnx.LoRA) for _, module in nnx.iter_modules(block)):
        return block, []
    holder = nnx.Dict(block=nnx.clone(block))
    notes = []
    for path, module in list(nnx.iter_modules(holder)):
        name = ".".join(map(str, path[1:])) or "the block"
        if isinstance(module, nnx.LoRALinear):
            _add_product(module, module.lora)
            del module.lora
            module.__class__ = nnx.Linear
        elif isinstance(module, nnx.LoRA) and isinstance(module.base_module, nnx.Linear):
            _add_product(module.base_module, module)
            parent = holder
            for part in path[:-1]:
                parent = parent[part] if isinstance(parent, nnx.List) else getattr(parent, str(part))
            setattr(parent, str(path[-1]), module.base_module)
        else:
            continue
        notes.append(f"{name}: its LoRA matrices are merged; judged with the kernel that it computes")
    if any(isinstance(module, nnx.LoRA) for _, module in nnx.iter_modules(holder.block)):
        raise SpecError("the block has an nnx.LoRA without a Linear as base_module; add its product to a kernel first")
    return holder.block, notes


def _add_product(layer: Any, lora: Any) -> None:
    layer.kernel[...] = layer.kernel[...] + lora.lora_a[...] @ lora.lora_b[...]
