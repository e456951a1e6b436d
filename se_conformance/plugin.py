"""A pytest plugin: the fixture ``se_check`` judges a block, and a failed verdict fails the test with its text.

    def test_my_block(se_check):
        se_check(my_function, SESpec(64, reduction=16))

The plugin imports nothing until the fixture is used. ``--se-deviations FILE`` (or ``se_deviations`` in the
configuration) names the file of known deviations; ``--se-report FILE`` collects all verdicts as JSON lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from se_conformance.verdict import Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for known deviations and for the report."""
    group = parser.getgroup("se-suite", "Squeeze-and-Excitation conformance")
    group.addoption("--se-deviations", metavar="FILE", help="known deviations, one trial per line and a reason after #")
    group.addoption("--se-report", metavar="FILE", help="append every verdict to FILE, one line of JSON each")
    parser.addini("se_deviations", "file of known deviations, relative to the root", default="")


@pytest.fixture
def se_check(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """Give the test ``se_conformance.check``; a verdict that did not pass fails the test, others are returned."""
    from se_conformance import check

    config = request.config
    name = config.getoption("--se-deviations") or config.getini("se_deviations")
    path = os.path.join(config.rootpath, name) if name else None

    def judge(function: Any, spec: Any, *arguments: Any, **options: Any) -> Verdict:
        __tracebackhide__ = True
        verdict = check(function, spec, *arguments, **{"deviations": path, **options})
        report = config.getoption("--se-report")
        if report:
            line = json.dumps({"test": request.node.nodeid, **verdict.to_dict()})
            with open(report, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        if not verdict.passed:
            pytest.fail(str(verdict), pytrace=False)
        return verdict

    return judge
