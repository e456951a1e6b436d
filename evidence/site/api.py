"""The pages of the API: each public name with its docstring. The source is read, and nothing is imported."""

import ast
import re
from pathlib import Path

from .sources import API_FOLDER, API_PACKAGES, ROOT

EXAMPLE = re.compile(r"^([ \t]*)>>> .*(?:\n[ \t]*\S.*)*", re.MULTILINE)
"""A paragraph that begins with a line of Python."""


def list_public_names(package: str) -> list[str]:
    """List the classes and functions that a package re-exports (``from .a import b as b``), in the order of its lines.

    What belongs to an inner package with a page of its own, as ``se_spec.networks``, is on that page.

    Args:
        package: the package's dotted name.

    Returns:
        Dotted names where they are defined, such as ``se_torch.block.SqueezeExcitation``.

    Example:
        >>> list_public_names("se_suite")
        ['se_suite.installation.installed']
    """
    found = [_find_definition(source, name) for name, source in _list_exports(package).items()]
    inner = tuple(f"{name}." for name in API_PACKAGES if name.startswith(f"{package}."))
    return [place for place in found if place is not None and not place.startswith(inner)]


def make_page(package: str) -> str:
    """Write the page of a package in Markdown, in which mkdocstrings puts the docstrings.

    Args:
        package: the package's dotted name.

    Returns:
        The page.

    Example:
        >>> print(make_page("se_suite"))
        # se_suite
        <BLANKLINE>
        ::: se_suite
            options:
              members: false
              show_root_heading: false
              show_root_toc_entry: false
        <BLANKLINE>
        ::: se_suite.installation.installed
        <BLANKLINE>
    """
    options = "    options:\n      members: false\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    entries = [f"::: {name}\n" for name in list_public_names(package)]
    return "\n".join([f"# {package}\n", f"::: {package}\n{options}", *entries])


def list_api_pages() -> dict[str, str]:
    """Map each page of the API to its package.

    Returns:
        A page's place in the site -> the package.

    Example:
        >>> list_api_pages()["api/se_torch.md"]
        'se_torch'
    """
    return {f"{API_FOLDER}/{package}.md": package for package in API_PACKAGES}


def fence_examples(text: str) -> str:
    r"""Put each paragraph that begins with ``>>>`` into a block of code.

    Args:
        text: a docstring.

    Returns:
        The docstring with its examples in fences of Markdown.

    Example:
        >>> fence_examples("Add.\n\n  >" + ">> 1 + 1\n  2\n").count("  ```")
        2
    """
    return EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


def _find_file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _list_exports(module: str) -> dict[str, str]:
    """Map the names that a module re-exports to the modules from which they come."""
    parts = module.split(".") if _find_file(module).name == "__init__.py" else module.split(".")[:-1]
    return {
        alias.name: ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
        for node in ast.walk(ast.parse(_find_file(module).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
        if alias.asname == alias.name
    }


def _find_definition(module: str, name: str) -> str | None:
    """Return the dotted name of a class or function where it is defined; None for a constant or a module."""
    for node in ast.parse(_find_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return f"{module}.{name}"
    source = _list_exports(module).get(name)
    return None if source is None or source == module else _find_definition(source, name)
