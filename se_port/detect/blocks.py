"""SE blocks, found by their names and shapes wherever they stand in a file."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from se_spec import LayoutError, SESpec
from se_spec.parameters import FLOATS

from ..layouts.base import UNKNOWN, BlockLayout
from ..layouts.blocks import BLOCK_ALIASES, BLOCK_LAYOUTS
from ..layouts.templates import fill, to_canonical, to_foreign
from ..sources import Opened

Tensors = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
CHOICES = ("activation", "gate")
NORM = ("weight", "bias", "running_mean", "running_var")
PERCEPTRON = ("mlp",)
"""What calls itself so is no block, if its layers' names say no more: CBAM's has maxima as well as means."""


@dataclass(frozen=True)
class Found:
    """A block of a file.

    Args:
        spec: widths and biases as the file has them; the activation and the gate as the layout fixes them or the caller
            says, else SESpec's own.
        parameters: canonical.
        unknown: which of ``activation`` and ``gate`` the file does not tell.
        layouts: names of those that fit.
        names: canonical to the file's.
        changes: what was computed and not just moved.
    """

    spec: SESpec
    parameters: dict[str, np.ndarray]
    unknown: tuple[str, ...]
    layouts: tuple[str, ...]
    names: dict[str, str]
    changes: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A block by one layout: its path, the file's names in canonical order, and its widths."""

    path: str
    layout: str
    names: dict[str, str]
    channels: int
    hidden: int | None


def find(tensors: Opened, layout: str = "auto", activation: Any = None, gate: Any = None) -> dict[str, Found]:
    """Every block, by its path in the file; where several have the same path, by the name of their first layer.

    Raises:
        LayoutError: no such layout, no block, one that can be read as different blocks, one that is not of floats, or
            one whose layout fixes another activation or gate than was given.
    """
    groups: dict[frozenset[str], list[Candidate]] = {}
    for name, row in chosen(layout).items():
        for candidate in candidates(tensors.shapes, name, row, named=name == layout):
            groups.setdefault(frozenset(candidate.names.values()), []).append(candidate)
    # A projection that is half of a pair is no block of its own.
    largest = [_nearest(groups[keys]) for keys in groups if not any(keys < other for other in groups)]
    _check_apart(largest)
    paths = Counter(group[0].path for group in largest)
    blocks = {group[0].path if paths[group[0].path] == 1 else _first_layer(group[0]): group for group in largest}
    if not blocks:
        known = "any layout" if layout == "auto" else f"layout {layout!r}"
        raise LayoutError(f"no SE block of {known} in these {len(tensors)} tensors; `se-port layouts` lists the names")
    order = {name: index for index, name in enumerate(tensors)}
    sorted_paths = sorted(blocks, key=lambda path: min(order[name] for name in blocks[path][0].names.values()))
    return {path: _found(tensors, blocks[path], activation, gate) for path in sorted_paths}


def _nearest(group: list[Candidate]) -> list[Candidate]:
    """Those that know most of the names: of ``se_conv_reduce``, ``conv_reduce`` says more than ``reduce``."""
    shortest = min(len(each.path) for each in group)
    return [each for each in group if len(each.path) == shortest]


def _check_apart(groups: list[list[Candidate]]) -> None:
    """Refuse two blocks that share a tensor, as three square layers counted in a row would be."""
    taken: dict[str, Candidate] = {}
    for one in (group[0] for group in groups):
        for name in one.names.values():
            if name in taken:
                raise LayoutError(
                    f"{name} can be of two blocks, that of {_first_layer(taken[name])} and that of {_first_layer(one)}"
                )
            taken[name] = one


def _first_layer(block: Candidate) -> str:
    return next(iter(block.names.values())).removesuffix(BLOCK_LAYOUTS[block.layout].leaves[0])


def chosen(layout: str) -> dict[str, BlockLayout]:
    """The rows of a name: ``"auto"`` is all, ``"timm"`` all of timm."""
    families = BLOCK_ALIASES.get(layout, (layout,))
    rows = {
        name: row
        for name, row in BLOCK_LAYOUTS.items()
        if layout == "auto" or any(name == family or name.startswith(f"{family}.") for family in families)
    }
    if not rows:
        raise LayoutError(f"layout {layout!r} is not known; expected auto or one of {', '.join(BLOCK_LAYOUTS)}")
    return rows


