"""Which file of the repository becomes which page of the site, and where a link between files leads there.

Nothing is copied into ``docs/``: the pages are read where they stand, and links are rewritten while the site is built.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
START_PAGES = {"README.md": "index.md", "README.zh-CN.md": "zh/index.md"}
"""Files of the repository -> pages of the site."""
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
API_FOLDER, NOTEBOOK_FOLDER, FILE_FOLDER = "api", "notebooks", "files"
API_PACKAGES = (
    "se_spec",
    "se_spec.networks",
    "se_numpy",
    "se_torch",
    "se_keras",
    "se_flax",
    "se_flax.linen",
    "se_conformance",
    "se_conformance.report",
    "se_parity.implementations",
    "se_parity.training",
    "se_port",
    "se_suite",
)
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def list_pages() -> dict[str, str]:
    """Map each page that has a file in the repository to this file.

    Returns:
        A page's place in the site -> its file's place in the repository, both with slashes.

    Example:
        >>> list_pages()["SPEC.md"], list_pages()["zh/index.md"]
        ('docs/SPEC.md', 'README.zh-CN.md')
    """
    names = [*START_PAGES, *ROOT_PAGES]
    names += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    names += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.ipynb"))
    return {find_place(name): name for name in names}


def find_place(file: str) -> str:
    """Return where a file of the repository stands in the site; a file that is no page is shown as a text.

    Args:
        file: the file's place in the repository, with slashes.

    Returns:
        Its place in the site.

    Example:
        >>> find_place("docs/gates.png"), find_place("LICENSE"), find_place("examples/judge_a_block.ipynb")
        ('gates.png', 'files/LICENSE.txt', 'notebooks/judge_a_block.md')
    """
    path = PurePosixPath(file)
    if file in START_PAGES:
        return START_PAGES[file]
    if path.parts[0] == "docs":
        return path.relative_to("docs").as_posix()
    if file in ROOT_PAGES:
        return file
    if path.suffix == ".ipynb":
        return f"{NOTEBOOK_FOLDER}/{path.stem}.md"
    return f"{FILE_FOLDER}/{file}.txt"


def resolve_link(link: str, file: str) -> str:
    """Return the file of the repository to which a link leads.

    Args:
        link: the link without its anchor.
        file: the file that has the link.

    Returns:
        The place in the repository.

    Raises:
        ValueError: there is no such file.

    Example:
        >>> resolve_link("../examples/copy_weights.py", "docs/SPEC.md")
        'examples/copy_weights.py'
    """
    place = os.path.normpath(PurePosixPath(file).parent / link)
    if not (ROOT / place).is_file():
        raise ValueError(f"{file} links to {link}, and there is no such file")
    return PurePosixPath(place).as_posix()


def rewrite_links(text: str, file: str, note: Callable[[str], None] = lambda name: None) -> str:
    """Rewrite a page's links between files of the repository as links between pages of the site.

    Args:
        text: the page in Markdown.
        file: its place in the repository.
        note: receives the place in the repository of each file that is linked.

    Returns:
        The page; code is left as it is.

    Raises:
        ValueError: a link leads to no file.

    Example:
        >>> rewrite_links("[the spec](docs/SPEC.md#x) [here](#y)", "README.zh-CN.md")
        '[the spec](../SPEC.md#x) [here](#y)'
    """
    here = PurePosixPath(find_place(file)).parent

    def rewrite(found: re.Match[str]) -> str:
        link, hash_sign, anchor = found[2].partition("#")
        if not link or re.match(r"[a-z]+:", link):
            return found[0]
        target = resolve_link(link, file)
        note(target)
        return f"{found[1]}{os.path.relpath(find_place(target), here)}{hash_sign}{anchor}{found[3]}"

    return _change_prose(text, lambda prose: LINK.sub(rewrite, prose))


def widen_indents(text: str) -> str:
    r"""Indent what belongs to an item of a list by four spaces, as the builder's Markdown needs it, in place of two.

    Args:
        text: a page in Markdown.

    Returns:
        The page; code is left as it is.

    Example:
        >>> widen_indents("- a\n\n  b\n  - c\n")
        '- a\n\n    b\n    - c\n'
    """
    return _change_prose(
        text, lambda prose: re.sub(r"^(?:  ){1,2}(?=\S)", lambda found: 2 * found[0], prose, flags=re.M)
    )


def list_navigation(settings: str) -> list[str]:
    r"""List the pages in the navigation of ``mkdocs.yml``, without a reader of YAML.

    Args:
        settings: the text of the file; each entry is a line.

    Returns:
        The pages in their order.

    Example:
        >>> list_navigation("nav:\n  - Start: index.md\n  - More:\n      - SPEC.md\nplugins:\n  - x.md\n")
        ['index.md', 'SPEC.md']
    """
    section = re.search(r"^nav:\n((?:[ #].*\n|\n)*)", settings, re.MULTILINE)
    return re.findall(r"^ *- (?:[^#\n]*: )?(\S+\.md)$", section[1], re.MULTILINE) if section else []


def _change_prose(text: str, change: Callable[[str], str]) -> str:
    """Change what stands outside of blocks of code."""
    pieces, end = [], 0
    for fence in FENCE.finditer(text):
        pieces += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, change(text[end:])])
