"""The form of a fault, and the helpers that inject one into a block."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from se_spec import HardSigmoid, SESpec

from ..cases import DTYPES
from .block import Block

Change = Callable[[Block], None]
"""Modifies a block in place."""
Applies = Callable[[SESpec], bool]
"""Whether a fault makes a difference for a spec."""
FaultyStage = Callable[..., Any]
"""A stage with a mistake: ``(block, right, *arguments)``, where ``right`` is the stage without it."""


def always(spec: SESpec) -> bool:
    """Return true for every block."""
    return True


def has_two_projections(spec: SESpec) -> bool:
    """Return whether a block has hidden values."""
    return not spec.single_projection


def has_mean(spec: SESpec) -> bool:
    """Return whether the squeeze has a mean."""
    return spec.squeeze != "max"


def has_hard_gate(spec: SESpec) -> bool:
    """Return whether the gate is a hard sigmoid with any numbers."""
    return spec.gate == "hard_sigmoid" or isinstance(spec.gate, HardSigmoid)


@dataclass(frozen=True)
class Fault:
    """One known mistake.

    Args:
        name: the name in the verdict; it is part of the interface.
        stage: squeeze, reduce, activation, expand, gate, scale, gradient, call.
        sentence: what the wrong code does.
        source: the thread or code where it happened, or the property of the trials that reveals it.
        remedy: how to correct it.
        change: injects it into a right block.
        applies: for which specs its answer differs from the right one.
        dtypes: the dtypes in which the difference exceeds the bound.
        half: for which of these specs that is so in half precision.
        rank: the number of spatial axes on which it is detected.
        forms: other changes that are the same mistake.
        rounds: whether it is a mistake of rounding, whose numbers depend on the order of operations.
        jumps: whether its answer jumps where two numbers are equal, so that rounding may decide a whole sample.
    """

    name: str
    stage: str
    sentence: str
    source: str
    remedy: str
    change: Change
    applies: Applies = always
    dtypes: tuple[str, ...] = DTYPES
    forms: tuple[Change, ...] = ()
    half: Applies = always
    rank: int = 2
    rounds: bool = False
    jumps: bool = False

    def is_detectable(self, spec: SESpec, dtype: str) -> bool:
        """Whether its answer differs from the right one by more than rounding."""
        return dtype in self.dtypes and self.applies(spec) and (dtype in ("float64", "float32") or self.half(spec))

    def variants(self) -> tuple["Fault", ...]:
        """Return one fault for each form; all have this name."""
        return (self, *(replace(self, change=form, forms=()) for form in self.forms))

    def block(self, spec: SESpec, dtype: str = "float64") -> Block:
        """Make a block with this mistake."""
        return inject((self,), spec, dtype)


def inject(faults: tuple[Fault, ...], spec: SESpec, dtype: str = "float64") -> Block:
    """Make a block into which these faults are injected, one after the other."""
    block = Block(spec, dtype)
    for fault in faults:
        fault.change(block)
    return block


def change_spec(**changed: Any) -> Change:
    """Give fields of the spec other values; a value may be a function of the spec."""

    def change(block: Block) -> None:
        values = {name: value(block.spec) if callable(value) else value for name, value in changed.items()}
        block.spec = block.spec.replace(**values)

    return change


def replace_stage(name: str, wrong: FaultyStage) -> Change:
    """Call ``wrong(block, right, *arguments)`` in place of the stage ``right``."""

    def change(block: Block) -> None:
        right = getattr(block, name)
        setattr(block, name, lambda *arguments: wrong(block, right, *arguments))

    return change


def combine(*changes: Change) -> Change:
    """Apply several changes, one after the other."""

    def change(block: Block) -> None:
        for apply in changes:
            apply(block)

    return change
