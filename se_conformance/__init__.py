"""The judge: checks whether a Squeeze-and-Excitation block is right and, if it is not, names the mistake.

>>> import se_conformance, se_numpy
>>> from se_spec import SESpec
>>> spec = SESpec(8, hidden=2)
>>> def block(x, parameters):  # your block: NumPy in, NumPy out
...     return se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last").astype(x.dtype)
>>> se_conformance.check(block, spec).passed
True

Importing this package loads the standard library alone; each name loads its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adapters import adapt as adapt
    from .cases import Case as Case
    from .cases import Inputs as Inputs
    from .cases import covering_array as covering_array
    from .comparison import Comparison as Comparison
    from .comparison import Precision as Precision
    from .comparison import Reference as Reference
    from .comparison import Result as Result
    from .comparison import compare as compare
    from .comparison import difference as difference
    from .comparison import reference as reference
    from .judge import check as check
    from .trial_inputs import trial as trial
    from .trial_inputs import trials as trials
    from .verdict import Verdict as Verdict

_MODULES = {
    "adapters": ("adapt",),
    "cases": ("Case", "Inputs", "covering_array"),
    "comparison": ("Comparison", "Precision", "Reference", "Result", "compare", "difference", "reference"),
    "judge": ("check",),
    "trial_inputs": ("trial", "trials"),
    "verdict": ("Verdict",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
