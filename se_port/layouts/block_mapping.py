"""The mapping of one SE block: the file's tensor for each canonical parameter; and both directions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from se_spec import LayoutError
from se_spec.parameters import FLOATS
from se_spec.texts import shorten

from .blocks import BLOCK_LAYOUTS
from .templates import fill, fit_ones, to_canonical, to_foreign

Tensors = Mapping[str, np.ndarray]
NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


class BlockMapping(NamedTuple):
    """A block in a layout.

    Args:
        layout: a key of ``BLOCK_LAYOUTS``.
        path: of the block in the file; ``""`` if the file is the block.
        names: canonical name to the file's, in canonical order.
    """

    layout: str
    path: str
    names: dict[str, str]

    def load(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """Canonical parameters of a block; batch norm between the projections is folded into the first.

        Raises:
            LayoutError: a tensor is not of floats.
        """
        row = BLOCK_LAYOUTS[self.layout]
        for name in self.names.values():
            if tensors[name].dtype.name not in FLOATS:
                raise LayoutError(
                    f"{shorten(name)} has dtype {tensors[name].dtype}, expected one of {', '.join(FLOATS)}"
                )
        axes = {"weight": row.weight, "bias": row.bias}
        parameters = {
            canonical: np.ascontiguousarray(_to_canonical(tensors[name], axes[canonical.partition(".")[2]]))
            for canonical, name in self.names.items()
        }
        return self._fold_norm(tensors, parameters, *row.norm) if row.norm else parameters

    def save(self, parameters: Tensors) -> dict[str, np.ndarray]:
        """Return the file's tensors for canonical parameters."""
        row = BLOCK_LAYOUTS[self.layout]
        axes = {"weight": row.weight, "bias": row.bias}
        tensors = {
            self.names[canonical]: np.ascontiguousarray(to_foreign(value, axes[canonical.partition(".")[2]]))
            for canonical, value in parameters.items()
        }
        return tensors | self._identity_norm(parameters["reduce.bias"], *row.norm) if row.norm else tensors

    @property
    def computed(self) -> set[str]:
        """Canonical names of parameters that are not only moved: a batch norm of the file is folded into them."""
        return {"reduce.weight", "reduce.bias"} if BLOCK_LAYOUTS[self.layout].norm else set()

    @property
    def conversions(self) -> tuple[str, ...]:
        """Descriptions of what is arithmetic."""
        return ("a batch norm that changes nothing follows reduce",) if self.computed else ()

    def _norm_names(self, norm: str) -> list[str]:
        separator = BLOCK_LAYOUTS[self.layout].separator
        path = f"{self.path}{separator}{norm}" if self.path else norm
        return [f"{path}.{leaf}" for leaf in NORM_LEAVES]

    def _fold_norm(
        self, tensors: Tensors, parameters: dict[str, np.ndarray], norm: str, epsilon: float
    ) -> dict[str, np.ndarray]:
        """Fold the batch norm behind the first projection, rounded once."""
        weight, bias = fold_norm(
            parameters["reduce.weight"],
            parameters["reduce.bias"],
            [tensors[name] for name in self._norm_names(norm)],
            epsilon,
        )
        dtype = parameters["reduce.weight"].dtype
        return parameters | {"reduce.weight": weight.astype(dtype), "reduce.bias": bias.astype(dtype)}

    def _identity_norm(self, like: np.ndarray, norm: str, epsilon: float) -> dict[str, np.ndarray]:
        """Make a batch norm that changes nothing: its variance and epsilon add up to 1."""
        values = (1.0, 0.0, 0.0, 1.0 - epsilon)
        return {name: np.full_like(like, value) for name, value in zip(self._norm_names(norm), values, strict=True)}


def _to_canonical(array: np.ndarray, axes: str) -> np.ndarray:
    return to_canonical(array, fit_ones(axes, array.ndim))


def fold_norm(
    weight: np.ndarray, bias: np.ndarray | float, norm: Sequence[np.ndarray], epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compute ``scale (W z + b - mean) / sqrt(variance + epsilon) + offset`` as one product, in float64.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,), or 0.
        norm: scale, offset, mean and variance, each (outputs,).
        epsilon: of the batch norm, above 0.
    """
    scale, offset, mean, variance = (np.asarray(value, np.float64).reshape(-1) for value in norm)
    factor = scale / np.sqrt(variance + epsilon)
    return factor[:, None] * np.asarray(weight, np.float64), factor * (np.asarray(bias, np.float64) - mean) + offset


def map_block(parameters: Tensors, layout: str, path: str = "", number: int = 0) -> BlockMapping:
    """Map a block's canonical parameters to a layout.

    Args:
        parameters: canonical; their names say whether there are two projections, and biases.
        layout: a key of ``BLOCK_LAYOUTS``.
        path: of the block in the file.
        number: of the first layer, in layouts that count their layers.

    Raises:
        LayoutError: the layout has no place for a parameter, or needs one that is missing.
    """
    if layout not in BLOCK_LAYOUTS:
        raise LayoutError(f"layout {layout!r} is not a block's; expected one of {', '.join(BLOCK_LAYOUTS)}")
    row = BLOCK_LAYOUTS[layout]
    single, biased = "reduce.weight" not in parameters, "expand.bias" in parameters
    if single != (row.reduce is None):
        raise LayoutError(f"layout {layout!r} has {'one projection' if row.reduce is None else 'two projections'}")
    if biased and not row.bias:
        raise LayoutError(f"layout {layout!r} has no biases, this block has")
    if not biased and row.bias and not row.optional:
        raise LayoutError(f"layout {layout!r} has biases, this block has none")
    prefix = path + row.separator if path else ""
    templates = {"reduce": row.reduce or "", "expand": row.expand}
    names = {}
    for canonical in parameters:
        module, _, leaf = canonical.partition(".")
        names[canonical] = prefix + fill(templates[module], {"k": number}) + row.leaves[leaf == "bias"]
    return BlockMapping(layout, path, names)
