"""Small tables for notebooks; they have no colours of their own, so that they are readable in light and dark."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from .texts import escape as escape_controls

_CELL = "text-align: left; vertical-align: top; padding: 2px 10px"


def format_facts(title: str, facts: Mapping[str, object], table: str = "") -> str:
    """Format what describes an object: a title, and a row for each fact.

    Args:
        title: the object in a line.
        facts: names and values; every text is escaped.
        table: HTML of ``format_table`` that follows.

    Returns:
        HTML without scripts, styles of the page or addresses.

    Example:
        >>> "<b>SESpec(64)</b>" in format_facts("SESpec(64)", {"channels": 64})
        True
        >>> "&lt;script&gt;" in format_facts("<script>", {})
        True
    """
    rows = "".join(f"<tr>{_format_cell('th', name)}{_format_cell('td', value)}</tr>" for name, value in facts.items())
    return f"<div><b>{_escape(title)}</b><table>{rows}</table>{table}</div>"


def format_table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table; every text is escaped.

    Args:
        heading: the names of the columns.
        rows: a value for each column.

    Returns:
        HTML.

    Example:
        >>> format_table(["stage"], [["<1>"]]).count("&lt;1&gt;")
        1
    """
    lines = ["".join(_format_cell("th", name) for name in heading)]
    lines += ["".join(_format_cell("td", value) for value in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _format_cell(kind: str, value: object) -> str:
    return f'<{kind} style="{_CELL}">{_escape(str(value))}</{kind}>'


def _escape(text: str) -> str:
    return escape(escape_controls(text))
