"""The porter: a system's file becomes canonical parameters, and from there a file of any other system.

>>> import numpy as np
>>> import se_port
>>> theirs = {"blocks.0.se.conv_reduce.weight": np.ones((4, 16, 1, 1)), "blocks.0.se.conv_reduce.bias": np.zeros(4),
...           "blocks.0.se.conv_expand.weight": np.ones((16, 4, 1, 1)), "blocks.0.se.conv_expand.bias": np.zeros(16)}
>>> found = se_port.find_blocks(theirs)["blocks.0.se"]
>>> found.spec.channels, found.spec.hidden, found.layouts, found.unknown
(16, 4, ('timm.SqueezeExcite',), ('activation', 'gate'))
"""

from .api import Report as Report
from .api import convert as convert
from .api import find_blocks as find_blocks
from .api import load as load
from .api import save as save
from .detect import Found as Found
from .extraction import CutBlock as CutBlock
from .extraction import cut_block as cut_block
from .inspection import Inspection as Inspection
from .inspection import inspect as inspect
from .patching import replace_block as replace_block
from .verification import Verification as Verification
from .verification import verify as verify

__all__ = [
    "CutBlock",
    "Found",
    "Inspection",
    "Report",
    "Verification",
    "convert",
    "cut_block",
    "find_blocks",
    "inspect",
    "load",
    "replace_block",
    "save",
    "verify",
]
