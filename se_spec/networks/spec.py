"""``NetworkSpec``: which network is meant, as one frozen value; facts, from which ``layers`` follow.

Residual networks (Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, arXiv 1512.03385; pre-activation 1603.05027),
aggregated ones (Saining Xie and others, arXiv 1611.05431) and Inception with batch norm (Sergey Ioffe, Christian
Szegedy, arXiv 1502.03167), with the blocks of Jie Hu and others (arXiv 1709.01507) where those put them.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from functools import cached_property
from typing import Any, Self

from .. import nonlinearities, validation
from ..errors import SpecError
from . import counts
from .layers import Layer, expand
from .parts import ConvStep, Head, Inception, PoolStep, SEFields, Shortcut, Stage, Stem, tuple_of

ORDERS = ("post", "pre")
STRIDES_ON = ("1x1", "3x3")
PLACES = ("standard", "pre", "post", "identity")
PADDINGS = ("symmetric", "same")
POOL_PADDINGS = ("symmetric", "ceil", "same")


@dataclass(frozen=True)
class NetworkSpec:
    """A convolutional network with or without SE blocks, from the image to the logits.

    Args:
        stem: before the first stage.
        stages: of residual units, or of Inception modules.
        head: from the last map to the logits.
        shortcut: of residual units that change the shape.
        order: ``"post"``, convolution, batch norm, ReLU, and a ReLU after the addition; ``"pre"``, batch norm, ReLU,
            convolution, and nothing after the addition.
        stride_on: which convolution of a bottleneck has the stride, the first ``"1x1"`` or the ``"3x3"``; a basic unit
            has it on its first.
        groups: of the 3x3 convolution of a bottleneck.
        last_relu: whether ReLU follows a branch's last batch norm too, before SE and the addition.
        se: the block at every place, or None; a dict of its fields and a ``SESpec`` are taken too.
        se_at: ``"standard"``, on the branch's result before the addition (in pre-activation that is a convolution
            without batch norm), on an Inception module's concatenation; or as the paper's SE-PRE, SE-POST, SE-Identity:
            ``"pre"``, on what enters the branch, ``"post"``, after the addition and its ReLU, ``"identity"``, on the
            shortcut's result.
        padding: of convolutions: ``"symmetric"``, k // 2 on both sides; ``"same"``, TensorFlow's, the odd one behind.
        pool_padding: of poolings with a stride: ``"symmetric"``, k // 2 on both sides; ``"ceil"``, Caffe's, none and
            the last window may reach over the border; ``"same"``. Maxima see no padding.
        count_padding: whether averages count the padding.
        conv_bias: whether the convolutions outside SE have biases.
        epsilon: of batch norm, added to the variance.
        momentum: of batch norm: the share of the old statistic that stays in the running one (torch's is 1 minus this).
        num_classes: logits.
        channels: of the input.
        input_size: height and width that the source feeds; any other works that the strides allow.

    Raises:
        SpecError: a field is not allowed, or two do not go together.

    >>> from se_spec import network
    >>> net = network("se_resnet20", num_classes=10, channels=1)
    >>> net.parameter_count(), net.replace(se=None).parameter_count()
    (274202, 272186)
    """

    stem: Stem
    stages: tuple[Stage | Inception, ...]
    head: Head = field(default_factory=Head)
    shortcut: Shortcut = field(default_factory=Shortcut)
    order: str = "post"
    stride_on: str = "3x3"
    groups: int = 1
    last_relu: bool = False
    se: SEFields | None = None
    se_at: str = "standard"
    padding: str = "symmetric"
    pool_padding: str = "symmetric"
    count_padding: bool = True
    conv_bias: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    num_classes: int = 1000
    channels: int = 3
    input_size: int = 224

    def __post_init__(self) -> None:
        for name, kind in (("stem", Stem), ("head", Head), ("shortcut", Shortcut)):
            if not isinstance(getattr(self, name), kind):
                validation.refuse(name, getattr(self, name), f"a {kind.__name__}")
        allowed = {"order": ORDERS, "stride_on": STRIDES_ON, "se_at": PLACES}
        allowed |= {"padding": PADDINGS, "pool_padding": POOL_PADDINGS}
        for name, choices in allowed.items():
            validation.choice(name, getattr(self, name), choices)
        canonical: dict[str, Any] = {
            "stages": tuple_of("stages", self.stages, Stage | Inception),
            "se": SEFields.of(self.se),
        }
        for name in ("last_relu", "count_padding", "conv_bias"):
            canonical[name] = validation.flag(name, getattr(self, name))
        for name in ("groups", "num_classes", "channels", "input_size"):
            canonical[name] = validation.positive_integer(name, getattr(self, name))
        canonical["epsilon"] = validation.positive_number("epsilon", self.epsilon)
        canonical["momentum"] = validation.not_negative("momentum", self.momentum)
        for name, value in canonical.items():
            object.__setattr__(self, name, value)
        self._check_together()

    def _check_together(self) -> None:
        if self.momentum >= 1:
            validation.refuse("momentum", self.momentum, "at least 0 and below 1")
        if self.se_at != "standard" and (self.order == "pre" or self._has(Inception)):
            validation.refuse("se_at", self.se_at, "'standard' but in post-activation residual units")
        if self._has(Inception) and self.order == "pre":
            validation.refuse("order", self.order, "'post' with Inception modules")
        if self.last_relu and self.order == "pre":
            validation.refuse("last_relu", True, "False in pre-activation units")
        if self.shortcut.entry == "shared" and self.order == "post":
            validation.refuse("shortcut.entry", "shared", "'input' or 'norm_relu' in post-activation units")
        steps = [*self.stem.steps, *(step for s in self.stages if isinstance(s, Inception) for step in _steps(s))]
        if self.pool_padding == "ceil" and any(
            isinstance(step, PoolStep) and step.pool == "avg" and step.stride > 1 for step in steps
        ):
            validation.refuse(
                "pool_padding", self.pool_padding, "'symmetric' or 'same' with averages that have a stride"
            )
        for stage in self.stages:
            if isinstance(stage, Stage):
                self._check_stage(stage)
        _ = self.layers  # refuses what only the channels tell

    def _check_stage(self, stage: Stage) -> None:
        if any(width % self.groups for width in stage.widths):
            validation.refuse("groups", self.groups, f"a divisor of the widths {stage.widths}")
        if len(stage.widths) == 1 and self.groups > 1:
            validation.refuse("groups", self.groups, "1 in basic units")
        if stage.stride > 1 and self.shortcut.channels == "zeros" and not self.shortcut.pool:
            validation.refuse(
                "shortcut.pool", 0, "the kernel that takes the stride where channels are padded with zeros"
            )

    def _has(self, kind: type) -> bool:
        return any(isinstance(stage, kind) for stage in self.stages)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, in an order in which it can be computed; see ``se_spec.networks.layers``."""
        return expand(self)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical names and shapes, in order, running statistics among them; ``se_spec.parameters.shapes``."""
        return {
            f"{layer.name}.{name}": shape for layer in self.layers for name, shape in layer.parameter_shapes().items()
        }

    def parameter_count(self) -> int:
        """Learnable parameters: all but the running statistics."""
        return counts.parameter_count(self.layers)

    def macs(self, size: tuple[int, int] | None = None) -> int:
        """Multiply-adds of convolutions and dense layers, SE included, for one image of (height, width).

        Raises:
            ShapeError: the strides leave nothing of such an image, or its paths do not meet.
        """
        return counts.macs(self.layers, size or (self.input_size, self.input_size))

    def added_by_se(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Learnable parameters and multiply-adds that the blocks add to the same network without them.

        >>> from se_spec import network
        >>> network("se_resnet50").added_by_se()
        (2530992, 2514944)
        """
        plain = self.replace(se=None)
        return self.parameter_count() - plain.parameter_count(), self.macs(size) - plain.macs(size)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed.

        Raises:
            SpecError: a name is no field, or a value is not allowed.
        """
        if not set(changes) <= set(FIELDS):
            unknown = ", ".join(sorted(set(changes) - set(FIELDS)))
            raise SpecError(f"{unknown} is not a field of a network; it must be one of {', '.join(FIELDS)}")
        return type(self)(**{**{name: getattr(self, name) for name in FIELDS}, **changes})

    def to_dict(self) -> dict[str, Any]:
        """The network as JSON data."""
        data = asdict(self)
        if self.se is not None:
            data["se"] = {name: nonlinearities.to_data(value) for name, value in vars(self.se).items()}
            for width in ("reduction", "hidden"):
                if data["se"][width] is None:
                    del data["se"][width]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``; what is left out has its default.

        Raises:
            SpecError: a name is no field, the stem or the stages are missing, or a value is not allowed.
        """
        given = _keywords(cls, data)
        parsers: dict[str, Callable[[Any], Any]] = {
            "stem": lambda stem: Stem(**{**_keywords(Stem, stem), "steps": _map(_step, stem.get("steps"))}),
            "stages": lambda stages: _map(_stage, stages),
            "head": lambda head: Head(**_keywords(Head, head)),
            "shortcut": lambda shortcut: Shortcut(**_keywords(Shortcut, shortcut)),
        }
        return cls(**{name: parsers.get(name, lambda value: value)(value) for name, value in given.items()})

    def to_json(self) -> str:
        """The network as one line of JSON.

        >>> from se_spec import network
        >>> NetworkSpec.from_json(network("senet154").to_json()) == network("senet154")
        True
        """
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of ``to_json``.

        Raises:
            SpecError: not JSON, or not a network.
        """
        return cls.from_dict(validation.parsed(text, "a network"))


FIELDS = tuple(one.name for one in dataclass_fields(NetworkSpec))


def _steps(stage: Inception) -> list[ConvStep | PoolStep]:
    return [step for module in stage.modules for branch in module for step in branch]


def _keywords(cls: type, data: Any) -> dict[str, Any]:
    """``data`` if it can be the keywords of a part."""
    known = {one.name: one for one in dataclass_fields(cls)}
    needed = {name for name, one in known.items() if one.default is one.default_factory}  # both are MISSING
    if not isinstance(data, dict) or not needed <= set(data) <= set(known):
        raise SpecError(f"{data!r} is not a {cls.__name__}; it must be a dict of {', '.join(known)}")
    return data


def _map(parse: Callable[[Any], Any], values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise SpecError(f"{values!r} must be a list")
    return tuple(parse(value) for value in values)


def _step(data: Any) -> ConvStep | PoolStep:
    if isinstance(data, dict) and "pool" in data:
        return PoolStep(**_keywords(PoolStep, data))
    return ConvStep(**_keywords(ConvStep, data))


def _stage(data: Any) -> Stage | Inception:
    if isinstance(data, dict) and "modules" in data:
        modules = _keywords(Inception, data)["modules"]
        return Inception(_map(lambda module: _map(lambda branch: _map(_step, branch), module), modules))
    return Stage(**_keywords(Stage, data))
