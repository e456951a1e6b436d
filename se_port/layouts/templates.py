"""The small language of the layout tables: names with numbers in them, and the order of an array's axes.

A name such as ``layer{s}.{b}.conv{n}`` has fields in braces. A field is a variable of one letter (s stage, b block, n
number, i part, k count), or arithmetic on variables and numbers with + - * //. A stage counts from 1 and a block from
0, as in canonical names. Two forms follow the automatic names of Keras and TensorFlow: ``dense{_k}`` is ``dense``,
``dense_1``, ``dense_2`` for k = 0, 1, 2; and ``{b:a}`` is the letter a, b, c for 0, 1, 2.
"""

import ast
import operator
import re
from functools import lru_cache
from typing import Any

import numpy as np

_FIELD = re.compile(r"\{([^{}]+)\}")
_OPERATIONS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
Numbers = dict[str, int]


def fill(template: str, numbers: Numbers) -> str:
    """Fill a template with numbers.

    >>> fill("group{s-1}/block{b}/conv{n}", {"s": 1, "b": 2, "n": 3})
    'group0/block2/conv3'
    >>> [fill("dense{_k}", {"k": k}) for k in (0, 1)], fill("inception_{s+2}{b:a}", {"s": 1, "b": 2})
    (['dense', 'dense_1'], 'inception_3c')
    """
    return _FIELD.sub(lambda field: _fill_field(field[1], numbers), template)


def match(template: str, name: str) -> Numbers | None:
    """Read the numbers from a name; None if the name does not match. Fields must be plain variables.

    >>> match("stage{s}.block{b}.conv{n}", "stage2.block0.conv3"), match("stage{s}.block{b}.conv{n}", "stem.conv1")
    ({'s': 2, 'b': 0, 'n': 3}, None)
    """
    matched = _pattern(template).fullmatch(name)
    return {field: int(number) for field, number in matched.groupdict().items()} if matched else None


@lru_cache(maxsize=1024)
def _pattern(template: str) -> re.Pattern[str]:
    literal = _FIELD.split(template)
    literal[::2] = map(re.escape, literal[::2])
    literal[1::2] = [rf"(?P<{field}>[0-9]{{1,9}})" for field in literal[1::2]]
    return re.compile("".join(literal))


def _fill_field(field: str, numbers: Numbers) -> str:
    if field.endswith(":a"):
        return "abcdefghijklmnopqrstuvwxyz"[_value(field[:-2], tuple(numbers.items()))]
    counted = field.startswith("_")
    number = _value(field.removeprefix("_"), tuple(numbers.items()))
    if counted:
        return f"_{number}" if number else ""
    return str(number)


@lru_cache(maxsize=1024)  # the numbers are those of a file
def _value(expression: str, numbers: tuple[tuple[str, int], ...]) -> int:
    return _evaluate(ast.parse(expression, mode="eval").body, dict(numbers))


def _evaluate(node: ast.expr, numbers: Numbers) -> int:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return numbers[name]
        case ast.BinOp(left=left, op=operation, right=right):
            return int(_OPERATIONS[type(operation)](_evaluate(left, numbers), _evaluate(right, numbers)))
    raise ValueError(f"{ast.unparse(node)} is not arithmetic")


def letters(shape: tuple[int, ...]) -> str:
    """Letters of a canonical parameter's axes: OIHW of a convolution, OI of a product, else O."""
    return {4: "OIHW", 2: "OI", 1: "O"}[len(shape)]


def foreign_shape(axes: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that a canonical parameter has in a file.

    >>> foreign_shape("HWIO", (64, 3, 7, 7)), foreign_shape("OI11", (4, 64)), foreign_shape("IO", (4, 64))
    ((7, 7, 3, 64), (4, 64, 1, 1), (64, 4))
    """
    sizes = dict(zip(letters(shape), shape, strict=True))
    return tuple(1 if axis == "1" else sizes[axis.upper()] for axis in axes)


def to_canonical(array: np.ndarray, axes: str) -> np.ndarray:
    """View a file's array with canonical axes; a small letter is an axis that lies backwards in the file.

    >>> to_canonical(np.arange(6).reshape(1, 3, 2, 1), "1iO1")
    array([[4, 2, 0],
           [5, 3, 1]])
    """
    named = [axis for axis in axes if axis != "1"]
    canonical = letters((0,) * len(named))
    view = array.reshape([length for length, axis in zip(array.shape, axes, strict=True) if axis != "1"])
    view = view[tuple(slice(None, None, -1 if axis.islower() else None) for axis in named)]
    return view.transpose([[axis.upper() for axis in named].index(axis) for axis in canonical])


def to_foreign(array: np.ndarray, axes: str) -> np.ndarray:
    """View a canonical array with a file's axes; the inverse of ``to_canonical``.

    >>> to_foreign(np.array([[4, 2, 0], [5, 3, 1]]), "1iO1").ravel()
    array([0, 1, 2, 3, 4, 5])
    """
    named = [axis for axis in axes if axis != "1"]
    view = array.transpose([letters(array.shape).index(axis.upper()) for axis in named])
    view = view[tuple(slice(None, None, -1 if axis.islower() else None) for axis in named)]
    return view.reshape(foreign_shape(axes, array.shape))


def fit_ones(axes: str, rank: int) -> str:
    """Give axes of length one to an array of this rank: a 1x1 convolution has as many as its map has spatial axes.

    >>> fit_ones("OI11", 5), fit_ones("11IO", 3), fit_ones("OI", 4)
    ('OI111', '1IO', 'OI')
    """
    ones = rank - len(axes) + axes.count("1")
    return re.sub("1+", "1" * ones, axes) if "1" in axes and 1 <= ones <= 3 else axes


def canonical_shape(axes: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Canonical shape of a file's array.

    >>> canonical_shape("11IO", (1, 1, 64, 4))
    (4, 64)
    """
    sizes = {axis.upper(): length for axis, length in zip(axes, shape, strict=True) if axis != "1"}
    return tuple(sizes[axis] for axis in letters((0,) * len(sizes)))
