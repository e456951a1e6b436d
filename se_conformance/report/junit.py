"""Verdicts as JUnit's XML, which CI systems read: a suite for each verdict, a test case for each trial."""

from collections.abc import Iterable
from xml.etree import ElementTree

from se_spec.texts import escape

from .fragment import list_outcomes
from .subject import Judgement

KINDS = {"FAILED": "failure", "not run": "error", "known": "skipped", "unjudged": "skipped"}


def render_junit(verdicts: Iterable[Judgement], title: str = "se-check") -> str:
    """Render verdicts as JUnit's XML.

    A failed trial is a ``failure``. A trial that did not run because a call before it exceeded the time limit is an
    ``error``, and so is a verdict whose bounds decide no element. Known deviations and trials on which the runtime
    contradicts itself are ``skipped``, with the reason, since they do not count. A line of the deviations whose trials
    did not fail is a ``failure`` of its own.

    Args:
        verdicts: results of ``check``.
        title: the first part of the class names, such as the target.

    Returns:
        The text of an XML file; characters that XML does not allow are escaped.

    Example:
        >>> from se_conformance import check
        >>> from se_spec import SESpec
        >>> text = render_junit([check(lambda x, parameters: x, SESpec(8, hidden=2))])
        >>> "<failure" in text, 'classname="se-check.float32.2-D"' in text
        (True, True)
    """
    suites = [_make_suite(verdict, escape(title)) for verdict in verdicts]
    root = ElementTree.Element("testsuites", {"name": escape(title), **_sum_counts(suites)})
    root.extend(suites)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _make_suite(verdict: Judgement, title: str) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=escape(f"{title}: {verdict.spec} in {verdict.dtype}"))
    for rank, trial, outcome, reason in list_outcomes(verdict):
        case = _add_case(suite, f"{title}.{verdict.dtype}.{rank}-D", trial)
        if outcome in KINDS:
            _add_result(case, KINDS[outcome], outcome, reason)
    for stale in verdict.stale_deviations:
        case = _add_case(suite, f"{title}.{verdict.dtype}.deviations", f"line {stale.line}: {stale.pattern}")
        _add_result(case, "failure", "stale", "no such trial failed; remove the line")
    if not verdict.conclusive and not verdict.failures:
        case = _add_case(suite, f"{title}.{verdict.dtype}", "conclusive elements")
        _add_result(case, "error", "nothing judged", "nothing was judged: the bound decides no element")
    suite.attrib |= {
        "tests": str(len(suite)),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "skipped": str(len(suite.findall("testcase/skipped"))),
    }
    return suite


def _add_case(suite: ElementTree.Element, place: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=place, name=escape(name))


def _add_result(case: ElementTree.Element, kind: str, outcome: str, reason: str) -> None:
    message = escape(reason)
    result = ElementTree.SubElement(case, kind, message=message)
    if kind != "skipped":
        result.set("type", outcome)
        result.text = message


def _sum_counts(suites: list[ElementTree.Element]) -> dict[str, str]:
    names = ("tests", "failures", "errors", "skipped")
    return {name: str(sum(int(suite.attrib[name]) for suite in suites)) for name in names}
