"""The steps between two files: from a source to canonical parameters, and from those to a layout's tensors."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from se_spec import LayoutError, NetworkSpec, SESpec, network, nonlinearities
from se_spec.texts import quote, shorten

from .detect import Found, blocks, networks
from .detect.found import CHOICES
from .identity import check_identity
from .layouts.block_mapping import map_block
from .layouts.blocks import BLOCK_ALIASES, BLOCK_LAYOUTS
from .layouts.keras_positions import keras_positions
from .lazy_arrays import LazyArrays
from .sources import Source

MAX_SHOWN = 20
"""Blocks that an error names."""


class Canonical(NamedTuple):
    """Canonical parameters of a source.

    Args:
        layout: that the source has.
        spec: of the block or the network.
        parameters: by canonical name; those of a network are made when they are asked for.
        conversions: what was computed and not just moved.
        left_behind: names in the source that belong to no parameter.
    """

    layout: str
    spec: SESpec | NetworkSpec
    parameters: Mapping[str, np.ndarray]
    conversions: tuple[str, ...]
    left_behind: tuple[str, ...]


class Renamed(NamedTuple):
    """Canonical parameters under a layout's names.

    Args:
        layout: its name.
        tensors: by the layout's names.
        conversions: what is computed and not just moved.
        computed: canonical names of parameters that are computed.
        to_canonical: the inverse, for tensors that were read back.
    """

    layout: str
    tensors: Mapping[str, np.ndarray]
    conversions: tuple[str, ...]
    computed: Collection[str]
    to_canonical: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def resolve_spec(spec: SESpec | NetworkSpec | str) -> SESpec | NetworkSpec:
    """Replace a network's name by its spec."""
    return network(spec) if isinstance(spec, str) else spec


def load_canonical(
    source: Source, spec: SESpec | NetworkSpec | str | None, layout: str, path: str | None = None
) -> Canonical:
    """Recognise a source, once, and map it to canonical parameters.

    Args:
        source: open.
        spec: what the source holds; None finds out.
        layout: whose names the source has; ``"auto"`` finds out.
        path: of the block, where the source has several.

    Raises:
        LayoutError: the source does not hold the spec; or, without one, it may be several networks, holds several
            blocks, or a block whose activation or gate is not in it.
    """
    said = source.identity
    if spec is not None:
        check_identity(said, resolve_spec(spec))
    elif said is not None and path is None:
        spec, layout = said.spec, said.layout if layout == "auto" else layout
    if path is not None:
        if spec is not None and not isinstance(resolve_spec(spec), SESpec):
            raise LayoutError(f"a network is given and a block, {path!r}; give one of them")
        block = _select_block(source, layout, path)
        if isinstance(spec, SESpec):
            _check_choices(block, spec)
            return _load_block(source, block)._replace(spec=spec)
        return _load_block(source, _check_known(block))
    if spec is None:
        match = networks.detect_network(source.shapes, layout)
        return _load_network(source, match.net, match) if match else _load_block(source, _detect_block(source, layout))
    spec = resolve_spec(spec)
    if isinstance(spec, SESpec):
        return _load_block(source, _find_block(source, spec, layout))._replace(spec=spec)
    return _load_network(source, spec, networks.match_network(source.shapes, spec, layout))


def _load_network(source: Source, net: NetworkSpec, match: networks.LayoutMatch | networks.NetworkMatch) -> Canonical:
    mapping, prefix = match.mapping, match.prefix
    known = {prefix + name for name in mapping.shapes}
    left_behind = tuple(name for name in source if name not in known)
    bare: Mapping[str, np.ndarray] = source
    if prefix:
        names = [name for name in source if name.startswith(prefix)]
        bare = LazyArrays({name.removeprefix(prefix): partial(source.__getitem__, name) for name in names})
    return Canonical(match.layout, net, mapping.load(bare), tuple(mapping.conversions), left_behind)


def _load_block(source: Source, block: Found) -> Canonical:
    known = set(block.names.values())
    left_behind = tuple(name for name in source if name not in known)
    return Canonical(block.layouts[0], block.spec, block.parameters, block.changes, left_behind)


