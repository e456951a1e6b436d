"""A pytest plugin: the fixture ``se_check`` judges a block, and a failed verdict fails the test with its text.

    def test_my_block(se_check):
        se_check(my_function, SESpec(64, reduction=16))

What is judged is a function, a module or layer, or a path of a file; ``se_check_file`` judges one block of a file
that holds a whole network. The plugin imports nothing until a fixture is used. ``--se-deviations FILE`` (or
``se_deviations`` in the configuration) names the file of known deviations. ``--se-report FILE`` collects all verdicts
as JSON lines; ``--se-report DIR/`` writes them to DIR/verdicts.jsonl, and a page with drawings to DIR/index.html.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .run_report import RunReport

if TYPE_CHECKING:
    from se_spec import SESpec

    from .verdict import Verdict

REPORT = pytest.StashKey[RunReport]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for known deviations and for the report."""
    group = parser.getgroup("se-suite", "Squeeze-and-Excitation conformance")
    group.addoption("--se-deviations", metavar="FILE", help="known deviations, one trial per line and a reason after #")
    group.addoption(
        "--se-report",
        metavar="FILE",
        help="append every verdict to FILE, one line of JSON each; or write DIR/index.html and DIR/verdicts.jsonl",
    )
    parser.addini("se_deviations", "file of known deviations, relative to the root", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the folder of the report; a worker of xdist is given the controller's."""
    name = config.getoption("--se-report")
    if not name or config.option.collectonly:
        return
    folder = config.invocation_params.dir / name
    given = getattr(config, "workerinput", {}).get("se_report_parts")
    if given is not None:
        config.stash[REPORT] = RunReport(folder, Path(given))
    elif name.endswith(("/", os.sep)) or folder.is_dir():
        try:
            config.stash[REPORT] = RunReport(folder)
        except OSError as error:
            raise pytest.UsageError(f"--se-report={name}: {error.strerror}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Send the folder of the parts to a worker of xdist."""
    report = node.config.stash.get(REPORT, None)
    if report is not None:
        node.workerinput["se_report_parts"] = str(report.parts)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Join the parts when all tests have run, which the controller does for the workers of xdist."""
    report = session.config.stash.get(REPORT, None)
    if report is not None and not hasattr(session.config, "workerinput"):
        report.join()


@pytest.fixture
def se_check(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """Give the test ``se_conformance.check``; a verdict that did not pass fails the test, others are returned."""
    from se_conformance import check

    config = request.config
    known = config.getoption("--se-deviations") or config.getini("se_deviations")
    path = os.path.join(config.rootpath, known) if known else None

    def judge(function: Any, spec: Any, *arguments: Any, **options: Any) -> Verdict:
        __tracebackhide__ = True
        verdict = check(function, spec, *arguments, **{"deviations": path, **options})
        report, name = config.stash.get(REPORT, None), config.getoption("--se-report")
        if report is not None:
            report.append(request.node.nodeid, verdict)
        elif name:
            line = json.dumps({"test": request.node.nodeid, **verdict.to_dict()})
            with open(name, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        if not verdict.passed:
            pytest.fail(str(verdict), pytrace=False)
        return verdict

    return judge


@pytest.fixture
def se_check_file(se_check: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Give the test ``judge(path, block, spec=None, **options)``: ``se_check`` of one block of a file.

    ``block`` is the block's path as ``se-port inspect`` shows it. Without a spec the block should be what the file's
    graph says. The other options are those of ``check``.
    """
    from se_conformance.block_files import cut_block

    def judge(path: str | Path, block: str, spec: SESpec | None = None, **options: Any) -> Verdict:
        __tracebackhide__ = True
        function, own = cut_block(path, block)
        return se_check(function, own if spec is None else spec, **options)

    return judge
