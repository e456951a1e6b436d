"""Load, save, convert: every way is file -> canonical -> file."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from se_spec import LayoutError, NetworkSpec, SESpec, network, nonlinearities, parameters

from . import formats
from .detect import blocks, networks
from .layouts.blocks import BLOCK_ALIASES, BLOCK_LAYOUTS
from .layouts.keras_places import places
from .progress import Told, Watched
from .sources import Lazy, Opened, Source, opened


class Named(NamedTuple):
    """Canonical parameters under a layout's names: the layout, the tensors, and what is computed on the way."""

    layout: str
    tensors: Mapping[str, np.ndarray]
    changes: tuple[str, ...] = ()


class Loaded(NamedTuple):
    """What a source holds: the layout, canonical parameters, what was computed, and names that are no parameter."""

    layout: str
    parameters: Mapping[str, np.ndarray]
    changes: tuple[str, ...]
    left_behind: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Args:
        source_layout, target_layout: names of the layouts.
        spec: of the block or the network.
        tensors, bytes: how many parameters were moved, and how large they are together.
        changes: what was computed and not just moved; those are right to the last unit.
        left_behind: names in the source that no parameter is, such as counters.
        inexact: parameters that the target, read again, does not give back to the bit; none without ``changes``.
    """

    source_layout: str
    target_layout: str
    spec: SESpec | NetworkSpec
    tensors: int
    bytes: int
    changes: tuple[str, ...]
    left_behind: tuple[str, ...]
    inexact: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"from {self.source_layout} to {self.target_layout}: {self.tensors} parameters, {self.bytes:,} bytes"]
        lines += [f"computed, right to the last unit: {change}" for change in self.changes]
        if self.left_behind:
            lines.append(
                f"left behind: {len(self.left_behind)} tensors that are no parameters, {self.left_behind[0]} ..."
            )
        back = f"all but {len(self.inexact)} come back" if self.inexact else "every parameter comes back"
        return "\n".join([*lines, f"read again: {back} to the bit"])


def load(source: Source, spec: SESpec | NetworkSpec | str | None = None, layout: str = "auto") -> dict[str, np.ndarray]:
    """Canonical parameters of a file, or of a mapping of names to arrays.

    Args:
        source: where they are.
        spec: a block, a network or its name; None finds out which, if the file can tell.
        layout: whose names they have; ``"auto"`` finds out.

    Raises:
        FileFormatError: the file is broken or of no known format.
        LayoutError: the file is not what was asked for, names all that is missing, left over and misshapen.

    >>> import se_numpy
    >>> spec = SESpec(64)
    >>> parameters = se_numpy.initialize(spec, seed=0)
    >>> theirs = {f"layer1.0.se.{name}": parameters[at] for name, at in
    ...           {"fc.0.weight": "reduce.weight", "fc.2.weight": "expand.weight"}.items()}
    >>> (load(theirs, spec)["expand.weight"] == parameters["expand.weight"]).all()
    np.True_
    """
    tensors = opened(source)
    return dict(loaded(tensors, known(tensors, spec, layout), layout).parameters)


def save(
    path: str | Path,
    values: Mapping[str, np.ndarray],
    spec: SESpec | NetworkSpec | str,
    layout: str = "canonical",
    *,
    force: bool = False,
) -> None:
    """Write canonical parameters in a layout; the format is the path's ending.

    Raises:
        ParameterError: parameters that are not the spec's.
        LayoutError: the layout has no place for them.
        FileFormatError: the path exists and not ``force``, or its format cannot hold them.
    """
    spec = network(spec) if isinstance(spec, str) else spec
    parameters.check(values, parameters.shapes(spec))
    formats.write(path, placed(path, named(values, spec, layout), spec), force=force)


def convert(
    source: Source,
    target: str | Path,
    spec: SESpec | NetworkSpec | str | None = None,
    source_layout: str = "auto",
    target_layout: str = "canonical",
    *,
    force: bool = False,
    told: Told | None = None,
) -> Report:
    """From a file to a file, a tensor at a time; the target is read again and compared.

    ``told("write", 3, 160)`` is called as it goes on, then the same with ``"compare"``.

    Raises:
        FileFormatError, LayoutError, ParameterError: as ``load`` and ``save``.
    """
    tensors = opened(source)
    spec = known(tensors, spec, source_layout)
    given = loaded(tensors, spec, source_layout)
    written = named(given.parameters, spec, target_layout)
    told = told or (lambda what, done, total: None)
    formats.write(target, Watched(placed(target, written, spec), "write", told), force=force)
    back = loaded(opened(target), spec, written.layout).parameters
    size, inexact = 0, []
    for name, value in Watched(given.parameters, "compare", told).items():
        size += value.nbytes
        if value.tobytes() != back[name].tobytes():
            inexact.append(name)
    changes = (*given.changes, *written.changes)
    return Report(given.layout, written.layout, spec, len(back), size, changes, given.left_behind, tuple(inexact))


def find_blocks(
    source: Source, layout: str = "auto", activation: Any = None, gate: Any = None
) -> dict[str, blocks.Found]:
    """Every SE block of a file, by its path there.

    Args:
        source: where to look.
        layout: whose names; ``"timm"`` is all of timm's, ``"auto"`` all that are known.
        activation: what a file cannot tell, if the caller can.
        gate: the same.

    Raises:
        FileFormatError: the file is broken or of no known format.
        LayoutError: there is none, or one that can be read in two ways.
    """
    return blocks.find(opened(source), layout, activation, gate)


def known(tensors: Opened, spec: SESpec | NetworkSpec | str | None, layout: str) -> SESpec | NetworkSpec:
    """The spec that was given, or what the source is.

    Raises:
        LayoutError: the source may be several networks, holds several blocks, or a block whose activation or gate it
            does not tell.
    """
    if isinstance(spec, str):
        return network(spec)
    if spec is not None:
        return spec
    if nets := networks.networks(tensors.shapes, layout):
        if len({one.net for one in nets}) == 1:
            return nets[0].net
        names = ", ".join(one.name for one in nets)
        raise LayoutError(f"the source may be {names}, which have the same names and shapes; say which")
    found = blocks.find(tensors, layout)
    if len(found) > 1:
        raise LayoutError(f"the source is no network that is known and has {len(found)} blocks; see find_blocks")
    (block,) = found.values()
    for name in block.unknown:
        choices = nonlinearities.ACTIVATIONS if name == "activation" else nonlinearities.GATES
        raise LayoutError(
            f"the {name} of the block is not in the source (layouts {', '.join(block.layouts)}); "
            f"give a spec with {name}= one of {', '.join(map(repr, choices))}"
        )
    return block.spec


def loaded(tensors: Opened, spec: SESpec | NetworkSpec, layout: str) -> Loaded:
    """Canonical parameters, of a network each made when it is asked for.

    Raises:
        LayoutError: the source does not hold them.
    """
    if isinstance(spec, SESpec):
        block = block_of(tensors, spec, layout)
        names = set(block.names.values())
        return Loaded(block.layouts[0], block.parameters, block.changes, tuple(at for at in tensors if at not in names))
    fit = networks.fit(tensors.shapes, spec, layout)
    names = {fit.prefix + name for name in fit.plan.shapes}
    bare = Lazy({name.removeprefix(fit.prefix): partial(tensors.__getitem__, name) for name in tensors})
    behind = tuple(name for name in tensors if name not in names)
    return Loaded(fit.layout, fit.plan.load(bare), tuple(fit.plan.said), behind)


def named(values: Mapping[str, np.ndarray], spec: SESpec | NetworkSpec, layout: str) -> Named:
    """Canonical parameters under a layout's names.

    Raises:
        LayoutError: no such layout, or it has no place for them.
    """
    if isinstance(spec, SESpec):
        name = BLOCK_ALIASES.get(layout, (layout,))[0]
        name = f"{name}.single" if spec.single_projection and f"{name}.single" in BLOCK_LAYOUTS else name
        return Named(name, blocks.save(values, name))
    name, plan = networks.target(spec, layout)
    return Named(name, plan.save(values), tuple(plan.said))


def placed(path: str | Path, values: Named, spec: SESpec | NetworkSpec) -> Mapping[str, np.ndarray]:
    """Tensors under the names that the file at a path wants: of a Keras model's ``.weights.h5``, its places."""
    if values.layout != "se_keras" or isinstance(spec, SESpec) or not str(path).endswith(".weights.h5"):
        return values.tensors
    return Lazy({at: partial(values.tensors.__getitem__, name) for name, at in places(spec).items()})


