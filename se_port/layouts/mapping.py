"""A layout on a network or block: for each canonical parameter, where it is in the file; and both directions.

Nothing is read or computed before it is asked for, so a conversion holds one tensor at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np

from se_spec import LayoutError, NetworkSpec, parameters
from se_spec.networks.layers import BatchNorm, Convolution, Dense, SqueezeExcitation

from ..sources import Lazy
from .base import Layout, Leaf, Parts
from .templates import fill, foreign_shape, match, to_canonical, to_foreign
from .transforms import CHANGES

Shape = tuple[int, ...]
Tensors = Mapping[str, np.ndarray]
KINDS: dict[type, str] = {Convolution: "conv", BatchNorm: "norm", Dense: "dense"}


class Link(NamedTuple):
    """A canonical parameter, or one part of several of it, and the tensor of the file that it is, or a column of which.

    Args:
        name, shape: of the file's tensor.
        leaf: axes, transformation and column.
        part: (which, of how many) of the canonical parameter's first axis.
        beside: names of what the transformation needs.
    """

    name: str
    shape: Shape
    leaf: Leaf
    part: tuple[int, int]
    beside: tuple[str, ...]


class Constant(NamedTuple):
    """A tensor of the file that is no parameter; written with ``value`` all over, or not at all."""

    shape: Shape
    value: int | None
    dtype: str


@dataclass
class Plan:
    """Where everything is.

    Args:
        links: canonical name to where it is, in canonical order; more than one where the file has it in parts.
        constants: by name, what is in the file besides.
        epsilon: the network's.
        loose: axes of one do not count.
    """

    epsilon: float
    loose: bool = False
    links: dict[str, list[Link]] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Names and shapes of the file's parameters, constants apart."""
        found = {}
        for link in self.every_link():
            found[link.name] = link.shape
            found.update(dict.fromkeys(link.beside, (1,)))
        return found

    def every_link(self) -> Iterator[Link]:
        """In canonical order."""
        for links in self.links.values():
            yield from links

    @property
    def said(self) -> list[str]:
        """The transformations that are arithmetic, with how many tensors each is of."""
        changes = [CHANGES[link.leaf.change].said for link in self.every_link() if link.leaf.change]
        return [f"{changes.count(said)} tensors {said}" for said in dict.fromkeys(changes)]

    def check(self, tensors: Mapping[str, Shape], where: str) -> None:
        """Every name once, every target filled, every shape right; constants may be missing.

        Raises:
            LayoutError: names all that is missing, left over and misshapen.
        """
        expected = self.shapes
        faults = [f"missing {name} {shape}" for name, shape in expected.items() if name not in tensors]
        for name, shape in tensors.items():
            if name not in expected:
                faults += [] if name in self.constants else [f"left over {name!r} {shape}"]
            elif self._plain(shape) != self._plain(expected[name]):
                faults.append(f"{name} has shape {shape}, expected {expected[name]}")
        if faults:
            more = f"; and {len(faults) - 12} more" if len(faults) > 12 else ""
            raise LayoutError(f"{where} does not fit: " + "; ".join(faults[:12]) + more)

    def load(self, tensors: Tensors) -> Lazy:
        """Canonical parameters of a file that fits, each made when asked for."""
        return Lazy({name: partial(self._loaded, tensors, links) for name, links in self.links.items()})

    def save(self, values: Tensors) -> Lazy:
        """The file's tensors, constants included, each made when asked for."""
        makers: dict[str, Callable[[], np.ndarray]] = {}
        sources: dict[str, list[tuple[str, Link]]] = {}
        for canonical, links in self.links.items():
            for link in links:
                sources.setdefault(link.name, []).append((canonical, link))
        for name, given in sources.items():
            makers[name] = partial(self._saved, values, given)
            for link in (link for _, link in given):
                for beside, value in zip(
                    link.beside, CHANGES[link.leaf.change].beside if link.beside else (), strict=True
                ):
                    makers[beside] = partial(np.full, (1,), value, "float32")
        for name, constant in self.constants.items():
            if constant.value is not None:
                makers[name] = partial(self._constant, values, constant)
        return Lazy(makers)

    def _plain(self, shape: Shape) -> Shape:
        return tuple(length for length in shape if length != 1) if self.loose else tuple(shape)

    def _loaded(self, tensors: Tensors, links: list[Link]) -> np.ndarray:
        parts = [self._one(tensors, link) for link in links]
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _one(self, tensors: Tensors, link: Link) -> np.ndarray:
        array = tensors[link.name].reshape(link.shape) if self.loose else tensors[link.name]
        if array.dtype.name not in parameters.FLOATS:
            raise LayoutError(f"{link.name} has dtype {array.dtype}, expected one of {', '.join(parameters.FLOATS)}")
        if link.leaf.column is not None:
            array = array[..., link.leaf.column]
        array = to_canonical(array, link.leaf.axes)
        if not link.leaf.change:
            return array
        beside = tuple(np.asarray(tensors[name], np.float64) for name in link.beside)
        changed = CHANGES[link.leaf.change].load(np.asarray(array, np.float64), beside, self.epsilon)
        return changed.astype(array.dtype)

    def _saved(self, values: Tensors, given: list[tuple[str, Link]]) -> np.ndarray:
        columns = [self._column(values[canonical], link) for canonical, link in given]
        if given[0][1].leaf.column is None:
            return np.ascontiguousarray(columns[0])
        order = sorted(range(len(given)), key=lambda index: given[index][1].leaf.column or 0)
        return np.stack([columns[index] for index in order], axis=-1)

    def _column(self, value: np.ndarray, link: Link) -> np.ndarray:
        which, count = link.part
        length = len(value) // count
        value = value[which * length : (which + 1) * length]
        if link.leaf.change:
            changed = CHANGES[link.leaf.change].save(np.asarray(value, np.float64), self.epsilon)
            value = changed.astype(value.dtype)
        return to_foreign(value, link.leaf.axes)

    def _constant(self, values: Tensors, constant: Constant) -> np.ndarray:
        dtype = constant.dtype or next(iter(values.values())).dtype
        return np.full(constant.shape, constant.value, dtype)


