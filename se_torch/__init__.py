"""Squeeze-and-Excitation for PyTorch, channels first: the block, and networks that have it.

>>> import torch, se_torch as se
>>> block = se.SqueezeExcitation(64, reduction=16)
>>> block(torch.ones(1, 64, 7, 5)).shape, block.excitation(torch.ones(1, 64, 7, 5)).shape
(torch.Size([1, 64, 7, 5]), torch.Size([1, 64]))
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("se_torch needs PyTorch: pip install 'se-suite[torch]'", name=error.name) from error

from .block import SqueezeExcitation as SqueezeExcitation
from .functional import excitation as excitation
from .functional import senet as senet
from .functional import squeeze_excitation as squeeze_excitation
from .networks import SENet as SENet
from .parameters import get_parameters as get_parameters
from .parameters import set_parameters as set_parameters
from .recognition import find_blocks as find_blocks
from .recognition import from_module as from_module
from .recording import gates as gates
from .recording import record as record
from .replacement import replace as replace
from .replacement import restore as restore

__all__ = [
    "SENet",
    "SqueezeExcitation",
    "excitation",
    "find_blocks",
    "from_module",
    "gates",
    "get_parameters",
    "record",
    "replace",
    "restore",
    "senet",
    "set_parameters",
    "squeeze_excitation",
]
