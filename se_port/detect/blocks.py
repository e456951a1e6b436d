"""Detection of SE blocks, by their names and shapes, wherever they are in a file."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from se_spec import LayoutError, SESpec
from se_spec.texts import quote, shorten

from ..graphs import Lookalike, Match, match_blocks
from ..graphs.paths import make_distinct
from ..layouts.base import UNKNOWN, BlockLayout
from ..layouts.block_mapping import NORM_LEAVES, BlockMapping
from ..layouts.blocks import BLOCK_ALIASES, BLOCK_LAYOUTS
from ..layouts.templates import fill, fit_ones
from ..sources import Source
from .beside import Beside, NameIndex, fold_norms, look_beside, read_slope
from .derived import derive_weights
from .found import CHOICES, Found
from .given_names import find_by_templates

Tensors = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
GRAPH = "graph"
"""The layout of a block that was found by its operations, whatever the names."""
SHOWN_LOOKALIKES = 3
MAX_SPATIAL_AXES = 3
PERCEPTRONS = ("mlp",)
"""Last elements of a path that are no block where the layout's names are common: CBAM's mlp also uses maxima."""


class Candidate(NamedTuple):
    """A possible block: its mapping by one layout, and its widths; ``hidden`` is None for a single projection."""

    mapping: BlockMapping
    channels: int
    hidden: int | None
    beside: Beside = Beside()

    @property
    def row(self) -> BlockLayout:
        """The layout's table."""
        return BLOCK_LAYOUTS[self.mapping.layout]

    @property
    def first_layer(self) -> str:
        """The file's name of the first projection."""
        return next(iter(self.mapping.names.values())).removesuffix(self.row.leaves[0])


def find(
    source: Source,
    layout: str = "auto",
    activation: Any = None,
    gate: Any = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, Found]:
    """Find every block of a file: in its graph if it has one, else by names and shapes.

    Returns:
        Each block by its path in the file; where several have one path, by the name of its first layer.

    Raises:
        LayoutError: there is no such layout, no block, a block that can be read in two ways or is not of floats, or a
            block whose layout fixes another activation or gate than was given.
    """
    if names is not None:
        return find_by_templates(derive_weights(source), names, activation, gate)
    found, lookalikes = search(source, layout, activation, gate)
    if found:
        return found
    raise LayoutError(explain_nothing(source, layout, lookalikes))


def search(
    source: Source, layout: str = "auto", activation: Any = None, gate: Any = None
) -> tuple[dict[str, Found], dict[str, str]]:
    """Search a file once: every block by its path, and by path what resembles a block, with the reason why it is none.

    Raises:
        LayoutError: as ``find``, but for a file without blocks.
    """
    if _has_graphs(source, layout):
        return _search_graphs(source, activation, gate)
    derived, changes = derive_weights(source)
    blocks, lookalikes = _group_candidates(derived, layout)
    order = {name: index for index, name in enumerate(derived)}
    paths = sorted(blocks, key=lambda path: min(order[name] for name in blocks[path][0].mapping.names.values()))
    found = {path: _resolve(derived, blocks[path], activation, gate) for path in paths}
    for path, block in found.items():
        computed = tuple(f"{name}: {changes[name]}" for name in block.names.values() if name in changes)
        found[path] = replace(block, changes=(*computed, *block.changes))
    return found, lookalikes


def _has_graphs(source: Source, layout: str) -> bool:
    return layout in ("auto", GRAPH) and bool(source.graphs)


def _group_candidates(source: Source, layout: str) -> tuple[dict[str, list[Candidate]], dict[str, str]]:
    """Group what the layouts see by block, and by path what resembles a block, with the reason why it is none."""
    groups: dict[frozenset[str], list[Candidate]] = {}
    index = NameIndex(source.shapes)
    for name, row in select_layouts(layout).items():
        for candidate in iterate_candidates(index, name, row, requested=name == layout):
            groups.setdefault(frozenset(candidate.mapping.names.values()), []).append(candidate)
    owners: dict[str, list[frozenset[str]]] = {}
    for names in groups:
        for name in names:
            owners.setdefault(name, []).append(names)
    # A projection that is half of a pair is no block of its own.
    largest = [
        _most_specific(groups[names])
        for names in groups
        if not any(names < other for other in min((owners[name] for name in names), key=len))
    ]
    # A layout may explain what others see as a problem.
    sound = [[candidate for candidate in group if not candidate.beside.problem] for group in largest]
    lookalikes = {
        group[0].mapping.path or group[0].first_layer: group[0].beside.problem
        for group, rest in zip(largest, sound, strict=True)
        if not rest
    }
    sound = [group for group in sound if group]
    _check_disjoint(sound)
    counts = Counter(group[0].mapping.path for group in sound)
    blocks = {
        group[0].mapping.path if counts[group[0].mapping.path] == 1 else group[0].first_layer: group for group in sound
    }
    return blocks, lookalikes


