"""``SESpec``: which Squeeze-and-Excitation block is meant, as one frozen value.

Jie Hu, Li Shen, Samuel Albanie, Gang Sun, Enhua Wu: Squeeze-and-Excitation Networks, arXiv 1709.01507.
``docs/SPEC.md`` is the normative text; its clause numbers stand in the code.

Departures from the paper: the hidden width is at least 1 (the paper has no C < r), and the fields beyond
``channels`` and ``reduction`` express the variants of other systems.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Never, Self, TypedDict, Unpack

from . import nonlinearities, notebook, validation, widths
from .errors import SpecError
from .hints import suggest_field
from .nonlinearities import Activation, Gate
from .texts import quote

SQUEEZES = ("avg", "max", "avg_max")

_FROM_REDUCTION: Any = type("from reduction", (), {"__repr__": lambda self: "channels // reduction"})()


class SpecFields(TypedDict, total=False):
    """The fields of a ``SESpec`` beyond ``channels``, as keywords of a block.

    Args:
        reduction, hidden, single_projection, bias, activation, gate, squeeze, gain, residual: as for ``SESpec``.

    >>> fields: SpecFields = {"reduction": 8, "bias": True}
    >>> SESpec(64, **fields).hidden
    8
    """

    reduction: int | None
    hidden: int
    single_projection: bool
    bias: bool
    activation: Activation
    gate: Gate
    squeeze: str
    gain: float
    residual: bool


@dataclass(frozen=True, repr=False)
class SESpec:
    """The block ``y = x * (gain * gate(expand(activation(reduce(squeeze(x))))))``, plus x if ``residual``.

    Comparisons ignore the ratio: ``SESpec(64, reduction=16) == SESpec(64, hidden=4)``.

    Args:
        channels: C, at least 1.
        reduction: ratio r; hidden is ``max(1, C // r)`` (W-1). None if ``hidden`` or ``single_projection`` is given.
        hidden: R, at least 1; may exceed C. The attribute is always the integer.
        single_projection: one C -> C projection, no bottleneck and no activation (effective SE); hidden is C (E-4).
        bias: whether both projections have biases; the paper's section 6 and the tutorials have none (E-5).
        activation: ``"relu"``, ``"silu"``, ``"hard_swish"``, ``"gelu"`` (exact), ``"gelu_tanh"``, ``"relu6"``,
            ``"sigmoid"``, ``"tanh"``, ``"identity"`` or ``LeakyReLU(slope)``.
        gate: ``"sigmoid"``, ``"tanh"``, ``"relu"``, ``"identity"``, ``"hard_sigmoid"`` (slope 1/6, offset 1/2)
            or ``HardSigmoid(slope, offset, low, high)``.
        squeeze: ``"avg"``, ``"max"`` or ``"avg_max"`` (half the one plus half the other).
        gain: factor on the gate; NFNets have 2.
        residual: whether x is added to the result (MONAI's residual form).

    Raises:
        SpecError: a field has a value that is not allowed; the message has the allowed values.

    >>> SESpec(64, reduction=8).hidden, SESpec(64, hidden=12).hidden, SESpec(8).hidden
    (8, 12, 1)
    """

    channels: int
    _: KW_ONLY
    reduction: int | None = field(default=16, compare=False)
    hidden: int = _FROM_REDUCTION
    single_projection: bool = False
    bias: bool = False
    activation: Activation = "relu"
    gate: Gate = "sigmoid"
    squeeze: str = "avg"
    gain: float = 1.0
    residual: bool = False

    if not TYPE_CHECKING:  # a type checker has the fields; at run time Python's own error would name no remedy

        def __new__(cls, *positional, **fields):
            if len(positional) > 1:
                refuse_positions(positional[1:])
            refuse_unknown(fields, FIELDS)
            if fields and not positional and "channels" not in fields:
                raise SpecError("channels is missing: write SESpec(64), with the channels of the feature map first")
            return super().__new__(cls)

    def __post_init__(self) -> None:
        channels = validation.positive_integer("channels", self.channels)
        single = validation.flag("single_projection", self.single_projection)
        activation = nonlinearities.activation(self.activation)
        reduction, hidden = self._width(channels, single)
        canonical = {
            "channels": channels,
            "reduction": reduction,
            "hidden": hidden,
            "bias": validation.flag("bias", self.bias),
            "activation": "identity" if single else activation,  # E-4
            "gate": nonlinearities.gate(self.gate),
            "squeeze": validation.choice("squeeze", self.squeeze, SQUEEZES),
            "gain": validation.finite_number("gain", self.gain),
            "residual": validation.flag("residual", self.residual),
        }
        for name, value in canonical.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """Return the call that makes this spec, without defaults.

        >>> SESpec(64, hidden=12, gate="tanh"), SESpec(64, single_projection=True)
        (SESpec(64, hidden=12, gate='tanh'), SESpec(64, single_projection=True))
        """
        shown = [str(self.channels)]
        for entry in dataclasses.fields(self)[1:]:
            value = getattr(self, entry.name)
            derived = entry.name == "hidden" and (self.single_projection or self.reduction is not None)
            if value is not None and value != entry.default and not derived:
                shown.append(f"{entry.name}={value!r}")
        if self.single_projection:
            shown = [part for part in shown if part != "activation='identity'"]
        return f"SESpec({', '.join(shown)})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: every field, and the number of parameters.

        >>> "<b>SESpec(64)</b>" in SESpec(64)._repr_html_()
        True
        """
        facts = {name: getattr(self, name) for name in FIELDS if name != "reduction" or self.reduction is not None}
        sizes = self.parameter_shapes()
        count = sum(math.prod(shape) for shape in sizes.values())
        shapes = ", ".join(f"{name} {shape}" for name, shape in sizes.items())
        return notebook.format_facts(repr(self), facts | {"parameters": f"{count:,}: {shapes}"})

    def _width(self, channels: int, single: bool) -> tuple[int | None, int]:
        given = self.hidden is not _FROM_REDUCTION
        if single and given:
            validation.refuse("hidden", self.hidden, f"left out with single_projection, where it is {channels}")
        if single:
            return None, channels
        if given:
            return None, validation.positive_integer("hidden", self.hidden)
        reduction = validation.positive_integer("reduction", self.reduction)
        return reduction, widths.floor_width(channels, reduction, minimum=1)  # W-1

    @classmethod
    def preset(cls, name: str, channels: int, **overrides: Any) -> Self:
        """Make the spec of the block that the system ``name`` builds on ``channels`` channels.

        Args:
            name: of the system, a key of ``se_spec.PRESETS``.
            channels: of the feature map, at least 1.
            overrides: fields of the spec that replace the system's.

        Raises:
            SpecError: no such preset, or the system's own width rule gives 0.

        >>> SESpec.preset("torchvision.mobilenet_v3", 72).hidden, SESpec.preset("caffe", 256).bias
        (24, True)
        """
        from .presets import preset

        return cls(channels, **preset(name, channels, overrides))

    @classmethod
    def coerce(cls, spec: "SESpec | int", *positional: Never, **given: Unpack[SpecFields]) -> "SESpec":
        """Return the spec for the arguments of ``SqueezeExcitation(spec)`` or ``SqueezeExcitation(64, reduction=8)``.

        Args:
            spec: a spec, or the channels of the feature map.
            positional: none; a ratio without its name could be a width as well.
            given: fields of a spec, where ``spec`` is a number.

        Raises:
            SpecError: a spec is given together with fields, ``spec`` is neither a spec nor a channel count, or an
                argument is unknown or has no name.
        """
        if positional:
            refuse_positions(positional)
        refuse_unknown(given, FIELDS[1:])
        if not isinstance(spec, SESpec):
            return cls(spec, **given)
        if given:
            raise SpecError(f"{', '.join(given)} given beside a spec; use spec.replace({next(iter(given))}=...)")
        return spec

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return canonical names and shapes, in order (K-1).

        >>> SESpec(64).parameter_shapes()
        {'reduce.weight': (4, 64), 'expand.weight': (64, 4)}
        """
        names = {
            "reduce.weight": (self.hidden, self.channels),
            "reduce.bias": (self.hidden,),
            "expand.weight": (self.channels, self.hidden),
            "expand.bias": (self.channels,),
        }
        return {
            name: shape
            for name, shape in names.items()
            if not (self.single_projection and name.startswith("reduce"))
            if self.bias or not name.endswith("bias")
        }

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; a hidden width that came from ``reduction`` is derived anew.

        Args:
            changes: the new values, by field.

        Raises:
            SpecError: a value is not allowed.

        >>> SESpec(64).replace(channels=128).hidden, SESpec(64, hidden=4).replace(channels=128).hidden
        (8, 4)
        """
        current = {name: getattr(self, name) for name in FIELDS}
        derived = self.single_projection or self.reduction is not None or "reduction" in changes
        if (derived or changes.get("single_projection")) and "hidden" not in changes:
            del current["hidden"]
        if current["reduction"] is None:
            del current["reduction"]
        return type(self)(**{**current, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON data: every field but the ratio, which ``hidden`` makes superfluous."""
        data = {name: nonlinearities.to_data(getattr(self, name)) for name in FIELDS if name != "reduction"}
        if self.single_projection:
            del data["hidden"]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make the spec from the data of ``to_dict``.

        Args:
            data: fields by name; those that are left out have their defaults.

        Raises:
            SpecError: a name is not a field, ``channels`` is missing, or a value is not allowed.
        """
        if not isinstance(data, dict) or "channels" not in data or not set(data) <= set(FIELDS):
            raise SpecError(
                f"{quote(data)} is not a spec; it must be a dict with channels and any of {', '.join(FIELDS)}"
            )
        return cls(**{name: nonlinearities.from_data(value) for name, value in data.items()})

    def to_json(self) -> str:
        """Return the spec as one line of JSON.

        >>> SESpec.from_json(SESpec(64, gate="tanh").to_json()) == SESpec(64, gate="tanh")
        True
        """
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Make the spec from the text of ``to_json``.

        Args:
            text: a JSON object.

        Raises:
            SpecError: not JSON, or not a spec.
        """
        return cls.from_dict(validation.parse_json(text, "a spec"))


def refuse_positions(values: tuple[Any, ...]) -> Never:
    """Refuse arguments without names after the channels.

    Raises:
        SpecError: always; names the value and what it may mean.
    """
    raise SpecError(
        f"{quote(values[0])} is given without a name after the channels; write reduction={quote(values[0])}, or hidden="
    )


def refuse_unknown(given: Iterable[str], fields: tuple[str, ...]) -> None:
    """Refuse names that are no fields.

    Raises:
        SpecError: names the first, the fields, and those that it may have meant.
    """
    for name in given:
        if name not in fields:
            hint = suggest_field(name, fields)
            raise SpecError(f"{quote(name)} is not a field of a spec; it must be one of {', '.join(fields)}{hint}")


FIELDS = tuple(entry.name for entry in dataclasses.fields(SESpec))
