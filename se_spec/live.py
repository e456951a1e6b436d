"""SE blocks of live models: the records of what was found and replaced, and the tables by which blocks are recognised.

A block is recognised by its answers: its weights are drawn, it is called, and its factors are compared with those of
every spec that these tables allow. Each framework computes them by its own operations.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

from .errors import SpecError
from .nonlinearities import ACTIVATIONS, Activation, Gate, HardSigmoid, LeakyReLU
from .spec import SQUEEZES, SESpec

Shape = tuple[int, ...]

SAMPLES = 64
"""Samples of the map on which a block is recognised; enough that every branch of its functions is reached."""
MOST_WIDTH = 32
"""Channels up to which a map is tried whose lengths are their number."""
MOST_TENSORS = 40
"""Parameters and the like above which a module is a network, and no block."""
SLOPES = (0.01, 0.1, 0.2, 0.3, 0.25, 1 / 5.5, 0.05, 0.02)
"""Slopes of leaky ReLU that systems have."""
KNOWN_ACTIVATIONS: tuple[Activation, ...] = (*ACTIVATIONS, *(LeakyReLU(slope) for slope in SLOPES))
KNOWN_GATES: tuple[Gate, ...] = (
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "relu",
    "identity",
    HardSigmoid(slope=0.2, offset=0.5),
    HardSigmoid(slope=0.5, offset=0.5),
    HardSigmoid(slope=1.0, offset=0.0),
    HardSigmoid(slope=0.1666667, offset=0.5),
    HardSigmoid(slope=0.16667, offset=0.50001, high=1.00002),
)
"""Gates that systems have; another hard sigmoid is fitted to the factors."""
WORDS = frozenset({"se", "ese", "cse", "scse", "senet", "squeeze", "excite", "excitation", "recalibration"})
"""Words in the name of a class, of which one means a block of this kind."""


@dataclass(frozen=True)
class LiveBlock:
    """An SE block of a live model.

    Args:
        path: its path in the model; empty if the model is the block.
        kind: the name of its class, or of the operations that it is made of.
        spec: the spec that it computes.
        parameters: the canonical parameters.
        names: the block's own name of each canonical parameter; a bias of zeros that the block does not have is absent.
        result: ``"map"`` if it returns the scaled map, ``"gate"`` if it returns the factors with spatial axes of
            length 1, ``"vector"`` if it returns them as (N, C).
        data_format: ``"channels_first"`` or ``"channels_last"``.

    Example:
        >>> block = LiveBlock("layer1.0.se", "timm.SEModule", SESpec(8, hidden=2), {}, {})
        >>> print(block)
        layer1.0.se: timm.SEModule, SESpec(8, hidden=2)
    """

    path: str
    kind: str
    spec: SESpec
    parameters: dict[str, Any] = field(repr=False)
    names: dict[str, str] = field(repr=False)
    result: str = "map"
    data_format: str = "channels_first"

    def __str__(self) -> str:
        form = {"map": "", "gate": ", its gate alone", "vector": ", its gate alone"}[self.result]
        return f"{self.path or 'the model'}: {self.kind}, {self.spec}{form}"


@dataclass
class Replacement:
    """The result of ``replace``, and what ``restore`` needs.

    Args:
        model: the model with our blocks.
        blocks: the blocks that were replaced, by path.
        left: the reason, by path, for each module that resembles an SE block and was left.
        difference: the largest difference between the model's answers before and after, as a share of the largest
            answer; None if they were not compared.
        notes: sentences about what a user should know.
        variables: the variables of the model in Flax linen, whose modules hold none.
        before: the model as it was, or the modules that were taken out of it.

    Example:
        >>> print(Replacement(None, {}, {"bam": "it has batch norm between its projections"}, None))
        replaced: no block
        left: bam: it has batch norm between its projections
        answers before and after: not compared
    """

    model: Any
    blocks: dict[str, LiveBlock]
    left: dict[str, str]
    difference: float | None
    notes: tuple[str, ...] = ()
    variables: Any = field(default=None, repr=False)
    before: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        lines = [f"replaced: {block}" for block in self.blocks.values()] or ["replaced: no block"]
        lines += [f"left: {path or 'the model'}: {reason}" for path, reason in self.left.items()]
        compared = "not compared" if self.difference is None else f"{self.difference:.1e} of the largest apart"
        return "\n".join([*lines, f"answers before and after: {compared}", *(f"note: {note}" for note in self.notes)])


class Tensor(NamedTuple):
    """A tensor of a block that is a canonical parameter: its own name, and whether a weight is (I, O)."""

    name: str
    is_transposed: bool = False


class Reading(NamedTuple):
    """A way to read a block's tensors as canonical parameters; the widths follow."""

    channels: int
    hidden: int
    is_single: bool
    tensors: dict[str, Tensor]

    def make_spec(self, **fields: Any) -> SESpec:
        """Make the spec of these widths.

        Args:
            fields: other fields of the spec.
        """
        width = {"single_projection": True} if self.is_single else {"hidden": self.hidden}
        if self.is_single:
            fields = {name: value for name, value in fields.items() if name != "activation"}
        return SESpec(self.channels, **width, bias=any("bias" in name for name in self.tensors), **fields)