def explain_nothing(source: Source, layout: str, lookalikes: Mapping[str, str]) -> str:
    """Say why a file has no block: what resembles one, and which tensors have the shapes of two projections."""
    shown = list(lookalikes.items())[:SHOWN_LOOKALIKES]
    if _has_graphs(source, layout):
        parts = "".join(f"; {shorten(path)}: {shorten(reason)}" for path, reason in shown)
        more = f"; {len(lookalikes)} parts resemble one{parts}" if lookalikes else ""
        return f"no SE block in the graph's {sum(len(graph.nodes) for graph in source.graphs)} nodes{more}"
    source = derive_weights(source).source
    searched = "any layout" if layout == "auto" else f"layout {layout!r}"
    lines = [f"no SE block of {searched} in these {len(source)} tensors; `se-port layouts` lists the names"]
    lines += [f"{shorten(path)} resembles one, but {shorten(reason)}" for path, reason in shown]
    pairs = find_pairs(source.shapes)
    if pairs:
        shapes = source.shapes
        first = ", ".join(f"{shorten(a)} {shapes[a]} and {shorten(b)} {shapes[b]}" for a, b in pairs[:SHOWN_LOOKALIKES])
        lines.append(
            f"{len(pairs)} pairs have the shapes of two projections: {first}; if they are blocks, give names=, "
            f"as {{'reduce.weight': {quote(pairs[0][0])}, 'expand.weight': {quote(pairs[0][1])}}}, "
            "with {path} for what differs"
        )
    if source.format == "keras" and all(re.search(r"/\d+$", name) for name in source):
        lines.append(
            "the file has places of layers and not their names, as Keras 2 wrote .weights.h5; "
            "save the model as .keras or .h5, or give its network"
        )
    return "; ".join(lines)


def find_pairs(shapes: Shapes) -> list[tuple[str, str]]:
    """Find weights that follow each other with the shapes (R, C) and (C, R), axes of length one aside.

    >>> find_pairs({"a.w": (4, 16, 1, 1), "a.b": (4,), "b.w": (16, 4, 1, 1), "c.w": (10, 16)})
    [('a.w', 'b.w')]
    """
    weights = [(name, tuple(length for length in shape if length != 1)) for name, shape in shapes.items()]
    matrices = [
        (name, shape) for name, shape in weights if len(shape) == 2 and len(shapes[name]) - 2 <= MAX_SPATIAL_AXES
    ]
    pairs, taken = [], ""
    for (first, shape), (second, other) in itertools.pairwise(matrices):
        if shape == other[::-1] and shape[0] != shape[1] and first != taken:
            pairs.append((first, second))
            taken = second
    return pairs


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


def _search_graphs(source: Source, activation: Any, gate: Any) -> tuple[dict[str, Found], dict[str, str]]:
    """Search a file's graphs; nothing is unknown there.

    Raises:
        LayoutError: a block has another activation or gate than was given.
    """
    matches, lookalikes = match_graphs(source)
    for match in matches:
        for name, given in zip(CHOICES, (activation, gate), strict=True):
            if given is not None and given != getattr(match.spec, name):
                raise LayoutError(
                    f"{shorten(match.path)} has the {name} {getattr(match.spec, name)!r}, as its graph says; "
                    f"given was {given!r}"
                )
    found = {
        match.path: Found(match.spec, match.parameters, (), (GRAPH,), match.names, match.changes) for match in matches
    }
    paths = make_distinct([lookalike.path or lookalike.output for lookalike in lookalikes])
    return found, dict(zip(paths, (lookalike.reason for lookalike in lookalikes), strict=True))


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


def iterate_candidates(
    index: NameIndex, name: str, row: BlockLayout, *, requested: bool = False
) -> Iterator[Candidate]:
    """Yield the blocks that a layout sees in a file.

    Args:
        index: of the file's tensors.
        name: of the layout.
        row: its table.
        requested: the caller named this layout, so a block that is the whole file needs no particular path or width.
    """
    weight, _ = row.leaves
    shapes = index.shapes
    pattern = _compile_pattern(row, row.expand if row.reduce is None else row.reduce)
    for key in shapes:
        if not key.endswith(weight) or not (matched := pattern.fullmatch(key.removesuffix(weight))):
            continue
        path = matched["path"] or ""
        numbers = {"k": int(matched["k"] or 0)} if "k" in pattern.groupindex else {}
        prefix = path + row.separator if path else ""
        modules = {} if row.reduce is None else {"reduce": prefix + fill(row.reduce, numbers)}
        modules["expand"] = prefix + fill(row.expand, numbers)
        if row.norm and not _has_whole_norm(shapes, prefix, row.norm[0], key):
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
        if widths is None or (row.narrow and wider and not whole):
            continue
        beside = Beside() if row.norm else _explain(index, prefix, modules, names, widths, key)
        yield Candidate(BlockMapping(name, path, names), *widths, beside)


def _explain(
    index: NameIndex,
    prefix: str,
    modules: dict[str, str],
    names: dict[str, str],
    widths: tuple[int, int | None],
    first: str,
) -> Beside:
    """Explain what is beside the projections, in the block's own path or in the unit around it."""
    channels, hidden = widths
    beside = look_beside(index, prefix, modules, set(names.values()), (hidden or channels, channels))
    if beside == Beside() and _has_siblings(index.shapes, prefix, first):
        return Beside(problem="a norm or an activation with weights is beside the projections")
    return beside


