"""The record of a block that was found."""

from dataclasses import dataclass

import numpy as np

from se_spec import SESpec

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
