"""Blocks in ONNX models as exporters, optimisers and quantizers write them."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest

import se_port
from se_port.formats._wire import encode_field as field
from se_port.graphs import match_blocks
from se_port.graphs.onnx import NUMBERS, QUANTIZED, SAME, read_graphs
from se_spec import FileFormatError, LayoutError, SESpec
from se_spec.nonlinearities import HardSigmoid

from ...conftest import read_exporters_operators_once

R = np.random.default_rng(0)
SHAPES = {"se.fc1.weight": (2, 8, 1, 1), "se.fc1.bias": (2,), "se.fc2.weight": (8, 2, 1, 1), "se.fc2.bias": (8,)}
WEIGHTS = {name: R.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
GENERIC = ("conv2d_96.w_0", "conv2d_96.b_0", "conv2d_97.w_0", "conv2d_97.b_0")
PADDLE = HardSigmoid(0.2, 0.5)


def model(
    names=tuple(WEIGHTS), constants=False, gate=("HardSigmoid", {"alpha": 0.2, "beta": 0.5}), pool="GlobalAveragePool"
):
    """A model of one block: 8 channels, hidden 2."""
    onnx = pytest.importorskip("onnx")
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    first, first_bias, second, second_bias = names
    body = [
        helper.make_node(pool, ["x"], ["z"], **({"kernel_shape": [7, 7]} if pool == "AveragePool" else {})),
        helper.make_node("Conv", ["z", first, first_bias], ["u"]),
        helper.make_node("Relu", ["u"], ["h"]),
        helper.make_node("Conv", ["h", second, second_bias], ["v"]),
        helper.make_node(gate[0], ["v"], ["g"], **gate[1]),
        helper.make_node("Mul", ["x", "g"], ["y"], name="/net/net.3/se/Mul"),
    ]
    tensors = [to_tensor(value, name) for name, value in zip(names, WEIGHTS.values(), strict=True)]
    if constants:
        body = [helper.make_node("Constant", [], [one.name], value=one) for one in tensors] + body
    ends = [helper.make_tensor_value_info(name, 1, ("N", 8, 7, 7)) for name in "xy"]
    graph = helper.make_graph(body, "net", ends[:1], ends[1:], [] if constants else tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def save(tmp_path: Path, proto, **options) -> Path:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, **options)
    return path


def check(found, gate=PADDLE, rtol=0.0):
    assert found.spec == SESpec(8, hidden=2, bias=True, gate=gate)
    assert found.unknown == ()
    for value, expected in zip(found.parameters.values(), WEIGHTS.values(), strict=True):
        np.testing.assert_allclose(value, expected.reshape(value.shape), rtol=rtol, atol=rtol)


pytestmark = pytest.mark.framework("onnx")


@pytest.mark.parametrize("constants", [False, True], ids=["initializers", "constants"])
@pytest.mark.parametrize(("names", "path"), [(tuple(WEIGHTS), "se"), (GENERIC, "net.3.se")])
def test_a_block_is_found_whatever_its_names_are(tmp_path, names, path, constants):
    file = save(tmp_path, model(names, constants))
    found = se_port.find_blocks(file)
    assert list(found) == [path]
    check(found[path])
    assert found[path].layouts == ("graph",)
    assert tuple(found[path].names.values()) == names
    inspection = se_port.inspect(file)
    assert (len(inspection.blocks), inspection.lookalikes, inspection.problem) == (1, {}, "")
    assert "HardSigmoid(slope=0.2" in str(inspection)


def test_the_activation_or_gate_that_is_given_must_be_the_graphs(tmp_path):
    file = save(tmp_path, model(gate=("Sigmoid", {})))
    check(se_port.find_blocks(file, gate="sigmoid")["se"], "sigmoid")
    with pytest.raises(LayoutError, match="se has the gate 'sigmoid', as its graph says; given was 'hard_sigmoid'"):
        se_port.find_blocks(file, gate="hard_sigmoid")
    np.testing.assert_array_equal(se_port.load(file)["expand.bias"], WEIGHTS["se.fc2.bias"])


def test_a_window_of_the_whole_map_is_a_squeeze(tmp_path):
    check(se_port.find_blocks(save(tmp_path, model(pool="AveragePool")))["se"])


def test_data_beside_the_model_and_in_a_cache_of_links_is_read(tmp_path):
    file = save(tmp_path, model(), save_as_external_data=True, location="net.data", size_threshold=0)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "cache").mkdir()
    for name in ("net.onnx", "net.data"):
        shutil.copy(tmp_path / name, tmp_path / "blobs" / f"blob of {name}")
        (tmp_path / "cache" / name).symlink_to(f"../blobs/blob of {name}")
    check(se_port.find_blocks(file)["se"])
    check(se_port.find_blocks(tmp_path / "cache" / "net.onnx")["se"])
    (tmp_path / "net.data").unlink()
    with pytest.raises(FileFormatError, match=r"has its data in 'net\.data', which is not there"):
        se_port.find_blocks(file)


def test_a_block_with_weights_in_a_branch_is_found(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    for outside in (False, True):
        inner = model(constants=not outside).graph
        branch = helper.make_graph(list(inner.node), "then", [], [helper.make_tensor_value_info("y", 1, None)])
        copy = helper.make_node("Identity", ["x"], ["y2"])
        other = helper.make_graph([copy], "else", [], [helper.make_tensor_value_info("y2", 1, None)])
        node = helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=other)
        ends = [helper.make_tensor_value_info(name, 1, ("N", 8, "H", "W")) for name in ("x", "out")]
        ends.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, ()))
        graph = helper.make_graph([node], "net", [ends[0], ends[2]], ends[1:2], list(inner.initializer))
        check(se_port.find_blocks(save(tmp_path, helper.make_model(graph)))["se"])


def test_blocks_of_one_path_in_two_graphs_are_all_found(tmp_path):
    """Two in the main graph and one in a branch: no number is given twice."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def part(number):
        names = tuple(f"c{number}{place}" for place in "abcd")
        nodes = list(model(names, constants=True).graph.node)
        for node in nodes:
            node.input[:] = [f"{name}{number}" if name in "zuhvg" else name for name in node.input]
            node.output[:] = [f"{name}{number}" if name in "zuhvgy" else name for name in node.output]
        return nodes

    branch = helper.make_graph(part(3), "then", [], [helper.make_tensor_value_info("y3", 1, None)])
    node = helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=branch)
    ends = [helper.make_tensor_value_info(name, 1, ("N", 8, "H", "W")) for name in ("x", "y1", "y2", "out")]
    ends.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, ()))
    graph = helper.make_graph([*part(1), *part(2), node], "net", [ends[0], ends[4]], ends[1:4])
    found = se_port.find_blocks(save(tmp_path, helper.make_model(graph)))
    assert list(found) == ["net.3.se", "net.3.se#2", "net.3.se#3"]


