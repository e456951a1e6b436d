"""The catalogue: every known mistake by its name, and equivalent changes that are no mistakes."""

import copyreg
from collections.abc import Callable

from .activations import ACTIVATIONS
from .calls import CALLS
from .factors import FACTORS
from .fault import Fault
from .gates import GATES
from .gradients import GRADIENTS
from .norms import NORMS
from .precision import PRECISION
from .scales import SCALES
from .squeezes import SQUEEZES
from .weights import WEIGHTS

CATALOGUE = {
    fault.name: fault
    for fault in (*CALLS, *SCALES, *GATES, *ACTIVATIONS, *SQUEEZES, *WEIGHTS, *NORMS, *FACTORS, *PRECISION, *GRADIENTS)
}
"""Maps names to faults; likelier faults come first."""

EQUIVALENT = {
    "hidden units permuted in both weights": "the sum over hidden units has no order",
    "1x1 convolutions instead of dense layers": "the same map (E-1)",
    "mean as a sum of x / n": "differs by rounding alone",
    "sigmoid as (1 + tanh(v / 2)) / 2": "differs by rounding alone",
    "gradient at a kink": "any subgradient is right (V-3)",
    "gradient of tied maxima to the first": "any share is right (V-4)",
}
"""Maps changes that the judge must not report to the reason."""


def find_fault(name: str) -> Fault:
    """Return the fault of a name."""
    return CATALOGUE[name]


def _reduce_fault(fault: Fault) -> tuple[Callable[[str], Fault], tuple[str]]:
    return find_fault, (fault.name,)


copyreg.pickle(Fault, _reduce_fault)  # by name: the changes are functions that cannot be pickled
