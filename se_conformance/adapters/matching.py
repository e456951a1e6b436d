"""Matches a block's parameters to the canonical ones: by given names, else by shape, order and words in names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from se_spec import ParameterError

from .departures import DepartureError, find_departure

Shapes = Mapping[str, tuple[int, ...]]

FIRST = {"reduce", "reduction", "squeeze", "down", "first"}
SECOND = {"expand", "expansion", "excite", "excitation", "up", "second"}


@dataclass(frozen=True)
class NativeParameter:
    """One parameter as the block stores it.

    Args:
        name: the block's name for it.
        shape: the stored shape; a 1x1 convolution has axes of length 1 after (O, I) or before (I, O).
        rows: ``"out"`` where a weight is (O, I), ``"in"`` where it is (I, O).
    """

    name: str
    shape: tuple[int, ...]
    rows: str

    @property
    def canonical_shape(self) -> tuple[int, ...]:
        """(O, I) for a weight, (O,) for a bias; any other shape is unchanged."""
        if len(self.shape) < 2:
            return self.shape
        core, rest = (self.shape[:2], self.shape[2:]) if self.rows == "out" else (self.shape[-2:], self.shape[:-2])
        if set(rest) - {1}:
            return self.shape
        return core if self.rows == "out" else core[::-1]

    def flip(self) -> "NativeParameter":
        """Return the parameter with (O, I) and (I, O) exchanged."""
        return replace(self, rows="in" if self.rows == "out" else "out")

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        """Convert a canonical array to the stored shape; a view where that is possible."""
        return (array if self.rows == "out" else array.T).reshape(self.shape)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """Convert a stored array to the canonical shape."""
        shape = self.canonical_shape
        return array.reshape(shape) if self.rows == "out" else array.reshape(shape[::-1]).T


def match(
    expected: Shapes, native: Sequence[NativeParameter], names: Mapping[str, str] | None, *, ordered: bool
) -> dict[str, NativeParameter]:
    """Match every canonical parameter to one native parameter, and leaves none over.

    Args:
        expected: canonical names and shapes.
        native: the block's parameters, in creation order if ``ordered``.
        names: maps canonical names to native names or the ends of them; weights may have either orientation. None
            matches by shape.
        ordered: whether the first of two parameters of one shape is reduce's; otherwise their names must decide.

    Returns:
        Maps canonical names to native parameters.

    Raises:
        DepartureError: they are those of a block with another hidden width, other projections or biases.
        ParameterError: some are missing, left over, of a wrong shape, or ambiguous; the message names all of them.
    """
    found, faults = (
        _match_by_name(expected, native, names) if names is not None else _match_by_shape(expected, native, ordered)
    )
    used = [parameter.name for parameter in found.values()]
    faults += [f"left over {parameter.name!r} {parameter.shape}" for parameter in native if parameter.name not in used]
    if faults:
        shapes = [parameter.canonical_shape for parameter in native]
        departure = find_departure(expected, shapes) if _are_unique(names, native) else None
        held = ", ".join(parameter.name for parameter in native) or "none"
        example = ", ".join(f"{name!r}: ..." for name in expected)
        message = (
            f"the block's parameters do not fit: {'; '.join(faults)}. It has: {held}. "
            f"To say which is which: se_conformance.adapt(block, names={{{example}}})"
        )
        raise DepartureError(message, departure) if departure else ParameterError(message)
    return found


def _are_unique(names: Mapping[str, str] | None, native: Sequence[NativeParameter]) -> bool:
    """Whether each name that is given is that of one parameter, so that no mistake of the caller is the block's."""
    found = [find_by_suffix(native, name) for name in (names or {}).values()]
    return all(map(len, found)) and len({fitting[0].name for fitting in found}) == sum(map(len, found))


