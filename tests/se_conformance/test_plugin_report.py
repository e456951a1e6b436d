"""``--se-report=DIR/`` in temporary projects, by one process and by several; what each fixture accepts."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.se_conformance.report_blocks import PageChecker
from tests.se_conformance.test_plugin import BLOCK, FAILS, PASSES, PLAIN, command, options, run_pytest

MANY = """
import pytest
from block import *

@pytest.mark.parametrize("number", range(8))
def test_many(se_check, number):
    se_check(block if number % 2 else wrong, SPEC, seed=number)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "block.py").write_text(BLOCK)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def read_report(folder: Path) -> tuple[PageChecker, list[dict[str, Any]]]:
    """The page and the lines of a report; nothing else is left in the folder."""
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "verdicts.jsonl"]
    page = PageChecker((folder / "index.html").read_text(encoding="utf-8"))
    assert page.errors == []
    return page, [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]


def test_folder_gets_a_page_and_lines_with_every_verdict(project: Path) -> None:
    both = PASSES + FAILS.replace("test_my_block", "test_another")
    assert run_pytest(project, both, "--se-report=deep/out/").returncode == 1
    page, lines = read_report(project / "deep" / "out")
    assert [(line["test"], line["passed"]) for line in lines] == [
        ("test_it.py::test_my_block", True),
        ("test_it.py::test_another", False),
    ]
    assert "2 verdicts, 1 FAILED" in page.text
    for line in lines:
        assert line["test"] in page.text
    assert "block not applied" in page.text


def test_second_run_replaces_the_report_and_a_folder_needs_no_slash(project: Path) -> None:
    (project / "out").mkdir()
    assert run_pytest(project, FAILS, "--se-report=out").returncode == 1
    assert run_pytest(project, PASSES, "--se-report=out").returncode == 0
    page, lines = read_report(project / "out")
    assert [line["passed"] for line in lines] == [True]
    assert "FAILED" not in page.text


def test_file_name_keeps_its_meaning(project: Path) -> None:
    assert run_pytest(project, PASSES, "--se-report=out").returncode == 0
    assert (project / "out").is_file()
    assert json.loads((project / "out").read_text())["passed"]


def test_run_without_verdicts_writes_an_empty_report(project: Path) -> None:
    assert run_pytest(project, PLAIN, "--se-report=out/").returncode == 0
    page, lines = read_report(project / "out")
    assert (lines, "No block was judged." in page.text) == ([], True)


def test_collecting_tests_writes_nothing(project: Path) -> None:
    assert run_pytest(project, PASSES, "--se-report=out/", "--collect-only").returncode == 0
    assert not (project / "out").exists()


def test_folder_is_relative_to_where_pytest_began(project: Path) -> None:
    code = PASSES.replace("(se_check):", "(se_check, tmp_path, monkeypatch):\n    monkeypatch.chdir(tmp_path)")
    assert run_pytest(project, code, "--se-report=out/").returncode == 0
    assert len(read_report(project / "out")[1]) == 1


def test_folder_that_cannot_be_made_is_an_error_of_usage(project: Path) -> None:
    (project / "out").write_text("a file")
    run = run_pytest(project, PASSES, "--se-report=out/")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--se-report=out/: File exists" in run.stderr
    assert "Traceback" not in run.stderr


def test_workers_of_xdist_write_one_report(project: Path) -> None:
    run = run_pytest(project, MANY, "-p", "xdist", "-n", 3, "--se-report=out/")
    assert run.returncode == 1, run.stdout
    page, lines = read_report(project / "out")
    assert [(line["test"], line["seed"], line["passed"]) for line in lines] == [
        (f"test_it.py::test_many[{number}]", number, bool(number % 2)) for number in range(8)
    ]
    assert "8 verdicts, 4 FAILED" in page.text
    assert len(page.ids) == 8


DIES = """
import os
from block import *

def test_first(se_check):
    se_check(block, SPEC)

def test_second(se_check, request):
    report = next(value for value in request.config.stash._storage.values() if hasattr(value, "parts"))
    with open(report.parts / f"{os.getpid()}.jsonl", "a") as file:
        file.write('{"test": "half a li')
    os._exit(3)
"""


