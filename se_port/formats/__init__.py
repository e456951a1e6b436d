"""Files as names and arrays, whatever their format; a file from a stranger is data and never runs.

One module per format, each with the same four names:

    NEEDS              modules beside NumPy without which it can do nothing
    recognises(path, head)     whether a path is such a file (or folder), from its first bytes and names alone
    read(path)         names to arrays, in the file's order, each read or mapped when it is asked for
    write(path, tensors)       the inverse, bit for bit; the folder is there, the path is not

``read`` checks every size, offset and shape against the file before it allocates anything; what is wrong with a file is
a ``FileFormatError`` that names it.
"""

import importlib
import importlib.util
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np

from se_spec import FileFormatError

Tensors = Mapping[str, np.ndarray]

FORMATS = {
    "safetensors": ".safetensors",
    "npz": ".npz",
    "torch": ".pt, .pth, .bin",
    "keras": ".weights.h5, .keras, .h5",
    "msgpack": ".msgpack",
    "orbax": "a folder",
    "tensorflow": ".index (TF1 checkpoint), a SavedModel's folder",
    "caffe": ".caffemodel",
    "mxnet": ".params",
    "matconvnet": ".mat",
    "onnx": ".onnx",
}
"""By name, which is also that of the module; how such files usually end."""

MAX_BYTES = 8 << 30
"""What a file may unpack to; SENet-154 has 0.44 GB."""


def read(path: str | Path, format: str | None = None) -> Tensors:
    """A file's tensors, by their names there.

    Raises:
        FileFormatError: no such file, a format that is not known, a file that is broken, or a reader that is missing.
    """
    path = Path(path)
    name = format or format_of(path)
    tensors: Tensors = _module(name, f"read {path.name}").read(path)
    return tensors


def write(path: str | Path, tensors: Tensors, format: str | None = None, *, force: bool = False) -> None:
    """Write all or nothing; a path that exists is kept unless ``force``.

    Raises:
        FileFormatError: the path exists, its ending says no format, or the format cannot hold a tensor.
    """
    path = Path(path)
    module = _module(format or format_by_name(path), f"write {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        module.write(Path(folder, path.name), tensors)
        made = {new: path.parent / new.name for new in sorted(Path(folder).iterdir())}
        there = [str(old) for old in made.values() if old.exists()]
        if there and not force:
            refuse(path, f"{', '.join(there)} is there already", "another path, or force to replace it")
        for new, old in made.items():
            if old.is_dir():
                old.rename(Path(folder, f"{old.name}.old"))  # goes with the folder
            new.replace(old)


def format_of(path: Path) -> str:
    """What a file is, from its content."""
    if not path.exists() and not path.with_name(f"{path.name}.index").exists():
        raise FileFormatError(f"{path} does not exist; expected a file or folder with weights")
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(64)
    for name in FORMATS:
        if _load(name).recognises(path, head):
            return name
    refuse(path, f"begins with {head[:16]!r}", f"one of the formats {', '.join(FORMATS)}")


def format_by_name(path: Path) -> str:
    """What to write, from a path's ending.

    >>> format_by_name(Path("net.weights.h5"))
    'keras'
    """
    for name, endings in FORMATS.items():
        if path.name.endswith(tuple(one for one in endings.replace(",", " ").split() if one.startswith("."))):
            return name
    refuse(path, "has no ending that says a format", "; ".join(f"{n}: {endings}" for n, endings in FORMATS.items()))


def refuse(path: Path, wrong: str, expected: str) -> NoReturn:
    """Raise the one kind of ``FileFormatError``."""
    raise FileFormatError(f"{path}: {wrong}; expected {expected}")


def checked_bytes(path: Path, name: str, shape: tuple[int, ...], itemsize: int, available: int | None = None) -> int:
    """The bytes of a tensor that a header announces, before anything is allocated; ``available`` are left in the file.

    Raises:
        FileFormatError: an axis is negative, there are more than 32 of them, or the bytes are not available.
    """
    if len(shape) > 32 or any(length < 0 for length in shape):
        refuse(path, f"{name!r} has the shape {shape}", "at most 32 axes, none negative")
    size = math.prod(shape) * itemsize
    largest = math.prod(length or 1 for length in shape) * itemsize  # no array has the axes (0, 2**62)
    most = MAX_BYTES if available is None else available
    if size > most or largest > max(most, MAX_BYTES):
        refuse(path, f"{name!r} {shape} would take {largest:,} bytes", f"at most {most:,}")
    return size


def bfloat16() -> np.dtype:
    """NumPy's name for it, which ``ml_dtypes`` gives."""
    return np.dtype(needed("ml_dtypes", "bfloat16").bfloat16)


def needed(module: str, what_for: str) -> ModuleType:
    """An optional dependency, imported; or the error that names it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FileFormatError(
            f"{what_for} needs {module}, which is not installed; pip install 'se-suite[port]'"
        ) from error


def _module(name: str, what_for: str) -> ModuleType:
    if name not in FORMATS:
        raise FileFormatError(f"{name!r} is no format; expected one of {', '.join(FORMATS)}")
    module = _load(name)
    for dependency in module.NEEDS:
        needed(dependency, what_for)
    return module


def _load(name: str) -> ModuleType:
    return importlib.import_module(f".{name}", __name__)
