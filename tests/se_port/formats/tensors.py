"""Tensors that a file must return bit for bit, and comparisons of those that it returned."""

import math
import mmap
import tracemalloc
from collections.abc import Callable, Iterable

import ml_dtypes
import numpy as np

from se_port import formats

SHAPES = ((), (1,), (0, 3), (5,), (2, 3, 1, 4))


def facts(tensors: formats.Tensors) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """List name, dtype, shape and bytes of each tensor, in order; equal for equal sets of tensors."""
    return [(name, str(array.dtype), array.shape, array.tobytes()) for name, array in tensors.items()]


def same(got: formats.Tensors, want: formats.Tensors) -> bool:
    """Whether names, order and, in the processor's byte order, bits are equal."""
    native = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in want.items()}
    return facts(got) == facts(native)


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array is a read-only view of a mapped file."""
    owner = array
    while isinstance(owner, (np.ndarray, memoryview)):
        owner = owner.obj if isinstance(owner, memoryview) else owner.base
    return isinstance(owner, mmap.mmap) and not array.flags.writeable


def peak_memory(act: Callable[[], object]) -> int:
    """Peak of the bytes that a call allocates, the least of three: what runs beside it can only add to that."""
    return min(_peak_of_one(act) for _ in range(3))


def _peak_of_one(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def samples(dtypes: Iterable[str]) -> dict[str, np.ndarray]:
    """Draw arrays of every dtype and shape with arbitrary bits, NaNs of every kind among them."""
    chance = np.random.default_rng(0)
    made = {}
    for dtype in dtypes:
        exact = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        for shape in SHAPES:
            data = chance.bytes(math.prod(shape) * exact.itemsize)
            array = np.frombuffer(data, exact).reshape(shape)
            made[f"{dtype}{shape}/é"] = (array.view(np.uint8) % 2).view(bool) if dtype == "bool" else array
    nans = np.array([0x7F800001, 0xFFC12345, 0x80000000], np.uint32).view(np.float32)
    return made | {"nan": nans, "turned": made["float32(2, 3, 1, 4)/é"].T, "big": nans.astype(">f4")}


def one_of_each(dtypes: Iterable[str]) -> dict[str, np.ndarray]:
    """Draw one array of every dtype, with values that a cast would lose, and one of every other kind."""
    draw = np.random.default_rng(1)
    made = {}
    for name in dtypes:
        dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
        data = draw.integers(0, 256, 6 * dtype.itemsize, np.uint8)
        made[name] = (data % 2 if name == "bool" else data).view(dtype).reshape(2, 3)
    return made | {
        "nan": np.array([0x7FC00001, 0xFF800001, 0x80000000], np.uint32).view(np.float32),
        "none": np.array(-0.0, np.float16),
        "empty": np.zeros((0, 3), np.float32),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
