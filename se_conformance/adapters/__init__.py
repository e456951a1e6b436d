"""Blocks of every framework as what ``check`` judges: functions of NumPy arrays and canonical parameters."""

from .base import Adapted as Adapted
from .dispatch import ACCEPTED as ACCEPTED
from .dispatch import adapt as adapt
from .dispatch import adapted as adapted
