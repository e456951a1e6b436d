r"""Keras's files: ``.weights.h5`` and ``.keras`` of Keras 3, ``.h5`` of Keras 1, 2 and 3; all of them HDF5.

**Keras 3** (keras/src/saving/saving_lib.py of 3.15) stores variables by position, not by name. Each layer has a group,
and in it a group ``vars`` with the datasets ``0``, ``1``, ...: the layer's trainable variables, then the others. These
are kernel and bias of ``Dense`` and ``Conv2D``, and gamma, beta, mean and variance of ``BatchNormalization``. The
group's path does not contain the layer's own name either. It is made of attributes: ``layers`` in a ``Functional`` or
``Sequential`` model, in a subclass the attributes that its ``__init__`` sets (``self.fc1`` is ``fc1``). A member of a
list or dictionary is the class's name in snake case, counted within that list from the second on: ``layers/conv2d``,
``layers/conv2d_1``, ``layers/re_lu``. A model within a model is such a member, too:
``layers/sequential/layers/dense``; a list within a list is ``container``. The layer's own name is an attribute
``name`` of the group ``vars``. Older files lack it; then ``config.json`` of a ``.keras`` file has it, for
``Functional`` and ``Sequential`` models.

A tensor's name is that path without ``vars``, in which each layer's own name, where it is known, follows a colon:
``layers/conv2d_1:stem_conv/0``, ``layers/sequential:head/layers/dense:logits/1``. A pattern such as
``:([^/:]+)/(\d+)$`` finds own name and position; the name of the whole model is left out. Names are sorted by their
parts, numbers as numbers; in files that ``write`` made, they are in the order given.

A **.keras** file is a zip with ``config.json``, ``metadata.json`` and ``model.weights.h5``. Class names and layers'
names of the configuration are read as data; no object is made of it, so nothing that a stranger wrote there runs. Such
a file cannot be written, since weights do not describe their model.

The **legacy .h5** (keras/src/legacy/saving/legacy_h5_format.py) has groups named in the attribute ``layer_names``,
and in each the datasets named in ``weight_names``; in a whole model they are below ``model_weights``. A tensor's name
is its weight's without ``:0``, prefixed by the layer's unless it begins with it: ``block1a_se_reduce/kernel``.

Reading needs neither Keras nor h5py (``_hdf5`` says why), writing needs h5py. Weights in several files
(``.weights.json``) are not read.
"""

import io
import mmap
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from se_spec.texts import quote

from . import _hdf5
from ._base import Budget, Tensors, import_optional, refuse
from ._buffers import check_dtype, map_file
from ._json import decode_json
from ._zips import read_directory, read_verified

NEEDS: tuple[str, ...] = ()

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
MEMBER, CONFIG = "model.weights.h5", "config.json"
MAX_CONFIG_BYTES = 8 << 20
MAX_INFLATION, MIN_INFLATED_BYTES = 16, 64 << 20
"""How many times as large compressed weights may become, and how large they may be in any case."""
CLASHES = (ValueError, TypeError, KeyError, OSError, RuntimeError)
"""Errors of h5py for names that clash."""
ATTRIBUTE_BYTES = 64_000
"""HDF5 stores no larger attribute; Keras then numbers ``layer_names0``, ``layer_names1``, ..."""
VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
"""Names of Keras's variables, none of which is a position."""
TOP = "top_level_model_weights"


def matches(path: Path, head: bytes) -> bool:
    """Whether the file is HDF5, or a zip with the ending ``.keras``."""
    return head.startswith(_hdf5.SIGNATURE) or (head.startswith(b"PK") and path.name.endswith(".keras"))


def read(path: Path) -> Tensors:
    """Map tensors, by names as above.

    Raises:
        FileFormatError: the file is broken, or not as Keras writes it.
    """
    data = map_file(path)
    weights, own_names = _open_archive(path, data) if data[:2] == b"PK" else (memoryview(data), {})
    reader = _hdf5.Reader(path, weights)
    root = reader.read_object(reader.root)
    children = root.children or {}
    if "model_weights" in children and not _read_names(reader, root, "layer_names"):
        root = reader.read_object(children["model_weights"])
    if "layer_names" in root.attributes or "layer_names0" in root.attributes:
        return dict(_read_legacy(reader, root))
    return _read_by_position(reader, root, own_names)


