"""The harness watches itself: a run that tested nothing, or not what was asked for, is not green."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from se_conformance.targets import TARGETS

from .conftest import FAMILIES, REQUESTED, is_installed

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("family", REQUESTED)
def test_every_framework_that_was_asked_for_is_installed(family: str) -> None:
    assert is_installed(family), f"{family} was asked for by SE_TARGETS and is not installed"


def test_a_whole_run_leaves_no_implementation_out() -> None:
    missing = {target.name: target.missing for target in TARGETS.values() if target.missing}
    assert not missing or set(REQUESTED) != set(FAMILIES), f"not installed: {missing}"


PROCESSES = pytest.mark.parametrize("options", [(), ("--numprocesses=2",)], ids=["one process", "several"])


def run_pytest(tmp_path: Path, code: str, targets: str, options: tuple = ()) -> subprocess.CompletedProcess[str]:
    """A run of our conftest over one file of its own."""
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "__init__.py").touch()
    (tests / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tests / "test_it.py").write_text(f"import pytest\n{code}")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "SE_TARGETS": targets, "PYTHONPATH": str(ROOT)},
    )


NEEDS_TORCH = "@pytest.mark.framework('torch')\ndef test_torch(): pass\n"


@PROCESSES
def test_what_was_not_asked_for_is_said_loudly(tmp_path: Path, options: tuple) -> None:
    run = run_pytest(tmp_path, NEEDS_TORCH + "def test_numpy(): pass\n", "numpy", options)
    assert run.returncode == 0
    assert "not run: 1 tests that need torch" in run.stdout


@PROCESSES
def test_nothing_ran_for_a_framework_that_was_asked_for_is_a_failure(tmp_path: Path, options: tuple) -> None:
    run = run_pytest(tmp_path, "def test_numpy(): pass\n", "numpy,torch", options)
    assert run.returncode == 1
    assert "NOTHING RAN for torch" in run.stdout


def test_an_unknown_framework_is_refused(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, "def test_numpy(): pass\n", "numpy,tinygrad")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "SE_TARGETS names tinygrad" in run.stderr


MATCHED = "def test_numpy(cells): cells['torch', 'float64', 2, 'output'] = {}\n"


@PROCESSES
def test_the_summary_counts_what_tests_matched(tmp_path: Path, options: tuple) -> None:
    code = MATCHED.format(3) + MATCHED.replace("numpy", "again").format(4)
    run = run_pytest(tmp_path, code, "numpy", options)
    assert run.returncode == 0
    assert re.search(r"torch +float64 +0/0 +7/0 +0/0", run.stdout)
