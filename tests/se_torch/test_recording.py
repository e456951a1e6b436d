"""``se_torch.gates`` and ``record``: the gates of every block, and a model that is as before."""

import numpy as np
import pytest

import se_numpy
from se_spec import InputError

from ..conftest import OnDemand
from ..small_networks import BOTTLENECKS, images, weights_of

torch, se_torch = OnDemand("torch"), OnDemand("se_torch")
pytestmark = pytest.mark.framework("torch")


def test_gates_of_a_network_are_the_oracles_and_the_model_stays_as_it_was() -> None:
    x, parameters = images(BOTTLENECKS, 33, 41), weights_of(BOTTLENECKS)
    model = se_torch.SENet(BOTTLENECKS)
    se_torch.set_parameters(model, parameters)
    found = se_torch.gates(model.train(), torch.from_numpy(x.astype("f4")))
    want = se_numpy.networks.gates(x, BOTTLENECKS, parameters, data_format="channels_first")
    assert list(found) == list(want)
    for name, g in found.items():
        np.testing.assert_allclose(g, want[name], rtol=0, atol=1e-5)
    assert all(part.training and not part._forward_pre_hooks for part in model.modules())


def test_record_has_the_strength_of_the_map_before_and_after() -> None:
    block = se_torch.SqueezeExcitation(8, hidden=2, gain=2.0, residual=True, gate="hard_sigmoid", inplace=True)
    x = torch.randn(3, 8, 5, 7, dtype=torch.float64)
    entry = se_torch.record(block.double(), x.clone())[""]
    with torch.no_grad():
        y = block(x.clone())
    np.testing.assert_allclose(entry.before, x.square().mean(1).sqrt(), rtol=1e-6)
    np.testing.assert_allclose(entry.after, y.square().mean(1).sqrt(), rtol=1e-6)
    assert entry.gates.dtype == "float64"


def test_each_call_of_a_shared_block_has_a_record_and_a_replaced_gate_too() -> None:
    block = se_torch.SqueezeExcitation(8, hidden=2)
    assert list(se_torch.gates(torch.nn.Sequential(block, block), torch.ones(1, 8, 3, 3))) == ["0", "0, call 2"]

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = torch.nn.Conv2d(8, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(2, 8, 1), torch.nn.Sigmoid()
            self.conv = torch.nn.Conv2d(3, 8, 1)
            self.gate = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), *layers)

        def forward(self, x):
            x = self.conv(x)
            return x * self.gate(x)

    model, x = Net(), torch.randn(2, 3, 5, 3)
    want = model.gate(model.conv(x)).flatten(1).detach()
    model = se_torch.replace(model, x).model
    np.testing.assert_allclose(se_torch.gates(model, x)["gate"], want, rtol=1e-5)


def test_model_without_a_block_that_is_called_is_refused() -> None:
    with pytest.raises(InputError, match="has no SqueezeExcitation; replace"):
        se_torch.gates(torch.nn.Conv2d(3, 8, 1), torch.ones(1, 3, 5, 5))
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1))
    model[0].unused = se_torch.SqueezeExcitation(8, hidden=2)
    with pytest.raises(InputError, match="called none of its blocks: 0"):
        se_torch.gates(model, torch.ones(1, 3, 5, 5))
