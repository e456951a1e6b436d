"""The flat list of layers while it grows: what every family of networks builds from."""

from dataclasses import dataclass

from .. import validation
from .layers import (
    INPUT,
    BatchNorm,
    Convolution,
    Dense,
    Dropout,
    GlobalPooling,
    Layer,
    Padding,
    Pooling,
    ReLU,
    SqueezeExcitation,
)
from .parts import ConvStep, Head, PoolStep, SEFields, Stem, Step


@dataclass(frozen=True)
class Rules:
    """The rules that hold for every layer of a network; ``NetworkSpec`` documents them."""

    se: SEFields | None
    padding: str
    pool_padding: str
    count_padding: bool
    conv_bias: bool
    epsilon: float
    momentum: float


class Graph:
    """The layers so far. Each method adds layers on top of layer ``x`` and returns the name of the last one."""

    def __init__(self, channels: int, rules: Rules) -> None:
        self.rules = rules
        self.layers: list[Layer] = []
        self.channels = {INPUT: channels}

    def add(self, layer: Layer) -> str:
        """Add one layer."""
        self.layers.append(layer)
        self.channels[layer.name] = layer.out_channels
        return layer.name

    def add_elementwise(self, kind: type[Layer], name: str, x: str, **attributes: object) -> str:
        """Add a layer that keeps the number of channels."""
        return self.add(kind(name, (x,), self.channels[x], self.channels[x], **attributes))

    def add_convolution(self, name: str, x: str, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        """Add a convolution, padded by the network's rule."""
        padding = _padding(self.rules.padding, kernel, stride)
        bias = self.rules.conv_bias
        return self.add(Convolution(name, (x,), self.channels[x], channels, kernel, stride, padding, groups, bias))

    def add_norm(self, name: str, x: str, *, scale: bool = True) -> str:
        """Add a batch norm."""
        return self.add_elementwise(
            BatchNorm, name, x, epsilon=self.rules.epsilon, momentum=self.rules.momentum, scale=scale
        )

    def add_relu(self, name: str, x: str) -> str:
        """Add a ReLU."""
        return self.add_elementwise(ReLU, name, x)

    def add_norm_relu(self, prefix: str, x: str, number: int | str) -> str:
        """Add a batch norm and a ReLU of one number."""
        return self.add_relu(f"{prefix}.relu{number}", self.add_norm(f"{prefix}.bn{number}", x))

    def add_pooling(self, name: str, x: str, step: PoolStep) -> str:
        """Add a pooling, padded by the network's rule where it has a stride."""
        rule = self.rules.pool_padding if step.stride > 1 else "symmetric"
        if rule == "ceil" and step.pool == "avg":
            validation.refuse("pool_padding", rule, "'symmetric' or 'same' with averages that have a stride")
        counted = step.pool == "avg" and self.rules.count_padding
        return self.add_window(name, x, step.pool, step.kernel, step.stride, rule, counted)

    def add_window(self, name: str, x: str, pool: str, kernel: int, stride: int, rule: str, counted: bool) -> str:
        """Add a pooling by a padding rule of its own."""
        padding, channels = _padding(rule, kernel, stride), self.channels[x]
        return self.add(Pooling(name, (x,), channels, channels, pool, kernel, stride, padding, counted))

    def add_se(self, prefix: str, x: str) -> str:
        """Add an SE block if the network has SE."""
        if self.rules.se is None:
            return x
        return self.add_elementwise(
            SqueezeExcitation, f"{prefix}.se", x, spec=self.rules.se.with_channels(self.channels[x])
        )

    def add_steps(self, prefix: str, x: str, steps: tuple[Step, ...], norm: bool = True) -> str:
        """Add convolutions, each with batch norm (if ``norm``) and ReLU, and poolings."""
        convolutions = poolings = 0
        for step in steps:
            if isinstance(step, ConvStep):
                convolutions += 1
                x = self.add_convolution(f"{prefix}.conv{convolutions}", x, step.channels, step.kernel, step.stride)
                x = self.add_norm(f"{prefix}.bn{convolutions}", x) if norm else x
                x = self.add_relu(f"{prefix}.relu{convolutions}", x)
            else:
                poolings += 1
                x = self.add_pooling(f"{prefix}.pool{poolings}", x, step)
        return x

    def add_stem(self, x: str, stem: Stem) -> str:
        """Add the layers before the body."""
        if stem.input_norm:
            x = self.add_norm("input_bn", x, scale=False)
        return self.add_steps("stem", x, stem.steps, stem.norm)

    def add_head(self, x: str, head: Head, classes: int) -> str:
        """Add the layers from the last map to the logits."""
        counts = {"bn": 0, "relu": 0}
        for kind in head.before:
            counts[kind] += 1
            name = f"head.{kind}{counts[kind]}"
            x = self.add_norm(name, x) if kind == "bn" else self.add_relu(name, x)
        if head.classifier == "conv":
            x = self._add_dropout(x, head.dropout)
            x = self.add(Convolution("classifier", (x,), self.channels[x], classes, 1, 1, (0, 0), 1, head.bias))
            return self.add_elementwise(GlobalPooling, "head.pool", x)
        x = self._add_dropout(self.add_elementwise(GlobalPooling, "head.pool", x), head.dropout)
        return self.add(Dense("classifier", (x,), self.channels[x], classes, head.bias))

    def _add_dropout(self, x: str, rate: float) -> str:
        return self.add_elementwise(Dropout, "head.dropout", x, rate=rate) if rate else x


def _padding(rule: str, kernel: int, stride: int) -> Padding:
    """Resolve a rule to numbers, unless they depend on the size: SAME does where a window has a stride."""
    if rule == "ceil":
        return (0, stride - 1)
    if rule == "symmetric" or kernel == 1 or (stride == 1 and kernel % 2):
        return (kernel // 2, kernel // 2)
    return "same"
