"""Two plots of the worst comparison: got against want, and the difference in units of the bound."""

import math
from collections.abc import Iterable

from ..excerpts import ElementExcerpt
from .markup import Markup, format_number, tag

SIDE_PIXELS, LEFT, BOTTOM, MARGIN = 250, 62, 42, 12
DECADES = 8
"""Differences of more bounds than 10 to that power are drawn at the edge."""
OVERSHOOT = 1.0
"""Values that are farther outside the range of those wanted than this part of it are drawn at the edge."""


def draw_elements(excerpt: ElementExcerpt) -> Markup:
    """Draw the excerpt twice: got against want, with the bound as a band, and (got - want) / bound.

    Args:
        excerpt: the elements; those that are not finite are counted in the caption and drawn at the edge.

    Returns:
        A figure with two SVG plots and a caption.
    """
    count, title = len(excerpt.got), f"{excerpt.quantity} of '{excerpt.trial}', {excerpt.rank}-D"
    pairs = [pair for pair in zip(excerpt.got, excerpt.want, excerpt.bound, strict=True) if math.isfinite(pair[1])]
    strange = sum(not math.isfinite(got) for got in excerpt.got)
    caption = f"{title}: {excerpt.outside:,} of {excerpt.total:,} elements are outside their bound."
    if count < excerpt.total:
        caption += f" {count} elements are drawn, the worst among them."
    if strange:
        caption += f" {strange} of those drawn are NaN or infinite, and stand at the edge."
    if not pairs:
        return tag("figure", tag("figcaption", caption))
    largest = max(bound for *_, bound in pairs)
    caption += f" The largest bound is {format_number(largest)}."
    caption += " Dots are within their bounds, crosses outside."
    plots = tag("div", _draw_values(pairs, caption), _draw_ratios(pairs, caption), class_="plots")
    return tag("figure", plots, tag("figcaption", caption))


Pair = tuple[float, float, float]
"""got, want and bound of one element."""


def _draw_values(pairs: list[Pair], caption: str) -> Markup:
    low, high = _range([want for _, want, _ in pairs])
    reach = OVERSHOOT * (high - low)
    values = [got for got, _, _ in pairs if low - reach <= got <= high + reach]
    bottom, top = _range([low, high, *values])
    across, up = _Scale(low, high, SIDE_PIXELS), _Scale(bottom, top, SIDE_PIXELS)
    band = "".join(
        f"M{LEFT + across(want):.1f} {_down(up(want - bound)):.1f}V{_down(up(want + bound)):.1f}"
        for _, want, bound in pairs
    )
    line = f"M{LEFT} {_down(up(low)):.1f}L{LEFT + SIDE_PIXELS} {_down(up(high)):.1f}"
    marks = _draw_marks((across(want), up(got), _is_outside(got, want, bound)) for got, want, bound in pairs)
    ticks = [(up(value), format_number(value)) for value in (bottom, (bottom + top) / 2, top)]
    return _draw_frame(
        [tag("path", class_="bars", d=band), tag("path", class_="line", d=line), *marks],
        (low, high),
        ticks,
        "got",
        f"Plot of got against want, with the bound as a band. {caption}",
    )


