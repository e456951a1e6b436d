"""Squeeze-and-Excitation for Keras 3, channels last, on any backend: the block, and networks that have it.

>>> import keras, se_keras as se
>>> x = keras.Input((None, None, 64))
>>> model = keras.Model(x, se.squeeze_excitation(x, reduction=16, name="se"))
>>> model.output_shape
(None, None, None, 64)
"""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise ModuleNotFoundError(
            f"Keras needs {error.name}: pip install 'se-suite[keras-tf]', or set KERAS_BACKEND to jax or torch",
            name=error.name,
        ) from error
    raise ModuleNotFoundError("se_keras needs Keras 3: pip install 'se-suite[keras]'", name=error.name) from error

from .block import SqueezeExcitation as SqueezeExcitation
from .functional import excitation as excitation
from .functional import senet as senet
from .functional import squeeze_excitation as squeeze_excitation
from .networks import SENet as SENet
from .parameters import get_parameters as get_parameters
from .parameters import set_parameters as set_parameters
from .recognition import find_blocks as find_blocks
from .recognition import from_module as from_module
from .recording import gates as gates
from .recording import record as record
from .replacement import replace as replace
from .replacement import restore as restore

__all__ = [
    "SENet",
    "SqueezeExcitation",
    "excitation",
    "find_blocks",
    "from_module",
    "gates",
    "get_parameters",
    "record",
    "replace",
    "restore",
    "senet",
    "set_parameters",
    "squeeze_excitation",
]
