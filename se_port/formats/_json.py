"""JSON of a file, as data."""

import json
from pathlib import Path
from typing import Any

from se_spec.texts import quote, shorten

from ._base import refuse

MAX_JSON_BYTES = 32 << 20
MAX_VALUE_BYTES = 192 << 20
"""Memory that a JSON may take as text and values; it is estimated before they are made."""
VALUE_BYTES = {b"{": 240, b"[": 88, b",": 40, b":": 50, b'"': 25}
"""About how many bytes of memory the object takes that a sign of JSON begins."""


def decode_json(path: Path, what: str, text: bytes | bytearray | memoryview, most: int = MAX_JSON_BYTES) -> Any:
    """Decode JSON in UTF-8; a name twice in one object, of which readers take the first or the last, is refused.

    Args:
        path: the file, for the error.
        what: the part of the file, for the error.
        text: in UTF-8.
        most: bytes of the text.

    Raises:
        FileFormatError: it is no JSON, too long, nested too deep, or of more values than a file of weights has.
    """
    if len(text) > most:
        refuse(path, f"{what} has {len(text):,} bytes", f"JSON of at most {most:,}")
    data = text if isinstance(text, bytes) else bytes(text)
    check_values(path, what, data)
    try:
        return json.loads(str(data, "utf-8"), object_pairs_hook=_make_object)
    except (ValueError, RecursionError) as error:
        refuse(path, f"{what} is no JSON that can be read ({shorten(error)})", "an undamaged copy")


def check_values(path: Path, what: str, data: bytes) -> None:
    """Refuse JSON whose values would take more memory than ``MAX_VALUE_BYTES``."""
    memory = len(data) * (1 if data.isascii() else 4) + sum(
        data.count(sign) * size for sign, size in VALUE_BYTES.items()
    )
    if memory > MAX_VALUE_BYTES:
        refuse(
            path,
            f"{what} is JSON whose values would take about {memory:,} bytes of memory",
            f"at most {MAX_VALUE_BYTES:,}",
        )


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = set[str]()
        twice = next(name for name, _ in pairs if name in names or names.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"a name occurs twice: {quote(twice)}")
    return made
