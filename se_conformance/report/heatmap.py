"""A heat map of the gate's errors in units of their bounds, a row for each sample and a column for each channel."""

import bisect

from ..excerpts import GateExcerpt
from .markup import Markup, format_number, tag

CELL_PIXELS, LEFT, TOP = 14, 62, 22
EDGES = (0.5, 1.0, 10.0, 1e3)
LABELS = ("up to ½", "up to 1", "up to 10", "up to 1000", "beyond")
"""Steps of the colours; cells beyond 1 are full squares, others are small ones."""
FIRST_OUTSIDE = 2
LEGEND_PIXELS = 92


def draw_gate(excerpt: GateExcerpt) -> Markup:
    """Draw the heat map of one trial.

    Args:
        excerpt: the errors; an unknown one is drawn as nothing.

    Returns:
        A figure with an SVG drawing, its legend and a caption.
    """
    rows, columns = len(excerpt.samples), len(excerpt.channels)
    base = TOP + rows * CELL_PIXELS
    right = LEFT + max(columns * CELL_PIXELS, len(LABELS) * LEGEND_PIXELS)
    caption = describe_gate(excerpt)
    parts = [*_draw_cells(excerpt), *_draw_legend(base + 44)]
    frame = f"M{LEFT - 2} {TOP - 2}V{base + 2}H{LEFT + columns * CELL_PIXELS + 2}V{TOP - 2}Z"
    parts.append(tag("path", class_="axis", d=frame))
    for number, sample in enumerate(excerpt.samples):
        y = TOP + (number + 0.5) * CELL_PIXELS
        parts.append(tag("text", sample, class_="small end", x=LEFT - 6, y=f"{y:g}"))
    for number in sorted({0, columns - 1}):
        x = LEFT + (number + 0.5) * CELL_PIXELS
        parts.append(tag("text", excerpt.channels[number], class_="small", x=f"{x:g}", y=base + 14))
    parts.append(tag("text", "channel", class_="small start", x=LEFT + 2 * CELL_PIXELS, y=base + 14))
    parts.append(tag("text", "sample", class_="small start", x=2, y=12))
    drawing = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {right + 4} {base + 66}",
        width=right + 4,
        role="img",
        aria_label=f"Heat map of the gate's error in units of its bound. {caption}",
    )
    return tag("figure", tag("div", drawing, class_="wide", tabindex=0), tag("figcaption", caption))


def describe_gate(excerpt: GateExcerpt) -> str:
    """Say in words what the heat map shows: the trial, the source, how many cells are outside, and the worst."""
    known = [
        (ratio, sample, channel)
        for sample, row in zip(excerpt.samples, excerpt.ratios, strict=True)
        for channel, ratio in zip(excerpt.channels, row, strict=True)
        if ratio is not None
    ]
    outside, (worst, sample, channel) = sum(ratio > 1 for ratio, *_ in known), max(known)
    text = (
        f"The gate, read from {excerpt.source}, in '{excerpt.trial}', {excerpt.rank}-D: {outside:,} of {len(known):,} "
    )
    text += f"values are outside their bound; the worst is {format_number(worst)} bounds off, sample {sample}, "
    text += f"channel {channel}."
    if len(excerpt.samples) * len(excerpt.channels) < excerpt.shape[0] * excerpt.shape[1]:
        text += f" Of ({excerpt.shape[0]}, {excerpt.shape[1]}) the worst samples and channels are drawn."
    return text


def _draw_cells(excerpt: GateExcerpt) -> list[Markup]:
    drawn: dict[int, list[str]] = {}
    for number, row in enumerate(excerpt.ratios):
        for place, ratio in enumerate(row):
            if ratio is not None:
                step = bisect.bisect_left(EDGES, ratio)
                drawn.setdefault(step, []).append(_cell(LEFT + place * CELL_PIXELS, TOP + number * CELL_PIXELS, step))
    return [tag("path", class_=f"heat{step}", d="".join(cells)) for step, cells in sorted(drawn.items())]


def _draw_legend(y: int) -> list[Markup]:
    parts = []
    for step, label in enumerate(LABELS):
        x = LEFT + step * LEGEND_PIXELS
        parts.append(tag("path", class_=f"heat{step}", d=_cell(x, y - CELL_PIXELS // 2, step)))
        parts.append(tag("text", label, class_="small start", x=x + CELL_PIXELS + 4, y=y))
    return parts


def _cell(x: int, y: int, step: int) -> str:
    inset = 1 if step >= FIRST_OUTSIDE else 4
    side = CELL_PIXELS - 2 * inset
    return f"M{x + inset} {y + inset}h{side}v{side}h-{side}z"
