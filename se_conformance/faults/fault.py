"""What a fault is, and how a wrong stage is written."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from se_spec import HardSigmoid, SESpec

from ..cases import DTYPES
from .block import Block

Change = Callable[[Block], None]
Applies = Callable[[SESpec], bool]
FaultyStage = Callable[..., Any]
"""A stage in another form."""


def always(spec: SESpec) -> bool:
    """Of every block."""
    return True


def has_two_projections(spec: SESpec) -> bool:
    """Of a block with hidden values."""
    return not spec.single_projection


def has_mean(spec: SESpec) -> bool:
    """Of a squeeze that has a mean."""
    return spec.squeeze != "max"


def has_hard_gate(spec: SESpec) -> bool:
    """Of a hard sigmoid, whatever its numbers."""
    return spec.gate == "hard_sigmoid" or isinstance(spec.gate, HardSigmoid)


@dataclass(frozen=True)
class Fault:
    """One known mistake.

    Args:
        name: what the verdict says.
        stage: squeeze, reduce, activation, expand, gate, scale, gradient, call.
        sentence: what the wrong code does.
        source: where it happened, or which test it is for.
        remedy: what to do.
        change: how a right block becomes this one.
        applies: for which specs it differs from the right answer.
        dtypes: in which it can be seen.
        half: for which of these specs it can be seen in half precision.
        rank: of the maps on which it is seen.
        forms: other ways to make the same mistake.
        rounds: whether it is a matter of rounding, so that another order of the same operations gives other numbers.
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

    def is_detectable(self, spec: SESpec, dtype: str) -> bool:
        """Whether it can be told from the right answer."""
        return dtype in self.dtypes and self.applies(spec) and (dtype in ("float64", "float32") or self.half(spec))

    def variants(self) -> tuple["Fault", ...]:
        """One fault per form, all of one name."""
        return (self, *(replace(self, change=form, forms=()) for form in self.forms))

    def block(self, spec: SESpec, dtype: str = "float64") -> Block:
        """A block with this mistake."""
        return inject((self,), spec, dtype)


def inject(faults: tuple[Fault, ...], spec: SESpec, dtype: str = "float64") -> Block:
    """A block with these mistakes, made one after the other."""
    block = Block(spec, dtype)
    for fault in faults:
        fault.change(block)
    return block


def change_spec(**changed: Any) -> Change:
    """Another value of some fields of the spec."""

    def change(block: Block) -> None:
        values = {name: value(block.spec) if callable(value) else value for name, value in changed.items()}
        block.spec = block.spec.replace(**values)

    return change


def replace_stage(name: str, wrong: FaultyStage) -> Change:
    """``wrong(block, right, *arguments)`` in place of the stage; ``right`` is what stood there."""

    def change(block: Block) -> None:
        right = getattr(block, name)
        setattr(block, name, lambda *arguments: wrong(block, right, *arguments))

    return change


def combine(*changes: Change) -> Change:
    """One after the other."""

    def change(block: Block) -> None:
        for each in changes:
            each(block)

    return change
