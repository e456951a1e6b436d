"""HTML and SVG elements as text; whatever is not markup is escaped."""

import html

from se_spec.texts import escape


class Markup(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Make one element.

    Args:
        name: of the element; it is trusted.
        children: elements, or texts and numbers, which are escaped; None is left out.
        attributes: an underscore in a name is a hyphen, and one at its end is left out; None leaves an attribute out.

    Returns:
        The element; without children of ``path``, ``line``, ``rect``, ``circle`` and ``meta`` it has no end tag.

    Example:
        >>> tag("p", "a < b", tag("b", "c"), class_="wide", aria_label='"d"')
        '<p class="wide" aria-label="&quot;d&quot;">a &lt; b<b>c</b></p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape_text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name == "meta":
        return Markup(f"<{name}{written}>")
    if name in ("path", "line", "rect", "circle"):
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Join elements and texts; texts are escaped, and None is left out."""
    return Markup("".join(escape_text(child) for child in children if child is not None))


def escape_text(value: object) -> str:
    r"""Escape a text for HTML, and characters that are not printed as they are: controls, marks of direction.

    Ends of lines stay.

    Example:
        >>> print(escape_text("<script>\x00"))
        &lt;script&gt;\x00
    """
    return value if isinstance(value, Markup) else html.escape(escape(str(value), keep_lines=True))


def format_number(value: float) -> str:
    """Write a number in few digits, and none as ``e+06``.

    Example:
        >>> format_number(1.51e6), format_number(0.25), format_number(float("inf")), format_number(3.0)
        ('1.51e6', '0.25', 'inf', '3')
    """
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