def test_functions_of_the_model_are_put_in_place(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    proto = model(constants=True)
    body = helper.make_function("local", "Block", ["x"], ["y"], list(proto.graph.node), proto.opset_import)
    call = helper.make_node("Block", ["a"], ["b"], domain="local")
    ends = [helper.make_tensor_value_info(name, 1, ("N", 8, "H", "W")) for name in "ab"]
    unused = onnx.numpy_helper.from_array(np.ones(3, "f4"), "unused")
    graph = helper.make_graph([call], "net", ends[:1], ends[1:], [unused])
    opsets = [*proto.opset_import, helper.make_opsetid("local", 1)]
    check(se_port.find_blocks(save(tmp_path, helper.make_model(graph, functions=[body], opset_imports=opsets)))["se"])


class Calibration:
    """Two batches for static quantization."""

    def __init__(self) -> None:
        self._batches = iter(
            [
                {"x": R.normal(size=(1, 8, 7, 7)).astype("f4") + 9 * R.normal(size=8).astype("f4")[:, None, None]}
                for _ in range(9)
            ]
        )

    def get_next(self):
        return next(self._batches, None)


@pytest.mark.parametrize("way", ["dynamic", "QDQ", "QOperator", "QDQ by channel"])
def test_quantized_models_are_dequantized(tmp_path, way):
    quantization = pytest.importorskip("onnxruntime.quantization")
    source, target = save(tmp_path, model()), tmp_path / "int8.onnx"
    if way == "dynamic":
        quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QUInt8)
    else:
        form = quantization.QuantFormat.QOperator if way == "QOperator" else quantization.QuantFormat.QDQ
        quantization.quantize_static(source, target, Calibration(), quant_format=form, per_channel="channel" in way)
    (found,) = se_port.find_blocks(target).values()
    check(found, rtol=0.03)
    assert any("dequantized" in change for change in found.changes)


