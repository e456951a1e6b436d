"""Launches of the kernels in ``triton_kernels``: tiles, counters and buffers.

Triton is imported when the first tensor on a GPU arrives: it costs time, and LLVM ends a process that imports it after
TensorFlow. Where it is not installed, or cannot build the kernels, ``is_usable`` says so, and the formula is used.
"""

import importlib
import importlib.util
import math
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..nonlinearities import Activation, Gate

Weights = tuple[Tensor | None, ...]
LOADS, LOAD_BYTES = 1 << 11, 16
"""Loads of x, or of x and dy, by a program, and the bytes of each; results and addresses take registers."""
MIN_TILE_ELEMENTS = 1 << 12
"""Elements of a tile whose rows are of no multiple of such loads."""
VECTOR = 16
"""The largest power of two that a row is known to be a multiple of."""
ROW_POSITIONS = 4096, 2048
"""Positions of a contiguous map's tile: the extent that wastes least; rows of no more than the first are not cut."""
COLUMN_POSITIONS = 256
"""Positions of a channels-last tile; the channels beside each other are then 128 bytes or more."""
WEIGHT_ELEMENTS = 1 << 12
"""Elements of a weight that a program holds at a time."""
WARPS = 4
MAX_REGISTERS = 128
"""Registers of a thread of the forward kernel; a streaming multiprocessor then holds four programs."""
MAX_CHANNELS_LIMITED = 64
"""Channels of a tile up to which registers are limited; the factors of more would not fit."""
PROGRAMS_PER_PROCESSOR = 6
"""Programs of a streaming multiprocessor that run or wait for memory; the number decides about time, not results."""
MAX_ELEMENTS_NARROW = (1 << 31) - 1 - LOADS * LOAD_BYTES
"""Elements of a sample up to which offsets within it fit into 32 bits, those of masked elements too."""
SUM_ELEMENTS, SUM_COLUMNS = 1 << 11, 128
"""Numbers of the parts that are added at a time, and their columns at most."""
GRADIENT_TILE = (16, 32, 16)
"""Samples, channels and hidden values whose products are held at a time for the weights' gradients."""
MIN_CAPABILITY = (8, 0)
"""Compute capability from which Triton has bfloat16."""


class Options(NamedTuple):
    """The numbers of a block, as the kernels and the operators take them."""

    activation: Activation
    gate: Gate
    gain: float
    residual: bool


class Tile(NamedTuple):
    """The part of a sample that one program holds.

    Args:
        channels, positions: its extents, powers of two; what exceeds the map is masked.
        stride: positions from one tile to the next.
        tiles: tiles of a sample.
        rows: tiles of the same channels.
    """

    channels: int
    positions: int
    stride: int
    tiles: int
    rows: int


