"""The record of a block that was found."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from se_spec import SESpec

from ..lazy_arrays import own_arrays

CHOICES = ("activation", "gate")
"""Fields of a spec that names and shapes may not determine."""


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        """Return the spec, and what is not known of it; parameters and names would fill pages.

        >>> import se_port
        >>> theirs = {"se.fc1.weight": np.ones((4, 64, 1, 1)), "se.fc2.weight": np.ones((64, 4, 1, 1))}
        >>> se_port.find_blocks(theirs, "timm.SEModule")
        {'se': Found(SESpec(64, hidden=4), unknown=('activation', 'gate'), layouts=('timm.SEModule',))}
        """
        unknown = f", unknown={self.unknown}" if self.unknown else ""
        return f"Found({self.spec!r}{unknown}, layouts={self.layouts})"

    def to_dict(self) -> dict[str, Any]:
        """Return the block as data for JSON, without its parameters."""
        return {
            "spec": self.spec.to_dict(),
            "unknown": list(self.unknown),
            "layouts": list(self.layouts),
            "names": self.names,
            "changes": list(self.changes),
        }


def own_blocks(blocks: dict[str, Found]) -> dict[str, Found]:
    """Copy the parameters of blocks, which are in their file until then; each is removed as it is copied."""
    owned = {}
    for path in list(blocks):
        block = blocks.pop(path)
        owned[path] = replace(block, parameters=own_arrays(block.parameters))
    return owned
