"""docs/CI.md: its files are written to an empty folder, and its workflow's commands are executed there, one by one."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.se_conformance.report_blocks import PageChecker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "CI.md").read_text()
WORKFLOW = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
FILES = dict(re.findall(r"^```\w+\n# ([\w.]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
"""The page's files: blocks whose first line is a comment with the name."""


def list_commands(workflow: str) -> list[str]:
    """The commands of all steps: of ``run: |`` each line, and a line that ends in a backslash goes on."""
    commands: list[str] = []
    column = None  # where a step with several lines begins
    for line in re.sub(r"\\\n *", "", workflow).splitlines():
        start = len(line) - len(line.lstrip(" -"))
        if column is not None and start > column:
            commands.append(line.strip())
            continue
        column = None
        found = re.match(r"[ -]*run: (.+)", line)
        if found and found[1] == "|":
            column = start
        elif found:
            commands.append(found[1])
    return commands


INSTALL, *COMMANDS = list_commands(WORKFLOW)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page's project, and programs of the names that the installation would bring."""
    folder = tmp_path_factory.mktemp("ci")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    programs = {"se-check": "-m se_conformance", "pytest": "-m pytest -p xdist -p se_conformance.plugin"}
    (folder / "bin").mkdir()
    for name, arguments in programs.items():
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        path.chmod(0o755)
    return folder


def run_command(project: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run one line as GitHub's runner does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {
        **kept,
        "PATH": f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # installed or not, as in a checkout
    }
    command_line = ["bash", "-eo", "pipefail", "-c", command]
    return subprocess.run(command_line, cwd=project, env=environment, text=True, capture_output=True)


def test_every_command_of_the_workflow_succeeds(project: Path) -> None:
    assert [command.split()[0] for command in COMMANDS] == ["mkdir", "se-check", "pytest"]
    for command in COMMANDS:
        done = run_command(project, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    out = project / "out"
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["block.json", "block.xml", "block/index.html", "tests/index.html", "tests/verdicts.jsonl"]
    verdicts = json.loads((out / "block.json").read_text())
    assert [(verdict["dtype"], verdict["passed"], verdict["ranks"]) for verdict in verdicts] == [
        ("float32", True, [1, 2]),
        ("bfloat16", True, [1, 2]),
    ]
    assert ElementTree.parse(out / "block.xml").getroot().attrib["failures"] == "0"
    assert len((out / "tests" / "verdicts.jsonl").read_text().splitlines()) == 2
    for page in ("block", "tests"):
        checked = PageChecker((out / page / "index.html").read_text(encoding="utf-8"))
        assert checked.errors == []
        assert "2 verdicts, none failed" in checked.text


def test_without_the_known_deviation_the_workflow_fails(project: Path) -> None:
    judge = next(command for command in COMMANDS if command.startswith("se-check"))
    command = judge.replace("--known deviations.txt", "").replace("out/", "")
    done = run_command(project, command)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the batch is empty" in done.stdout


def test_installation_names_what_this_project_declares() -> None:
    """The installation is not executed: the package would come from elsewhere."""
    program, verb, *names = INSTALL.replace("'", "").split()
    assert (program, verb) == ("pip", "install")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (ours,) = [name for name in names if name.startswith(declared["project"]["name"])]
    extras = re.fullmatch(r"se-suite\[([\w,]+)\]", ours)
    assert extras is not None
    required = [name for extra in extras[1].split(",") for name in declared["project"]["optional-dependencies"][extra]]
    assert any(name.startswith("ml_dtypes") for name in required)  # which bfloat16 needs
    tested = {re.split(r"[><=]", name)[0] for name in declared["dependency-groups"]["test"]}
    assert {*names} - {ours} <= tested


def test_files_and_options_of_the_workflow_are_those_of_the_page() -> None:
    assert {*FILES} == {"my_block.py", "deviations.txt", "test_block.py"}
    text = " ".join(COMMANDS)
    for option in (
        "--json",
        "--junit",
        "--html",
        "--known",
        "--dtype",
        "--ranks",
        "--seed",
        "--timeout",
        "--se-report",
    ):
        assert option in text


def test_commands_are_found_in_each_form() -> None:
    workflow = "steps:\n  - run: a b\n  - name: x\n    run: |\n      c \\\n        d\n      e\n    if: f\n  - run: g\n"
    assert list_commands(workflow) == ["a b", "c d", "e", "g"]
