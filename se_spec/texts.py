"""Texts of files in messages: cut, and without characters that a terminal would obey."""

from collections.abc import Callable

MAX_QUOTED = 200
"""Characters that a message shows of one text of a file."""
MAX_MESSAGE = 4000
"""Characters of a whole message."""


def escape(text: str, *, keep_lines: bool = False) -> str:
    r"""Escape characters that are not printed as they are: controls, ends of lines, and marks that turn the direction.

    Args:
        text: to be printed.
        keep_lines: whether ends of lines stay, in a text of several lines.

    >>> print(escape("a\x1b[2Jb\nc\u202ed"))
    a\x1b[2Jb\nc\u202ed
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or (keep_lines and sign == "\n") else repr(sign)[1:-1] for sign in text)


def shorten(value: object, most: int = MAX_QUOTED, *, keep_lines: bool = False) -> str:
    """Return a value of a file as a text for a message: escaped, and without its middle if it is long.

    Args:
        value: such as a name or a shape.
        most: characters of the result, at least 20.
        keep_lines: whether ends of lines stay, in a text of several lines.

    >>> shorten("x" * 1000, 21), shorten((3, 10**5000))
    ('xxxxxxxx ... xxxxxxxx', 'numbers of more than 4,300 digits')
    """
    text = value if isinstance(value, str) else _print(str, value)
    return _cut(escape(_cut(text, most), keep_lines=keep_lines), most)


def quote(value: object, most: int = MAX_QUOTED) -> str:
    """Return the representation of a value of a file as a text for a message, cut as by ``shorten``.

    >>> quote("a b"), quote(10**5000)
    ("'a b'", 'numbers of more than 4,300 digits')
    """
    return shorten(_print(repr, value[: 2 * most] if isinstance(value, str | bytes) else value), most)


def _print(form: Callable[[object], str], value: object) -> str:
    try:
        return form(value)
    except ValueError:  # Python refuses to print such integers, which takes quadratic time
        return "numbers of more than 4,300 digits"
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deep"


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    side = (most - len(" ... ")) // 2
    return f"{text[:side]} ... {text[-side:]}"
