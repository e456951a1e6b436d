"""Finds faults of a built site: links that lead nowhere or to another host, and Markdown that was not rendered."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
"""What a browser loads with the page; from another host, it would name the reader to that host."""
MARKDOWN = re.compile(r"^\s*(?:[-*|] |#+ |```).*", re.MULTILINE)
"""A line of Markdown in a paragraph, which should be an item, a row of a table, a heading or code."""


class LinkCollector(HTMLParser):
    """Collects the links of a page, the places in it to which links can lead, and the text of its paragraphs.

    Args:
        page: the page in HTML.

    Example:
        >>> found = LinkCollector('<h1 id="a">A</h1><a href="b.html#c">b</a>')
        >>> found.places, found.links
        ({'a'}, [('a', 'href', 'b.html#c')])
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[tuple[str, str, str]] = []
        self.paragraphs = ""
        self._is_in_paragraph = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element's links and places."""
        if tag == "p":
            self._is_in_paragraph = True
            self.paragraphs += "\n"
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (name == "name" and tag == "a"):
                self.places.add(value)
            elif name in ("href", "src"):
                self.links.append((tag, name, value))

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a paragraph."""
        self._is_in_paragraph &= tag != "p"

    def handle_data(self, data: str) -> None:
        """Note the text of a paragraph."""
        if self._is_in_paragraph:
            self.paragraphs += data


def find_faults(folder: Path) -> list[str]:
    """List the broken links of a site, and the lines of Markdown in it.

    Args:
        folder: the folder that the site was built into.

    Returns:
        A line for each fault, empty if there is none. Addresses of other hosts are not visited.
    """
    pages = {path.resolve(): LinkCollector(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    errors = []
    for path, page in pages.items():
        name_of_page = path.relative_to(folder.resolve()).as_posix()
        errors += [f"{name_of_page}: not rendered: {line[0].strip()}" for line in MARKDOWN.finditer(page.paragraphs)]
        for tag, name, link in page.links:
            fault = _find_fault(folder.resolve(), path, (tag, name), link, pages)
            if fault:
                errors.append(f"{name_of_page}: {link} {fault}")
    return list(dict.fromkeys(errors))


def _find_fault(
    folder: Path, path: Path, attribute: tuple[str, str], link: str, pages: dict[Path, LinkCollector]
) -> str:
    address = urlsplit(link)
    if address.scheme or address.netloc:
        is_loaded = attribute in LOADED and address.scheme in ("", "http", "https")
        return "is loaded from another host" if is_loaded else ""
    place = unquote(address.path)
    target = path
    if place:
        target = (folder / place.lstrip("/") if place.startswith("/") else path.parent / place).resolve()
    if target.is_dir():
        target = target / "index.html"
    if not target.is_relative_to(folder):
        return "leads out of the site"
    if not target.is_file():
        return "leads to no file"
    anchor = unquote(address.fragment)
    # The theme's own links for the keyboard ("skip to content") and to the top have these names.
    if anchor and target in pages and anchor not in pages[target].places and anchor != "__top":
        return "leads to no place in that page"
    return ""
