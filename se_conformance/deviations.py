"""Known deviations: a text file in the project whose block is judged.

A line holds the name of a trial as the verdict prints it, where ``*`` matches any text; before it, if only one rank
deviates, the number of spatial axes; and after ``#`` the reason::

    NaN                 # our maximum drops NaN, issue 12
    3: one position     # 3-D maps of one position are not supported

A line whose trial ran and did not fail fails the verdict, so that no line outlasts its deviation.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from se_spec import SpecError
from se_spec.texts import quote

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Deviation:
    """One line of the file."""

    pattern: str
    rank: int | None
    reason: str
    line: int

    def covers(self, rank: int, trial: str) -> bool:
        """Whether the line excuses that trial."""
        return self.rank in (None, rank) and fnmatchcase(trial, self.pattern)


def read_deviations(path: str | Path | None) -> list[Deviation]:
    """Read the lines of a file of known deviations; an empty list for no path.

    Raises:
        SpecError: the file does not exist, or a line has no reason.
    """
    if path is None:
        return []
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        raise SpecError(f"deviations={quote(path if not isinstance(path, Path) else str(path))} is not a file")
    found = []
    for number, line in enumerate(_read_text(Path(path)).splitlines(), 1):
        text, _, reason = (part.strip() for part in line.partition("#"))
        if not text:
            continue
        if not reason:
            raise SpecError(f"{path}, line {number}: {quote(text)} has no reason; write one after a #")
        head, colon, tail = text.partition(":")
        rank = int(head) if colon and head in ("1", "2", "3") else None
        found.append(Deviation(tail.strip() if rank else text, rank, reason, number))
    return found


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError(f"{path} has {path.stat().st_size:,} bytes; expected a file of at most {MAX_BYTES:,}")
        return path.read_text("utf-8")
    except OSError as error:
        raise SpecError(f"{path} cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is no text in UTF-8 ({error})") from None
