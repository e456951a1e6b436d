"""The part of a page that is about one verdict; a notebook shows it alone."""

from ..findings import Finding
from .heatmap import draw_gate
from .markup import Markup, format_number, join, tag
from .scatter import draw_elements
from .stages import describe_departure, draw_stages
from .style import STYLE
from .subject import Judgement

MAX_MESSAGES = 20


def render_fragment(verdict: Judgement) -> str:
    """Render one verdict with its style, for a notebook.

    Args:
        verdict: the result of ``check``.

    Returns:
        HTML without scripts, ids and links; every rule of the style is scoped to ``.se-verdict``.

    Example:
        >>> from se_conformance import check
        >>> from se_spec import SESpec
        >>> fragment = render_fragment(check(lambda x, parameters: x, SESpec(8, hidden=2)))
        >>> fragment[:7], "block not applied" in fragment
        ('<style>', True)
    """
    return join(tag("style", Markup(STYLE)), render_verdict(verdict))


def render_verdict(verdict: Judgement) -> Markup:
    """Render one verdict as a ``div`` without its style."""
    word = "passed" if verdict.passed else "FAILED"
    heading = tag("h2", tag("span", word, class_=word.lower()), f": {verdict.spec} in {verdict.dtype}")
    parts: list[Markup | None] = [heading, _render_facts(verdict), draw_stages(verdict.spec, verdict.stage)]
    parts += [_render_causes(verdict), _render_list("What is seen", list(verdict.seen))]
    parts += [_render_worst(verdict), _render_messages(verdict)]
    if verdict.worst_elements is not None:
        parts.append(join(tag("h3", "Got against want"), draw_elements(verdict.worst_elements)))
    if verdict.worst_gate is not None:
        parts.append(join(tag("h3", "Errors of the gate"), draw_gate(verdict.worst_gate)))
    parts += [_render_trials(verdict), _render_list("Not run", _list_not_run(verdict))]
    stale = [
        f"line {entry.line} of the deviations, '{entry.pattern}': no such trial failed; remove it"
        for entry in verdict.stale_deviations
    ]
    parts += [_render_list("Deviations that no longer exist", stale), _render_list("Notes", verdict.notes)]
    return tag("div", *parts, class_="se-verdict")


def list_outcomes(verdict: Judgement) -> list[tuple[int, str, str, str]]:
    """List (rank, trial, outcome, reason) of every trial, in order.

    Args:
        verdict: the result of ``check``.

    Returns:
        The outcome is ``"right"``, ``"FAILED"``, ``"known"`` for a deviation that is listed, ``"unjudged"`` where the
        runtime contradicts itself, or ``"not run"`` after a call that exceeded the time limit.
    """
    failures: dict[tuple[int, str], list[str]] = {}
    for finding in verdict.failures:
        failures.setdefault((finding.rank, finding.trial), []).append(describe_finding(finding))
    rows = []
    for key in verdict.ran:
        if key in verdict.unjudged:
            outcome, reason = "unjudged", f"on this machine {verdict.unjudged[key]}"
        elif key in verdict.known:
            outcome, reason = "known", verdict.known[key].reason
        else:
            outcome, reason = ("FAILED", "; ".join(failures[key])) if key in failures else ("right", "")
        rows.append((*key, outcome, reason))
    reason = "a call before it exceeded the time limit"
    return rows + [(*key, "not run", reason) for key in verdict.unreached]


def describe_finding(finding: Finding) -> str:
    """Say in one line what is wrong in a finding."""
    c = finding.comparison
    if c is None:
        return finding.message
    if not c.where:
        return f"{finding.quantity}: another shape"
    index = ", ".join(map(str, c.where))
    return f"{finding.quantity}[{index}]: got {c.got:.9g}, want {c.want:.9g}, bound {c.bound:.2g}, ratio {c.ratio:.3g}"


