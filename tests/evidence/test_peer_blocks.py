"""docs/PEERS.md holds the judge's verdicts on the blocks of other libraries."""

from pathlib import Path

import pytest

from evidence.peer_blocks import PEERS, judge_named
from se_conformance.cases import DTYPES
from se_parity.implementations import IMPLEMENTATIONS

TEXT = (Path(__file__).parents[2] / "docs" / "PEERS.md").read_text()
ROWS = {line.split(" | ")[0][2:]: line[:-2].split(" | ")[3:] for line in TEXT.splitlines() if line.startswith("| ")}

SELECTED = [
    pytest.param(peer, dtype, id=f"{peer.title} {dtype}", marks=pytest.mark.framework(family, "peers"))
    for peer in PEERS
    for family in [IMPLEMENTATIONS[peer.target].family]
    if peer.modules[0] in ("timm", "torchvision", "keras") and not IMPLEMENTATIONS[peer.target].missing
    if peer.target != "keras jax"  # compiles each trial for a minute; `make peers` judges this backend
    for dtype in (("float32", "bfloat16") if family == "torch" else ("float32",))
]


def test_page_has_a_row_for_each_peer_and_a_finding_for_each_failure():
    assert list(ROWS) == ["block", *(peer.title for peer in PEERS)]
    for peer in PEERS:
        fails = any(cell.startswith("FAILS") for cell in ROWS[peer.title])
        assert fails == bool(peer.finding) == (f"**{peer.title}.** {peer.finding}" in TEXT), peer.title


@pytest.fixture(scope="module")
def rows(workers, request):
    """Submit every selected peer at once, so that the processes run in parallel."""
    selected = [item.callspec.params for item in request.session.items if item.originalname == SAYS]
    pairs = [(parameters["peer"], parameters["dtype"]) for parameters in selected]
    return {
        (peer.title, dtype): workers(peer.target).submit_call(judge_named, peer.name, peer.target, dtype)
        for peer, dtype in pairs
    }


SAYS = "test_verdict_on_a_peer_matches_the_page"


@pytest.mark.parametrize(("peer", "dtype"), SELECTED)
def test_verdict_on_a_peer_matches_the_page(rows, peer, dtype):
    row = rows[peer.title, dtype].result()
    assert ROWS[peer.title][DTYPES.index(dtype)] == row.cell, row
    assert row.passed == (0.0 < row.ratio <= 1.0)
