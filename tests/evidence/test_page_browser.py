"""What looks at the judge's page in a browser, tested with programs that stand in for one."""

import struct
import sys
import zlib
from pathlib import Path

import pytest

from evidence import page_browser
from tests.se_conformance.report_blocks import PageChecker


def make_png(pixel: tuple[int, int, int], line_filter: int = 0) -> bytes:
    """A picture of two equal rows of three equal pixels, with one of PNG's filters."""
    rows = bytes([line_filter, *pixel, *([0] * 6 if line_filter == 1 else pixel * 2)]) + bytes([0, *pixel * 3])
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("line_filter", [0, 1])
def test_first_pixel_of_a_picture_is_read(line_filter: int) -> None:
    assert page_browser.read_first_pixel(make_png((13, 17, 23), line_filter)) == (13, 17, 23)


@pytest.fixture(scope="module")
def page() -> str:
    """The page that is opened; all tests may share it, since the verdicts are the same."""
    return page_browser.make_page()


def make_browser(folder: Path, *, changes: str = "page", log: str = "", dark: int = 13) -> Path:
    """A program with a browser's options: it prints the page as ``changes`` says and writes pictures."""
    light, night = make_png((255, 255, 255)), make_png((dark, dark, dark))
    code = f"""#!{sys.executable}
import sys, urllib.request
page = urllib.request.urlopen(sys.argv[-1]).read().decode()
page = page.replace("<tr>", "<tbody><tr>", 1)
sys.stderr.write({log!r} or ("[1:INFO:CONSOLE:1] refused" if "<script>1" in page else ""))
if "--dump-dom" in sys.argv:
    sys.stdout.buffer.write(({changes}).encode())
for argument in sys.argv:
    if argument.startswith("--screenshot="):
        open(argument.partition("=")[2], "wb").write({night!r} if "--force-dark-mode" in sys.argv else {light!r})
"""
    path = folder / "browser"
    path.write_text(code)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ""),
        ({"log": "[1:INFO:CONSOLE:2] it failed"}, "the console says it failed"),
        (
            {"changes": "page.replace('</svg>', '</svg><p></p>', 1)"},
            "the browser's elements differ: Counter() or Counter({'p': 1})",
        ),
        ({"changes": "page.replace('Worst element', '', 1)"}, "the browser shows "),
        ({"dark": 255}, "the background of the scheme dark is (255, 255, 255)"),
    ],
)
def test_what_is_wrong_in_a_browser_is_an_error(
    page: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: dict,
    said: str,
) -> None:
    monkeypatch.setattr(page_browser, "make_page", lambda: page)
    browser = make_browser(tmp_path, **options)
    status = page_browser.main(["--browser", str(browser), "--out", str(tmp_path / "page")])
    out = capsys.readouterr().out
    assert (status, said in out) == (1 if said else 0, True), out
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == ["dark.png", "index.html", "light.png"]


def test_console_that_shows_nothing_proves_nothing(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_browser, "make_page", lambda: page)
    browser = make_browser(tmp_path)
    browser.write_text(browser.read_text().replace("<script>1", "nothing"))
    assert page_browser.main(["--browser", str(browser), "--out", str(tmp_path / "page")]) == 1
    assert "proves nothing" in capsys.readouterr().out


def test_without_a_browser_the_status_is_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    assert page_browser.main([]) == 2
    assert "apt-get install chromium" in capsys.readouterr().err


def test_page_for_the_browser_has_no_errors_and_every_stage_of_its_faults(page: str) -> None:
    found = PageChecker(page)
    assert found.errors == []
    assert page.count("▲ departs here") == len(page_browser.FAULTS)
    assert page_browser.HOSTILE in found.text
