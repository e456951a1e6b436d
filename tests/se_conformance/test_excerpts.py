"""The excerpts that a verdict keeps for drawings: small, of the worst comparison, and with the worst elements."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import se_numpy
from se_conformance import Verdict, check, trial
from se_conformance.excerpts import MAX_CHANNELS, MAX_ELEMENTS, MAX_SAMPLES
from se_spec import SESpec
from tests.se_conformance.report_blocks import BLOCKS, SPEC, excitation, judge

WIDE = SESpec(256, hidden=4)


def wide(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    """Right except that channel 200 is not scaled; large maps have thousands of right elements."""
    y = se_numpy.squeeze_excitation(x, WIDE, parameters, data_format="channels_last").astype(x.dtype)
    y[..., 200] = x[..., 200]
    return y


@pytest.fixture(scope="module")
def wide_verdict() -> Verdict:
    return check(wide, WIDE)


def test_excerpt_is_of_the_worst_comparison_and_holds_its_worst_element() -> None:
    verdict = judge("hard")
    worst, excerpt = verdict.worst, verdict.worst_elements
    assert worst is not None and worst.comparison is not None and excerpt is not None
    assert worst is verdict.failures[0]
    assert (excerpt.rank, excerpt.trial, excerpt.quantity) == (worst.rank, worst.trial, worst.quantity)
    triples = list(zip(excerpt.got, excerpt.want, excerpt.bound, strict=True))
    assert (worst.comparison.got, worst.comparison.want, worst.comparison.bound) in triples
    assert sum(abs(got - want) > bound for got, want, bound in triples) == excerpt.outside > 0


def test_passed_verdict_keeps_the_comparison_nearest_to_its_bound() -> None:
    verdict = judge("right with excitation")
    assert verdict.worst is not None and verdict.worst_elements is not None
    assert verdict.worst.ratio == verdict.worst_ratio
    assert verdict.worst_elements.outside == 0


def test_large_array_is_thinned_and_the_worst_elements_stay(wide_verdict: Verdict) -> None:
    excerpt, worst = wide_verdict.worst_elements, wide_verdict.worst
    assert excerpt is not None and worst is not None and worst.comparison is not None
    assert MAX_ELEMENTS // 2 < len(excerpt.got) <= MAX_ELEMENTS < excerpt.total
    assert worst.comparison.got in excerpt.got
    kept = sum(
        abs(got - want) > bound for got, want, bound in zip(excerpt.got, excerpt.want, excerpt.bound, strict=True)
    )
    assert 0 < kept <= excerpt.outside


def test_gate_excerpt_has_the_worst_channels_and_is_small(wide_verdict: Verdict) -> None:
    gate = wide_verdict.worst_gate
    assert gate is not None
    assert gate.source == "y / x"
    assert (len(gate.samples), len(gate.channels)) <= (MAX_SAMPLES, MAX_CHANNELS)
    assert gate.shape[1] == 256
    assert list(gate.channels) == sorted(gate.channels)
    for row in gate.ratios:
        outside = [
            channel for channel, ratio in zip(gate.channels, row, strict=True) if ratio is not None and ratio > 1
        ]
        assert outside == [200]
    assert len(pickle.dumps((wide_verdict.worst_elements, gate))) < 40_000


def test_gate_of_excitation_is_that_which_the_block_returned() -> None:
    gate = judge("wrong excitation").worst_gate
    assert gate is not None
    assert gate.source == "excitation"
    x, _, parameters = trial(gate.trial, SPEC).inputs
    g = excitation(x, parameters)
    is_wrong = ~np.isclose(g[::-1], g, rtol=1e-5, atol=0.0, equal_nan=True)
    assert [[ratio is not None and ratio > 1 for ratio in row] for row in gate.ratios] == is_wrong.tolist()


def test_gate_from_y_is_known_where_x_is_not_near_0() -> None:
    gate = judge("one channel").worst_gate
    assert gate is not None
    assert gate.source == "y / x"
    wrong = {
        channel for row in gate.ratios for channel, ratio in zip(gate.channels, row, strict=True) if (ratio or 0) > 1
    }
    assert wrong == {5}


def test_gate_is_not_known_from_y_if_the_gain_is_0() -> None:
    verdict = check(lambda x, parameters: 0 * x, SPEC.replace(gain=0.0))
    assert verdict.worst_elements is not None
    assert verdict.worst_gate is None


@pytest.mark.parametrize("name", ["raises", "another shape", "right"])
def test_block_has_an_excerpt_if_it_returned_numbers(name: str) -> None:
    verdict = judge(name)
    assert (verdict.worst_elements is None) == (verdict.worst_gate is None) == (verdict.worst is None)


@pytest.mark.parametrize("name", BLOCKS)
def test_excerpts_survive_pickling_and_do_not_lengthen_the_representation(name: str) -> None:
    verdict = judge(name)
    again = pickle.loads(pickle.dumps(verdict))
    for name in ("worst_elements", "worst_gate"):
        assert repr(getattr(again, name)) == repr(getattr(verdict, name))  # NaN is not equal to itself
    assert "worst_elements" not in repr(verdict)
    assert again._repr_html_() == verdict._repr_html_()


def test_excerpt_of_a_known_deviation_is_not_shown(tmp_path: Path) -> None:
    function, _ = BLOCKS["drops NaN"]
    known = tmp_path / "known.txt"
    known.write_text("*NaN*  # ours drops NaN\n")
    verdict = check(function, SPEC, deviations=known)
    assert verdict.worst_elements is not None
    assert "NaN" not in verdict.worst_elements.trial
    assert verdict.worst_elements.outside == 0
