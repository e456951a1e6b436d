"""What other people's code answered, with their weights: their blocks and networks are ours."""

import re
from pathlib import Path

import numpy as np
import pytest

import se_numpy
from se_spec import NetworkSpec, SESpec, network, parameters

from .conftest import OnDemand, requested_targets
from .small_networks import difference

torch = OnDemand("torch")
HERE = Path(__file__).parent / "references"

TORCH_NAMES = [
    (r"^layer(\d)\.(\d+)\.", r"stage\1.block\2."),
    (r"^(?=conv|bn)", "stem."),
    (r"\bse\.fc\.0\b", "se.reduce"),
    (r"\bse\.fc\.2\b", "se.expand"),
    (r"\bdownsample\.0\b", "shortcut.conv"),
    (r"\bdownsample\.1\b", "shortcut.bn"),
    (r"^fc\b", "classifier"),
    (r"(\bbn\d?)\.weight$", r"\1.scale"),
    (r"(\bbn\d?)\.bias$", r"\1.offset"),
    (r"\brunning_mean$", "mean"),
    (r"\brunning_var$", "variance"),
]
CHAINER_NAMES = [
    (r"^bn_relu_conv/bn/", "head.bn1/"),
    (r"^bn_relu_conv/conv/", "classifier/"),
    (r"^conv1/", "stem.conv1/"),
    (r"^res_block(\d)/skip_bn/", r"stage\1.block0.shortcut.bn/"),
    (r"^res_block(\d)/se_block_(\d)/f1/", r"stage\1.block{\2}.se.reduce/"),
    (r"^res_block(\d)/se_block_(\d)/f2/", r"stage\1.block{\2}.se.expand/"),
    (r"^res_block(\d)/bn_relu_conv(\d)_(\d)/(bn|conv)/", r"stage\1.block{\3}.\4\2/"),
    (r"/gamma$", ".scale"),
    (r"/beta$", ".offset"),
    (r"/avg_mean$", ".mean"),
    (r"/avg_var$", ".variance"),
    (r"/W$", ".weight"),
    (r"/b$", ".bias"),
]


def renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"\{(\d)\}", lambda found: str(int(found[1]) - 1), name)  # Chainer's units count from 1


def state(folder: str) -> dict[str, np.ndarray]:
    loaded = torch.load(HERE / folder / "weights.pth", weights_only=True)
    return {name: value.numpy() for name, value in loaded.items()}


def arrays(folder: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.load(HERE / folder / f"{name}.npy").astype(np.float64) for name in ("input", "output"))
    return x, y


def filled(net: NetworkSpec, given: dict[str, np.ndarray], rules: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Every name once; the check of the parameters sees to the rest."""
    values = {renamed(name, rules): value.astype(np.float64) for name, value in given.items()}
    assert len(values) == len(given)
    parameters.check(values, parameters.shapes(net))
    return values


BLOCKS = {
    "xmu-SEAttention_c100_r16": SESpec.preset("xmu", 100, reduction=16),
    "xmu-SEAttention_c64_r3": SESpec.preset("xmu", 64, reduction=3),
    "moskomule-SELayer_64": SESpec.preset("moskomule", 64),
}


@pytest.mark.framework("torch")
@pytest.mark.parametrize("folder", BLOCKS)
def test_m7_blocks_answer_as_their_own_code_did(folder: str) -> None:
    weights = {"fc.0.weight": "reduce.weight", "fc.2.weight": "expand.weight"}
    values = {weights[name]: value for name, value in state(folder).items()}
    x, want = arrays(folder)
    got = se_numpy.squeeze_excitation(x, BLOCKS[folder], values, data_format="channels_first")
    assert abs(got - want).max() / abs(want).max() < 1.2e-7


def moskomule() -> tuple[NetworkSpec, dict[str, np.ndarray]]:
    net = network("se_resnet20")
    given = {name: value for name, value in state("moskomule-se_resnet20").items() if not name.endswith("_tracked")}
    return net, filled(net, given, TORCH_NAMES)


def nutszebra() -> tuple[NetworkSpec, dict[str, np.ndarray]]:
    net = network("chainer.se_resnet_n2_r16")
    with np.load(HERE / "nutszebra-N2_r16" / "weights.model") as file:
        given = {name: file[name] for name in file.files if not name.endswith("/N")}
    return net, filled(net, given, CHAINER_NAMES)


NETS = {
    "moskomule-se_resnet20": pytest.param("moskomule-se_resnet20", moskomule, marks=pytest.mark.framework("torch")),
    "nutszebra-N2_r16": pytest.param("nutszebra-N2_r16", nutszebra),
}
every_net = pytest.mark.parametrize(("folder", "make"), NETS.values(), ids=NETS)


@every_net
def test_m7_networks_answer_as_their_own_code_did(folder: str, make) -> None:
    (net, values), (x, want) = make(), arrays(folder)
    assert difference(se_numpy.senet(x, net, values, data_format="channels_first"), want) < 4e-7


@every_net
@pytest.mark.parametrize(
    "target",
    [pytest.param(one.name, marks=pytest.mark.framework(one.family)) for one in requested_targets(costly=False)],
)
def test_m7_in_every_implementation(folder: str, make, target: str, workers) -> None:
    (net, values), (x, want) = make(), arrays(folder)
    got = workers(target).logits(net, values, np.moveaxis(x, 1, -1), mode="eager").result().values
    assert got.dtype == np.float64
    assert difference(got, want) < 4e-7
    assert difference(got, se_numpy.senet(x, net, values, data_format="channels_first")) < 1e-12
