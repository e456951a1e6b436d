"""Squeeze-and-Excitation as Flax linen modules, channels last: the block, and networks that have it."""

from .block import SqueezeExcitation as SqueezeExcitation
from .networks import SENet as SENet
from .parameters import get_parameters as get_parameters
from .parameters import set_parameters as set_parameters
