"""JUnit's XML: a suite for each verdict, a case for each trial, and what does not count is skipped with its reason."""

import copy
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from se_conformance import check
from se_conformance.report import render_junit
from tests.se_conformance.report_blocks import BLOCKS, HOSTILE, SPEC, judge, right
from tests.se_conformance.test_report import make_hostile

ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "skipped"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped"},
    "testcase": {"classname", "name"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
}
"""The elements and attributes that Jenkins, GitLab and GitHub's actions read; none other is written."""


def parse(text: str) -> ElementTree.Element:
    """Parse the file, and check its form: known elements, unique cases, counts that are those of the elements."""
    root = ElementTree.fromstring(text.encode("utf-8"))
    for element in root.iter():
        assert set(element.attrib) == ATTRIBUTES[element.tag], element.tag
    for owner in (root, *root.findall("testsuite")):
        cases = list(owner.iter("testcase"))
        assert int(owner.attrib["tests"]) == len(cases)
        for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(owner.attrib[count]) == len(list(owner.iter(kind))), kind
        assert all(len(case) <= 1 for case in cases)
    for suite in root.findall("testsuite"):
        names = [(case.attrib["classname"], case.attrib["name"]) for case in suite]
        assert len(names) == len(set(names))
    return root


@pytest.mark.parametrize("name", BLOCKS)
def test_every_trial_is_a_case_and_every_failed_trial_a_failure(name: str) -> None:
    verdict = judge(name)
    root = parse(render_junit([verdict], "target"))
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert list(cases) == [trial for _, trial in verdict.ran]
    failed = {trial for trial, case in cases.items() if case.find("failure") is not None}
    assert failed == {finding.trial for finding in verdict.failures}
    assert {case.attrib["classname"] for case in cases.values()} == {f"target.{verdict.dtype}.2-D"}


def test_failure_has_the_numbers_or_the_message() -> None:
    numbers = parse(render_junit([judge("hard")])).find(".//failure")
    assert numbers is not None
    for word in ("y[", "got ", "want ", "bound ", "ratio "):
        assert word in numbers.attrib["message"]
    assert numbers.text == numbers.attrib["message"]
    raised = parse(render_junit([judge("raises")])).find(".//failure")
    assert raised is not None
    assert raised.attrib["message"].startswith("y: raised ValueError: </svg><script>")


def test_several_verdicts_are_several_suites() -> None:
    root = parse(render_junit([judge("hard"), judge("half precision")]))
    names = [suite.attrib["name"] for suite in root]
    assert names == [f"se-check: SESpec(8, hidden=2) in {dtype}" for dtype in ("float32", "float16")]


def test_known_deviation_is_skipped_and_a_stale_line_is_a_failure(tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text("*NaN*  # ours drops NaN, issue 12\none row  # no reason any more\n")
    root = parse(render_junit([check(BLOCKS["drops NaN"][0], SPEC, deviations=known)], "target"))
    skipped = [case for case in root.iter("testcase") if case.find("skipped") is not None]
    assert "NaN" in {case.attrib["name"] for case in skipped}
    assert skipped[0][0].attrib["message"] == "ours drops NaN, issue 12"
    (stale,) = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert stale.attrib == {"classname": "target.float32.deviations", "name": "line 2: one row"}


def test_unjudged_trial_is_skipped() -> None:
    verdict = copy.deepcopy(judge("right"))
    verdict.unjudged = {(2, "empty batch"): "the runtime is wrong"}
    root = parse(render_junit([verdict]))
    (skipped,) = root.iter("skipped")
    assert skipped.attrib["message"] == "on this machine the runtime is wrong"


def test_trials_after_a_time_limit_are_errors() -> None:
    calls = []

    def hangs(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        calls.append(1)
        while len(calls) == 3:
            pass
        return right(x, parameters)

    verdict = check(hangs, SPEC, timeout=0.5)
    assert len(verdict.ran) == 3
    assert f"{len(verdict.unreached)} trials not run after the time limit" in str(verdict)
    root = parse(render_junit([verdict]))
    assert int(root.attrib["errors"]) == len(verdict.unreached) > 10
    (failure,) = root.iter("failure")
    assert "TimedOut" in failure.attrib["message"]
    assert "a call before it exceeded the time limit" in {error.attrib["message"] for error in root.iter("error")}


def test_verdict_that_decides_nothing_is_an_error() -> None:
    verdict = copy.deepcopy(judge("right"))
    verdict.findings = []
    root = parse(render_junit([verdict]))
    (error,) = root.iter("error")
    assert "the bound decides no element" in error.attrib["message"]


def test_hostile_names_are_escaped() -> None:
    verdict = make_hostile()
    text = render_junit([verdict], HOSTILE)
    parse(text)
    assert not {sign for sign in text if not sign.isprintable()} - {"\n"}
