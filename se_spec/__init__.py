"""The shared facts of se-suite: which block is meant, which parameters it has, what is refused. Standard library only.

>>> from se_spec import SESpec
>>> SESpec(64, reduction=16).hidden
4
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import inputs as inputs
from . import nonlinearities as nonlinearities
from . import parameters as parameters
from . import widths as widths
from .errors import FileFormatError as FileFormatError
from .errors import InputError as InputError
from .errors import LayoutError as LayoutError
from .errors import ParameterError as ParameterError
from .errors import SEError as SEError
from .errors import ShapeError as ShapeError
from .errors import SpecError as SpecError
from .nonlinearities import HardSigmoid as HardSigmoid
from .nonlinearities import LeakyReLU as LeakyReLU
from .presets import PRESETS as PRESETS
from .spec import SESpec as SESpec
from .spec import SpecFields as SpecFields
from .widths import floor_width as floor_width
from .widths import make_divisible as make_divisible
from .widths import rounded_width as rounded_width
from .widths import truncated_width as truncated_width

if TYPE_CHECKING:
    from . import networks as networks
    from .networks import NetworkSpec as NetworkSpec
    from .networks import network as network

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "FileFormatError",
    "HardSigmoid",
    "InputError",
    "LayoutError",
    "LeakyReLU",
    "NetworkSpec",
    "ParameterError",
    "SEError",
    "SESpec",
    "ShapeError",
    "SpecError",
    "SpecFields",
    "__version__",
    "floor_width",
    "inputs",
    "make_divisible",
    "network",
    "networks",
    "nonlinearities",
    "parameters",
    "rounded_width",
    "truncated_width",
    "widths",
]


def __getattr__(name: str) -> Any:
    """``networks``, ``network`` and ``NetworkSpec``, imported when first used: a block waits for no network."""
    if name not in ("networks", "network", "NetworkSpec"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(".networks", __name__)
    return module if name == "networks" else getattr(module, name)
