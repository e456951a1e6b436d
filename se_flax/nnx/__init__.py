"""Squeeze-and-Excitation as Flax NNX modules, channels last: the block, and networks that have it."""

from .block import SqueezeExcitation as SqueezeExcitation
from .functional import excitation as excitation
from .functional import senet as senet
from .functional import squeeze_excitation as squeeze_excitation
from .networks import SENet as SENet
from .parameters import get_parameters as get_parameters
from .parameters import set_parameters as set_parameters

__all__ = [
    "SENet",
    "SqueezeExcitation",
    "excitation",
    "get_parameters",
    "senet",
    "set_parameters",
    "squeeze_excitation",
]