def write(path: Path, tensors: Tensors) -> None:
    """Write ``.weights.h5`` for a model with layers at those paths, or ``.h5`` for a model with layers of those names.

    In an ``.h5``, layers are in the order of their first weights, since Keras matches them by order.

    Raises:
        FileFormatError: ``.keras``, a name that HDF5 cannot hold, or a dtype that Keras does not have.
    """
    if path.name.endswith(".keras"):
        refuse(path, "would need the model itself, not its weights alone", "the ending .weights.h5")
    h5py = import_optional("h5py", f"write {path.name}")
    by_position = path.name.endswith(".weights.h5")
    with path.open("wb+", buffering=0) as raw:
        target = _FileForHDF5(raw)
        try:
            with h5py.File(target, "w", libver="earliest") as file:
                try:
                    (_write_by_position if by_position else _write_legacy)(path, file, tensors)
                except CLASHES as error:
                    target.raise_failure()
                    refuse(path, f"HDF5 cannot hold these names: {error}", "names of which none begins another")
        finally:
            target.raise_failure()


class _FileForHDF5(io.RawIOBase):
    """A file for h5py, which keeps what fails and goes on as if it had not.

    The HDF5 library ends the process, or leaves it unusable, where a write fails while a file is closed.

    Args:
        raw: the file, without a buffer.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._failure: BaseException | None = None

    def raise_failure(self) -> None:
        """Raise what failed first, if anything has."""
        if self._failure is not None:
            raise self._failure

    def _try(self, call: Callable[[], int | None]) -> int | None:
        if self._failure is None:
            try:
                return call()
            except BaseException as error:  # KeyboardInterrupt, too: HDF5 must reach its end
                self._failure = error
        return None

    def seek(self, place: int, whence: int = 0) -> int:
        return self._try(lambda: self._raw.seek(place, whence)) or 0

    def tell(self) -> int:
        return self._try(self._raw.tell) or 0

    def readinto(self, buffer: Any) -> int:
        return self._try(lambda: self._raw.readinto(buffer)) or 0

    def write(self, data: Any) -> int:
        self._try(lambda: _write_all(self._raw, memoryview(data)))
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        return self._try(lambda: self._raw.truncate(size)) or 0

    def flush(self) -> None:
        self._try(self._raw.flush)  # writes nothing: the file has no buffer; at its own end the file is closed


def _write_all(file: io.FileIO, data: memoryview) -> int:
    """Write all bytes, in as many pieces as the system takes."""
    place = 0
    while place < len(data):
        place += file.write(data[place:])
    return place


def _open_archive(path: Path, data: mmap.mmap) -> tuple[memoryview, dict[str, str]]:
    """Open a ``.keras`` file: its weights, mapped if the member is not compressed, and layers' names by their paths."""
    found = read_directory(path, data)
    for name in (MEMBER, CONFIG):
        if name not in found:
            refuse(path, f"holds {sorted(found)[:8]}", f"{name}, as Keras writes it")
    if found[CONFIG].size > MAX_CONFIG_BYTES:
        refuse(path, f"{CONFIG} would unpack to {found[CONFIG].size:,} bytes", f"at most {MAX_CONFIG_BYTES:,}")
    weights = found[MEMBER]
    if not weights.stored and weights.size > MIN_INFLATED_BYTES + MAX_INFLATION * weights.packed:
        wrong = f"{MEMBER} would unpack from {weights.packed:,} bytes to {weights.size:,}"
        refuse(path, wrong, f"at most {MAX_INFLATION} times as many, or a member that is stored, as Keras writes it")
    config = read_verified(path, CONFIG, data, found[CONFIG])
    return read_verified(path, MEMBER, data, found[MEMBER]), _collect_names(path, bytes(config))


