"""``NetworkSpec``: which network is meant, as one frozen value. ``layers`` lists the layers that follow from it."""

import json
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from functools import cached_property
from typing import Any, Self

from .. import nonlinearities, notebook, validation
from ..errors import SpecError
from ..texts import quote
from . import counts
from .families import FAMILIES, Family
from .graph import Graph, Rules
from .layers import INPUT, Layer, SqueezeExcitation
from .parts import Head, SEFields, Stem, keywords, parse_list, parse_step

PADDINGS = ("symmetric", "same")
POOL_PADDINGS = ("symmetric", "ceil", "same")


@dataclass(frozen=True)
class NetworkSpec:
    """A convolutional network with or without SE blocks, from the image to the logits.

    Args:
        stem: the layers before the body.
        body: the stages, as one family of networks has them: ``Residual`` or ``Inception``.
        head: the layers from the last map to the logits.
        se: the block at every place, or None; a dict of its fields and a ``SESpec`` are accepted too. The body states
            the places.
        padding: padding of convolutions: ``"symmetric"``, k // 2 on both sides; ``"same"``, TensorFlow's, whose odd
            position comes last.
        pool_padding: padding of poolings with a stride: ``"symmetric"``, k // 2 on both sides; ``"ceil"``, Caffe's:
            none, and the last window may reach over the border; ``"same"``. Maxima see no padding.
        count_padding: whether averages count the padding.
        conv_bias: whether the convolutions outside SE have biases.
        epsilon: the number that batch norm adds to the variance, above 0.
        momentum: the share of the old statistic that stays in batch norm's running one, at least 0 and below 1 (torch's
            momentum is 1 minus this).
        num_classes: number of logits.
        channels: channels of the image.
        input_size: height and width that the source feeds, in pixels; any size works that the strides allow.

    Raises:
        SpecError: a field is not allowed, or two do not go together.

    >>> from se_spec import network
    >>> net = network("se_resnet20", num_classes=10, channels=1)
    >>> net.parameter_count(), net.replace(se=None).parameter_count()
    (274202, 272186)
    """

    stem: Stem
    body: Family
    head: Head = field(default_factory=Head)
    se: SEFields | None = None
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
        for name, kinds in (("stem", (Stem,)), ("body", tuple(FAMILIES.values())), ("head", (Head,))):
            if not isinstance(getattr(self, name), kinds):
                validation.refuse(name, getattr(self, name), f"a {' or '.join(kind.__name__ for kind in kinds)}")
        validation.choice("padding", self.padding, PADDINGS)
        validation.choice("pool_padding", self.pool_padding, POOL_PADDINGS)
        canonical: dict[str, Any] = {"se": SEFields.coerce(self.se)}
        for name in ("count_padding", "conv_bias"):
            canonical[name] = validation.flag(name, getattr(self, name))
        for name in ("num_classes", "channels", "input_size"):
            canonical[name] = validation.positive_integer(name, getattr(self, name))
        canonical["epsilon"] = validation.positive_number("epsilon", self.epsilon)
        canonical["momentum"] = validation.not_negative("momentum", self.momentum)
        if canonical["momentum"] >= 1:
            validation.refuse("momentum", self.momentum, "at least 0 and below 1")
        for name, value in canonical.items():
            object.__setattr__(self, name, value)
        _ = self.layers  # some mistakes show only once the channels are known

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, in an order in which the layers can be computed (``se_spec.networks.layers``).

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
        graph = Graph(self.channels, Rules(**{name: getattr(self, name) for name in Rules.__dataclass_fields__}))
        graph.add_head(self.body.add_layers(graph, graph.add_stem(INPUT, self.stem)), self.head, self.num_classes)
        return tuple(graph.layers)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the size of the network, its SE blocks, and its stages.

        >>> from se_spec import network
        >>> html = network("se_resnet20")._repr_html_()
        >>> "274,490" in html, "stage3" in html
        (True, True)
        """
        parameters, macs = self.added_by_se()
        facts: dict[str, object] = {
            "family": self.body.name,
            "image": f"{self.input_size} x {self.input_size}, {self.channels} channels",
            "classes": f"{self.num_classes:,}",
            "learnable parameters": f"{self.parameter_count():,}",
            "multiply-adds": f"{self.macs():,}",
            "SE": ", ".join(f"{name}={value!r}" for name, value in vars(self.se).items() if value not in (None, False))
            if self.se is not None
            else "none",
        }
        if self.se is not None:
            facts["added by SE"] = f"{parameters:,} parameters, {macs:,} multiply-adds"
        stages: dict[str, list[Layer]] = {}
        for layer in self.layers:
            stages.setdefault(layer.name.partition(".")[0], []).append(layer)
        rows = [
            (
                name,
                len(layers),
                sum(isinstance(layer, SqueezeExcitation) for layer in layers),
                f"{counts.parameter_count(layers):,}",
            )
            for name, layers in stages.items()
        ]
        table = notebook.format_table(("stage", "layers", "SE blocks", "learnable parameters"), rows)
        return notebook.format_facts(f"{self.body.name} network", facts, table)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return canonical names and shapes, in order, running statistics included (K-1)."""
        return {
            f"{layer.name}.{name}": shape for layer in self.layers for name, shape in layer.parameter_shapes().items()
        }

    def parameter_count(self) -> int:
        """Count the learnable parameters: all but the running statistics."""
        return counts.parameter_count(self.layers)

    def macs(self, size: tuple[int, int] | None = None) -> int:
        """Count multiply-adds of convolutions and dense layers, SE included, for one image.

        Args:
            size: height and width of the image; None for the network's ``input_size``.

        Raises:
            ShapeError: the strides leave nothing of such an image, or its paths do not meet.
        """
        return counts.macs(self.layers, size or (self.input_size, self.input_size))

    def added_by_se(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Count the learnable parameters and multiply-adds that SE adds to the same network without it.

        Args:
            size: height and width of the image; None for the network's ``input_size``.

        Raises:
            ShapeError: as ``macs``.

        >>> from se_spec import network
        >>> network("se_resnet50").added_by_se()
        (2530992, 2514944)
        """
        plain = self.replace(se=None)
        return self.parameter_count() - plain.parameter_count(), self.macs(size) - plain.macs(size)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, of the network or of its body.

        Args:
            changes: the new values, by field of the network or of its family.

        Raises:
            SpecError: a name is no field, or a value is not allowed.

        >>> from se_spec import network
        >>> network("se_resnet50").replace(se_at="post", num_classes=10).body.se_at
        'post'
        """
        body = changes.get("body", self.body)
        of_body = [one.name for one in dataclass_fields(body)] if isinstance(body, Family) else []
        if unknown := set(changes) - set(FIELDS) - set(of_body):
            names = ", ".join((*FIELDS, *of_body))
            raise SpecError(f"{', '.join(sorted(unknown))} is not a field of this network; it must be one of {names}")
        if inner := {name: value for name, value in changes.items() if name in of_body}:
            body = type(body)(**{name: inner.get(name, getattr(body, name)) for name in of_body})
        outer = {name: value for name, value in changes.items() if name in FIELDS}
        return type(self)(**{**{name: getattr(self, name) for name in FIELDS}, **outer, "body": body})

    def to_dict(self) -> dict[str, Any]:
        """Return the network as JSON data."""
        data = asdict(self)
        data["body"] = {"family": self.body.name, **data["body"]}
        if self.se is not None:
            data["se"] = {name: nonlinearities.to_data(value) for name, value in vars(self.se).items()}
            for width in ("reduction", "hidden"):
                if data["se"][width] is None:
                    del data["se"][width]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build the network from the data of ``to_dict``; a field that is left out has its default.

        Args:
            data: fields by name; ``stem`` and ``body`` are needed.

        Raises:
            SpecError: a name is no field, the stem or the body is missing, or a value is not allowed.
        """
        given = keywords(cls, data)
        stem = keywords(Stem, given["stem"])
        given["stem"] = Stem(**{**stem, "steps": parse_list(parse_step, stem["steps"])})
        given["body"] = _parse_body(given["body"])
        if "head" in given:
            given["head"] = Head(**keywords(Head, given["head"]))
        return cls(**given)

    def to_json(self) -> str:
        """Return the network as one line of JSON.

        >>> from se_spec import network
        >>> NetworkSpec.from_json(network("senet154").to_json()) == network("senet154")
        True
        """
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build the network from the text of ``to_json``.

        Args:
            text: a JSON object.

        Raises:
            SpecError: the text is not JSON, or not a network.
        """
        return cls.from_dict(validation.parse_json(text, "a network"))


FIELDS = tuple(one.name for one in dataclass_fields(NetworkSpec))


def _parse_body(data: Any) -> Family:
    if not isinstance(data, dict) or data.get("family") not in FAMILIES:
        raise SpecError(f"{quote(data)} is not a body; it must be a dict whose family is one of {', '.join(FAMILIES)}")
    rest = {name: value for name, value in data.items() if name != "family"}
    return FAMILIES[data["family"]].from_dict(rest)
