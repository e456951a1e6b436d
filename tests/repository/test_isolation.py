"""Who imports whom: proven in child processes, and the probe is proven too."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WATCHED = ("numpy", "torch", "keras", "tensorflow", "jax", "flax", "se_numpy", "se_torch", "se_keras", "se_flax")
ALLOWED = {
    "se_spec": set(),
    "se_numpy": {"numpy", "se_numpy"},
    "se_port": {"numpy", "se_numpy"},
    "se_conformance": {"numpy", "se_numpy"},
    "se_parity": {"numpy", "se_numpy"},
    "se_torch": {"numpy", "torch", "se_torch"},
    "se_keras": {"se_keras"},  # and what Keras itself imports, which is its own affair
    "se_flax": {"numpy", "jax", "flax", "se_flax"},
    "se_suite": set(),
}
FAMILY = {"se_torch": "torch", "se_keras": "keras", "se_flax": "flax"}


def imported_by(code: str, before: str = "") -> set[str]:
    """Which of the watched top-level modules the code adds to a fresh interpreter that ran what is before."""
    probe = (
        f"{before}\nimport sys, json\nheld = set(sys.modules)\n{code}\n"
        f"print(json.dumps([m for m in {WATCHED!r} if m in sys.modules and m not in held]))"
    )
    backend = "jax" if importlib.util.find_spec("jax") else "tensorflow"  # which would hide its import
    environment = {"PATH": "", "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    output = subprocess.run(
        [sys.executable, "-c", probe], text=True, capture_output=True, check=True, cwd=ROOT, env=environment
    ).stdout
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.parametrize(
    "package",
    [pytest.param(name, marks=[pytest.mark.framework(FAMILY[name])] if name in FAMILY else []) for name in ALLOWED],
)
def test_a_package_imports_nothing_that_it_does_not_need(package: str) -> None:
    assert imported_by(f"import {package}", "import keras" if package == "se_keras" else "") <= ALLOWED[package]


def test_the_probe_can_fail() -> None:
    assert imported_by("import se_spec, numpy") == {"numpy"}
    assert imported_by("import numpy, se_numpy") == {"numpy", "se_numpy"}
    assert imported_by("import numpy, se_numpy", "import numpy") == {"se_numpy"}


def imports_of(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names


ARROWS = {
    "se_spec": set(),
    "se_numpy": {"se_spec"},
    "se_torch": {"se_spec"},
    "se_keras": {"se_spec"},
    "se_flax": {"se_spec"},
    "se_conformance": {"se_spec", "se_numpy"},  # never what it judges
    "se_parity": {"se_spec", "se_numpy", "se_conformance", "se_torch", "se_keras", "se_flax"},
    "se_port": {"se_spec", "se_numpy", "se_parity"},  # the last runs two files of a network
    "se_suite": {"se_spec"},
}


@pytest.mark.parametrize("package", ARROWS)
def test_arrows_between_rooms_are_those_of_the_design(package: str) -> None:
    ours = {*ARROWS, "tests", "evidence", "examples"}
    for path in (ROOT / package).rglob("*.py"):
        assert imports_of(path) & ours <= ARROWS[package] | {package}, path


def test_definitions_need_the_standard_library_alone() -> None:
    optional = {"command_line.py": {"shtab"}}  # prints the completions of a shell, where it is installed
    for path in (ROOT / "se_spec").rglob("*.py"):
        foreign = imports_of(path) - {*sys.stdlib_module_names, "se_spec"}
        assert foreign <= optional.get(path.name, set()), path


def module_name(path: Path, root: Path) -> str:
    """A file's dotted name below ``root``; a package has the name of its folder."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(package: Path) -> dict[str, set[str]]:
    """Maps each module of a package to those that it imports, wherever in the file: under TYPE_CHECKING, in functions.

    An edge is an import statement. That Python runs a package's ``__init__`` before a module inside is none.
    """
    paths = {module_name(path, package.parent): path for path in package.rglob("*.py")}
    graph: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        parents = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & set(paths)
            elif isinstance(node, ast.ImportFrom):
                base = parents[: len(parents) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                for alias in node.names:  # ``from package import module`` imports the module, else the package's own
                    inner = f"{source}.{alias.name}"
                    graph[name] |= {inner if inner in paths else source} & set(paths)
        graph[name].discard(name)  # a script that imports itself, so that other processes find its functions
    return graph


def import_circles(package: Path) -> list[tuple[str, ...]]:
    """Groups of modules that import each other, directly or through others."""
    graph = import_graph(package)

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        pending = [start]
        while pending:
            for name in graph[pending.pop()] - found:
                found.add(name)
                pending.append(name)
        return found

    reach = {name: reachable(name) for name in graph}
    circular = [name for name in graph if name in reach[name]]
    return sorted({tuple(sorted(other for other in reach[name] if name in reach[other])) for name in circular})


@pytest.mark.parametrize("package", [*ARROWS, "evidence"])
def test_no_import_circle_inside_a_package(package: str) -> None:
    assert import_circles(ROOT / package) == []


def test_import_circles_are_found(tmp_path: Path) -> None:
    package = tmp_path / "made_up"
    (package / "inner").mkdir(parents=True)
    files = {
        "__init__.py": "from .a import A",
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import B\nclass A: pass",
        "b.py": "def late():\n    import made_up.a",
        "c.py": "from . import a\nif __name__ == '__main__':\n    from made_up.c import a",
        "inner/__init__.py": "from .face import use\nVALUE = 1",
        "inner/face.py": "from . import VALUE",
        "inner/leaf.py": "from ..c import a",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    assert import_circles(package) == [("made_up.a", "made_up.b"), ("made_up.inner", "made_up.inner.face")]
    (package / "b.py").write_text("")
    (package / "inner" / "face.py").write_text("")
    assert import_circles(package) == []


def test_frameworks_are_named_only_in_their_own_rooms() -> None:
    homes = {"torch": "se_torch", "keras": "se_keras", "tensorflow": None, "jax": "se_flax", "flax": "se_flax"}
    for path in [path for package in ARROWS for path in (ROOT / package).rglob("*.py")]:
        if path.relative_to(ROOT).parts[0] in ("se_conformance", "se_parity"):  # they take hold of a framework's blocks
            continue
        for framework in imports_of(path) & set(homes):
            assert path.relative_to(ROOT).parts[0] == homes[framework], f"{path} imports {framework}"


@pytest.mark.parametrize(("package", "framework"), [("se_torch", "torch"), ("se_keras", "keras"), ("se_flax", "flax")])
def test_without_its_framework_a_package_says_which_extra_to_install(package: str, framework: str) -> None:
    code = (
        f"import sys; sys.modules[{framework!r}] = None\n"
        f"try: import {package}\nexcept ModuleNotFoundError as error: print(error)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert f"pip install 'se-suite[{framework}]'" in output


@pytest.mark.framework("keras")
def test_keras_without_its_backend_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "try: import se_keras\nexcept ModuleNotFoundError as error: print(error)"
    )
    environment = {"PATH": "", "KERAS_BACKEND": "tensorflow"}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, env=environment)
    assert "pip install 'se-suite[keras-tf]', or set KERAS_BACKEND to jax or torch" in output
