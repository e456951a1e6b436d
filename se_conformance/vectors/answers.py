"""Answers to frozen vectors that a program in another language wrote: a line of numbers for each vector."""

import stat
import sys
from pathlib import Path

import numpy as np

from se_spec import SEError
from se_spec.texts import quote, shorten

from ..calls import CallResult
from ..cases import round_to
from .frozen import MAX_BYTES, Vector

STANDARD_INPUT = "-"


def read_answers(path: str) -> dict[str, np.ndarray]:
    """Read lines of the form ``name: y0 y1 y2 ...``, y in the order of C, channels last; blank lines are left out.

    Args:
        path: of a file of text, or ``"-"`` for the standard input.

    Returns:
        Maps vectors' names to the numbers, float64 and flat.

    Raises:
        SEError: the file cannot be read, a line has another form, or a name is there twice.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "answers.txt")
        >>> _ = path.write_text("gate relu float32: 1.5 nan -0x1p-3")
        >>> read_answers(str(path))["gate relu float32"].tolist()
        [1.5, nan, -0.125]
    """
    answers: dict[str, np.ndarray] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        name, colon, numbers = line.partition(":")
        name = name.strip()
        if not line.strip():
            continue
        if not colon or name in answers:
            fault = f"has {quote(name)} twice" if colon else f"is {quote(line)}"
            raise SEError(f"line {number} of the answers {fault}; expected lines such as 'gate relu float32: 1.5 -2'")
        try:
            answers[name] = np.array([_parse(text) for text in numbers.split()], np.float64)
        except ValueError as error:
            raise SEError(f"line {number} of the answers, {quote(name)}: {shorten(error)}") from None
    return answers


def choose_answer(answers: dict[str, np.ndarray], vector: Vector) -> CallResult:
    """Return the answer to a vector in its dtype and shape, as if a function had returned it."""
    if vector.name not in answers:
        return CallResult(raised="nothing: there is no answer to this vector")
    numbers = answers[vector.name]
    with np.errstate(over="ignore"):
        y = round_to(numbers, vector.dtype)
    return CallResult(y=y.reshape(vector.y.shape) if y.size == vector.y.size else y)


def _parse(text: str) -> float:
    """Read a number in decimal or, as C's %a writes it, in hexadecimal digits."""
    return float.fromhex(text) if "x" in text.lower() else float(text)


def _read(path: str) -> str:
    try:
        if path == STANDARD_INPUT:
            return sys.stdin.read(MAX_BYTES)
        state = Path(path).stat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            raise SEError(f"{shorten(path)} is no file of at most {MAX_BYTES:,} bytes")
        return Path(path).read_text("utf-8")
    except UnicodeDecodeError:
        raise SEError(f"{shorten(path)} is no text in UTF-8") from None
