"""Blocks whose verdicts differ in what a report shows, and a parser that finds what is wrong with a page."""

import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np

import se_numpy
from se_conformance import Verdict, check
from se_spec import SESpec

SPEC = SESpec(8, hidden=2)
HOSTILE = "</svg><script>alert('a')</script><img src=x onerror=alert(1)>\x00\x1b[2J\u202e\ud800\ufffe&"
"""A text that a page must show and no browser may run."""

Block = Callable[..., Any]


def right(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """The block itself."""
    return se_numpy.squeeze_excitation(x, SPEC, parameters, data_format="channels_last").astype(x.dtype)


def excitation(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Its gate."""
    return se_numpy.excitation(x, SPEC, parameters, data_format="channels_last")


def vjp(x: np.ndarray, dy: np.ndarray, parameters: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A gradient of x that is one percent too large."""
    dx, dparameters = se_numpy.vjp(x, dy, SPEC, parameters, data_format="channels_last")
    return 1.01 * dx.astype(x.dtype), dparameters


def hard(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """A hard sigmoid where a sigmoid is due."""
    spec = SPEC.replace(gate="hard_sigmoid")
    return se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last").astype(x.dtype)


def one_channel(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Right except that channel 5 has a gate of 1."""
    y = right(x, parameters)
    y[..., 5] = x[..., 5]
    return y


def drops_nan(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Right except that NaN is 0."""
    return right(np.where(np.isnan(x), 0, x), parameters)


def drops_nan_in_half(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Right in float32 and float64; in half precision NaN is 0."""
    return (drops_nan if x.dtype.itemsize == 2 else right)(x, parameters)


def raises(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Raises an error whose message is hostile."""
    raise ValueError(HOSTILE)


def nan_everywhere(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Returns NaN alone."""
    return np.full_like(x, np.nan)


BLOCKS: dict[str, tuple[Block, dict[str, Any]]] = {
    "right": (right, {}),
    "right with excitation": (right, {"excitation": excitation}),
    "hard": (hard, {}),
    "one channel": (one_channel, {}),
    "wrong gradient": (right, {"vjp": vjp}),
    "wrong excitation": (right, {"excitation": lambda x, parameters: excitation(x, parameters)[::-1]}),
    "drops NaN": (drops_nan, {}),
    "raises": (raises, {}),
    "NaN everywhere": (nan_everywhere, {}),
    "another shape": (lambda x, parameters: x[:1], {}),
    "half precision": (hard, {"dtype": "float16"}),
}


@cache
def judge(name: str) -> Verdict:
    """Judge one block once; the verdict is shared and must not be changed."""
    function, options = BLOCKS[name]
    return check(function, SPEC, **options)


VOID = {"meta", "path", "rect", "line", "circle"}
LABELLED = {"svg", "section"}
LOADS = {"script", "link", "iframe", "object", "embed", "img", "image", "use", "base", "form", "audio", "video"}


class PageChecker(HTMLParser):
    """Collects what is wrong with a page: tags that do not match, names that are not unique, what loads or runs.

    ``text`` is what a reader sees, and ``tags`` counts the elements.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.tags: dict[str, int] = {}
        self.labels: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        self.errors += [f"<{name}> is not closed" for name in self.open]
        self.errors += [f"id {name!r} is not unique" for name in {*self.ids} if self.ids.count(name) > 1]
        self.errors += [f"no element has the id {name!r}" for name in {*self.targets} - {*self.ids}]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)
        if tag not in VOID:
            self.errors.append(f"<{tag}/> needs an end tag")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> closes another element")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.errors += [f"the style loads {found}" for found in re.findall(r"@import|url\(|https?:", data)]
            return
        self.text += data

    def _see(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if len(values) != len(attrs):
            self.errors.append(f"<{tag}> has an attribute twice")
        if tag in LOADS:
            self.errors.append(f"<{tag}> loads or runs something")
        if tag in LABELLED and not values.get("aria-label"):
            self.errors.append(f"<{tag}> has no label")
        if tag == "svg" and values.get("role") != "img":
            self.errors.append("<svg> has no role")
        if tag == "th" and "scope" not in values:
            self.errors.append("<th> has no scope")
        for name, value in attrs:
            text = value or ""
            if name.startswith("on") or name in ("src", "style", "xlink:href", "srcset"):
                self.errors.append(f"<{tag}> has {name}={text!r}")
            if name == "href" and not text.startswith("#"):
                self.errors.append(f"<{tag}> links to {text!r}")
            if name == "href":
                self.targets.append(text[1:])
            if name == "id":
                self.ids.append(text)
            if name == "aria-label":
                self.labels.append(text)
