"""What a notebook shows of specs, networks, files and verdicts: short, escaped, without colours or scripts."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import se_numpy
import se_port
from se_conformance import check
from se_spec import HardSigmoid, SESpec, network

FORBIDDEN = ("<script", "color:", "background", "http", "<style", "class=")
HOSTILE = "</td><script>alert(1)</script>\x1b[2J"


class Balance(HTMLParser):
    """Checks that every element is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("shown", "facts"),
    [
        (SESpec(64, gate=HardSigmoid(0.2, 0.5, 0, 1)), ("SESpec(64, gate=HardSigmoid", "512: reduce.weight (4, 64)")),
        (SESpec(64, single_projection=True), ("single_projection", "expand.weight (64, 64)")),
        (network("se_resnet50"), ("28,088,024", "added by SE", "stage4")),
        (network("se_resnet50").replace(se=None), ("none", "25,557,032")),
        (network("se_bn_inception"), ("inception", "stage")),
    ],
    ids=["gate", "single projection", "network", "network without SE", "inception"],
)
def test_specs_show_their_facts(shown: object, facts: tuple[str, ...]) -> None:
    html = shown._repr_html_()  # type: ignore[attr-defined]
    Balance(html)
    assert [fact for fact in facts if fact not in html] == []
    assert [word for word in FORBIDDEN if word in html] == []
    assert len(html) < 10_000


def test_inspection_shows_facts_and_blocks_and_escapes_names(tmp_path: Path) -> None:
    net = network("se_resnet20", num_classes=10)
    se_port.save(tmp_path / "net.pth", se_numpy.initialize(net, seed=0), net, "moskomule")
    html = se_port.inspect(tmp_path / "net.pth")._repr_html_()
    Balance(html)
    for fact in ("moskomule, every name and shape", "se_resnet20: 10 classes", "layer3.2.se", "64 channels, hidden 4"):
        assert fact in html
    theirs = {f"{HOSTILE}.fc.0.weight": np.ones((4, 64)), f"{HOSTILE}.fc.2.weight": np.ones((64, 4))}
    hostile = se_port.inspect(theirs)._repr_html_()
    Balance(hostile)
    assert "&lt;script&gt;" in hostile
    assert [word for word in (*FORBIDDEN, "\x1b") if word in hostile] == []


def test_found_block_and_verdict_have_short_reprs() -> None:
    theirs = {"se.fc1.weight": np.ones((4, 64, 1, 1)), "se.fc2.weight": np.ones((64, 4, 1, 1))}
    (found,) = se_port.find_blocks(theirs).values()
    assert repr(found).startswith("Found(SESpec(64, hidden=4), unknown=('activation', 'gate'), layouts=(")
    assert len(repr(found)) < 200
    spec = SESpec(8, hidden=2)

    def right(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        return se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last").astype(x.dtype)

    assert repr(check(right, spec, seed=0)) == "Verdict(passed, SESpec(8, hidden=2) in float32, seed 0)"