def _collect_names(shapes: Shapes, modules: dict[str, str], row: BlockLayout) -> dict[str, str] | None:
    """Map canonical names to the file's, in canonical order; None if a weight is missing or the biases do not fit."""
    weight, bias = row.leaves
    biases = [module + bias in shapes for module in modules.values()]
    if any(module + weight not in shapes for module in modules.values()):
        return None
    if (any(biases) and not row.bias) or (row.bias and not any(biases) and not row.optional):
        return None
    names = {}
    for (projection, module), has_bias in zip(modules.items(), biases, strict=True):
        names[f"{projection}.weight"] = module + weight
        if has_bias:
            names[f"{projection}.bias"] = module + bias
    return names


def _compile_pattern(row: BlockLayout, module: str) -> re.Pattern[str]:
    body = re.escape(module).replace(re.escape("{_k}"), r"(?:_(?P<k>[0-9]{1,9}))?")
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
    # Both convolutions have as many axes of length one as their map has spatial axes, and so may their biases.
    rank = len(shapes["expand.weight"])
    weight_axes = fit_ones(row.weight, rank)
    is_alike = row.bias.count("1") == row.weight.count("1")
    bias_axes = fit_ones(row.bias, rank - 1) if is_alike else row.bias
    for canonical, shape in shapes.items():
        module, _, leaf = canonical.partition(".")
        axes = weight_axes if leaf == "weight" else bias_axes
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
                    f"{shorten(name)} can be of two blocks, that of {shorten(owners[name].first_layer)} and that of "
                    f"{shorten(candidate.first_layer)}"
                )
            owners[name] = candidate


def _resolve(tensors: Tensors, group: list[Candidate], activation: Any, gate: Any) -> Found:
    """Make the block of the candidates that share its tensors."""
    _check_one_reading(group)
    for distinctive in ("norm", "parents"):
        group = [candidate for candidate in group if getattr(candidate.row, distinctive)] or group
    first, rows = group[0], [candidate.row for candidate in group]
    slope = read_slope(tensors, first.beside.slope) if first.beside.slope else None
    if slope is not None:
        rows = [replace(row, activation=UNKNOWN) for row in rows]
        activation = slope if activation is None else activation
    choices = {
        name: _resolve_choice(name, given, first, rows) for name, given in zip(CHOICES, (activation, gate), strict=True)
    }
    if first.hidden is None:
        choices["activation"] = "identity"
    unknown = tuple(name for name in CHOICES if choices[name] == UNKNOWN)
    fields: dict[str, Any] = {name: value for name, value in choices.items() if value != UNKNOWN}
    fields |= {"single_projection": True} if first.hidden is None else {"hidden": first.hidden}
    fields["gain"] = rows[0].gain if len({row.gain for row in rows}) == 1 else 1.0
    parameters, folded = fold_norms(first.mapping.load(tensors), first.beside.norms, tensors)
    changes = ["batch norm folded into the first projection"] if rows[0].norm else folded
    spec = SESpec(first.channels, bias=any(name.endswith("bias") for name in parameters), **fields)
    shapes = spec.parameter_shapes()
    for name in shapes.keys() - parameters.keys():
        changes.append(f"zeros for {name}, which the file does not have")
        parameters[name] = np.zeros(shapes[name], parameters["expand.weight"].dtype)
    layouts = tuple(candidate.mapping.layout for candidate in group)
    ordered = {name: parameters[name] for name in shapes}
    return Found(spec, ordered, unknown, layouts, first.mapping.names, tuple(changes))


def _check_one_reading(group: list[Candidate]) -> None:
    readings = {(candidate.channels, candidate.hidden, candidate.row.weight.replace("1", "")) for candidate in group}
    if len(readings) > 1:
        ways = "; ".join(
            f"{candidate.mapping.layout}: {candidate.channels} channels, hidden {candidate.hidden}"
            for candidate in group
        )
        raise LayoutError(
            f"{shorten(group[0].mapping.path) or 'the block'} can be read in two ways, whose names and shapes both fit "
            f"({ways}); say layout={group[0].mapping.layout!r} or another"
        )


def _resolve_choice(name: str, given: Any, first: Candidate, rows: list[BlockLayout]) -> Any:
    """Return the activation or gate: as the layouts fix it, or as given, or ``UNKNOWN``."""
    values = [getattr(row, name) for row in rows]
    fixed = values[0] if all(value == values[0] for value in values) else UNKNOWN
    if given is not None and fixed not in (UNKNOWN, given):
        raise LayoutError(
            f"{shorten(first.mapping.path) or 'the block'} has the {name} {fixed!r}, "
            f"as layout {first.mapping.layout!r} always; given was {given!r}; "
            "say only what is unknown, or name the layout that the file has"
        )
    return fixed if given is None else given
