"""The documentation site: its navigation, links, API and notebooks, without its builder; with it, the site is built."""

import doctest
import importlib
import json
import re
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from evidence.site import __main__ as command
from evidence.site import api, browser, build, links, notebooks, sources

from . import test_docstrings

ROOT = Path(__file__).parents[2]


def test_navigation_has_every_page_once() -> None:
    listed = sources.list_navigation((ROOT / "mkdocs.yml").read_text())
    assert len(listed) == len(set(listed)), "a page is in the navigation twice"
    pages = {*sources.list_pages(), *api.list_api_pages()}
    assert pages - set(listed) == set(), "pages that the navigation of mkdocs.yml lacks"
    assert set(listed) - pages == set(), "entries of the navigation that are no pages"


def slug(heading: str) -> str:
    """The anchor that GitHub and the site give to a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def test_links_between_pages_lead_to_pages_and_headings(tmp_path: Path) -> None:
    build.write_pages(tmp_path)  # an error if a linked file does not exist
    for path in tmp_path.rglob("*.md"):
        text = path.read_text()
        for _, link, _ in sources.LINK.findall(sources.FENCE.sub("", text)):
            place, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = path.parent / place if place else path
            assert target.is_file(), f"{path.name} links to {link}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                assert anchor in map(slug, headings), f"{path.name} links to {link}"
    linked = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / sources.FILE_FOLDER).rglob("*.*")}
    assert "files/LICENSE.txt" in linked


def test_missing_file_of_a_link_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"docs/SPEC\.md links to NOWHERE\.md"):
        sources.rewrite_links("[a](NOWHERE.md)", "docs/SPEC.md")


def test_links_in_code_are_left() -> None:
    text = "```md\n[a](NOWHERE.md)\n```\n[b](JUDGE.md)\n"
    assert sources.rewrite_links(text, "docs/SPEC.md") == text


def test_api_has_every_public_callable() -> None:
    assert set(api.API_PACKAGES) == set(test_docstrings.PACKAGES)
    shown = {name.rpartition(".")[2] for package in api.API_PACKAGES for name in api.list_public_names(package)}
    assert {name.rpartition(".")[2] for name in test_docstrings.PUBLIC} <= shown


PAGE = '<!doctype html><html><body><h1 id="a">A</h1><p>text</p>{}</body></html>'


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('<a href="b/#b">b</a><a href="#a">a</a><a href="https://arxiv.org/abs/1709.01507">paper</a>', ""),
        ('<a href="c/">c</a>', "index.html: c/ leads to no file"),
        ('<img src="no.png">', "index.html: no.png leads to no file"),
        ('<a href="b/#a">b</a>', "index.html: b/#a leads to no place in that page"),
        ('<a href="../x.html">x</a>', "index.html: ../x.html leads out of the site"),
        ('<script src="https://cdn.example/x.js"></script>', "is loaded from another host"),
        ("<p>A list:\n- <b>one</b></p>", "index.html: not rendered: - one"),
    ],
)
def test_faults_of_a_built_site_are_found(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "index.html").write_text(PAGE.format(content))
    (tmp_path / "b" / "index.html").write_text(PAGE.format("").replace('id="a"', 'id="b"'))
    found = links.find_faults(tmp_path)
    assert len(found) == bool(fault) and fault in "".join(found), found


def test_wide_page_and_empty_search_are_errors() -> None:
    results = dict.fromkeys(browser.QUERIES, 1)
    wide = ["a is 391 pixels wide on a phone of 390"]
    empty = ["the search for reduction finds nothing"]
    assert browser.find_measured_errors({"widths": {"a": 390}, "results": results}) == []
    assert browser.find_measured_errors({"widths": {"a": 391}, "results": results}) == wide
    assert browser.find_measured_errors({"widths": {"a": 1}, "results": {**results, "reduction": 0}}) == empty
    assert "the pages could not be measured" in browser.find_measured_errors({})


def test_failing_builder_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise build.SiteError("the builder failed")

    monkeypatch.setattr(build, "build_site", fail)
    assert command.main() == 1
    assert capsys.readouterr().err == "site: the builder failed\n"


def test_group_docs_is_pinned_and_only_there() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    names = {re.split(r"[\[>]", line)[0] for line in groups["docs"]}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names <= pinned
    assert "zensical" in names and not any("zensical" in str(groups[name]) for name in groups if name != "docs")


@pytest.mark.parametrize("name", ["sources", "api", "links", "notebooks", "browser"])
def test_examples_in_docstrings_of_the_site(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"evidence.site.{name}"))
    assert outcome.attempted and not outcome.failed


@pytest.mark.parametrize("path", notebooks.list_notebooks(), ids=lambda path: path.stem)
def test_notebook_is_valid_and_has_its_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebooks.list_format_errors(notebook) == []
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in codes] == [*range(1, len(codes) + 1)]
    assert sum(bool(cell["outputs"]) for cell in codes) > len(codes) / 2
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"nbformat": 3}, "it is not of format 4.5"),
        ({"authors": []}, "it has the fields"),
        ({"cells": [notebooks.make_cell("code", "a", ""), notebooks.make_cell("code", "a", "")]}, "the same id"),
        (
            {"cells": [{**notebooks.make_cell("code", "a", ""), "outputs": [{"output_type": "x"}]}]},
            "an output of cell 0",
        ),
    ],
)
def test_format_errors_of_a_notebook_are_found(change: dict, error: str) -> None:
    valid = {**notebooks.FORMAT, "metadata": {}, "cells": [notebooks.make_cell("markdown", "a", "b")]}
    assert notebooks.list_format_errors(valid) == []
    assert error in " ".join(notebooks.list_format_errors({**valid, **change}))


@pytest.mark.framework("site")
def test_site_is_built_without_faults_and_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main() == 0, capsys.readouterr().out
    assert (build.SITE_FOLDER / "notebooks" / "judge_a_block.ipynb").is_file()
    assert '<html lang="zh-CN"' in (build.SITE_FOLDER / "zh" / "index.html").read_text(encoding="utf-8")
    assert ", 0 errors" in capsys.readouterr().out


def make_browser(folder: Path, *, log: str = "", hidden: tuple[str, ...] = (), dark: str = "slate") -> str:
    """A program with a browser's options, which prints pages as they are and measures what a right site would give."""
    code = f"""#!{sys.executable} -SE
import sys, urllib.error, urllib.request
try:
    page = urllib.request.urlopen(sys.argv[-1]).read().decode()
except urllib.error.HTTPError:
    page = ""
page = page.replace("SCHEME", {dark!r} if "--force-dark-mode" in sys.argv else "default")
for text in {hidden!r}:
    page = page.replace(text, "")
measured = {json.dumps({"widths": {"a": 390}, "results": dict.fromkeys(browser.QUERIES, 3)})!r}
page = page.replace('<pre id="measured">', '<pre id="measured">' + measured)
sys.stderr.write({log!r} or ("[1:INFO:CONSOLE:1] undefined" if "undefined_function" in page else ""))
if "--dump-dom" in sys.argv:
    sys.stdout.buffer.write(page.encode())
"""
    path = folder / "browser"
    path.write_text(code)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({}, []),
        ({"log": "[1:INFO:CONSOLE:2] it failed"}, ["the console says it failed"]),
        (
            {"hidden": ("中文", "undefined_function"), "dark": "default"},
            [
                "zh/index.html does not show 中文",
                "the colours are default where the reader's system prefers dark ones",
                "a broken script gives no message on the console, so that the check above proves nothing",
            ],
        ),
    ],
    ids=["right", "console", "texts and colours"],
)
def test_what_is_wrong_with_the_site_in_a_browser_is_an_error(tmp_path: Path, options: dict, faults: list[str]) -> None:
    site = tmp_path / "site"
    for page, texts in browser.EXPECTED.items():
        (site / page).parent.mkdir(parents=True, exist_ok=True)
        (site / page).write_text(f'{"".join(texts)}<body data-md-color-scheme="SCHEME">', encoding="utf-8")
    assert browser.find_errors(make_browser(tmp_path, **options), site, tmp_path) == faults


def test_requested_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("start")
    with browser.serve_site(tmp_path) as (address, missing):
        assert urllib.request.urlopen(address).read() == b"start"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}no.png")
    assert missing == ["/no.png"]