def block_of(tensors: Opened, spec: SESpec, layout: str) -> blocks.Found:
    """The one block of a source that has the spec's widths.

    Raises:
        LayoutError: none has, several have, or the layout fixes another activation or gate.
    """
    found = blocks.find(tensors, layout)
    fitting = {path: block for path, block in found.items() if _alike(block.spec, spec)}
    if len(fitting) != 1:
        sizes = ", ".join(f"{path or 'the block'} {_widths(block.spec)}" for path, block in found.items())
        many = "more than one block fits; load each from find_blocks" if fitting else "no block fits"
        raise LayoutError(f"{many}: expected {_widths(spec)}, found {sizes}")
    (block,) = fitting.values()
    for name in blocks.CHOICES:
        fixed = getattr(block.spec, name)
        if name not in block.unknown and fixed != getattr(spec, name):
            raise LayoutError(
                f"layout {block.layouts[0]!r} has the {name} {fixed!r}, the spec {getattr(spec, name)!r}; "
                f"change the spec, or name the layout that the file has"
            )
    return block


def _alike(one: SESpec, other: SESpec) -> bool:
    return _widths(one) == _widths(other)


def _widths(spec: SESpec) -> str:
    hidden = "one projection" if spec.single_projection else f"{spec.hidden} hidden"
    return f"({spec.channels} channels, {hidden}, {'biases' if spec.bias else 'no biases'})"