def _detect_block(source: Source, layout: str) -> Found:
    """Find the only block of a source."""
    found = blocks.find(source, layout)
    if len(found) > 1:
        raise LayoutError(
            f"the source is no network that is known and has {len(found)} blocks: "
            f"{', '.join(map(shorten, list(found)[:5]))} ...; "
            "choose one with block= or --block"
        )
    (block,) = found.values()
    return _check_known(block)


def _select_block(source: Source, layout: str, path: str) -> Found:
    """Find the block at a path."""
    found = blocks.find(source, layout)
    if path not in found:
        shown = ", ".join(map(quote, islice(found, MAX_SHOWN)))
        raise LayoutError(f"there is no block {quote(path)}; there are {shown}")
    return found[path]


def _check_known(block: Found) -> Found:
    """Refuse a block whose activation or gate is unknown."""
    for name in block.unknown:
        choices = nonlinearities.ACTIVATIONS if name == "activation" else nonlinearities.GATES
        raise LayoutError(
            f"the {name} of the block is not in the source (layouts {', '.join(block.layouts)}); "
            f"give a spec with {name}= one of {', '.join(map(repr, choices))}"
        )
    return block


def _find_block(source: Source, spec: SESpec, layout: str) -> Found:
    """Find the only block of a source that has the spec's widths.

    Raises:
        LayoutError: none has, several have, or the layout fixes another activation or gate.
    """
    found = blocks.find(source, layout)
    matching = {path: block for path, block in found.items() if _describe(block.spec) == _describe(spec)}
    if len(matching) != 1:
        sizes = ", ".join(
            f"{shorten(path) or 'the block'} {_describe(block.spec)}"
            for path, block in islice(found.items(), MAX_SHOWN)
        )
        problem = "more than one block fits; load each from find_blocks" if matching else "no block fits"
        raise LayoutError(f"{problem}: expected {_describe(spec)}, found {sizes}")
    (block,) = matching.values()
    _check_choices(block, spec)
    return block


def _check_choices(block: Found, spec: SESpec) -> None:
    """Refuse a spec that is not the block's.

    Raises:
        LayoutError: other widths, or another activation or gate than the layout fixes.
    """
    if _describe(block.spec) != _describe(spec):
        raise LayoutError(f"the block is {_describe(block.spec)}, expected {_describe(spec)}")
    for name in CHOICES:
        fixed = getattr(block.spec, name)
        if name not in block.unknown and fixed != getattr(spec, name):
            raise LayoutError(
                f"layout {block.layouts[0]!r} has the {name} {fixed!r}, the spec {getattr(spec, name)!r}; "
                f"change the spec, or name the layout that the file has"
            )


def _describe(spec: SESpec) -> str:
    """Widths and biases, which is what a file shows of a block."""
    hidden = "one projection" if spec.single_projection else f"{spec.hidden} hidden"
    return f"({spec.channels} channels, {hidden}, {'biases' if spec.bias else 'no biases'})"


def to_layout(parameters: Mapping[str, np.ndarray], spec: SESpec | NetworkSpec, layout: str) -> Renamed:
    """Rename and transform canonical parameters into a layout.

    Raises:
        LayoutError: there is no such layout, or it has no place for a parameter.
    """
    if isinstance(spec, SESpec):
        name = BLOCK_ALIASES.get(layout, (layout,))[0]
        name = f"{name}.single" if spec.single_projection and f"{name}.single" in BLOCK_LAYOUTS else name
        block = map_block(parameters, name)
        return Renamed(name, block.save(parameters), block.conversions, block.computed, block.load)
    name, mapping = networks.choose_mapping(spec, layout)
    return Renamed(name, mapping.save(parameters), tuple(mapping.conversions), mapping.computed, mapping.load)


def to_keras_positions(path: str | Path, renamed: Renamed, spec: SESpec | NetworkSpec) -> Mapping[str, np.ndarray]:
    """Replace names by positions where the file is a ``.weights.h5`` of a Keras model; else return the tensors."""
    if renamed.layout != "se_keras" or isinstance(spec, SESpec) or not str(path).endswith(".weights.h5"):
        return renamed.tensors
    tensors = renamed.tensors
    return LazyArrays({place: partial(tensors.__getitem__, name) for name, place in keras_positions(spec).items()})
