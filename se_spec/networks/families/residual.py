"""Residual networks: their frozen parts, and the layers that follow from them.

Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, arXiv 1512.03385; pre-activation 1603.05027; aggregated ones Saining
Xie and others, arXiv 1611.05431. The places of SE are those of Jie Hu and others, arXiv 1709.01507.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from ... import validation
from ..graph import Graph
from ..layers import Addition, ZeroChannels
from ..parts import keywords, parse_list, set_field, tuple_of

ORDERS = ("post", "pre")
STRIDES_ON = ("1x1", "3x3")
PLACES = ("standard", "pre", "post", "identity")


@dataclass(frozen=True)
class Stage:
    """Residual units of one width.

    Args:
        units: number of units, at least 1.
        channels: channels of each unit's result.
        widths: channels of each unit's convolutions before the last: one for a basic unit (3x3, 3x3), two for a
            bottleneck (1x1, 3x3, 1x1; the 3x3 has the network's groups).
        stride: stride of the first unit.

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
            set_field(self, name, validation.positive_integer(name, getattr(self, name)))
        if not isinstance(self.widths, tuple | list) or len(self.widths) not in (1, 2):
            validation.refuse("widths", self.widths, "one width (a basic unit) or two (a bottleneck)")
        set_field(self, "widths", tuple(validation.positive_integer("widths", width) for width in self.widths))

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel sizes of a unit's convolutions, in order."""
        return (3, 3) if len(self.widths) == 1 else (1, 3, 1)


@dataclass(frozen=True)
class Shortcut:
    """The path beside the branch where the branch changes the shape; elsewhere the shortcut is the identity.

    Args:
        kind: ``"projection"``, a convolution, or ``"zero_pad"``, which adds channels of zeros.
        kernel: kernel of a projection that has a stride; one without a stride is 1x1.
        pool: 0 if the projection has the stride itself; otherwise the kernel of an average pooling that has it,
            TensorFlow's SAME without counting the padding. 1 takes every second position.
        norm: whether batch norm follows the projection.
        entry: what the shortcut takes: ``"input"``; ``"norm_relu"``, the input after a batch norm and ReLU of the
            shortcut's own; ``"shared"``, the result of the branch's first batch norm and ReLU (pre-activation).
        zeros: whether channels of zeros are added at the ``"end"`` or half on ``"both"`` sides.
        always: whether the first unit of a stage has it even if it keeps the shape.

    Raises:
        SpecError: a field is not allowed.

    >>> Shortcut("zero_pad", pool=2).kind
    'zero_pad'
    """

    kind: str = "projection"
    kernel: int = 1
    pool: int = 0
    norm: bool = True
    entry: str = "input"
    zeros: str = "end"
    always: bool = False

    def __post_init__(self) -> None:
        validation.choice("shortcut.kind", self.kind, ("projection", "zero_pad"))
        validation.choice("shortcut.entry", self.entry, ("input", "norm_relu", "shared"))
        validation.choice("shortcut.zeros", self.zeros, ("end", "both"))
        set_field(self, "kernel", validation.positive_integer("shortcut.kernel", self.kernel))
        if self.pool != 0 or isinstance(self.pool, bool):
            set_field(self, "pool", validation.positive_integer("shortcut.pool", self.pool))
        for name in ("norm", "always"):
            validation.flag(f"shortcut.{name}", getattr(self, name))


@dataclass(frozen=True)
class Residual:
    """The body of a residual network.

    Args:
        stages: the stages, in order.
        shortcut: the path beside a branch that changes the shape.
        order: ``"post"``, convolution, batch norm, ReLU, and a ReLU after the addition; ``"pre"``, batch norm, ReLU,
            convolution, and nothing after the addition.
        stride_on: which convolution of a bottleneck has the stride, the first ``"1x1"`` or the ``"3x3"``; a basic unit
            has it on its first.
        groups: groups of a bottleneck's 3x3 convolution.
        last_relu: whether a ReLU follows a branch's last batch norm too, before SE and the addition.
        se_at: ``"standard"``, SE on the branch's result before the addition (in pre-activation that is a convolution
            without batch norm); or as the paper's SE-PRE, SE-POST, SE-Identity: ``"pre"``, on the branch's input;
            ``"post"``, after the addition and its ReLU; ``"identity"``, on the shortcut's result.

    Raises:
        SpecError: a field is not allowed, or two do not go together.

    >>> Residual((Stage(3, 256, (64, 64)),), se_at="post").se_at
    'post'
    """

    name: ClassVar[str] = "residual"
    stages: tuple[Stage, ...]
    shortcut: Shortcut = field(default_factory=Shortcut)
    order: str = "post"
    stride_on: str = "3x3"
    groups: int = 1
    last_relu: bool = False
    se_at: str = "standard"

    def __post_init__(self) -> None:
        set_field(self, "stages", tuple_of("stages", self.stages, Stage))
        if not isinstance(self.shortcut, Shortcut):
            validation.refuse("shortcut", self.shortcut, "a Shortcut")
        for name, choices in {"order": ORDERS, "stride_on": STRIDES_ON, "se_at": PLACES}.items():
            validation.choice(name, getattr(self, name), choices)
        set_field(self, "groups", validation.positive_integer("groups", self.groups))
        validation.flag("last_relu", self.last_relu)
        if self.se_at != "standard" and self.order == "pre":
            validation.refuse("se_at", self.se_at, "'standard' in pre-activation units")
        if self.last_relu and self.order == "pre":
            validation.refuse("last_relu", True, "False in pre-activation units")
        if self.shortcut.entry == "shared" and self.order == "post":
            validation.refuse("shortcut.entry", "shared", "'input' or 'norm_relu' in post-activation units")
        for stage in self.stages:
            self._check_stage(stage)

    def _check_stage(self, stage: Stage) -> None:
        if any(width % self.groups for width in stage.widths):
            validation.refuse("groups", self.groups, f"a divisor of the widths {stage.widths}")
        if len(stage.widths) == 1 and self.groups > 1:
            validation.refuse("groups", self.groups, "1 in basic units")
        if stage.stride > 1 and self.shortcut.kind == "zero_pad" and not self.shortcut.pool:
            validation.refuse("shortcut.pool", 0, "the kernel of a pooling that takes the stride, with 'zero_pad'")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build the body from JSON data.

        Args:
            data: fields by name.

        Raises:
            SpecError: a name is no field, or a value is not allowed.
        """
        given = keywords(cls, data)
        given["stages"] = parse_list(lambda stage: Stage(**keywords(Stage, stage)), given["stages"])
        if "shortcut" in given:
            given["shortcut"] = Shortcut(**keywords(Shortcut, given["shortcut"]))
        return cls(**given)

    def add_layers(self, graph: Graph, x: str) -> str:
        """Add every unit's layers to the graph; return the last one's name.

        Args:
            graph: the layers so far.
            x: name of the layer whose output the body takes.

        Raises:
            SpecError: a shortcut would have to remove channels, or to put an odd number of zeros on both sides.
        """
        for number, stage in enumerate(self.stages, 1):
            for index in range(stage.units):
                x = self._add_unit(graph, f"stage{number}.block{index}", x, stage, is_first=index == 0)
        return x

    def _add_unit(self, graph: Graph, prefix: str, x: str, stage: Stage, *, is_first: bool) -> str:
        stride = stage.stride if is_first else 1
        branch, shared = self._add_branch(graph, prefix, self._add_se(graph, prefix, x, "pre"), stage, stride)
        branch = self._add_se(graph, prefix, branch, "standard")
        shortcut = x
        if (is_first and self.shortcut.always) or stride > 1 or graph.channels[x] != stage.channels:
            shortcut = self._add_shortcut(graph, f"{prefix}.shortcut", x, shared, stage.channels, stride)
        shortcut = self._add_se(graph, prefix, shortcut, "identity")
        y = graph.add(Addition(f"{prefix}.add", (branch, shortcut), stage.channels, stage.channels))
        if self.order == "post":
            y = graph.add_relu(f"{prefix}.relu", y)
        return self._add_se(graph, prefix, y, "post")

    def _add_se(self, graph: Graph, prefix: str, x: str, place: str) -> str:
        return graph.add_se(prefix, x) if self.se_at == place else x

    def _add_branch(self, graph: Graph, prefix: str, x: str, stage: Stage, stride: int) -> tuple[str, str]:
        """Return the branch's last layer, and the layer that its first convolution takes."""
        entry, kernels = x, stage.kernels
        strided = 2 if len(kernels) == 3 and self.stride_on == "3x3" else 1
        for number, (channels, kernel) in enumerate(zip((*stage.widths, stage.channels), kernels, strict=True), 1):
            if self.order == "pre":
                x = graph.add_norm_relu(prefix, x, number)
                entry = x if number == 1 else entry
            groups = self.groups if len(kernels) == 3 and kernel == 3 else 1
            own_stride = stride if number == strided else 1
            x = graph.add_convolution(f"{prefix}.conv{number}", x, channels, kernel, own_stride, groups)
            if self.order == "post":
                x = graph.add_norm(f"{prefix}.bn{number}", x)
                if number < len(kernels) or self.last_relu:
                    x = graph.add_relu(f"{prefix}.relu{number}", x)
        return x, entry

    def _add_shortcut(self, graph: Graph, prefix: str, x: str, shared: str, channels: int, stride: int) -> str:
        shortcut = self.shortcut
        if shortcut.entry == "norm_relu":
            x = graph.add_norm_relu(prefix, x, "")
        elif shortcut.entry == "shared":
            x = shared
        if shortcut.pool and stride > 1:
            x = graph.add_window(f"{prefix}.pool", x, "avg", shortcut.pool, stride, "same", False)
            stride = 1
        if shortcut.kind == "zero_pad":
            return self._add_zeros(graph, f"{prefix}.zeros", x, channels)
        x = graph.add_convolution(f"{prefix}.conv", x, channels, shortcut.kernel if stride > 1 else 1, stride)
        return graph.add_norm(f"{prefix}.bn", x) if shortcut.norm else x

    def _add_zeros(self, graph: Graph, name: str, x: str, channels: int) -> str:
        given = graph.channels[x]
        missing = channels - given
        if missing < 0 or (self.shortcut.zeros == "both" and missing % 2):
            validation.refuse("shortcut.kind", "zero_pad", f"'projection' from {given} to {channels} channels")
        if not missing:
            return x
        before = missing // 2 if self.shortcut.zeros == "both" else 0
        return graph.add(ZeroChannels(name, (x,), given, channels, before, missing - before))
