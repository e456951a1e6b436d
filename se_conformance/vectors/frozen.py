"""Frozen vectors: inputs and right answers as files, so that a block in any language can be judged.

``manifest.json`` describes each vector and names its tensors in ``vectors.safetensors``; equal tensors are stored
once. The inputs are probes, the answers exact and rounded once: y to the vector's dtype, g to float32, or to
float64 where y is. Maps are channels last.
"""

import hashlib
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

import se_spec
from se_spec import HardSigmoid, LayoutError, LeakyReLU, SEError, SESpec
from se_spec.nonlinearities import ACTIVATIONS, GATES
from se_spec.texts import quote, shorten

from ..cases import round_to
from ..files import write_atomically
from ..probes import probe_for
from . import exact

FORMAT = 1
MAX_BYTES = 64 << 20
"""Bytes of either file; those of the package have less than one million."""
MANIFEST, TENSORS = "manifest.json", "vectors.safetensors"
_STORED = {"F64": "float64", "F32": "float32", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Vector:
    """One block, one input and the right answer.

    Args:
        name: unique among the vectors.
        spec: which block.
        dtype: the dtype of x, the parameters and y.
        x: the feature map, (N, *space, C).
        parameters: the canonical parameters.
        y: the right output, (N, *space, C).
        g: the right gate, (N, C), in float32, or float64 where y is.
    """

    name: str
    spec: SESpec
    dtype: str
    x: np.ndarray
    parameters: dict[str, np.ndarray]
    y: np.ndarray
    g: np.ndarray


def load(folder: str | Path | None = None) -> list[Vector]:
    """Read the vectors of a folder, or those of the package, and checks every byte.

    Args:
        folder: holds ``manifest.json`` and ``vectors.safetensors``; None for the package's.

    Raises:
        LayoutError: a file is missing, changed, cut short or of another format; the message names it.

    Example:
        >>> first = load()[0]
        >>> first.name, first.x.shape, first.y.dtype
        ('activation relu float32', (2, 2, 4, 6), dtype('float32'))
    """
    folder = Path(__file__).parent if folder is None else Path(folder)
    try:
        return _load(folder)
    except (SEError, ImportError):
        raise
    except Exception as error:  # names, types and shapes of a manifest that is not ours
        _refuse(f"{folder} is broken ({type(error).__name__}: {shorten(error)})")


def _load(folder: Path) -> list[Vector]:
    manifest = _read_manifest(folder / MANIFEST)
    data = _read(folder / TENSORS)
    _check_equal(f"the sha256 of {folder / TENSORS}", _sha256(data), manifest["sha256"])
    tensors = _unpack(data)
    _check_equal("the tensors in only one of file and manifest", sorted(set(tensors) ^ set(manifest["tensors"])), [])
    used = {name for entry in manifest["vectors"] for name in entry["tensors"].values()}
    _check_equal("the tensors that no vector uses, or that are missing", sorted(set(tensors) ^ used), [])
    for name, array in tensors.items():
        _check_equal(f"the sha256 of the tensor {name}", _sha256(array.tobytes()), manifest["tensors"][name])
    return [_vector(entry, tensors) for entry in manifest["vectors"]]


def write(folder: str | Path) -> list[str]:
    """Compute all vectors, write both files atomically, and return the vectors' names."""
    folder = Path(folder)
    vectors = [_make_vector(recipe, dtype) for recipe in _recipes() for dtype in recipe.dtypes]
    tensors, entries = _share_tensors(vectors)
    data = _pack(tensors)
    manifest = {
        "format": FORMAT,
        "generator": "se_conformance.vectors.write",
        "se_suite": se_spec.__version__,
        "data_format": "channels_last",
        "file": TENSORS,
        "sha256": _sha256(data),
        "count": len(entries),
        "vectors": entries,
        "tensors": {name: _sha256(array.tobytes()) for name, array in tensors.items()},
    }
    text = _as_text({"manifest_sha256": _manifest_sha256(manifest), **manifest})
    for name, content in ((TENSORS, data), (MANIFEST, text.encode())):
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(content)
    return [vector.name for vector in vectors]


class _Recipe(NamedTuple):
    name: str
    spec: SESpec
    dtypes: tuple[str, ...] = ("float32",)
    part: str = "reduce"
    rank: int = 2
    samples: int = 2


def _recipes() -> Iterator[_Recipe]:
    """Yield recipes for every activation, gate, squeeze and other field; all other fields have simple values."""
    base, both = SESpec(6, hidden=4, bias=True), ("float32", "bfloat16")
    for activation in (*ACTIVATIONS, LeakyReLU(slope=0.1)):
        name = "leaky_relu" if isinstance(activation, LeakyReLU) else activation
        dtypes = {"relu": both, "gelu": ("float32", "float64")}.get(name, ("float32",))
        yield _Recipe(f"activation {name}", base.replace(activation=activation), dtypes)
    for gate in (*GATES, HardSigmoid(slope=0.2, offset=0.5)):
        name = "hard_sigmoid 0.2" if isinstance(gate, HardSigmoid) else gate
        dtypes = both if name == "hard_sigmoid" else ("float32",)
        yield _Recipe(f"gate {name}", base.replace(gate=gate), dtypes, part="expand")
    yield _Recipe("squeeze max", base.replace(squeeze="max"), both)
    yield _Recipe("squeeze avg_max", base.replace(squeeze="avg_max"), (*both, "float64"))
    yield _Recipe("no bias", base.replace(bias=False), both)
    yield _Recipe("no bias, wide expand", base.replace(bias=False), part="expand")
    yield _Recipe("residual", base.replace(residual=True))
    yield _Recipe("gain 2", base.replace(gain=2.0))
    yield _Recipe("residual, gain 2", base.replace(residual=True, gain=2.0, gate="tanh"), (*both, "float64"))
    yield _Recipe("single projection", SESpec(6, single_projection=True, bias=True), both)
    yield _Recipe("single projection, no bias", SESpec(6, single_projection=True, gate="hard_sigmoid"))
    yield _Recipe("1 spatial axis", base, rank=1)
    yield _Recipe("3 spatial axes", base, ("bfloat16",), rank=3)
    yield _Recipe("3 spatial axes, 1 sample", base, rank=3, samples=1)
    yield _Recipe("1 hidden", base.replace(hidden=1))
    yield _Recipe("hidden above channels", base.replace(hidden=8))
    yield _Recipe("1 channel", base.replace(channels=1))


def _make_vector(recipe: _Recipe, dtype: str) -> Vector:
    """Make a probe and its exact answer; float64 uses the probe of float32."""
    x, _, parameters = probe_for(dtype, recipe.spec, part=recipe.part, rank=recipe.rank, samples=recipe.samples)
    answer = exact.block(x, recipe.spec, parameters)
    wide = "float64" if dtype == "float64" else "float32"
    y, g = exact.round_fractions(answer.y, dtype), exact.round_fractions(answer.g, wide)
    return Vector(f"{recipe.name} {dtype}", recipe.spec, dtype, x, parameters, y, g)


def _share_tensors(vectors: list[Vector]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Tensors by name, each once, and each vector's entry in the manifest."""
    names: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, np.ndarray] = {}
    entries = []
    for vector in vectors:
        roles = {"x": vector.x, **vector.parameters, "y": vector.y, "g": vector.g}
        stored = {}
        for role, array in roles.items():
            key = role, str(array.dtype), array.shape, array.tobytes()
            stored[role] = names.setdefault(key, str(len(names)))
            tensors[stored[role]] = np.ascontiguousarray(array)
        spec, shape = vector.spec.to_dict(), list(vector.x.shape)
        entries.append({"name": vector.name, "dtype": vector.dtype, "shape": shape, "spec": spec, "tensors": stored})
    return tensors, entries


def _vector(entry: dict[str, Any], tensors: dict[str, np.ndarray]) -> Vector:
    roles = {role: tensors[name] for role, name in entry["tensors"].items()}
    x, y, g = (roles.pop(role) for role in ("x", "y", "g"))
    spec, name, dtype = SESpec.from_dict(entry["spec"]), entry["name"], entry["dtype"]
    shapes = {role: array.shape for role, array in roles.items()}
    _check_equal(f"the parameters of {quote(name)}", shapes, spec.parameter_shapes())
    _check_equal(f"the shapes of {quote(name)}", (y.shape, g.shape), (x.shape, (x.shape[0], x.shape[-1])))
    _check_equal(f"the channels and axes of {quote(name)}", (x.shape[-1], 3 <= x.ndim <= 5), (spec.channels, True))
    dtypes = {str(array.dtype) for array in (x, y, *roles.values())}
    _check_equal(f"the dtypes of {quote(name)}", dtypes, {dtype})
    return Vector(str(name), spec, dtype, x, roles, y, g)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        _refuse(f"{path} is not JSON: {shorten(error)}")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        _refuse(f"{path} is not of format {FORMAT}")
    claimed = manifest.pop("manifest_sha256", None)
    _check_equal(f"the manifest_sha256 of {path}", _manifest_sha256(manifest), claimed)
    _check_equal(f"the count of vectors in {path}", len(manifest["vectors"]), manifest["count"])
    return manifest


def _manifest_sha256(manifest: dict[str, Any]) -> str:
    """Hashes the other fields of the manifest as JSON without spaces and with sorted keys."""
    return _sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())


