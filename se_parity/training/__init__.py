"""The same course of training in every framework: the same first parameters, the same batches, the same update.

``torch``, ``keras``, ``nnx`` and ``linen`` each have a ``begin`` that says the same thing, and import their own
framework alone.
"""

from .base import TRAINERS as TRAINERS
from .base import Begun as Begun
from .base import Course as Course
from .base import Parameters as Parameters
from .base import Trained as Trained
from .base import begin as begin
from .base import train as train
