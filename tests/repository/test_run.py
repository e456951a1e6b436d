"""The rules of a run: every requested framework has tests, orders keep files together, patterns match tests."""

import fnmatch
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from se_parity.implementations import IMPLEMENTATIONS

from ..conftest import LONGEST, ON_THE_PROCESSOR, REQUESTED, SLOW, USUAL, is_installed, put_in_order

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("family", REQUESTED)
def test_every_requested_framework_is_installed(family: str) -> None:
    assert is_installed(family), f"SE_TARGETS requests {family}, which is not installed"


def test_whole_run_includes_every_implementation() -> None:
    missing = {target.name: target.missing for target in IMPLEMENTATIONS.values() if target.missing}
    assert not missing or not set(REQUESTED) >= set(USUAL), f"not installed: {missing}"


PROCESSES = pytest.mark.parametrize("options", [(), ("--numprocesses=2",)], ids=["one process", "several"])


def run_pytest(tmp_path: Path, code: str, targets: str, options: tuple = ()) -> subprocess.CompletedProcess[str]:
    """Run pytest with our conftest on one file of tests."""
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
MATCHED = "def test_numpy(cells): cells['torch', 'float64', 2, 'output'] = {}\n"


@PROCESSES
def test_summary_counts_matched_cases_and_lists_tests_that_were_not_requested(tmp_path: Path, options: tuple) -> None:
    code = NEEDS_TORCH + MATCHED.format(3) + MATCHED.replace("numpy", "again").format(4)
    run = run_pytest(tmp_path, code, "numpy", options)
    assert run.returncode == 0
    assert "not run: 1 tests that need torch" in run.stdout
    assert re.search(r"torch +float64 +0/0 +7/0 +0/0", run.stdout)


@PROCESSES
def test_requested_framework_without_tests_is_a_failure(tmp_path: Path, options: tuple) -> None:
    run = run_pytest(tmp_path, "def test_numpy(): pass\n", "numpy,torch", ("-m", "not slow", *options))
    assert run.returncode == 1
    assert "NOTHING RAN for torch" in run.stdout


def test_unknown_framework_is_refused(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, "def test_numpy(): pass\n", "numpy,tinygrad")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "SE_TARGETS names tinygrad" in run.stderr


@pytest.mark.parametrize("pattern", SLOW)
def test_pattern_of_slow_tests_names_a_test(pattern: str) -> None:
    path, _, name = pattern.partition("::")
    tests = re.findall(r"^def (test_\w+)", (ROOT / "tests" / path).read_text(), re.MULTILINE)
    assert fnmatch.filter(tests, name.partition("[")[0])


@pytest.mark.parametrize("place", [*LONGEST, *ON_THE_PROCESSOR])
def test_listed_file_exists(place: str) -> None:
    assert (ROOT / "tests" / f"{place}.py").is_file()


class Item:
    """The attributes of a test that decide its order."""

    def __init__(self, path: str, number: int) -> None:
        self.path, self.number = ROOT / "tests" / path, number

    def __repr__(self) -> str:
        return f"{self.path.stem}{self.number}"


def test_another_order_has_the_same_tests_and_keeps_files_together() -> None:
    items = [
        Item(path, number) for path in ("test_a.py", "se_parity/test_match.py", "test_b.py") for number in range(5)
    ]

    def ordered(order: str) -> list[Item]:
        given = list(items)
        put_in_order(given, order)
        assert sorted(map(id, given)) == sorted(map(id, items))
        assert len(list(itertools.groupby(given, key=lambda item: item.path))) == 3
        return given

    assert ordered("")[0] is items[5]
    assert ordered("reversed") == items[::-1]
    assert ordered("1") == ordered("1") != ordered("2")
    assert ordered("1") != items
