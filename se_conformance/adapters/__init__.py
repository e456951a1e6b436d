"""Blocks of every framework as what ``check`` judges: functions of NumPy arrays and canonical parameters."""

from .base import AdaptedBlock as AdaptedBlock
from .departures import Departure as Departure
from .departures import DepartureError as DepartureError
from .dispatch import ACCEPTED as ACCEPTED
from .dispatch import adapt as adapt
from .dispatch import resolve_callables as resolve_callables
