"""A drawing of the block: its stages, and the one at which the judged block departs from the spec."""

from se_spec import SESpec

from .markup import Markup, join, tag

WIDTH, HEIGHT, GAP = 100, 46, 26
TOP = 52
ELSEWHERE = {
    "call": "The call itself fails, before any stage can be judged.",
    "gradient": "The map y is right; gradients depart, so the mistake is in the backward pass.",
    "unknown": "The stage at which the block departs is not known.",
}
"""Stages that are no box of the drawing."""


def draw_stages(spec: SESpec, stage: str) -> Markup:
    """Draw the stages of a block in order, and mark one.

    Args:
        spec: the block; one without a bottleneck has neither reduce nor activation.
        stage: the stage to mark, a key of ``ELSEWHERE``, or an empty text for none.

    Returns:
        A figure with an SVG drawing and a caption that says the same.
    """
    boxes = list_stages(spec)
    names = [name for name, _ in boxes]
    step, caption = WIDTH + GAP, describe_departure(stage)
    parts = [_draw_text(14, TOP + HEIGHT / 2, "x", "name")]
    for number, (name, detail) in enumerate(boxes):
        left = 30 + GAP + number * step
        parts.append(_draw_arrow(left - GAP, left))
        parts.append(_draw_box(left, name, detail, is_marked=name == stage))
    end = 30 + len(boxes) * step
    middle = end - WIDTH / 2
    parts += [_draw_arrow(end, end + GAP), _draw_text(end + GAP + 14, TOP + HEIGHT / 2, "y", "name")]
    parts.append(tag("path", class_="flow", d=f"M14 {TOP + 8}V14H{middle:g}V{TOP - 2}"))
    parts.append(tag("path", class_="head", d=f"M{middle - 4:g} {TOP - 9}h8l-4 8z"))
    size = end + GAP + 28
    drawing = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {size} {TOP + HEIGHT + 26}",
        width=size,
        role="img",
        aria_label=f"Stages of the block: {', '.join(names)}. {caption}",
    )
    return tag("figure", tag("div", drawing, class_="wide", tabindex=0), tag("figcaption", caption))


def describe_departure(stage: str) -> str:
    """Say in a sentence at which stage a block departs."""
    if not stage:
        return "No stage departs from the spec."
    return ELSEWHERE.get(stage, f"The block departs from the spec at: {stage}.")


def list_stages(spec: SESpec) -> list[tuple[str, str]]:
    """List the stages of a block and what each computes.

    Example:
        >>> list_stages(SESpec(64, single_projection=True))
        [('squeeze', 'avg'), ('expand', '64 → 64'), ('gate', 'sigmoid'), ('scale', 'x · g')]
    """
    hidden = [("reduce", f"{spec.channels} → {spec.hidden}"), ("activation", _name(spec.activation))]
    scale = "x · g" if spec.gain == 1 else f"x · {spec.gain:g} g"
    return [
        ("squeeze", spec.squeeze),
        *([] if spec.single_projection else hidden),
        ("expand", f"{spec.channels if spec.single_projection else spec.hidden} → {spec.channels}"),
        ("gate", _name(spec.gate)),
        ("scale", f"{scale} + x" if spec.residual else scale),
    ]


def _name(function: object) -> str:
    return function if isinstance(function, str) else type(function).__name__


def _draw_box(left: float, name: str, detail: str, *, is_marked: bool) -> Markup:
    middle = left + WIDTH / 2
    box = tag("rect", x=f"{left:g}", y=TOP, width=WIDTH, height=HEIGHT, rx=6)
    texts = [_draw_text(middle, TOP + 17, name, "name"), _draw_text(middle, TOP + 34, detail, "small")]
    mark = _draw_text(middle, TOP + HEIGHT + 16, "▲ departs here", "name") if is_marked else None
    return tag("g", box, *texts, mark, class_="stage marked" if is_marked else "stage")


def _draw_text(x: float, y: float, text: str, kind: str) -> Markup:
    return tag("text", text, class_=kind, x=f"{x:g}", y=f"{y:g}")


def _draw_arrow(start: float, end: float) -> Markup:
    y = TOP + HEIGHT / 2
    line = tag("path", class_="flow", d=f"M{start:g} {y:g}H{end - 3:g}")
    return join(line, tag("path", class_="head", d=f"M{end - 9:g} {y - 4:g}v8l8 -4z"))
