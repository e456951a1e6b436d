"""The mapping of a network: for each canonical parameter, its tensor in the file; and both directions.

Nothing is read or computed before it is asked for, so a conversion holds one tensor at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np

from se_spec import LayoutError, NetworkSpec, parameters
from se_spec.networks.layers import BatchNorm, Convolution, Dense, SqueezeExcitation
from se_spec.texts import quote, shorten

from ..lazy_arrays import LazyArrays
from .base import Layout, Split, TensorRule
from .templates import fill, foreign_shape, match, to_canonical, to_foreign
from .transforms import TRANSFORMS

Shape = tuple[int, ...]
Tensors = Mapping[str, np.ndarray]
KINDS: dict[type, str] = {Convolution: "conv", BatchNorm: "norm", Dense: "dense"}
MAX_PROBLEMS = 12
"""Problems that an error lists before it counts the rest."""


class Entry(NamedTuple):
    """One entry of the mapping: a canonical parameter (or slice ``part`` of it) and a file tensor (or column of it).

    Args:
        name, shape: of the file's tensor.
        rule: axes, transformation and column.
        part: (index, number) of the slice along the canonical parameter's first axis.
        needs: names of the tensors that the transformation reads.
    """

    name: str
    shape: Shape
    rule: TensorRule
    part: tuple[int, int]
    needs: tuple[str, ...]


class Constant(NamedTuple):
    """A tensor of the file that is no parameter; it is written filled with ``value``, or not if that is None."""

    shape: Shape
    value: int | None
    dtype: str


@dataclass
class NetworkMapping:
    """A network in a layout.

    Args:
        epsilon: of the network.
        loose: axes of length one do not count.
        entries: by canonical name, in canonical order; several where the file splits a parameter.
        constants: by name, the other tensors of the file.
    """

    epsilon: float
    loose: bool = False
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Names and shapes of the file's parameters, without the constants."""
        shapes: dict[str, Shape] = {}
        for entry in self.iterate_entries():
            shapes[entry.name] = entry.shape
            shapes.update(dict.fromkeys(entry.needs, (1,)))
        return shapes

    def iterate_entries(self) -> Iterator[Entry]:
        """Yield every entry, in canonical order."""
        for entries in self.entries.values():
            yield from entries

    @property
    def conversions(self) -> list[str]:
        """Descriptions of the transformations that are arithmetic, each with its number of tensors."""
        used = [
            TRANSFORMS[entry.rule.transform].description for entry in self.iterate_entries() if entry.rule.transform
        ]
        return [f"{used.count(description)} tensors {description}" for description in dict.fromkeys(used)]

    @property
    def computed(self) -> set[str]:
        """Canonical names of parameters that are not only moved."""
        return {name for name, entries in self.entries.items() if any(entry.rule.transform for entry in entries)}

    def check(self, shapes: Mapping[str, Shape], where: str) -> None:
        """Check that the file has every tensor of the mapping, in its shape, and no other; constants may be missing.

        Raises:
            LayoutError: lists what is missing, left over and misshapen.
        """
        expected = self.shapes
        problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in shapes]
        for name, shape in shapes.items():
            if name not in expected:
                problems += [] if name in self.constants else [f"left over {quote(name)} {shorten(shape)}"]
            elif self._normalize(shape) != self._normalize(expected[name]):
                problems.append(f"{name} has shape {shorten(shape)}, expected {expected[name]}")
        if problems:
            more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
            raise LayoutError(f"{where} does not fit: " + "; ".join(problems[:MAX_PROBLEMS]) + more)

    def load(self, tensors: Tensors) -> LazyArrays:
        """Canonical parameters of a file that passes ``check``."""
        return LazyArrays({name: partial(self._load, tensors, entries) for name, entries in self.entries.items()})

    def save(self, values: Tensors) -> LazyArrays:
        """Return the file's tensors for canonical parameters, with the constants."""
        makers: dict[str, Callable[[], np.ndarray]] = {}
        sources: dict[str, list[tuple[str, Entry]]] = {}
        for canonical, entries in self.entries.items():
            for entry in entries:
                sources.setdefault(entry.name, []).append((canonical, entry))
        for name, columns in sources.items():
            makers[name] = partial(self._save, values, columns)
            for _, entry in columns:
                fills = TRANSFORMS[entry.rule.transform].needed_values if entry.needs else ()
                for needed, value in zip(entry.needs, fills, strict=True):
                    makers[needed] = partial(np.full, (1,), value, "float32")
        for name, constant in self.constants.items():
            if constant.value is not None:
                makers[name] = partial(self._make_constant, values, constant)
        return LazyArrays(makers)

    def _normalize(self, shape: Shape) -> Shape:
        return tuple(length for length in shape if length != 1) if self.loose else tuple(shape)

    def _load(self, tensors: Tensors, entries: list[Entry]) -> np.ndarray:
        parts = [self._load_part(tensors, entry) for entry in entries]
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _load_part(self, tensors: Tensors, entry: Entry) -> np.ndarray:
        array = tensors[entry.name].reshape(entry.shape) if self.loose else tensors[entry.name]
        if array.dtype.name not in parameters.FLOATS:
            raise LayoutError(f"{entry.name} has dtype {array.dtype}, expected one of {', '.join(parameters.FLOATS)}")
        if entry.rule.column is not None:
            array = array[..., entry.rule.column]
        array = to_canonical(array, entry.rule.axes)
        if not entry.rule.transform:
            return array
        needed = tuple(np.asarray(tensors[name], np.float64) for name in entry.needs)
        loaded = TRANSFORMS[entry.rule.transform].load(np.asarray(array, np.float64), needed, self.epsilon)
        return loaded.astype(array.dtype)

    def _save(self, values: Tensors, columns: list[tuple[str, Entry]]) -> np.ndarray:
        arrays = [self._save_column(values[canonical], entry) for canonical, entry in columns]
        if columns[0][1].rule.column is None:
            return np.ascontiguousarray(arrays[0])
        order = sorted(range(len(columns)), key=lambda index: columns[index][1].rule.column or 0)
        return np.stack([arrays[index] for index in order], axis=-1)

    def _save_column(self, value: np.ndarray, entry: Entry) -> np.ndarray:
        index, number = entry.part
        length = len(value) // number
        value = value[index * length : (index + 1) * length]
        if entry.rule.transform:
            saved = TRANSFORMS[entry.rule.transform].save(np.asarray(value, np.float64), self.epsilon)
            value = saved.astype(value.dtype)
        return to_foreign(value, entry.rule.axes)

    def _make_constant(self, values: Tensors, constant: Constant) -> np.ndarray:
        dtype = constant.dtype or next(iter(values.values())).dtype
        return np.full(constant.shape, constant.value, dtype)


