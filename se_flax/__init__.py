"""Squeeze-and-Excitation for Flax, channels last, the block and networks: NNX here, linen as ``se_flax.linen``.

>>> import jax.numpy as jnp, se_flax as se
>>> from flax import nnx
>>> block = se.SqueezeExcitation(64, reduction=16, rngs=nnx.Rngs(0))
>>> block(jnp.ones((1, 7, 5, 64))).shape, block.excitation(jnp.ones((1, 7, 5, 64))).shape
((1, 7, 5, 64), (1, 64))
"""

try:
    import flax as _flax  # noqa: F401
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("se_flax needs JAX and Flax: pip install 'se-suite[flax]'", name=error.name) from error

from . import linen as linen
from . import nnx as nnx
from .nnx import SENet as SENet
from .nnx import SqueezeExcitation as SqueezeExcitation
from .nnx import excitation as excitation
from .nnx import find_blocks as find_blocks
from .nnx import from_module as from_module
from .nnx import gates as gates
from .nnx import get_parameters as get_parameters
from .nnx import record as record
from .nnx import replace as replace
from .nnx import restore as restore
from .nnx import senet as senet
from .nnx import set_parameters as set_parameters
from .nnx import squeeze_excitation as squeeze_excitation

__all__ = [
    "SENet",
    "SqueezeExcitation",
    "excitation",
    "find_blocks",
    "from_module",
    "gates",
    "get_parameters",
    "linen",
    "nnx",
    "record",
    "replace",
    "restore",
    "senet",
    "set_parameters",
    "squeeze_excitation",
]
