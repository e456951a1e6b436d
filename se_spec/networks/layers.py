"""A network as a flat list of layers: one record per layer, in an order in which they can be computed.

A record names the layers that it takes (``"input"`` is the image), so the list is the whole graph: a builder is one
function per class below, and runs them in order. The last record gives the logits.

Names are paths. ``stem.conv1``, ``stem.bn1``; ``stage1.block0.conv1`` to ``conv3`` with ``bn1`` to ``bn3``, stages
counted from 1 and blocks from 0; ``stage1.block0.se``; ``stage2.block0.shortcut.conv``, ``shortcut.bn``;
``stage1.block0.branch0.conv1`` in Inception modules; ``input_bn``; ``head.bn1``; ``classifier``. A batch norm has the
number of its convolution, before it (``order="pre"``) or after. A parameter's name is its layer's and one of
``weight``, ``bias``, ``scale``, ``offset``, ``mean``, ``variance``, or ``reduce.weight`` ... of an SE block.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .. import validation
from ..parameters import shapes
from ..spec import SESpec
from .parts import Inception, PoolStep, Stage, Step

if TYPE_CHECKING:
    from .spec import NetworkSpec

INPUT = "input"
STATISTICS = ("mean", "variance")
"""What training tracks and no gradient reaches, of a batch norm's parameters."""

Padding = tuple[int, int] | Literal["same"]
"""Before and after, on both axes; or TensorFlow's SAME, which depends on the size (``counts.pads``)."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """What every record has.

    Args:
        name: its path.
        inputs: names of the layers whose results it takes, in order.
        in_channels, out_channels: of what it takes (all inputs together, where they are concatenated) and gives.
    """

    name: str
    inputs: tuple[str, ...]
    in_channels: int
    out_channels: int

    def parameter_shapes(self) -> Shapes:
        """Canonical names, without the layer's own, and shapes."""
        return {}


@dataclass(frozen=True)
class Convolution(Layer):
    """Square, cross-correlation as every framework has it; weight (O, I / groups, kernel, kernel), padded with 0."""

    kernel: int
    stride: int
    padding: Padding
    groups: int
    bias: bool

    def parameter_shapes(self) -> Shapes:
        """Weight, and bias (O,) where there is one."""
        weight = (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)
        return {"weight": weight, "bias": (self.out_channels,)} if self.bias else {"weight": weight}


@dataclass(frozen=True)
class BatchNorm(Layer):
    """``(x - mean) / sqrt(variance + epsilon) * scale + offset``; without ``scale`` that factor is 1."""

    epsilon: float
    momentum: float
    scale: bool

    def parameter_shapes(self) -> Shapes:
        """All (C,)."""
        names = ("scale", "offset", *STATISTICS) if self.scale else ("offset", *STATISTICS)
        return dict.fromkeys(names, (self.out_channels,))


@dataclass(frozen=True)
class ReLU(Layer):
    """``max(x, 0)``."""


@dataclass(frozen=True)
class Pooling(Layer):
    """``"max"``, whose padding is minus infinity, or ``"avg"``, over zeros that count only with ``count_padding``."""

    pool: str
    kernel: int
    stride: int
    padding: Padding
    count_padding: bool


@dataclass(frozen=True)
class SqueezeExcitation(Layer):
    """The block."""

    spec: SESpec

    def parameter_shapes(self) -> Shapes:
        """As of the block alone."""
        return shapes(self.spec)


@dataclass(frozen=True)
class Addition(Layer):
    """The sum of two maps of one shape."""


@dataclass(frozen=True)
class Concatenation(Layer):
    """Maps of one size, one behind the other along the channels."""


@dataclass(frozen=True)
class ZeroChannels(Layer):
    """Channels of zeros ``before`` and ``after`` those that are there."""

    before: int
    after: int


@dataclass(frozen=True)
class GlobalPooling(Layer):
    """The mean over all positions: (N, C)."""


@dataclass(frozen=True)
class Dropout(Layer):
    """Of (N, C), while training: zero at the rate, what stays is divided by 1 - rate."""

    rate: float


@dataclass(frozen=True)
class Dense(Layer):
    """Of (N, C); weight (O, C)."""

    bias: bool

    def parameter_shapes(self) -> Shapes:
        """Weight, and bias (O,) where there is one."""
        weight = (self.out_channels, self.in_channels)
        return {"weight": weight, "bias": (self.out_channels,)} if self.bias else {"weight": weight}


