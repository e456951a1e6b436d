"""The parts that networks of all families share: frozen values, checked when they are made.

A part states what its source states and nothing that follows from it; ``graph.py`` and ``families/`` derive the layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from .. import nonlinearities, validation
from ..errors import SpecError
from ..spec import SESpec
from ..texts import quote

OPERATIONS = ("max", "avg")


@dataclass(frozen=True)
class ConvStep:
    """A square convolution, followed by batch norm and ReLU.

    Args:
        channels: channels of its result, at least 1.
        kernel: kernel on both axes, in positions.
        stride: stride on both axes, in positions.

    Raises:
        SpecError: a field is not an integer of at least 1.

    >>> ConvStep(64, 7, 2)
    ConvStep(channels=64, kernel=7, stride=2)
    """

    channels: int
    kernel: int
    stride: int = 1

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride"):
            set_field(self, name, validation.positive_integer(name, getattr(self, name)))


@dataclass(frozen=True)
class PoolStep:
    """A square pooling window; the network's ``pool_padding`` states how it is padded.

    Args:
        pool: ``"max"`` or ``"avg"``.
        kernel: window on both axes, in positions.
        stride: stride on both axes; with stride 1 the map keeps its size.

    Raises:
        SpecError: a field is not allowed.

    >>> PoolStep("avg")
    PoolStep(pool='avg', kernel=3, stride=2)
    """

    pool: str = "max"
    kernel: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        validation.choice("pool", self.pool, OPERATIONS)
        for name in ("kernel", "stride"):
            set_field(self, name, validation.positive_integer(name, getattr(self, name)))


Step = ConvStep | PoolStep


@dataclass(frozen=True)
class Stem:
    """The layers before the body.

    Args:
        steps: convolutions and poolings, in order.
        norm: whether batch norm follows each convolution; ReLU always does.
        input_norm: whether batch norm without a scale is applied to the input (MXNet's ``bn_data``).

    Raises:
        SpecError: no step, or a field is not allowed.

    >>> len(Stem((ConvStep(64, 7, 2), PoolStep())).steps)
    2
    """

    steps: tuple[Step, ...]
    norm: bool = True
    input_norm: bool = False

    def __post_init__(self) -> None:
        set_field(self, "steps", tuple_of("steps", self.steps, Step))
        for name in ("norm", "input_norm"):
            validation.flag(name, getattr(self, name))


@dataclass(frozen=True)
class Head:
    """The layers from the last map to the logits; the pooling is global for any input size.

    Args:
        classifier: ``"dense"`` on the pooled features, or ``"conv"``, a 1x1 convolution whose map is pooled.
        bias: whether the classifier has a bias.
        dropout: dropout rate before the classifier while training, at least 0 and below 1.
        before: layers before the pooling, each ``"bn"`` or ``"relu"``.

    Raises:
        SpecError: a field is not allowed.

    >>> Head(dropout=0.2)
    Head(classifier='dense', bias=True, dropout=0.2, before=())
    """

    classifier: str = "dense"
    bias: bool = True
    dropout: float = 0.0
    before: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        validation.choice("head.classifier", self.classifier, ("dense", "conv"))
        validation.flag("head.bias", self.bias)
        set_field(self, "dropout", validation.not_negative("head.dropout", self.dropout))
        if self.dropout >= 1:
            validation.refuse("head.dropout", self.dropout, "a rate of at least 0 and below 1")
        if not isinstance(self.before, tuple | list):
            validation.refuse("head.before", self.before, "a list of 'bn' and 'relu'")
        set_field(self, "before", tuple(validation.choice("head.before", kind, ("bn", "relu")) for kind in self.before))


@dataclass(frozen=True)
class SEFields:
    """A ``SESpec`` without channels: each place in a network has its own number of them.

    Args:
        reduction: ratio r, hidden width ``max(1, C // r)``; None once ``hidden`` or ``single_projection`` decides.
        hidden: one hidden width for every place.
        single_projection, bias, activation, gate, squeeze, gain, residual: as in ``SESpec``.

    Raises:
        SpecError: a field is not allowed.

    >>> SEFields(reduction=8, gate="tanh").with_channels(64)
    SESpec(64, reduction=8, gate='tanh')
    """

    reduction: int | None = 16
    hidden: int | None = None
    single_projection: bool = False
    bias: bool = False
    activation: nonlinearities.Activation = "relu"
    gate: nonlinearities.Gate = "sigmoid"
    squeeze: str = "avg"
    gain: float = 1.0
    residual: bool = False

    def __post_init__(self) -> None:
        spec = self.with_channels(1)
        if self.hidden is not None:
            set_field(self, "hidden", spec.hidden)
        for name in ("reduction", "activation", "gate", "gain"):
            set_field(self, name, getattr(spec, name))

    def with_channels(self, channels: int) -> SESpec:
        """Return the block for a number of channels.

        Args:
            channels: of the feature map, at least 1.

        Raises:
            SpecError: the widths do not fit.
        """
        given = dict(vars(self))
        for width in ("reduction", "hidden"):
            if given[width] is None or (width == "reduction" and given["hidden"] is not None):
                del given[width]
        return SESpec(channels, **given)

    @classmethod
    def coerce(cls, value: Any) -> "SEFields | None":
        """Return the fields for what ``NetworkSpec(se=...)`` accepts.

        Args:
            value: None, fields, a dict of them, or a ``SESpec``, whose channels are ignored.

        Raises:
            SpecError: anything else, or a name that is no field.

        >>> SEFields.coerce({"reduction": 8}) == SEFields.coerce(SESpec(64, reduction=8)) == SEFields(reduction=8)
        True
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, SESpec):
            value = {name: getattr(value, name) for name in cls.__dataclass_fields__}
            if value["reduction"] is not None or value["single_projection"]:
                del value["hidden"]
        if not isinstance(value, Mapping) or not set(value) <= set(cls.__dataclass_fields__):
            validation.refuse("se", value, f"None, a SESpec, or a dict of {', '.join(cls.__dataclass_fields__)}")
        return cls(**{name: nonlinearities.from_data(data) for name, data in value.items()})


def set_field(part: Any, name: str, value: Any) -> None:
    """Set a field of a frozen part, from its ``__post_init__``."""
    object.__setattr__(part, name, value)


def tuple_of(field: str, values: Any, kind: Any) -> tuple[Any, ...]:
    """Return ``values`` as a tuple; refuse an empty one, and one that holds anything but ``kind``."""
    if not isinstance(values, tuple | list) or not values or not all(isinstance(value, kind) for value in values):
        names = " or ".join(member.__name__ for member in getattr(kind, "__args__", (kind,)))
        validation.refuse(field, values, f"a list, not empty, of {names}")
    return tuple(values)


def keywords(cls: type, data: Any) -> dict[str, Any]:
    """Return a copy of JSON data that holds the keywords of ``cls``; refuse any other."""
    known = {field.name: field for field in dataclass_fields(cls)}
    needed = {name for name, field in known.items() if field.default is field.default_factory}  # both are MISSING
    if not isinstance(data, dict) or not needed <= set(data) <= set(known):
        raise SpecError(f"{quote(data)} is not a {cls.__name__}; it must be a dict of {', '.join(known)}")
    return dict(data)


def parse_list(parse: Callable[[Any], Any], values: Any) -> tuple[Any, ...]:
    """Parse every element of a JSON list."""
    if not isinstance(values, list | tuple):
        raise SpecError(f"{quote(values)} must be a list")
    return tuple(parse(value) for value in values)


def parse_step(data: Any) -> Step:
    """Build a step from JSON data; a pooling has the key ``pool``."""
    kind = PoolStep if isinstance(data, dict) and "pool" in data else ConvStep
    return kind(**keywords(kind, data))
