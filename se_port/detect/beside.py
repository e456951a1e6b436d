"""What is beside the projections in a block's own path: batch norms, a slope, adapters, and what no spec has.

A path is a block's own if it holds no other weights with two axes or more; else what is beside the projections belongs
to the unit around the block.
"""

import itertools
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from se_spec import LayoutError
from se_spec.nonlinearities import LeakyReLU
from se_spec.texts import shorten

from ..layouts.block_mapping import fold_norm

Tensors = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

NORMS = {
    ("weight", "bias", "running_mean", "running_var"): 1e-5,
    ("gamma", "beta", "moving_mean", "moving_variance"): 1e-3,
}
"""Tensors of a batch norm (scale, offset, mean, variance), and the epsilon that its framework has by default."""
COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
"""Of PyTorch's batch norm, and of tools that count operations."""
ADAPTERS = ("lora_", "hada_", "lokr_", "oft_", "adapter", "ia3_")
"""Beginnings of the names of low-rank and other adapters beside a weight."""
QUANTIZED = ("zero_point", "_packed_params", "qweight", "scales", "qzeros")
MAX_SEARCHED, MIN_SEARCHED = 64, 1 << 16
"""Names that are looked at beside all blocks: so many times those of the file, or this number more."""
BEFORE, AFTER, BEHIND = "in front of the activation", "behind the activation", "in front of the gate"
"""Places of a batch norm."""


class NameIndex:
    """The names of a file, in order, so that those that begin alike are found without a search through all.

    Args:
        shapes: of the file's tensors, by name.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self._names = sorted(shapes)
        is_matrix = (sum(length > 1 for length in shapes[name]) > 1 for name in self._names)
        self._matrices = [0, *itertools.accumulate(is_matrix)]
        self._names_left = MAX_SEARCHED * len(self._names) + MIN_SEARCHED

    def list_names(self, prefix: str) -> list[str]:
        """List the names that begin with a prefix.

        Raises:
            LayoutError: too many names were listed, since too many blocks would be in one place.
        """
        start, stop = self._find(prefix)
        self._names_left -= stop - start
        if self._names_left < 0:
            raise LayoutError(
                f"too many parts of {shorten(prefix) or 'the file'} may be a block; say which with names="
            )
        return self._names[start:stop]

    def count_matrices(self, prefix: str) -> int:
        """Count the tensors with two axes or more that are longer than one, among those of a prefix."""
        start, stop = self._find(prefix)
        return self._matrices[stop] - self._matrices[start]

    def is_matrix(self, name: str) -> bool:
        """Whether a tensor has two axes or more that are longer than one."""
        return sum(length > 1 for length in self.shapes[name]) > 1

    def _find(self, prefix: str) -> tuple[int, int]:
        start = bisect_left(self._names, prefix)
        return start, bisect_left(self._names, True, lo=start, key=lambda name: not name.startswith(prefix))


@dataclass(frozen=True)
class Norm:
    """A batch norm: its tensors' names, its place, and the epsilon that its framework has by default."""

    module: str
    tensors: tuple[str, ...]
    place: str
    epsilon: float


@dataclass(frozen=True)
class Beside:
    """What is beside the projections.

    Args:
        norms: to be folded.
        slope: the name of the slopes of a PReLU between the projections; ``""`` if there is none.
        problem: why this is no block of a spec; ``""`` if it may be.
    """

    norms: tuple[Norm, ...] = ()
    slope: str = ""
    problem: str = ""


def look_beside(
    index: NameIndex, prefix: str, modules: Mapping[str, str], used: set[str], widths: tuple[int, int]
) -> Beside:
    """Explain every tensor of a block's own path.

    Args:
        index: of the file's tensors.
        prefix: of the block's path, with its separator; ``""`` if the block is the whole file.
        modules: names of the projections, ``reduce`` and ``expand``.
        used: names of the block's parameters.
        widths: hidden and channels.

    Raises:
        LayoutError: adapters or quantization parameters are beside a weight.
    """
    shapes = index.shapes
    for module in modules.values():
        for name in index.list_names(f"{module}."):
            _refuse_changed_weights(name, module)
    if index.count_matrices(prefix) > sum(name.startswith(prefix) and index.is_matrix(name) for name in used):
        return Beside()
    rest = [name for name in index.list_names(prefix) if name not in used]
    norms: list[Norm] = []
    problems: list[str] = []
    slope = ""
    for module, leaves in _group(rest).items():
        parameters = set(leaves) - set(COUNTERS)
        form = next((form for form in NORMS if parameters == set(form)), None)
        if form:
            norm = _place_norm(module, leaves, form, modules, shapes, widths)
            if isinstance(norm, str):
                problems.append(norm)
            else:
                norms.append(norm)
        elif parameters == {"weight"} and _is_between(module, modules):
            slope = leaves["weight"]
        elif parameters and (prefix or parameters & {"running_mean", "moving_mean"}):
            problems.append(f"{module} has {', '.join(sorted(parameters))}, of which no spec has a place")
    return Beside(tuple(norms), slope, "; ".join(problems))