@pytest.mark.framework("torch")
@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporters, about themselves
@pytest.mark.parametrize("dynamo", [False, True], ids=["traced", "exported"])
def test_our_own_blocks_exported_by_pytorch(tmp_path, dynamo):
    torch = pytest.importorskip("torch")
    import se_torch

    if dynamo:
        read_exporters_operators_once()
    for spec in (
        SESpec(16, activation="silu", bias=True),
        SESpec(16, activation="hard_swish", gate="hard_sigmoid", squeeze="max"),
        SESpec(16, single_projection=True, squeeze="avg_max", gate=HardSigmoid(1.0, 0.0)),
        SESpec(16, activation="gelu_tanh", gain=2.0, residual=True),
    ):
        block = se_torch.SqueezeExcitation(spec).eval()
        path = tmp_path / "block.onnx"
        torch.onnx.export(
            torch.nn.Sequential(block).eval(), (torch.zeros(2, 16, 5, 4),), path, dynamo=dynamo, verbose=False
        )
        (found,) = se_port.find_blocks(path).values()
        assert found.spec == spec
        for name, value in se_torch.get_parameters(block).items():
            np.testing.assert_allclose(found.parameters[name], value, rtol=1e-6)


def test_a_network_names_what_resembles_a_block(tmp_path):
    file = save(tmp_path, model(gate=("Softplus", {})))
    with pytest.raises(LayoutError, match="1 parts resemble one; se: the function behind the projections is no gate"):
        se_port.find_blocks(file)
    inspection = se_port.inspect(file)
    assert list(inspection.lookalikes) == ["se"]
    assert "no SE blocks, but alike: 1" in str(inspection)


@pytest.mark.parametrize("op", [*SAME, *NUMBERS, *QUANTIZED, "Conv", "Gemm", "Clip", "Reshape", "Transpose", "Resize"])
def test_operator_without_its_inputs_is_unknown(tmp_path, op):
    node = field(1, field(2, b"y") + field(4, op.encode()))
    (tmp_path / "net.onnx").write_bytes(field(7, node))
    for graph in read_graphs(tmp_path / "net.onnx"):
        assert match_blocks(graph) == ([], [])


def test_branches_nested_too_deep_are_refused(tmp_path):
    graph = b""
    for _ in range(40):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    (tmp_path / "deep.onnx").write_bytes(field(7, graph))
    with pytest.raises(FileFormatError, match="branches within branches"):
        read_graphs(tmp_path / "deep.onnx")


def test_mutated_graphs_are_read_or_refused(tmp_path):
    """A flipped byte gives another graph or a FileFormatError."""
    data = model().SerializeToString()
    random = np.random.default_rng(1)
    path = tmp_path / "mutated.onnx"
    for _ in range(500):
        mutated = bytearray(data)
        for place in random.integers(0, len(data), size=random.integers(1, 4)):
            mutated[place] = random.integers(0, 256)
        path.write_bytes(mutated)
        with contextlib.suppress(FileFormatError):
            for graph in read_graphs(path):
                match_blocks(graph)
