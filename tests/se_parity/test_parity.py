"""``se-parity``: its exit status for agreement, difference and nothing compared, its messages and its picture."""

import importlib
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from se_parity import datasets
from se_parity.__main__ import main
from se_parity.implementations import IMPLEMENTATIONS, Worker

pytestmark = pytest.mark.framework("parity")


@pytest.fixture
def parity():
    return importlib.import_module("se_parity.parity")


@pytest.fixture
def console():
    return importlib.import_module("rich.console").Console(width=132, record=True, file=io.StringIO())


@pytest.fixture
def _torch_alone(parity, monkeypatch: pytest.MonkeyPatch, guest_workers) -> None:
    monkeypatch.setattr(parity, "Worker", guest_workers)
    monkeypatch.setattr(parity, "IMPLEMENTATIONS", {"torch": IMPLEMENTATIONS["torch"]})
    monkeypatch.setattr(parity, "PRESETS", ("paper",))


@pytest.mark.framework("torch")
@pytest.mark.usefixtures("_torch_alone")
def test_exit_status_is_0_if_all_agree_and_a_picture_is_written(parity, console, tmp_path: Path) -> None:
    assert parity.parity(console, tmp_path / "new" / "gates.png") == 0
    text = console.export_text()
    assert "│ torch " in text
    assert "DIFFERS" not in text
    assert (tmp_path / "new" / "gates.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["gates.png"]


@pytest.mark.framework("torch")
@pytest.mark.usefixtures("_torch_alone")
def test_exit_status_is_1_for_a_relative_difference_of_one_in_a_million(
    parity, console, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = parity.reference

    def off(*arguments, **options):
        against = honest(*arguments, **options)
        return against._replace(want=against.want._replace(y=against.want.y * (1 + 1e-6)))

    monkeypatch.setattr(parity, "reference", off)
    monkeypatch.setattr(parity, "DTYPES", ("float64",))
    assert parity.parity(console, None) == 1
    text = console.export_text()
    assert "DIFFERS" in text
    assert "torch: paper in float64: y[" in text


@pytest.mark.parametrize("width", [80, 131, 132])
def test_table_fits_the_terminal_and_cuts_no_number(parity, width: int) -> None:
    rows = [parity.ParityRow("keras tensorflow XLA", 6, dict.fromkeys(parity.COLUMNS, 1.25e-8), 0.2)]
    rows.append(parity.ParityRow("nnx", note="not installed: flax, jax"))
    console = importlib.import_module("rich.console").Console(record=True, width=width, file=io.StringIO())
    parity.print_table(rows, console)
    text = console.export_text()
    assert text.count("1.2e-08") == len(parity.COLUMNS)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_exit_status_is_2_if_nothing_is_installed(parity, console, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = IMPLEMENTATIONS["torch"].__class__("elsewhere", "torch", "torch", ("no_such_framework",))
    monkeypatch.setattr(parity, "IMPLEMENTATIONS", {"elsewhere": absent})
    monkeypatch.setattr(parity, "PRESETS", ("paper",))
    assert parity.parity(console, None) == 2
    text = console.export_text()
    assert "not installed:" in text
    assert "no_such_framework" in text
    assert "pip install 'se-suite[torch]'" in text


class StubWorker:
    """A worker that only states its versions."""

    def __init__(self, name: str, said: str) -> None:
        self.implementation, self.said = IMPLEMENTATIONS[name], said

    def versions(self) -> str:
        return self.said

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "device", "said", "fault"),
    [
        ("keras jax", "cuda", "keras 3.15.1 on jax 0.11.2 (cpu)", "DEVICE=cuda was requested, and it ran as keras"),
        ("nnx", "cuda", "jax 0.11.2, flax 0.12.10 (cpu)", "DEVICE=cuda was requested"),
        ("keras torch", "cuda", "keras 3.15.1 on torch 2.11.0 (gpu)", ""),
        ("torch", "cuda", "torch 2.11.0 (cuda)", ""),
        ("onnxruntime", "cuda", "onnxruntime 1.31.1 (cpu)", ""),
        ("nnx", "cpu", "jax 0.11.2, flax 0.12.10 (gpu)", "DEVICE=cpu was requested"),
        ("nnx", "cpu", "jax 0.11.2, flax 0.12.10 (cpu)", ""),
    ],
)
def test_row_that_ran_on_another_device_differs(
    parity, monkeypatch: pytest.MonkeyPatch, name: str, device: str, said: str, fault: str
) -> None:
    monkeypatch.setenv("DEVICE", device)
    row = parity.ParityRow(name)
    parity.finish_row(row, StubWorker(name, said))
    assert row.verdict == ("DIFFERS" if fault else "same")
    assert fault in "".join(row.faults)
    assert row.version == said


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        ((os.abort,), ["torch: paper in float64: WorkerError: the process was ended by SIGABRT"]),
        ((int, "[/red] is no style"), ["ValueError: invalid literal", "'[/red] is no style'"]),
    ],
    ids=["its process ends", "it raises"],
)
@pytest.mark.framework("torch")
@pytest.mark.usefixtures("_torch_alone")
def test_error_of_an_implementation_is_printed_verbatim(
    parity, console, monkeypatch: pytest.MonkeyPatch, call: tuple, facts: list[str]
) -> None:
    class Failing(Worker):
        def submit(self, *_: object, **__: object):
            return self.submit_call(*call)

    monkeypatch.setattr(parity, "Worker", Failing)
    monkeypatch.setattr(parity, "DTYPES", ("float64",))
    assert parity.parity(console, None) == 1
    text = console.export_text()
    assert "DIFFERS" in text
    for fact in facts:
        assert fact in text


def test_run_without_matplotlib_prints_that_there_is_no_picture(
    parity, console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    parity.draw(tmp_path / "gates.png", console)
    assert "no picture: matplotlib is not installed" in console.export_text()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DEVICE", "tpu")
    assert main(["--no-picture"]) == 2
    assert "DEVICE=tpu is not known" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for held in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, held)
    monkeypatch.setitem(sys.modules, "rich", None)  # as if it were not installed
    assert main(["--no-picture"]) == 2
    assert capsys.readouterr().err == "se-parity: rich is missing: pip install 'se-suite[parity]'\n"


def test_photographs_are_real_and_patches_are_invertible() -> None:
    images = datasets.load_photographs()
    assert images.shape == (2, 424, 640, 3)
    assert images.std() > 0.3
    patches = datasets.to_patches(images)
    assert patches.shape == (2, 53, 80, 192)
    np.testing.assert_array_equal(patches[1, 2, 3], images[1, 16:24, 24:32].ravel())
    np.testing.assert_array_equal(datasets.to_pixels(patches), images)