def list_readings(shapes: Mapping[str, Shape]) -> list[Reading]:
    """List the ways in which tensors can be the parameters of a block; the usual one is first.

    Args:
        shapes: the shapes by name, in the block's order; those of 1x1 convolutions without their axes of length 1.

    >>> [reading.channels for reading in list_readings({"fc1.weight": (4, 64), "fc2.weight": (64, 4)})]
    [64, 64, 4, 4]
    """
    weights = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    biases = {name: shape for name, shape in shapes.items() if len(shape) == 1}
    if len(weights) not in (1, 2) or len(biases) > len(weights) or len(weights) + len(biases) != len(shapes):
        return []
    found = list(_read_pairs(weights, biases) if len(weights) == 2 else _read_single(weights, biases))
    usual = min(weights.values(), key=min)
    return sorted(found, key=lambda reading: reading.channels != max(usual))


def _read_single(weights: Mapping[str, Shape], biases: Mapping[str, Shape]) -> Iterator[Reading]:
    [(name, (rows, columns))] = weights.items()
    if rows == columns and all(shape == (rows,) for shape in biases.values()):
        for is_transposed in (False, True):
            tensors = {"expand.weight": Tensor(name, is_transposed)}
            tensors |= dict(zip(("expand.bias",), map(Tensor, biases), strict=False))
            yield Reading(rows, rows, True, tensors)


def _read_pairs(weights: Mapping[str, Shape], biases: Mapping[str, Shape]) -> Iterator[Reading]:
    for first, second in permutations(weights):
        for turned in ((False, False), (True, True), (False, True), (True, False)):
            hidden, channels = weights[first][:: -1 if turned[0] else 1]
            if weights[second][:: -1 if turned[1] else 1] != (channels, hidden):
                continue
            tensors = {"reduce.weight": Tensor(first, turned[0]), "expand.weight": Tensor(second, turned[1])}
            widths = {"reduce.bias": (hidden,), "expand.bias": (channels,)}
            for names in permutations(widths, len(biases)):
                if all(widths[name] == shape for name, shape in zip(names, biases.values(), strict=True)):
                    given = {name: Tensor(bias) for name, bias in zip(names, biases, strict=True)}
                    yield Reading(channels, hidden, False, tensors | given)


def has_pair(shapes: Sequence[Shape]) -> bool:
    """Return whether two of the weights map from some width to another and back, as a bottleneck's do."""
    return any(a == b[::-1] and a[0] != a[1] for index, a in enumerate(shapes) for b in shapes[index + 1 :])


def is_named_like_a_block(name: str) -> bool:
    """Return whether a class or attribute is named like an SE block.

    >>> is_named_like_a_block("SEModule"), is_named_like_a_block("se_block"), is_named_like_a_block("Sequential")
    (True, True, False)
    """
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z]|\d|_|$)|[A-Z]?[a-z]+|[A-Z]+", name)
    return not WORDS.isdisjoint(word.lower() for word in words)


def list_squeezes_first(hint: SESpec | None) -> tuple[str, ...]:
    """List the squeezes, that of the block found before first."""
    return SQUEEZES if hint is None else tuple(dict.fromkeys((hint.squeeze, *SQUEEZES)))


def list_activations_first(hint: SESpec | None, slopes: Sequence[float] = ()) -> tuple[Activation, ...]:
    """List the activations, that of the block found before first; ``slopes`` are those that were seen."""
    seen = tuple(LeakyReLU(slope) for slope in slopes)
    return tuple(dict.fromkeys((*(() if hint is None else (hint.activation,)), *seen, *KNOWN_ACTIVATIONS)))


def list_gates_first(hint: SESpec | None) -> tuple[Gate, ...]:
    """List the gates, that of the block found before first."""
    return tuple(dict.fromkeys((*(() if hint is None else (hint.gate,)), *KNOWN_GATES)))


def choose_sizes(widths: Sequence[int], rank: int) -> tuple[int, ...]:
    """Choose lengths of spatial axes that are none of the widths, so that no axis is mistaken for another."""
    return tuple(length for length in (3, 5, 2, 7, 11, 13, 17) if length not in widths)[:rank]


def choose_large_sizes(rank: int) -> tuple[int, ...]:
    """Choose lengths of spatial axes that are larger than the windows of poolings."""
    return (16, 10, 9)[:rank]


def round_shortly(number: float, limit: float) -> float:
    """Return the shortest decimal number within an error.

    >>> round_shortly(0.16666671, 1e-5)
    0.16667
    """
    return next((short for digits in range(16) if abs((short := round(number, digits)) - number) <= limit), number)


def name_class(module: Any) -> str:
    """Return the dotted name of a module's class.

    >>> name_class(SESpec(8, hidden=2))
    'se_spec.spec.SESpec'
    """
    return f"{type(module).__module__}.{type(module).__qualname__}".replace(".<locals>", "")


def drop_inside(path: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that are not inside of a module.

    >>> drop_inside("se", {"se.fc": 1, "se": 2, "other": 3})
    {'se': 2, 'other': 3}
    """
    prefix = f"{path}." if path else ""
    return {inner: value for inner, value in entries.items() if not inner.startswith(prefix)}


def no_block_error(module: Any, found: Mapping[str, Any], left: Mapping[str, str], reason: str = "") -> SpecError:
    """Make the error for a module that is no block: why not, and which blocks it holds.

    >>> print(no_block_error(SESpec(8, hidden=2), {}, {}))
    se_spec.spec.SESpec is no Squeeze-and-Excitation block: it computes nothing like one
    """
    held = f"; it holds {len(found)} blocks: {', '.join(list(found)[:5])}" if found else ""
    reason = reason or next(iter(left.values()), "it computes nothing like one")
    return SpecError(f"{name_class(module)} is no Squeeze-and-Excitation block: {reason}{held}")
