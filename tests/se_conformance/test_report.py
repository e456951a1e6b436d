"""The page about verdicts: well-formed, self-contained, escaped, labelled, and it shows what the verdict holds."""

import copy
import dataclasses
import re

import pytest

from se_conformance import report
from se_conformance.report.markup import escape_text, tag
from se_conformance.report.stages import draw_stages, list_stages
from se_conformance.report.style import STYLE
from se_conformance.verdict import Verdict
from se_spec import HardSigmoid, SESpec
from tests.se_conformance.report_blocks import BLOCKS, HOSTILE, SPEC, PageChecker, judge


@pytest.mark.parametrize("name", BLOCKS)
def test_page_is_well_formed_labelled_and_loads_nothing(name: str) -> None:
    page = report.render_html([judge(name)], [name])
    found = PageChecker(page)
    assert found.errors == []
    assert page.startswith('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
    assert found.tags["title"] == found.tags["main"] == found.tags["h1"] == 1
    assert "default-src 'none'" in page.replace("&#x27;", "'")


def test_page_of_all_verdicts_has_unique_ids_and_a_link_to_each() -> None:
    page = report.render_html(map(judge, BLOCKS), list(BLOCKS))
    found = PageChecker(page)
    assert found.errors == []
    assert found.ids == found.targets == [f"verdict-{number}" for number in range(1, len(BLOCKS) + 1)]
    assert f"{len(BLOCKS)} verdicts, {len(BLOCKS) - 2} FAILED" in found.text


def test_page_without_verdicts_says_so() -> None:
    found = PageChecker(report.render_html([]))
    assert (found.errors, "No block was judged." in found.text) == ([], True)


def test_titles_must_be_as_many_as_the_verdicts() -> None:
    with pytest.raises(ValueError, match="argument"):
        report.render_html([judge("right")], ["one", "two"])


def test_page_shows_what_the_verdict_holds() -> None:
    verdict = judge("hard")
    text = PageChecker(report.render_html([verdict], ["my_block"])).text
    fault, worst = verdict.agreeing[0], verdict.worst
    assert worst is not None and worst.comparison is not None
    for shown in (
        "FAILED: SESpec(8, hidden=2) in float32",
        "my_block",
        fault.name,
        fault.sentence,
        fault.source,
        fault.remedy,
        "The block departs from the spec at: gate.",
        verdict.reproduction(),
        f"y[{', '.join(map(str, worst.comparison.where))}] (channels last) of '{worst.trial}', 2-D",
        f"{worst.comparison.got:.9g}",
        f"{worst.comparison.want:.9g}",
        f"{worst.comparison.bound:.2g}",
        "1-D maps",
        "3-D maps",
        "gradients",
        "What ran: ",
    ):
        assert shown in text, shown
    for _, trial in verdict.ran:
        assert trial in text
    assert "passed" not in text


def test_passed_verdict_shows_no_cause_and_the_element_nearest_to_its_bound() -> None:
    text = PageChecker(report.render_html([judge("right with excitation")])).text
    assert "passed: SESpec(8, hidden=2) in float32" in text
    assert "No stage departs from the spec." in text
    assert "Element nearest to its bound" in text
    for absent in ("Cause", "FAILED", "Worst element", "no excitation"):
        assert absent not in text


def test_the_lines_that_make_the_input_again_run() -> None:
    page = report.render_html([judge("hard")])
    code = PageChecker(f"<pre>{page.partition('<pre>')[2].partition('</pre>')[0]}</pre>").text
    names: dict = {}
    exec(code, names)
    assert names["x"].shape[-1] == SPEC.channels


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("hard", "departs from the spec at: gate"),
        ("wrong gradient", "the mistake is in the backward pass"),
        ("raises", "The call itself fails"),
        ("wrong excitation", "is not known"),
    ],
)
def test_stage_is_marked_or_said_in_words(name: str, caption: str) -> None:
    page = report.render_html([judge(name)])
    assert caption in PageChecker(page).text
    assert page.count("▲ departs here") == page.count("stage marked") == (name == "hard")


def test_stages_of_a_block_are_drawn_in_order_and_the_label_names_them() -> None:
    drawn = draw_stages(SESpec(64, hidden=4, gate=HardSigmoid(slope=0.2, offset=0.5), gain=2, residual=True), "expand")
    assert "Stages of the block: squeeze, reduce, activation, expand, gate, scale." in drawn
    assert re.search(r'class="stage marked"><rect[^>]*/><text[^>]*>expand<', drawn)
    for text in ("64 → 4", "4 → 64", "HardSigmoid", "x · 2 g + x"):
        assert f">{text}<" in drawn
    assert [name for name, _ in list_stages(SESpec(4, single_projection=True))] == [
        "squeeze",
        "expand",
        "gate",
        "scale",
    ]


def test_plots_mark_elements_outside_the_bound() -> None:
    found = PageChecker(report.render_html([judge("one channel")]))
    plots = [label for label in found.labels if label.startswith("Plot of ")]
    assert len(plots) == 2
    excerpt = judge("one channel").worst_elements
    assert excerpt is not None
    page = report.render_html([judge("one channel")])
    crosses = re.findall(r'class="crosses" d="([^"]*)"', page)
    assert [path.count("M") for path in crosses] == [excerpt.outside] * 2
    dots = re.findall(r'class="dots" d="([^"]*)"', page)
    assert [path.count("M") for path in dots] == [excerpt.total - excerpt.outside] * 2
    assert 'class="crosses"' not in report.render_html([judge("right")])


