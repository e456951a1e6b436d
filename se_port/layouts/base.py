"""What a layout is: a table that says, for each family of tensors, its name, axes and transformation in a file.

A layout is written from canonical names to a system's; read the other way it is the same table, so what can be loaded
can be saved. ``network_layouts`` and ``block_layouts`` are the tables.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from se_spec.nonlinearities import HardSigmoid, LeakyReLU

UNKNOWN = "?"
"""A field of the spec that a file of the layout does not tell."""


class Leaf(NamedTuple):
    """One tensor of a module.

    Args:
        name: template of its whole name; ``{m}`` is the module's.
        axes: as they lie there, in canonical letters (OIHW, OI, O); 1 for an axis of one, a small letter for an axis
            that lies backwards.
        change: the transformation, of ``changes.CHANGES``, if it is not a permutation.
        by: the tensors that the transformation needs beside this one, templates too.
        column: of two that the tensor has; another leaf is the other.
    """

    name: str
    axes: str = "O"
    change: str = ""
    by: tuple[str, ...] = ()
    column: int | None = None


class Parts(NamedTuple):
    """A module that stands in the file as several, each a share of the canonical one's outputs.

    Args:
        name: template; ``{i}`` counts the parts from 0.
        number: how many.
    """

    name: str
    number: int


class Extra(NamedTuple):
    """A tensor that a system keeps and the canonical parameters do not have.

    Args:
        name: template; with ``{m}``, one for each module of the kind.
        kind: ``"norm"``, ``"conv"`` ..., a canonical module's name, or ``""`` for one in the whole file.
        value: what is written, all over; None if nothing is.
        dtype: of what is written; ``""`` is the module's own.
        shape: in canonical letters, ``"O"`` or ``""`` for a single number.
    """

    name: str
    kind: str = "norm"
    value: int | None = 0
    dtype: str = "int64"
    shape: str = ""


@dataclass(frozen=True)
class Layout:
    """A system's names.

    Args:
        source: where they were read.
        verified: ``"peer ran"``, ``"reference output"`` or ``"key list typed from source"``, which proves nothing.
        networks: names of the networks (and their versions without SE) that are kept so; empty means any.
        modules: canonical module to the system's, in order of precedence; templates.
        leaves: ``kind.leaf``, or a canonical name, to the tensor; kinds are conv, norm, dense and se.
        separator: stands for the dots of canonical modules that ``modules`` does not list; None if it lists all.
        extras: what else is in the file.
        loose: axes of one may be missing or more, as MATLAB has it.
        format: in which such files come, as in ``files.FORMATS``.
    """

    source: str
    verified: str
    leaves: dict[str, Leaf]
    modules: dict[str, str | Parts] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    separator: str | None = None
    extras: tuple[Extra, ...] = ()
    loose: bool = False
    format: str = "safetensors"


@dataclass(frozen=True)
class BlockLayout:
    """A system's SE block, wherever it stands in a file.

    Args:
        source, verified: as of ``Layout``.
        reduce, expand: the modules' names behind the block's path; templates in ``k``. A single projection has only
            ``expand``.
        weight: axes of the projections.
        bias: axes of their biases; ``""`` where the system has none.
        optional: whether the biases may be missing.
        leaves: names of weight and bias behind the module's.
        at: the last element of the block's path must be one of these, if there are any.
        activation, gate: as the layout fixes them, or ``UNKNOWN``.
        gain: of the spec.
        norm: batch norm between the first projection and the activation, to be folded into it: its name and epsilon.
        separator: between the block's path and the modules, and before the path's last element.
        narrow: whether the names say little, so that only hidden <= channels counts as a block (an MLP's is larger).
    """

    source: str
    verified: str
    reduce: str | None
    expand: str
    weight: str
    bias: str = "O"
    optional: bool = False
    leaves: tuple[str, str] = (".weight", ".bias")
    at: tuple[str, ...] = ()
    activation: str | LeakyReLU = UNKNOWN
    gate: str | HardSigmoid = UNKNOWN
    gain: float = 1.0
    norm: tuple[str, float] | None = None
    separator: str = "."
    narrow: bool = False