@lru_cache(maxsize=64)
def module_kinds(net: NetworkSpec) -> dict[str, str]:
    """Map each module with parameters to its kind: conv, norm, dense, or se for a projection."""
    kinds: dict[str, str] = {}
    for layer in net.layers:
        if isinstance(layer, SqueezeExcitation):
            kinds |= {f"{layer.name}.{part.partition('.')[0]}": "se" for part in parameters.shapes(layer.spec)}
        elif layer.parameter_shapes():
            kinds[layer.name] = KINDS[type(layer)]
    return kinds


def map_network(net: NetworkSpec, layout: Layout, name: str) -> NetworkMapping:
    """Map a network to a layout.

    Args:
        net: the network.
        layout: the table.
        name: of the layout, for errors.

    Raises:
        LayoutError: the layout has no name for a module, or one name for two.
    """
    mapping, kinds = NetworkMapping(net.epsilon, layout.loose), module_kinds(net)
    used: set[tuple[str, int | None]] = set()
    for canonical, shape in parameters.shapes(net).items():
        module, _, last = canonical.rpartition(".")
        rule = layout.rules.get(canonical) or layout.rules.get(f"{kinds[module]}.{last}")
        if rule is None:
            raise LayoutError(f"layout {name!r} has no place for {canonical}; `se-port layouts` says what it keeps")
        modules = foreign_modules(layout, module, name)
        entries = mapping.entries.setdefault(canonical, [])
        for index, foreign in enumerate(modules):
            part = (shape[0] // len(modules), *shape[1:])
            stored = foreign_shape(rule.axes, part) + ((2,) if rule.column is not None else ())
            needs = tuple(needed.replace("{m}", foreign) for needed in rule.needs)
            entry = Entry(rule.name.replace("{m}", foreign), stored, rule, (index, len(modules)), needs)
            if (entry.name, rule.column) in used:
                raise LayoutError(
                    f"layout {name!r} has one name for two tensors, {entry.name}; {canonical} is the second"
                )
            used.add((entry.name, rule.column))
            entries.append(entry)
    channels = {layer.name: layer.out_channels for layer in net.layers}
    for extra in layout.extras:
        for module in (module for module, kind in kinds.items() if extra.kind in (kind, module)):
            modules = foreign_modules(layout, module, name)
            shape = (channels[module] // len(modules),) if extra.shape else ()
            for foreign in modules:
                mapping.constants[extra.name.replace("{m}", foreign)] = Constant(shape, extra.value, extra.dtype)
        if not extra.kind:
            mapping.constants[extra.name] = Constant((), extra.value, extra.dtype)
    return mapping


def foreign_modules(layout: Layout, module: str, name: str) -> list[str]:
    """Return the system's names for a canonical module; several where the system splits it.

    Raises:
        LayoutError: there is none.
    """
    for pattern, target in layout.modules.items():
        numbers = match(pattern, module)
        if numbers is not None:
            template, count = target if isinstance(target, Split) else (target, 1)
            return [fill(template, numbers | {"i": index}) for index in range(count)]
    if layout.separator is None:
        raise LayoutError(f"layout {name!r} has no name for {module}; `se-port layouts` says what it keeps")
    return [module.replace(".", layout.separator)]
