"""Activations and gates as values: a name where no number is needed, else a frozen value with numbers (SPEC A-*, G-*).

Systems call five functions "hard sigmoid", and three slopes are a "default" of leaky ReLU. So no framework's default is
used: a hard sigmoid other than slope 1/6 and offset 1/2, and every leaky ReLU, is written with its numbers.
"""

from dataclasses import dataclass
from typing import Any

from .errors import SpecError
from .texts import quote
from .validation import choice, finite_number, refuse

ACTIVATIONS = ("relu", "silu", "hard_swish", "gelu", "gelu_tanh", "relu6", "sigmoid", "tanh", "identity")
GATES = ("sigmoid", "tanh", "relu", "identity", "hard_sigmoid")


@dataclass(frozen=True)
class LeakyReLU:
    """``h if h > 0 else slope * h`` (SPEC A-6).

    Args:
        slope: any finite number. torch's default is 0.01, that of Keras' layer 0.3, that of Keras' operation 0.2.

    Raises:
        SpecError: the slope is not a finite number.

    >>> LeakyReLU(slope=0.01)
    LeakyReLU(slope=0.01)
    """

    slope: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "slope", finite_number("LeakyReLU.slope", self.slope))


@dataclass(frozen=True)
class HardSigmoid:
    """``min(max(slope * v + offset, low), high)`` (SPEC G-5).

    Args:
        slope, offset: finite numbers, as systems have them below.
        low, high: limits of the result, ``low`` below ``high``.

    ========================================  =============  ==============
    system                                    slope, offset  low, high
    ========================================  =============  ==============
    torch, jax, Keras 3, mmcv >= 1.4.4        1/6, 1/2       0, 1
    Keras 2, ONNX default, Paddle MobileNet   0.2, 0.5       0, 1
    Paddle default                            0.1666667, .5  0, 1
    mmcv < 1.4.4                              1/2, 1/2       0, 1
    GhostNet v1                               1, 0           0, 1
    TF-slim MobileNetV3                       .16667, .50001 0, 1.00002
    ========================================  =============  ==============

    Raises:
        SpecError: a number is not finite, or ``low`` is not below ``high``.

    >>> HardSigmoid(slope=0.2, offset=0.5)
    HardSigmoid(slope=0.2, offset=0.5, low=0.0, high=1.0)
    """

    slope: float
    offset: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        for field in ("slope", "offset", "low", "high"):
            object.__setattr__(self, field, finite_number(f"HardSigmoid.{field}", getattr(self, field)))
        if not self.low < self.high:
            refuse("HardSigmoid.low", self.low, f"below high={self.high!r}")


Activation = str | LeakyReLU
Gate = str | HardSigmoid

HARD_SIGMOID = HardSigmoid(slope=1 / 6, offset=1 / 2)
"""The function that the name ``"hard_sigmoid"`` means: torch's, jax' and Keras 3's."""


def hard_sigmoid_numbers(gate: Gate) -> HardSigmoid:
    """Return the numbers of a hard-sigmoid gate, which is given by name or by its numbers."""
    return gate if isinstance(gate, HardSigmoid) else HARD_SIGMOID


def activation(value: Any) -> Activation:
    """Return ``value`` if it is an activation, or raise ``SpecError``."""
    if isinstance(value, LeakyReLU):
        return value
    if value == "leaky_relu":
        refuse("activation", value, "spelled with its slope: LeakyReLU(slope=...)")
    return choice("activation", value, ACTIVATIONS)


def gate(value: Any) -> Gate:
    """Return ``value`` as a gate, or raise ``SpecError``; the numbers of ``"hard_sigmoid"`` become that name (G-5)."""
    if isinstance(value, HardSigmoid):
        return "hard_sigmoid" if value == HARD_SIGMOID else value
    return choice("gate", value, GATES)


def to_data(value: Activation | Gate) -> str | dict[str, Any]:
    """Convert an activation or gate to JSON data: its name, or a dict that holds its numbers.

    >>> to_data("relu"), to_data(LeakyReLU(slope=0.1))
    ('relu', {'name': 'leaky_relu', 'slope': 0.1})
    """
    if isinstance(value, LeakyReLU):
        return {"name": "leaky_relu", **vars(value)}
    if isinstance(value, HardSigmoid):
        return {"name": "hard_sigmoid", **vars(value)}
    return value


def from_data(value: Any) -> Any:
    """Convert the data of ``to_data`` back; a value that is not a dict is returned, and the field checks it."""
    if not isinstance(value, dict):
        return value
    numbers = {key: number for key, number in value.items() if key != "name"}
    kinds = {"leaky_relu": LeakyReLU, "hard_sigmoid": HardSigmoid}
    try:
        return kinds[value["name"]](**numbers)
    except (KeyError, TypeError):
        raise SpecError(
            f"{quote(value)} is not an activation or gate; it must be a name, "
            '{"name": "leaky_relu", "slope": ...} or {"name": "hard_sigmoid", "slope": ..., "offset": ...}'
        ) from None