def _match_by_name(
    expected: Shapes, native: Sequence[NativeParameter], names: Mapping[str, str]
) -> tuple[dict[str, NativeParameter], list[str]]:
    found: dict[str, NativeParameter] = {}
    faults = [f"names has {name!r}, expected {', '.join(expected)}" for name in names if name not in expected]
    for name, shape in expected.items():
        if name not in names:
            faults.append(f"names lacks {name} {shape}")
            continue
        fitting = find_by_suffix(native, names[name])
        if len(fitting) != 1:
            several = ", ".join(parameter.name for parameter in fitting)
            faults.append(f"{name} is {names[name]!r}, which " + (f"may be {several}" if fitting else "is not there"))
            continue
        parameter = fitting[0]
        found[name] = parameter if parameter.canonical_shape == shape else parameter.flip()
        if found[name].canonical_shape != shape:
            faults.append(f"{name} is {parameter.name!r} {parameter.shape}, expected {shape}")
    given = [parameter.name for parameter in found.values()]
    faults += [f"{name!r} is named {given.count(name)} times" for name in set(given) if given.count(name) > 1]
    return found, faults


def find_by_suffix(native: Sequence[NativeParameter], name: str) -> list[NativeParameter]:
    """Find the parameters of that name, else those whose path ends with it."""
    exact = [parameter for parameter in native if parameter.name == name]
    return exact or [parameter for parameter in native if parameter.name.endswith(("/" + name, "." + name))]


def _match_by_shape(
    expected: Shapes, native: Sequence[NativeParameter], ordered: bool
) -> tuple[dict[str, NativeParameter], list[str]]:
    found: dict[str, NativeParameter] = {}
    faults: list[str] = []
    for shape in dict.fromkeys(expected.values()):
        canonical = [name for name in expected if expected[name] == shape]
        fitting = [parameter for parameter in native if parameter.canonical_shape == shape]
        if len(fitting) < len(canonical):
            faults.append(f"missing {' or '.join(canonical) if fitting else ' and '.join(canonical)} {shape}")
        elif len(fitting) == 2 == len(canonical):
            order = comes_first(fitting[0].name, fitting[1].name)
            if (order is None and not ordered) or (order is False and ordered):
                both = " and ".join(parameter.name for parameter in fitting)
                faults.append(f"{both} are both {shape}: which is {canonical[0]}?")
            elif order is False:
                fitting.reverse()
        found |= dict(zip(canonical, fitting, strict=False))
    return found, faults or _find_transposed(found, native, ordered)


def _find_transposed(found: dict[str, NativeParameter], native: Sequence[NativeParameter], ordered: bool) -> list[str]:
    """Find weights that have each other's shape, since both are stored in the other orientation."""
    reduce, expand = found.get("reduce.weight"), found.get("expand.weight")
    if reduce is None or expand is None:
        return []
    order = comes_first(reduce.name, expand.name)
    if order is False or (order is None and ordered and native.index(reduce) > native.index(expand)):
        return [f"{reduce.name!r} {reduce.shape} has the shape of reduce.weight, and comes second: is it transposed?"]
    return []


def comes_first(a: str, b: str) -> bool | None:
    """Whether ``a`` comes before ``b`` by the words or numbers in the names; None where these do not decide.

    >>> comes_first("fc1.kernel", "fc2.kernel"), comes_first("expand.bias", "reduce.bias")
    (True, False)
    >>> comes_first("alpha", "beta")
    """
    left, right = _strip_common_words(_words(a), _words(b))
    if _role(left) != _role(right):
        return _role(left) < _role(right)
    if left != right and all(word.isdigit() for word in left + right):
        return [int(word) for word in left] < [int(word) for word in right]
    return None


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)]


def _strip_common_words(a: list[str], b: list[str]) -> tuple[list[str], list[str]]:
    """Remove the words that both names begin and end with."""
    for end in (0, -1):
        while a and b and a[end] == b[end]:
            a, b = (a[1:], b[1:]) if end == 0 else (a[:-1], b[:-1])
    return a, b


def _role(words: list[str]) -> int:
    """-1 if a word means the first projection, 1 if one means the second, 0 if none does or both do."""
    return bool(SECOND.intersection(words)) - bool(FIRST.intersection(words))
