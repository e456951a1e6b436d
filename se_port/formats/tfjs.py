"""TensorFlow.js's models: ``model.json`` and its shards, of graph models and layers models.

The JSON has a manifest: groups of weights, each a name, a shape and a dtype, that lie one after the other in the files
of the group, as if these were one. A quantized weight is stored as float16, and returned so, or as uint8 or uint16,
and returned as ``scale * integer + minimum`` in float32. Names are those of a graph's nodes, or of Keras' weights, such
as ``block1a_se_reduce/kernel``. Text is left out. A path is the JSON or its folder. Nothing is written: weights are no
model.
"""

import base64
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from se_spec.texts import quote

from ..lazy_arrays import LazyArrays
from ._base import Budget, Tensors, count_bytes, refuse, refuse_to_write
from ._buffers import FileMaps, array_from_buffer, little_endian_dtype, map_file, read_file
from ._graphdef import ATTRIBUTES, Function, GraphDef, NodeDef
from ._json import MAX_JSON_BYTES, decode_json
from ._wire import MAX_AXES

NEEDS: tuple[str, ...] = ()

FILE = "model.json"
MANIFEST = "weightsManifest"
CHUNK_ELEMENTS = 1 << 18
"""Numbers that are computed at once, in float64."""
MAX_NAME_BYTES = 255
"""Of a file; file systems have no longer names."""
DTYPES = ("float32", "int32", "bool", "complex64")
QUANTIZED = ("float16", "uint8", "uint16")