def candidates(shapes: Shapes, name: str, row: BlockLayout, *, named: bool = False) -> Iterator[Candidate]:
    """The blocks that a layout sees; if it was ``named``, a block that is the whole file needs no place or width."""
    weight, bias = row.leaves
    first = row.expand if row.reduce is None else row.reduce
    pattern = _pattern(row, first)
    for key in shapes:
        if not key.endswith(weight) or not (found := pattern.fullmatch(key.removesuffix(weight))):
            continue
        path = found["path"] or ""
        numbers = {"k": int(found["k"] or 0)} if "k" in pattern.groupindex else {}
        before = path + row.separator if path else ""
        modules = {} if row.reduce is None else {"reduce": before + fill(row.reduce, numbers)}
        modules["expand"] = before + fill(row.expand, numbers)
        if not _whole_norm(shapes, before, row.norm[0], key) if row.norm else _has_more(shapes, before, key):
            continue
        names = {f"{at}.weight": module + weight for at, module in modules.items()}
        biases = {f"{at}.bias": module + bias for at, module in modules.items()} if row.bias else {}
        have = [name in shapes for name in biases.values()]
        if any(name not in shapes for name in names.values()) or (biases and not any(have) and not row.optional):
            continue
        if len(set(have)) > 1 or (not row.bias and any(m + bias in shapes for m in modules.values())):
            continue
        names |= biases if any(have) else {}
        whole = named and not path and all(at in names.values() or _is_of_norm(at, row) for at in shapes)
        if row.at and not whole and not _ends_in(row.at, path, row):
            continue
        if row.narrow and not whole and _ends_in(PERCEPTRON, path, row):
            continue
        widths = _widths({at: shapes[key] for at, key in names.items()}, row)
        wider = widths is not None and widths[1] is not None and widths[1] > widths[0]
        if widths and (whole or not row.narrow or not wider):
            ordered = {at: names[at] for at in sorted(names, key=lambda at: (at[0] == "e", at.endswith("bias")))}
            yield Candidate(path, name, ordered, *widths)


def _ends_in(words: tuple[str, ...], path: str, row: BlockLayout) -> bool:
    """Whether a path's last element is one of these words; where paths have slashes, names have underscores."""
    before = "./" if row.separator == "." else "./_"
    return path in words or path.endswith(tuple(sign + word for word in words for sign in before))


def _has_more(shapes: Shapes, before: str, first: str) -> bool:
    """Whether something with weights of its own stands beside the projections: PReLU, as in SINet, or a norm of the
    hidden width, as in RexNet, GCNet and projection heads.

    Numbered norms beside convolutions are a unit's own, of whatever width.
    """
    hidden = shapes[first][:1]
    numbers = ("", "0", "1", "2") if len(shapes[first]) == 2 else ("",)
    others = ["act", "activ", *(norm + number for norm in ("bn", "ln", "norm") for number in numbers)]
    return any(shapes.get(f"{before}{one}.{leaf}") == hidden for one in others for leaf in ("weight", "running_mean"))


def _is_of_norm(name: str, row: BlockLayout) -> bool:
    return row.norm is not None and name.startswith(f"{row.norm[0]}.")


def _whole_norm(shapes: Shapes, before: str, norm: str, first: str) -> bool:
    hidden = shapes[first][:1]
    return all(name in shapes and shapes[name] == hidden for name in (f"{before}{norm}.{at}" for at in NORM))


def _widths(shapes: dict[str, tuple[int, ...]], row: BlockLayout) -> tuple[int, int | None] | None:
    """Channels and hidden width, if the shapes are a block's."""
    sizes: dict[str, set[int]] = {"C": set(), "R": set()}
    for at, shape in shapes.items():
        module, _, leaf = at.partition(".")
        axes = row.weight if leaf == "weight" else row.bias
        if len(shape) != len(axes):
            return None
        out, into = ("R", "C") if module == "reduce" else ("C", "R" if "reduce.weight" in shapes else "C")
        for axis, length in zip(axes, shape, strict=True):
            if axis == "1":
                if length != 1:
                    return None
            else:
                sizes[out if axis == "O" else into].add(length)
    if len(sizes["C"]) != 1 or len(sizes["R"]) > 1 or 0 in sizes["C"] | sizes["R"]:
        return None
    (channels,), hidden = sizes["C"], next(iter(sizes["R"]), None)
    return channels, hidden


def _found(tensors: Tensors, group: list[Candidate], activation: Any, gate: Any) -> Found:
    readings = {(each.channels, each.hidden, BLOCK_LAYOUTS[each.layout].weight.replace("1", "")) for each in group}
    if len(readings) > 1:
        ways = "; ".join(f"{each.layout}: {each.channels} channels, hidden {each.hidden}" for each in group)
        raise LayoutError(
            f"{group[0].path or 'the block'} can be read in two ways, whose names and shapes both fit ({ways}); "
            f"say layout={group[0].layout!r} or another"
        )
    for tells_more in ("norm", "at"):
        group = [each for each in group if getattr(BLOCK_LAYOUTS[each.layout], tells_more)] or group
    rows = [BLOCK_LAYOUTS[candidate.layout] for candidate in group]
    one, facts = group[0], {"activation": activation, "gate": gate}
    for name in CHOICES:
        told = [getattr(row, name) for row in rows]
        fixed = told[0] if all(value == told[0] for value in told) else UNKNOWN
        if facts[name] is None:
            facts[name] = fixed
        elif fixed not in (UNKNOWN, facts[name]):
            raise LayoutError(
                f"{one.path or 'the block'} has the {name} {fixed!r}, as layout {one.layout!r} always; given was "
                f"{facts[name]!r}; "
                "say only what is unknown, or name the layout that the file has"
            )
    if one.hidden is None:
        facts["activation"] = "identity"
    unknown = tuple(name for name in CHOICES if facts[name] == UNKNOWN)
    fields: dict[str, Any] = {name: value for name, value in facts.items() if value != UNKNOWN}
    fields |= {"single_projection": True} if one.hidden is None else {"hidden": one.hidden}
    fields["gain"] = rows[0].gain if len({row.gain for row in rows}) == 1 else 1.0
    spec = SESpec(one.channels, bias="expand.bias" in one.names, **fields)
    layouts = tuple(candidate.layout for candidate in group)
    changes = ("batch norm folded into the first projection",) if rows[0].norm else ()
    return Found(spec, load(tensors, one), unknown, layouts, one.names, changes)


