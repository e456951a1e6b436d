"""Which layout a file is in, and of which network: from names and shapes alone."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from se_spec import LayoutError, NetworkSpec, SpecError, network, parameters
from se_spec.networks import NETWORKS

from ..layouts.base import Layout
from ..layouts.mapping import Plan, names_of, plan
from ..layouts.networks import NETWORK_LAYOUTS
from ..layouts.templates import canonical_shape

Shapes = Mapping[str, tuple[int, ...]]
ALIASES = {"torch": "se_torch", "keras": "se_keras", "flax": "se_flax", "nnx": "se_flax", "linen": "se_flax.linen"}
"""Our own, by their framework's name."""


class Fit(NamedTuple):
    """A network in a layout: the layout's name, what all names of the file begin with besides, and the plan."""

    layout: str
    prefix: str
    plan: Plan


class Known(NamedTuple):
    """A named network, as a file has it."""

    name: str
    net: NetworkSpec
    layout: str
    prefix: str


def rows(layout: str) -> dict[str, Layout]:
    """The tables of a name: ``"auto"`` is all, ``"caffe"`` the three of Caffe.

    Raises:
        LayoutError: no such layout.
    """
    found = _asked(layout)
    if not found:
        raise LayoutError(f"layout {layout!r} is no network's; expected auto or one of {', '.join(NETWORK_LAYOUTS)}")
    return found


def _asked(layout: str) -> dict[str, Layout]:
    wanted = ALIASES.get(layout, layout)
    return {
        name: row
        for name, row in NETWORK_LAYOUTS.items()
        if wanted in ("auto", name) or (row.networks and name.startswith(f"{wanted}."))
    }


def fit(shapes: Shapes, net: NetworkSpec, layout: str = "auto") -> Fit:
    """The layout in which a file holds a network.

    Raises:
        LayoutError: none of those asked for, with what is wrong in the nearest; or more than one.
    """
    fits, faults = [], []
    present = {name for name, _ in _present(shapes, layout)}  # only these can fit; all, to say what is wrong with none
    for name, made in plans(net, layout, present).items():
        for prefix in prefixes(shapes):
            bare = {key.removeprefix(prefix): shape for key, shape in shapes.items()}
            try:
                made.check(bare, f"layout {name!r}")
            except LayoutError as error:
                faults.append((len(bare.keys() & made.shapes.keys()), str(error)))
            else:
                fits.append(Fit(name, prefix, made))
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise LayoutError(f"the file fits {' and '.join(one.layout for one in fits)}; say which with layout=...")
    raise LayoutError(max(faults)[1])


def target(net: NetworkSpec, layout: str) -> tuple[str, Plan]:
    """The layout to write a network in."""
    (name, made), *_ = plans(net, layout).items()
    return name, made


def plans(net: NetworkSpec, layout: str, among: Collection[str] = ()) -> dict[str, Plan]:
    """Of the layouts that have such networks; of those among them, if any has.

    Raises:
        LayoutError: none has.
    """
    asked = rows(layout)
    found = {name: plan(net, row, name) for name, row in asked.items() if name in among and _covers(row, net)}
    found = found or {name: plan(net, row, name) for name, row in asked.items() if _covers(row, net)}
    if not found:
        kept = sorted({name for row in asked.values() for name in row.networks})
        raise LayoutError(f"layout {layout!r} keeps {', '.join(kept)} and those without SE; this is another network")
    return found


def prefixes(shapes: Shapes) -> list[str]:
    """Nothing, and what every name begins with: ``module.`` and the like."""
    first, last = min(shapes, default=""), max(shapes, default="")  # what these two share, all share
    same = next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    common = first[: max(first.rfind(".", 0, same), first.rfind("/", 0, same)) + 1]
    return ["", common] if common else [""]


def networks(shapes: Shapes, layout: str = "auto") -> list[Known]:
    """Every named network that the file may be; classes, input channels and the SE blocks' ratio are the file's own.

    Of a layout that is no network's, none.
    """
    found = []
    for name, prefix, candidates in _plausible(shapes, layout):
        bare = {key.removeprefix(prefix): shape for key, shape in shapes.items()}
        for candidate in candidates:
            known = _as_in_file(candidate, name, bare)
            found += [Known(candidate, known, name, prefix)] if known else []
    return found


