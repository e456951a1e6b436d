"""Checks of a feature map by shape and dtype, so that every implementation gives the same errors (X-1 to X-5)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import InputError, ShapeError
from .parameters import FLOATS
from .spec import SESpec
from .validation import choice

if TYPE_CHECKING:
    from .networks import NetworkSpec

_LAYOUTS = {"channels_first": "(N, C, *spatial)", "channels_last": "(N, *spatial, C)"}


def check_data_format(data_format: str) -> None:
    """Refuse a data format that is not one of the two.

    Raises:
        SpecError: names both.
    """
    choice("data_format", data_format, tuple(_LAYOUTS))


def spatial_axes(rank: int, data_format: str) -> tuple[int, ...]:
    """Return the spatial axes of an array with ``rank`` axes.

    >>> spatial_axes(4, "channels_first"), spatial_axes(4, "channels_last")
    ((2, 3), (1, 2))
    """
    return tuple(range(2, rank)) if data_format == "channels_first" else tuple(range(1, rank - 1))


def check(shape: Sequence[int | None], dtype: Any, spec: "SESpec | NetworkSpec", data_format: str) -> None:
    """Refuse a feature map, or a network's images, for which the spec is not defined.

    A dimension that is not known yet is None.

    Raises:
        InputError: integers, bools or complex numbers (X-4).
        ShapeError: not 1 to 3 spatial axes, 2 of images (X-1), not ``spec.channels`` channels (X-2), no spatial
            extent (X-3).
    """
    check_dtype("x", dtype)
    block = isinstance(spec, SESpec)
    if len(shape) not in ((3, 4, 5) if block else (4,)):
        axes = "1, 2 or 3 spatial axes (rank 3, 4 or 5)" if block else "2 spatial axes (rank 4)"
        raise ShapeError(f"{_facts(shape, spec, data_format)} and {axes}, got rank {len(shape)}")
    first = data_format == "channels_first"
    channels, spatial = shape[1 if first else -1], shape[2:] if first else shape[1:-1]
    if channels is not None and channels != spec.channels:
        facts = _facts(shape, spec, data_format)
        hint = _suggest_order(shape, spec, first)
        raise ShapeError(f"{facts}, got {channels} channels; is x {data_format}?{hint}")
    if 0 in spatial:
        axis = tuple(spatial).index(0) + (2 if first else 1)
        facts = _facts(shape, spec, data_format)
        raise ShapeError(f"{facts}, got an empty spatial axis {axis}: a squeeze over nothing is not defined")


def _suggest_order(shape: Sequence[int | None], spec: "SESpec | NetworkSpec", first: bool) -> str:
    """Return the end of the message about channels: how to move an axis, where another one has their number."""
    if shape[-1 if first else 1] != spec.channels:
        return ""
    found, move = ("last", "x.movedim(-1, 1)") if first else ("first", "moveaxis(x, 1, -1)")
    return f" It seems to be channels {found}; {move} gives the expected order"


def _facts(shape: Sequence[int | None], spec: "SESpec | NetworkSpec", data_format: str) -> str:
    return f"x has shape {tuple(shape)}, expected {_LAYOUTS[data_format]} with C = {spec.channels}"


def check_dtype(what: str, dtype: Any) -> None:
    """Refuse a dtype that is not one of the four storage types (X-4).

    Raises:
        InputError: names the dtype and the four.
    """
    name = str(dtype).rpartition(".")[2]
    if name not in FLOATS:
        raise InputError(f"{what} is of dtype {name}, expected one of {', '.join(FLOATS)}; convert it first")


def foreign_array_error(x: Any, expected: str, remedy: str) -> InputError:
    """Build the error for an array of another framework (X-5); the caller raises it."""
    kind = f"{type(x).__module__.partition('.')[0]}.{type(x).__name__}"
    return InputError(f"x is a {kind}, expected a {expected}; {remedy}")