def _draw_ratios(pairs: list[Pair], caption: str) -> Markup:
    low, high = _range([want for _, want, _ in pairs])
    ratios = [_symmetric_log(_ratio(*pair)) for pair in pairs]
    reach = max(2.0, math.ceil(max(map(abs, ratios))))
    across, up = _Scale(low, high, SIDE_PIXELS), _Scale(-reach, reach, SIDE_PIXELS)
    band = tag(
        "rect", class_="band", x=LEFT, y=f"{_down(up(1.0)):.1f}", width=SIDE_PIXELS, height=f"{up(1.0) - up(-1.0):.1f}"
    )
    marks = _draw_marks(
        (across(want), up(ratio), _is_outside(got, want, bound))
        for ratio, (got, want, bound) in zip(ratios, pairs, strict=True)
    )
    powers = sorted({1, (int(reach) + 1) // 2, int(reach)})
    ticks = [
        (up(sign * power), f"{'-' if sign < 0 else ''}{format_number(10.0 ** (power - 1))}")
        for sign in (1, -1)
        for power in powers
    ]
    return _draw_frame(
        [band, *marks],
        (low, high),
        [(up(0.0), "0"), *ticks],
        "(got − want) / bound",
        f"Plot of the difference in units of the bound, with the bound as a band from −1 to 1. {caption}",
    )


def _draw_frame(
    drawn: list[Markup], across: tuple[float, float], ticks: list[tuple[float, str]], name: str, label: str
) -> Markup:
    """Put axes, numbers and names around what is drawn."""
    right, base = LEFT + SIDE_PIXELS, MARGIN + SIDE_PIXELS
    texts = [tag("text", text, class_="small end", x=LEFT - 6, y=f"{_down(height):.1f}") for height, text in ticks]
    texts += [
        tag("text", format_number(across[0]), class_="small start", x=LEFT, y=base + 14),
        tag("text", format_number(across[1]), class_="small end", x=right, y=base + 14),
        tag("text", "want", class_="small", x=LEFT + SIDE_PIXELS / 2, y=base + 30),
        tag("text", name, class_="small", transform=f"translate(9 {MARGIN + SIDE_PIXELS / 2:g}) rotate(-90)"),
    ]
    lines = "".join(f"M{LEFT - 3} {_down(height):.1f}h3" for height, _ in ticks)
    axes = tag("path", class_="axis", d=f"M{LEFT} {MARGIN}V{base}H{right}{lines}")
    size = f"0 0 {right + MARGIN} {base + BOTTOM}"
    return tag("svg", axes, *drawn, *texts, viewBox=size, width=right + MARGIN, role="img", aria_label=label)


def _draw_marks(points: Iterable[tuple[float, float, bool]]) -> list[Markup]:
    """Draw a dot for each element within its bound, and a cross for each outside: (across, up, outside) in pixels."""
    dots: list[str] = []
    crosses: list[str] = []
    for across, up, is_outside in points:
        x, y = f"{LEFT + across:.1f}", f"{_down(up):.1f}"
        (crosses if is_outside else dots).append(f"M{x} {y}m-3-3l6 6m0-6l-6 6" if is_outside else f"M{x} {y}h0")
    return [
        tag("path", class_=name, d="".join(drawn)) for name, drawn in (("dots", dots), ("crosses", crosses)) if drawn
    ]


def _is_outside(got: float, want: float, bound: float) -> bool:
    return not abs(got - want) <= bound


def _ratio(got: float, want: float, bound: float) -> float:
    if got == want:
        return 0.0
    return (got - want) / bound if bound > 0 else math.copysign(math.inf, got - want)


def _symmetric_log(ratio: float) -> float:
    """Map -1 to 1 to itself and a power of ten to 1 more than its exponent; NaN is drawn with the largest."""
    if math.isnan(ratio):
        return DECADES + 1.0
    size = abs(ratio) if abs(ratio) <= 1 else 1 + math.log10(min(abs(ratio), 10.0**DECADES))
    return math.copysign(size, ratio)


def _range(values: list[float]) -> tuple[float, float]:
    """Return the smallest and the largest value, moved apart where they are equal."""
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0))


class _Scale:
    """Maps an interval to pixels from 0; what lies outside, or is NaN, is drawn at the edge."""

    def __init__(self, low: float, high: float, pixels: float) -> None:
        self.low, self.high, self.pixels = low, high, pixels

    def __call__(self, value: float) -> float:
        inside = self.high if math.isnan(value) else min(max(value, self.low), self.high)
        return (inside - self.low) / (self.high - self.low) * self.pixels


def _down(up: float) -> float:
    """Turn a height above the axis into SVG's y."""
    return MARGIN + SIDE_PIXELS - up
