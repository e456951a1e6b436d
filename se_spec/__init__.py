"""The shared facts of se-suite: which block is meant, which parameters it has, what is refused. Standard library only.

>>> from se_spec import SESpec
>>> SESpec(64, reduction=16).hidden
4
"""

from . import inputs as inputs
from . import networks as networks
from . import nonlinearities as nonlinearities
from . import parameters as parameters
from . import widths as widths
from .errors import InputError as InputError
from .errors import LayoutError as LayoutError
from .errors import ParameterError as ParameterError
from .errors import SEError as SEError
from .errors import ShapeError as ShapeError
from .errors import SpecError as SpecError
from .networks import NetworkSpec as NetworkSpec
from .networks import network as network
from .nonlinearities import HardSigmoid as HardSigmoid
from .nonlinearities import LeakyReLU as LeakyReLU
from .presets import PRESETS as PRESETS
from .spec import SESpec as SESpec
from .widths import floor_width as floor_width
from .widths import make_divisible as make_divisible
from .widths import rounded_width as rounded_width
from .widths import truncated_width as truncated_width

__version__ = "0.1.0"
