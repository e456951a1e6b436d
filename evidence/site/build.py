"""Builds the site: writes its pages into a folder as the builder reads them, and calls the builder.

The builder is Zensical, by the authors of Material for MkDocs, which ends in 2027. It reads ``mkdocs.yml`` and has no
hooks, so that pages are prepared by code of our own, and any builder that reads ``mkdocs.yml`` can take its place.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import api, notebooks, sources

SETTINGS = sources.ROOT / "mkdocs.yml"
PAGES_FOLDER = sources.ROOT / "out" / "site-pages"
SITE_FOLDER = sources.ROOT / "out" / "site"
"""The folders that ``mkdocs.yml`` names."""
CHINESE_FOLDER = "zh"
EMPTY_SITEMAP = '<?xml version="1.0"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"></urlset>\n'


class SiteError(Exception):
    """The site could not be built."""


def write_pages(folder: Path) -> None:
    """Write every page, picture and linked file as the builder reads them.

    Args:
        folder: an empty folder, or one that does not exist.

    Raises:
        ValueError: a page links to a file that does not exist.
    """
    linked: set[str] = set()
    for place, name in sources.list_pages().items():
        text = (sources.ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".ipynb"):
            notebook = Path(name).name
            text = notebooks.format_notebook(json.loads(text), notebook)
            _write(folder / sources.NOTEBOOK_FOLDER / notebook, (sources.ROOT / name).read_bytes())
        else:
            text = sources.widen_indents(text)
        _write(folder / place, sources.rewrite_links(text, name, linked.add).encode())
    for place, package in api.list_api_pages().items():
        _write(folder / place, api.make_page(package).encode())
    for name in sorted(linked):
        target = folder / sources.find_place(name)
        if not target.exists():
            _write(target, (sources.ROOT / name).read_bytes())
    _write(folder / "style.css", (Path(__file__).parent / "style.css").read_bytes())


def build_site() -> None:
    """Build the site into ``SITE_FOLDER``.

    Raises:
        SiteError: the builder failed, or found something wrong.
    """
    for folder in (PAGES_FOLDER, SITE_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    write_pages(PAGES_FOLDER)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(SETTINGS)]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=sources.ROOT, env=environment, capture_output=True, text=True)
    if done.returncode or not (SITE_FOLDER / "index.html").is_file():
        raise SiteError(f"the builder failed:\n{done.stdout}{done.stderr}")
    for page in (SITE_FOLDER / CHINESE_FOLDER).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace('<html lang="en"', '<html lang="zh-CN"', 1), encoding="utf-8")
    # The choice of a language reads here which pages exist in Chinese, to lead to the same page; it is the first alone.
    (SITE_FOLDER / CHINESE_FOLDER / "sitemap.xml").write_text(EMPTY_SITEMAP, encoding="utf-8")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