class Weight(NamedTuple):
    """A weight of the manifest.

    Args:
        dtype: as it is stored.
        shape: of the array.
        read_bytes: maps or joins its bytes.
        scale, minimum: of integers that stand for real numbers; None if it is stored as it is.
        is_rounded: whether the numbers were integers.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    read_bytes: Callable[[], memoryview]
    scale: float | None
    minimum: float
    is_rounded: bool


def matches(path: Path, head: bytes) -> bool:
    """Whether the file is JSON with a manifest of weights, or a folder has such a ``model.json``."""
    file = path / FILE if path.is_dir() else path
    if not file.name.endswith(".json") or not file.is_file() or not 0 < file.stat().st_size <= MAX_JSON_BYTES:
        return False
    return map_file(file).find(f'"{MANIFEST}"'.encode()) >= 0


def read(path: Path) -> Tensors:
    """Map the weights; those that are quantized as integers are computed at every access.

    Raises:
        FileFormatError: the JSON or its manifest is broken, or a file of weights is missing or too short.
    """
    weights = read_weights(path, read_json(path))
    if not weights:
        refuse(path, "is a TensorFlow.js model without weights", "a manifest with some")
    return LazyArrays({name: partial(load_weight, path, name, weight) for name, weight in weights.items()})


def write(path: Path, tensors: Tensors) -> NoReturn:
    """Refuse to write.

    Raises:
        FileFormatError: always, since weights are no model.
    """
    refuse_to_write(path, "a TensorFlow.js model", tensors, "another format; or convert the model itself")


def read_json(path: Path) -> dict[str, Any]:
    """Parse the JSON of a model.

    Raises:
        FileFormatError: it is none, or too large.
    """
    file = path / FILE if path.is_dir() else path
    model = decode_json(path, "a TensorFlow.js model", read_file(file, MAX_JSON_BYTES), MAX_JSON_BYTES)
    if not isinstance(model, dict):
        refuse(path, "is JSON without names", "a TensorFlow.js model")
    return model


def read_weights(path: Path, model: dict[str, Any]) -> dict[str, Weight]:
    """Find every weight of the manifest in the files.

    Raises:
        FileFormatError: the manifest is broken, or a file of weights is missing or too short.
    """
    folder = path if path.is_dir() else path.parent
    weights: dict[str, Weight] = {}
    maps, budget, used = FileMaps(), Budget(path), set[Path]()
    for group in _list(path, model.get(MANIFEST)):
        fields = _dict(path, group)
        files = [_find_shard(path, folder, name) for name in _list(path, fields.get("paths"))]
        if used & set(files) or len(set(files)) < len(files):
            refuse(path, "has a file of weights twice in its manifest", "each once")
        used |= set(files)
        shards = _Shards(path, [maps.map(file) for file in files])
        place = 0
        for entry in _list(path, fields.get("weights")):
            name, weight, place = _place_weight(path, _dict(path, entry), shards, place)
            budget.spend_name(name)
            if name in weights:
                refuse(path, f"has the weight {quote(name)} twice", "each name once")
            if weight is not None:
                weights[name] = weight
    return weights


def load_weight(path: Path, name: str, weight: Weight) -> np.ndarray:
    """View a weight, or compute the numbers that its integers stand for, in float32."""
    array = array_from_buffer(path, name, weight.read_bytes(), weight.dtype, weight.shape)
    if weight.scale is None:
        return array
    with np.errstate(all="ignore"):
        flat = array.reshape(-1)
        out = np.empty(flat.size, np.int32 if weight.is_rounded else np.float32)
        for start in range(0, flat.size, CHUNK_ELEMENTS):
            values = flat[start : start + CHUNK_ELEMENTS].astype(np.float64) * weight.scale + weight.minimum
            out[start : start + CHUNK_ELEMENTS] = np.round(values) if weight.is_rounded else values
        return out.reshape(array.shape)


class _Shards:
    """Files that are read as if they were one."""

    def __init__(self, path: Path, parts: list[memoryview]) -> None:
        self._path, self._parts = path, parts
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return int(self._ends[-1]) if len(self._parts) else 0

    def read(self, start: int, size: int) -> memoryview:
        """View bytes within one file, or join them."""
        pieces = []
        first = int(np.searchsorted(self._ends, start, "right"))
        while size > 0:
            part = self._parts[first]
            offset = start - int(self._ends[first]) + len(part)
            piece = part[offset : offset + size]
            pieces.append(piece)
            start, size, first = start + len(piece), size - len(piece), first + 1
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def _place_weight(path: Path, entry: dict[str, Any], shards: _Shards, place: int) -> tuple[str, Weight | None, int]:
    """Find a weight that begins at a place; returns the place behind it. None stands for text."""
    name, dtype = _text(path, entry.get("name")), _text(path, entry.get("dtype"))
    shape = tuple(_integer(path, length) for length in _list(path, entry.get("shape")))
    if len(shape) > MAX_AXES or min(shape, default=0) < 0:
        refuse(path, f"{quote(name)} has the shape {shape[:MAX_AXES]}", f"at most {MAX_AXES} axes, none negative")
    if dtype == "string":
        return name, None, _skip_texts(path, name, math.prod(shape), shards, place)
    scale, minimum, stored = None, 0.0, dtype
    if entry.get("quantization") is not None:
        fields = _dict(path, entry["quantization"])
        stored = _text(path, fields.get("dtype"))
        if stored not in QUANTIZED:
            refuse(path, f"{quote(name)} is quantized as {stored!r}", f"one of {', '.join(QUANTIZED)}")
        if stored != "float16":
            scale, minimum = _number(path, fields.get("scale")), _number(path, fields.get("min"))
    elif dtype not in DTYPES:
        refuse(path, f"{quote(name)} is of TensorFlow.js' dtype {dtype!r}", f"one of {', '.join(DTYPES)}")
    kind = little_endian_dtype(stored)
    size = count_bytes(path, name, shape, kind.itemsize, max(0, shards.size - place))
    return name, Weight(kind, shape, partial(shards.read, place, size), scale, minimum, dtype == "int32"), place + size


def _skip_texts(path: Path, name: str, count: int, shards: _Shards, place: int) -> int:
    """Find the end of texts, each of which follows its length."""
    for _ in range(count):
        if place + 4 > shards.size:
            refuse(path, f"{quote(name)} has {count:,} texts", f"as many as {shards.size:,} bytes have")
        place += 4 + int.from_bytes(shards.read(place, 4), "little")
    return place


def _find_shard(path: Path, folder: Path, name: Any) -> Path:
    """Find a plain file in the model's own folder."""
    text = _text(path, name)
    data = folder / text
    # In a cache of the Hugging Face hub all files are links into one folder.
    plain = text not in ("", ".", "..") and not set(text) & set("/\\:\0")
    if len(text.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        refuse(path, f"has weights in a file whose name has {len(text):,} letters", f"at most {MAX_NAME_BYTES} bytes")
    if not plain or (data.is_symlink() and data.resolve().parent != (folder / FILE).resolve().parent):
        refuse(path, f"has weights in {text[:80]!r}", "the name of a file in the same folder")
    if not data.is_file():
        refuse(path, f"has weights in {text[:80]!r}, which is not there", "that file beside it")
    return data


def parse_topology(path: Path, model: dict[str, Any]) -> GraphDef:
    """Parse the graph of a graph model; without nodes if it is a layers model.

    Raises:
        FileFormatError: a node is broken.
    """
    topology = model.get("modelTopology")
    if not isinstance(topology, dict) or "node" not in topology:
        return GraphDef((), {})
    nodes = tuple(_parse_node(path, _dict(path, node)) for node in _list(path, topology["node"]))
    functions = {}
    for fields in _list(path, _dict(path, topology.get("library") or {}).get("function")):
        function = _parse_function(path, _dict(path, fields))
        functions[function.name] = function
    return GraphDef(nodes, functions)


def _parse_node(path: Path, fields: dict[str, Any]) -> NodeDef:
    inputs = tuple(_text(path, name) for name in _list(path, fields.get("input")))
    attributes = {
        key: _parse_attribute(path, _dict(path, value))
        for key, value in _dict(path, fields.get("attr") or {}).items()
        if key in ATTRIBUTES and key != "value"
    }
    return NodeDef(_text(path, fields.get("name")), _text(path, fields.get("op")), inputs, attributes)


def _parse_attribute(path: Path, fields: dict[str, Any]) -> Any:
    """Parse an AttrValue in protobuf's JSON, in which bytes are base64 and long integers are text."""
    for kind, value in fields.items():
        if kind == "list":
            return [
                _parse_attribute(path, {part: element})
                for part, elements in _dict(path, value).items()
                for element in _list(path, elements)
            ]
        if kind == "s":
            return _decode_base64(path, value)
        if kind == "i":
            return _integer(path, value)
        if kind == "f":
            return _number(path, value)
        if kind == "b":
            return bool(value)
        if kind == "func":
            return _text(path, _dict(path, value).get("name"))
        if kind == "shape":
            return _parse_shape(path, _dict(path, value))
    return None


def _parse_shape(path: Path, fields: dict[str, Any]) -> tuple[int, ...] | None:
    axes = _list(path, fields.get("dim"))
    if fields.get("unknownRank") or len(axes) > MAX_AXES:
        return None
    return tuple(_integer(path, _dict(path, axis).get("size", 0)) for axis in axes)


def _parse_function(path: Path, fields: dict[str, Any]) -> Function:
    signature = _dict(path, fields.get("signature"))
    arguments, outputs = (
        [_text(path, _dict(path, argument).get("name")) for argument in _list(path, signature.get(key))]
        for key in ("inputArg", "outputArg")
    )
    results = _dict(path, fields.get("ret") or {})
    nodes = tuple(_parse_node(path, _dict(path, node)) for node in _list(path, fields.get("nodeDef")))
    found = tuple(_text(path, results.get(output)) for output in outputs)
    return Function(_text(path, signature.get("name")), tuple(arguments), nodes, found)


def _decode_base64(path: Path, value: Any) -> str:
    try:
        return base64.b64decode(_text(path, value), validate=True).decode("utf-8", "replace")
    except ValueError:
        refuse(path, f"has bytes that are no base64: {quote(value, 80)}", "protobuf's JSON")


def _dict(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        refuse(path, f"has {quote(value, 80)} where names and values are", "a TensorFlow.js model")
    return value


def _list(path: Path, value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list):
        refuse(path, f"has {quote(value, 80)} where a list is", "a TensorFlow.js model")
    return value or []


def _text(path: Path, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        refuse(path, f"has {quote(value, 80)} where a name is", "a TensorFlow.js model")
    return value or ""


def _integer(path: Path, value: Any) -> int:
    if isinstance(value, str) and len(value) < 20 and value.lstrip("-").isdecimal() and value.isascii():
        value = int(value.lstrip("-")) * (-1 if value.startswith("-") else 1)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        refuse(path, f"has {quote(value, 80)} where an integer is", "a TensorFlow.js model")
    return value


def _number(path: Path, value: Any) -> float:
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300:
        refuse(path, f"has {quote(value, 80)} where a number is", "a TensorFlow.js model")
    return float(value)
