"""Opens the built site in Chromium: the console's messages, widths on a phone, the search, light and dark colours."""

import functools
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

from evidence.page_browser import SCHEMES, list_console_messages, open_page

PHONE_PIXELS = 390, 844
DESKTOP_PIXELS = 1280, 900
WAIT = "--virtual-time-budget=100000"
"""Milliseconds of the browser's own time, which passes at once where a page waits."""
START, API, CHINESE = "index.html", "api/se_torch/index.html", "zh/index.html"
EXPECTED = {
    START: ("Squeeze-and-Excitation", '<html lang="en"'),
    API: ('id="se_torch.block.SqueezeExcitation"', "reset_parameters"),
    CHINESE: ("中文", '<html lang="zh-CN"'),
}
"""What the DOM of a page has."""
COLOURS = {"light": "default", "dark": "slate"}
"""The theme's names of the colours that a reader's system prefers."""
QUERIES = "reduction", "评判"
MEASURING_PAGE, PHONE_PAGE, BROKEN_PAGE = "__measure__.html", "__phone__.html", "__broken__.html"
PAUSE_PAGE, PAUSE_SECONDS = "__pause__", 0.1
"""The browser's own time stands still until this page comes, while the search computes in a thread of its own."""
BROKEN = "<!doctype html><title>broken</title><script>undefined_function()</script>"
PHONE = '<!doctype html><body style="margin: 0"><iframe style="border: 0" width="{}" height="{}" src="/{}"></iframe>'
MEASURING = """<!doctype html><title>measure</title><pre id="measured"></pre><script>
const [pages, width, height, queries] = SETTINGS;
const measured = {widths: {}, results: {}};
const wait = () => new Promise(resolve => setTimeout(resolve, 100));
const pause = () => fetch("/PAUSE").then(wait);
const load = page => new Promise(resolve => {
  const frame = document.createElement("iframe");
  Object.assign(frame, {width, height, src: "/" + page, onload: () => resolve(frame)});
  document.body.append(frame);
});
(async () => {
  for (const page of pages) {
    const frame = await load(page);
    await wait();
    measured.widths[page] = frame.contentDocument.documentElement.scrollWidth;
    frame.remove();
  }
  for (const query of queries) {
    const frame = await load(pages[0]);
    const inside = frame.contentDocument;
    await wait();
    inside.querySelector(".md-search__button").click();
    for (let count = 0; count < 100 && !inside.activeElement.shadowRoot; count++) await pause();
    const search = inside.activeElement.shadowRoot;
    const input = search.querySelector("input");
    input.value = query;
    input.dispatchEvent(new Event("input", {bubbles: true}));
    for (let count = 0; count < 100 && !measured.results[query]; count++) {
      await pause();
      measured.results[query] = search.querySelectorAll("a[href]").length;
    }
    frame.remove();
  }
})().catch(error => console.error(String(error))).finally(() => {
  document.getElementById("measured").textContent = JSON.stringify(measured);
});
</script>"""


@contextmanager
def serve_site(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a site on this machine, with the pages that look at it.

    Args:
        folder: the folder of the site.

    Yields:
        The site's address, and a list to which each path is added that was requested and does not exist.
    """
    pages = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("index.html"))]
    pages.sort(key=lambda page: page != START)
    added = {
        MEASURING_PAGE: MEASURING.replace("SETTINGS", json.dumps([pages, *PHONE_PIXELS, QUERIES])).replace(
            "PAUSE", PAUSE_PAGE
        ),
        PAUSE_PAGE: "",
        PHONE_PAGE: PHONE.format(*PHONE_PIXELS, API),
        BROKEN_PAGE: BROKEN,
    }
    missing: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            page = added.get(self.path.strip("/"))
            if page is None:
                super().do_GET()
                return
            if page == "":
                time.sleep(PAUSE_SECONDS)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            if self.path != "/favicon.ico":  # which a browser requests for our own pages
                missing.append(self.path)
            super().send_error(code, message, explain)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", missing
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def find_errors(browser: str, site: Path, folder: Path) -> list[str]:
    """Open the site, list what is wrong with it, and take pictures.

    Args:
        browser: the program, Chromium or Chrome.
        site: the folder of the built site.
        folder: the pictures go to this folder.

    Returns:
        The errors.
    """
    errors, logs = [], []
    desktop = "--window-size={},{}".format(*DESKTOP_PIXELS)
    with serve_site(site) as (address, missing):

        def view(page: str, *arguments: str) -> str:
            dom, log = open_page(browser, address + page, WAIT, *arguments)
            logs.append(log)
            return dom

        for page, texts in EXPECTED.items():
            dom = view(page, "--dump-dom")
            errors += [f"{page} does not show {text}" for text in texts if text not in dom]
        for scheme, arguments in SCHEMES.items():
            found = re.search(r'<body[^>]*data-md-color-scheme="(\w+)"', view(START, "--dump-dom", *arguments))
            if found is None or found[1] != COLOURS[scheme]:
                errors.append(f"the colours are {found and found[1]} where the reader's system prefers {scheme} ones")
            view(START, desktop, f"--screenshot={(folder / f'{scheme}.png').absolute()}", *arguments)
        view(API, desktop, f"--screenshot={(folder / 'api.png').absolute()}")
        view(PHONE_PAGE, desktop, f"--screenshot={(folder / 'phone.png').absolute()}")
        measured = re.search(r'<pre id="measured">(.*?)</pre>', view(MEASURING_PAGE, "--dump-dom"), re.DOTALL)
        errors += find_measured_errors(json.loads(unescape(measured[1]) or "{}") if measured else {})
        messages = [message for log in logs for message in list_console_messages(log)]
        errors += [f"the console says {message}" for message in dict.fromkeys(messages)]
        view(BROKEN_PAGE, "--dump-dom")
        if not list_console_messages(logs[-1]):
            errors.append("a broken script gives no message on the console, so that the check above proves nothing")
    return errors + [f"{path} is requested and does not exist" for path in dict.fromkeys(missing)]


def find_measured_errors(measured: dict[str, Any]) -> list[str]:
    """List what is wrong in the measurements of the page that opens all others in a phone's width.

    Args:
        measured: ``widths``, a page -> the width of its content in pixels; ``results``, a query -> the number
            of its results.

    Returns:
        The errors.

    Example:
        >>> find_measured_errors({"widths": {"a.html": 400}, "results": dict.fromkeys(QUERIES, 3)})
        ['a.html is 400 pixels wide on a phone of 390']
    """
    widths = measured.get("widths", {})
    errors = [
        f"{page} is {width} pixels wide on a phone of {PHONE_PIXELS[0]}"
        for page, width in widths.items()
        if width > PHONE_PIXELS[0]
    ]
    if not widths:
        errors.append("the pages could not be measured")
    results = measured.get("results", {})
    return errors + [f"the search for {query} finds nothing" for query in QUERIES if not results.get(query)]