def load(tensors: Tensors, block: Candidate) -> dict[str, np.ndarray]:
    """The block's canonical parameters; batch norm between the projections is folded into the first.

    Raises:
        LayoutError: they are no floats.
    """
    row = BLOCK_LAYOUTS[block.layout]
    for name in block.names.values():
        if tensors[name].dtype.name not in FLOATS:
            raise LayoutError(f"{name} has dtype {tensors[name].dtype}, expected one of {', '.join(FLOATS)}")
    axes = {"weight": row.weight, "bias": row.bias}
    found = {
        at: np.ascontiguousarray(to_canonical(tensors[name], axes[at.partition(".")[2]]))
        for at, name in block.names.items()
    }
    return _folded(tensors, block, found, *row.norm) if row.norm else found


def _folded(
    tensors: Tensors, block: Candidate, found: dict[str, np.ndarray], norm: str, epsilon: float
) -> dict[str, np.ndarray]:
    """``scale (W z + b - mean) / sqrt(variance + epsilon) + offset`` as one product, in float64, rounded once."""
    path = f"{block.path}.{norm}" if block.path else norm
    scale, offset, mean, variance = (np.asarray(tensors[f"{path}.{leaf}"], np.float64) for leaf in NORM)
    factor = scale / np.sqrt(variance + epsilon)
    weight, bias = (np.asarray(found[f"reduce.{leaf}"], np.float64) for leaf in ("weight", "bias"))
    dtype = found["reduce.weight"].dtype
    folded = {
        "reduce.weight": (factor[:, None] * weight).astype(dtype),
        "reduce.bias": (factor * (bias - mean) + offset).astype(dtype),
    }
    return {**folded, **{at: value for at, value in found.items() if at.startswith("expand")}}


def save(parameters: Tensors, layout: str, path: str = "", number: int = 0) -> dict[str, np.ndarray]:
    """A block's tensors under a path, in a layout; ``number`` is the first layer's where they are counted.

    Raises:
        LayoutError: the layout has no place for what the block has, or for what it lacks.
    """
    if layout not in BLOCK_LAYOUTS:
        raise LayoutError(f"layout {layout!r} is not a block's; expected one of {', '.join(BLOCK_LAYOUTS)}")
    row = BLOCK_LAYOUTS[layout]
    single, biased = "reduce.weight" not in parameters, "expand.bias" in parameters
    if single != (row.reduce is None):
        raise LayoutError(f"layout {layout!r} has {'one projection' if row.reduce is None else 'two projections'}")
    if biased and not row.bias:
        raise LayoutError(f"layout {layout!r} has no biases, this block has")
    if not biased and row.bias and not row.optional:
        raise LayoutError(f"layout {layout!r} has biases, this block has none")
    before = path + row.separator if path else ""
    modules = {"reduce": row.reduce, "expand": row.expand}
    saved = {}
    for at, value in parameters.items():
        module, _, leaf = at.partition(".")
        template = modules[module]
        assert template is not None
        name = before + fill(template, {"k": number}) + row.leaves[leaf == "bias"]
        saved[name] = np.ascontiguousarray(to_foreign(value, row.weight if leaf == "weight" else row.bias))
    if row.norm:
        saved |= _identity(before + row.norm[0], row.norm[1], parameters["reduce.bias"])
    return saved


def _identity(name: str, epsilon: float, like: np.ndarray) -> dict[str, np.ndarray]:
    """A batch norm that changes nothing: its variance is 1 with epsilon."""
    values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - epsilon}
    return {f"{name}.{leaf}": np.full_like(like, value) for leaf, value in values.items()}


def _pattern(row: BlockLayout, module: str) -> re.Pattern[str]:
    body = re.escape(module).replace(re.escape("{_k}"), r"(?:_(?P<k>\d+))?")
    return re.compile(rf"(?:(?P<path>.*){re.escape(row.separator)})?{body}", re.DOTALL)
