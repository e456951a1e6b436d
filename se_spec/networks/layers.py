"""The records of which a network's flat list of layers is made: one record per layer, in an order of computation.

A record names the layers whose results it takes (``"input"`` is the image), so the list is the whole graph: a builder
is one function per class below, and runs them in order. The last record gives the logits.

Names are paths. ``stem.conv1``, ``stem.bn1``; ``stage1.block0.conv1`` to ``conv3`` with ``bn1`` to ``bn3``, stages
counted from 1 and blocks from 0; ``stage1.block0.se``; ``stage2.block0.shortcut.conv``, ``shortcut.bn``;
``stage1.block0.branch0.conv1`` in Inception modules; ``input_bn``; ``head.bn1``; ``classifier``. A batch norm has the
number of its convolution, before it (``order="pre"``) or after. A parameter's name is its layer's and one of
``weight``, ``bias``, ``scale``, ``offset``, ``mean``, ``variance``, or ``reduce.weight`` ... of an SE block.
"""

from dataclasses import dataclass
from typing import Literal

from ..spec import SESpec

INPUT = "input"
STATISTICS = ("mean", "variance")
"""The parameters of a batch norm that training tracks and no gradient reaches."""

Padding = tuple[int, int] | Literal["same"]
"""Positions before and after, on both axes; or TensorFlow's SAME, which depends on the size (``resolve_padding``)."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """The fields that every record has.

    Args:
        name: the layer's path.
        inputs: names of the layers whose results it takes, in order.
        in_channels: channels of its input, of all inputs together where they are concatenated.
        out_channels: channels of its result.
    """

    name: str
    inputs: tuple[str, ...]
    in_channels: int
    out_channels: int

    def parameter_shapes(self) -> Shapes:
        """Return canonical names, without the layer's own name before them, and shapes."""
        return {}


@dataclass(frozen=True)
class Convolution(Layer):
    """A square cross-correlation, padded with zeros; weight (O, I / groups, kernel, kernel)."""

    kernel: int
    stride: int
    padding: Padding
    groups: int
    bias: bool

    def parameter_shapes(self) -> Shapes:
        """Return the shapes of the weight, and of the bias (O,) if there is one."""
        weight = (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)
        return {"weight": weight, "bias": (self.out_channels,)} if self.bias else {"weight": weight}


@dataclass(frozen=True)
class BatchNorm(Layer):
    """``(x - mean) / sqrt(variance + epsilon) * scale + offset``; without ``scale`` that factor is 1."""

    epsilon: float
    momentum: float
    scale: bool

    def parameter_shapes(self) -> Shapes:
        """Return the shape (C,) of each parameter."""
        names = ("scale", "offset", *STATISTICS) if self.scale else ("offset", *STATISTICS)
        return dict.fromkeys(names, (self.out_channels,))


@dataclass(frozen=True)
class ReLU(Layer):
    """``max(x, 0)``."""


@dataclass(frozen=True)
class Pooling(Layer):
    """A window's ``"max"``, which sees no padding, or its ``"avg"``, which counts zeros only with ``count_padding``."""

    pool: str
    kernel: int
    stride: int
    padding: Padding
    count_padding: bool


@dataclass(frozen=True)
class SqueezeExcitation(Layer):
    """The block of ``se_spec.SESpec``."""

    spec: SESpec

    def parameter_shapes(self) -> Shapes:
        """Return the names and shapes of the block."""
        return self.spec.parameter_shapes()


@dataclass(frozen=True)
class Addition(Layer):
    """The sum of two maps of one shape."""


@dataclass(frozen=True)
class Concatenation(Layer):
    """Maps of one size, joined along the channels in the order of the inputs."""


@dataclass(frozen=True)
class ZeroChannels(Layer):
    """Channels of zeros added ``before`` and ``after`` the input's."""

    before: int
    after: int


@dataclass(frozen=True)
class GlobalPooling(Layer):
    """The mean over all positions: (N, C)."""


@dataclass(frozen=True)
class Dropout(Layer):
    """While training, values of (N, C) become zero with probability ``rate``; the others are divided by 1 - rate."""

    rate: float


@dataclass(frozen=True)
class Dense(Layer):
    """A linear map of (N, C); weight (O, C)."""

    bias: bool

    def parameter_shapes(self) -> Shapes:
        """Return the shapes of the weight, and of the bias (O,) if there is one."""
        weight = (self.out_channels, self.in_channels)
        return {"weight": weight, "bias": (self.out_channels,)} if self.bias else {"weight": weight}
