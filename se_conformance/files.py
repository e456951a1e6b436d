"""Files that are written whole or not at all, and parameters in files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place once the block has ended well; its folder is made.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "new", "page.md")
    >>> with write_atomically(path) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('whole', 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_parameters(path: Path, parameters: dict[str, np.ndarray]) -> None:
    """By canonical names, as safetensors; float64, float32 or float16."""
    import safetensors.numpy

    # Of an array that lies otherwise in memory it would write the bytes as they lie, without a word.
    parameters = {name: np.asarray(value, order="C") for name, value in parameters.items()}
    with write_atomically(path) as temporary:
        safetensors.numpy.save_file(parameters, temporary)


def load_parameters(path: Path) -> dict[str, np.ndarray]:
    """The inverse of ``save_parameters``."""
    import safetensors.numpy

    parameters: dict[str, np.ndarray] = safetensors.numpy.load_file(path)
    return parameters
