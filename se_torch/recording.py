"""The gates of every SE block of a model, recorded while it runs."""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from se_spec import InputError
from se_spec.records import Record, name_call, summarize

from .block import SqueezeExcitation
from .fast.loops import widen
from .replacement import call_model
from .tensors import to_array


def gates(model: nn.Module, images: Any) -> dict[str, np.ndarray]:
    """Compute the gates of every block of a model.

    Args:
        model: holds our blocks; ``replace`` puts them in the place of others'.
        images: what the model is called with: a tensor, a tuple of arguments or a dict of keywords.

    Returns:
        The gates (N, C) by the block's path, without the gain, in the order of the calls; float32, or float64 if the
        map is.

    Raises:
        InputError: the model has no block, or called none.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), SqueezeExcitation(8, hidden=2))
    >>> {path: g.shape for path, g in gates(model, torch.ones(4, 3, 5, 5)).items()}
    {'1': (4, 8)}
    """
    return {path: entry.gates for path, entry in record(model, images).items()}


def record(model: nn.Module, images: Any) -> dict[str, Record]:
    """Record what every block of a model does to images, in evaluation mode without gradients.

    Args:
        model: as in ``gates``; hooks are added for the call.
        images: as in ``gates``.

    Returns:
        A record by the block's path: its gates, and how strong its map was at each position before and after.

    Raises:
        InputError: as ``gates``.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), SqueezeExcitation(8, hidden=2))
    >>> record(model, torch.ones(4, 3, 5, 7))["1"].after.shape
    (4, 5, 7)
    """
    root = getattr(model, "_orig_mod", model)  # a compiled model calls no hooks that are added later
    blocks = {path: part for path, part in root.named_modules() if isinstance(part, SqueezeExcitation)}
    if not blocks:
        raise InputError(
            f"{type(model).__name__} has no SqueezeExcitation; replace(model) puts it in the place of others"
        )
    records: dict[str, Record] = {}
    handles = [
        part.register_forward_pre_hook(partial(_record_call, records, path), with_kwargs=True)
        for path, part in blocks.items()
    ]
    try:
        call_model(root, images)
    finally:
        for handle in handles:
            handle.remove()
    if not records:
        raise InputError(f"the model called none of its blocks: {', '.join(blocks)}")
    return records


def _record_call(
    records: dict[str, Record], path: str, block: SqueezeExcitation, arguments: tuple[Tensor, ...], options: Any
) -> None:
    x = arguments[0] if arguments else options["x"]
    x = x.movedim(-1, 1) if getattr(block, "data_format", "channels_first") == "channels_last" else x
    g = block.excitation(x)
    s = block.spec.gain * g + float(block.spec.residual)
    values = to_array(widen(x.movedim(1, -1))), to_array(g), to_array(s)
    records[name_call(path, records)] = summarize(*values)
