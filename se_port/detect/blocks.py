"""Detection of SE blocks, by their names and shapes, wherever they are in a file."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from se_spec import LayoutError, SESpec

from ..graphs import Lookalike, Match, match_blocks
from ..graphs.paths import make_distinct
from ..layouts.base import UNKNOWN, BlockLayout
from ..layouts.block_mapping import NORM_LEAVES, BlockMapping
from ..layouts.blocks import BLOCK_ALIASES, BLOCK_LAYOUTS
from ..layouts.templates import fill
from ..sources import Source

Tensors = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
CHOICES = ("activation", "gate")
GRAPH = "graph"
"""The layout of a block that was found by its operations, whatever the names."""
SHOWN_LOOKALIKES = 3
PERCEPTRONS = ("mlp",)
"""Last elements of a path that are no block where the layout's names are common: CBAM's mlp also uses maxima."""


@dataclass(frozen=True)
class Found:
    """An SE block of a file.

    Args:
        spec: widths and biases as the file has them; activation and gate as the layout fixes them or the caller gives
            them, else the defaults of SESpec.
        parameters: canonical.
        unknown: which of ``activation`` and ``gate`` the file does not determine.
        layouts: names of those that fit.
        names: canonical name to the file's.
        changes: what was computed and not just moved.
    """

    spec: SESpec
    parameters: dict[str, np.ndarray]
    unknown: tuple[str, ...]
    layouts: tuple[str, ...]
    names: dict[str, str]
    changes: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A possible block: its mapping by one layout, and its widths; ``hidden`` is None for a single projection."""

    mapping: BlockMapping
    channels: int
    hidden: int | None

    @property
    def row(self) -> BlockLayout:
        """The layout's table."""
        return BLOCK_LAYOUTS[self.mapping.layout]

    @property
    def first_layer(self) -> str:
        """The file's name of the first projection."""
        return next(iter(self.mapping.names.values())).removesuffix(self.row.leaves[0])


def find(source: Source, layout: str = "auto", activation: Any = None, gate: Any = None) -> dict[str, Found]:
    """Find every block of a file: in its graph if it has one, else by names and shapes.

    Returns:
        Each block by its path in the file; where several have one path, by the name of its first layer.

    Raises:
        LayoutError: there is no such layout, no block, a block that can be read in two ways or is not of floats, or a
            block whose layout fixes another activation or gate than was given.
    """
    if layout in ("auto", GRAPH) and source.graphs:
        return find_in_graphs(source, activation, gate)
    groups: dict[frozenset[str], list[Candidate]] = {}
    for name, row in select_layouts(layout).items():
        for candidate in iterate_candidates(source.shapes, name, row, requested=name == layout):
            groups.setdefault(frozenset(candidate.mapping.names.values()), []).append(candidate)
    # A projection that is half of a pair is no block of its own.
    largest = [_most_specific(groups[names]) for names in groups if not any(names < other for other in groups)]
    _check_disjoint(largest)
    counts = Counter(group[0].mapping.path for group in largest)
    blocks = {
        group[0].mapping.path if counts[group[0].mapping.path] == 1 else group[0].first_layer: group
        for group in largest
    }
    if not blocks:
        searched = "any layout" if layout == "auto" else f"layout {layout!r}"
        raise LayoutError(
            f"no SE block of {searched} in these {len(source)} tensors; `se-port layouts` lists the names"
        )
    order = {name: index for index, name in enumerate(source)}
    paths = sorted(blocks, key=lambda path: min(order[name] for name in blocks[path][0].mapping.names.values()))
    return {path: _resolve(source, blocks[path], activation, gate) for path in paths}


def match_graphs(source: Source) -> tuple[list[Match], list[Lookalike]]:
    """Find the blocks of all graphs of a file, and what only resembles one.

    A block of several graphs, such as the signatures of a SavedModel, has the same parameters in each and is one.
    """
    matches, lookalikes = [], []
    known = set[tuple[str, ...]]()
    for graph in source.graphs:
        found, others = match_blocks(graph)
        names = [tuple(match.names.values()) for match in found]
        matches += [match for match, key in zip(found, names, strict=True) if not key or key not in known]
        known.update(names)
        lookalikes += others
    paths = make_distinct([match.path for match in matches])
    return [replace(match, path=path) for match, path in zip(matches, paths, strict=True)], lookalikes


