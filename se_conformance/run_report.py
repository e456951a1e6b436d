"""The folder of ``pytest --se-report=DIR/``: processes write parts, and the first of them joins the parts at the end.

The import needs the standard library alone, since the plugin is loaded in every run of pytest.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_atomically

if TYPE_CHECKING:
    from .verdict import Verdict

PAGE, LINES = "index.html", "verdicts.jsonl"


class RunReport:
    """The verdicts of one run of pytest, whose tests several processes may run.

    Args:
        folder: where ``index.html`` and ``verdicts.jsonl`` are written.
        parts: a folder inside for the parts; None makes one.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> report = RunReport(folder)
        >>> report.join()
        >>> sorted(path.name for path in folder.iterdir())
        ['index.html', 'verdicts.jsonl']
    """

    def __init__(self, folder: Path, parts: Path | None = None) -> None:
        self.folder = folder
        if parts is None:
            folder.mkdir(parents=True, exist_ok=True)
            parts = Path(tempfile.mkdtemp(prefix=".parts-", dir=folder))
        self.parts = parts

    def append(self, test: str, verdict: Verdict) -> None:
        """Append a verdict to this process's part, in one write."""
        from .report.page import make_entry

        line = {"test": test, "verdict": verdict.to_dict(), "entry": make_entry(verdict, test)}
        with open(self.parts / f"{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def join(self) -> None:
        """Write the page and the lines of all parts, whole or not at all, and remove the parts."""
        from .report.page import Entry, join_entries

        found = self._read_parts()
        lines = "".join(json.dumps({"test": part["test"], **part["verdict"]}) + "\n" for part in found)
        texts = {LINES: lines, PAGE: join_entries([Entry(*part["entry"]) for part in found])}
        for name, text in texts.items():
            with write_atomically(self.folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        shutil.rmtree(self.parts)

    def _read_parts(self) -> list[dict[str, Any]]:
        """Read all whole lines, in the order of the run; the tests of several processes are sorted by their names."""
        files = sorted(self.parts.glob("*.jsonl"))
        texts = [line for file in files for line in file.read_text("utf-8").splitlines(keepends=True)]
        found = [json.loads(text) for text in texts if text.endswith("\n")]  # a killed process leaves half a line
        return found if len(files) < 2 else sorted(found, key=lambda part: part["test"])
