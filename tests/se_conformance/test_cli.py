"""``se-check``: its output, its files and its exit status: 0 right, 1 wrong, 2 nothing judged or a wrong command."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from se_conformance import vectors
from se_conformance.__main__ import main
from se_conformance.faults import CATALOGUE, EQUIVALENT
from se_spec import PRESETS, SESpec

ROOT = Path(__file__).parents[2]
BLOCKS = """
import numpy as np
import se_numpy
from se_spec import SESpec

SPEC = SESpec(8, hidden=2)

def answered(x, parameters, spec):
    y = se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last")
    return y.astype(x.dtype)

def right(x, parameters):
    return answered(x, parameters, SPEC)

def vjp(x, dy, parameters):
    dx, dparameters = se_numpy.vjp(x, dy, SPEC, parameters, data_format="channels_last")
    return dx.astype(x.dtype), {name: array.astype(x.dtype) for name, array in dparameters.items()}

def detached(x, dy, parameters):
    return dy * excitation(x, parameters)[:, None, None].astype(x.dtype), vjp(x, dy, parameters)[1]

def excitation(x, parameters):
    return se_numpy.excitation(x, SPEC, parameters, data_format="channels_last")

def first(x, parameters):
    return np.moveaxis(right(np.moveaxis(x, 1, -1), parameters), -1, 1)

def wrong(x, parameters):
    return x

def drops_nan(x, parameters):
    return right(np.where(np.isnan(x), 0, x), parameters)

def only_relu(x, parameters, spec):
    return answered(x, parameters, spec.replace(activation="relu") if not spec.single_projection else spec)

class Holder:
    block = staticmethod(right)
"""
MODULE = "se_blocks_of_test_cli"
SPEC = '{"channels": 8, "hidden": 2}'

RELU = ("activation relu float32", "activation relu bfloat16")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``se-check`` in a folder with blocks: exit status, what it printed, what it complained of."""
    (tmp_path / f"{MODULE}.py").write_text(BLOCKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("NO_COLOR", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(argument).replace("BLOCKS:", f"{MODULE}:") for argument in arguments])
        except SystemExit as exit:  # argparse refuses
            status = exit.code if isinstance(exit.code, int) else 1
        return (status, *capsys.readouterr())

    return call


def test_exit_status_is_0_for_right_and_1_for_wrong(run: Run) -> None:
    status, out, err = run("run", "BLOCKS:right", "--spec", SPEC)
    assert (status, err) == (0, "")
    assert out.startswith("passed: SESpec(8, hidden=2) in float32, seed 0\n")
    status, out, err = run("run", "BLOCKS:wrong", "--spec", SPEC)
    assert (status, err) == (1, "")
    assert out.startswith("FAILED: SESpec(8, hidden=2) in float32, seed 0\n")
    for word in ("agrees with: block not applied", "got ", "want ", "bound ", "ratio ", "again    x, dy, parameters"):
        assert word in out


def test_every_argument_of_check_has_an_option(run: Run) -> None:
    gradients = "--vjp", "BLOCKS:vjp", "--excitation", "BLOCKS:excitation"
    assert run("run", "BLOCKS:right", "--spec", SPEC, *gradients, "--seed", 3)[0] == 0
    status, out, _ = run("run", "BLOCKS:right", "--spec", SPEC, "--vjp", "BLOCKS:detached")
    assert status == 1
    assert "gradient: gate detached" in out
    assert run("run", "BLOCKS:Holder.block", "--spec", SPEC)[0] == 0
    assert run("run", "BLOCKS:first", "--spec", SPEC, "--data-format", "channels_first")[0] == 0
    assert run("run", "BLOCKS:first", "--spec", SPEC, "--data-format", "channels_last")[0] == 1
    declared = "--products", "tf32", "--intermediates", "float32", "--ranks", "1,2,3"
    status, out, _ = run("run", "BLOCKS:right", "--spec", SPEC, *declared)
    assert status == 0
    assert "products='tf32', intermediates='float32'" in out
    assert "not run" not in out


def test_preset_accepts_a_width(run: Run) -> None:
    name = next(name for name in PRESETS if SESpec.preset(name, 8, hidden=2) == SESpec(8, hidden=2))
    assert run("run", "BLOCKS:right", "--preset", name, "--channels", 8, "--hidden", 2)[0] == 0
    assert run("run", "BLOCKS:right", "--preset", name, "--channels", 16, "--hidden", 2)[0] == 1


def test_each_of_several_dtypes_is_judged(run: Run) -> None:
    status, out, _ = run("run", "BLOCKS:right", "--spec", SPEC, "--dtype", "float64", "--dtype", "bfloat16")
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith("passed")] == [
        "passed: SESpec(8, hidden=2) in float64, seed 0",
        "passed: SESpec(8, hidden=2) in bfloat16, seed 0",
    ]


