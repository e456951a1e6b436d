"""The record of one block, the decorators that list blocks, and the adapters that make NumPy functions of them.

A block takes ``(x, w1, b1, w2, b2)`` as arrays of its framework, in the storage dtype: x in its own layout, reduce's
weight (R, C) and bias (R,), expand's weight (C, R) and bias (C,), and None for each parameter that the spec lacks. The
adapters convert arrays between NumPy and the framework and cast nothing, so that every cast is the block's own.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from se_spec import SESpec

from .causes import CAUSES

FRAMEWORKS = ("numpy", "torch", "keras", "jax")
STAGES = ("call", "squeeze", "reduce", "activation", "expand", "gate", "scale", "gradient")
NAMES = ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias")

Arrays = dict[str, np.ndarray]


class Block(NamedTuple):
    """One block of the set.

    Args:
        name: unique in the set.
        framework: one of ``FRAMEWORKS``.
        spec: the block that it claims to be.
        function: ``function(x, parameters) -> y``, NumPy in and out.
        description: what is wrong, or what is unusual where it is right.
        source: the thread or repository where such code is found, or ``habit`` where there is no single one.
        stage: the stage of the mistake, one of ``STAGES``; empty where the block is right.
        dtype: the dtype in which it is judged.
        vjp: ``vjp(x, dy, parameters) -> (dx, dparameters)``; None where only the forward pass is judged.
        data_format: its layout.
        ranks: the numbers of spatial axes for which it is written.
        is_right: whether it conforms to the spec.
        cause: the name that a catalogue has for the mistake; None where it has none.
    """

    name: str
    framework: str
    spec: SESpec
    function: Callable[..., Any]
    description: str
    source: str
    stage: str = ""
    dtype: str = "float32"
    vjp: Callable[..., Any] | None = None
    data_format: str = "channels_last"
    ranks: tuple[int, ...] = (2,)
    is_right: bool = False
    cause: str | None = None


class Registry:
    """The list of blocks of one framework, filled by its decorators.

    Args:
        framework: one of ``FRAMEWORKS``.
        adapt: makes ``function(x, parameters)`` of a block.
        differentiate: makes ``vjp(x, dy, parameters)`` of a block or of a derivative written by hand.
        data_format: the layout of its blocks, where the decorator names no other.
    """

    def __init__(
        self,
        framework: str,
        adapt: Callable[[Callable[..., Any]], Callable[..., Any]],
        differentiate: Callable[[Callable[..., Any]], Callable[..., Any]],
        data_format: str = "channels_last",
    ) -> None:
        self.framework, self.adapt, self.differentiate = framework, adapt, differentiate
        self.data_format = data_format
        self.blocks: list[Block] = []

    def wrong(
        self, name: str, spec: SESpec, stage: str, description: str, source: str, **options: Any
    ) -> Callable[[Any], Any]:
        """List the decorated block as wrong; ``options`` are those of ``_add``."""
        return self._add(name, spec, description, source, stage=stage, **options)

    def right(self, name: str, spec: SESpec, description: str, source: str, **options: Any) -> Callable[[Any], Any]:
        """List the decorated block as right; ``options`` are those of ``_add``."""
        return self._add(name, spec, description, source, is_right=True, **options)

    def _add(
        self, name: str, spec: SESpec, description: str, source: str, *, gradient: Any = None, **options: Any
    ) -> Callable[[Any], Any]:
        """Return the decorator; ``gradient`` is True to differentiate the block, or a derivative written by hand."""
        options.setdefault("data_format", self.data_format)

        def register(block: Any) -> Any:
            derivative = block if gradient is True else gradient
            vjp = None if derivative is None else self.differentiate(derivative)
            function = self.adapt(block() if isinstance(block, type) else block)
            self.blocks.append(Block(name, self.framework, spec, function, description, source, vjp=vjp, **options))
            return block

        return register


def load_blocks(framework: str) -> list[Block]:
    """List the blocks of one framework, which must be installed.

    Args:
        framework: one of ``FRAMEWORKS``.
    """
    module = importlib.import_module(f".{framework}_blocks", __package__)
    return [block._replace(cause=CAUSES.get(block.name)) for block in module.REGISTRY.blocks]


def in_order(parameters: Arrays) -> list[np.ndarray | None]:
    """Return the four parameters in the order of a block's arguments."""
    return [parameters.get(name) for name in NAMES]


def by_name(gradients: Any, parameters: Arrays) -> Arrays:
    """Return those gradients whose parameters exist, by name."""
    return {name: np.asarray(gradient) for name, gradient in zip(NAMES, gradients, strict=True) if name in parameters}
