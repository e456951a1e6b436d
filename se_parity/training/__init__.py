"""The same training in every framework: the same first parameters, the same batches, the same update.

``torch``, ``keras``, ``nnx`` and ``linen`` each have a ``start`` that says the same thing, and import their own
framework alone.
"""

from .base import TRAINERS as TRAINERS
from .base import Parameters as Parameters
from .base import SGDConfig as SGDConfig
from .base import TrainingResult as TrainingResult
from .base import TrainingSession as TrainingSession
from .base import start as start
from .base import train as train
