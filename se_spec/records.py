"""What a block did to a batch: its gates, and how strong its map was at each position before and after."""

from typing import Any, NamedTuple


class Record(NamedTuple):
    """What one SE block did in one call.

    Args:
        gates: shape (N, C), without the gain.
        before: shape (N, *spatial), the root mean square of the channels of x.
        after: the same of y.

    Example:
        >>> import numpy as np
        >>> record = summarize(np.array([[[3.0, 4.0]]]), np.array([[0.5, 0.0]]), np.array([[0.5, 0.0]]))
        >>> record.before.round(4), record.after.round(4)
        (array([[3.5355]], dtype=float32), array([[1.0607]], dtype=float32))
    """

    gates: Any
    before: Any
    after: Any


def summarize(x: Any, g: Any, s: Any) -> Record:
    """Summarize a call of a block.

    Args:
        x: shape (N, *spatial, C), the map, an array of NumPy like the others.
        g: shape (N, C), the gates.
        s: shape (N, C), what x was multiplied by.

    Returns:
        The record.

    Example:
        >>> import numpy as np
        >>> summarize(np.ones((2, 5, 3)), np.ones((2, 3)), np.ones((2, 3))).after.shape
        (2, 5)
    """
    wide = x.astype("float64")
    scaled = wide * s.astype("float64").reshape(len(s), *(1 for _ in x.shape[1:-1]), -1)
    before, after = (((value * value).mean(-1) ** 0.5).astype("float32") for value in (wide, scaled))
    return Record(g, before, after)


def name_call(path: str, records: dict[str, Record]) -> str:
    """Name a call of a block: its path, with the number of the call if that is not the first.

    Args:
        path: of the block.
        records: those that there are.

    Returns:
        The name, which no record has.

    Example:
        >>> name_call("se", {"se": Record(None, None, None)})
        'se, call 2'
    """
    count = 1 + sum(name == path or name.startswith(f"{path}, call ") for name in records)
    return path if count == 1 else f"{path}, call {count}"
