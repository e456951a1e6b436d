r"""Opens the judge's page in a browser: both colour schemes, no message on the console, and a DOM that is the page.

``python -m evidence.page_browser`` needs Chromium or Chrome on the PATH, and writes the page and two pictures to
``out/page``, for a person to look at.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from se_conformance import Verdict, check
from se_conformance.faults import CATALOGUE, Block
from se_conformance.report import render_html
from se_spec import SESpec

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SPEC = SESpec(16, hidden=4, bias=True)
FAULTS = (
    "hard_sigmoid slope 0.2 (Keras 2) instead of 1/6",
    "gate broadcast along the width",
    "activation missing",
    "block not applied",
)
"""Faults of several stages."""
TIMEOUT_SECONDS = 120
WIDTH_PIXELS, HEIGHT_PIXELS = 1040, 16000
SCHEMES = {"light": (), "dark": ("--force-dark-mode",)}
DARK_LEVEL = 64
"""Channel values of a pixel up to it are dark, and those beyond 255 minus it are light."""
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def make_page() -> str:
    """Render verdicts of right and wrong blocks, among them one that raises a hostile message."""
    verdicts: dict[str, Verdict] = {}
    for name in FAULTS:
        spec = SPEC.replace(gate="hard_sigmoid") if "hard_sigmoid" in name else SPEC
        verdicts[name] = check(CATALOGUE[name].block(spec, "float32").function(), spec)
    gradient = CATALOGUE["gradient: gate detached"].block(SPEC, "float32")
    verdicts["gradient: gate detached"] = check(gradient.function(), SPEC, vjp=gradient.vjp)
    right = Block(SPEC, "bfloat16")
    verdicts["right"] = check(right.function(), SPEC, excitation=right.excitation, dtype="bfloat16", ranks=(1, 2))
    verdicts[HOSTILE] = check(_raise_hostile_error, SPEC)
    return render_html(verdicts.values(), list(verdicts))


def open_page(browser: str, page: Path | str, *arguments: str) -> tuple[str, str]:
    """Run the browser on a file or an address without a window; return what it printed, and its log."""
    address = page if isinstance(page, str) else page.absolute().as_uri()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--enable-logging=stderr", f"--user-data-dir={profile}", *arguments, address]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, check=True
        )
    return done.stdout, done.stderr


def list_console_messages(log: str) -> list[str]:
    r"""List the lines of a browser's log that the page's console wrote.

    Example:
        >>> list_console_messages('[1:INFO:CONSOLE:1] "refused", source: x\\n[1:ERROR:dbus] no bus')
        ['"refused", source: x']
    """
    return re.findall(r"CONSOLE[^\]]*\] (.*)", log)


def read_first_pixel(picture: bytes) -> tuple[int, ...]:
    """Return red, green and blue of the left upper pixel of a PNG file with 8 bits for each.

    The first pixel has no neighbours, so that each of PNG's filters leaves it as it is.
    """
    data, start = b"", 8
    while start < len(picture):
        length, kind = int.from_bytes(picture[start : start + 4]), picture[start + 4 : start + 8]
        data += picture[start + 8 : start + 8 + length] if kind == b"IDAT" else b""
        start += length + 12
    return tuple(zlib.decompressobj().decompress(data, 4)[1:4])


class TagCounter(HTMLParser):
    """Counts elements and texts; a browser adds ``tbody`` to each table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.characters = 0
        self.feed(page)
        del self.tags["tbody"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count an element."""
        self.tags[tag] += 1

    def handle_data(self, data: str) -> None:
        """Count the signs of a text."""
        self.characters += len(data.strip())


def find_errors(browser: str, page: Path, folder: Path) -> list[str]:
    """Open the page in both schemes and list what is wrong; pictures go to the folder."""
    dom, log = open_page(browser, page, "--dump-dom")
    errors = [f"the console says {message}" for message in list_console_messages(log)]
    source, found = TagCounter(page.read_text(encoding="utf-8")), TagCounter(dom)
    if source.tags != found.tags:
        errors.append(f"the browser's elements differ: {source.tags - found.tags} or {found.tags - source.tags}")
    if source.characters != found.characters:
        errors.append(f"the browser shows {found.characters} signs of {source.characters}")
    for scheme, arguments in SCHEMES.items():
        picture = folder / f"{scheme}.png"
        size = f"--window-size={WIDTH_PIXELS},{HEIGHT_PIXELS}"
        open_page(browser, page, size, f"--screenshot={picture.absolute()}", *arguments)
        pixel = read_first_pixel(picture.read_bytes())
        if not all(level <= DARK_LEVEL if scheme == "dark" else level >= 255 - DARK_LEVEL for level in pixel):
            errors.append(f"the background of the scheme {scheme} is {pixel}")
    return errors


def main(arguments: list[str] | None = None) -> int:
    """Look at the page; the status is 0 if all is right, 1 if something is wrong, 2 without a browser."""
    parser = argparse.ArgumentParser(description="Open the judge's page in a browser.")
    parser.add_argument("--out", type=Path, default=Path("out/page"), help="a folder (%(default)s)")
    parser.add_argument("--browser", help=f"the program; without it one of {', '.join(BROWSERS)}")
    options = parser.parse_args(arguments)
    browser = next(filter(None, map(shutil.which, [options.browser] if options.browser else BROWSERS)), None)
    if browser is None:
        print("page_browser: there is no Chromium or Chrome on the PATH; apt-get install chromium", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    page, broken = options.out / "index.html", options.out / "broken.html"
    page.write_text(make_page(), encoding="utf-8")
    errors = find_errors(browser, page, options.out)
    broken.write_text(page.read_text(encoding="utf-8").replace("<main>", "<main><script>1</script><p><p>"), "utf-8")
    if not list_console_messages(open_page(browser, broken, "--dump-dom")[1]):
        errors.append("a page with a script gives no message on the console, so that the check above proves nothing")
    broken.unlink()
    for error in errors:
        print(error)
    print(f"{page}: {len(errors)} errors; look at {', '.join(f'{scheme}.png' for scheme in SCHEMES)}")
    return 1 if errors else 0


def _raise_hostile_error(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    raise ValueError(HOSTILE)


if __name__ == "__main__":
    sys.exit(main())