def test_verdicts_of_a_worker_that_died_stay_in_the_report(project: Path) -> None:
    run = run_pytest(project, DIES, "-p", "xdist", "-n", 1, "--max-worker-restart=0", "--se-report=out/")
    assert run.returncode == 1, run.stdout
    assert "crashed" in run.stdout
    _, lines = read_report(project / "out")
    assert [line["test"] for line in lines] == ["test_it.py::test_first"]


def test_two_runs_at_once_do_not_mix_their_verdicts(project: Path) -> None:
    (project / "test_it.py").write_text(MANY)
    running = [
        subprocess.Popen(
            command("-k", f"test_many[{number}]", "--se-report=out/"), stdout=subprocess.DEVNULL, **options(project)
        )
        for number in (1, 3)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    _, lines = read_report(project / "out")
    assert [line["seed"] for line in lines] in ([1], [3])


FUNCTION = "def test_it(se_check):\n    assert se_check(block, SPEC).passed\n"
MODULE = """
def test_it(se_check):
    import torch
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Conv2d(16, 4, 1), torch.nn.Conv2d(4, 16, 1)
        def forward(self, x):
            return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    verdict = se_check(Block(), SESpec(16, hidden=4, bias=True))
    assert any(finding.quantity == "d reduce.weight" for finding in verdict.findings)
"""
FILE = """
def test_one_block_is_the_whole_file(se_check):
    se_check("block.onnx", SESpec(16, hidden=4, bias=True))

def test_block_of_a_network(se_check_file):
    assert se_check_file("net.onnx", "1").spec == SESpec(16, hidden=4, bias=True)
    se_check_file("net.onnx", "1", SESpec(16, hidden=4, bias=True), dtype="float32", ranks=(2,))

def test_block_of_a_network_is_what_the_caller_says(se_check_file):
    se_check_file("net.onnx", "1", SESpec(16, hidden=4, bias=True, activation="silu"))

def test_format_that_is_not_cut(se_check_file):
    se_check_file("net.txt", "1")
"""
EXPORT = """
import warnings
import torch
warnings.simplefilter("ignore")

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Conv2d(16, 4, 1), torch.nn.Conv2d(4, 16, 1)
    def forward(self, x):
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

free = {name: {0: "n", 2: "h", 3: "w"} for name in ("x", "y")}
net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), Block())
for name, net, channels in (("block", Block(), 16), ("net", net, 3)):
    example = (torch.zeros(1, channels, 8, 8),)
    torch.onnx.export(
        net.eval(), example, name + ".onnx", dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=free
    )
"""


def test_fixture_accepts_a_function(project: Path) -> None:
    run = run_pytest(project, f"from block import *\n{FUNCTION}")
    assert run.returncode == 0, run.stdout


@pytest.mark.framework("torch")
def test_fixture_accepts_a_module_and_judges_its_gradients(project: Path) -> None:
    run = run_pytest(project, f"from block import *\n{MODULE}")
    assert run.returncode == 0, run.stdout


@pytest.mark.framework("torch", "onnx")
def test_fixtures_accept_a_file_and_one_block_of_a_file(project: Path) -> None:
    exported = subprocess.run([command()[0], "-c", EXPORT], capture_output=True, **options(project))
    assert exported.returncode == 0, exported.stderr
    run = run_pytest(project, f"from block import *\n{FILE}", "-rA")
    assert run.returncode == 1, run.stdout
    for name in ("test_one_block_is_the_whole_file", "test_block_of_a_network"):
        assert f"PASSED test_it.py::{name}{os.linesep}" in run.stdout, run.stdout
    assert "FAILED test_it.py::test_block_of_a_network_is_what_the_caller_says" in run.stdout
    assert "FAILED: SESpec(16, hidden=4, bias=True, activation='silu') in float32" in run.stdout
    assert "a block is cut out of a file of one of the formats .onnx, .tflite; got 'net.txt'" in run.stdout
