"""The oracle: NumPy alone, float64 inside, written to be read.

>>> import numpy as np, se_numpy
>>> from se_spec import SESpec
>>> spec = SESpec(8, hidden=2)
>>> x = np.ones((1, 3, 5, 8), np.float32)
>>> se_numpy.squeeze_excitation(x, spec, se_numpy.initialize(spec, seed=0), data_format="channels_last").dtype
dtype('float64')
"""

import importlib
from typing import TYPE_CHECKING, Any

from .block import excitation as excitation
from .block import squeeze_excitation as squeeze_excitation
from .error_bounds import error_bound as error_bound
from .error_bounds import excitation_error_bound as excitation_error_bound
from .error_bounds import vjp_error_bound as vjp_error_bound
from .gradients import vjp as vjp
from .parameters import initialize as initialize

if TYPE_CHECKING:
    from . import networks as networks
    from .networks import senet as senet

__all__ = [
    "error_bound",
    "excitation",
    "excitation_error_bound",
    "initialize",
    "networks",
    "senet",
    "squeeze_excitation",
    "vjp",
    "vjp_error_bound",
]


def __getattr__(name: str) -> Any:
    """``networks`` and ``senet``, imported when first used: a block waits for no network."""
    if name not in ("networks", "senet"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    networks = importlib.import_module(".networks", __name__)
    return networks if name == "networks" else networks.senet