def read_slope(tensors: Tensors, name: str) -> LeakyReLU:
    """Read the slope of a PReLU.

    Raises:
        LayoutError: it has several.
    """
    slopes = np.unique(np.asarray(tensors[name], np.float64))
    if slopes.size != 1:
        raise LayoutError(f"{shorten(name)} is of a PReLU with {slopes.size} slopes, expected one")
    return LeakyReLU(float(slopes[0]))


def _refuse_changed_weights(name: str, module: str) -> None:
    """Refuse what changes a projection's weight."""
    leaf = name.removeprefix(f"{module}.")
    if leaf.startswith(ADAPTERS):
        raise LayoutError(
            f"{shorten(name)} is an adapter beside {shorten(module)}'s weight, whose scale the file does not have; "
            "merge adapters into the weights before the model is saved"
        )
    if leaf.startswith(QUANTIZED):
        raise LayoutError(
            f"{shorten(name)} says that {shorten(module)} is quantized; expected a model with weights of floats"
        )


def _group(names: list[str]) -> dict[str, dict[str, str]]:
    """Group names by module: its leaves, each with the whole name."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        module, _, leaf = re.sub(r"/", ".", name).rpartition(".")
        groups.setdefault(module, {})[leaf] = name
    return groups


def _place_norm(
    module: str,
    leaves: Mapping[str, str],
    form: tuple[str, str, str, str],
    modules: Mapping[str, str],
    shapes: Shapes,
    widths: tuple[int, int],
) -> Norm | str:
    """Find the place of a batch norm; or say why it has none."""
    width = max(shapes[leaves[form[2]]], default=0)
    place = _place(module, modules, at_channels=width != widths[0])
    expected = widths[1] if place == BEHIND else widths[0]
    if width != expected or ("reduce" not in modules and place != BEHIND):
        return f"{module} is a batch norm of {width} channels {place}, where {expected} are"
    return Norm(module, tuple(leaves[leaf] for leaf in form), place, NORMS[form])


def _place(module: str, modules: Mapping[str, str], *, at_channels: bool) -> str:
    """Tell a norm's place from its name: by numbers in a Sequential, by the projection that it is beside, or its width.

    In a Sequential the norm directly behind the first projection is in front of the activation.
    """
    numbers = [_number(name) for name in (modules.get("reduce", ""), module, modules["expand"])]
    first, own, second = numbers
    if own is not None and second is not None and own[0] == second[0]:
        if own[1] > second[1]:
            return BEHIND
        if first is not None and first[0] == own[0]:
            return BEFORE if own[1] == first[1] + 1 else AFTER
    for projection, place in (("reduce", BEFORE), ("expand", BEHIND)):
        parent = modules.get(projection, "").rpartition(".")[0]
        if parent not in {other.rpartition(".")[0] for name, other in modules.items() if name != projection} and (
            module.startswith(f"{parent}.")
        ):
            return place
    return BEHIND if at_channels or re.search(r"2$", module) else BEFORE


def _number(module: str) -> tuple[str, int] | None:
    """Split a module's name into its container and its number there."""
    found = re.fullmatch(r"(.*?)(?:\.|^)([0-9]{1,9})", re.sub("/", ".", module))
    return (found[1], int(found[2])) if found else None


def _is_between(module: str, modules: Mapping[str, str]) -> bool:
    """Whether a module may be an activation: between the projections' numbers, or named so."""
    numbers = [_number(name) for name in (modules.get("reduce", ""), module, modules["expand"])]
    if all(number is not None for number in numbers):
        (_, first), (_, own), (_, second) = (number for number in numbers if number is not None)
        return first < own < second
    return bool(re.search(r"act|relu", module.rpartition(".")[2], re.IGNORECASE))


def fold_norms(
    parameters: dict[str, np.ndarray], norms: tuple[Norm, ...], tensors: Tensors
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Fold batch norms into the projections, in float64, rounded once; say what was done.

    A norm scales and shifts the outputs of a projection in front of it, or the inputs of the second behind it.
    """
    if not norms:
        return parameters, []
    dtypes = {name: value.dtype for name, value in parameters.items()}
    wide = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    changes = []
    for norm in norms:
        projection = "reduce" if norm.place == BEFORE else "expand"
        weight, bias = wide[f"{projection}.weight"], wide.get(f"{projection}.bias", 0.0)
        values = [tensors[name] for name in norm.tensors]
        if norm.place == AFTER:  # W (norm of h) + b, with the norm as a product by channel
            factor, offset = fold_norm(np.ones((weight.shape[1], 1)), 0.0, values, norm.epsilon)
            wide["expand.weight"], wide["expand.bias"] = weight * factor[:, 0], bias + weight @ offset
        else:
            wide[f"{projection}.weight"], wide[f"{projection}.bias"] = fold_norm(weight, bias, values, norm.epsilon)
        changes.append(
            f"batch norm {norm.module} {norm.place} folded into the {'first' if norm.place == BEFORE else 'second'} "
            f"projection, epsilon {norm.epsilon:g}"
        )
    dtype = dtypes["expand.weight"]
    return {name: value.astype(dtypes.get(name, dtype)) for name, value in wide.items()}, changes