def test_heat_map_has_full_cells_for_wrong_channels_alone() -> None:
    page = report.render_html([judge("one channel")])
    label = next(label for label in PageChecker(page).labels if label.startswith("Heat map"))
    assert ": 3 of 24 values are outside their bound; the worst is " in label
    assert label.endswith(", channel 5.")
    beyond = [path for step in (3, 4) for path in re.findall(rf'class="heat{step}" d="([^"]*)"', page)]
    assert sum(path.count("M") for path in beyond) == 3 + 2  # and the legend


def test_nan_is_counted_and_drawn_at_the_edge() -> None:
    found = PageChecker(report.render_html([judge("NaN everywhere")]))
    assert "of those drawn are NaN or infinite, and stand at the edge" in found.text
    page = report.render_html([judge("NaN everywhere")])
    numbers = re.findall(r' d="([^"]*)"', page)
    assert not [path for path in numbers if re.search("nan|inf", path)]


def make_hostile() -> Verdict:
    """A verdict in which every text that a stranger writes is hostile."""
    verdict = copy.deepcopy(judge("raises"))
    verdict.notes = [HOSTILE]
    verdict.unreached = [(2, HOSTILE)]
    verdict.unjudged = {(2, "NaN"): HOSTILE}
    verdict.findings = [dataclasses.replace(finding, message=HOSTILE) for finding in verdict.findings]
    elements, gate = judge("hard").worst_elements, judge("hard").worst_gate
    assert elements is not None and gate is not None
    verdict.worst_elements = dataclasses.replace(elements, trial=HOSTILE, quantity=HOSTILE)
    verdict.worst_gate = dataclasses.replace(gate, trial=HOSTILE, source=HOSTILE)
    return verdict


def test_hostile_names_are_shown_and_not_run() -> None:
    page = report.render_html([make_hostile()], [HOSTILE])
    found = PageChecker(page)
    assert found.errors == []
    assert "<script" not in page and "<img" not in page
    assert found.text.count("<script>alert('a')</script>") >= 6
    controls = {sign for sign in page if not sign.isprintable()} - {"\n"}
    assert controls == set()
    page.encode("utf-8")
    assert "\\x00\\x1b[2J\\u202e\\ud800" in found.text


def test_probe_finds_what_is_wrong_with_a_page() -> None:
    for page, error in (
        ("<p><b></p></b>", "</p> closes another element"),
        ("<p>", "<p> is not closed"),
        ('<p id="a"></p><p id="a"></p>', "id 'a' is not unique"),
        ('<a href="#b"></a>', "no element has the id 'b'"),
        ('<a href="http://x"></a>', "<a> links to 'http://x'"),
        ("<script></script>", "<script> loads or runs something"),
        ('<p onclick="x"></p>', "<p> has onclick='x'"),
        ("<style>p { background: url(x) }</style>", "the style loads url("),
        ('<svg role="img"></svg>', "<svg> has no label"),
        ('<svg aria-label="a"></svg>', "<svg> has no role"),
        ("<th></th>", "<th> has no scope"),
        ("<div/>", "<div/> needs an end tag"),
    ):
        assert error in PageChecker(page).errors, page


def test_markup_escapes_texts_and_attributes() -> None:
    assert tag("p", "<b>", tag("b", 1), None, title='"&"') == '<p title="&quot;&amp;&quot;">&lt;b&gt;<b>1</b></p>'
    assert escape_text(HOSTILE).isprintable()


def test_notebook_fragment_is_self_contained_and_scoped() -> None:
    fragment = judge("hard")._repr_html_()
    found = PageChecker(fragment)
    assert (found.errors, found.ids, found.targets) == ([], [], [])
    assert fragment.startswith("<style>")
    assert not {"html", "head", "body", "iframe", "script", "main"} & found.tags.keys()
    assert "hard_sigmoid" in found.text


def test_every_rule_of_the_style_is_scoped_and_both_schemes_set_the_same_colours() -> None:
    selectors = re.findall(r"([^{}]+)\{", re.sub(r"@media[^{]*\{", "", STYLE))
    for selector in (part.strip() for group in selectors for part in group.split(",")):
        assert re.match(r"\.se-(page|verdict)\b", selector), selector
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    names = set(re.findall(r"(--\w+):", light))
    assert names == set(re.findall(r"(--\w+):", dark))
    assert set(re.findall(r"var\((--\w+)\)", STYLE)) <= names


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_texts_is_that_of_wcag(scheme: str) -> None:
    """4.5 for texts, 3 for what is drawn; a cell within its bound may be fainter, since it is also smaller."""
    part = STYLE.split("@media (prefers-color-scheme: dark)")[scheme == "dark"].split("}")[0]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", part))
    for name in ("front", "muted", "right", "wrong", "band"):
        assert contrast(colours[name], colours["back"]) >= 4.5, name
    for name in ("front", "muted"):
        assert contrast(colours[name], colours["faint"]) >= 4.5, name
    assert contrast(colours["wrong"], colours["wrong-back"]) >= 4.5
    assert contrast(colours["muted"], colours["wrong-back"]) >= 4.5
    for name in ("line", "heat1", "heat3", "heat4"):
        assert contrast(colours[name], colours["back"]) >= 3.0, name