def _render_facts(verdict: Judgement) -> Markup:
    outcomes = [outcome for *_, outcome, _ in list_outcomes(verdict)]
    right, known = outcomes.count("right"), outcomes.count("known")
    counted = f"{right} of {right + known + outcomes.count('FAILED')} right"
    facts = {
        "trials": counted + (f", {known} known to fail" if known else ""),
        "elements": f"{verdict.conclusive:,} decided by the bound, {verdict.inconclusive:,} not",
        "dtype": verdict.dtype,
        "seed": verdict.seed,
        "spatial axes": ", ".join(map(str, verdict.ranks)),
        "data format": verdict.data_format,
        "precision": f"products {verdict.precision.products}, intermediates {verdict.precision.intermediates}",
    }
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in facts.items()]
    return tag("table", tag("caption", "What was judged"), *rows)


def _render_causes(verdict: Judgement) -> Markup | None:
    if not verdict.failures:
        return None
    if not verdict.agreeing:
        text = f"None of the catalogue. {describe_departure(verdict.stage or 'unknown')}"
        near = f" Nearest, not it: {', '.join(verdict.nearest)}." if verdict.nearest else ""
        return join(tag("h3", "Cause"), tag("p", text + near))
    items = [
        tag(
            "li",
            tag("b", fault.name),
            f": {fault.sentence} [{fault.source}]. ",
            tag("b", "To do:"),
            f" {fault.remedy}.",
        )
        for fault in verdict.agreeing
    ]
    title = "Cause: the block agrees with" + (", together" if len(items) > 1 else "")
    return join(tag("h3", title), tag("ul", *items))


def _render_worst(verdict: Judgement) -> Markup | None:
    finding = verdict.worst
    if finding is None or finding.comparison is None:
        return None
    c, layout = finding.comparison, " (channels last)" if finding.quantity in ("y", "dx") else ""
    where = f"[{', '.join(map(str, c.where))}]{layout}" if c.where else ", of another shape"
    caption = f"{finding.quantity}{where} of '{finding.trial}', {finding.rank}-D"
    numbers = {
        "got": f"{c.got:.9g}",
        "want": f"{c.want:.9g}",
        "bound": f"{c.bound:.2g}",
        "ratio": format_number(c.ratio),
    }
    table = tag(
        "table",
        tag("caption", caption),
        tag("tr", *(tag("th", name, scope="col") for name in numbers)),
        tag("tr", *(tag("td", number) for number in numbers.values())),
    )
    title = "Worst element" if verdict.failures else "Element nearest to its bound"
    again = join(tag("p", "These lines make its input again:"), _render_code(verdict)) if verdict.failures else None
    return join(tag("h3", title), table if c.where else tag("p", caption), again)


def _render_code(verdict: Judgement) -> Markup:
    return tag("pre", tag("code", f"import se_conformance\nfrom se_spec import *\n{verdict.reproduction()}"))


def _render_messages(verdict: Judgement) -> Markup | None:
    errors = [finding for finding in verdict.failures if finding.message]
    lines = [f"'{error.trial}', {error.rank}-D: {error.message}" for error in errors[:MAX_MESSAGES]]
    more = len(errors) - MAX_MESSAGES
    return _render_list("Errors that are no numbers", [*lines, *([f"and {more} more"] if more > 0 else [])])


def _render_trials(verdict: Judgement) -> Markup:
    outcomes = list_outcomes(verdict)
    head = tag("tr", *(tag("th", name, scope="col") for name in ("axes", "trial", "outcome", "")))
    rows = [
        tag(
            "tr",
            tag("td", f"{rank}-D"),
            tag("td", trial),
            tag("td", outcome, class_="failed" if outcome == "FAILED" else None),
            tag("td", reason),
        )
        for rank, trial, outcome, reason in outcomes
    ]
    return tag("details", tag("summary", f"What ran: {len(verdict.ran)} trials"), tag("table", head, *rows))


def _list_not_run(verdict: Judgement) -> list[str]:
    lines = [f"{rank}-D maps" for rank in verdict.not_run]
    gradients = any(finding.quantity.startswith("d") for finding in verdict.findings)
    lines += [] if gradients else ["gradients"]
    lines += [] if any(finding.quantity == "g" for finding in verdict.findings) else ["the gate alone (no excitation)"]
    return lines + [
        f"'{trial}', {rank}-D, after a call that exceeded the time limit" for rank, trial in verdict.unreached
    ]


def _render_list(title: str, lines: list[str]) -> Markup | None:
    if not lines:
        return None
    return join(tag("h3", title), tag("ul", *(tag("li", line) for line in lines)))
