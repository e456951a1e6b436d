"""The catalogue of known mistakes, as data and code."""

from .block import Block as Block
from .catalogue import CATALOGUE as CATALOGUE
from .catalogue import EQUIVALENT as EQUIVALENT
from .fault import Fault as Fault
from .fault import inject as inject
