"""``python -m evidence.site`` builds the site into ``out/site``, checks its links, and looks at it in a browser.

It needs the dependency group ``docs``, and for the last step Chromium or Chrome on the PATH. Pictures go to
``out/site-pictures``. The status is 0 if all is right and 1 if something is wrong; without a browser the site is built
and its links are checked, and the last line says that nobody looked.
"""

import shutil
import sys

from evidence.page_browser import BROWSERS

from . import browser, build, links
from .sources import ROOT

PICTURES_FOLDER = ROOT / "out" / "site-pictures"


def main() -> int:
    """Build the site and check it; return the exit status."""
    try:
        build.build_site()
    except (build.SiteError, ValueError) as error:
        print(f"site: {error}", file=sys.stderr)
        return 1
    errors = links.find_faults(build.SITE_FOLDER)
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program:
        PICTURES_FOLDER.mkdir(parents=True, exist_ok=True)
        errors += browser.find_errors(program, build.SITE_FOLDER, PICTURES_FOLDER)
    print(*errors, sep="\n", end="\n" if errors else "")
    pages = len(list(build.SITE_FOLDER.rglob("*.html")))
    looked = f"pictures are in {PICTURES_FOLDER}" if program else "not looked at: no Chromium or Chrome on the PATH"
    print(f"{build.SITE_FOLDER}/index.html: {pages} pages, {len(errors)} errors; {looked}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
