"""JSON of a file, as data."""

import json
from pathlib import Path
from typing import Any

from ._base import refuse

MAX_JSON_BYTES = 256 << 20


def decode_json(path: Path, what: str, text: bytes | memoryview) -> Any:
    """Decode JSON.

    Args:
        path: the file, for the error.
        what: the part of the file, for the error.
        text: in UTF-8.

    Raises:
        FileFormatError: it is no JSON, too long, or nested too deep.
    """
    if len(text) > MAX_JSON_BYTES:
        refuse(path, f"{what} has {len(text):,} bytes", f"at most {MAX_JSON_BYTES:,}")
    try:
        return json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        refuse(path, f"{what} is no JSON that can be read ({error})", "an undamaged copy")
