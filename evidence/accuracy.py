"""Measures the errors of the backends' exp, sigmoid, tanh and erf: every float32, bfloat16 and float16, some float64.

``python -m evidence.accuracy`` writes the table. An error |got - exact| is measured in unit roundoffs u of the dtype.
For several b, a row has the smallest a with |error| <= (a |exact| + b) u, once for all values and once for those where
exact is a normal number; its curve is the largest error / (u |exact|) by the exponent of exact. Exact values are
computed in float64, whose error is a few 2**-29 of float32's u; for float64 in long double, and for erf by mpmath. The
measured loops are vectorised and have one operation: an array's last elements, which fill no vector, and an operation
that is fused with others may have other errors.
"""

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - declares bfloat16 to NumPy
import numpy as np

from se_conformance.files import write_atomically
from se_spec.formats import FORMATS

Function = Callable[[np.ndarray], np.ndarray]

FUNCTIONS = ("exp", "sigmoid", "tanh", "erf")
OFFSETS = (0, 0.5, 1, 2, 4)
NEEDS = {
    "numpy": ("numpy",),
    "torch": ("torch",),
    "tensorflow": ("tensorflow",),
    "xla": ("jax", "jaxlib"),
    "onnxruntime": ("onnxruntime", "onnx"),
}
MISSING = {name for name, needs in NEEDS.items() if not all(map(importlib.util.find_spec, needs))}
PARTS = {"bfloat16": 1, "float16": 1, "float64": 1, "float32": 64}
CHUNK = 2**16  # small enough for the cache, large enough that calling a framework costs little; divides every part
NAN, OVERFLOW, ZERO = 10002, 10001, -10000  # codes in place of an exponent


@dataclass
class Errors:
    """The largest (error / u - b) / |exact| for each b, and largest error / u, by the exponent of the exact value."""

    worst: dict[int, list[float]] = field(default_factory=dict)
    count: int = 0
    zero: float = 0.0  # the largest result where 0 is right
    nan_lost: int = 0
    mismatch: int = 0  # finite where infinity is right, or the reverse
    example: str = ""

    def add(self, other: "Errors") -> None:
        """Add the errors of further values."""
        for exponent, numbers in other.worst.items():
            known = self.worst.setdefault(int(exponent), numbers)
            self.worst[int(exponent)] = list(map(max, known, numbers))
        self.count += other.count
        self.zero = max(self.zero, other.zero)
        self.nan_lost += other.nan_lost
        self.mismatch += other.mismatch
        self.example = self.example or other.example


class Exact:
    """The exact results for sorted values, divided into runs of one exponent."""

    def __init__(self, x: np.ndarray, values: np.ndarray, dtype: str) -> None:
        self.x, self.values, self.format = x, values, FORMATS[dtype]
        size, one = np.abs(values), values.dtype.type(1)
        digits, lowest, highest = self.format.digits, self.format.lowest, self.format.highest
        exponent = np.maximum(np.frexp(size)[1] - 1, lowest - digits + 1)
        exponent[size <= np.ldexp(one, lowest - digits)] = ZERO
        exponent[size >= np.ldexp(2 - np.ldexp(one, -digits), highest)] = OVERFLOW
        exponent[np.isnan(size)] = NAN
        edges = [0, *(np.flatnonzero(np.diff(exponent)) + 1).tolist(), len(x)]
        self.runs = [(int(exponent[start]), slice(start, stop)) for start, stop in itertools.pairwise(edges)]
        with np.errstate(all="ignore"):
            self.inverse = 1 / size

    def errors(self, got: np.ndarray) -> Errors:
        """Compute the errors of a backend's results."""
        found = Errors(count=len(got))
        wide = got.astype(self.values.dtype)
        with np.errstate(invalid="ignore"):
            error = np.abs(wide - self.values) * 2.0**self.format.digits
        for exponent, run in self.runs:
            here, finite = wide[run], np.isfinite(wide[run])
            wrong = here != np.copysign(np.inf, self.values[run]) if exponent == OVERFLOW else ~finite
            if exponent == NAN:
                found.nan_lost += int(np.count_nonzero(~np.isnan(here)))
            elif wrong.any():
                found.mismatch += int(np.count_nonzero(wrong))
                first = run.start + int(wrong.argmax())
                found.example = f"{self.x[first]} gives {got[first]}, exact {float(self.values[first])}"
            if exponent == ZERO:
                found.zero = max(found.zero, float(np.abs(here).max(where=finite, initial=0)))
            elif exponent < OVERFLOW and finite.any():
                kept = slice(None) if finite.all() else finite  # a copy only where needed
                found.add(Errors({exponent: _find_largest(error[run][kept], self.inverse[run][kept])}))
        return found