@lru_cache(maxsize=64)
def kinds_of(net: NetworkSpec) -> dict[str, str]:
    """Of each module with parameters: conv, norm, dense, or se for a projection."""
    kinds: dict[str, str] = {}
    for layer in net.layers:
        if isinstance(layer, SqueezeExcitation):
            kinds |= {f"{layer.name}.{part.partition('.')[0]}": "se" for part in parameters.shapes(layer.spec)}
        elif layer.parameter_shapes():
            kinds[layer.name] = KINDS[type(layer)]
    return kinds


def plan(net: NetworkSpec, layout: Layout, name: str) -> Plan:
    """A network in a layout.

    Raises:
        LayoutError: the layout has no name for a module, or one name for two.
    """
    made, kinds = Plan(net.epsilon, layout.loose), kinds_of(net)
    taken: set[tuple[str, int | None]] = set()
    for canonical, shape in parameters.shapes(net).items():
        module, _, last = canonical.rpartition(".")
        leaf = layout.leaves.get(canonical) or layout.leaves.get(f"{kinds[module]}.{last}")
        if leaf is None:
            raise LayoutError(f"layout {name!r} has no place for {canonical}; `se-port layouts` says what it keeps")
        modules = names_of(layout, module, name)
        links = made.links.setdefault(canonical, [])
        for index, m in enumerate(modules):
            part = (shape[0] // len(modules), *shape[1:])
            kept = foreign_shape(leaf.axes, part) + ((2,) if leaf.column is not None else ())
            beside = tuple(by.replace("{m}", m) for by in leaf.by)
            link = Link(leaf.name.replace("{m}", m), kept, leaf, (index, len(modules)), beside)
            if (link.name, leaf.column) in taken:
                raise LayoutError(
                    f"layout {name!r} has one name for two tensors, {link.name}; {canonical} is the second"
                )
            taken.add((link.name, leaf.column))
            links.append(link)
    channels = {layer.name: layer.out_channels for layer in net.layers}
    for extra in layout.extras:
        for module in (module for module, kind in kinds.items() if extra.kind in (kind, module)):
            modules = names_of(layout, module, name)
            shape = (channels[module] // len(modules),) if extra.shape else ()
            for m in modules:
                made.constants[extra.name.replace("{m}", m)] = Constant(shape, extra.value, extra.dtype)
        if not extra.kind:
            made.constants[extra.name] = Constant((), extra.value, extra.dtype)
    return made


def names_of(layout: Layout, module: str, name: str) -> list[str]:
    """The system's name for a canonical module; several where it stands in parts.

    Raises:
        LayoutError: there is none.
    """
    for pattern, target in layout.modules.items():
        numbers = match(pattern, module)
        if numbers is not None:
            template, count = target if isinstance(target, Parts) else (target, 1)
            return [fill(template, numbers | {"i": index}) for index in range(count)]
    if layout.separator is None:
        raise LayoutError(f"layout {name!r} has no name for {module}; `se-port layouts` says what it keeps")
    return [module.replace(".", layout.separator)]
