"""What every command line shares, run as a person runs it: in a process, at a terminal, before head."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from se_conformance.__main__ import main as se_check
from se_parity.__main__ import main as se_parity
from se_port.__main__ import main as se_port
from se_spec import SEError, __version__
from se_spec.__main__ import main as print_presets
from se_spec.command_line import CLOSED, INTERRUPTED, REFUSED, break_lines, make_parser, run_program

ROOT = Path(__file__).parents[2]
PROGRAMS = {"se-port": se_port, "se-check": se_check, "se-parity": se_parity, "python -m se_spec": print_presets}


def call(program: Callable[[list[str]], int], *arguments: str) -> int:
    """Run a command line; its parser may end it."""
    try:
        return program(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_version_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(PROGRAMS[name], "--version") == 0
    assert capsys.readouterr().out == f"{name} {__version__}\n"


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("se-port", (), "{COMMAND} ..."),
        ("se-check", (), "judge a block"),
        ("se-check", ("run",), "--data-format"),
        ("se-port", ("convert",), "layouts of blocks"),
    ],
)
def test_command_without_arguments_prints_its_help(
    name: str, arguments: tuple[str, ...], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(PROGRAMS[name], *arguments) == REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert " ".join(["usage:", name, *arguments, "[-h]"]) in printed.err
    assert shown.strip("{}").replace("} ", " ") in printed.err


def test_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for program, arguments in ((se_port, ["convert"]), (se_port, ["verify"]), (se_check, ["run"]), (se_parity, [])):
        assert call(program, *arguments, "--help") == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_completion_has_layouts_networks_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh", "tcsh"):
        assert call(se_port, "--print-completion", shell) == 0
        script = capsys.readouterr().out
        for word in ("convert", "all-blocks", "moskomule", "se_resnet50", "orbax"):
            assert word in script
    assert call(se_check, "--print-completion", "bash") == 0
    assert "torchvision.mobilenet_v3" in capsys.readouterr().out


def test_completion_without_shtab_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)  # as if it were not installed
    assert call(se_port, "--print-completion", "bash") == REFUSED
    assert "pip install 'se-suite[completion]'" in capsys.readouterr().err


def run_shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a line in which PYTHON stands for this interpreter."""
    line = command.replace("PYTHON", sys.executable)
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("command", ["se_port layouts", "se_spec"])
def test_reader_that_has_gone_causes_no_traceback(command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    finally:
        os.close(write)
    assert (done.stderr, done.returncode) == ("", CLOSED)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_output_is_one_line() -> None:
    done = run_shell("PYTHON -m se_spec > /dev/full")
    assert done.returncode == REFUSED
    assert done.stderr == "python -m se_spec: the output: No space left on device\n"


def test_output_that_is_closed_is_no_error() -> None:
    assert (done := run_shell("PYTHON -m se_spec >&-")).returncode == 0, done.stderr


def test_errors_have_their_exit_status_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error, status, said in (
        (SEError("no such layout"), REFUSED, "no such layout"),
        (FileNotFoundError(2, "No such file", "x.npz"), REFUSED, "x.npz: No such file"),
        (MemoryError(), REFUSED, "this needs more memory than there is"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
    ):

        def fail(error: BaseException = error) -> int:
            raise error

        assert run_program("se-port", fail) == status
        assert capsys.readouterr().err == f"se-port: {said}\n"


def test_missing_module_names_its_extra_and_others_are_raised(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ModuleNotFoundError("No module named 'rich.console'", name="rich.console")

    assert run_program("se-port", fail, {"rich": "port"}) == REFUSED
    assert capsys.readouterr().err == "se-port: rich is missing: pip install 'se-suite[port]'\n"
    with pytest.raises(ModuleNotFoundError):
        run_program("se-port", fail, {"torch": "torch"})


def test_broken_pipe_to_another_process_is_not_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        run_program("se-port", fail)


def test_lines_fit_the_terminal() -> None:
    leader, follower = pty.openpty()
    try:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        with subprocess.Popen(
            [sys.executable, "-m", "se_port", "layouts"], stdout=follower, cwd=ROOT, env=environ
        ) as process:
            os.close(follower)
            text = b""
            while True:
                try:
                    part = os.read(leader, 1 << 16)
                except OSError:  # the process has closed the terminal
                    break
                text += part
        assert process.returncode == 0
    finally:
        os.close(leader)
    lines = text.decode().replace("\r", "").splitlines()
    assert "layout moskomule" in lines
    assert max(map(len, lines)) <= 80


def test_a_word_longer_than_a_line_stays_whole() -> None:
    path = "/".join(["folder"] * 30)
    assert path in break_lines(f"    {path}: 12 tensors of three dtypes", 40).splitlines()[0]


def test_parser_of_a_program_has_the_shared_options() -> None:
    text = io.StringIO()
    make_parser("se-x", "Do it.").print_help(text)
    assert "--version" in text.getvalue()
    assert "--print-completion" in text.getvalue()
    assert "--print-completion" not in make_parser("python -m se_x", "Do it.").format_help()
