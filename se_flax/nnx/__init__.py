"""Squeeze-and-Excitation as Flax NNX modules, channels last."""

from .block import SqueezeExcitation as SqueezeExcitation
from .parameters import get_parameters as get_parameters
from .parameters import set_parameters as set_parameters
