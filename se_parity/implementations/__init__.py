"""Every implementation as one function from arrays to arrays, each in a process that holds its framework alone.

A process of its own lets each have its settings (Keras its backend, JAX float64, one thread), and no framework
affects another.
"""

from .base import IMPLEMENTATIONS as IMPLEMENTATIONS
from .base import Implementation as Implementation
from .base import NetworkBuilder as NetworkBuilder
from .base import Predictor as Predictor
from .base import device as device
from .base import dtype_of as dtype_of
from .worker import SHARED_GPU as SHARED_GPU
from .worker import Logits as Logits
from .worker import Worker as Worker
from .worker import load_module as load_module
