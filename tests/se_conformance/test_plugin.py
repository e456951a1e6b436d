"""The pytest plugin, tested in temporary projects; it does nothing unless its fixture is used."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAME = "se_conformance.plugin"

BLOCK = """
import numpy as np
from se_spec import SESpec

SPEC = SESpec(4, hidden=2)

def block(x, parameters):
    z = x.mean(tuple(range(1, x.ndim - 1)))
    h = np.maximum(z @ parameters["reduce.weight"].T, 0)
    g = 1 / (1 + np.exp(-(h @ parameters["expand.weight"].T)))
    return x * np.expand_dims(g, tuple(range(1, x.ndim - 1)))

def wrong(x, parameters):
    return x
"""
PASSES = "from block import *\ndef test_my_block(se_check):\n    se_check(block, SPEC)\n"
FAILS = "from block import *\ndef test_my_block(se_check):\n    se_check(wrong, SPEC)\n"
PLAIN = "def test_plain():\n    assert 1 + 1 == 2\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "block.py").write_text(BLOCK)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", NAME, *map(str, arguments)]


def options(project: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COLUMNS"))}
    path = os.pathsep.join([str(ROOT), str(project)])
    environment |= {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # installed or not, as in a checkout
    return {"cwd": project, "env": environment, "text": True}


def run_pytest(project: Path, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    (project / "test_it.py").write_text(code)
    return subprocess.run(command(*arguments), capture_output=True, **options(project))


def test_fixture_passes_a_right_block(project: Path) -> None:
    code = (
        PASSES + "\ndef test_the_verdict_comes_back(se_check):\n    assert se_check(block, SPEC, ranks=(1,)).passed\n"
    )
    run = run_pytest(project, code)
    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout


def test_failed_test_shows_the_whole_verdict(project: Path) -> None:
    run = run_pytest(project, FAILS)
    assert run.returncode == 1
    assert "1 failed" in run.stdout
    for pattern in (
        r"FAILED: SESpec\(4, hidden=2\) in float32",
        r"ran +\d+ of \d+ trials right",
        r"cause +agrees with: block not applied",
        r"to do: call it",
        r"worst +y\[\d+, \d+, \d+, \d+\] \(channels last\) of '",
        r"got \S+, want \S+, bound \S+, ratio \S+",
        r"again +x, dy, parameters = se_conformance\.trial\('.*', SESpec\(4, hidden=2\), dtype='float32', rank=2",
    ):
        assert re.search(pattern, run.stdout), pattern
    assert "plugin.py" not in run.stdout  # the text alone, no trace of the judge's own frames
    assert "Traceback" not in run.stdout


def test_invalid_argument_is_an_error_of_the_test(project: Path) -> None:
    run = run_pytest(project, "from block import *\ndef test_it(se_check):\n    se_check(block, SPEC, dtype='int8')\n")
    assert run.returncode == 1
    assert "SpecError: dtype='int8' is not allowed" in run.stdout


NAN = """
from block import *

def finite(x, parameters):
    return block(np.where(np.isnan(x), 0, x), parameters)

def test_it(se_check):
    se_check(finite, SPEC)
"""


def test_known_deviations_by_option_and_by_configuration(project: Path) -> None:
    (project / "lists").mkdir()
    (project / "lists" / "se.txt").write_text("NaN*  # ours drops NaN, issue 12\n")
    (project / "inner").mkdir()
    assert run_pytest(project, NAN).returncode == 1
    assert run_pytest(project, NAN, "--se-deviations", "lists/se.txt").returncode == 0
    (project / "pytest.ini").write_text("[pytest]\nse_deviations = lists/se.txt\n")
    assert run_pytest(project, NAN).returncode == 0
    from_below = subprocess.run(
        command("--rootdir", project, "-c", project / "pytest.ini", project / "test_it.py"),
        capture_output=True,
        **{**options(project), "cwd": project / "inner"},
    )
    assert from_below.returncode == 0, from_below.stdout  # relative to the root, wherever pytest is called

    stale = run_pytest(project, PASSES)
    assert stale.returncode == 1
    assert "stale    line 1 of the deviations, 'NaN*'" in stale.stdout

    (project / "none.txt").write_text("")
    assert run_pytest(project, PASSES, "--se-deviations", "none.txt").returncode == 0  # the option goes first


def test_a_deviation_without_a_reason_is_refused(project: Path) -> None:
    (project / "se.txt").write_text("# all of them\n\nNaN\n")
    run = run_pytest(project, NAN, "--se-deviations", "se.txt")
    assert run.returncode == 1
    assert "line 3: 'NaN' has no reason" in run.stdout
    missing = run_pytest(project, NAN, "--se-deviations", "other.txt")
    assert missing.returncode == 1
    assert "is not a file" in missing.stdout


def test_report_gets_a_line_for_each_verdict(project: Path) -> None:
    both = PASSES + FAILS.replace("test_my_block", "test_another")
    assert run_pytest(project, both, "--se-report", "report.jsonl").returncode == 1
    assert run_pytest(project, PASSES, "--se-report", "report.jsonl").returncode == 0
    lines = [json.loads(line) for line in (project / "report.jsonl").read_text().splitlines()]
    told = [(line["test"], line["passed"], line["causes"][:1]) for line in lines]
    first = ("test_it.py::test_my_block", True, [])
    assert told == [first, ("test_it.py::test_another", False, ["block not applied"]), first]
    assert lines[0]["spec"]["channels"] == 4
    assert lines[1]["failures"][0]["ratio"] == "inf" or lines[1]["failures"][0]["ratio"] > 1


BUFFER_BYTES = 8192
"""The smallest buffer of a text file in any supported Python; 3.14 has a larger one."""
WRITES = """
import pytest
from block import *

