"""How much memory a call adds at its highest, as Linux counts it for this process."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


def added(call: Callable[[], object]) -> int:
    """Bytes above what was there before the call; what it returns is dropped afterwards."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed before is used again and not counted
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(line: str) -> int:
    for each in Path("/proc/self/status").read_text().splitlines():
        if each.startswith(f"{line}:"):
            return 1024 * int(each.split()[1])
    raise OSError(f"/proc/self/status has no {line}")