def expand(network: "NetworkSpec") -> tuple[Layer, ...]:
    """Every layer of a network.

    Raises:
        SpecError: a shortcut would have to take channels away, or to put an odd number of zeros on both sides.

    >>> from se_spec import network
    >>> layers = network("se_resnet50").layers
    >>> layers[0]
    Convolution(name='stem.conv1', inputs=('input',), in_channels=3, out_channels=64, kernel=7, stride=2, \
padding=(3, 3), groups=1, bias=False)
    >>> [(layer.name, *layer.inputs) for layer in layers[12:18]]  # doctest: +NORMALIZE_WHITESPACE
    [('stage1.block0.se', 'stage1.block0.bn3'), ('stage1.block0.shortcut.conv', 'stem.pool1'),
     ('stage1.block0.shortcut.bn', 'stage1.block0.shortcut.conv'),
     ('stage1.block0.add', 'stage1.block0.se', 'stage1.block0.shortcut.bn'),
     ('stage1.block0.relu', 'stage1.block0.add'), ('stage1.block1.conv1', 'stage1.block0.relu')]
    """
    graph = _Graph(network)
    x = graph.stem(INPUT)
    for number, stage in enumerate(network.stages, 1):
        if isinstance(stage, Inception):
            for index, module in enumerate(stage.modules):
                x = graph.module(f"stage{number}.block{index}", x, module)
        else:
            for index in range(stage.units):
                x = graph.unit(f"stage{number}.block{index}", x, stage, first=index == 0)
    graph.head(x)
    return tuple(graph.layers)


