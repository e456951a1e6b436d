"""``se-check parity`` can say yes, no and nothing; and draws its picture."""

import importlib
import io
from pathlib import Path

import numpy as np
import pytest

from se_conformance import photographs
from se_conformance.__main__ import main
from se_conformance.targets import TARGETS

pytestmark = pytest.mark.framework("conformance")


@pytest.fixture
def parity():
    return importlib.import_module("se_conformance.parity")


@pytest.fixture
def console():
    return importlib.import_module("rich.console").Console(width=132, record=True, file=io.StringIO())


@pytest.fixture
def _torch_alone(parity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TARGETS", {"torch": TARGETS["torch"]})
    monkeypatch.setattr(parity, "PRESETS", ("paper",))


@pytest.mark.framework("torch")
@pytest.mark.usefixtures("_torch_alone")
def test_the_same_is_0_and_a_picture(parity, console, tmp_path: Path) -> None:
    assert parity.parity(console, tmp_path / "new" / "gates.png") == 0
    text = console.export_text()
    assert "│ torch " in text
    assert "DIFFERS" not in text
    assert (tmp_path / "new" / "gates.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["gates.png"]


@pytest.mark.framework("torch")
@pytest.mark.usefixtures("_torch_alone")
def test_a_difference_of_one_in_a_million_is_1(parity, console, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = parity.reference

    def off(*arguments, **options):
        against = honest(*arguments, **options)
        return against._replace(want=against.want._replace(y=against.want.y * (1 + 1e-6)))

    monkeypatch.setattr(parity, "reference", off)
    assert parity.parity(console, None) == 1
    text = console.export_text()
    assert "DIFFERS" in text
    assert "torch: paper in float64: y[" in text


def test_nothing_to_compare_is_2_and_names_what_is_missing(parity, console, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = TARGETS["torch"].__class__("elsewhere", "torch", "torch", ("no_such_framework",))
    monkeypatch.setattr(parity, "TARGETS", {"elsewhere": absent})
    monkeypatch.setattr(parity, "PRESETS", ("paper",))
    assert parity.parity(console, None) == 2
    text = console.export_text()
    assert "not installed: no_such_framework" in text
    assert "pip install 'se-suite[torch]'" in text


def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DEVICE", "tpu")
    assert main(["parity", "--no-picture"]) == 2
    assert "DEVICE=tpu is not known" in capsys.readouterr().err


def test_photographs_are_real_and_patches_are_invertible() -> None:
    images = photographs.photographs()
    assert images.shape == (2, 424, 640, 3)
    assert images.std() > 0.3
    patches = photographs.to_patches(images)
    assert patches.shape == (2, 53, 80, 192)
    np.testing.assert_array_equal(patches[1, 2, 3], images[1, 16:24, 24:32].ravel())
    np.testing.assert_array_equal(photographs.to_pixels(patches), images)
