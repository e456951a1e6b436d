"""Canonical parameters: their names, order and shapes, in the paper's orientation (SPEC K-1 to K-4).

Every implementation sets and returns parameters as a plain ``dict[str, numpy.ndarray]``: W1 is ``reduce.weight`` (R, C)
and W2 is ``expand.weight`` (C, R), with a row for each output unit.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from .errors import ParameterError
from .formats import FORMATS
from .texts import quote

FLOATS = tuple(reversed(FORMATS))
"""The storage types that every implementation knows; bfloat16 in NumPy is ``ml_dtypes.bfloat16``."""


class HasParameters(Protocol):
    """A spec that has parameters: ``SESpec`` and ``NetworkSpec``."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return canonical names and shapes, in order."""


def shapes(spec: HasParameters) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a block's or a network's parameters, in order (K-1).

    A network's names are paths (``se_spec.networks.layers``): convolutions have ``weight`` (O, I / groups, kh, kw),
    batch norms ``scale``, ``offset``, ``mean``, ``variance``, dense layers ``weight`` (O, I); both ``bias`` if any.

    >>> from se_spec import SESpec, network
    >>> shapes(SESpec(64, bias=True))
    {'reduce.weight': (4, 64), 'reduce.bias': (4,), 'expand.weight': (64, 4), 'expand.bias': (64,)}
    >>> list(shapes(network("se_resnet50")).items())[-3:]
    [('stage4.block2.se.expand.bias', (2048,)), ('classifier.weight', (1000, 2048)), ('classifier.bias', (1000,))]
    """
    return spec.parameter_shapes()


def check(
    parameters: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], packages: tuple[str, ...] = ("numpy",)
) -> None:
    """Check that every name is known, none is missing, every shape is right and every array has floats (K-2).

    Args:
        parameters: name -> array with ``shape`` and ``dtype``.
        expected: name -> shape, as from ``shapes``.
        packages: those whose arrays are accepted; the first one is named in the error.

    Raises:
        ParameterError: names all that is missing, left over or misshapen at once.
    """
    kind = "NumPy" if packages[0] == "numpy" else packages[0]
    if not isinstance(parameters, Mapping):
        raise ParameterError(f"parameters must be a dict of name -> {kind} array, got {type(parameters).__name__}")
    faults = [f"missing {name} {shape}" for name, shape in expected.items() if name not in parameters]
    for name, array in parameters.items():
        if name not in expected:
            faults.append(f"left over {quote(name)}")
        elif type(array).__module__.partition(".")[0] not in packages or not hasattr(array, "shape"):
            faults.append(f"{name} must be a {kind} array, got {type(array).__module__}.{type(array).__name__}")
        elif tuple(array.shape) != expected[name]:
            faults.append(f"{name} has shape {tuple(array.shape)}, expected {expected[name]}")
        elif str(array.dtype).rpartition(".")[2] not in FLOATS:
            faults.append(f"{name} has dtype {array.dtype}, expected one of {', '.join(FLOATS)}")
    if faults:
        raise ParameterError("parameters do not fit: " + "; ".join(faults))
