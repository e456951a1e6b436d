"""Who imports whom: proven in child processes, and the probe is proven too."""

import ast
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
}
FAMILY = {"se_torch": "torch", "se_keras": "keras", "se_flax": "flax"}


def imported_by(code: str, before: str = "") -> set[str]:
    """Which of the watched top-level modules the code adds to a fresh interpreter that ran what is before."""
    probe = (
        f"{before}\nimport sys, json\nheld = set(sys.modules)\n{code}\n"
        f"print(json.dumps([m for m in {WATCHED!r} if m in sys.modules and m not in held]))"
    )
    environment = {"PATH": "", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
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
}


@pytest.mark.parametrize("package", ARROWS)
def test_arrows_between_rooms_are_those_of_the_design(package: str) -> None:
    ours = {*ARROWS, "tests", "evidence", "examples"}
    for path in (ROOT / package).rglob("*.py"):
        assert imports_of(path) & ours <= ARROWS[package] | {package}, path


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
