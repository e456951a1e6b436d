"""Calls of a stranger's function: a limit on the time of each, and the process is put back into its state after it.

Settings of NumPy, PyTorch, JAX, Keras and Python that a block changes are an error of the block, since they change what
the rest of a program computes. What it prints, what it warns of and that it draws random numbers is noted.
"""

import contextlib
import contextvars
import ctypes
import io
import mmap
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

TIMEOUT_SECONDS = 60.0
REPEAT_SECONDS = 1.0
"""Interval at which a function that caught the end of its time is interrupted again."""

UNWRITABLE = "The given NumPy array is not writable"
"""PyTorch warns of read-only arrays, and the judge gives such."""
QUIET = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning)
"""Warnings to those who write a block, not to those who use it."""


class TimedOut(BaseException):
    """A function took longer than its limit."""


class Setting(NamedTuple):
    """A part of the process's state.

    Args:
        name: how a message calls it.
        module: the module that has it; it is looked at only where that is imported already.
        get: returns the state, which is compared by ``==``.
        set: puts it back.
    """

    name: str
    module: str
    get: Callable[[Any], Any]
    set: Callable[[Any, Any], object]


def _make_setting(name: str, module: str, getter: str, setter: str) -> Setting:
    """Make a setting that a module has two functions for, of these names."""
    get, put = attrgetter(getter), attrgetter(setter)
    return Setting(name, module, lambda library: get(library)(), lambda library, value: put(library)(value))


def _make_jax_setting(option: str) -> Setting:
    get = attrgetter(f"config.{option}")
    return Setting(f"JAX's {option}", "jax", get, lambda jax, value: jax.config.update(option, value))


SETTINGS = (
    _make_setting("the working directory", "os", "getcwd", "chdir"),
    _make_setting("PyTorch's default dtype", "torch", "get_default_dtype", "set_default_dtype"),
    _make_setting("PyTorch's grad mode", "torch", "is_grad_enabled", "set_grad_enabled"),
    _make_setting("PyTorch's number of threads", "torch", "get_num_threads", "set_num_threads"),
    _make_setting(
        "PyTorch's deterministic algorithms",
        "torch",
        "are_deterministic_algorithms_enabled",
        "use_deterministic_algorithms",
    ),
    _make_setting(
        "PyTorch's precision of products", "torch", "get_float32_matmul_precision", "set_float32_matmul_precision"
    ),
    *(
        _make_jax_setting(f"jax_{name}")
        for name in ("enable_x64", "default_matmul_precision", "debug_nans", "debug_infs", "disable_jit")
    ),
    *(
        _make_setting(f"Keras' {name}", "keras", f"config.{name}", f"config.set_{name}")
        for name in ("floatx", "epsilon", "image_data_format")
    ),
)
GENERATORS = (
    _make_setting("Python's random generator", "random", "getstate", "setstate"),
    _make_setting("NumPy's global random generator", "numpy", "random.get_state", "random.set_state"),
    Setting(
        "PyTorch's random generator",
        "torch",
        lambda torch: torch.get_rng_state().numpy(),
        lambda torch, value: torch.set_rng_state(torch.from_numpy(value)),
    ),
)

EARLIER_ARRAY = "the array that an earlier call returned"


_IN_TURN: contextvars.ContextVar[bool] = contextvars.ContextVar("in turn", default=False)
_TURNS = threading.Lock()
"""Guarded calls of several threads take turns: what a block changes would else be seen in the calls of another."""


