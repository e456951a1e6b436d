"""Writes of a file in which the system fails or kills the program, at calls and sizes spread over the write.

``try_writes`` needs a process of its own, since it forks. Python calls a function before each call of a function in C
(``sys.setprofile``), which raises or kills the program: so no compiler and no mounted disk is needed. Where the size of
files is limited (``RLIMIT_FSIZE``), the kernel itself makes a write short, refuses the next or kills the program.
"""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from se_port import formats
from se_spec import FileFormatError

from .tensors import facts

WRITTEN, REFUSED, OTHER = 0, 3, 4
"""Exit statuses of a process that writes: it wrote; it raised a ``FileFormatError``; it raised anything else."""
FAILING = frozenset({"open", "mkdir", "rename", "replace", "fsync", "write", "truncate"})
"""Calls that the system may refuse."""
KILLED = FAILING | {"close", "flush", "unlink", "rmdir", "flock", "listdir", "scandir"}
"""Calls before which the program may be killed."""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EINTR)
FOLDER = ".se-port-"
THREADED = ("orbax",)
"""Formats whose library has threads."""


class Calls:
    """Counts calls of functions in C, and acts before one of them.

    Args:
        names: of the functions that count.
        number: of the call before which it acts; -1 only counts.
        act: what happens then; it raises or ends the program.
    """

    def __init__(self, names: frozenset[str], number: int = -1, act: Callable[[], object] = lambda: None) -> None:
        self.names, self.number, self.act, self.count = names, number, act, 0

    def __call__(self, frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ not in self.names or "importlib" in frame.f_code.co_filename:
            return
        if self.names == FAILING and frame.f_code.co_filename == shutil.__file__:
            return  # where removing fails, nothing can be promised about what is left
        self.count += 1
        if self.count - 1 == self.number:
            sys.setprofile(None)
            self.act()


class Fault(NamedTuple):
    """A fault of the system.

    Args:
        kind: a key of ``LIMITS`` or ``CALLS``.
        number: of the call before which it happens, or the size of a file in bytes at which it happens.
    """

    kind: str
    number: int

    @property
    def kills(self) -> bool:
        """Whether the fault ends the program."""
        return self.kind.startswith("killed")

    def arm(self) -> None:
        """Prepare this process, so that the fault happens."""
        if self.kind in LIMITS:
            signal.signal(signal.SIGXFSZ, LIMITS[self.kind])
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.number, resource.RLIM_INFINITY))
        else:
            sys.setprofile(Calls(CALLS[self.kind], self.number, self._act))

    def _act(self) -> None:
        if self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        code = ERRORS[self.number % len(ERRORS)]
        raise OSError(code, os.strerror(code))


MOST_SIZES = 40
LIMITS: dict[str, Any] = {"refused at size": signal.SIG_IGN, "killed at size": signal.SIG_DFL}
CALLS = {"refused at call": FAILING, "killed at call": KILLED}


def try_writes(format: str, file: str, tensors: formats.Tensors, most: int) -> None:
    """Write with every fault, at most ``most`` of a kind, and check after each what is on the disk.

    After a failure the old file is whole, or after the last move the new one, and nothing else is there. After a kill
    one folder may be left, and the next write removes it.
    """
    old = {name: np.zeros_like(value) for name, value in tensors.items()}
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        path, given = Path(name, file), Path(other, file)
        formats.write(given, tensors, format)
        run = (
            partial(_run, format, path, tensors) if format not in THREADED else partial(_run_anew, format, path, given)
        )
        formats.write(path, old, format)
        states = [facts(formats.read(path))]
        formats.write(path, tensors, format, force=True)
        states.append(facts(formats.read(path)))
        entries = len(list(path.parent.iterdir()))
        for fault in _list_faults(format, path, tensors, most):
            for inner in path.parent.iterdir():
                shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
            formats.write(path, old, format)
            before = len(list(path.parent.iterdir()))
            status = run(fault)
            expected = (-signal.SIGKILL, -signal.SIGXFSZ) if fault.kills else (REFUSED,)
            assert status in (*expected, WRITTEN), (fault, status)
            state = facts(formats.read(path))
            assert state in states, f"{fault}: the file is neither the old one nor the new one"
            assert status != WRITTEN or state == states[1], fault
            left = [inner.name for inner in path.parent.iterdir() if inner.name.startswith(".")]
            assert left == [] or (fault.kills and len(left) == 1 and left[0].startswith(FOLDER)), (fault, left)
            formats.write(path, tensors, format, force=True)
            assert facts(formats.read(path)) == states[1], fault
            assert len(list(path.parent.iterdir())) <= max(before, entries), (fault, _list_files(path))


def _list_files(path: Path) -> list[Path]:
    return sorted(inner for inner in path.parent.rglob("*") if inner.is_file())


def _list_faults(format: str, path: Path, tensors: formats.Tensors, most: int) -> list[Fault]:
    """List faults at calls and sizes that are spread evenly over a write, the first and the last among them.

    ``most`` is the largest number of calls; sizes are at most ``MOST_SIZES``.
    """
    counts = dict.fromkeys(LIMITS, max(inner.stat().st_size for inner in _list_files(path)))
    for kind, names in CALLS.items():
        calls = Calls(names)
        sys.setprofile(calls)
        formats.write(path, tensors, format, force=True)
        sys.setprofile(None)
        counts[kind] = calls.count
    return [
        Fault(kind, number)
        for kind, count in counts.items()
        for number in choose(count, min(most, MOST_SIZES) if kind in LIMITS else most)
    ]


def choose(count: int, most: int) -> list[int]:
    """Choose at most ``most`` of the first ``count`` numbers.

    >>> choose(5, 9), choose(100, 3)
    ([0, 1, 2, 3, 4], [0, 49, 99])
    """
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist()))


def _run(format: str, path: Path, tensors: formats.Tensors, fault: Fault) -> int:
    """Write in a forked process; return its exit status, negative if a signal killed it."""
    child = os.fork()
    if child == 0:
        os._exit(write_with(format, path, tensors, fault))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_anew(format: str, path: Path, given: Path, fault: Fault) -> int:
    """Write in a new process, where the format's library has threads and cannot be forked."""
    call = f"write_file({format!r}, {str(path)!r}, {str(given)!r}, {fault!r})"
    code = f"import sys; from {__name__} import *; sys.exit({call})"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


def write_file(format: str, path: str, given: str, fault: Fault) -> int:
    """Write the tensors of an ``.npz`` file; a first write elsewhere imports what the format needs."""
    tensors = dict(formats.read(given, format))
    formats.write(f"{given}.first", tensors, format, force=True)
    return write_with(format, Path(path), tensors, fault)


def write_with(format: str, path: Path, tensors: formats.Tensors, fault: Fault) -> int:
    """Write, with a fault; return an exit status."""
    try:
        fault.arm()
        formats.write(path, tensors, format, force=True)
        return WRITTEN
    except FileFormatError:
        return REFUSED
    except BaseException as error:
        sys.setprofile(None)
        print(f"{fault}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return OTHER
    finally:
        sys.setprofile(None)