def _as_text(manifest: dict[str, Any]) -> str:
    """Format the manifest as JSON with a line for each field, each vector and each tensor."""
    lines = []
    for name, value in manifest.items():
        if isinstance(value, list):
            inner = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in value)
            lines.append(f"{json.dumps(name)}: [\n{inner}\n]")
        elif isinstance(value, dict):
            inner = ",\n".join(f"{json.dumps(key)}:{json.dumps(entry)}" for key, entry in value.items())
            lines.append(f"{json.dumps(name)}: {{\n{inner}\n}}")
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _pack(tensors: dict[str, np.ndarray]) -> bytes:
    import safetensors.numpy

    return safetensors.numpy.save(tensors)


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    """Read tensors with ``deserialize``, since older versions of ``safetensors.numpy.load`` lack bfloat16."""
    import safetensors

    return {name: _as_array(tensor) for name, tensor in safetensors.deserialize(data)}


def _as_array(tensor: dict[str, Any]) -> np.ndarray:
    stored = _STORED[tensor["dtype"]]
    return np.frombuffer(tensor["data"], round_to(np.zeros(0), stored).dtype).reshape(tensor["shape"])


def _read(path: Path) -> bytes:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            _refuse(f"{path} is no file of at most {MAX_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        _refuse(f"{path} cannot be read ({error.strerror})")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_equal(what: str, got: Any, expected: Any) -> None:
    if got != expected:
        _refuse(f"{what}: {shorten(got)}, expected {shorten(expected)}")


def _refuse(fault: str) -> NoReturn:
    raise LayoutError(f"{fault}; install se-suite again, or write the files with se_conformance.vectors.write(folder)")
