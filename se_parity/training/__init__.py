"""The same training in every framework: the same initial parameters, the same batches, the same update.

``torch``, ``keras``, ``nnx`` and ``linen`` each define ``start``, and import their own framework alone.
"""

from .base import TRAINERS as TRAINERS
from .base import Parameters as Parameters
from .base import SGDConfig as SGDConfig
from .base import TrainingResult as TrainingResult
from .base import TrainingSession as TrainingSession
from .base import start as start
from .base import train as train
