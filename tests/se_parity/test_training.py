"""Training in four frameworks on real images gives the same losses and the same final weights."""

from concurrent.futures import Future

import numpy as np
import pytest

import se_numpy
from se_parity.datasets import draw_batches, load_digits, small_network
from se_parity.implementations import Worker
from se_parity.training import TRAINERS, SGDConfig, TrainingResult, train
from se_spec import NetworkSpec
from se_spec.networks import ConvStep, Head, Residual, Shortcut, Stage, Stem

from ..conftest import COMPILED_FULLY

pytestmark = pytest.mark.framework("torch", "keras", "flax", "parity")

STEPS = 30
COURSE = SGDConfig()
NETS = {
    "post-activation": small_network(momentum=0.75),
    "pre-activation": NetworkSpec(
        Stem((ConvStep(8, 3),), input_norm=True),
        Residual(
            (Stage(1, 16, (8, 8)), Stage(2, 24, (8, 8), 2)),
            Shortcut("zero_pad", pool=2, zeros="both", entry="norm_relu"),
            order="pre",
            groups=2,
        ),
        Head("conv", before=("bn", "relu")),
        padding="same",
        conv_bias=True,
        se={"reduction": 4, "bias": True},
        momentum=0.875,
        num_classes=10,
        channels=1,
    ),
}
every_net = pytest.mark.parametrize("net", ["post-activation", pytest.param("pre-activation", marks=pytest.mark.slow)])


def given(steps: int = STEPS) -> list[tuple[np.ndarray, np.ndarray]]:
    data = load_digits("float64")
    return list(draw_batches(data.x, data.labels, steps))


def start(net: str) -> dict[str, np.ndarray]:
    return se_numpy.initialize(NETS[net], seed=0, dtype="float64")


@pytest.fixture(scope="module")
def trained(workers, request) -> dict[tuple[str, str], "Future[TrainingResult]"]:
    """Every trainer and network that is asked for, and PyTorch on each of these networks, in the background."""
    asked = [item.callspec for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    pairs = {(one.params.get("trainer", "torch"), one.params["net"]) for one in asked} | {("torch", "post-activation")}
    return {
        (trainer, net): worker_of(workers, trainer).submit_call(train, trainer, NETS[net], start(net), COURSE, given())
        for trainer, net in sorted(pairs | {("torch", net) for _, net in pairs})
    }


def worker_of(workers, trainer: str) -> Worker:
    return workers(TRAINERS[trainer], **({} if trainer == "torch" else COMPILED_FULLY))


def is_variance(name: str) -> bool:
    return name.endswith(".variance")


@every_net
@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != "torch"])
def test_m11_losses_and_weights_match_pytorchs(trainer: str, net: str, trained) -> None:
    want, got = trained["torch", net].result(), trained[trainer, net].result()
    assert len(want.losses) == len(got.losses) == STEPS
    np.testing.assert_allclose(got.losses, want.losses, rtol=1e-9, atol=0)
    assert list(got.parameters) == list(want.parameters)
    for name, array in want.parameters.items():
        assert got.parameters[name].dtype == array.dtype == np.float64
        if not is_variance(name):
            np.testing.assert_allclose(got.parameters[name], array, rtol=0, atol=1e-9 * abs(array).max(), err_msg=name)


@every_net
@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != "torch"])
def test_m11_running_variances_divide_by_n_except_in_torch(trainer: str, net: str, trained) -> None:
    """torch's variance after t steps is momentum**t + n / (n - 1) times the others' excess over momentum**t."""
    want, got = trained["torch", net].result().parameters, trained[trainer, net].result().parameters
    rest, count = NETS[net].momentum ** STEPS, positions(NETS[net])
    for name in filter(is_variance, want):
        n = count[name.removesuffix(".variance")]
        np.testing.assert_allclose(want[name] - rest, (got[name] - rest) * n / (n - 1), rtol=1e-9, err_msg=name)
        assert abs(want[name] - got[name]).max() > 1e-6


def positions(net: NetworkSpec) -> dict[str, int]:
    """Images times height times width for each batch norm."""
    from se_spec.networks import output_sizes

    return {name: 32 * height * width for name, (height, width) in output_sizes(net.layers, (8, 8)).items()}


@every_net
def test_training_learns(net: str, trained) -> None:
    losses = trained["torch", net].result().losses
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_m11_one_step_follows_the_rule_of_the_spec() -> None:
    """The gradient that a step tells, against central differences of the loss; then momentum, from a second step."""
    net, (batch, again) = "post-activation", given(2)
    before = start(net)
    config = SGDConfig(learning_rate=0.125, momentum=0.5, weight_decay=0.25)
    first = train("torch", NETS[net], before, config, [batch]).parameters
    random = np.random.default_rng(0)
    learnable = [name for name in before if not name.endswith((".mean", ".variance"))]
    direction = {name: random.standard_normal(before[name].shape) for name in learnable}

    def loss(t: float, at: dict[str, np.ndarray], batch: tuple[np.ndarray, np.ndarray]) -> float:
        moved = {name: at[name] + t * direction[name] for name in learnable}
        return train("torch", NETS[net], {**at, **moved}, config, [batch]).losses[0]

    def slope(at: dict[str, np.ndarray], batch: tuple[np.ndarray, np.ndarray]) -> float:
        return (loss(1e-8, at, batch) - loss(-1e-8, at, batch)) / 2e-8  # so small that few values cross a ReLU's kink

    def along(arrays: dict[str, np.ndarray]) -> float:
        return sum(float((arrays[name] * direction[name]).sum()) for name in learnable)

    velocity = {name: (before[name] - first[name]) / config.learning_rate for name in learnable}
    gradient = along(velocity) - config.weight_decay * along(before)
    assert gradient == pytest.approx(slope(before, batch), rel=1e-4)

    second = train("torch", NETS[net], before, config, [batch, again]).parameters
    after = {name: (first[name] - second[name]) / config.learning_rate for name in learnable}
    expected = config.momentum * along(velocity) + slope(first, again) + config.weight_decay * along(first)
    assert along(after) == pytest.approx(expected, rel=1e-4)


def test_comparison_detects_decoupled_weight_decay(workers, trained) -> None:
    """Keras' own decay, and none at all, are further off than 1e-9 after a few steps."""
    net = "post-activation"
    without = SGDConfig(weight_decay=0.0)
    other = worker_of(workers, "torch").call(train, "torch", NETS[net], start(net), without, given())
    want = trained["torch", net].result()
    assert abs(np.array(other.losses) / want.losses - 1).max() > 1e-5