def _padding(rule: str, kernel: int, stride: int) -> Padding:
    """The rule as numbers, unless they depend on the size: SAME does where a window has a stride."""
    if rule == "ceil":
        return (0, stride - 1)
    if rule == "symmetric" or kernel == 1 or (stride == 1 and kernel % 2):
        return (kernel // 2, kernel // 2)
    return "same"


class _Graph:
    """The layers so far; each method adds some on top of the layer ``x`` and returns the last one's name."""

    def __init__(self, network: "NetworkSpec") -> None:
        self.network = network
        self.layers: list[Layer] = []
        self.channels = {INPUT: network.channels}

    def add(self, layer: Layer) -> str:
        self.layers.append(layer)
        self.channels[layer.name] = layer.out_channels
        return layer.name

    def same(self, kind: type[Layer], name: str, x: str, **attributes: object) -> str:
        return self.add(kind(name, (x,), self.channels[x], self.channels[x], **attributes))

    def conv(self, name: str, x: str, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        padding = _padding(self.network.padding, kernel, stride)
        bias = self.network.conv_bias
        return self.add(Convolution(name, (x,), self.channels[x], channels, kernel, stride, padding, groups, bias))

    def norm(self, name: str, x: str, scale: bool = True) -> str:
        return self.same(BatchNorm, name, x, epsilon=self.network.epsilon, momentum=self.network.momentum, scale=scale)

    def norm_relu(self, prefix: str, x: str, number: int | str) -> str:
        return self.same(ReLU, f"{prefix}.relu{number}", self.norm(f"{prefix}.bn{number}", x))

    def pool(self, name: str, x: str, step: PoolStep) -> str:
        rule = self.network.pool_padding if step.stride > 1 else "symmetric"
        counted = step.pool == "avg" and self.network.count_padding
        return self.window(name, x, step.pool, step.kernel, step.stride, rule, counted)

    def window(self, name: str, x: str, pool: str, kernel: int, stride: int, rule: str, counted: bool) -> str:
        padding, channels = _padding(rule, kernel, stride), self.channels[x]
        return self.add(Pooling(name, (x,), channels, channels, pool, kernel, stride, padding, counted))

    def se(self, prefix: str, x: str, place: str) -> str:
        if self.network.se is None or self.network.se_at != place:
            return x
        return self.same(SqueezeExcitation, f"{prefix}.se", x, spec=self.network.se.on(self.channels[x]))

    def steps(self, prefix: str, x: str, steps: tuple[Step, ...], norm: bool = True) -> str:
        convs = pools = 0
        for step in steps:
            if isinstance(step, PoolStep):
                pools += 1
                x = self.pool(f"{prefix}.pool{pools}", x, step)
            else:
                convs += 1
                x = self.conv(f"{prefix}.conv{convs}", x, step.channels, step.kernel, step.stride)
                x = self.norm(f"{prefix}.bn{convs}", x) if norm else x
                x = self.same(ReLU, f"{prefix}.relu{convs}", x)
        return x

    def stem(self, x: str) -> str:
        stem = self.network.stem
        if stem.input_norm:
            x = self.norm("input_bn", x, scale=False)
        return self.steps("stem", x, stem.steps, stem.norm)

    def module(self, prefix: str, x: str, branches: tuple[tuple[Step, ...], ...]) -> str:
        ends = tuple(self.steps(f"{prefix}.branch{index}", x, branch) for index, branch in enumerate(branches))
        channels = sum(self.channels[end] for end in ends)
        return self.se(prefix, self.add(Concatenation(f"{prefix}.concat", ends, channels, channels)), "standard")

    def unit(self, prefix: str, x: str, stage: Stage, *, first: bool) -> str:
        stride = stage.stride if first else 1
        branch, shared = self.branch(prefix, self.se(prefix, x, "pre"), stage, stride)
        branch = self.se(prefix, branch, "standard")
        always = first and self.network.shortcut.always
        if always or stride > 1 or self.channels[x] != stage.channels:
            shortcut = self.shortcut(f"{prefix}.shortcut", x, shared, stage.channels, stride)
        else:
            shortcut = x
        shortcut = self.se(prefix, shortcut, "identity")
        y = self.add(Addition(f"{prefix}.add", (branch, shortcut), stage.channels, stage.channels))
        if self.network.order == "post":
            y = self.same(ReLU, f"{prefix}.relu", y)
        return self.se(prefix, y, "post")

    def branch(self, prefix: str, x: str, stage: Stage, stride: int) -> tuple[str, str]:
        """The branch's last layer, and what its first convolution takes."""
        entry, kernels = x, stage.kernels
        strided = 2 if len(kernels) == 3 and self.network.stride_on == "3x3" else 1
        for number, (channels, kernel) in enumerate(zip((*stage.widths, stage.channels), kernels, strict=True), 1):
            if self.network.order == "pre":
                x = self.norm_relu(prefix, x, number)
                entry = x if number == 1 else entry
            groups = self.network.groups if len(kernels) == 3 and kernel == 3 else 1
            x = self.conv(f"{prefix}.conv{number}", x, channels, kernel, stride if number == strided else 1, groups)
            if self.network.order == "post":
                x = self.norm(f"{prefix}.bn{number}", x)
                followed = number < len(kernels) or self.network.last_relu
                x = self.same(ReLU, f"{prefix}.relu{number}", x) if followed else x
        return x, entry

    def shortcut(self, prefix: str, x: str, shared: str, channels: int, stride: int) -> str:
        shortcut = self.network.shortcut
        if shortcut.entry == "norm_relu":
            x = self.norm_relu(prefix, x, "")
        elif shortcut.entry == "shared":
            x = shared
        if shortcut.pool and stride > 1:
            x = self.window(f"{prefix}.pool", x, "avg", shortcut.pool, stride, "same", False)
            stride = 1
        if shortcut.channels == "zeros":
            return self.zeros(f"{prefix}.zeros", x, channels)
        x = self.conv(f"{prefix}.conv", x, channels, shortcut.kernel if stride > 1 else 1, stride)
        return self.norm(f"{prefix}.bn", x) if shortcut.norm else x

    def zeros(self, name: str, x: str, channels: int) -> str:
        missing = channels - self.channels[x]
        side = self.network.shortcut.zeros
        if missing < 0 or (side == "both" and missing % 2):
            validation.refuse("shortcut.channels", "zeros", f"'conv' from {self.channels[x]} to {channels} channels")
        if not missing:
            return x
        before = missing // 2 if side == "both" else 0
        return self.add(ZeroChannels(name, (x,), self.channels[x], channels, before, missing - before))

    def head(self, x: str) -> str:
        head, classes = self.network.head, self.network.num_classes
        counted = {"bn": 0, "relu": 0}
        for kind in head.before:
            counted[kind] += 1
            name = f"head.{kind}{counted[kind]}"
            x = self.norm(name, x) if kind == "bn" else self.same(ReLU, name, x)
        if head.classifier == "conv":
            padding, bias = (0, 0), head.bias
            x = self.drop(x)
            x = self.add(Convolution("classifier", (x,), self.channels[x], classes, 1, 1, padding, 1, bias))
            return self.same(GlobalPooling, "head.pool", x)
        x = self.drop(self.same(GlobalPooling, "head.pool", x))
        return self.add(Dense("classifier", (x,), self.channels[x], classes, head.bias))

    def drop(self, x: str) -> str:
        rate = self.network.head.dropout
        return self.same(Dropout, "head.dropout", x, rate=rate) if rate else x
