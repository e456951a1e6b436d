"""Targets of a write: what may be replaced, and how a file or folder takes its place whole or not at all.

A target is written in a folder beside it, whose name comes from the target's, and moved when it is complete and on
the disk. The folder is locked while it is used, so two writes of one target come one after the other, and a folder
without a lock was left by a program that was killed: the next write of that target removes it.

After any end of the program, a kill or a loss of power, the target is what it was before or is new, and whole. A
folder and what it replaces change places in one step, where the system has one (Linux: renameat2); elsewhere two
moves follow each other.
"""

import ctypes
import hashlib
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType

from se_spec import FileFormatError

from ._base import refuse

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = ".se-port-"
"""How the name of a folder begins that is used while a target is written."""
STAGED = re.compile(re.escape(PREFIX) + r"[0-9a-f]{16}(-[a-z0-9_]+)?/")
"""The name of such a folder in a path; no message shows it."""
LONGEST_WAIT = 60.0
"""Seconds to wait for another program that writes the same target."""
LONGEST_REMOVAL = 5.0
"""Seconds in which the folder is removed."""
EXCHANGE, HERE = 2, -100
"""RENAME_EXCHANGE and AT_FDCWD of Linux."""
INSTEAD = "a folder that can be written, and enough space"


class _Interrupted(BaseException):
    """A signal that ends the program arrived."""


@contextmanager
def stage(
    path: Path,
    force: bool,
    is_own_folder: Callable[[Path], bool] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Yield where to write; what is there at the end of the with block takes the target's place.

    If the block raises, or SIGTERM or SIGINT ends it, nothing of it is left, new parent folders included.

    Args:
        path: the target; files beside it whose names begin with its name may be written too.
        force: whether a target that exists is replaced.
        is_own_folder: whether a folder is one that the same write would make; no other is replaced, None: no folder.
        finish: called with the target when it is in its place, to remove files that only the old one used.

    Raises:
        FileFormatError: the target exists and ``force`` is False, it may not be replaced, or the system refuses.
    """
    check_target(path, force, is_own_folder)
    with _handle_signals() as signals, _refuse_failures(path), ExitStack() as stack:
        stack.enter_context(_make_parents(path.parent))
        folder = stack.enter_context(_lock_folder(path))
        staged = folder / path.name
        try:
            yield staged
        except FileFormatError as error:
            raise FileFormatError(STAGED.sub("", str(error))) from None
        made = sorted(folder.iterdir(), key=lambda new: (new == staged, new.name))  # what the others belong to is last
        for new in made:
            check_target(path.parent / new.name, force, is_own_folder)
            _synchronize(new)
        signals.deferred = True
        for new in made:
            _move(new, path.parent / new.name)
        _synchronize_folder(path.parent)
        if finish is not None:
            finish(path)


def check_target(target: Path, force: bool, is_own_folder: Callable[[Path], bool] | None = None) -> None:
    """Check that a target may be written.

    Raises:
        FileFormatError: it exists and ``force`` is False, or it is neither a file nor a folder of the same kind.
    """
    with _refuse_failures(target):
        try:
            mode = target.lstat().st_mode  # of the link itself: one to nowhere is there, too
        except (FileNotFoundError, NotADirectoryError):
            return
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            refuse(target, "is a device, a pipe or a socket", "a path for a file")
        if not force:
            refuse(target, "is there already", "another path, or force to replace it")
        if stat.S_ISDIR(mode) and (is_own_folder is None or not is_own_folder(target)):
            refuse(target, "is a folder that no write of this format makes", "another path: this one is not replaced")


@contextmanager
def _refuse_failures(path: Path) -> Iterator[None]:
    """Turn an error of the system into a ``FileFormatError`` that names the file."""
    try:
        yield
    except OSError as error:
        refuse(path, f"cannot be written ({error.strerror or error})", INSTEAD)


@contextmanager
def _make_parents(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; those that are new are removed again if the block raises."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    try:
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
        yield
    except BaseException:
        for new in missing:
            with suppress(OSError):
                new.rmdir()
        raise


@contextmanager
def _lock_folder(path: Path) -> Iterator[Path]:
    """Make the folder that is used while a target is written, and hold its lock."""
    name = PREFIX + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    folder, end = path.parent / name, time.monotonic() + LONGEST_WAIT
    lock = None
    try:
        while True:
            lock = _try_to_lock(folder)
            if lock is not None:
                break
            if time.monotonic() > end:
                refuse(path, f"is being written by another program, in {folder}", "one program at a time")
            time.sleep(0.02)
        if lock < 0:  # the file system has no locks: every write has a folder of its own
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=path.parent))
        yield folder
    finally:
        if lock is not None:
            _remove(folder, lock)
            if lock >= 0:
                os.close(lock)


def _remove(folder: Path, lock: int) -> None:
    """Remove a folder, in which threads of a library may still write after their failure.

    As soon as it is removed, another program may have made one of its name.
    """
    end = time.monotonic() + LONGEST_REMOVAL
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if lock < 0 or not _is_same(lock, folder) or time.monotonic() > end:
            return
        time.sleep(0.05)


def _try_to_lock(folder: Path) -> int | None:
    """Make a folder and lock it; what a killed program left in it is removed.

    Returns:
        The descriptor that holds the lock; None if another program holds it; -1 if there are no locks here.
    """
    if fcntl is None:
        return -1
    with suppress(FileExistsError):
        folder.mkdir()
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    except FileNotFoundError:  # its owner has just removed it
        return None
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        raise
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        folder.rmdir()
        return -1
    if not _is_same(lock, folder):  # removed by its owner between the two calls
        os.close(lock)
        return None
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    return lock


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _move(new: Path, target: Path) -> None:
    """Move a file or folder to its target; what it replaces is removed with the folder that it was in."""
    if not os.path.lexists(target) or not (new.is_dir() or (target.is_dir() and not target.is_symlink())):
        new.replace(target)
    elif not _exchange(new, target):
        target.rename(new.with_name(f"{PREFIX}old"))
        new.rename(target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done: int = rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE)
    return done == 0


def _synchronize(path: Path) -> None:
    """Wait until a file, or every file of a folder, is on the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _synchronize(inner)
        _synchronize_folder(path)
        return
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _synchronize_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Signals:
    """Signals that end the program, which a write handles: they unwind it, and then have their usual effect.

    Args:
        deferred: whether a signal waits for the end of the write, as while files are moved or removed.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.arrived: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Unwind the write at the first signal, unless it is deferred."""
        self.arrived = number
        if not self.deferred:
            self.deferred = True  # a second signal does not disturb the cleaning
            raise _Interrupted


@contextmanager
def _handle_signals() -> Iterator[_Signals]:
    """Handle SIGINT, SIGTERM and SIGHUP in the block, and repeat the one that arrived after it.

    Only where the program has no handler of its own, and in the main thread, which alone may set one.
    """
    signals = _Signals()
    names = ("SIGINT", "SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None))}
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: handler for number, handler in before.items() if handler in usual}
    try:
        for number in before:
            signal.signal(number, signals.handle)
        yield signals
    except _Interrupted:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if signals.arrived is not None:
            signal.raise_signal(signals.arrived)
