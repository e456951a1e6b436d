"""Launches of the kernels in ``triton_kernels``: tiles, counters and buffers.

Triton is imported when the first tensor on a GPU arrives: it costs time, and LLVM ends a process that imports it after
TensorFlow. Where it is not installed, or cannot build the kernels, ``is_usable`` says so, and the formula is used.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..nonlinearities import Activation, Gate

Weights = tuple[Tensor | None, ...]
TILE_BYTES = 1 << 15
"""Bytes of x, or of x and dy, that a program holds in registers."""
TILE_ELEMENTS_UNALIGNED = 1 << 12
"""Elements of a tile whose rows are not read as vectors: each takes registers for its address."""
ROW_POSITIONS = 1024, 512, 256
"""Positions of a contiguous map's tile: the extent that wastes least; rows of no more than the first are not cut."""
COLUMN_POSITIONS = 256
"""Positions of a channels-last tile; the channels beside each other are then 128 bytes or more."""
WEIGHT_ELEMENTS = 1 << 12
"""Elements of a weight that a program holds at a time."""
WARPS = 8
PROGRAMS_PER_PROCESSOR = 3
"""Programs that a streaming multiprocessor holds at once; the estimate decides about time, not about results."""
MAX_ELEMENTS_NARROW = (1 << 31) - 1 - TILE_BYTES
"""Elements of a sample up to which offsets within it fit into 32 bits, those of masked elements too."""
PARTS, COLUMNS = 32, 64
"""Parts that are added at a time, and their columns."""
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


def choose_tile(channels: int, positions: int, itemsize: int, channels_last: bool) -> Tile:
    """Choose a tile of about ``TILE_BYTES`` whose rows, in the order of memory, are long.

    Args:
        channels: C.
        positions: the product of all spatial extents.
        itemsize: bytes of x, and of dy if a tile of it is held as well, for each element.
        channels_last: the order of memory.

    >>> choose_tile(256, 56 * 56, 4, channels_last=False)
    Tile(channels=32, positions=256, stride=256, tiles=104, rows=13)
    >>> choose_tile(2048, 7 * 7, 4, channels_last=True)
    Tile(channels=128, positions=64, stride=64, tiles=16, rows=1)
    """
    elements, all_channels, all_positions = TILE_BYTES // itemsize, _power_of_two(channels), _power_of_two(positions)
    if channels_last:
        extent = min(all_positions, COLUMN_POSITIONS)
    else:
        if positions * itemsize % 16:
            elements = min(elements, TILE_ELEMENTS_UNALIGNED)
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
        self, kernel: Any, programs: int, numbers: tuple[int, ...], constants: tuple[Any, ...], aligned: bool
    ) -> None:
        self._kernel, self._grid, self._numbers = kernel, (programs, 1, 1), (programs, *numbers, *constants)
        self._run: Callable[..., Any] | None = None
        self._aligned = aligned
        self.is_built = False

    def __call__(self, *tensors: Tensor | None) -> None:
        if self._run is not None:
            self._run(*tensors, *self._numbers)
            return
        compiled = self._kernel[self._grid](*tensors, *self._numbers, num_warps=WARPS, enable_fp_fusion=True)
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
    tile = choose_tile(c, p, x.itemsize, not x.is_contiguous())
    programs = 2 * n * tile.tiles
    numbers = n, c, r, p, tile.tiles, tile.rows, tile.stride, _lag(n, tile, x.device)
    constants = *_blocks(tile, r), *_constants(x, weights, tile, options)
    work = n * tile.tiles * r + (n * tile.rows * c if tile.rows > 1 else 0)
    return Plan(Launch(kernels().forward, programs, numbers, constants, aligned), n * (c + r), work, 2 + n)


def _plan_backward(x: Tensor, weights: Weights, options: Options, aligned: bool) -> Plan:
    n, c, r, p = _sizes(x, weights)
    tile = choose_tile(c, p, 2 * x.itemsize, not x.is_contiguous())
    programs = 2 * n * tile.tiles + -(-c // GRADIENT_TILE[1]) * -(-r // GRADIENT_TILE[2])
    numbers = n, c, r, p, tile.tiles, tile.rows, tile.stride, _lag(n, tile, x.device)
    constants = *_blocks(tile, r), *GRADIENT_TILE, *_constants(x, weights, tile, options)
    work = n * (2 * c + r) + n * tile.tiles * r + (n * tile.rows * c if tile.rows > 1 else 0)
    return Plan(Launch(kernels().backward, programs, numbers, constants, aligned), 0, work, 2 + n)


def _sizes(x: Tensor, weights: Weights) -> tuple[int, int, int, int]:
    """Return N, C, R and the number of positions."""
    return x.shape[0], x.shape[1], weights[-2].shape[1], x.shape[2:].numel()  # type: ignore[union-attr]


def _lag(samples: int, tile: Tile, device: torch.device) -> int:
    """Return the samples that are reduced before the first is scaled: as many as the GPU has in work at once."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return min(samples, 1 + -(-processors * PROGRAMS_PER_PROCESSOR // (2 * tile.tiles)))


def _blocks(tile: Tile, r: int) -> tuple[int, ...]:
    """Return the kernels' BC, BP, BR, BT and BI."""
    hidden = min(_power_of_two(r), max(1, WEIGHT_ELEMENTS // tile.channels))
    return tile.channels, tile.positions, hidden, PARTS, COLUMNS


def _constants(x: Tensor, weights: Weights, tile: Tile, options: Options) -> tuple[Any, ...]:
    """Return the kernels' other constants, in their order."""
    is_wide = x.shape[1:].numel() > MAX_ELEMENTS_NARROW
    layout = not x.is_contiguous(), is_wide, tile.rows > 1
    has_bias = weights[-1] is not None
    return *layout, len(weights) == 2, has_bias, *options.activation, *options.gate, options.gain, options.residual