def _find_largest(error: np.ndarray, inverse: np.ndarray) -> list[float]:
    spare = np.empty_like(error)
    rows = (np.multiply(np.subtract(error, b, out=spare), inverse, out=spare).max() for b in OFFSETS)
    return [*map(float, rows), float(error.max())]


def compute_exact(function: str, x: np.ndarray) -> np.ndarray:
    """Compute a function of float64 or longdouble values in their precision."""
    with np.errstate(all="ignore"):
        match function:
            case "sigmoid":
                return _sigmoid(x)
            case "erf":
                return _erf(x) if x.dtype == np.float64 else _erf_long(x)
        return getattr(np, function)(x)


def _sigmoid(v: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(v))
    one = v.dtype.type(1)
    return np.where(v < 0, e, one) / (one + e)


def _erf(x: np.ndarray) -> np.ndarray:
    if "torch" in MISSING:
        return np.frompyfunc(math.erf, 1, 1)(x).astype(np.float64)
    torch = importlib.import_module("torch")
    return torch.special.erf(torch.from_numpy(x)).numpy()


def _erf_long(x: np.ndarray) -> np.ndarray:
    mpmath = importlib.import_module("mpmath")
    mpmath.mp.prec = 64
    result = np.where(np.isinf(x), np.copysign(1, x), x)
    finite = np.flatnonzero(np.isfinite(x))
    pairs = [mpmath.erf(float(value)).man_exp for value in x[finite]]
    mantissas = np.array([mantissa for mantissa, _ in pairs], np.uint64).astype(x.dtype)
    result[finite] = np.copysign(np.ldexp(mantissas, np.array([exponent for _, exponent in pairs], int)), x[finite])
    return result


def _numpy(dtype: str) -> dict[str, Function]:
    def of_exp(v: np.ndarray) -> np.ndarray:
        one = v.dtype.type(1)
        return one / (one + np.exp(-v))

    def of_tanh(v: np.ndarray) -> np.ndarray:
        one, two = v.dtype.type(1), v.dtype.type(2)
        return (one + np.tanh(v / two)) / two

    forms = {"sigmoid": _sigmoid, "sigmoid 1/(1+exp(-v))": of_exp, "sigmoid (1+tanh(v/2))/2": of_tanh}
    return {"exp": np.exp, **forms, "tanh": np.tanh}


def _torch(dtype: str) -> dict[str, Function]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)

    adapter = importlib.import_module("se_conformance.adapters.torch")

    def wrap(op: Callable[[Any], Any]) -> Function:
        return lambda x: adapter.to_numpy(op(adapter.to_tensor(x)))

    return {name: wrap(getattr(torch, name)) for name in FUNCTIONS}


def _tensorflow(dtype: str) -> dict[str, Function]:
    tf = importlib.import_module("tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def wrap(op: Callable[[Any], Any]) -> Function:
        return lambda x: op(tf.constant(x)).numpy()

    return {name: wrap(getattr(tf.math, name)) for name in FUNCTIONS}


def _xla(dtype: str) -> dict[str, Function]:
    jax = importlib.import_module("jax")

    def wrap(op: Callable[[Any], Any]) -> Function:
        compiled = jax.jit(op)
        return lambda x: np.asarray(compiled(x))

    ops = {"exp": jax.numpy.exp, "sigmoid": jax.nn.sigmoid, "tanh": jax.numpy.tanh, "erf": jax.lax.erf}
    return {name: wrap(op) for name, op in ops.items()}


def _onnxruntime(dtype: str) -> dict[str, Function]:
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4

    def wrap(name: str) -> Function:
        make, number = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        ends = [make.make_tensor_value_info(end, number, [None]) for end in "xy"]
        graph = make.make_graph([make.make_node(name.capitalize(), "x", "y")], name, ends[:1], ends[1:])
        model = make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=10)
        bound: list[Any] = []  # made at the first call, so that a missing kernel fails alone

        def call(x: np.ndarray) -> np.ndarray:
            if not bound:
                provider = "CPUExecutionProvider"
                bound.append(runtime.InferenceSession(model.SerializeToString(), options, providers=[provider]))
            return bound[0].run(None, {"x": x})[0]

        return call

    return {name: wrap(name) for name in FUNCTIONS}


