"""Every known mistake is detected and named wherever it is detectable, in the catalogue's form and in foreign code."""

import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from evidence.fault_detection import SPECS, is_undetected, iterate_detectable_faults, judge_fault
from se_conformance import check
from se_conformance.cases import DTYPES
from se_conformance.faults import CATALOGUE, EQUIVALENT, inject
from se_conformance.localization import ORDER
from se_parity.implementations import IMPLEMENTATIONS, Implementation, Worker
from se_spec import SESpec

from ..conftest import COMPILED_QUICKLY
from .wrong_blocks import WRONG

LOUD = SESpec(16, hidden=4, bias=True)


def test_every_fault_has_a_sentence_a_source_and_a_remedy() -> None:
    assert len(CATALOGUE) >= 80
    for name, fault in CATALOGUE.items():
        assert name == fault.name
        assert fault.sentence, name
        assert fault.source, name
        assert fault.remedy, name
        assert fault.stage in ORDER, name
        assert fault.dtypes, name
        assert set(fault.dtypes) <= set(DTYPES), name
        assert any(fault.applies(spec) for spec in SPECS), f"{name} is detectable on none of the blocks"
    assert not EQUIVALENT.keys() & CATALOGUE.keys()
    assert all(EQUIVALENT.values())


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["a quarter", "all"])
def test_block_without_a_fault_passes(step: int) -> None:
    for number, dtype in enumerate(DTYPES):
        for spec in SPECS[number % step :: step]:
            block = inject((), spec, dtype)
            verdict = check(block.function(), spec, vjp=block.vjp, dtype=dtype, intermediates="float32")
            assert verdict.passed, str(verdict)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_detectable_fault_is_detected(dtype: str) -> None:
    pairs = list(iterate_detectable_faults(SPECS, dtype))
    assert not [(fault.name, str(spec)) for spec, fault in pairs if is_undetected(fault, spec, dtype)]
    assert {fault.name for _, fault in pairs} == {fault.name for fault in CATALOGUE.values() if dtype in fault.dtypes}


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)], ids=["a twelfth", "all"])
def test_every_fault_is_named(step: int) -> None:
    """Injects each fault into one block; ``make faults`` uses all blocks and dtypes."""
    places: Counter[int] = Counter()
    wrong = []
    for fault in list(CATALOGUE.values())[::step]:
        spec = next(spec for spec in SPECS if fault.applies(spec))
        dtype = "float32" if "float32" in fault.dtypes else fault.dtypes[0]
        causes = judge_fault(fault, spec, dtype).causes
        place = causes.index(fault.name) + 1 if fault.name in causes else 0
        places[place] += 1
        if place not in (1, 2, 3):
            wrong.append((fault.name, str(spec), causes))
    assert not wrong
    assert places[1] >= 0.95 * places.total()


PAIRS = [
    ("hard_sigmoid slope 0.2 (Keras 2) instead of 1/6", "biases ignored", SPECS[1]),
    ("biases ignored", "gain missing", SESpec(16, hidden=4, bias=True, gain=2.0)),
    ("activation missing", "sum instead of mean", LOUD),
]


@pytest.mark.parametrize(("first", "second", "spec"), PAIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_two_faults_at_once_are_both_named(first: str, second: str, spec: SESpec) -> None:
    block = inject((CATALOGUE[first], CATALOGUE[second]), spec, "float32")
    verdict = check(block.function(), spec, intermediates="float32")
    assert set(verdict.causes[:2]) == {first, second}
    assert verdict.diagnosis is not None
    assert verdict.diagnosis.together
    assert f"{verdict.causes[0]} and {verdict.causes[1]}, together" in str(verdict)


def test_equivalent_blocks_pass() -> None:
    """Hidden units may have another order, if both weights have it."""
    spec = LOUD
    block = inject((), spec, "float32")
    order = np.arange(spec.hidden)[::-1]

    def permuted(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        moved = {
            "reduce.weight": parameters["reduce.weight"][order],
            "reduce.bias": parameters["reduce.bias"][order],
            "expand.weight": parameters["expand.weight"][:, order],
            "expand.bias": parameters["expand.bias"],
        }
        return block.function()(x, moved)

    assert check(permuted, spec).passed


def test_wrong_blocks_are_at_least_forty_and_half_of_them_use_frameworks() -> None:
    assert len(WRONG) >= 40
    assert 2 * sum(one.framework != "numpy" for one in WRONG) >= len(WRONG)
    assert {one.cause for one in WRONG} <= set(CATALOGUE)
    text = Path(__file__).with_name("wrong_blocks.py").read_text()
    assert "import se_conformance" not in text
    assert "from se_conformance" not in text
    assert "se_numpy" not in text


WITHOUT_ONEDNN = {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "0"}
"""The judge cannot look into a plain function, so that oneDNN's mistakes on an empty batch would count."""
IMPLEMENTATION_OF = {
    "numpy": Implementation("numpy", "numpy", "", ()),
    "torch": IMPLEMENTATIONS["torch"],
    "keras": Implementation("keras", "keras", "keras", ("keras", "tensorflow"), {}, WITHOUT_ONEDNN),
    "jax": Implementation("jax", "flax", "flax", ("flax",), {}, COMPILED_QUICKLY),
}
"""The implementation in whose process the blocks of a framework are judged."""


class Judgement(NamedTuple):
    """The judge's verdict on an independent block."""

    cause: str
    spec: str
    passed: bool
    causes: tuple[str, ...]


def judge_all(framework: str, step: int) -> list[Judgement]:
    """Judges every ``step``-th block of a framework in this process."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the blocks
        for one in [one for one in WRONG if one.framework == framework][::step]:
            verdict = check(one.function, one.spec, vjp=one.vjp, dtype=one.dtype)
            found.append(Judgement(one.cause, str(one.spec), verdict.passed, verdict.causes))
    return found


@pytest.fixture(scope="module", params=[4, pytest.param(1, marks=pytest.mark.slow)], ids=["a quarter", "all"])
def answers(request: pytest.FixtureRequest) -> Iterator[dict[str, "Future[list[Judgement]]"]]:
    """Judges the blocks of the chosen frameworks at once, each in a process of its own."""
    asked = [item.callspec.params for item in request.session.items if getattr(item, "originalname", "") == FOUND]
    chosen = {parameters["framework"] for parameters in asked if parameters["answers"] == request.param}
    workers = {name: Worker(IMPLEMENTATION_OF[name]) for name in chosen}
    yield {name: worker.submit_call(judge_all, name, request.param) for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()


FOUND = "test_mistakes_of_independent_blocks_are_found_and_named"


@pytest.mark.parametrize(
    "framework",
    [
        "numpy",
        pytest.param("torch", marks=pytest.mark.framework("torch")),
        pytest.param("keras", marks=pytest.mark.framework("keras")),
        pytest.param("jax", marks=pytest.mark.framework("flax")),
    ],
)
def test_mistakes_of_independent_blocks_are_found_and_named(framework: str, answers: dict) -> None:
    found = answers[framework].result()
    assert not [one for one in found if one.passed]
    assert not [one for one in found if one.cause not in one.causes[:3]]
    others = [one for one in found if one.causes[:1] != (one.cause,)]
    assert len(others) <= max(1, 0.05 * len(found)), others
