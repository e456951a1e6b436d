"""Detection of networks: which layout a file has, and of which network, from names and shapes alone."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

from se_spec import LayoutError, NetworkSpec, SpecError, network, parameters
from se_spec.networks import NETWORKS
from se_spec.networks.layers import Convolution
from se_spec.texts import quote

from ..layouts.base import Layout
from ..layouts.mapping import NetworkMapping, foreign_modules, map_network
from ..layouts.networks import NETWORK_LAYOUTS
from ..layouts.templates import canonical_shape

Shapes = Mapping[str, tuple[int, ...]]
MAX_PREFIXES = 16
"""Prefixes of one file that are tried, the outermost first."""
ALIASES = {"torch": "se_torch", "keras": "se_keras", "flax": "se_flax", "nnx": "se_flax", "linen": "se_flax.linen"}
"""The layouts of se-suite, by their framework's name."""


class LayoutMatch(NamedTuple):
    """A file that holds a given network.

    Args:
        layout: a key of ``NETWORK_LAYOUTS``.
        prefix: of every name in the file, such as ``module.``, or nothing.
        mapping: of the network in the layout.
    """

    layout: str
    prefix: str
    mapping: NetworkMapping


class NetworkMatch(NamedTuple):
    """A file that holds a named network.

    Args:
        name: a key of ``se_spec.networks.NETWORKS``.
        net: that network, with the file's classes, input channels and ratio of the SE blocks.
        layout, prefix, mapping: as of ``LayoutMatch``.
    """

    name: str
    net: NetworkSpec
    layout: str
    prefix: str
    mapping: NetworkMapping


def detect_network(shapes: Shapes, layout: str = "auto") -> NetworkMatch | None:
    """Recognise the network of a file.

    Args:
        shapes: of the file's tensors, by name.
        layout: whose names to look for; ``"auto"`` is all.

    Returns:
        The match, or None if the file holds no network that has a name.

    Raises:
        LayoutError: the file fits several networks, or several layouts of one.
    """
    matches = match_networks(shapes, layout)
    if not matches:
        return None
    first = matches[0]
    _check_one_prefix([match.prefix for match in matches])
    if any(match.net != first.net for match in matches):
        names = ", ".join(match.name for match in matches)
        raise LayoutError(f"the source may be {names}, which have the same names and shapes; say which")
    fitting = list(dict.fromkeys((match.layout, match.prefix) for match in matches))
    # A layout may keep such a network without naming it.
    for name, prefix in _present_layouts(shapes, layout):
        if (name, prefix) not in fitting and _covers(NETWORK_LAYOUTS[name], first.net):
            mapping = map_network(first.net, NETWORK_LAYOUTS[name], name)
            if not _find_problems(mapping, _without_prefix(shapes, prefix), name):
                fitting.append((name, prefix))
    _check_one_layout(sorted((name for name, _ in fitting), key=[*NETWORK_LAYOUTS].index))
    return first


def match_network(shapes: Shapes, net: NetworkSpec, layout: str = "auto") -> LayoutMatch:
    """Find the layout in which a file holds a given network.

    Raises:
        LayoutError: no layout fits, with the problems of the nearest; or more than one fits.
    """
    matches, problems = [], []
    present = {name for name, _ in _present_layouts(shapes, layout)}  # if none is, all, for the error's sake
    parts = {prefix: _without_prefix(shapes, prefix) for prefix in _prefixes(shapes)}
    for name, mapping in candidate_mappings(net, layout, present).items():
        other = _other_network(net, NETWORK_LAYOUTS[name], name)
        for prefix, bare in parts.items():
            if problem := _find_problems(mapping, bare, f"layout {name!r}"):
                problems.append((len(bare.keys() & mapping.shapes.keys()), problem))
            elif other:
                problems.append((len(bare), other))
            else:
                matches.append(LayoutMatch(name, prefix, mapping))
    _check_one_prefix([match.prefix for match in matches])
    _check_one_layout(list(dict.fromkeys(match.layout for match in matches)))
    if matches:
        return matches[0]
    raise LayoutError(max(problems)[1])


def match_networks(shapes: Shapes, layout: str = "auto") -> list[NetworkMatch]:
    """Find every named network that a file may hold; none if the layout is not a network's."""
    matches = []
    for name, prefix, candidates in _plausible_networks(shapes, layout):
        bare = _without_prefix(shapes, prefix)
        adapted = {candidate: _adapt_to_file(candidate, name, bare) for candidate in candidates}
        matches += [
            NetworkMatch(candidate, found[0], name, prefix, found[1]) for candidate, found in adapted.items() if found
        ]
    return matches