@pytest.mark.parametrize("number", range(5))
def test_many(se_check, number):
    with pytest.raises(pytest.fail.Exception):
        se_check(wrong, SPEC, ranks=(1, 2), seed=number)
"""


def test_two_processes_write_one_report_line_by_line(project: Path) -> None:
    (project / "test_it.py").write_text(WRITES)
    report = project / "report.jsonl"
    running = [
        subprocess.Popen(
            command("--se-report", report), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options(project)
        )
        for _ in range(2)
    ]
    for process in running:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(line["seed"] for line in lines) == sorted([*range(5)] * 2)
    assert min(map(len, report.read_text().splitlines())) > BUFFER_BYTES


WATCHES = f"""
import builtins, io
from block import *

class Raw(io.FileIO):
    writes = []

    def write(self, data):
        Raw.writes.append(len(data))
        return super().write(data)

def opened(path, mode="r", *arguments, **options):
    assert mode.startswith("a")
    return io.TextIOWrapper(io.BufferedWriter(Raw(path, "a"), {BUFFER_BYTES}), encoding="utf-8")

def test_it(se_check, monkeypatch):
    monkeypatch.setattr("se_conformance.plugin.open", opened, raising=False)
    with pytest.raises(pytest.fail.Exception):
        se_check(wrong, SPEC, ranks=(1, 2, 3))
    assert len(Raw.writes) == 1 and Raw.writes[0] > {BUFFER_BYTES}, Raw.writes
"""


def test_a_line_of_the_report_is_one_write(project: Path) -> None:
    """Pieces of a line, written one after the other, could interleave with another process's."""
    run = run_pytest(project, f"import pytest\n{WATCHES}", "--se-report", "report.jsonl")
    assert run.returncode == 0, run.stdout


def test_plugin_is_installed_as_an_entry_point() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert list(declared.values()) == [NAME]
    installed = {point.name: point.value for point in entry_points(group="pytest11") if point.value == NAME}
    assert installed in ({}, declared)


def test_plugin_imports_nothing_until_the_fixture_is_used(project: Path) -> None:
    code = f"import sys, {NAME}\nprint([m for m in ('numpy', 'se_numpy', 'se_conformance.judge') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], **options(project)) == "[]\n"
    (project / "conftest.py").write_text(
        "import sys\n"
        "def pytest_sessionfinish():\n"
        f"    assert {NAME!r} in sys.modules\n"
        "    print('held', sorted({'numpy', 'se_numpy', 'se_conformance.judge'} & set(sys.modules)))\n"
    )
    plain = run_pytest(project, PLAIN, "-s")
    assert plain.returncode == 0, plain.stdout
    assert "held []" in plain.stdout
    judged = run_pytest(project, PASSES, "-s")
    assert "held ['numpy', 'se_conformance.judge', 'se_numpy']" in judged.stdout  # the probe sees


def test_help_lists_the_options(project: Path) -> None:
    run = run_pytest(project, PLAIN, "--help")
    for word in ("--se-deviations=FILE", "--se-report=FILE", "se_deviations (string)"):
        assert word in run.stdout
    assert "se_check" in run_pytest(project, PLAIN, "--fixtures").stdout
