"""Squeeze-and-Excitation as Flax NNX modules, channels last: the block, and networks that have it."""

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