def describe_nearest(shapes: Shapes, layout: str = "auto") -> str:
    """Describe the problems of the named network most like the file; nothing if less than half of the names agree."""
    best, description = 0.5, ""
    for name, prefix, candidates in _plausible_networks(shapes, layout):
        bare = _without_prefix(shapes, prefix)
        for candidate in candidates:
            mapping = _map_named(candidate, name)
            names = bare.keys() - mapping.constants.keys()
            similarity = len(mapping.shapes.keys() & names) / len(mapping.shapes.keys() | names)
            if similarity > best:
                problem = _find_problems(mapping, bare, f"{candidate} in layout {name!r}")
                best, description = (similarity, problem) if problem else (best, description)
    return description


def _other_network(net: NetworkSpec, layout: Layout, name: str) -> str:
    """Say which networks a layout has under these names and shapes, if the given one computes otherwise than each."""
    shapes = parameters.shapes(net)
    same = []
    for known in layout.networks:
        for variant in _with_plain(known):
            other = _align(network(variant), net)
            if other is not None and parameters.shapes(other) == shapes:
                if other.layers == net.layers:
                    return ""
                same.append(variant)
    if not same:
        return ""
    return (
        f"layout {name!r} has {' and '.join(dict.fromkeys(same))} under these names and shapes, and this is another "
        "network: its parameters would fit and its answers differ; name the network that the file has"
    )


def _align(known: NetworkSpec, net: NetworkSpec) -> NetworkSpec | None:
    """Give a named network the classes, image, SE widths and momentum of another; None if they do not go together."""
    se = known.se
    if (se is None) != (net.se is None):
        return None
    if se is not None and net.se is not None:
        se = replace(se, reduction=net.se.reduction)
    try:
        return known.replace(
            num_classes=net.num_classes,
            channels=net.channels,
            input_size=net.input_size,
            momentum=net.momentum,
            se=se,
        )
    except SpecError:
        return None


def choose_mapping(net: NetworkSpec, layout: str) -> tuple[str, NetworkMapping]:
    """Choose the layout to write a network in: its name, and the mapping.

    Raises:
        LayoutError: the layout has another network under these names and shapes, or keeps none like it.
    """
    candidates = candidate_mappings(net, layout)
    others = {name: _other_network(net, NETWORK_LAYOUTS[name], name) for name in candidates}
    fitting = [name for name, other in others.items() if not other]
    if not fitting:
        raise LayoutError(next(iter(others.values())))
    return fitting[0], candidates[fitting[0]]


def candidate_mappings(net: NetworkSpec, layout: str, preferred: Collection[str] = ()) -> dict[str, NetworkMapping]:
    """Map a network to every layout of a name that keeps such networks.

    Args:
        net: the network.
        layout: ``"auto"``, a layout or a family.
        preferred: layouts that alone count, if any of them keeps such networks.

    Raises:
        LayoutError: no layout does.
    """
    rows = select_layouts(layout)
    chosen = {name: row for name, row in rows.items() if name in preferred and _covers(row, net)}
    chosen = chosen or {name: row for name, row in rows.items() if _covers(row, net)}
    if not chosen:
        networks = sorted({name for row in rows.values() for name in row.networks})
        raise LayoutError(
            f"layout {layout!r} keeps {', '.join(networks)} and those without SE; this is another network"
        )
    return {name: map_network(net, row, name) for name, row in chosen.items()}


def select_layouts(layout: str) -> dict[str, Layout]:
    """Select the tables of a name: ``"auto"`` is all, ``"caffe"`` the three of Caffe.

    Raises:
        LayoutError: no such layout.
    """
    rows = _layouts_of(layout)
    if not rows:
        raise LayoutError(f"layout {layout!r} is no network's; expected auto or one of {', '.join(NETWORK_LAYOUTS)}")
    return rows


def _layouts_of(layout: str) -> dict[str, Layout]:
    family = ALIASES.get(layout, layout)
    return {
        name: row
        for name, row in NETWORK_LAYOUTS.items()
        if family in ("auto", name) or (row.networks and name.startswith(f"{family}."))
    }


def _check_one_prefix(prefixes: list[str]) -> None:
    """Refuse copies of a network, such as a moving average beside it."""
    distinct = list(dict.fromkeys(prefixes))
    if len(distinct) > 1:
        raise LayoutError(
            f"the file has {len(distinct)} such networks, behind {', '.join(map(quote, distinct))}; "
            f"choose one with prefix={quote(distinct[0])} or --prefix"
        )


def _check_one_layout(names: list[str]) -> None:
    if len(names) > 1:
        raise LayoutError(f"the file fits {' and '.join(names)}; say which with layout=...")


def _find_problems(mapping: NetworkMapping, shapes: Shapes, where: str) -> str:
    """Describe why a file does not have a mapping's tensors; nothing if it has."""
    try:
        mapping.check(shapes, where)
    except LayoutError as error:
        return str(error)
    return ""


