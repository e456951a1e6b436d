"""What the pages say is run: code blocks, docstrings, paths, make targets, clause numbers, generated tables."""

import contextlib
import doctest
import importlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import se_spec
import se_spec.presets
from evidence.site import notebooks
from se_conformance.faults import CATALOGUE
from se_parity.implementations import IMPLEMENTATIONS, Implementation, Worker

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TWINS = ("README.md", "README.zh-CN.md")
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
EXCERPTS = ROOT / "docs" / "DISTRIBUTED.md"
"""A page whose code is taken from the scripts in examples/."""
NEEDS = {
    "copy_weights": ("torch", "keras", "flax"),
    "distributed_keras": ("keras", "flax"),
    "distributed_jax": ("flax",),
}
"""The frameworks that a script needs; without a row, PyTorch."""


def marks_of(script: Path) -> list:
    needs = pytest.mark.framework(*NEEDS.get(script.stem, ("torch",)))
    return [needs, pytest.mark.slow] if script.stem.startswith("distributed") else [needs]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def marks_of_page(page: Path) -> list:
    marks = [pytest.mark.framework("peers")] if "import timm" in page.read_text() else []
    return [*marks, pytest.mark.slow] if page.name == TWINS[1] else marks


@pytest.mark.framework("torch", "keras", "flax")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=marks_of_page(page), id=page.name)
        for page in PAGES
        if blocks(page, "python") and page != EXCERPTS
    ],
)
def test_python_blocks_run_from_top_to_bottom(page: Path, pages: Worker, tmp_path: Path) -> None:
    found = blocks(page, "python")
    if page.name == "README.md":
        last = next(number for number, block in enumerate(found) if "verdict = check(" in block)
        found.insert(last + 1, "print('<verdict>', verdict, '</verdict>', sep='\\n')")
    code = "\n".join(found)
    script = tmp_path / "page.py"
    script.write_text(code)
    printed = pages.call(run_file, script)
    if page.name == "README.md":
        shown = next(block for block in blocks(ROOT / "docs" / "JUDGE.md", "text") if block.startswith("FAILED"))
        assert f"<verdict>\n{shown}</verdict>\n" in printed


@pytest.mark.parametrize(
    "script",
    [pytest.param(script, marks=marks_of(script), id=script.name) for script in SCRIPTS],
)
def test_examples_run(script: Path, pages: Worker) -> None:
    assert run_alone(script) if script.stem.startswith("distributed") else pages.call(run_file, script)


NOTEBOOK_NEEDS = {"judge_a_block": (), "port_a_model": ("keras", "port"), "use_the_block": ("torch", "keras")}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.framework(*NOTEBOOK_NEEDS[path.stem]), id=path.stem)
        for path in notebooks.list_notebooks()
    ],
)
def test_notebooks_give_the_outputs_that_they_show(path: Path, pages: Worker) -> None:
    """Numbers in the outputs may differ on another processor."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    executed = pages.call(execute, stored)
    for cell, again in zip(stored["cells"], executed["cells"], strict=True):
        assert without_numbers(cell) == without_numbers(again)


def execute(notebook: notebooks.Notebook) -> notebooks.Notebook:
    """Execute a notebook in the repository's folder."""
    os.chdir(ROOT)
    return notebooks.execute_notebook(notebook)


def without_numbers(cell: dict) -> str:
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", "0", json.dumps(cell))


def test_the_code_of_a_page_of_excerpts_stands_in_a_script() -> None:
    scripts = [script.read_text() for script in SCRIPTS]
    assert [block for block in blocks(EXCERPTS, "python") if not any(block in script for script in scripts)] == []


ALONE = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
"""The environment of code that is run."""


@pytest.fixture(scope="module")
def pages() -> Iterator[Worker]:
    """Start a process that runs pages and scripts one after another, so that it imports each framework once."""
    worker = Worker(Implementation("pages", "", "", (), {}, ALONE))
    yield worker
    worker.close()


def run_file(file: Path) -> str:
    """Run a file as a program with names of its own, and return what it prints."""
    os.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(file), run_name="__main__")
    return printed.getvalue()


def run_alone(script: Path) -> str:
    """Run a script that sets the number of devices, which a process decides once."""
    command = [sys.executable, str(script)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **ALONE})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_first_block_of_the_readme_needs_numpy_alone() -> None:
    exec(blocks(ROOT / "README.md", "python")[0], {})


