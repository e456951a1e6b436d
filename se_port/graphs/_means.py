"""Means that TensorFlow's graphs write as a sum over axes, divided by the number of positions."""

import math
from collections.abc import Callable, Mapping

from ._flatten import FlatNode

Axes = tuple[int, ...]


class Means:
    """Follows sums, and products of the lengths of a tensor's axes.

    Args:
        shapes: of tensors, as far as they are known; -1 is an unknown length.
        read_integers: reads a short constant of integers; empty if a tensor is none.
        read_number: reads a constant of one number; None if a tensor is none.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        read_integers: Callable[[str], Axes],
        read_number: Callable[[str], float | None],
    ) -> None:
        self._shapes, self._read_integers, self._read_number = shapes, read_integers, read_number
        self._sums: dict[str, tuple[str, Axes]] = {}
        self._shapes_of: dict[str, str] = {}
        self._lengths: dict[str, tuple[str, Axes]] = {}
        self._numbers: dict[str, float] = {}

    def follow(self, flat: FlatNode, inputs: tuple[str, ...]) -> None:
        """Note what a node is, if it is part of such a mean."""
        x, y, output = inputs[0] if inputs else "", inputs[1] if len(inputs) > 1 else "", flat.output
        match flat.op:
            case "Sum" if axes := self._read_integers(y):
                self._sums[output] = x, axes
            case "Shape":
                self._shapes_of[output] = x
            case "StridedSlice" if x in self._shapes_of and flat.attributes.get("shrink_axis_mask") == 1:
                axes = self._read_integers(y)
                if len(axes) == 1 and axes[0] >= 0:
                    self._lengths[output] = self._shapes_of[x], axes
            case "Cast" | "Identity" if x in self._lengths:
                self._lengths[output] = self._lengths[x]
            case "Cast" | "Identity" if (number := self._read_number(x)) is not None:
                self._numbers[output] = number
            case "Mul" if x in self._lengths or y in self._lengths:
                self._multiply(output, x, y)

    def _multiply(self, output: str, x: str, y: str) -> None:
        """Note a product of lengths of one tensor, or of a length and the number 1."""
        (first, axes), (second, more) = (self._lengths.get(name, ("", ())) for name in (x, y))
        if first and second:
            if first == second and not set(axes) & set(more):
                self._lengths[output] = first, axes + more
        elif self._read_number(y if first else x) == 1.0:
            self._lengths[output] = first or second, axes + more

    def find(self, total: str, count: str) -> tuple[str, Axes] | None:
        """Find the tensor of which a quotient is the mean, and over which axes; None if it is none."""
        x, axes = self._sums.get(total, ("", ()))
        if not axes:
            return None
        if count in self._lengths:
            of, counted = self._lengths[count]
            return (x, axes) if of == x and sorted(counted) == sorted(axes) else None
        shape, number = self._shapes.get(x, ()), self._numbers.get(count, self._read_number(count))
        lengths = [shape[axis] for axis in axes if -len(shape) <= axis < len(shape)]
        is_known = len(lengths) == len(axes) and min(lengths) > 0
        return (x, axes) if is_known and number == math.prod(lengths) else None
