"""What other people's code answered, with their weights: their blocks and networks are ours, read by ``se_port``."""

from pathlib import Path

import numpy as np
import pytest

import se_numpy
import se_port
from se_spec import SESpec, network

from .conftest import requested_targets
from .small_networks import difference

HERE = Path(__file__).parent / "references"


def arrays(folder: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.load(HERE / folder / f"{name}.npy").astype(np.float64) for name in ("input", "output"))
    return x, y


def doubles(weights: str, spec, layout: str) -> dict[str, np.ndarray]:
    loaded = se_port.load(HERE / weights, spec, layout)
    return {name: value.astype(np.float64) for name, value in loaded.items()}


BLOCKS = {
    "xmu-SEAttention_c100_r16": ("xmu", SESpec.preset("xmu", 100, reduction=16)),
    "xmu-SEAttention_c64_r3": ("xmu", SESpec.preset("xmu", 64, reduction=3)),
    "moskomule-SELayer_64": ("moskomule", SESpec.preset("moskomule", 64)),
}


@pytest.mark.parametrize("layout", ["auto", "its own"])
@pytest.mark.parametrize("folder", BLOCKS)
def test_m7_blocks_answer_as_their_own_code_did(folder: str, layout: str) -> None:
    own, spec = BLOCKS[folder]
    values = doubles(f"{folder}/weights.pth", spec, own if layout == "its own" else layout)
    x, want = arrays(folder)
    got = se_numpy.squeeze_excitation(x, spec, values, data_format="channels_first")
    assert abs(got - want).max() / abs(want).max() < 1.2e-7


NETS = {
    "moskomule-se_resnet20": ("weights.pth", "se_resnet20", "moskomule"),
    "nutszebra-N2_r16": ("weights.model", "chainer.se_resnet_n2_r16", "chainer"),
}


def net_of(folder: str):
    weights, name, layout = NETS[folder]
    net = network(name)
    return net, doubles(f"{folder}/{weights}", net, layout)


every_net = pytest.mark.parametrize("folder", NETS)


@every_net
def test_m7_networks_answer_as_their_own_code_did(folder: str) -> None:
    (net, values), (x, want) = net_of(folder), arrays(folder)
    assert difference(se_numpy.senet(x, net, values, data_format="channels_first"), want) < 4e-7


@every_net
@pytest.mark.parametrize(
    "target",
    [pytest.param(one.name, marks=pytest.mark.framework(one.family)) for one in requested_targets(costly=False)],
)
def test_m7_in_every_implementation(folder: str, target: str, workers) -> None:
    (net, values), (x, want) = net_of(folder), arrays(folder)
    got = workers(target).logits(net, values, np.moveaxis(x, 1, -1), mode="eager").result().values
    assert got.dtype == np.float64
    assert difference(got, want) < 4e-7
    assert difference(got, se_numpy.senet(x, net, values, data_format="channels_first")) < 1e-12