def _prefixes(shapes: Shapes) -> list[str]:
    """List possible prefixes: nothing, what every name begins with, and what is before a layout's first convolution.

    >>> _prefixes({"model.conv1.weight": (64, 3, 7, 7), "ema.conv1.weight": (64, 3, 7, 7), "loss.weight": (10,)})
    ['', 'model.', 'ema.']
    """
    first, last = min(shapes, default=""), max(shapes, default="")  # a prefix of these two is a prefix of all
    same = next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    common = first[: max(first.rfind(".", 0, same), first.rfind("/", 0, same)) + 1]
    stems = _first_convolutions()
    behind = [
        name[: found.end()]
        for name in shapes
        for found in re.finditer(r"[./]", name[: -min(map(len, stems))])
        if name[found.end() :] in stems
    ]
    outer = sorted(dict.fromkeys(behind), key=lambda prefix: len(re.findall(r"[./]", prefix)))
    return list(dict.fromkeys(["", *([common] if common else []), *outer]))[:MAX_PREFIXES]


@cache
def _first_convolutions() -> frozenset[str]:
    return frozenset(_convolution_name(name, "stem.conv1") for name in NETWORK_LAYOUTS)


def _without_prefix(shapes: Shapes, prefix: str) -> Shapes:
    """Keep the names that begin with a prefix, without it."""
    if not prefix:
        return shapes
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _plausible_networks(shapes: Shapes, layout: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each present layout, the prefix, and the named networks that the layout keeps."""
    for name, prefix in _present_layouts(shapes, layout):
        row = NETWORK_LAYOUTS[name]
        candidates = [variant for net in row.networks or NETWORKS for variant in _with_plain(net)]
        yield name, prefix, [net for net in dict.fromkeys(candidates) if _covers(row, network(net))]


def _present_layouts(shapes: Shapes, layout: str) -> Iterator[tuple[str, str]]:
    """Yield each layout whose first convolution is in the file, and the prefix."""
    for prefix in _prefixes(shapes):
        for name in _layouts_of(layout):
            if prefix + _convolution_name(name, "stem.conv1") in shapes:
                yield name, prefix


@cache
def _convolution_name(layout: str, module: str) -> str:
    """Return the file's name for the weight of a canonical convolution, or of its first part."""
    row = NETWORK_LAYOUTS[layout]
    rule = row.rules.get(f"{module}.weight", row.rules["conv.weight"])
    return rule.name.replace("{m}", foreign_modules(row, module, layout)[0])


@cache
def _last_convolution(name: str) -> str:
    return [layer.name for layer in network(name).layers if isinstance(layer, Convolution)][-1]


def _adapt_to_file(name: str, layout: str, shapes: Shapes) -> tuple[NetworkSpec, NetworkMapping] | None:
    """Give a named network the file's classes, input channels and ratio; None if the file is another network."""
    if _convolution_name(layout, _last_convolution(name)) not in shapes:  # most candidates end here, unmapped
        return None
    mapping, net = _map_named(name, layout), network(name)
    expected = mapping.shapes
    if not expected.keys() <= shapes.keys() or shapes.keys() - expected.keys() - mapping.constants.keys():
        return None
    try:
        adapted = net.replace(
            num_classes=_canonical_length(mapping, "classifier.weight", 0, shapes),
            channels=_canonical_length(mapping, "stem.conv1.weight", 1, shapes),
        )
        reduce = next((name for name in mapping.entries if name.endswith("se.reduce.weight")), None)
        if reduce and adapted.se is not None:
            hidden, channels = (_canonical_length(mapping, reduce, axis, shapes) for axis in (0, 1))
            if not hidden:
                return None
            adapted = adapted.replace(se=replace(adapted.se, reduction=max(1, channels // hidden)))
        if adapted != net:
            mapping = map_network(adapted, NETWORK_LAYOUTS[layout], layout)
        mapping.check(shapes, name)
    except (LayoutError, SpecError, ValueError):
        return None
    return adapted, mapping


def _canonical_length(mapping: NetworkMapping, canonical: str, axis: int, shapes: Shapes) -> int:
    entry = mapping.entries[canonical][0]
    return canonical_shape(entry.rule.axes, shapes[entry.name])[axis] * entry.part[1]


@cache
def _map_named(name: str, layout: str) -> NetworkMapping:
    return map_network(network(name), NETWORK_LAYOUTS[layout], layout)


@cache
def _with_plain(name: str) -> tuple[str, ...]:
    """List a network's name, and the names of the same network without SE."""
    plain = network(name).replace(se=None)
    return (name, *(other for other in NETWORKS if other != name and network(other) == plain))


def _covers(layout: Layout, net: NetworkSpec) -> bool:
    """Whether a network has the same kinds of parameters as one of the layout's networks, with SE or without."""
    return not layout.networks or _kinds(net) in _covered_kinds(layout.networks)


@cache
def _covered_kinds(names: tuple[str, ...]) -> set[frozenset[str]]:
    nets = [network(name) for name in names]
    return {_kinds(net) for net in nets} | {_kinds(net.replace(se=None)) for net in nets}


@lru_cache(maxsize=256)  # since the classes and channels are the file's
def _kinds(net: NetworkSpec) -> frozenset[str]:
    return frozenset(re.sub(r"(stage|block)\d+", r"\1", name) for name in parameters.shapes(net))
