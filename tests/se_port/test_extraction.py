"""A block is cut out of an ONNX model and judged as it computes."""

from pathlib import Path

import pytest

import se_port
from se_conformance import adapt, check
from se_conformance.__main__ import main
from se_spec import FileFormatError, LayoutError

pytestmark = [pytest.mark.framework("torch", "onnx"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two blocks, of which the second forgets its ReLU, and a selective gate that is none."""
    import torch

    class Block(torch.nn.Module):
        def __init__(self, relu: bool) -> None:
            super().__init__()
            self.fc1, self.fc2, self.relu = torch.nn.Conv2d(16, 4, 1), torch.nn.Conv2d(4, 16, 1), relu

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.fc1(x.mean((2, 3), keepdim=True))
            return x * self.fc2(h.relu() if self.relu else h).sigmoid()

    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), Block(True), torch.nn.Conv2d(16, 16, 1), Block(False))
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    torch.onnx.export(layers.eval(), (torch.zeros(1, 3, 8, 8),), path, dynamo=False, input_names=["x"])
    return path


def test_a_block_is_judged_as_its_nodes_compute(net: Path) -> None:
    first, second = (se_port.cut_block(net, path) for path in ("1", "3"))
    assert (first.spec.activation, second.spec.activation) == ("relu", "identity")
    assert first.names["reduce.weight"] == "1.fc1.weight"
    for block in (first, second):
        assert check(adapt(block.model, names=block.names), block.spec, ranks=(2,)).passed
    verdict = check(adapt(second.model, names=second.names), first.spec)
    assert verdict.causes == ("activation missing",) or "activation" in verdict.stage


def test_the_command_judges_a_block_of_a_file(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(net), "--block", "1"]) == 0
    assert "SESpec(16, hidden=4" in capsys.readouterr().out
    assert main(["run", str(net), "--block", "3", "--spec", '{"channels": 16, "hidden": 4, "bias": true}']) == 1
    assert main(["run", str(net), "--block", "2"]) == 2
    assert "there is no block '2'; there are '1', '3'" in capsys.readouterr().err
    assert main(["run", "module:name", "--block", "1"]) == 2
    assert "formats .onnx, .tflite; got 'module:name'" in capsys.readouterr().err


def test_what_cannot_be_cut_is_refused(net: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="there is no block 'x'"):
        se_port.cut_block(net, "x")
    se_port.save(tmp_path / "block.npz", se_port.find_blocks(net)["1"].parameters, se_port.find_blocks(net)["1"].spec)
    with pytest.raises(FileFormatError, match="of the format npz; expected an ONNX model, or one of Tens"):
        se_port.cut_block(tmp_path / "block.npz", "1")


def test_a_block_of_a_model_without_names_of_its_weights_is_refused(net: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(net)
    doubled = onnx.helper.make_node("Add", ["1.fc1.weight", "1.fc1.weight"], ["twice"])
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "1.fc1.weight":
                node.input[place] = "twice"
    model.graph.node.insert(0, doubled)
    onnx.save(model, tmp_path / "doubled.onnx")
    with pytest.raises(LayoutError, match=r"there is no block '1'|its parameters are computed"):
        se_port.cut_block(tmp_path / "doubled.onnx", "1")