PACKAGES = (
    "se_spec",
    "se_numpy",
    "se_torch",
    "se_keras",
    "se_flax",
    "se_conformance",
    "se_parity",
    "se_port",
    "se_suite",
)
FAMILIES = {
    "se_torch.fast.triton_kernels": ("torch", "triton"),
    "se_torch": ["torch"],
    "se_keras": ["keras"],
    "se_flax": ["flax"],
    **{f"se_conformance.adapters.{name}": ["keras"] for name in ("keras", "empty_batch", "graph_faults", "tflite")},
    **{f"se_conformance.adapters.{name}": ["flax"] for name in ("flax", "jax", "lora")},
    **{f"se_conformance.adapters.{name}": ["torch"] for name in ("torch", "torch_weights")},
    "se_conformance.adapters.onnx": ["torch", "parity"],
    "se_port.verification": ["torch"],
    **{f"se_parity.{name}": ["parity"] for name in ("demo", "datasets", "plots")},
    "se_parity.training.base": ["torch"],
    "se_parity.training.torch": ["torch", "parity"],
    "se_parity.training.keras": ["keras", "parity"],
    "se_parity.training.nnx": ["flax", "parity"],
    "se_parity.training.linen": ["flax", "parity"],
}
"""What modules, or all of a package, import."""


def modules() -> list:
    names = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.stem not in ("__main__", "parity")  # these hold no examples, as do the modules of implementations
        and ("implementations" not in path.parts or path.stem in ("base", "worker"))
    )
    return [
        pytest.param(name, marks=pytest.mark.framework(*FAMILIES.get(name, FAMILIES.get(name.partition(".")[0], ()))))
        for name in names
    ]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name: str) -> None:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not outcome.failed


def test_every_path_and_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
        for path in re.findall(r"`((?:se_\w+|tests|docs|examples|evidence|\.ci)/[\w./]+)`", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, f"{page.name} names make {target}"


def test_the_page_of_parity_shows_every_row() -> None:
    table = "\n".join(blocks(ROOT / "docs" / "PARITY.md", "text"))
    for name in ("numpy (the oracle)", *IMPLEMENTATIONS):
        assert f"│ {name} " in table, f"{name} is not in the table of docs/PARITY.md"


def test_the_readme_counts_the_catalogue_and_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert f"a catalogue of {len(CATALOGUE)} known mistakes" in text.replace("\n", " ")
    assert len(text.splitlines()) <= 150


def test_the_readmes_have_the_same_code_headings_and_links() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    for language in ("python", "sh"):
        codes = [[without_comments(code) for code in blocks(ROOT / name, language)] for name in TWINS]
        assert codes[0] == codes[1]
    links = [sorted(set(re.findall(r"\]\(((?:docs|https?:)[^)]*)\)", text))) for text in (english, chinese)]
    assert links[0] == links[1]
    assert english.count("\n## ") == chinese.count("\n## ")
    assert f"{len(CATALOGUE)} 种已知错误" in chinese


def without_comments(code: str) -> str:
    return re.sub(r" *#.*", "", code)


CLAUSE = re.compile(r"^- \*\*([A-Z]-\d+)\*\*", re.MULTILINE)


def test_every_clause_is_named_by_a_test() -> None:
    clauses = CLAUSE.findall((ROOT / "docs" / "SPEC.md").read_text())
    assert len(clauses) == len(set(clauses)) > 40
    named = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for codes in re.findall(r"def test_((?:[a-z]\d+_)+)", path.read_text()):
            named |= {f"{code[0].upper()}-{code[1:]}" for code in codes.strip("_").split("_")}
    known = {*clauses, *CLAUSE.findall((ROOT / "docs" / "ERROR_BOUNDS.md").read_text())}
    assert named <= known, f"tests name clauses that do not exist: {sorted(named - known)}"
    assert not set(clauses) - named, f"clauses that no test names: {sorted(set(clauses) - named)}"


def test_code_quotes_only_clauses_that_exist() -> None:
    clauses = set(CLAUSE.findall((ROOT / "docs" / "SPEC.md").read_text()))
    quoted = {
        code
        for package in ("se_spec", "se_numpy", "se_torch", "se_keras", "se_flax")
        for path in (ROOT / package).rglob("*.py")
        for code in re.findall(r"\b([SWEAGCNVKXPJM]-\d+)\b", path.read_text())
    }
    assert quoted <= clauses
    arithmetic = {clause for clause in clauses if clause[0] in "SEAGC"}
    assert arithmetic - {"E-5"} <= quoted, "a clause of the arithmetic that no line of code quotes"


def test_presets_page_is_what_the_table_prints() -> None:
    assert (ROOT / "docs" / "PRESETS.md").read_text() == se_spec.presets.table() + "\n"


def test_version_stands_in_one_place() -> None:
    assert f"## {se_spec.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert "\nversion" not in (ROOT / "pyproject.toml").read_text()
