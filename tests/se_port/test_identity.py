"""What a written file says that it is, held against what the caller says."""

import json

import numpy as np
import pytest

import se_numpy
import se_port
from se_port.identity import parse
from se_spec import LayoutError, SESpec, network, parameters

pytestmark = pytest.mark.framework("port")


def zeros(net):
    return {name: np.zeros(shape, "f4") for name, shape in parameters.shapes(net).items()}


def test_network_is_known_by_what_the_file_says(tmp_path):
    """The two have the same names and shapes in the canonical layout."""
    path = tmp_path / "net.safetensors"
    net, other = network("se_resnet50", num_classes=10), network("timm.seresnet50", num_classes=10)
    se_port.save(path, zeros(net), net)
    said = se_port.inspect(path).said
    assert (said.layout, said.spec) == ("canonical", net)
    assert "the file says: layout canonical, network se_resnet50" in str(se_port.inspect(path))
    assert len(se_port.load(path)) == len(se_port.load(path, net)) == len(zeros(net))
    with pytest.raises(LayoutError, match=r"says that it is another network than the given one, with .*pool_padding"):
        se_port.load(path, other)
    with pytest.raises(LayoutError, match="another network"):
        se_port.convert(path, tmp_path / "out.npz", other)
    with pytest.raises(LayoutError, match="another network"):
        se_port.verify(path, path, other)


def test_block_keeps_its_activation_and_gate(tmp_path):
    path, spec = tmp_path / "block.safetensors", SESpec(16, activation="silu", gate="tanh", bias=True)
    values = se_numpy.initialize(spec, seed=0)
    se_port.save(path, values, spec, "torchvision")
    assert list(se_port.load(path)) == list(values)
    assert se_port.convert(path, tmp_path / "again.safetensors").spec == spec
    with pytest.raises(LayoutError, match="says that it holds"):
        se_port.load(path, spec.replace(gate="sigmoid"))


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "{}", "3", '{"layout": 1, "block": {"channels": 0}}', '{"layout": "x", "network": []}',
             "[" * 100_000, json.dumps({"layout": "x", "block": {"channels": 3, "more": 1}})]
)  # fmt: skip
def test_what_a_stranger_wrote_is_no_error(text):
    assert parse({"se_suite": text}) is None
