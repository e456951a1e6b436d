"""The demo, with fewer steps and implementations than a user has."""

import numpy as np
import pytest

import se_numpy
from se_conformance.files import load_parameters, save_parameters
from se_parity.datasets import load_digits, small_network
from se_parity.implementations import IMPLEMENTATIONS

from ..conftest import OnDemand

demo, pictures, rich = OnDemand("se_parity.demo"), OnDemand("se_parity.plots"), OnDemand("rich.console")

pytestmark = pytest.mark.framework("torch", "parity")


def test_demo_trains_saves_runs_compares_and_draws(tmp_path, monkeypatch, guest_workers) -> None:
    monkeypatch.setattr("se_parity.demo.Worker", guest_workers)
    monkeypatch.setattr("se_parity.demo.IMPLEMENTATIONS", {"torch": IMPLEMENTATIONS["torch"]})
    monkeypatch.setattr("se_parity.demo.MIN_ACCURACY", 0.9)  # after a quarter of the training; who guesses has 0.1
    console = rich.Console(record=True, width=120)
    assert demo.demo("torch", 1, 3, tmp_path, console) == 0
    said = console.export_text()
    for fact in ("120 steps of 32 digits", "numpy (the oracle)", "80,442", "77,754", "one seed cannot say"):
        assert fact in said
    row = next(line for line in said.splitlines() if line.startswith("│ torch "))
    accuracy, others, error = (cell.strip() for cell in row.split("│")[2:5])
    assert float(accuracy.rstrip("%")) >= 90
    assert others == "0"
    assert float(error) < 1e-5
    for picture in ("gates_per_class.png", "channels_per_class.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    saved = load_parameters(tmp_path / "se_resnet8.safetensors")
    logits = se_numpy.senet(load_digits().x_held_out, small_network(), saved, data_format="channels_last")
    assert f"{demo.accuracy(logits, load_digits()):.1%}" == accuracy


def test_demo_has_a_version_and_a_help(capsys) -> None:
    for option, shown in (("--version", "python -m se_parity.demo "), ("--help", "--framework")):
        with pytest.raises(SystemExit, match="0"):
            demo.main([option])
        assert shown in capsys.readouterr().out


def test_low_accuracy_fails_the_demo(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("se_parity.demo.run_everywhere", lambda *arguments: True)
    monkeypatch.setattr("se_parity.demo.compare_without_se", lambda *arguments: None)
    monkeypatch.setattr("se_parity.demo.MIN_ACCURACY", 1.01)
    console = rich.Console(record=True, width=120)
    assert demo.demo("torch", 1, 1, tmp_path, console) == 1
    assert "fewer than 101% of the held-out digits are right" in console.export_text()


def test_saved_weights_are_read_bitwise(tmp_path) -> None:
    parameters = se_numpy.initialize(small_network(), seed=0)
    save_parameters(tmp_path / "new" / "weights.safetensors", parameters)
    back = load_parameters(tmp_path / "new" / "weights.safetensors")
    assert {name: value.tobytes() for name, value in back.items()} == {
        name: value.tobytes() for name, value in parameters.items()
    }


def test_above_average_names_channels_that_a_class_opens() -> None:
    labels = np.repeat(np.arange(3), 4)
    g = 0.5 + 0.1 * np.eye(3)[labels] + np.array([0.1, 0.2, 0.3])
    above = pictures.above_average(g, labels)
    np.testing.assert_allclose(above, 0.1 * (np.eye(3) - 1 / 3), atol=1e-12)


def test_transposed_parameters_are_saved_correctly(tmp_path) -> None:
    given = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.arange(4.0)[::-1], "c": np.float64(3.0).reshape(())}
    save_parameters(tmp_path / "a.safetensors", given)
    saved = load_parameters(tmp_path / "a.safetensors")
    assert {name: value.tolist() for name, value in saved.items()} == {name: v.tolist() for name, v in given.items()}