def test_one_wrong_dtype_fails_the_run(run: Run) -> None:
    Path(f"{MODULE}_more.py").write_text(
        f"from {MODULE} import *\ndef half(x, p):\n    return x if x.dtype.itemsize == 2 else right(x, p)\n"
    )
    status, out, _ = run("run", f"{MODULE}_more:half", "--spec", SPEC, "--dtype", "float32", "--dtype", "float16")
    assert status == 1
    assert "passed: SESpec(8, hidden=2) in float32" in out
    assert "FAILED: SESpec(8, hidden=2) in float16" in out


def test_report_is_written_atomically(run: Run, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text("older")
    both = "--dtype", "float64", "--dtype", "float32"
    assert run("run", "BLOCKS:wrong", "--spec", SPEC, *both, "--json", report)[0] == 1
    found = json.loads(report.read_text())
    assert [(one["dtype"], one["passed"], one["causes"][0]) for one in found] == [
        ("float64", False, "block not applied"),
        ("float32", False, "block not applied"),
    ]
    left = [path.name for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".py"]
    assert left == ["report.json"]  # and nothing temporary


def test_known_deviations(run: Run, tmp_path: Path) -> None:
    listed = tmp_path / "deviations.txt"
    listed.write_text("NaN*  # ours drops NaN, issue 12\n")
    assert run("run", "BLOCKS:drops_nan", "--spec", SPEC)[0] == 1
    status, out, _ = run("run", "BLOCKS:drops_nan", "--spec", SPEC, "--deviations", listed)
    assert status == 0
    assert "known    NaN (2-D): ours drops NaN, issue 12" in out
    status, out, _ = run("run", "BLOCKS:right", "--spec", SPEC, "--deviations", listed)
    assert status == 1
    assert "stale    line 1" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "BLOCKS:right", "BLOCKS:wrong"), "unrecognized arguments"),
        (("judge",), "invalid choice"),
        (("run", "BLOCKS:right"), "one of the arguments --preset --spec is required"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--preset", "caffe"), "not allowed with argument"),
        (("run", "BLOCKS:right", "--preset", "caffe"), "--preset needs --channels"),
        (("run", "BLOCKS:right", "--preset", "cafe", "--channels", 8), "cafe"),
        (("run", "BLOCKS:right", "--spec", "{"), "JSON"),
        (("run", "BLOCKS:right", "--spec", "[]"), "[] is not a spec"),
        (("run", "BLOCKS:right", "--spec", '{"channels": 0}'), "channels=0"),
        (("run", "BLOCKS:right", "--spec", '{"channel": 8}'), "channel"),
        (("run", "right", "--spec", SPEC), "'right' is not module:name"),
        (("run", "no_such_module:right", "--spec", SPEC), "there is no module 'no_such_module' on the path"),
        (("run", "no_such.module:right", "--spec", SPEC), "there is no module 'no_such.module' on the path"),
        (("run", "BLOCKS:left", "--spec", SPEC), "has no 'left'"),
        (("run", "BLOCKS:", "--spec", SPEC), "BLOCKS"),
        (("run", ":right", "--spec", SPEC), "is not module:name"),
        (("run", "BLOCKS:SPEC", "--spec", SPEC), "it must be a torch.nn.Module"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--vjp", "BLOCKS:none"), "has no 'none'"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--ranks", "two"), "--ranks=two is not a list such as 1,2,3"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--ranks", "4"), "1, 2 or 3"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--dtype", "float8"), "dtype='float8' is not allowed"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--data-format", "NHWC"), "invalid choice"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--products", "fp8"), "products='fp8' is not allowed"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--seed", "-1"), "seed=-1"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--deviations", "none.txt"), "deviations='none.txt' is not a file"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--json", "no/such/folder.json"), "no/such"),
        (("vectors",), "name a folder to write to"),
        (("vectors", "made", "--format", "xml"), "invalid choice"),
        (("vectors", "made", "--only", "*float32"), "--spec and --only select vectors for --judge, --format json"),
        (("vectors", "made", "--format", "c", "--only", "*float64"), "no vector in float32 is selected"),
        (("vectors", "--judge", "BLOCKS:answered", "--only", "none"), "no vector is selected"),
        (("vectors", "--judge", "BLOCKS:answered", "--spec", "[]"), "[] is not a spec"),
        (("vectors", "--judge", "BLOCKS:answered", "--format", "json"), "--format is for writing"),
        (
            ("run", "net.pt", "--spec", SPEC),
            "net.pt may be TorchScript, whose code runs when it is loaded; add --trust",
        ),
        (("vectors", "empty", "--judge", "BLOCKS:answered"), "manifest.json cannot be read"),
    ],
    ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, tuple) else "",
)
def test_wrong_command_has_exit_status_2_and_a_one_line_message(
    run: Run, arguments: tuple[object, ...], said: str
) -> None:
    status, out, err = run(*arguments)
    assert status == 2, out + err
    assert said.replace("BLOCKS", MODULE) in err
    assert err.splitlines()[-1].startswith("se-check")
    assert "Traceback" not in err


