"""A model's graph in one form, whatever system wrote it: what the readers make and ``match`` searches.

Each reader translates its system's operators to these; any other operator keeps its own name, and nothing is known
about its result. ``x`` is a tensor, ``w`` and ``b`` are tensors that are constants in an SE block.

=====================================  ==============================================================================
operator, inputs                       attributes
=====================================  ==============================================================================
``identity x``                         none: the result has the values of x (casts, dropout)
``reshape x``, ``expand x``            ``shape`` if it is known: the order of the values stays
``transpose x``                        ``axes``: the axes of x in their new order
``quantize x``, ``dequantize x, scale  ``axis`` of the scale, if it has one
, zero``
``pool x``                             ``kind`` "avg" or "max"; ``axes``, or ``window`` of a local one
``conv x, w, b``                       ``weight``: w's axes, as "OI11"; ``groups``
``matmul x, w`` or ``w, x``            ``transposed``: whether the weight is (outputs, inputs)
``batch_norm x, scale, offset, mean,   ``epsilon``
variance``
``add``, ``sub``, ``mul``, ``div``,    none
``pow``, ``maximum``, ``minimum``
``prelu x, slopes``                    none
``sum x``                              none: over any axes
``isnan x``, ``where mask, x, y``,     none
``greater x, y`` and the like
a function of ``functions.FUNCTIONS``  its numbers, as ``slope``
=====================================  ==============================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Args:
        op: the operator, as in the table above, or the system's own name.
        inputs: names of tensors; ``""`` is an optional input that is left out.
        outputs: names of tensors.
        attributes: of the operator.
        name: of the node in the file; may be empty.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class Graph:
    """The nodes of a model, or of one branch of it, in an order in which they can run.

    Args:
        nodes: of this graph.
        constants: by name; an array is read when it is used.
        literals: names of constants that stand in the model's code, and are no parameters.
        shapes: of tensors, where the file tells them; -1 is an axis of any length.
        quantized: names of constants that are stored as integers, and dequantized in ``constants``.
        name: of the graph.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    literals: frozenset[str] = frozenset()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    quantized: frozenset[str] = frozenset()
    name: str = ""