def find_in_graphs(source: Source, activation: Any = None, gate: Any = None) -> dict[str, Found]:
    """Find every block of a file's graphs; nothing is unknown there.

    Raises:
        LayoutError: there is no block, or one has another activation or gate than was given.
    """
    matches, lookalikes = match_graphs(source)
    if not matches:
        parts = "".join(f"; {one.path or one.output}: {one.reason}" for one in lookalikes[:SHOWN_LOOKALIKES])
        more = f"; {len(lookalikes)} parts resemble one{parts}" if lookalikes else ""
        raise LayoutError(f"no SE block in the graph's {sum(len(graph.nodes) for graph in source.graphs)} nodes{more}")
    for match in matches:
        for name, given in zip(CHOICES, (activation, gate), strict=True):
            if given is not None and given != getattr(match.spec, name):
                raise LayoutError(
                    f"{match.path} has the {name} {getattr(match.spec, name)!r}, as its graph says; given was {given!r}"
                )
    return {
        match.path: Found(match.spec, match.parameters, (), (GRAPH,), match.names, match.changes) for match in matches
    }


def select_layouts(layout: str) -> dict[str, BlockLayout]:
    """Select the tables of a name: ``"auto"`` is all, ``"timm"`` all of timm.

    Raises:
        LayoutError: no such layout.
    """
    families = BLOCK_ALIASES.get(layout, (layout,))
    rows = {
        name: row
        for name, row in BLOCK_LAYOUTS.items()
        if layout == "auto" or any(name == family or name.startswith(f"{family}.") for family in families)
    }
    if not rows:
        raise LayoutError(f"layout {layout!r} is not known; expected auto or one of {', '.join(BLOCK_LAYOUTS)}")
    return rows


def iterate_candidates(shapes: Shapes, name: str, row: BlockLayout, *, requested: bool = False) -> Iterator[Candidate]:
    """Yield the blocks that a layout sees in a file.

    Args:
        shapes: of the file's tensors, by name.
        name: of the layout.
        row: its table.
        requested: the caller named this layout, so a block that is the whole file needs no particular path or width.
    """
    weight, _ = row.leaves
    pattern = _compile_pattern(row, row.expand if row.reduce is None else row.reduce)
    for key in shapes:
        if not key.endswith(weight) or not (matched := pattern.fullmatch(key.removesuffix(weight))):
            continue
        path = matched["path"] or ""
        numbers = {"k": int(matched["k"] or 0)} if "k" in pattern.groupindex else {}
        prefix = path + row.separator if path else ""
        modules = {} if row.reduce is None else {"reduce": prefix + fill(row.reduce, numbers)}
        modules["expand"] = prefix + fill(row.expand, numbers)
        if not _has_whole_norm(shapes, prefix, row.norm[0], key) if row.norm else _has_siblings(shapes, prefix, key):
            continue
        names = _collect_names(shapes, modules, row)
        if names is None:
            continue
        whole = requested and not path and all(key in names.values() or _is_of_norm(key, row) for key in shapes)
        if row.parents and not whole and not _ends_in(row.parents, path, row):
            continue
        if row.narrow and not whole and _ends_in(PERCEPTRONS, path, row):
            continue
        widths = _infer_widths({canonical: shapes[key] for canonical, key in names.items()}, row)
        wider = widths is not None and widths[1] is not None and widths[1] > widths[0]
        if widths and (whole or not row.narrow or not wider):
            yield Candidate(BlockMapping(name, path, names), *widths)


def _collect_names(shapes: Shapes, modules: dict[str, str], row: BlockLayout) -> dict[str, str] | None:
    """Map canonical names to the file's, in canonical order; None if a weight is missing or the biases do not fit."""
    weight, bias = row.leaves
    biases = [module + bias in shapes for module in modules.values()]
    if any(module + weight not in shapes for module in modules.values()) or len(set(biases)) > 1:
        return None
    if (biases[0] and not row.bias) or (row.bias and not biases[0] and not row.optional):
        return None
    names = {}
    for projection, module in modules.items():
        names[f"{projection}.weight"] = module + weight
        if biases[0]:
            names[f"{projection}.bias"] = module + bias
    return names


def _compile_pattern(row: BlockLayout, module: str) -> re.Pattern[str]:
    body = re.escape(module).replace(re.escape("{_k}"), r"(?:_(?P<k>\d+))?")
    return re.compile(rf"(?:(?P<path>.*){re.escape(row.separator)})?{body}", re.DOTALL)


def _ends_in(words: tuple[str, ...], path: str, row: BlockLayout) -> bool:
    """Whether a path's last element is one of these words; in paths with slashes an underscore separates, too."""
    separators = "./" if row.separator == "." else "./_"
    return path in words or path.endswith(tuple(sign + word for word in words for sign in separators))


def _has_siblings(shapes: Shapes, prefix: str, first: str) -> bool:
    """Whether another module with weights is beside the projections: PReLU, as in SINet, or a norm of the hidden
    width, as in RexNet, GCNet and projection heads.

    Numbered norms beside convolutions belong to a unit around the block, whatever their width.
    """
    hidden = shapes[first][:1]
    numbers = ("", "0", "1", "2") if len(shapes[first]) == 2 else ("",)
    siblings = ["act", "activ", *(norm + number for norm in ("bn", "ln", "norm") for number in numbers)]
    return any(
        shapes.get(f"{prefix}{sibling}.{leaf}") == hidden for sibling in siblings for leaf in ("weight", "running_mean")
    )


