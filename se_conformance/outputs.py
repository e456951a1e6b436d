"""The files that ``se-check run`` writes: checked before a block is judged, and written whole or not at all."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from se_spec import SEError

from .files import write_atomically
from .report import render_html, render_junit
from .verdict import Verdict

PAGE = "index.html"


class Outputs(NamedTuple):
    """The paths of the files; None for one that is not written.

    Args:
        json, junit: files, whose folders exist.
        html: a folder, which is made if it does not exist; the folder around it exists.
    """

    json: Path | None = None
    junit: Path | None = None
    html: Path | None = None

    def check(self) -> None:
        """Find out whether the files can be written, before minutes are spent.

        Raises:
            SEError: a folder is missing, or a file is where a folder should be, or the reverse.
        """
        for name, path in self._asdict().items():
            if path is None:
                continue
            if not path.absolute().parent.is_dir():
                raise SEError(f"--{name}={path}: there is no folder {path.parent}")
            if name == "html" and path.exists() and not path.is_dir():
                raise SEError(f"--{name}={path}: this is a file; name a folder")
            if name != "html" and path.is_dir():
                raise SEError(f"--{name}={path}: this is a folder; name a file")

    def write(self, verdicts: Sequence[Verdict], title: str) -> None:
        """Write every file; a reader sees the old one or the whole new one.

        Args:
            verdicts: results of ``check``.
            title: what was judged.
        """
        texts: dict[Path, str] = {}
        if self.json is not None:
            texts[self.json] = json.dumps([verdict.to_dict() for verdict in verdicts], indent=1) + "\n"
        if self.junit is not None:
            texts[self.junit] = render_junit(verdicts, title)
        if self.html is not None:
            texts[self.html / PAGE] = render_html(verdicts, [title] * len(verdicts))
        for path, text in texts.items():
            with write_atomically(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
