"""What each trial is for: mistakes that one size, value, memory order or way of calling shows, and what is seen."""

import inspect
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from se_conformance import check, trial
from se_conformance.cases import DTYPES
from se_conformance.trial_inputs import OWN_WAYS, WAYS, trials
from se_conformance.verdict import Verdict
from se_spec import SESpec, SpecError

from ..conftest import OnDemand
from .test_judge import sigmoid

torch: Any = OnDemand("torch")
SPEC = SESpec(12, hidden=5, bias=True)
Array, Arrays = np.ndarray, dict[str, np.ndarray]


def make_block(
    x: Callable[[Array], Array] = lambda x: x,
    u: Callable[[Array], Array] = lambda u: np.maximum(u, 0),
    g: Callable[[Array], Array] = sigmoid,
    y: Callable[[Array, Array], Array] = lambda y, x: y,
) -> Callable[[Array, Arrays], Array]:
    """Make a block, channels last, of which one part may be wrong."""

    def block(given: Array, p: Arrays) -> Array:
        seen = x(given)
        h = u(seen.mean((1, 2)) @ p["reduce.weight"].T + p["reduce.bias"])
        gate = g(h @ p["expand.weight"].T + p["expand.bias"])
        return y(seen * gate[:, None, None], given).astype(given.dtype)

    return block


def judge(block: Any, **options: Any) -> Verdict:
    with np.errstate(all="ignore"):
        return check(block, SPEC, **options)


def failed_trials(verdict: Verdict) -> set[str]:
    return {finding.trial for finding in verdict.failures}


def when(condition: Callable[[Array], bool]) -> Callable[[Array, Array], Array]:
    """Return the change of y that is wrong under a condition on x alone."""
    return lambda y, x: 0.9 * y if condition(x) else y


def has_zeros(x: Array) -> bool:
    return bool((x == 0).any())


def overflowing_sigmoid(v: Array) -> Array:
    return np.exp(v) / (1 + np.exp(v))


@pytest.mark.parametrize("seed", [0, 1, 2, 12345])
def test_right_block_passes_for_every_seed(seed: int) -> None:
    judge(make_block(), seed=seed).raise_if_failed()


@pytest.mark.parametrize(
    ("block", "trial_name", "seen"),
    [
        (make_block(y=when(has_zeros)), "after a ReLU", ""),
        (make_block(g=overflowing_sigmoid), "logits up to 120", ""),
        (make_block(u=lambda u: np.minimum(np.maximum(u, 0), 20)), "hidden values up to 120", ""),
        (make_block(y=when(lambda x: len(x) > 8)), "many samples", "wrong only where N is 9 or more; right up to 5"),
        (make_block(y=when(lambda x: len(x) == 0 or x.shape[1] == x.shape[2] == 7)), "side of 7", ""),
        (make_block(y=when(lambda x: x.shape[1:3] == (16, 16))), "side of 16", "the longest side is 16"),
        (make_block(y=when(lambda x: max(x.shape[1:3]) > 65)), "many positions", "the longest side is"),
        (make_block(y=when(lambda x: x.size > 1 << 18)), "tall map", "the number of positions is"),
        (make_block(x=lambda x: np.where(x == -np.inf, 0, x)), "-inf at another place", "NaN or inf"),
        (
            make_block(y=when(lambda x: bool((np.ptp(x, (1, 2)) == 0).all()) and x[0, ..., 0].size > 1)),
            "constant map",
            "",
        ),
    ],
)
def test_mistake_that_few_inputs_show_is_found(block: Any, trial_name: str, seen: str) -> None:
    verdict = judge(block)
    assert not verdict.passed
    assert trial_name in failed_trials(verdict)
    assert "uneven map" not in failed_trials(verdict)
    assert seen in "; ".join(verdict.seen)


@pytest.mark.parametrize(
    "dy", [lambda dy: np.clip(dy, -6, 6), lambda dy: dy / np.abs(dy).max() * np.abs(dy).max(), np.nan_to_num]
)
def test_mistake_in_gradients_that_few_inputs_show_is_found(dy: Callable[[Array], Array]) -> None:
    import se_numpy

    def vjp(x: Array, given: Array, p: Arrays) -> Any:
        dx, dp = se_numpy.vjp(x, dy(given), SPEC, p, data_format="channels_last")
        return dx.astype(x.dtype), {name: array.astype(x.dtype) for name, array in dp.items()}

    verdict = judge(make_block(), vjp=vjp)
    assert failed_trials(verdict) in ({"many positions"}, {"dy of zeros"}, {"NaN in dy"})


class KeptByIdentity:
    def __init__(self) -> None:
        self.kept: tuple[Any, Any] = (None, None)

    def __call__(self, x: Array, p: Arrays) -> Array:
        if self.kept[0] is not x:
            self.kept = x, make_block()(x, p)
        return self.kept[1].copy()


class WrongLater:
    calls = 0

    def __call__(self, x: Array, p: Arrays) -> Array:
        self.calls += 1
        return make_block()(x, p) * np.float32(0.9 if self.calls > 100 else 1.0)