def nearest(shapes: Shapes, layout: str = "auto") -> str:
    """What is wrong with the named network whose names are most like the file's, or nothing if not even half are."""
    best, wrong = 0.5, ""
    for name, prefix, candidates in _plausible(shapes, layout):
        bare = {key.removeprefix(prefix): shape for key, shape in shapes.items()}
        for candidate in candidates:
            made = _plan(candidate, name)
            theirs = bare.keys() - made.constants.keys()
            shared = len(made.shapes.keys() & theirs) / len(made.shapes.keys() | theirs)
            if shared > best:
                try:
                    made.check(bare, f"{candidate} in layout {name!r}")
                except LayoutError as error:
                    best, wrong = shared, str(error)
    return wrong


def _plausible(shapes: Shapes, layout: str) -> Iterator[tuple[str, str, list[str]]]:
    """Layouts that may be the file's, with what the names begin with and the networks that are kept."""
    for name, prefix in _present(shapes, layout):
        row = NETWORK_LAYOUTS[name]
        candidates = [also for net in row.networks or NETWORKS for also in _with_plain(net)]
        yield name, prefix, [net for net in dict.fromkeys(candidates) if _covers(row, network(net))]


def _present(shapes: Shapes, layout: str) -> Iterator[tuple[str, str]]:
    """Layouts whose first convolution is in the file, with what the names begin with."""
    for prefix in prefixes(shapes):
        for name, row in _asked(layout).items():
            leaf = row.leaves.get("stem.conv1.weight", row.leaves["conv.weight"])
            if prefix + leaf.name.replace("{m}", names_of(row, "stem.conv1", name)[0]) in shapes:
                yield name, prefix


def _as_in_file(name: str, layout: str, shapes: Shapes) -> NetworkSpec | None:
    made, net = _plan(name, layout), network(name)
    expected = made.shapes
    if not expected.keys() <= shapes.keys() or shapes.keys() - expected.keys() - made.constants.keys():
        return None
    try:
        net = net.replace(
            num_classes=_length(made, "classifier.weight", 0, shapes),
            channels=_length(made, "stem.conv1.weight", 1, shapes),
        )
        reduce = next((at for at in made.links if at.endswith("se.reduce.weight")), None)
        if reduce and net.se is not None:
            hidden, channels = (_length(made, reduce, axis, shapes) for axis in (0, 1))
            net = net.replace(se=replace(net.se, reduction=max(1, channels // hidden)))
        plan(net, NETWORK_LAYOUTS[layout], layout).check(shapes, name)
    except (LayoutError, SpecError, ValueError):
        return None
    return net


def _length(made: Plan, canonical: str, axis: int, shapes: Shapes) -> int:
    link = made.links[canonical][0]
    return canonical_shape(link.leaf.axes, shapes[link.name])[axis] * link.part[1]


@cache
def _plan(name: str, layout: str) -> Plan:
    return plan(network(name), NETWORK_LAYOUTS[layout], layout)


@cache
def _with_plain(name: str) -> tuple[str, ...]:
    """A name, and those of the same network without SE."""
    plain = network(name).replace(se=None)
    return (name, *(other for other in NETWORKS if other != name and network(other) == plain))


def _covers(layout: Layout, net: NetworkSpec) -> bool:
    """Whether it has the same kinds of parameters as one of the layout's networks, with SE or without."""
    return not layout.networks or _kinds(net) in _covered(layout.networks)


@cache
def _covered(names: tuple[str, ...]) -> set[frozenset[str]]:
    nets = [network(name) for name in names]
    return {_kinds(net) for net in nets} | {_kinds(net.replace(se=None)) for net in nets}


@cache
def _kinds(net: NetworkSpec) -> frozenset[str]:
    return frozenset(re.sub(r"(stage|block)\d+", r"\1", name) for name in parameters.shapes(net))
