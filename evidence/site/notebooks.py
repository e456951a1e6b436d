"""Executes the notebooks of ``examples/`` without Jupyter, stores what they print, and writes them as pages.

``python -m evidence.site.notebooks`` executes all of them and stores their outputs.
"""

import ast
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from .sources import ROOT

Notebook = dict[str, Any]
FORMAT = {"nbformat": 4, "nbformat_minor": 5}


def execute_notebook(notebook: Notebook) -> Notebook:
    r"""Execute the cells from top to bottom, in one namespace, as a notebook's program does.

    Args:
        notebook: the notebook of format 4.

    Returns:
        A copy with the outputs: what is printed, and the value of a last line that is an expression.

    Raises:
        Exception: what a cell raises.

    Example:
        >>> cells = [make_cell("code", "a", "x = 6\nx * 7")]
        >>> execute_notebook({**FORMAT, "metadata": {}, "cells": cells})["cells"][0]["outputs"][0]["data"]
        {'text/plain': ['42']}
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell = {**cell, "execution_count": count, "outputs": _execute("".join(cell["source"]), names, count)}
        cells.append(cell)
    return {**notebook, "cells": cells}


def make_cell(kind: str, name: str, source: str) -> dict[str, Any]:
    r"""Make a cell.

    Args:
        kind: ``"code"`` or ``"markdown"``.
        name: its identifier, which is unique in the notebook.
        source: its text.

    Returns:
        The cell, without outputs.

    Example:
        >>> make_cell("markdown", "title", "# A\nb")["source"]
        ['# A\n', 'b']
    """
    cell = {"cell_type": kind, "id": name, "metadata": {}, "source": source.splitlines(keepends=True)}
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def list_format_errors(notebook: Notebook) -> list[str]:
    """List what notebook format 4.5 does not allow.

    Args:
        notebook: the file's content.

    Returns:
        The errors; an empty list for a valid notebook.

    Example:
        >>> list_format_errors({**FORMAT, "metadata": {}, "cells": [{"cell_type": "raw"}]})
        ["cell 0 has the fields ['cell_type']"]
    """
    errors = []
    if {name: notebook.get(name) for name in FORMAT} != FORMAT:
        errors.append("it is not of format 4.5")
    if set(notebook) != {*FORMAT, "metadata", "cells"}:
        errors.append(f"it has the fields {sorted(notebook)}")
    fields = {"cell_type", "id", "metadata", "source"}
    needed = {"markdown": fields, "code": {*fields, "execution_count", "outputs"}}
    cells = notebook.get("cells", [])
    for number, cell in enumerate(cells):
        if set(cell) != needed.get(cell.get("cell_type")):
            errors.append(f"cell {number} has the fields {sorted(cell)}")
        for output in cell.get("outputs", []):
            kind = output.get("output_type")
            extra = {"stream": {"name", "text"}, "execute_result": {"data", "metadata", "execution_count"}}.get(kind)
            if extra is None or set(output) != {"output_type", *extra}:
                errors.append(f"an output of cell {number} has the fields {sorted(output)}")
    names = [cell.get("id") for cell in cells]
    if len(names) != len(set(names)):
        errors.append("two cells have the same id")
    return errors


def format_notebook(notebook: Notebook, name: str) -> str:
    """Write a notebook and its stored outputs as a page in Markdown.

    Args:
        notebook: the notebook.
        name: its file's name, to which the page links; the file stands beside the page.

    Returns:
        The page.

    Example:
        >>> cells = [make_cell("markdown", "a", "# Title"), make_cell("code", "b", "print(1)")]
        >>> page = format_notebook(execute_notebook({**FORMAT, "metadata": {}, "cells": cells}), "a.ipynb")
        >>> page.splitlines()[0], "print(1)" in page, page.count("```")
        ('# Title', True, 4)
    """
    pieces = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            pieces.append(source)
            continue
        pieces.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "text/html" in data:
                pieces.append(f'<div class="output">{"".join(data["text/html"])}</div>')
            else:
                pieces.append(f"```text\n{''.join(output.get('text', data.get('text/plain'))).rstrip()}\n```")
    link = f'<a href="{name}" download>Download this notebook</a>'
    return "\n\n".join([*pieces, link, ""])


def _execute(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Execute a cell and return its outputs."""
    code, value = ast.parse(source), None
    last = code.body.pop() if code.body and isinstance(code.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": count})
    return outputs


def list_notebooks() -> list[Path]:
    """List the notebooks.

    Returns:
        Their paths, sorted.

    Example:
        >>> [path.stem for path in list_notebooks()]
        ['judge_a_block', 'port_a_model', 'use_the_block']
    """
    return sorted((ROOT / "examples").glob("*.ipynb"))


def main() -> int:
    """Execute every notebook from the repository's folder, and store its outputs."""
    os.chdir(ROOT)
    for path in list_notebooks():
        executed = execute_notebook(json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(executed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
