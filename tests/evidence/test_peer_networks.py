"""docs/PORT_PEERS.md: every system was searched without a fault; and the comparison detects faults."""

from pathlib import Path

import numpy as np
import pytest

import se_numpy
from evidence.peer_networks.network import Block, Evaluation, Network, compare_blocks, draw_feature_map
from evidence.peer_networks.systems import SYSTEMS
from se_port.layouts.base import PEER
from se_port.layouts.blocks import BLOCK_LAYOUTS
from se_spec import SESpec

from ..se_port.test_blocks import ALONE

TEXT = (Path(__file__).parents[2] / "docs" / "PORT_PEERS.md").read_text()
OURS = ("canonical", "se_keras", "se_flax")


def table(first: str) -> list[list[str]]:
    lines = TEXT.split(f"| {first} | ")[1].split("\n\n")[0].splitlines()[2:]
    return [line.strip("| ").split(" | ") for line in lines]


def test_page_has_every_system_without_a_fault():
    rows = table("system")
    assert [row[0].rpartition(" ")[0] for row in rows] == [system.name for system in SYSTEMS]
    for system, (*_, networks, with_se, blocks, missed, extra, difference, failed) in zip(SYSTEMS, rows, strict=True):
        assert int(networks) >= int(with_se) > 0 and int(blocks) >= int(with_se)
        assert (missed, extra) == ("0", "0")
        assert 0.0 < float(difference) <= system.limit
        assert int(failed) < 0.1 * int(networks)
    assert sum(int(row[4]) for row in rows) == sum(int(row[3]) for row in table("block"))
    assert "**" not in TEXT


@pytest.mark.parametrize(
    "name", [name for name, row in BLOCK_LAYOUTS.items() if row.verified == PEER and name.partition(".")[0] not in OURS]
)
def test_layout_that_a_peer_ran_has_blocks_on_the_page_or_in_the_tests(name):
    assert f"`{name}`" in TEXT or name in ALONE
    package, version = BLOCK_LAYOUTS[name].source.replace(",", " ").split()[:2]
    assert f"| {package.lower()} {version} | " in TEXT


# The comparison

SPEC = SESpec(12, hidden=3, activation="silu")
VALUES = se_numpy.initialize(SPEC, seed=0)
TENSORS = {"net.se.fc1.weight": VALUES["reduce.weight"], "net.se.fc2.weight": VALUES["expand.weight"]}


def network(names=tuple(TENSORS), activation: str = "silu", **more: tuple[int, ...]) -> Network:
    def evaluate(seed: int) -> Evaluation:
        x = draw_feature_map(12, seed)
        return Evaluation(TENSORS, x, se_numpy.excitation(x, SPEC, VALUES, data_format="channels_last"))

    block = Block("net.se", "SE", frozenset(names), 12, 3, False, activation, "sigmoid", False, evaluate)
    return Network({name: value.shape for name, value in TENSORS.items()} | more, [block])


def test_block_is_found():
    (found,), extra = compare_blocks(network())
    assert found.layouts == ("pytorchcv.Linear",) and found.difference < 1e-14 and extra == ()


def test_missed_blocks_and_extra_paths_are_listed():
    (found,), extra = compare_blocks(network(names=("other",)))
    assert (found.layouts, found.difference, extra) == ((), float("inf"), ("net.se",))
    more = {"head.se.fc1.weight": (2, 8), "head.se.fc2.weight": (8, 2)}
    assert compare_blocks(network(**more)).extra == ("head.se",)


def test_wrong_gate_is_detected():
    (found,), _ = compare_blocks(network(activation="relu"))
    assert np.isfinite(found.difference) and found.difference > 1e-3
