"""Cases that reveal mistakes, implementations as NumPy functions, and how far apart two answers may be.

Importing this imports no framework; ``se_conformance.targets`` loads each on demand, in a process of its own.
"""

from .cases import Case as Case
from .cases import Inputs as Inputs
from .cases import covering_array as covering_array
from .compare import Comparison as Comparison
from .compare import Result as Result
from .compare import compare as compare
from .compare import reference as reference
