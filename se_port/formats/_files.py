"""Files of every format: recognise the format, read files with its module, and write them whole or not at all."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from se_spec import FileFormatError

from ._base import GuardedTensors, Tensors, check_names, import_optional, refuse, refuse_failures
from ._buffers import open_file
from ._targets import stage

FORMATS = {
    "hub": "a folder with shards, .index.json",
    "safetensors": ".safetensors",
    "npz": ".npz",
    "torchscript": "an archive of torch.jit.save",
    "torch_export": ".pt2",
    "paddle": ".pdmodel, .pdiparams, a PIR program's json",
    "paddle_state": ".pdparams, .pdopt",
    "torch": ".pt, .pth, .bin",
    "keras": ".weights.h5, .keras, .h5",
    "msgpack": ".msgpack",
    "orbax": "a folder",
    "tensorflow": ".index (checkpoint), a SavedModel's folder",
    "caffe": ".caffemodel",
    "mxnet": ".params",
    "matconvnet": ".mat",
    "onnx": ".onnx",
    "tflite": ".tflite",
    "graphdef": ".pb",
    "tfjs": "model.json of TensorFlow.js",
}
"""Each format's name, which is also its module's, and the usual endings of such files."""

WRITABLE = (
    "safetensors", "npz", "torch", "keras", "msgpack", "orbax", "tensorflow", "caffe", "mxnet", "matconvnet",
)  # fmt: skip
"""Formats that are written too."""
EXTRAS_FOR_WRITING = {"orbax": "port-orbax"}
"""The extra that a format needs to be written; without a row, that to be read, ``port``."""
WITH_PARTS = ("torch",)
"""Formats whose files may hold several mappings of names to tensors."""
WITH_METADATA = ("safetensors",)
"""Formats that have a place for texts."""
OF_SEVERAL_FILES = ("tensorflow",)
"""Formats of which one file names others, so that a new one must not use the names of the old."""
OF_FOLDERS = ("orbax",)
"""Formats that are a folder when they are written."""
HEAD_BYTES = 64


def read(path: str | Path, format: str | None = None, part: str | None = None) -> Tensors:
    """Read a file's tensors, by their names in it.

    Args:
        path: a file, or the folder of a format that is a folder.
        format: a name in ``FORMATS``; None recognises it from the content.
        part: the mapping of names to tensors to take, where a file of PyTorch has several.

    Raises:
        FileFormatError: no such file, an unknown format, a broken file, or a reader that is not installed.
    """
    path = Path(path)
    name = format or format_of(path)
    module = _import_format(name, f"read {path.name}")
    if part is not None and name not in WITH_PARTS:
        refuse(path, f"is of the format {name}, which has no parts such as {part!r}", f"one of {', '.join(WITH_PARTS)}")
    with refuse_failures(path):
        tensors: Tensors = module.read(path) if part is None else module.read(path, part)
        check_names(path, tensors)
    return tensors if type(tensors) is dict else GuardedTensors(path, tensors)


def read_metadata(path: Path, format: str) -> dict[str, str]:
    """Read the texts beside the tensors of a file; none where its format has no place for them."""
    if format not in WITH_METADATA:
        return {}
    with refuse_failures(path):
        metadata: dict[str, str] = _import_module(format).read_metadata(path)
    return metadata


def write(
    path: str | Path,
    tensors: Tensors,
    format: str | None = None,
    *,
    force: bool = False,
    metadata: Mapping[str, str] | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write all tensors or nothing.

    The format writes beside the target; what it wrote is moved when it is complete and on the disk. After any end of
    the program the target is what it was or is new, and whole. A folder is replaced only if it is a checkpoint such as
    this function writes, and nothing else is in it.

    Args:
        path: the file or folder to write; its ending chooses the format if ``format`` does not.
        tensors: the arrays by name.
        format: a name in ``FORMATS``.
        force: whether a path that exists is replaced.
        metadata: texts beside the tensors, where the format has a place for them.
        check: called with the complete file before it is moved; if it raises, nothing is written.

    Raises:
        FileFormatError: the path exists, its ending belongs to no format, the format cannot hold a tensor, or the
            system refuses, as on a full disk.
    """
    path = Path(path)
    name = format or format_by_name(path)
    module = _import_format(name, f"write {path.name}", EXTRAS_FOR_WRITING.get(name, "port"))
    options: dict[str, object] = {}
    if metadata and name in WITH_METADATA:
        options["metadata"] = metadata
    if name in OF_SEVERAL_FILES:
        options["replaced"] = path
    is_own_folder = module.is_own_folder if name in OF_FOLDERS else None
    finish = module.remove_old_files if name in OF_SEVERAL_FILES else None
    with stage(path, force, is_own_folder, finish) as staged:
        module.write(staged, tensors, **options)
        if check is not None:
            check(staged)


def format_of(path: Path) -> str:
    """Recognise a file's format from its content.

    Raises:
        FileFormatError: no such file, or no format matches.
    """
    with refuse_failures(path):
        if not path.exists() and not path.with_name(f"{path.name}.index").exists():
            raise FileFormatError(f"{path} does not exist; expected a file or folder with weights")
        head = b""
        if path.is_file():
            with open_file(path) as file:
                head = file.read(HEAD_BYTES)
        elif path.exists() and not path.is_dir():
            refuse(path, "is a device, a pipe or a socket", "a file or folder with weights")
        for name in FORMATS:
            if _import_module(name).matches(path, head):
                return name
    refuse(path, f"begins with {head[:16]!r}", f"one of the formats {', '.join(FORMATS)}")


def format_by_name(path: Path) -> str:
    """Choose the format to write from a path's ending.

    >>> format_by_name(Path("net.weights.h5"))
    'keras'
    """
    for name, endings in FORMATS.items():
        if path.name.endswith(tuple(word for word in endings.replace(",", " ").split() if word.startswith("."))):
            return name
    endings = "; ".join(f"{name}: {FORMATS[name]}" for name in WRITABLE)
    refuse(path, "has no ending that says a format", f"{endings}; or the name of a format, such as orbax")


def _import_format(name: str, purpose: str, extra: str = "port") -> ModuleType:
    """Import a format's module, after what it needs, which an extra has."""
    if name not in FORMATS:
        raise FileFormatError(f"{name!r} is no format; expected one of {', '.join(FORMATS)}")
    module = _import_module(name)
    for dependency in module.NEEDS:
        import_optional(dependency, purpose, extra)
    return module


def _import_module(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{name}")
