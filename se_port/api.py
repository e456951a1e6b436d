"""Load, save, convert: every conversion goes from a file through canonical parameters to a file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from se_spec import FileFormatError, NetworkSpec, SESpec, parameters
from se_spec.texts import shorten

from . import formats
from .canonical import load_canonical, resolve_spec, to_keras_positions, to_layout
from .detect import Found, blocks
from .detect.found import own_blocks
from .identity import describe
from .lazy_arrays import own_arrays
from .progress import ProgressCallback, ReportingMapping, ignore_progress
from .sources import SourceLike, open_source


@dataclass(frozen=True)
class Report:
    """The result of a conversion.

    Args:
        source_layout, target_layout: names of the layouts.
        spec: the spec of the block or the network.
        tensors, bytes: the number of parameters, and their total size.
        changes: descriptions of parameters that were computed, not only moved; they are right to the last unit.
        left_behind: names in the source that belong to no parameter, such as counters.
        inexact: parameters that the target layout computes, and that differ when the target is read again.

    Example:
        >>> print(Report("moskomule", "canonical", SESpec(64), 2, 2048, (), (), ()))
        from moskomule to canonical: 2 parameters, 2,048 bytes
        read again: every parameter comes back to the bit
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
        lines += [f"computed, right to the last unit: {shorten(change)}" for change in self.changes]
        if self.left_behind:
            first = shorten(self.left_behind[0])
            lines.append(f"left behind: {len(self.left_behind)} tensors that are no parameters, {first} ...")
        back = f"all but {len(self.inexact)} come back" if self.inexact else "every parameter comes back"
        return "\n".join([*lines, f"read again: {back} to the bit"])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data for JSON.

        >>> Report("moskomule", "canonical", SESpec(64), 2, 2048, (), (), ()).to_dict()["block"]["channels"]
        64
        """
        data = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "spec"}
        kind = "block" if isinstance(self.spec, SESpec) else "network"
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()} | {
            kind: self.spec.to_dict()
        }


def load(
    source: SourceLike,
    spec: SESpec | NetworkSpec | str | None = None,
    layout: str = "auto",
    *,
    part: str | None = None,
    prefix: str | None = None,
) -> dict[str, np.ndarray]:
    """Load canonical parameters from a file, or from a mapping of names to arrays.

    Args:
        source: a path, or a mapping such as a ``state_dict``.
        spec: a block, a network or a network's name; None recognises it, if names and shapes suffice.
        layout: the layout of the source's names; ``"auto"`` recognises it.
        part: the mapping to take, where the source has several, such as ``"model_ema"``.
        prefix: only names that begin with it are taken, without it.

    Returns:
        Each parameter by its canonical name, in canonical order and orientation.

    Raises:
        FileFormatError: the file is broken or of no known format.
        LayoutError: the source does not hold the spec; the message lists names that are missing, left over or of a
            wrong shape.

    >>> import se_numpy
    >>> spec = SESpec(64)
    >>> parameters = se_numpy.initialize(spec, seed=0)
    >>> theirs = {f"layer1.0.se.{name}": parameters[canonical] for name, canonical in
    ...           {"fc.0.weight": "reduce.weight", "fc.2.weight": "expand.weight"}.items()}
    >>> (load(theirs, spec)["expand.weight"] == parameters["expand.weight"]).all()
    np.True_
    """
    return own_arrays(load_canonical(open_source(source, None, part, prefix), spec, layout).parameters)


def save(
    path: str | Path,
    values: Mapping[str, np.ndarray],
    spec: SESpec | NetworkSpec | str,
    layout: str = "canonical",
    *,
    force: bool = False,
    format: str | None = None,
) -> None:
    """Save canonical parameters in a layout.

    Args:
        path: the file to write; its ending chooses the format.
        values: canonical parameters of ``spec``.
        spec: a block, a network or a network's name.
        layout: the layout of the file's names.
        force: whether a path that exists is replaced.
        format: of the file, such as ``"orbax"``, which no ending chooses; None takes that of the ending.

    Raises:
        ParameterError: the parameters are not the spec's.
        LayoutError: the layout has no names for them.
        FileFormatError: the path exists and ``force`` is False, or its format cannot hold the parameters.

    >>> import se_numpy, tempfile
    >>> spec = SESpec(64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/block.npz", se_numpy.initialize(spec, seed=0), spec, "moskomule")
    ...     list(np.load(f"{folder}/block.npz"))
    ['fc.0.weight', 'fc.2.weight']
    """
    spec = resolve_spec(spec)
    parameters.check(values, parameters.shapes(spec))
    renamed = to_layout(values, spec, layout)
    metadata = describe(renamed.layout, spec)
    formats.write(path, to_keras_positions(path, renamed, spec), format, force=force, metadata=metadata)


def convert(
    source: SourceLike,
    target: str | Path,
    spec: SESpec | NetworkSpec | str | None = None,
    source_layout: str = "auto",
    target_layout: str = "canonical",
    *,
    force: bool = False,
    progress: ProgressCallback = ignore_progress,
    part: str | None = None,
    prefix: str | None = None,
    block: str | None = None,
    format: str | None = None,
) -> Report:
    """Convert a file to another layout or format, one tensor at a time, and compare the target with the source.

    Args:
        source: a path, or a mapping such as a ``state_dict``.
        target: the file to write; its ending chooses the format.
        spec: a block, a network or a network's name; None recognises it, if names and shapes suffice.
        source_layout: the layout of the source's names; ``"auto"`` recognises it.
        target_layout: the layout of the target's names.
        force: whether a target that exists is replaced.
        progress: called as ``progress("write", 3, 160)`` for each tensor, then the same with ``"compare"``.
        part: the mapping to take, where the source has several, such as ``"model_ema"``.
        prefix: only names that begin with it are taken, without it.
        block: the path of the block to convert, where the source has several.
        format: of the target, such as ``"orbax"``, which no ending chooses; None takes that of the ending.

    Returns:
        The layouts, the number of parameters, and every difference; ``print`` shows it as text.

    Raises:
        FileFormatError, LayoutError, ParameterError: as ``load`` and ``save``.

    >>> import se_numpy, tempfile
    >>> spec = SESpec(64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/theirs.npz", se_numpy.initialize(spec, seed=0), spec, "moskomule")
    ...     print(convert(f"{folder}/theirs.npz", f"{folder}/ours.npz", spec))
    from moskomule to canonical: 2 parameters, 2,048 bytes
    read again: every parameter comes back to the bit
    """
    canonical = load_canonical(open_source(source, None, part, prefix), spec, source_layout, block)
    renamed = to_layout(canonical.parameters, canonical.spec, target_layout)
    tensors = to_keras_positions(target, renamed, canonical.spec)
    format, size, inexact = format or formats.format_by_name(Path(target)), 0, list[str]()

    def compare(staged: Path) -> None:
        nonlocal size
        read_back = renamed.to_canonical(open_source(staged, format))
        for name, value in ReportingMapping(canonical.parameters, "compare", progress).items():
            size += value.nbytes
            if value.tobytes() == read_back[name].tobytes():
                continue
            if name not in renamed.computed:
                raise FileFormatError(f"{target}: {name} differs when it is read again; expected the same bytes")
            inexact.append(name)

    formats.write(
        target,
        ReportingMapping(tensors, "write", progress),
        format,
        force=force,
        metadata=describe(renamed.layout, canonical.spec),
        check=compare,
    )
    return Report(
        canonical.layout,
        renamed.layout,
        canonical.spec,
        len(canonical.parameters),
        size,
        (*canonical.conversions, *renamed.conversions),
        canonical.left_behind,
        tuple(inexact),
    )


def find_blocks(
    source: SourceLike,
    layout: str = "auto",
    activation: Any = None,
    gate: Any = None,
    names: Mapping[str, str] | None = None,
    *,
    part: str | None = None,
    prefix: str | None = None,
) -> dict[str, Found]:
    """Find every SE block of a file.

    Args:
        source: a path, or a mapping such as a ``state_dict``.
        layout: the layout to search; ``"timm"`` is all of timm's, ``"auto"`` all that are known.
        activation: the activation where the file does not determine it; None leaves it unknown.
        gate: the gate where the file does not determine it; None leaves it unknown.
        names: the file's names of a block's parameters, where no layout has them: canonical name to the file's, with
            ``{path}`` in place of what differs between blocks.
        part: the mapping to take, where the source has several, such as ``"model_ema"``.
        prefix: only names that begin with it are taken, without it.

    Returns:
        Each block by its path in the file.

    Raises:
        FileFormatError: the file is broken or of no known format.
        LayoutError: there is no block, or one that can be read in two ways.

    >>> theirs = {"se.fc.0.weight": np.ones((4, 64)), "se.fc.2.weight": np.ones((64, 4))}
    >>> find_blocks(theirs)["se"].spec.hidden
    4
    >>> theirs = {"stage1.att.narrow": np.ones((4, 64)), "stage1.att.widen": np.ones((64, 4))}
    >>> names = {"reduce.weight": "{path}.att.narrow", "expand.weight": "{path}.att.widen"}
    >>> list(find_blocks(theirs, names=names))
    ['stage1']
    """
    return own_blocks(blocks.find(open_source(source, None, part, prefix), layout, activation, gate, names))
