"""Measures the peak memory that a call adds: of this process, as Linux counts it, or of a GPU."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


def measure_peak(call: Callable[[], object]) -> int:
    """Measure the peak of a call in bytes above the memory before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else memory that was freed before is reused and not counted
    Path("/proc/self/clear_refs").write_text("5")  # this resets the peak
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def measure_peak_on_gpu(call: Callable[[], object]) -> int:
    """Measure the peak of a call in bytes of PyTorch's memory on the current GPU above those before it."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _status(line: str) -> int:
    for entry in Path("/proc/self/status").read_text().splitlines():
        if entry.startswith(f"{line}:"):
            return 1024 * int(entry.split()[1])
    raise OSError(f"/proc/self/status has no {line}")