def sees_the_judge(x: Array, p: Arrays) -> Array:
    """A cheat: right where the judge is on the stack."""
    judged = any("se_conformance" in frame.filename for frame in inspect.stack() if "tests" not in frame.filename)
    return make_block()(x, p) * np.float32(1.0 if judged else 0.9)


def ignores_strides(x: Array, p: Arrays) -> Array:
    return make_block()(x.ravel(order="K").reshape(x.shape), p)


@pytest.mark.parametrize(
    ("block", "cause", "way"),
    [
        (KeptByIdentity(), "answers kept by the array's identity", "reused"),
        (WrongLater(), "another answer after many calls", "often"),
        (sees_the_judge, "another answer in another thread", "thread"),
        (ignores_strides, "memory order ignored", "strided"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistake_that_a_way_of_calling_shows_is_named(block: Any, cause: str, way: str) -> None:
    verdict = judge(block)
    assert verdict.causes == (cause,)
    assert WAYS[way] in failed_trials(verdict)
    assert verdict.stage == "call"
    assert "only these trials fail" in verdict.seen[0]


def test_a_block_that_knows_the_inputs_of_one_seed_fails() -> None:
    known = {entry.inputs.x.tobytes() for entry in trials(SPEC, seed=0)}
    verdict = judge(make_block(y=when(lambda x: x.tobytes() not in known)), seed=1)
    assert not verdict.passed


def test_seed_is_drawn_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SE_CHECK_SEED")
    one, other = judge(make_block()), judge(make_block())
    assert one.seed != other.seed
    assert f"seed {one.seed}" in str(one)
    x = trial("uneven map", SPEC, seed=one.seed).inputs.x
    assert not np.array_equal(x, trial("uneven map", SPEC, seed=one.seed + 3).inputs.x)
    monkeypatch.setenv("SE_CHECK_SEED", "17")
    assert judge(make_block()).seed == 17
    monkeypatch.setenv("SE_CHECK_SEED", "-1")
    with pytest.raises(SpecError, match="SE_CHECK_SEED"):
        judge(make_block())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_trial_can_be_made_again_by_its_name(dtype: str, rank: int) -> None:
    names = [entry.name for entry in trials(SPEC, dtype, rank, 3, OWN_WAYS)]
    assert len(set(names)) == len(names)
    for entry in trials(SPEC, dtype, rank, 3, OWN_WAYS)[::7]:
        again = trial(entry.name, SPEC, dtype, rank, 3)
        assert entry.inputs.x.tobytes() == again.inputs.x.tobytes()


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (make_block(g=lambda v: sigmoid(10 * v)), "the logits are 10 times the right ones"),
        (make_block(g=lambda v: 3 * sigmoid(v)), "the gate is outside [0, 1]"),
        (make_block(g=lambda v: np.broadcast_to(sigmoid(v[:1]), v.shape)), "every sample has the same gate"),
        (make_block(y=lambda y, x: 0 * y), "y is 0 everywhere"),
        (make_block(y=lambda y, x: y * np.linspace(0.5, 1, x.shape[2])[:, None]), "the gate differs by position"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_seen_is_said(block: Any, sentence: str) -> None:
    verdict = judge(block)
    assert sentence in "; ".join(verdict.seen)
    assert sentence in " ".join(str(verdict).split())


@pytest.mark.framework("torch")
@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        (lambda block, x, y: y if not torch.is_grad_enabled() else y + 1, "with gradients"),
        (lambda block, x, y: y if not block.training else 0.9 * y, "training mode"),
        (lambda block, x, y: y if x.is_contiguous() else 0.9 * y, "channels last in memory"),
    ],
)
def test_module_is_judged_as_it_is_used(wrong: Any, seen: str) -> None:
    class Wrong(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.reduce, self.expand = torch.nn.Linear(12, 5), torch.nn.Linear(5, 12)

        def forward(self, x: Any) -> Any:
            g = torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))
            return wrong(self, x, x * g[..., None, None])

    verdict = check(Wrong(), SPEC)
    assert seen in verdict.seen[0]
    assert all(seen in name for name in failed_trials(verdict) if name not in ("strided read-only arrays",))


@pytest.mark.framework("torch")
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_in_training_mode_is_named(share: float) -> None:
    class Dropped(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.reduce, self.expand = torch.nn.Linear(12, 5), torch.nn.Linear(5, 12)
            self.drop = torch.nn.Dropout(share)

        def forward(self, x: Any) -> Any:
            g = torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))
            return self.drop(x * g[..., None, None])

    verdict = check(Dropped(), SPEC)
    assert verdict.causes == ("not deterministic",)
    assert failed_trials(verdict) <= {"training mode", "NaN, training mode"}


def test_thread_of_a_call_has_no_frame_of_the_judge() -> None:
    from se_conformance.calls import run_in_thread

    def look() -> list[str]:
        frame, names = sys._getframe(), []
        while frame is not None:
            names.append(frame.f_globals.get("__name__", ""))
            frame = frame.f_back
        return names

    names = SimpleNamespace(here=look(), there=run_in_thread(look))
    assert names.here[0] == names.there[0] == __name__
    assert not any(name.startswith("se_conformance") for name in names.there)
