"""Records of a layout: for each family of tensors, its name, axes and transformation in a file.

A layout is written from canonical names to a system's. The same table is used in the other direction, so whatever can
be loaded can be saved. The tables themselves are in ``networks`` and ``blocks``.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from se_spec.nonlinearities import HardSigmoid, LeakyReLU

UNKNOWN = "?"
"""Value of a field of the spec that a layout does not determine."""

PEER, REFERENCE = "peer ran", "reference output"
FRAMEWORK, TYPED = "framework ran", "key list typed from source"


class TensorRule(NamedTuple):
    """Name, axes and transformation of one tensor of a module.

    Args:
        name: template of the whole name; ``{m}`` is the module's.
        axes: in the file's order, in canonical letters (OIHW, OI, O); 1 is an axis of length one, a small letter an
            axis that lies backwards.
        transform: a key of ``transforms.TRANSFORMS``, if it is not a permutation.
        needs: templates of the tensors that the transformation reads beside this one.
        column: index in the last axis, where two canonical tensors share one tensor of the file.
    """

    name: str
    axes: str = "O"
    transform: str = ""
    needs: tuple[str, ...] = ()
    column: int | None = None


class Split(NamedTuple):
    """A module that the file splits into several, each with a share of the canonical outputs.

    Args:
        name: template; ``{i}`` counts the parts from 0.
        number: of parts.
    """

    name: str
    number: int


class Extra(NamedTuple):
    """A tensor of the file that is no canonical parameter.

    Args:
        name: template; with ``{m}``, one for each module of the kind.
        kind: ``"norm"``, ``"conv"`` ..., a canonical module's name, or ``""`` for one in the whole file.
        value: fills the tensor when it is written; None if it is not written.
        dtype: of what is written; ``""`` is the parameters' own.
        shape: in canonical letters, ``"O"`` or ``""`` for a single number.
    """

    name: str
    kind: str = "norm"
    value: int | None = 0
    dtype: str = "int64"
    shape: str = ""


@dataclass(frozen=True)
class Layout:
    """A system's names for whole networks.

    Args:
        source: where the names were read.
        verified: ``PEER``, ``REFERENCE``, ``FRAMEWORK`` or ``TYPED``; the last proves nothing.
        rules: ``kind.leaf``, or a canonical name, to the tensor; kinds are conv, norm, dense and se.
        modules: canonical module to the system's, in order of precedence; templates.
        networks: names of the networks (and their versions without SE) that have this layout; empty means any.
        separator: replaces the dots of canonical modules that ``modules`` does not list; None if it lists all.
        extras: what else is in the file.
        loose: axes of length one may be missing or added, as MATLAB does.
        format: in which such files come, a key of ``formats.FORMATS``.
    """

    source: str
    verified: str
    rules: dict[str, TensorRule]
    modules: dict[str, str | Split] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    separator: str | None = None
    extras: tuple[Extra, ...] = ()
    loose: bool = False
    format: str = "safetensors"


@dataclass(frozen=True)
class BlockLayout:
    """A system's names for an SE block, wherever it is in a file.

    Args:
        source, verified: as of ``Layout``.
        reduce, expand: names of the projections behind the block's path; templates in ``k``. A single projection has
            only ``expand``.
        weight: axes of the projections.
        bias: axes of their biases; ``""`` where the system has none.
        optional: whether the biases may be missing.
        leaves: names of weight and bias behind the projection's.
        parents: allowed last elements of the block's path; empty allows any.
        activation, gate: as the layout fixes them, or ``UNKNOWN``.
        gain: of the spec.
        norm: name and epsilon of a batch norm between the first projection and the activation, which is folded into
            the projection.
        separator: between the block's path and the projections, and before the path's last element.
        narrow: whether the names are so common that only hidden <= channels counts as a block (an MLP's is larger).
    """

    source: str
    verified: str
    reduce: str | None
    expand: str
    weight: str
    bias: str = "O"
    optional: bool = False
    leaves: tuple[str, str] = (".weight", ".bias")
    parents: tuple[str, ...] = ()
    activation: str | LeakyReLU = UNKNOWN
    gate: str | HardSigmoid = UNKNOWN
    gain: float = 1.0
    norm: tuple[str, float] | None = None
    separator: str = "."
    narrow: bool = False