def choose_tile(channels: int, positions: int, itemsize: int, maps: int, channels_last: bool) -> Tile:
    """Choose a tile of about ``LOADS`` loads whose rows, in the order of memory, are long.

    Args:
        channels: C.
        positions: the product of all spatial extents.
        itemsize: bytes of an element.
        maps: 1 for x, 2 for x and dy.
        channels_last: the order of memory.

    >>> choose_tile(256, 56 * 56, 4, 1, channels_last=False)
    Tile(channels=2, positions=4096, stride=4096, tiles=128, rows=1)
    >>> choose_tile(2048, 7 * 7, 4, 1, channels_last=True)
    Tile(channels=128, positions=64, stride=64, tiles=16, rows=1)
    """
    vector = min(_divisor(channels if channels_last else positions), LOAD_BYTES // itemsize)
    elements = max(LOADS * vector // maps, MIN_TILE_ELEMENTS)
    all_channels, all_positions = _power_of_two(channels), _power_of_two(positions)
    if channels_last:
        extent = min(all_positions, COLUMN_POSITIONS)
    else:
        extent = all_positions
        if positions > ROW_POSITIONS[0]:
            extent = min(ROW_POSITIONS, key=lambda extent: -(-positions // extent) * extent)
    width = min(all_channels, max(1, elements // extent))
    extent = min(all_positions, max(extent, elements // width))  # longer where channels are few
    rows = -(-positions // extent)
    stride = extent if rows == 1 else -(-positions // rows // 16) * 16
    rows = -(-positions // stride)
    return Tile(width, extent, stride, -(-channels // width) * rows, rows)


def _power_of_two(extent: int) -> int:
    """Return the smallest power of two that is not below the extent."""
    return 1 << (extent - 1).bit_length()


def _divisor(row: int) -> int:
    """Return the largest power of two that divides a row, ``VECTOR`` at most."""
    return math.gcd(row, VECTOR)


@cache
def kernels() -> Any:
    """Import the kernels; None where Triton is not installed, or where its import would end the process."""
    if importlib.util.find_spec("triton") is None or ("tensorflow" in sys.modules and "triton" not in sys.modules):
        return None
    try:
        return importlib.import_module(".triton_kernels", __package__)
    except Exception as error:  # a Triton that does not go with this PyTorch, or a function that it lacks
        _warn(error)
        return None


def is_usable(device: torch.device) -> bool:
    """Decide whether the kernels run on this device; a compiler takes the answer for a constant."""
    return _is_usable(device)


is_usable._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler's decorator would import a compiler


@cache
def _is_usable(device: torch.device) -> bool:
    if device.type == "cuda" and (torch.version.hip or torch.cuda.get_device_capability(device) < MIN_CAPABILITY):
        return False
    return kernels() is not None


def _warn(error: Exception) -> None:
    warnings.warn(
        f"se_torch computes by PyTorch's own operations, since Triton raised {type(error).__name__}: {error}",
        RuntimeWarning,
        stacklevel=2,
    )


class Launch:
    """A kernel with its numbers. Triton compiles it at the first call; later calls skip Triton's look-up.

    The code differs by which addresses are multiples of 16 bytes; where some is not, Triton looks at each call.
    """

    def __init__(
        self,
        kernel: Any,
        programs: int,
        numbers: tuple[int, ...],
        constants: tuple[Any, ...],
        aligned: bool,
        max_registers: int | None = None,
    ) -> None:
        self._kernel, self._grid, self._numbers = kernel, (programs, 1, 1), (programs, *numbers, *constants)
        self._run: Callable[..., Any] | None = None
        self._aligned = aligned
        self._options = {"num_warps": WARPS, "maxnreg": max_registers, "enable_fp_fusion": True}
        self.is_built = False

    def __call__(self, *tensors: Tensor | None) -> None:
        if self._run is not None:
            self._run(*tensors, *self._numbers)
            return
        compiled = self._kernel[self._grid](*tensors, *self._numbers, **self._options)
        self.is_built = True
        if self._aligned and compiled is not None:  # the interpreter compiles nothing
            self._run = compiled[self._grid]


class Plan(NamedTuple):
    """What shapes and types decide, for one direction.

    Args:
        launch: the kernel.
        kept, work: float32 numbers in its buffers.
        counters: its counters.
    """

    launch: Launch
    kept: int
    work: int
    counters: int


_plans: dict[Any, Plan] = {}
_counters: dict[tuple[int, int], Tensor] = {}
"""Counters of each device and stream: launches of one stream do not overlap."""
_failed = False
"""Whether Triton failed to build a kernel, in which case it is not asked again."""


def forward(x: Tensor, weights: Weights, options: Options, y: Tensor, fresh: bool = False) -> Tensor | None:
    """Write y, which may be x.

    Args:
        x: contiguous or channels last, of float32 or half precision.
        weights: contiguous, of any float dtype.
        options: the block's.
        y: of x's shape, dtype and strides.
        fresh: whether counters are made for this call alone, as where the launch may be captured and run again later.

    Returns:
        The means and hidden values for ``backward``; None where the kernel cannot be built, and y is as it was.
    """
    *reduce, w2, b2 = weights
    w1, b1 = reduce or (w2, b2)
    key = _key("forward", x, weights, options, y)
    plan = _plans.get(key) or _plans.setdefault(key, _plan_forward(x, weights, options, key[-1]))
    kept = torch.empty(plan.kept, dtype=torch.float32, device=x.device)
    work = torch.empty(plan.work, dtype=torch.float32, device=x.device)
    if x.numel() == 0 or _launch(plan, x, fresh, x, y, w1, b1, w2, b2, kept, work):
        return kept
    return None


def backward(
    dy: Tensor, x: Tensor, kept: Tensor, weights: Weights, options: Options, fresh: bool = False
) -> tuple[Tensor | None, ...] | None:
    """Compute dx and the gradients of the weights; None where the kernel cannot be built."""
    *reduce, w2, b2 = weights
    w1, b1 = reduce or (w2, None)
    dx, dw2 = torch.empty_like(x), torch.empty_like(w2)
    dy = dy if dy.stride() == x.stride() else torch.empty_like(x).copy_(dy)
    db1, db2 = (None if b is None else torch.empty_like(b) for b in (b1, b2))
    dw1 = torch.empty_like(w1) if reduce else dw2
    gradients = dx, *((dw1, db1) if reduce else ()), dw2, db2
    if x.numel() == 0:
        return tuple(None if value is None else value.zero_() for value in gradients)
    key = _key("backward", x, weights, options, dy, kept)
    plan = _plans.get(key) or _plans.setdefault(key, _plan_backward(x, weights, options, key[-1]))
    work = torch.empty(plan.work, dtype=torch.float32, device=x.device)
    if _launch(plan, x, fresh, x, dy, dx, w1, w2, b2, dw1, db1, dw2, db2, kept, work):
        return gradients
    return None


def _key(direction: str, x: Tensor, weights: Weights, options: Options, *others: Tensor) -> tuple[Any, ...]:
    """Make a key of all that decides about a plan; its last part says whether all addresses are aligned."""
    addresses = x.data_ptr()
    for tensor in (*others, *weights):
        if tensor is not None:
            addresses |= tensor.data_ptr()
    types = tuple([None if weight is None else weight.dtype for weight in weights])
    return (direction, x.shape, x.stride(), x.dtype, x.device, types, weights[-2].shape, options, addresses % 16 == 0)  # type: ignore[union-attr]


def _launch(plan: Plan, x: Tensor, fresh: bool, *tensors: Tensor | None) -> bool:
    """Launch a kernel on x's device and the current stream; return whether it could be built."""
    global _failed
    if _failed:
        return False
    counters = _zeros(plan.counters, x, fresh)
    try:
        if x.is_cuda and x.device.index != torch.cuda.current_device():
            with torch.cuda.device(x.device):
                plan.launch(*tensors, counters)
        else:
            plan.launch(*tensors, counters)
    except Exception as error:
        if plan.launch.is_built or not x.is_cuda:
            raise
        _failed = True  # it would fail again, and take its time
        _warn(error)
        return False
    return True


def _zeros(count: int, x: Tensor, fresh: bool) -> Tensor:
    """Return counters that are zero when the launch begins.

    A captured graph has its own, which it clears each time: it may run beside other work of the capturing stream.
    """
    if fresh or not x.is_cuda or torch.cuda.is_current_stream_capturing():
        return torch.zeros(count, dtype=torch.int32, device=x.device)
    key = x.device.index, torch._C._cuda_getCurrentRawStream(x.device.index)
    counters = _counters.get(key)
    if counters is None or len(counters) < count:
        counters = _counters[key] = torch.zeros(max(count, 1024), dtype=torch.int32, device=x.device)
    return counters


def _plan_forward(x: Tensor, weights: Weights, options: Options, aligned: bool) -> Plan:
    n, c, r, p = _sizes(x, weights)
    tile = choose_tile(c, p, x.itemsize, 1, not x.is_contiguous())
    programs = 2 * n * tile.tiles
    numbers = n, c, r, p, tile.tiles, tile.rows, tile.stride, _lag(n, tile, x.device)
    constants = *_blocks(x, tile, r), *_constants(x, weights, tile, options)
    work = n * tile.tiles * r + (n * tile.rows * c if tile.rows > 1 else 0)
    limit = MAX_REGISTERS if tile.channels <= MAX_CHANNELS_LIMITED else None
    launch = Launch(kernels().forward, programs, numbers, constants, aligned, limit)
    return Plan(launch, n * (c + r), work, 2 + n)


def _plan_backward(x: Tensor, weights: Weights, options: Options, aligned: bool) -> Plan:
    n, c, r, p = _sizes(x, weights)
    tile = choose_tile(c, p, x.itemsize, 2, not x.is_contiguous())
    programs = 2 * n * tile.tiles + -(-c // GRADIENT_TILE[1]) * -(-r // GRADIENT_TILE[2])
    numbers = n, c, r, p, tile.tiles, tile.rows, tile.stride, _lag(n, tile, x.device)
    constants = *_blocks(x, tile, r), *GRADIENT_TILE, *_constants(x, weights, tile, options)
    work = n * (2 * c + r) + n * tile.tiles * r + (n * tile.rows * c if tile.rows > 1 else 0)
    return Plan(Launch(kernels().backward, programs, numbers, constants, aligned), 0, work, 2 + n)


def _sizes(x: Tensor, weights: Weights) -> tuple[int, int, int, int]:
    """Return N, C, R and the number of positions."""
    return x.shape[0], x.shape[1], weights[-2].shape[1], x.shape[2:].numel()  # type: ignore[union-attr]


def _lag(samples: int, tile: Tile, device: torch.device) -> int:
    """Return the samples that are reduced before the first is scaled: as many as the GPU has in work at once."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return min(samples, 1 + -(-processors * PROGRAMS_PER_PROCESSOR // (2 * tile.tiles)))


def _blocks(x: Tensor, tile: Tile, r: int) -> tuple[int, ...]:
    """Return the kernels' BC, BP, VECTOR, BR, BT, BI, BTC and BIC."""
    c, p = x.shape[1], x.shape[2:].numel()
    hidden = min(_power_of_two(r), max(1, WEIGHT_ELEMENTS // tile.channels))
    vector = _divisor(p if x.is_contiguous() else c)
    return tile.channels, tile.positions, vector, hidden, *_sum_blocks(r), *_sum_blocks(c)


def _sum_blocks(extent: int) -> tuple[int, int]:
    """Return how many parts of this extent are added at a time, and how many columns."""
    columns = min(_power_of_two(extent), SUM_COLUMNS)
    return max(1, SUM_ELEMENTS // columns), columns


def _constants(x: Tensor, weights: Weights, tile: Tile, options: Options) -> tuple[Any, ...]:
    """Return the kernels' other constants, in their order."""
    is_wide = x.shape[1:].numel() > MAX_ELEMENTS_NARROW
    layout = not x.is_contiguous(), is_wide, tile.rows > 1
    has_bias = weights[-1] is not None
    return *layout, len(weights) == 2, has_bias, *options.activation, *options.gate, options.gain, options.residual
