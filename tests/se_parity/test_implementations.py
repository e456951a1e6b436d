"""Workers: exceptions of their processes arrive with type and text, and no process allocates a whole GPU."""

import os
import pickle
import signal
import sys
import threading
import types

import pytest

import se_parity.implementations as targets
from se_parity.implementations import IMPLEMENTATIONS, Worker
from se_parity.implementations.process import RemoteTraceback, WorkerError
from se_spec import ShapeError


class NeedsTwoError(ValueError):
    """Cannot be unpickled: ``args`` has one of the two that ``__init__`` needs."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


class SaysAnotherError(ValueError):
    """Can be unpickled, to another text."""

    def __init__(self, text: str = "") -> None:
        super().__init__(f"<{text}>")


class RaisesOnReduceError(ValueError):
    def __reduce__(self) -> str:
        raise RuntimeError("not to be pickled")


class RaisesOnStrError(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class NotAnError(BaseException):
    def __init__(self, held: object) -> None:
        super().__init__("beside Exception")
        self.held = held


def _holding(held: object) -> Exception:
    error = ValueError("it holds something")
    error.held = held  # type: ignore[attr-defined]
    return error


def _of_a_module_made_here() -> Exception:
    module = types.ModuleType("made_here")
    exec("class Odd(Exception): pass", module.__dict__)
    sys.modules["made_here"] = module
    return module.Odd("of a module that only this process has")


def _of_a_module_not_loaded_there() -> Exception:
    import wave

    return wave.Error("of a module that is not imported there")


RAISED = {
    "needs two": (lambda: NeedsTwoError("a wrong shape", "stage2"), "NeedsTwoError: a wrong shape at stage2"),
    "says another": (lambda: SaysAnotherError("text"), "SaysAnotherError: <text>"),
    "raises on reduce": (lambda: RaisesOnReduceError("reduced"), "RaisesOnReduceError: reduced"),
    "holds a module": (lambda: _holding(os), "ValueError: it holds something"),
    "holds a lock": (lambda: _holding(threading.Lock()), "ValueError: it holds something"),
    "holds a function": (lambda: _holding(lambda: None), "ValueError: it holds something"),
    "holds it in its arguments": (lambda: ValueError("bad", os), "ValueError: ('bad', <module 'os'"),
    "of a module made there": (_of_a_module_made_here, "made_here.Odd: of a module that only this process has"),
    "of a module not loaded here": (_of_a_module_not_loaded_there, "wave.Error: of a module that is not imported"),
    "a group": (lambda: ExceptionGroup("several", [NeedsTwoError("a", "b"), _holding(os)]), "ExceptionGroup: several"),
    "not an Exception": (lambda: NotAnError(os), "NotAnError: beside Exception"),
}


def raise_it(kind: str) -> None:
    raise RAISED[kind][0]()


def raise_error(error: Exception) -> None:
    raise error


def raise_without_text() -> None:
    raise RaisesOnStrError


def die(by: int) -> None:
    os.kill(os.getpid(), by)


def leave(status: int) -> None:
    os._exit(status)


def read_environment(name: str) -> str | None:
    return os.environ.get(name)


@pytest.fixture(scope="module")
def worker():
    """Starts a worker; no framework is imported until its implementation runs."""
    started = Worker(IMPLEMENTATIONS["torch"])
    yield started
    started.close()


@pytest.mark.parametrize("kind", RAISED)
def test_exception_that_cannot_be_pickled_arrives_with_type_text_and_traceback(worker: Worker, kind: str) -> None:
    with pytest.raises(WorkerError) as caught:
        worker.call(raise_it, kind)
    assert RAISED[kind][1] in str(caught.value)
    assert "in raise_it" in str(caught.value.__cause__)
    assert worker.call(os.getpid) > 0, "the process answers no more"


@pytest.mark.parametrize(
    "error", [ValueError("a", 2), ShapeError("rank 2, expected 4"), KeyError("x"), OSError(2, "?")]
)
def test_exception_that_can_be_pickled_arrives_unchanged(worker: Worker, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        worker.call(raise_error, error)
    assert type(caught.value) is type(error)
    assert caught.value.args == error.args
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in raise_error" in str(caught.value.__cause__)


def test_exception_whose_str_raises_arrives_by_its_type(worker: Worker) -> None:
    with pytest.raises((WorkerError, RaisesOnStrError)) as caught:
        worker.call(raise_without_text)
    assert "RaisesOnStrError" in f"{type(caught.value)}" + "".join(map(str, caught.value.args))


def test_exception_imports_no_module_into_the_process_that_asked(worker: Worker) -> None:
    sys.modules.pop("wave", None)
    with pytest.raises(WorkerError, match=r"wave\.Error: of a module that is not imported there"):
        worker.call(raise_it, "of a module not loaded here")
    assert "wave" not in sys.modules


def test_argument_that_cannot_be_pickled_is_an_error_and_the_process_continues(worker: Worker) -> None:
    with pytest.raises((TypeError, pickle.PicklingError, AttributeError), match="pickle"):
        worker.call(len, [os])
    assert worker.call(len, [1]) == 1


@pytest.mark.parametrize(
    ("end", "argument", "said"),
    [(die, signal.SIGKILL, "SIGKILL"), (die, signal.SIGABRT, "SIGABRT"), (leave, 3, "status 3")],
    ids=["killed", "aborted", "exited"],
)
def test_process_that_ends_is_named_in_every_answer(end, argument: int, said: str) -> None:
    worker = Worker(IMPLEMENTATIONS["torch"])
    futures = [worker.submit_call(end, argument), worker.submit_call(os.getpid)]
    for future in futures:
        with pytest.raises(WorkerError, match=said):
            future.result()
    with pytest.raises(WorkerError, match=said):
        worker.call(os.getpid)
    worker.close()


def test_closing_cancels_calls_that_have_not_started(worker: Worker) -> None:
    short = Worker(IMPLEMENTATIONS["torch"])
    futures = [short.submit_call(os.getpid) for _ in range(50)]
    short.close()
    assert all(future.done() for future in futures)


def test_processes_share_a_gpu(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.call(read_environment, "XLA_PYTHON_CLIENT_PREALLOCATE") == "false"
    assert worker.call(read_environment, "TF_FORCE_GPU_ALLOW_GROWTH") == "true"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")  # a user's own wish
    own = Worker(IMPLEMENTATIONS["torch"])
    assert own.call(read_environment, "XLA_PYTHON_CLIENT_PREALLOCATE") == "true"
    own.close()


@pytest.mark.framework("torch")
def test_compiler_error_arrives(worker: Worker) -> None:
    with pytest.raises(Exception, match="never to be compiled"):
        worker.call(compile_what_cannot_be)


def compile_what_cannot_be() -> None:
    """Torch's exceptions hold frames and modules."""
    import torch

    @torch.compiler.disable(reason="never to be compiled")
    def outside(x):
        return x

    torch.compile(lambda x: outside(x) + 1, fullgraph=True, backend="eager")(torch.ones(2))


def test_every_implementation_has_a_module() -> None:
    for target in IMPLEMENTATIONS.values():
        assert os.path.exists(os.path.join(os.path.dirname(targets.__file__), f"{target.module}.py"))