def _collect_names(path: Path, config: bytes) -> dict[str, str]:
    """Collect layers' own names by their paths, as far as a configuration has them."""
    model = decode_json(path, f"has a {CONFIG} that", config, MAX_CONFIG_BYTES)
    budget = Budget(path)
    found: dict[str, str] = {}
    stack: list[tuple[str, Any]] = [("", model)]
    while stack:
        prefix, node = stack.pop()
        inner = node.get("config") if isinstance(node, dict) else None
        layers = inner.get("layers") if isinstance(inner, dict) else None
        counts: dict[str, int] = {}
        for layer in layers if isinstance(layers, list) else ():
            kind = layer.get("class_name") if isinstance(layer, dict) else None
            # The list also has functions such as ``x + y``, which are no layers.
            if not isinstance(kind, str) or str(layer.get("module")).startswith(("keras.ops", "keras.src.ops")):
                continue
            if len(kind) > _hdf5.MAX_TEXT:
                refuse(path, f"has a layer of the class {quote(kind)}", f"a name of at most {_hdf5.MAX_TEXT}")
            part = _to_snake_case(kind)
            counts[part] = counts.get(part, -1) + 1
            path_in_model = f"{prefix}layers/{part}" + (f"_{counts[part]}" if counts[part] else "")
            settings = layer.get("config")
            name = settings.get("name") if isinstance(settings, dict) else None
            if isinstance(name, str) and 0 < len(name) <= _hdf5.MAX_TEXT and "/" not in name:
                budget.spend_name(path_in_model)
                found[path_in_model] = name
            if len(path_in_model) < _hdf5.MAX_TEXT:
                stack.append((f"{path_in_model}/", layer))
    return found