def _is_of_norm(name: str, row: BlockLayout) -> bool:
    return row.norm is not None and name.startswith(f"{row.norm[0]}.")


def _has_whole_norm(shapes: Shapes, prefix: str, norm: str, first: str) -> bool:
    hidden = shapes[first][:1]
    return all(shapes.get(f"{prefix}{norm}.{leaf}") == hidden for leaf in NORM_LEAVES)


def _infer_widths(shapes: Shapes, row: BlockLayout) -> tuple[int, int | None] | None:
    """Channels and hidden width of a block; None if the shapes are not a block's."""
    lengths: dict[str, set[int]] = {"C": set(), "R": set()}
    for canonical, shape in shapes.items():
        module, _, leaf = canonical.partition(".")
        axes = row.weight if leaf == "weight" else row.bias
        if len(shape) != len(axes):
            return None
        outputs, inputs = ("R", "C") if module == "reduce" else ("C", "R" if "reduce.weight" in shapes else "C")
        for axis, length in zip(axes, shape, strict=True):
            if axis == "1":
                if length != 1:
                    return None
            else:
                lengths[outputs if axis == "O" else inputs].add(length)
    if len(lengths["C"]) != 1 or len(lengths["R"]) > 1 or 0 in lengths["C"] | lengths["R"]:
        return None
    (channels,), hidden = lengths["C"], next(iter(lengths["R"]), None)
    return channels, hidden


def _most_specific(group: list[Candidate]) -> list[Candidate]:
    """Keep the candidates that explain most of the names: in ``se_conv_reduce``, ``conv_reduce`` beats ``reduce``."""
    shortest = min(len(candidate.mapping.path) for candidate in group)
    return [candidate for candidate in group if len(candidate.mapping.path) == shortest]


def _check_disjoint(groups: list[list[Candidate]]) -> None:
    """Refuse two blocks that share a tensor, such as three square layers counted in a row."""
    owners: dict[str, Candidate] = {}
    for candidate in (group[0] for group in groups):
        for name in candidate.mapping.names.values():
            if name in owners:
                raise LayoutError(
                    f"{name} can be of two blocks, that of {owners[name].first_layer} and that of "
                    f"{candidate.first_layer}"
                )
            owners[name] = candidate


def _resolve(tensors: Tensors, group: list[Candidate], activation: Any, gate: Any) -> Found:
    """Make the block of the candidates that share its tensors."""
    _check_one_reading(group)
    for distinctive in ("norm", "parents"):
        group = [candidate for candidate in group if getattr(candidate.row, distinctive)] or group
    first, rows = group[0], [candidate.row for candidate in group]
    choices = {
        name: _resolve_choice(name, given, first, rows) for name, given in zip(CHOICES, (activation, gate), strict=True)
    }
    if first.hidden is None:
        choices["activation"] = "identity"
    unknown = tuple(name for name in CHOICES if choices[name] == UNKNOWN)
    fields: dict[str, Any] = {name: value for name, value in choices.items() if value != UNKNOWN}
    fields |= {"single_projection": True} if first.hidden is None else {"hidden": first.hidden}
    fields["gain"] = rows[0].gain if len({row.gain for row in rows}) == 1 else 1.0
    names = first.mapping.names
    spec = SESpec(first.channels, bias="expand.bias" in names, **fields)
    layouts = tuple(candidate.mapping.layout for candidate in group)
    changes = ("batch norm folded into the first projection",) if rows[0].norm else ()
    return Found(spec, first.mapping.load(tensors), unknown, layouts, names, changes)


def _check_one_reading(group: list[Candidate]) -> None:
    readings = {(candidate.channels, candidate.hidden, candidate.row.weight.replace("1", "")) for candidate in group}
    if len(readings) > 1:
        ways = "; ".join(
            f"{candidate.mapping.layout}: {candidate.channels} channels, hidden {candidate.hidden}"
            for candidate in group
        )
        raise LayoutError(
            f"{group[0].mapping.path or 'the block'} can be read in two ways, whose names and shapes both fit "
            f"({ways}); say layout={group[0].mapping.layout!r} or another"
        )


def _resolve_choice(name: str, given: Any, first: Candidate, rows: list[BlockLayout]) -> Any:
    """The activation or gate: as the layouts fix it, or as given, or ``UNKNOWN``."""
    values = [getattr(row, name) for row in rows]
    fixed = values[0] if all(value == values[0] for value in values) else UNKNOWN
    if given is not None and fixed not in (UNKNOWN, given):
        raise LayoutError(
            f"{first.mapping.path or 'the block'} has the {name} {fixed!r}, as layout {first.mapping.layout!r} always; "
            f"given was {given!r}; say only what is unknown, or name the layout that the file has"
        )
    return fixed if given is None else given