def test_exception_on_import_of_the_module_is_shown(run: Run) -> None:
    Path(f"{MODULE}_failing.py").write_text("import no_such_module_of_its_own\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_its_own"):
        run("run", f"{MODULE}_failing:right", "--spec", SPEC)


def test_exit_status_is_2_if_nothing_was_judged(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("se_conformance.judge.trials", lambda *arguments: [])
    status, out, _ = run("run", "BLOCKS:right", "--spec", SPEC, "--seed", 99)
    assert status == 2
    assert "nothing was judged" in out


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (("vectors", "--judge", "BLOCKS:answered"), "safetensors", "conformance"),
        (("run", "BLOCKS:right", "--spec", SPEC, "--dtype", "bfloat16"), "ml_dtypes", "conformance"),
        (("run", "needs_torch:block", "--spec", SPEC), "torch", "torch"),
        (("run", "needs_jax:block", "--spec", SPEC), "jax", "flax"),
        (("run", "none.onnx", "--spec", SPEC), "onnx", "onnx"),
    ],
)
def test_a_missing_extra_is_named(
    run: Run, arguments: tuple[str, ...], module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "jax"):
        Path(f"needs_{name}.py").write_text(f"import {name}\n")
    for held in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, held)
    monkeypatch.delitem(sys.modules, "se_conformance.adapters.onnx", raising=False)  # another test may have used it
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    status, _, err = run(*arguments)
    assert status == 2
    assert f"pip install 'se-suite[{extra}]'" in err
    assert len(err.splitlines()) == 1


def test_the_whole_catalogue_is_listed(run: Run) -> None:
    status, out, _ = run("faults", "--list")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == len(CATALOGUE) + len(EQUIVALENT)
    for fault, line in zip(CATALOGUE.values(), lines, strict=False):
        assert line.startswith(f"{fault.stage} ")
        assert f"{fault.name}: {fault.sentence} [{fault.source}]" in line
    for (name, reason), line in zip(EQUIVALENT.items(), lines[len(CATALOGUE) :], strict=True):
        assert line == f"equivalent {name}: {reason}"


def test_frozen_vectors_are_written_and_judged(run: Run, tmp_path: Path) -> None:
    names = [vector.name for vector in vectors.load()]
    count = len(names)
    status, out, _ = run("vectors", tmp_path / "made")
    assert (status, out.splitlines()) == (0, names)
    assert run("vectors", "--judge", "BLOCKS:answered") == (0, f"{count} of {count}\n", "")
    assert run("vectors", tmp_path / "made", "--judge", "BLOCKS:answered") == (0, f"{count} of {count}\n", "")

    status, out, _ = run("vectors", "--judge", "BLOCKS:only_relu")
    assert status == 1
    *wrong, last = out.splitlines()
    missed = {line.partition(":")[0] for line in wrong}
    others = {name for name in names if name.startswith("activation ")} - {*RELU}
    assert {name for name in others if name.endswith("float32")} <= missed <= others
    assert last == f"{count - len(wrong)} of {count}"
    assert "got " in wrong[0]
    assert "want " in wrong[0]

    (tmp_path / "made" / vectors.TENSORS).unlink()
    status, out, err = run("vectors", tmp_path / "made", "--judge", "BLOCKS:answered")
    assert (status, out) == (2, "")
    assert f"{vectors.TENSORS} cannot be read" in err


# in a process of its own


def command(tmp_path: Path, **environment: str) -> dict[str, Any]:
    (tmp_path / "blocks.py").write_text(BLOCKS)
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {
        "args": [sys.executable, "-m", "se_conformance", "run", "blocks:wrong", "--spec", SPEC],
        "cwd": tmp_path,
        "env": {**inherited, "PYTHONPATH": str(ROOT), **environment},
    }


def in_terminal(options: dict[str, Any]) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    told = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        told += piece
    os.close(ours)
    return process.wait(timeout=60), told.decode()


def test_output_to_a_pipe_is_plain(tmp_path: Path) -> None:
    done = subprocess.run(capture_output=True, text=True, **command(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("FAILED: ")


def test_output_to_a_terminal_is_coloured_unless_no_color_is_set(tmp_path: Path) -> None:
    status, told = in_terminal(command(tmp_path))
    assert status == 1
    assert told.startswith("\x1b[31mFAILED: SESpec(8, hidden=2) in float32, seed 0\x1b[0m")
    status, told = in_terminal(command(tmp_path, NO_COLOR="1"))
    assert status == 1
    assert told.startswith("FAILED: SESpec(8, hidden=2) in float32")
    assert "\x1b" not in told
