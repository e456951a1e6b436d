"""The count of known mistakes that the judge finds; ``tests/se_conformance/test_faults`` requires all of them."""

import pytest

from evidence import fault_detection
from se_conformance.faults import CATALOGUE


def test_faults_are_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: CATALOGUE[name] for name in ("x modified", "gate is tanh", "squeeze is the maximum")}
    monkeypatch.setattr(fault_detection, "CATALOGUE", some)
    assert fault_detection.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 of 6 found, 6 named first, 6 among the first three"


def test_misnamed_fault_is_printed_and_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = CATALOGUE["gate is tanh"].__class__(**{**vars(CATALOGUE["gate is tanh"]), "name": "a name of no fault"})
    monkeypatch.setattr(fault_detection, "CATALOGUE", {renamed.name: renamed})
    assert fault_detection.main(["--dtype", "float64"]) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("a name of no fault, SESpec(16") and ": named as gate is tanh" in first
    assert last == "2 of 2 found, 0 named first, 0 among the first three"
