"""What a file says reaches a terminal without characters that the terminal would obey."""

import subprocess
import sys
from pathlib import Path

import pytest

import se_port
from se_spec import SEError
from se_spec.texts import escape, quote, shorten
from tests.se_port.attacks import builders as b

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\u2066\x7f\r\nse-port: all is well"


def lines_of(path: Path, *arguments: str) -> str:
    """Run ``se-port``; returns all that it prints."""
    command = [sys.executable, "-m", "se_port", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


def assert_safe(text: str) -> None:
    """Check that a text has no character that a terminal would obey, and no line that a file wrote."""
    assert not {sign for sign in text if not sign.isprintable() and sign != "\n"}
    assert not any(line.startswith("se-port: all is well") for line in text.splitlines())


def blocks(path: Path) -> Path:
    return b.safetensors_file(
        path / "a.safetensors", {f"{ESCAPES}.fc1.weight": (1, 4), f"{ESCAPES}.fc2.weight": (4, 1)}
    )


def left_behind(path: Path) -> Path:
    return b.safetensors_file(path / "c.safetensors", {"fc1.weight": (1, 4), "fc2.weight": (4, 1), ESCAPES: (1,)})


@pytest.mark.parametrize("build", [blocks, left_behind])
def test_printed_reports_are_escaped(tmp_path: Path, build) -> None:
    path, target = str(build(tmp_path)), str(tmp_path / "y.npz")
    spec = '{"channels": 4, "hidden": 1}'
    for arguments in (
        ["inspect", path],
        ["convert", path, target, "--to", "canonical"],
        ["convert", path, target, "--to", "canonical", "--spec", spec, "--from", "tutorial.SEBlock", "--force"],
        ["convert", path, target, "--to", "canonical", "--all-blocks", "--force"],
        ["convert", path, target, "--to", "canonical", "--block", ESCAPES],
        ["inspect", path, "--prefix", ESCAPES],
    ):
        assert_safe(lines_of(tmp_path, *arguments))


def test_text_of_an_inspection_is_escaped(tmp_path: Path) -> None:
    for build in (blocks, left_behind):
        assert_safe(str(se_port.inspect(build(tmp_path))))


FILES = {
    "pickle's class": lambda path: b.torch_file(
        path / "x.pth", b"\x8c" + bytes([len(ESCAPES.encode())]) + ESCAPES.encode() + b"\x8c\1a\x93"
    ),
    "pickle's keys": lambda path: b.torch_file(path / "x.pth", b.dictionary({ESCAPES: b"N"})),
    "zip's member": lambda path: b.torch_file(path / "x.npz", b"N", **{f"_{ESCAPES}": b""}),
    "text of JSON": lambda path: b.raw_safetensors(path / "x.safetensors", b'{"\\u001b[2J":{"dtype":"\\u001b"}}'),
}


@pytest.mark.parametrize("name", FILES)
def test_error_is_escaped(tmp_path: Path, name: str) -> None:
    path = FILES[name](tmp_path)
    with pytest.raises(SEError) as caught:
        se_port.find_blocks(path)
    assert str(caught.value).isprintable()


def test_name_that_no_encoding_has_is_printed(tmp_path: Path) -> None:
    path = b.safetensors_file(tmp_path / "x.safetensors", {"\u4e2d.fc1.weight": (1, 4), "\u4e2d.fc2.weight": (4, 1)})
    command = [sys.executable, "-m", "se_port", "inspect", str(path)]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0 and b"\\u4e2d: 4 channels" in done.stdout


def test_escape_keeps_what_can_be_printed() -> None:
    assert escape("a \u00e9 \u4e2d \U0001f600") == "a \u00e9 \u4e2d \U0001f600"
    assert escape("a\nb", keep_lines=True) == "a\nb"
    assert escape("\ud800\u200f\u2028") == "\\ud800\\u200f\\u2028"
    assert len(shorten("\x00" * 1_000_000)) <= 200 and len(quote("'" * 1_000_000)) <= 200
