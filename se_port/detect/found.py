"""The record of a block that was found."""

from dataclasses import dataclass, replace

import numpy as np

from se_spec import SESpec

from ..lazy_arrays import own_arrays

CHOICES = ("activation", "gate")
"""Fields of a spec that names and shapes may not determine."""


@dataclass(frozen=True)
class Found:
    """An SE block of a file.

    Args:
        spec: widths and biases as the file has them; activation and gate as the layout fixes them or the caller gives
            them, else the defaults of SESpec.
        parameters: the canonical parameters.
        unknown: those of ``activation`` and ``gate`` that the file does not determine.
        layouts: names of the layouts that fit.
        names: the file's name of each canonical parameter.
        changes: descriptions of parameters that were computed, not only moved.

    Example:
        >>> import se_port
        >>> theirs = {"se.fc.0.weight": np.ones((4, 64)), "se.fc.2.weight": np.ones((64, 4))}
        >>> se_port.find_blocks(theirs)["se"].names["expand.weight"]
        'se.fc.2.weight'
    """

    spec: SESpec
    parameters: dict[str, np.ndarray]
    unknown: tuple[str, ...]
    layouts: tuple[str, ...]
    names: dict[str, str]
    changes: tuple[str, ...] = ()


def own_blocks(blocks: dict[str, Found]) -> dict[str, Found]:
    """Copy the parameters of blocks, which are in their file until then; each is removed as it is copied."""
    owned = {}
    for path in list(blocks):
        block = blocks.pop(path)
        owned[path] = replace(block, parameters=own_arrays(block.parameters))
    return owned
