"""Checks of single fields: each returns the value in its canonical type, or raises ``SpecError``."""

import json
import math
from numbers import Integral, Real
from typing import Any, NoReturn

from .errors import SpecError
from .hints import suggest_value
from .texts import quote

MAX_INTEGER = (1 << 63) - 1


def positive_integer(field: str, value: Any) -> int:
    """Return an integer of at least 1 and of 64 bits; a bool is refused."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= MAX_INTEGER:
        refuse(field, value, "an integer of at least 1")
    return int(value)


def finite_number(field: str, value: Any) -> float:
    """Return a finite real number as a float; a bool is refused."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        refuse(field, value, "a finite number")
    return number


def positive_number(field: str, value: Any) -> float:
    """Return a finite number above 0."""
    if finite_number(field, value) <= 0:
        refuse(field, value, "a finite number above 0")
    return float(value)


def not_negative(field: str, value: Any) -> float:
    """Return a finite number of at least 0."""
    if finite_number(field, value) < 0:
        refuse(field, value, "a finite number of at least 0")
    return float(value)


def flag(field: str, value: Any) -> bool:
    """Return ``True`` or ``False``; other values are refused."""
    if not isinstance(value, bool):
        refuse(field, value, "True or False")
    return value


def choice(field: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return one of the allowed names."""
    if not isinstance(value, str) or value not in allowed:
        refuse(field, value, "one of " + ", ".join(map(repr, allowed)) + suggest_value(value, allowed))
    return value


def parse_json(text: str, what: str) -> Any:
    """Parse JSON; the error calls it ``what``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{what} must be JSON, but {error}") from None


def refuse(field: str, value: Any, allowed: str) -> NoReturn:
    """Raise ``SpecError`` with the field, the value and the allowed values."""
    raise SpecError(f"{field}={quote(value)} is not allowed; it must be {allowed}")
