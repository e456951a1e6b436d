"""Known deviations: a text file that belongs to whoever is judged.

One trial per line, as the verdict names it, with ``*`` for any text, the number of spatial axes in front if it matters,
and the reason behind ``#``::

    NaN                 # our maximum drops NaN, issue 12
    3: one position     # 3-D maps of one position are not supported

A line that names a trial which ran and did not fail is an error: the file must not outlive the deviation.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from se_spec import SpecError


@dataclass(frozen=True)
class Deviation:
    """One line."""

    pattern: str
    rank: int | None
    reason: str
    line: int

    def covers(self, rank: int, trial: str) -> bool:
        """Whether it speaks of that trial."""
        return self.rank in (None, rank) and fnmatchcase(trial, self.pattern)


def read_deviations(path: str | Path | None) -> list[Deviation]:
    """The file's lines; none where there is no file to read.

    Raises:
        SpecError: the file is not there, or a line has no reason.
    """
    if path is None:
        return []
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        raise SpecError(f"deviations={path if not isinstance(path, Path) else str(path)!r} is not a file")
    found = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        text, _, reason = (part.strip() for part in line.partition("#"))
        if not text:
            continue
        if not reason:
            raise SpecError(f"{path}, line {number}: {text!r} has no reason; write one behind a #")
        head, colon, tail = text.partition(":")
        rank = int(head) if colon and head in ("1", "2", "3") else None
        found.append(Deviation(tail.strip() if rank else text, rank, reason, number))
    return found