@dataclass
class Guard:
    """Guards the calls of one block.

    Args:
        timeout: seconds that a call may take.
        notes: what was noted, each sentence once.
        timed_out: whether a call took longer, after which none is made.
    """

    timeout: float = TIMEOUT_SECONDS
    notes: list[str] = field(default_factory=list)
    timed_out: bool = False
    _last: tuple[np.ndarray, bytes] | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, BaseException | None, tuple[str, ...]]:
        """Call a function.

        Args:
            function: it may do anything.
            arguments: positional arguments.

        Returns:
            What it returned; what it raised, or None; the settings that it changed, which are put back.

        Raises:
            KeyboardInterrupt: the user interrupts the program.
        """
        if _IN_TURN.get():  # the function calls the judge itself, perhaps in another thread
            return self._call_alone(function, arguments)
        with _TURNS:
            token = _IN_TURN.set(True)
            try:
                return self._call_alone(function, arguments)
            finally:
                _IN_TURN.reset(token)

    def _call_alone(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> tuple[Any, BaseException | None, tuple[str, ...]]:
        answer: Any = None
        raised: BaseException | None = None
        in_main_thread = threading.current_thread() is threading.main_thread()
        run = _run_with_alarm if in_main_thread and _is_alarm_free() else _run_in_thread
        with self._observe(in_main_thread) as changed:
            try:
                answer = run(lambda: _call_quietly(function, arguments, changed), self.timeout)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit, pytest.skip: whatever it is, it is the block's
                raised, self.timed_out = error, isinstance(error, TimedOut)
        if self._last is not None and self._last[0].tobytes() != self._last[1]:
            changed.append(EARLIER_ARRAY)
        is_watched = isinstance(answer, np.ndarray) and not _is_mapped(answer) and not _is_part_of(answer, arguments)
        self._last = (answer, answer.tobytes()) if is_watched else None
        return answer, raised, tuple(changed)

    @contextlib.contextmanager
    def _observe(self, in_main_thread: bool) -> Iterator[list[str]]:
        """Put settings and random generators back; list the settings that the block changes."""
        modules = set(sys.modules)
        settings, generators = _read(SETTINGS), _read(GENERATORS)
        changed: list[str] = []
        output = io.StringIO()
        with contextlib.ExitStack() as stack:
            found: list[warnings.WarningMessage] | None = None
            if in_main_thread:  # these belong to the whole process
                found = stack.enter_context(warnings.catch_warnings(record=True))
                warnings.simplefilter("always")
                stack.enter_context(contextlib.redirect_stdout(output))
                stack.enter_context(contextlib.redirect_stderr(output))
            yield changed
        changed += _put_back(settings)
        for name in _put_back(generators):
            if set(sys.modules) == modules:  # an import may draw numbers
                self._note(f"it changes {name}")
        if output.getvalue():
            self._note(f"it prints, such as {output.getvalue().strip()[:60]!r}")
        for message in found or ():
            if not issubclass(message.category, QUIET) and UNWRITABLE not in str(message.message):
                self._note(f"it warns of {message.category.__name__}: {' '.join(str(message.message)[:80].split())}")

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _is_mapped(array: np.ndarray) -> bool:
    """Whether an array is in a mapped file, which may become shorter."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, mmap.mmap)


def _is_part_of(array: np.ndarray, arguments: tuple[Any, ...]) -> bool:
    """Whether an array has the memory of an argument, which the judge itself may change later."""
    dicts = [argument.values() for argument in arguments if isinstance(argument, dict)]
    held = [*arguments, *(value for values in dicts for value in values)]
    return any(isinstance(value, np.ndarray) and np.may_share_memory(array, value) for value in held)


States = list[tuple[Setting, Any, Any]]


def _read(settings: tuple[Setting, ...]) -> States:
    """Read the state of each setting whose module is imported."""
    found = []
    for setting in settings:
        module = sys.modules.get(setting.module)
        if module is not None:
            with contextlib.suppress(Exception):  # another version of the library has no such setting
                found.append((setting, module, setting.get(module)))
    return found


def _put_back(states: States) -> list[str]:
    """Put settings back that have changed; return their names."""
    changed = []
    for setting, module, value in states:
        if not _is_equal(setting.get(module), value):
            changed.append(setting.name)
            setting.set(module, value)
    return changed


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and any(isinstance(value, np.ndarray) for value in one):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


def _call_quietly(function: Callable[..., Any], arguments: tuple[Any, ...], changed: list[str]) -> Any:
    """Call with NumPy's warnings switched off, which belong to the thread; note if they are switched on again."""
    with np.errstate(all="ignore"):  # inf - inf in between is no mistake, even where warnings are errors
        before = np.geterr()
        try:
            return function(*arguments)
        finally:
            if np.geterr() != before:
                changed.append("NumPy's error state")


def _is_alarm_free() -> bool:
    """Whether the program does not use the alarm itself."""
    return (
        hasattr(signal, "setitimer")
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    )


def _run_with_alarm(call: Callable[[], Any], timeout: float) -> Any:
    """Call in this thread; a signal interrupts it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimedOut

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, timeout, REPEAT_SECONDS)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _run_in_thread(call: Callable[[], Any], timeout: float) -> Any:
    """Call in another thread; after the time limit it is asked to end, and left alone."""
    answers: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive() and thread.ident is not None:
        set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc  # it acts at the thread's next step in Python
        set_exception(ctypes.c_ulong(thread.ident), ctypes.py_object(TimedOut))
        raise TimedOut
    if errors:
        raise errors[0]
    if not answers:
        raise TimedOut
    return answers[0]