def _to_snake_case(name: str) -> str:
    """Convert to snake case as Keras does: an underscore before a capitalised word and after a small letter.

    >>> _to_snake_case("GlobalAveragePooling2D"), _to_snake_case("ReLU"), _to_snake_case("Conv2D")
    ('global_average_pooling2d', 're_lu', 'conv2d')
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _read_by_position(reader: _hdf5.Reader, root: _hdf5.Object, own_names: dict[str, str]) -> dict[str, np.ndarray]:
    found: list[tuple[tuple[Any, ...], tuple[str, ...], np.ndarray]] = []
    budget = Budget(reader.path)
    keys = cache(_natural_key)
    for names, node in reader.walk(root):
        budget.spend_name("/".join(names))
        if names and names[-1] == "vars":
            layer_name = reader.read_text(node, "name") or []
            if len(layer_name) == 1 and layer_name[0] and "/" not in layer_name[0]:
                own_names["/".join(names[:-1])] = layer_name[0]
        if node.array is not None:
            if len(names) < 2 or names[-2] != "vars":
                reader.refuse(f"has the dataset {'/'.join(names)!r}", "Keras's, each within a group named vars")
            order = reader.read_integer(node, "order")
            key = (order is None, order or 0, [keys(name) for name in names])
            found.append((key, (*names[:-2], names[-1]), node.array))
    answer: dict[str, np.ndarray] = {}
    for _, (*layers, place), array in sorted(found, key=lambda item: item[0]):
        parts = []
        for depth, layer in enumerate(layers):
            own_name = own_names.get("/".join(layers[: depth + 1]))
            parts.append(f"{layer}:{own_name}" if own_name else layer)
        name = "/".join([*parts, place])
        if name in answer:
            reader.refuse(f"has two tensors {quote(name)}", "one of each name")
        answer[name] = array
    return answer


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Make a sort key by which ``conv2d_9`` comes before ``conv2d_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,18})", name)]


def _read_legacy(reader: _hdf5.Reader, root: _hdf5.Object) -> Iterator[tuple[str, np.ndarray]]:
    datasets: dict[str, np.ndarray] = {}
    groups: dict[str, _hdf5.Object] = {}
    budget = Budget(reader.path)
    for names, node in reader.walk(root):
        budget.spend_name("/".join(names))
        if node.array is None:
            groups["/".join(names)] = node
        else:
            datasets["/".join(names)] = node.array
    layers = _read_names(reader, root, "layer_names")
    seen = set()
    for layer in [*layers, TOP] if TOP in groups and TOP not in layers else layers:
        if layer not in groups:
            reader.refuse(f"has no group {quote(layer)}", "one for each of its layer_names")
        for weight in _read_names(reader, groups[layer], "weight_names"):
            if f"{layer}/{weight}" not in datasets:
                reader.refuse(f"has no dataset {quote(weight)} in {quote(layer)}", "one for each of its weight_names")
            short = weight.removesuffix(":0")
            name = short if short.startswith(f"{layer}/") else f"{layer}/{short}"
            if name in seen:
                reader.refuse(f"has two weights {quote(name)}", "one of each name")
            seen.add(name)
            yield name, datasets[f"{layer}/{weight}"]


def _read_names(reader: _hdf5.Reader, group: _hdf5.Object, name: str) -> list[str]:
    """Read an attribute with names; Keras splits a large one into numbered attributes."""
    if name in group.attributes:
        return reader.read_text(group, name) or []
    names: list[str] = []
    for part in range(len(group.attributes)):
        if f"{name}{part}" not in group.attributes:
            break
        names += reader.read_text(group, f"{name}{part}") or []
    return names


def _write_by_position(path: Path, file: Any, tensors: Tensors) -> None:
    for order, (name, tensor) in enumerate(tensors.items()):
        *layers, place = _split_name(path, name)
        if place.endswith(VARIABLES):
            refuse(path, f"{name!r} is no place in a layer", "layers/conv2d_1:own_name/0; or an .h5, by names")
        group = file
        for layer in layers:
            part, _, layer_name = layer.partition(":")
            group = group.require_group(part)
            if layer_name and group.require_group("vars").attrs.setdefault("name", layer_name) != layer_name:
                refuse(
                    path, f"{group.name} would be called {layer_name!r} and something else", "one name for each layer"
                )
        array = np.asarray(tensor)
        check_dtype(path, name, array, (*DTYPES, "bfloat16"))
        dataset = group.require_group("vars").create_dataset(place, data=array)
        dataset.attrs["order"] = np.int64(order)
        if array.dtype.name == "bfloat16":
            dataset.attrs["dtype"] = "bfloat16"


def _write_legacy(path: Path, file: Any, tensors: Tensors) -> None:
    weights: dict[str, list[str]] = {}
    for name in tensors:
        layer, *rest = _split_name(path, name)
        if not rest:
            refuse(path, f"{name!r} names no layer", "layer/weight")
        weights.setdefault(layer, []).append(name)
    _write_names(file, "layer_names", [layer for layer in weights if layer != TOP])
    file.attrs["backend"] = np.bytes_(b"tensorflow")
    file.attrs["keras_version"] = np.bytes_(b"3.0.0")
    for layer, names in weights.items():
        group = file.create_group(layer)
        _write_names(group, "weight_names", names)
        for name in names:
            array = np.asarray(tensors[name])
            check_dtype(path, name, array, DTYPES)
            group.create_dataset(name, data=array)


def _write_names(group: Any, attribute: str, names: list[str]) -> None:
    encoded = np.array([name.encode() for name in names], np.bytes_)
    count = -(-encoded.nbytes // ATTRIBUTE_BYTES)
    for part, some in enumerate(np.array_split(encoded, max(1, count))):
        group.attrs[f"{attribute}{part}" if count > 1 else attribute] = some


def _split_name(path: Path, name: str) -> list[str]:
    parts = name.split("/")
    longest = max(len(part.encode()) for part in parts)
    if len(parts) > _hdf5.MAX_DEPTH - 4 or longest >= _hdf5.MAX_TEXT or "\0" in name or {"", ".", ".."} & set(parts):
        refuse(path, f"{name[:80]!r} is no name for HDF5", "short parts joined by '/', none '.' or empty")
    return parts
