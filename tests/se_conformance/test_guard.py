"""Whatever a function does to the process, there is a verdict, and the process is as before."""

import asyncio
import copy
import itertools
import os
import pickle
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import se_numpy
from se_conformance import check
from se_spec import SESpec, SpecError

SPEC = SESpec(8, hidden=3)
Function = Callable[[np.ndarray, dict[str, np.ndarray]], Any]


def right(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
    return se_numpy.squeeze_excitation(x, SPEC, parameters, data_format="channels_last").astype(x.dtype)


def acts(act: Callable[[], object]) -> Function:
    """Make a function that is right, and does something besides."""

    def function(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        act()
        return right(x, parameters)

    return function


def throw(error: BaseException) -> Function:
    def function(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        raise error

    return function


@pytest.mark.parametrize(
    "error",
    [
        BaseException("base"), SystemExit(0), GeneratorExit(), asyncio.CancelledError(), MemoryError(),
        RecursionError(), pytest.skip.Exception("skipped"), pytest.fail.Exception("no"), pytest.exit.Exception("out"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_every_exception_is_a_verdict(error: BaseException) -> None:
    for verdict in (
        check(throw(error), SPEC),
        check(right, SPEC, vjp=lambda x, dy, parameters: throw(error)(x, parameters)),
        check(right, SPEC, excitation=throw(error)),
    ):
        assert not verdict.passed
        assert f"raised {type(error).__name__}" in str(verdict)


def sleep_for_ever() -> None:
    time.sleep(1e6)


def loop_for_ever() -> None:
    while True:
        pass


def wait_for_ever() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@pytest.mark.parametrize("hang", [sleep_for_ever, loop_for_ever, wait_for_ever])
def test_a_function_that_does_not_answer_is_a_verdict(hang: Callable[[], None]) -> None:
    verdict = check(acts(hang), SPEC, timeout=0.2)
    assert not verdict.passed
    assert len(verdict.ran) == 1
    assert "no answer within the time limit" in str(verdict)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_function_that_hangs_later_keeps_its_other_trials() -> None:
    calls: list[int] = []

    def hang_at_the_fifth_call() -> None:
        calls.append(0)
        if len(calls) == 5:
            sleep_for_ever()

    verdict = check(acts(hang_at_the_fifth_call), SPEC, timeout=0.2)
    assert not verdict.passed
    assert len(verdict.ran) == len(calls) == 5


@pytest.mark.parametrize("place", ["another thread", "beside an alarm of the program"])
def test_a_time_limit_holds(place: str) -> None:
    released = threading.Event()
    waits = acts(lambda: released.wait(60))
    if place == "another thread":
        with ThreadPoolExecutor(1) as pool:
            verdict = pool.submit(check, waits, SPEC, timeout=0.2).result()
    else:
        before = signal.signal(signal.SIGALRM, lambda number, frame: None)
        try:
            verdict = check(waits, SPEC, timeout=0.2)
            assert signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
        finally:
            signal.signal(signal.SIGALRM, before)
    released.set()
    assert "no answer within the time limit" in str(verdict)


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan"), "1"])
def test_a_wrong_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(SpecError, match="timeout="):
        check(right, SPEC, timeout=timeout)


def test_numpys_error_state_is_put_back() -> None:
    before = np.geterr()
    verdict = check(acts(lambda: np.seterr(all="raise")), SPEC)
    assert np.geterr() == before
    assert not verdict.passed
    assert "NumPy's error state is changed by the call" in str(verdict)
    assert (verdict.stage, verdict.causes) == ("call", ())


def test_the_working_directory_is_put_back(tmp_path: Path) -> None:
    before = os.getcwd()
    verdict = check(acts(lambda: os.chdir(tmp_path)), SPEC)
    assert os.getcwd() == before
    assert "the working directory is changed by the call" in str(verdict)


@pytest.mark.framework("torch")
def test_pytorchs_settings_are_put_back() -> None:
    import torch

    threads = torch.get_num_threads()
    changes: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
        "grad mode": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
        "number of threads": (lambda: torch.set_num_threads(threads + 1), torch.get_num_threads),
        "precision of products": (
            lambda: torch.set_float32_matmul_precision("medium"),
            torch.get_float32_matmul_precision,
        ),
    }
    for name, (change, get) in changes.items():
        before = get()
        verdict = check(acts(change), SPEC)
        assert get() == before
        assert f"PyTorch's {name} is changed by the call" in str(verdict)


@pytest.mark.framework("torch")
def test_a_module_that_cannot_be_copied_is_refused() -> None:
    import torch

    class Uncopied(torch.nn.Sequential):
        def __deepcopy__(self, memo: object) -> "Uncopied":
            raise RuntimeError("there is one of me")

    spec = SPEC.replace(bias=True)
    with pytest.raises(SpecError, match="deepcopy of the block raises RuntimeError: there is one of me"):
        check(Uncopied(torch.nn.Linear(8, 3), torch.nn.Linear(3, 8)), spec)


@pytest.mark.framework("flax")
def test_jaxs_settings_are_put_back() -> None:
    import jax

    before = jax.config.jax_default_matmul_precision
    verdict = check(acts(lambda: jax.config.update("jax_default_matmul_precision", "bfloat16")), SPEC)
    assert jax.config.jax_default_matmul_precision == before
    assert "JAX's jax_default_matmul_precision is changed by the call" in str(verdict)


@pytest.mark.framework("keras")
def test_keras_settings_are_put_back() -> None:
    import keras

    before = keras.config.floatx()
    verdict = check(acts(lambda: keras.config.set_floatx("float64")), SPEC)
    assert keras.config.floatx() == before
    assert "Keras' floatx is changed by the call" in str(verdict)


def test_random_generators_are_put_back_and_it_is_noted() -> None:
    states = random.getstate(), np.random.get_state()[1].tobytes()
    verdict = check(acts(lambda: (random.random(), np.random.random())), SPEC)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == states
    assert verdict.passed
    assert verdict.notes == ["it changes Python's random generator", "it changes NumPy's global random generator"]


def test_output_and_warnings_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    filters = list(warnings.filters)

    def speak() -> None:
        print("here I am")
        warnings.simplefilter("error")
        warnings.filterwarnings("default", category=UserWarning)
        warnings.warn("beware\nof me", stacklevel=1)

    verdict = check(acts(speak), SPEC)
    assert capsys.readouterr() == ("", "")
    assert list(warnings.filters) == filters
    assert verdict.passed
    assert "  noted    it prints, such as 'here I am'" in str(verdict)
    assert "  noted    it warns of UserWarning: beware of me" in str(verdict)


RETURNS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "a masked array": (lambda y: np.ma.masked_array(y, y > 0), "returned MaskedArray of float32, expected an array"),
    "another byte order": (lambda y: y.astype(y.dtype.newbyteorder()), "y: dtype >f4, expected float32"),
    "a generator": (lambda y: (part for part in y), "returned generator, expected an array"),
    "an array of objects": (lambda y: y.astype(object), "returned ndarray of object, expected an array"),
}


@pytest.mark.parametrize("kind", RETURNS)
def test_what_is_no_plain_array_is_one_clear_error(kind: str) -> None:
    change, message = RETURNS[kind]
    verdict = check(lambda x, parameters: change(right(x, parameters)), SPEC, diagnose=False)
    assert not verdict.passed
    assert message in str(verdict)


class OwnArray(np.ndarray):
    """A subclass with nothing of its own."""


def test_subclasses_and_mapped_files_are_arrays(tmp_path: Path) -> None:
    numbers = itertools.count()

    def to_file(y: np.ndarray) -> np.ndarray:
        if y.size == 0:
            return y
        mapped = np.memmap(tmp_path / f"{next(numbers)}", y.dtype, "w+", shape=y.shape)
        mapped[...] = y
        return mapped

    assert check(lambda x, parameters: right(x, parameters).view(OwnArray), SPEC).passed
    assert check(lambda x, parameters: np.asfortranarray(right(x, parameters)), SPEC).passed
    assert check(lambda x, parameters: to_file(right(x, parameters)), SPEC).passed


def test_one_output_buffer_for_all_calls_is_found() -> None:
    buffers: dict[tuple[int, ...], np.ndarray] = {}

    def function(x: np.ndarray, parameters: dict[str, np.ndarray]) -> np.ndarray:
        buffer = buffers.setdefault(x.shape, np.empty_like(x))
        buffer[...] = right(x, parameters)
        return buffer

    verdict = check(function, SPEC)
    assert not verdict.passed
    assert "the array that an earlier call returned is changed by the call" in str(verdict)


@pytest.mark.parametrize("function", [right, lambda x, parameters: x, throw(ValueError("no"))])
def test_a_verdict_is_pickled_and_copied(function: Function) -> None:
    verdict = check(function, SPEC)
    for again in (pickle.loads(pickle.dumps(verdict)), copy.deepcopy(verdict)):
        assert str(again) == str(verdict)
        assert again.to_json() == verdict.to_json()
        assert again.causes == verdict.causes


def test_four_threads_at_once_get_the_same_verdicts() -> None:
    functions: list[Function] = [right, lambda x, parameters: x] * 2
    expected = [str(check(function, SPEC)) for function in functions]
    with ThreadPoolExecutor(4) as pool:
        assert [str(verdict) for verdict in pool.map(lambda function: check(function, SPEC), functions)] == expected


def test_threads_at_once_do_not_see_what_blocks_of_others_change(tmp_path: Path) -> None:
    """Settings and generators belong to the process; each verdict is about the block that changed them."""
    functions: list[Function] = [
        acts(lambda: np.random.random()),
        right,
        acts(lambda: (os.chdir(tmp_path), time.sleep(1e-3))),
        lambda x, parameters: right(x, parameters) * np.float32(1.01),
    ]
    expected = [str(check(function, SPEC, diagnose=False)) for function in functions]
    place = os.getcwd()
    with ThreadPoolExecutor(4) as pool:
        assert [
            str(verdict) for verdict in pool.map(lambda function: check(function, SPEC, diagnose=False), functions)
        ] == expected
    assert os.getcwd() == place


def test_a_function_that_judges_another_in_its_first_call_has_a_verdict() -> None:
    inner = iter([lambda: check(right, SPEC, diagnose=False)])
    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(check, acts(lambda: next(inner, int)()), SPEC, timeout=20.0).result()
    assert verdict.passed


@pytest.mark.framework("torch")
def test_four_threads_at_once_get_the_same_verdicts_of_a_module() -> None:
    import torch

    class Block(torch.nn.Module):
        def __init__(self, squeeze: Callable[[Any], Any]) -> None:
            super().__init__()
            self.fc1, self.fc2, self.squeeze = torch.nn.Linear(8, 3), torch.nn.Linear(3, 8), squeeze

        def forward(self, x: Any) -> Any:
            return x * self.fc2(self.fc1(self.squeeze(x)).relu()).sigmoid()[..., None, None]

    spec = SPEC.replace(bias=True)
    blocks = [Block(lambda x: x.mean((2, 3))), Block(lambda x: x.amax((2, 3)))]
    expected = [str(check(block, spec, diagnose=False)) for block in blocks]
    assert [text.startswith("passed") for text in expected] == [True, False]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda block: str(check(block, spec, diagnose=False)), 2 * blocks)
        assert list(found) == 2 * expected


def test_a_thread_that_took_too_long_ends() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # its thread starts
        before = threading.active_count()
        verdict = pool.submit(check, acts(loop_for_ever), SPEC, timeout=0.2).result()
        assert "no answer within the time limit" in str(verdict)
        end = time.monotonic() + 30
        while threading.active_count() > before and time.monotonic() < end:
            time.sleep(0.05)
        assert threading.active_count() == before
