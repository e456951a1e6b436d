"""docs/PORT_FILES.md: every block was found, and its gate compared; and the comparison detects faults."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evidence import port_files
from evidence.peer_blocks import import_object
from evidence.port_files import LIMIT, PACKAGES, FileResult, Package, check_file, format_page, prepare_images
from se_port.detect.blocks import match_graphs
from se_port.sources import open_source
from se_spec import SESpec
from se_spec.nonlinearities import HardSigmoid

TEXT = (Path(__file__).parents[2] / "docs" / "PORT_FILES.md").read_text()
POSITIVE, NEGATIVE = Package("shop", "1.0"), Package("control", "2.0", has_blocks=False)
RIGHT = FileResult(POSITIVE, "net.onnx", (SESpec(3, hidden=2),), framework="onnxruntime", products=1, error=1e-7)


def save(tmp_path: Path, gates: int = 1) -> Path:
    """Save a network of one block and, where ``gates`` is 2, of a gate from another map."""
    onnx = pytest.importorskip("onnx")
    helper, random = onnx.helper, np.random.default_rng(0)
    shapes = {"w1": (2, 3, 1, 1), "b1": (2,), "w2": (3, 2, 1, 1), "b2": (3,)}
    tensors = [
        onnx.numpy_helper.from_array(random.normal(size=shape).astype("f4"), name) for name, shape in shapes.items()
    ]
    body = [
        helper.make_node("Relu", ["image"], ["x"]),
        helper.make_node("GlobalAveragePool", ["x"], ["z"]),
        helper.make_node("Conv", ["z", "w1", "b1"], ["u"]),
        helper.make_node("Relu", ["u"], ["h"]),
        helper.make_node("Conv", ["h", "w2", "b2"], ["v"]),
        helper.make_node("HardSigmoid", ["v"], ["g"], alpha=0.2, beta=0.5),
        helper.make_node("Mul", ["x", "g"], ["y1"], name="se/Mul"),
        helper.make_node("Mul", ["image", "g"] if gates == 2 else ["y1", "y1"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, 1, (1, 3, "H", 40)) for name in ("image", "y")]
    graph = helper.make_graph(body, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def test_page_has_every_package_without_a_fault():
    lines = TEXT.split("|---|---|--:|")[1].split("\n\n")[0].splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert list(dict.fromkeys(row[0] for row in rows)) == [f"{one.name} {one.version}" for one in PACKAGES]
    for package, _, blocks, multiplied, _, error, _, _ in rows:
        if next(one for one in PACKAGES if package.startswith(f"{one.name} ")).has_blocks:
            assert int(blocks) == int(multiplied) > 0
            assert 0.0 < float(error) <= LIMIT
        else:
            assert blocks == "0"
    assert f"{sum(int(row[2]) for row in rows)} blocks are found" in TEXT
    assert "0 blocks are invented" in TEXT and "**" not in TEXT


@pytest.mark.framework("onnx", "parity")
def test_gate_of_the_running_network_is_that_of_the_block_found(tmp_path):
    path = save(tmp_path)
    result = check_file(POSITIVE, path)
    assert result.specs == (SESpec(3, hidden=2, bias=True, gate=HardSigmoid(0.2, 0.5)),)
    assert (result.framework, result.products, result.faults) == ("onnxruntime", 1, [])
    assert 0.0 < result.error < 1e-6
    assert [image.shape for image in prepare_images(path)] == [(1, 3, 160, 40)] * 2


@pytest.mark.framework("onnx", "parity")
def test_wrong_parameter_is_detected(tmp_path, monkeypatch):
    def match_wrongly(source):
        matches, lookalikes = match_graphs(source)
        match = matches[0]
        bias = match.parameters["expand.bias"] + np.float32(1e-3)
        return [replace(match, parameters=match.parameters | {"expand.bias": bias})], lookalikes

    path = save(tmp_path)
    assert match_graphs(open_source(path))[0][0].gate == "g"
    monkeypatch.setattr(port_files, "match_graphs", match_wrongly)
    (fault,) = check_file(POSITIVE, path).faults
    assert fault == "shop: net.onnx: a gate is off by 2.0e-04"


@pytest.mark.framework("onnx", "parity")
def test_map_that_is_multiplied_and_is_no_block_is_counted(tmp_path):
    result = check_file(POSITIVE, save(tmp_path, gates=2))
    assert (len(result.specs), result.products, result.lookalikes) == (1, 2, 1)
    assert result.faults == ["shop: net.onnx: 1 blocks are found, and 2 maps are multiplied"]


@pytest.mark.framework("torch", "parity", "peers")
def test_gates_of_a_network_of_torchvision_are_those_of_its_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    package = next(one for one in PACKAGES if one.network)
    net = import_object(package.network)(weights=None, num_classes=2)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    result = check_file(package, tmp_path / "net.pth")
    assert {(spec.activation, spec.gate) for spec in result.specs} == {("silu", "sigmoid")}
    assert (len(result.specs), result.products, result.framework, result.faults) == (16, 16, "torch", [])
    (fault,) = check_file(package._replace(activation="relu"), tmp_path / "net.pth").faults
    assert fault.startswith(f"{package.name}: net.pth: a gate is off by ")


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (RIGHT, None),
        (replace(RIGHT, specs=(), products=0), "shop: net.onnx: no block is found"),
        (replace(RIGHT, framework=""), "shop: net.onnx: no gate was compared"),
        (replace(RIGHT, error=float("nan")), "shop: net.onnx: a gate is off by nan"),
        (FileResult(NEGATIVE, "net.onnx"), None),
        (replace(RIGHT, package=NEGATIVE), "control: net.onnx: 1 blocks are found, and its network has none"),
    ],
)
def test_page_is_made_from_results_and_lists_faults(result, fault):
    assert result.faults == ([fault] if fault else [])
    page = format_page([RIGHT, result])
    row = "| shop 1.0 | `net.onnx` | 1 | 1 | 1 × relu, sigmoid | 1.0e-07 | onnxruntime | 0 |"
    assert row in page.splitlines()
    assert (f"**{fault}**" in page) == bool(fault) == ("**" in page)


def test_command_fails_where_there_is_a_fault(tmp_path, monkeypatch):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "net.pth").touch()
    monkeypatch.setattr(port_files, "install_package", lambda package, *options: folder)
    monkeypatch.setattr(port_files, "PACKAGES", (POSITIVE,))
    out = ["--out", str(tmp_path / "page.md")]
    monkeypatch.setattr(port_files, "check_file", lambda *_: RIGHT)
    port_files.main(out)
    monkeypatch.setattr(port_files, "check_file", lambda *_: replace(RIGHT, error=1.0))
    with pytest.raises(SystemExit, match=r"a gate is off by 1\.0e\+00"):
        port_files.main(out)
    assert "**shop: net.onnx: a gate is off by 1.0e+00**" in (tmp_path / "page.md").read_text()
