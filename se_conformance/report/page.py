"""One page about several verdicts: a table of all, then each; nothing on it comes from another file."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from se_spec import __version__

from .fragment import render_verdict
from .markup import Markup, tag
from .style import STYLE
from .subject import Judgement


class Entry(NamedTuple):
    """One verdict of a page, as data that processes exchange as JSON.

    Args:
        title: what was judged: a test, or a target of the command line.
        passed: whether the verdict passed.
        spec, dtype: of the verdict, as text.
        body: the result of ``render_verdict``.
    """

    title: str
    passed: bool
    spec: str
    dtype: str
    body: str


def make_entry(verdict: Judgement, title: str = "") -> Entry:
    """Render one verdict for ``join_entries``; the title is escaped there."""
    return Entry(title, verdict.passed, str(verdict.spec), verdict.dtype, render_verdict(verdict))


def render_html(verdicts: Iterable[Judgement], titles: Sequence[str] = ()) -> str:
    """Render a page about verdicts.

    Args:
        verdicts: results of ``check``.
        titles: what each verdict is about, in the same order; without one a verdict has none.

    Returns:
        A whole HTML page without scripts that loads nothing; names in it are escaped.

    Raises:
        ValueError: there are titles, and not one for each verdict.

    Example:
        >>> from se_conformance import check
        >>> from se_spec import SESpec
        >>> page = render_html([check(lambda x, parameters: x, SESpec(8, hidden=2))], ["my_block"])
        >>> page[:15], "my_block" in page, "agrees with" in page, "<script" in page
        ('<!DOCTYPE html>', True, True, False)
    """
    listed = list(verdicts)
    pairs = zip(listed, titles or [""] * len(listed), strict=True)
    return join_entries([make_entry(verdict, title) for verdict, title in pairs])


def join_entries(entries: Sequence[Entry]) -> str:
    """Join rendered verdicts to a whole page.

    Args:
        entries: their ``body`` is taken as it is; their other texts are escaped.
    """
    wrong = sum(not entry.passed for entry in entries)
    count = f"{len(entries)} verdict{'' if len(entries) == 1 else 's'}"
    title = f"Squeeze-and-Excitation: {count}, " + (f"{wrong} FAILED" if wrong else "none failed")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    sections = [
        tag(
            "section",
            tag("p", entry.title, class_="title") if entry.title else None,
            Markup(entry.body),
            id=f"verdict-{number}",
            aria_label=f"verdict {number}",
        )
        for number, entry in enumerate(entries, 1)
    ]
    footer = tag("footer", f"se-suite {__version__}")
    main = tag("main", tag("h1", title), _render_table(entries), *sections, footer)
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', main, class_='se-page'), lang='en')}\n"


def _render_table(entries: Sequence[Entry]) -> Markup:
    if not entries:
        return tag("p", "No block was judged.")
    head = tag("tr", *(tag("th", name, scope="col") for name in ("", "verdict", "of", "spec", "dtype")))
    rows = []
    for number, entry in enumerate(entries, 1):
        word = "passed" if entry.passed else "FAILED"
        link = tag("a", word, href=f"#verdict-{number}", aria_label=f"{word}: verdict {number}")
        cells = (number, tag("span", link, class_=word.lower()), entry.title, entry.spec, entry.dtype)
        rows.append(tag("tr", *(tag("td", cell) for cell in cells)))
    table = tag("table", tag("caption", "All verdicts"), head, *rows)
    return tag("div", table, class_="wide", tabindex=0)