BACKENDS = {"numpy": _numpy, "torch": _torch, "tensorflow": _tensorflow, "xla": _xla, "onnxruntime": _onnxruntime}


@functools.cache
def load_functions(dtype: str) -> tuple[dict[tuple[str, str], Function], list[str]]:
    """Load the functions of each backend by (backend, function), and a note on each that it refuses."""
    if dtype == "float64" and np.finfo(np.longdouble).nmant < 63:
        return {}, ["float64: long double is no longer than float64 here"]
    known, notes = {}, []
    for backend in [name for name in BACKENDS if name not in MISSING]:
        for name, function in BACKENDS[backend](dtype).items():
            if (dtype, name) == ("float64", "erf") and importlib.util.find_spec("mpmath") is None:
                notes.append(f"float64 {backend} erf: mpmath is not installed")
                continue
            try:
                function(np.zeros(8, np.dtype(dtype)))
                known[backend, name] = function
            except Exception as error:
                notes.append(f"{dtype} {backend} {name}: {str(error).splitlines()[0]}")
    return known, notes


def measure(dtype: str, x: np.ndarray) -> dict[str, Errors]:
    """Measure every backend and function on sorted values."""
    known = load_functions(dtype)[0]
    with np.errstate(all="ignore"):
        wide = x.astype(np.longdouble if dtype == "float64" else np.float64)
        names = {name.split()[0] for _, name in known}  # the first word: NumPy's sigmoid has several forms
        exact = {name: Exact(x, compute_exact(name, wide), dtype) for name in names}
        return {f"{backend}|{name}": exact[name.split()[0]].errors(known[backend, name](x)) for backend, name in known}


def iterate_chunks(dtype: str, part: int) -> Iterator[np.ndarray]:
    """Yield the values of a part in the order of their bits; for float64 a sample."""
    if dtype == "float64":
        rng = np.random.default_rng(0)
        anything = rng.integers(0, 2**64, 2**19, dtype=np.uint64).view(np.float64)
        yield np.sort(np.concatenate([anything, rng.uniform(-20, 20, 2**18), rng.uniform(-750, 750, 2**18)]))
        return
    width = np.dtype(dtype).itemsize
    size = 2 ** (8 * width) // PARTS[dtype]
    for start in range(part * size, (part + 1) * size, CHUNK):
        yield np.arange(start, start + CHUNK).astype(f"u{width}").view(np.dtype(dtype))


def run_part(dtype: str, part: int, path: Path) -> None:
    """Measure a part and write the result atomically."""
    total: dict[str, Errors] = {}
    for x in iterate_chunks(dtype, part):
        for key, errors in measure(dtype, x).items():
            total.setdefault(key, Errors()).add(errors)
    found = {
        "setting": describe_setting(),
        "notes": load_functions(dtype)[1],
        "rows": {key: asdict(e) for key, e in total.items()},
    }
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(found))


@functools.cache
def describe_setting() -> dict[str, Any]:
    """Describe the measured versions and the processor, by which backends choose their code."""
    found = np.show_config(mode="dicts")["SIMD Extensions"]
    installed = {
        name: [f"{n} {importlib.metadata.version(n)}" for n in needs]
        for name, needs in NEEDS.items()
        if name not in MISSING
    }
    return {
        "processor": f"{platform.machine()} {' '.join([*found['baseline'], *found['found']])}",
        "versions": {name: ", ".join(parts) for name, parts in installed.items()},
        "not installed": sorted(MISSING),
    }


def make_table(state: Path, dtypes: list[str]) -> dict[str, Any]:
    """Combine the parts into the table of the JSON file."""
    rows, notes = [], []
    for dtype in dtypes:
        total: dict[str, Errors] = {}
        parts = [json.loads(locate_part(state, dtype, part).read_text()) for part in range(PARTS[dtype])]
        for key in parts[0]["rows"]:
            total[key] = Errors()
            for part in parts:
                total[key].add(Errors(**part["rows"][key]))
        notes += parts[0]["notes"]
        for key in sorted(total, key=lambda key: (list(NEEDS).index(key.split("|")[0]), key)):
            backend, function = key.split("|")
            rows.append(make_row(dtype, backend, function, total[key]))
    return {"about": __doc__, **describe_setting(), "left out": notes, "rows": rows}


