"""The files of ``se-check run``: all options in one call, whole files or none, and clear errors before the work."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from se_conformance import __main__ as command_line
from se_conformance.files import write_atomically
from se_conformance.outputs import Outputs
from tests.se_conformance.report_blocks import HOSTILE, PageChecker, judge

MODULE = "tests.se_conformance.report_blocks"
SPEC = ("--spec", '{"channels": 8, "hidden": 2}')
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``se-check run`` in an empty folder: exit status, what it printed, what it complained of."""
    monkeypatch.chdir(tmp_path)

    def call(block: str, *arguments: object) -> tuple[int, str, str]:
        status = command_line.main(["run", f"{MODULE}:{block}", *SPEC, *map(str, arguments)])
        return (status, *capsys.readouterr())

    return call


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_all_options_work_together_in_one_call(run: Run, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("2: *NaN*  # ours drops NaN, issue 12\n1: *NaN*  # the same\n")
    dtypes = ("--dtype", "float32", "--dtype", "float16")
    files = ("--json", "out.json", "--junit", "out.xml", "--html", "out/")
    more = ("--ranks", "1,2", "--seed", 3, "--timeout", 30, "--known", "known.txt")
    status, out, err = run("drops_nan", *dtypes, *files, *more)
    assert (status, err) == (0, "")
    assert list_files(tmp_path) == ["known.txt", "out.json", "out.xml", "out/index.html"]
    written = json.loads((tmp_path / "out.json").read_text())
    assert [(entry["dtype"], entry["seed"], entry["ranks"]) for entry in written] == [
        ("float32", 3, [1, 2]),
        ("float16", 3, [1, 2]),
    ]
    assert all(entry["known"] for entry in written)
    page = PageChecker((tmp_path / "out" / "index.html").read_text())
    assert page.errors == []
    assert "2 verdicts, none failed" in page.text
    assert f"{MODULE}:drops_nan" in page.text
    suites = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert [len(suite) for suite in suites] == [entry["trials"] for entry in written]
    assert suites.attrib["failures"] == "0" != suites.attrib["skipped"]
    assert out.count("known    NaN (1-D): the same") == 2


def test_wrong_block_fails_and_every_file_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("older")
    status, _, _ = run("hard", "--json", "out.json", "--junit", "out.xml", "--html", "deep")
    assert status == 1
    assert json.loads((tmp_path / "out.json").read_text())[0]["stage"] == "gate"
    assert "▲ departs here" in (tmp_path / "deep" / "index.html").read_text(encoding="utf-8")
    assert "<failure" in (tmp_path / "out.xml").read_text(encoding="utf-8")


def test_known_and_deviations_are_the_same_option(run: Run, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("*NaN*  # ours drops NaN\n")
    outputs = [run("drops_nan", option, "known.txt") for option in ("--known", "--deviations")]
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == 0
    assert run("drops_nan")[0] == 1


def test_deviation_of_one_dtype_is_not_stale_in_another(run: Run, tmp_path: Path) -> None:
    known, dtypes = tmp_path / "known.txt", ("--dtype", "float32", "--dtype", "float16")
    known.write_text("*NaN*  # half precision drops NaN\n")
    status, out, _ = run("drops_nan_in_half", *dtypes, "--known", "known.txt")
    assert (status, "stale" in out) == (0, False)
    status, out, _ = run("drops_nan_in_half", "--dtype", "float32", "--known", "known.txt")
    assert (status, "stale    line 1" in out) == (1, True)
    status, out, _ = run("right", *dtypes, "--known", "known.txt")
    assert (status, out.count("stale    line 1")) == (1, 2)


@pytest.mark.parametrize(
    ("option", "path", "said"),
    [
        ("--json", "no/such.json", "there is no folder no"),
        ("--junit", "no/such.xml", "there is no folder no"),
        ("--html", "no/such/", "there is no folder no"),
        ("--json", "folder", "this is a folder; name a file"),
        ("--junit", "folder", "this is a folder; name a file"),
        ("--html", "file", "this is a file; name a folder"),
    ],
)
def test_path_that_cannot_be_written_is_one_error_before_anything_is_judged(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, path: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("se_conformance.judge.check", None)  # a call would raise
    status, out, err = (
        run("right", option, path, "--json", "out.json") if option != "--json" else run("right", option, path)
    )
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"se-check: {option}=")
    assert said in err
    assert list_files(tmp_path) == ["file"]


def test_failure_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.xml").write_text("older")

    def stop(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text.encode()[:100])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_text", stop)
    with pytest.raises(OSError, match="the disk is full"):
        Outputs(junit=tmp_path / "out.xml", html=tmp_path / "out").write([judge("hard")], "title")
    assert list_files(tmp_path) == ["out.xml"]
    assert (tmp_path / "out.xml").read_bytes() == b"older"


def test_hostile_title_is_written_escaped(tmp_path: Path) -> None:
    Outputs(tmp_path / "out.json", tmp_path / "out.xml", tmp_path / "out").write([judge("hard")], HOSTILE)
    ElementTree.parse(tmp_path / "out.xml")
    page = PageChecker((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert page.errors == []


def test_error_of_the_system_names_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(OSError, match=r"x\.json") as caught, write_atomically(tmp_path / "x.json") as temporary:
        temporary.write_text("whole")
    assert caught.value.filename == str(tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
