"""The parts that a ``NetworkSpec`` is put together from: frozen values, checked when they are made.

A part says what its source says and nothing that follows from it; ``layers.py`` draws the conclusions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import nonlinearities, validation
from ..spec import SESpec

OPERATIONS = ("max", "avg")


@dataclass(frozen=True)
class ConvStep:
    """A square convolution, with the network's batch norm and ReLU after it.

    Args:
        channels: that come out.
        kernel, stride: on both axes.

    Raises:
        SpecError: a field is not an integer of at least 1.
    """

    channels: int
    kernel: int
    stride: int = 1

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride"):
            _set(self, name, validation.positive_integer(name, getattr(self, name)))


@dataclass(frozen=True)
class PoolStep:
    """A square pooling window; how it meets the border is the network's ``pool_padding``.

    Args:
        pool: ``"max"`` or ``"avg"``.
        kernel, stride: on both axes; with stride 1 the map keeps its size.

    Raises:
        SpecError: a field is not allowed.
    """

    pool: str = "max"
    kernel: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        validation.choice("pool", self.pool, OPERATIONS)
        for name in ("kernel", "stride"):
            _set(self, name, validation.positive_integer(name, getattr(self, name)))


Step = ConvStep | PoolStep


@dataclass(frozen=True)
class Stem:
    """What stands before the first stage.

    Args:
        steps: convolutions and poolings, in order.
        norm: whether batch norm follows each convolution; ReLU always does.
        input_norm: whether batch norm without a scale is applied to the input (MXNet's ``bn_data``).

    Raises:
        SpecError: no step, or a field is not allowed.
    """

    steps: tuple[Step, ...]
    norm: bool = True
    input_norm: bool = False

    def __post_init__(self) -> None:
        _set(self, "steps", tuple_of("steps", self.steps, Step))
        for name in ("norm", "input_norm"):
            validation.flag(name, getattr(self, name))


@dataclass(frozen=True)
class Stage:
    """Residual units of one width.

    Args:
        units: how many.
        channels: that each gives.
        widths: of its convolutions before the last: one for a basic unit (3x3, 3x3), two for a bottleneck
            (1x1, 3x3, 1x1; the 3x3 has the network's groups).
        stride: of the first unit.

    Raises:
        SpecError: a field is not an integer of at least 1, or not one or two widths.

    >>> Stage(3, 256, (64, 64)).kernels, Stage(2, 64, (64,)).kernels
    ((1, 3, 1), (3, 3))
    """

    units: int
    channels: int
    widths: tuple[int, ...]
    stride: int = 1

    def __post_init__(self) -> None:
        for name in ("units", "channels", "stride"):
            _set(self, name, validation.positive_integer(name, getattr(self, name)))
        if not isinstance(self.widths, tuple | list) or len(self.widths) not in (1, 2):
            validation.refuse("widths", self.widths, "one width (a basic unit) or two (a bottleneck)")
        _set(self, "widths", tuple(validation.positive_integer("widths", width) for width in self.widths))

    @property
    def kernels(self) -> tuple[int, ...]:
        """Of the unit's convolutions, in order."""
        return (3, 3) if len(self.widths) == 1 else (1, 3, 1)


@dataclass(frozen=True)
class Inception:
    """Inception modules, one after the other; a module is a tuple of branches, a branch a tuple of steps.

    Every branch starts from the module's input and their results are concatenated in order.

    Raises:
        SpecError: no module, a module without branches, a branch without steps, or branches of different strides.
    """

    modules: tuple[tuple[tuple[Step, ...], ...], ...]

    def __post_init__(self) -> None:
        modules = tuple(
            tuple(tuple_of("branch", branch, Step) for branch in tuple_of("module", module, tuple | list))
            for module in tuple_of("modules", self.modules, tuple | list)
        )
        for module in modules:
            strides = [_product(step.stride for step in branch) for branch in module]
            if len(set(strides)) > 1:
                validation.refuse("module", module, f"of branches with one stride, not {strides}")
        _set(self, "modules", modules)


@dataclass(frozen=True)
class Shortcut:
    """What stands beside the branch where its result has another shape; elsewhere the shortcut is the identity.

    Args:
        channels: ``"conv"`` (a projection) or ``"zeros"`` (channels of zeros are added).
        kernel: of the projection where it has a stride; 1x1 where it has none.
        pool: 0, the projection has the stride itself; else an average pooling of this kernel has it, TensorFlow's SAME,
            padding not counted. 1 takes every second position.
        norm: whether batch norm follows the projection.
        entry: ``"input"``; ``"norm_relu"``, a batch norm and ReLU of its own before all else; ``"shared"``, what the
            branch's first batch norm and ReLU give (pre-activation).
        zeros: at the ``"end"`` or half on ``"both"`` sides.
        always: also in a stage's first unit that keeps its shape.

    Raises:
        SpecError: a field is not allowed.
    """

    channels: str = "conv"
    kernel: int = 1
    pool: int = 0
    norm: bool = True
    entry: str = "input"
    zeros: str = "end"
    always: bool = False

    def __post_init__(self) -> None:
        validation.choice("shortcut.channels", self.channels, ("conv", "zeros"))
        validation.choice("shortcut.entry", self.entry, ("input", "norm_relu", "shared"))
        validation.choice("shortcut.zeros", self.zeros, ("end", "both"))
        _set(self, "kernel", validation.positive_integer("shortcut.kernel", self.kernel))
        if self.pool != 0 or isinstance(self.pool, bool):
            _set(self, "pool", validation.positive_integer("shortcut.pool", self.pool))
        for name in ("norm", "always"):
            validation.flag(f"shortcut.{name}", getattr(self, name))


@dataclass(frozen=True)
class Head:
    """From the last map to the logits; the pooling is global for any input size.

    Args:
        classifier: ``"dense"`` on the pooled features, or ``"conv"``, a 1x1 convolution whose map is pooled.
        bias: of the classifier.
        dropout: rate before it, while training.
        before: layers before all this, of ``"bn"`` and ``"relu"``.

    Raises:
        SpecError: a field is not allowed.
    """

    classifier: str = "dense"
    bias: bool = True
    dropout: float = 0.0
    before: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        validation.choice("head.classifier", self.classifier, ("dense", "conv"))
        validation.flag("head.bias", self.bias)
        _set(self, "dropout", validation.not_negative("head.dropout", self.dropout))
        if self.dropout >= 1:
            validation.refuse("head.dropout", self.dropout, "a rate of at least 0 and below 1")
        if not isinstance(self.before, tuple | list):
            validation.refuse("head.before", self.before, "a list of 'bn' and 'relu'")
        _set(self, "before", tuple(validation.choice("head.before", one, ("bn", "relu")) for one in self.before))


@dataclass(frozen=True)
class SEFields:
    """A ``SESpec`` without its channels, which each place in a network has of its own.

    Args:
        reduction: ratio r, hidden width ``max(1, C // r)``; None once ``hidden`` or ``single_projection`` decides.
        hidden: one width at every place.
        single_projection, bias, activation, gate, squeeze, gain, residual: as in ``SESpec``.

    Raises:
        SpecError: a field is not allowed.

    >>> SEFields(reduction=8, gate="tanh").on(64)
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
        spec = self.on(1)
        if self.hidden is not None:
            _set(self, "hidden", spec.hidden)
        for name in ("reduction", "activation", "gate", "gain"):
            _set(self, name, getattr(spec, name))

    def on(self, channels: int) -> SESpec:
        """The block on so many channels."""
        given = dict(vars(self))
        for width in ("reduction", "hidden"):
            if given[width] is None or (width == "reduction" and given["hidden"] is not None):
                del given[width]
        return SESpec(channels, **given)

    @classmethod
    def of(cls, value: Any) -> "SEFields | None":
        """``None``, fields, a dict of them, or a ``SESpec`` whose channels are left out of account.

        Raises:
            SpecError: anything else, or a name that is no field.

        >>> SEFields.of({"reduction": 8}) == SEFields.of(SESpec(64, reduction=8)) == SEFields(reduction=8)
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
        return cls(**{name: nonlinearities.from_data(one) for name, one in value.items()})


def _set(part: Any, name: str, value: Any) -> None:
    object.__setattr__(part, name, value)


def tuple_of(field: str, values: Any, kind: Any) -> tuple[Any, ...]:
    """``values`` as a tuple that is not empty and holds nothing but ``kind``."""
    if not isinstance(values, tuple | list) or not values or not all(isinstance(one, kind) for one in values):
        names = " or ".join(one.__name__ for one in getattr(kind, "__args__", (kind,)))
        validation.refuse(field, values, f"a list, not empty, of {names}")
    return tuple(values)


def _product(numbers: Iterable[int]) -> int:
    product = 1
    for number in numbers:
        product *= number
    return product