def make_row(dtype: str, backend: str, function: str, errors: Errors) -> dict[str, Any]:
    """Make a row of the table; ``flushes`` is whether a subnormal result became 0."""
    known = FORMATS[dtype]

    def largest(column: int, lowest: int) -> float | None:
        return round_up(max((n[column] for e, n in errors.worst.items() if e >= lowest), default=0.0), 4)

    curve: dict[int, float] = {}
    for e, numbers in errors.worst.items():
        pool = pool_exponent(e) if dtype == "float64" else e
        curve[pool] = max(curve.get(pool, 0.0), numbers[0])
    below = [n[0] for e, n in errors.worst.items() if known.lowest - known.digits + 1 < e < known.lowest]
    return {
        "dtype": dtype,
        "backend": backend,
        "function": function,
        "version": describe_setting()["versions"][backend],
        "count": errors.count,
        "a": {str(b): largest(column, -9999) for column, b in enumerate(OFFSETS)},
        "a_normal": {str(b): largest(column, known.lowest) for column, b in enumerate(OFFSETS)},
        "absolute": largest(len(OFFSETS), -9999),
        "zero": errors.zero,
        "flushes": bool(below) and max(below) >= 2.0**known.digits,
        "nan_lost": errors.nan_lost,
        "mismatch": errors.mismatch,
        "example": errors.example,
        "curve": {str(e): round_up(number, 3) for e, number in sorted(curve.items())},
    }


def pool_exponent(e: int) -> int:
    """Return the first of the exponents that share an entry of float64's curve; few sampled values are far from 0."""
    return 64 if e > 64 else -1022 if -1022 <= e < -64 else e


def round_up(number: float, digits: int) -> float | None:
    """Round up to ``digits`` digits; a negative number becomes 0, and infinity None, which JSON can hold.

    >>> up(1.23401, 3), up(0.5, 3)
    (1.24, 0.5)
    """
    if not 0 < number < math.inf:
        return None if number > 0 else 0.0
    step = digits - 1 - math.floor(math.log10(number))
    near = float(f"{number:.{digits - 1}e}")
    return near if near >= number else float(f"{near + 10.0**-step:.{digits - 1}e}")


def locate_part(state: Path, dtype: str, part: int) -> Path:
    """Return the file of a part's results."""
    return state / f"{dtype}-{part:02}.json"


def list_missing_parts(state: Path, dtypes: list[str]) -> list[tuple[str, int]]:
    """List the parts that are not measured yet, or were measured with other versions."""
    every = [(dtype, part) for dtype in dtypes for part in range(PARTS[dtype])]
    paths = {pair: locate_part(state, *pair) for pair in every}
    found = {pair: json.loads(path.read_text())["setting"] for pair, path in paths.items() if path.exists()}
    return [pair for pair in every if found.get(pair) != describe_setting()]


def start_workers(processes: int) -> ProcessPoolExecutor:
    """Start processes in which each backend has one thread and no accelerator, and JAX has float64."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_configure)


def _configure() -> None:
    os.environ.update(
        OMP_NUM_THREADS="1",
        TF_CPP_MIN_LOG_LEVEL="3",
        CUDA_VISIBLE_DEVICES="-1",
        JAX_PLATFORMS="cpu",
        JAX_ENABLE_X64="1",
        XLA_FLAGS="--xla_cpu_multi_thread_eigen=false",
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy.json"))
    parser.add_argument(
        "--state", type=Path, default=Path("out/accuracy"), help="the folder from which an interrupted run continues"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    todo = list_missing_parts(options.state, options.dtypes)
    begun = time.monotonic()
    with start_workers(options.processes) as pool:
        running = [pool.submit(run_part, *pair, locate_part(options.state, *pair)) for pair in todo]
        for done, future in enumerate(as_completed(running), 1):
            future.result()
            left = (time.monotonic() - begun) / done * (len(todo) - done) / 60
            print(f"{done} of {len(todo)} parts, {100 * done // len(todo)} %, {left:.0f} minutes left", flush=True)
    document = make_table(options.state, options.dtypes)
    lines = ",\n".join(json.dumps(entry) for entry in document.pop("rows"))
    with write_atomically(options.out) as temporary:
        temporary.write_text(json.dumps(document, indent=1)[:-2] + f',\n "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
