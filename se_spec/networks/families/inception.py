"""Inception with batch norm: its frozen parts, and the layers that follow from them.

Sergey Ioffe, Christian Szegedy, arXiv 1502.03167; SE on a module's result as Jie Hu and others, arXiv 1709.01507.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

from ... import validation
from ..graph import Graph
from ..layers import Concatenation
from ..parts import Step, keywords, parse_list, parse_step, set_field, tuple_of

Branch = tuple[Step, ...]
Module = tuple[Branch, ...]


@dataclass(frozen=True)
class Inception:
    """The body of an Inception network.

    Every branch of a module starts from the module's input, and the branches' results are concatenated in order. SE is
    applied to the concatenation.

    Args:
        stages: the stages, in order; a stage is a tuple of modules, a module a tuple of branches, a branch a tuple of
            steps.

    Raises:
        SpecError: no stage, a stage without modules, a module without branches, a branch without steps, or branches of
            different strides.

    >>> from se_spec.networks import ConvStep, PoolStep
    >>> module = ((ConvStep(8, 1),), (PoolStep("avg", 3, 1), ConvStep(8, 1)))
    >>> len(Inception(((module, module),)).stages[0])
    2
    """

    name: ClassVar[str] = "inception"
    stages: tuple[tuple[Module, ...], ...]

    def __post_init__(self) -> None:
        lists = tuple | list
        stages = tuple(
            tuple(
                tuple(tuple_of("branch", branch, Step) for branch in tuple_of("module", module, lists))
                for module in tuple_of("modules", stage, lists)
            )
            for stage in tuple_of("stages", self.stages, lists)
        )
        for module in (module for stage in stages for module in stage):
            strides = [prod(step.stride for step in branch) for branch in module]
            if len(set(strides)) > 1:
                validation.refuse("module", module, f"of branches with one stride, not {strides}")
        set_field(self, "stages", stages)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build the body from JSON data.

        Args:
            data: fields by name.

        Raises:
            SpecError: a name is no field, or a value is not allowed.
        """

        def parse_module(module: Any) -> tuple[Any, ...]:
            return parse_list(lambda branch: parse_list(parse_step, branch), module)

        return cls(parse_list(lambda stage: parse_list(parse_module, stage), keywords(cls, data)["stages"]))

    def add_layers(self, graph: Graph, x: str) -> str:
        """Add every module's layers to the graph; return the last one's name.

        Args:
            graph: the layers so far.
            x: name of the layer whose output the body takes.
        """
        for number, stage in enumerate(self.stages, 1):
            for index, module in enumerate(stage):
                x = self._add_module(graph, f"stage{number}.block{index}", x, module)
        return x

    def _add_module(self, graph: Graph, prefix: str, x: str, module: Module) -> str:
        ends = tuple(graph.add_steps(f"{prefix}.branch{index}", x, branch) for index, branch in enumerate(module))
        channels = sum(graph.channels[end] for end in ends)
        return graph.add_se(prefix, graph.add(Concatenation(f"{prefix}.concat", ends, channels, channels)))
