"""Endings of files, atomic writing, parameters in safetensors files; the import needs the standard library alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MODEL_ENDINGS = {".onnx": "onnx", ".tflite": "tflite"}
"""Endings of files that are judged, and the names of their adapters."""
SCRIPT_ENDINGS = (".pt", ".pth", ".ts", ".torchscript")
"""Endings of TorchScript files, whose code runs when they are loaded."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the with block ends without an exception.

    Args:
        path: the file to write; its folder is made if it does not exist.

    Example:
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
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # the name that the caller knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_parameters(path: Path, parameters: dict[str, "np.ndarray"]) -> None:
    """Write parameters in float64, float32 or float16 to a safetensors file by their canonical names."""
    import numpy as np
    import safetensors.numpy

    # safetensors writes the bytes of a transposed array in memory order, and reports nothing
    parameters = {name: np.asarray(value, order="C") for name, value in parameters.items()}
    with write_atomically(path) as temporary:
        safetensors.numpy.save_file(parameters, temporary)


def load_parameters(path: Path) -> dict[str, "np.ndarray"]:
    """Read the parameters that ``save_parameters`` wrote."""
    import safetensors.numpy

    parameters: dict[str, np.ndarray] = safetensors.numpy.load_file(path)
    return parameters
