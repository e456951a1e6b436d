"""A process that answers calls; what goes wrong there arrives with its type, its text and its traceback.

``ProcessPoolExecutor`` sends the exception itself. An exception that cannot be pickled then arrives as the error of
pickling, one that cannot be unpickled ends the pool, and a framework's exception imports that framework here. So each
is sent as bytes and as text, and the text is raised where the bytes do not give the same exception here.
"""

import io
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, NamedTuple

GRACE_SECONDS = 2.0


class WorkerError(RuntimeError):
    """An exception of another process as ``type: text``, or the way in which that process ended."""


class RemoteTraceback(Exception):  # noqa: N818 - it stands as a cause and says no more than where
    """The traceback in the other process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Failure(NamedTuple):
    """An exception on its way to another process; ``pickled`` is None where it could not be."""

    pickled: bytes | None
    kind: str
    text: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Store all parts of an exception that can be sent."""
        try:
            pickled = pickle.dumps(error)
        except Exception:
            pickled = None
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return cls(pickled, name, _text(error), _traceback(error))

    def to_error(self) -> BaseException:
        """Restore the exception if its class is loaded here, else makes a ``WorkerError``."""
        error = self._unpickle() or WorkerError(f"{self.kind}: {self.text}")
        error.__cause__ = RemoteTraceback(self.traceback)
        return error

    def _unpickle(self) -> BaseException | None:
        """Return the exception, if its class is loaded here and its text is the same as there."""
        if self.pickled is None:
            return None
        try:
            error = _LoadedModulesUnpickler(io.BytesIO(self.pickled)).load()
        except Exception:
            return None
        return error if isinstance(error, BaseException) and _text(error) == self.text else None


class _LoadedModulesUnpickler(pickle.Unpickler):
    """Imports nothing, so that a framework's exception does not import the framework into this process."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in sys.modules:
            raise pickle.UnpicklingError(f"{module} is not imported here")
        return super().find_class(module, name)


class Process:
    """One process that answers calls in the order in which they were submitted.

    Args:
        prepare: an importable function that it calls first.
        arguments: the arguments of ``prepare``.
    """

    def __init__(self, prepare: Callable[..., None], *arguments: object) -> None:
        self._context = _RecordingContext()
        self._pool = ProcessPoolExecutor(1, self._context, initializer=prepare, initargs=arguments)
        self._end = ""

    def submit(self, function: Callable[..., Any], *arguments: object) -> "Future[Any]":
        """Submit a call; its exception becomes a ``WorkerError`` if it cannot be sent or the process ends."""
        outer: Future[Any] = Future()
        try:
            inner = self._pool.submit(_call, function, arguments)
        except BrokenProcessPool as error:
            outer.set_exception(self._to_end_error(error))
        else:
            inner.add_done_callback(partial(self._pass_on, outer))
        return outer

    def close(self) -> None:
        """End the process and cancel calls that have not started."""
        self._pool.shutdown(cancel_futures=True)

    def _pass_on(self, outer: "Future[Any]", inner: "Future[Any]") -> None:
        if inner.cancelled():
            outer.cancel()
        if not outer.set_running_or_notify_cancel():
            return
        error = inner.exception()
        if isinstance(error, BrokenProcessPool):
            outer.set_exception(self._to_end_error(error))
        elif error is not None:  # the pool's own: an argument or a result cannot be pickled
            outer.set_exception(error)
        elif isinstance(inner.result(), Failure):
            outer.set_exception(inner.result().to_error())
        else:
            outer.set_result(inner.result())

    def _to_end_error(self, error: BrokenProcessPool) -> WorkerError:
        """Describe how the process ended; the first description is kept, since a broken pool kills the process."""
        process = self._context.processes[-1]
        process.join(GRACE_SECONDS)  # its pipe closes before its exit code is there
        self._end = self._end or _describe_end(process.exitcode, error)
        ended = WorkerError(self._end)
        ended.__cause__ = error
        return ended


class _RecordingContext(SpawnContext):
    """Keeps the processes that a pool starts, since the pool does not report their exit codes."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        self.processes.append(SpawnProcess(*arguments, **options))
        return self.processes[-1]


def _call(function: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
    """Run in the other process: returns the result, or the exception as a ``Failure``."""
    try:
        return function(*arguments)
    except BaseException as error:
        return Failure.of(error)


def _describe_end(code: int | None, error: BrokenProcessPool) -> str:
    if code is None:
        return f"an answer of the process could not be read: {error.__cause__ or error}"
    if code >= 0:
        return f"the process exited with status {code} before it answered; its own output is above"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    reason = ", as the system does where memory runs out" if name == "SIGKILL" else "; its own output is above"
    return f"the process was ended by {name} before it answered{reason}"


def _text(error: BaseException) -> str:
    """Return the text of an exception, whose own ``__str__`` may raise."""
    try:
        return str(error)
    except Exception as other:
        return f"(no text: its __str__ raised {type(other).__name__})"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return "".join(traceback.format_tb(error.__traceback__))
