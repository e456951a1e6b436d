"""Blocks in torch.export's archives: graphs typed out, our own blocks and timm's networks, and hostile graphs."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import se_port
from se_port.graphs import match_blocks, torch_export
from se_spec import FileFormatError, LayoutError, SESpec

from ...conftest import OnDemand
from ..formats import fuzz
from ..formats.test_torch_export import archive
from . import test_torchscript as torchscript
from .test_torchscript import ARRAYS, C, R, check_blocks, check_network, every_network, make_blocks, make_network

torch = OnDemand("torch")


def to_argument(value: Any) -> dict[str, Any]:
    match value:
        case str():
            return {"as_tensor": {"name": value}}
        case bool():
            return {"as_bool": value}
        case int():
            return {"as_int": value}
        case float():
            return {"as_float": value}
        case [str(), *_]:
            return {"as_tensors": [{"name": one} for one in value]}
        case list():
            return {"as_ints": value}
        case None:
            return {"as_none": True}
    return value


def node(output: str, target: str, **arguments: Any) -> dict[str, Any]:
    """Encode a node; an argument's ``_`` at the end is no part of its name."""
    inputs = [{"name": name.rstrip("_"), "arg": to_argument(value), "kind": 1} for name, value in arguments.items()]
    stack = "L__self__,,torch.nn.Sequential;L__self___0,0.se,timm.layers.SEModule"
    return {
        "target": f"torch.ops.{target}",
        "inputs": inputs,
        "outputs": [{"as_tensor": {"name": output}}],
        "metadata": {"nn_module_stack": stack},
    }


NODES = [
    node("z", "aten.mean.dim", self=("x"), dim=[2, 3], keepdim=True),
    node("f", "aten.view.default", self="z", size=[1, C]),
    node("u", "aten.linear.default", input="f", weight="p_w1", bias="p_b1"),
    node("h", "aten.relu.default", self="u"),
    node("v", "aten.addmm.default", self="p_b2", mat1="h", mat2="t"),
    node("g", "aten.sigmoid.default", self="v"),
    node("s", "aten.view.default", self="g", size=[1, C, 1, 1]),
    node("y", "aten.mul.Tensor", self="x", other="s"),
]
TURN = node("t", "aten.t.default", self="p_w2")


def program(*nodes: dict[str, Any], sizes: tuple[int, ...] = (1, C, 5, 4)) -> dict[str, Any]:
    specs = [{"parameter": {"arg": {"name": f"p_{name}"}, "parameter_name": f"se.{name}"}} for name in ARRAYS]
    values = {"x": {"dtype": 7, "sizes": [{"as_int": n} if n > 0 else {"as_expr": {"expr_str": "s0"}} for n in sizes]}}
    graph = {"nodes": list(nodes) or [TURN, *NODES], "inputs": [], "outputs": [], "tensor_values": values}
    return {"graph_module": {"graph": graph, "signature": {"input_specs": specs, "output_specs": []}}}


def write(tmp_path: Path, content: Any) -> Path:
    (path := tmp_path / "net.pt2").write_bytes(
        archive(content, {f"se.{name}": array for name, array in ARRAYS.items()})
    )
    return path


def change(name: str, *new: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes with one replaced."""
    nodes = [TURN, *NODES]
    return [part for one in nodes for part in (new if one["outputs"][0]["as_tensor"]["name"] == name else (one,))]


def check(path: Path, **fields: Any) -> None:
    found = se_port.find_blocks(path)
    assert list(found) == ["se"]
    assert found["se"].spec == SESpec(C, hidden=R, bias=True, **fields)
    for name, value in zip(("w1", "b1", "w2", "b2"), found["se"].parameters.values(), strict=True):
        assert np.array_equal(ARRAYS[name], value)


WAYS = {
    "as it is": ([TURN, *NODES], {}),
    "an operator that writes in place": (
        change("h", node("h0", "aten.relu_.default", self="u"), node("h", "aten.clone.default", self="u")), {}),
    "a gain": (change("s", node("k", "aten.mul.Tensor", self="g", other=2.0),
                       node("s", "aten.view.default", self="k", size=[1, C, 1, 1])), {"gain": 2.0}),
    "a maximum": (
        change("z", node("z", "aten.amax.default", self="x", dim=[-1, -2], keepdim=True)), {"squeeze": "max"}),
    "GELU of tanh": (
        change("h", node("h", "aten.gelu.default", self="u", approximate={"as_string": "tanh"})),
        {"activation": "gelu_tanh"}),
    "a clamp": (
        change("g", node("a", "aten.add.Tensor", self="v", other=3),
               node("b", "aten.clamp.default", self="a", min=0, max=6),
               node("g", "aten.div.Tensor", self="b", other=6)), {"gate": "hard_sigmoid"}),
    "arguments without names": (
        change("h", {**node("h", "aten.relu.default"), "inputs": [{"arg": to_argument("u")}]}), {}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_block_is_found_however_its_nodes_are_written(tmp_path: Path, way: str) -> None:
    nodes, fields = WAYS[way]
    check(write(tmp_path, program(*nodes)), **fields)
    check(write(tmp_path, program(*nodes, sizes=(0, C, 0, 0))), **fields)


def test_a_block_in_two_branches_is_one(tmp_path: Path) -> None:
    inner = program()["graph_module"]["graph"]
    names = ["x", *(f"p_{name}" for name in ARRAYS)]
    inner["inputs"] = [to_argument(f"inner {name}") for name in names]
    text = json.dumps(inner)
    for name in names:
        text = text.replace(f'{{"name": "{name}"}}', f'{{"name": "inner {name}"}}')
    branch = {"as_graph": {"name": "true_graph_0", "graph": json.loads(text)}}
    outer = node("y", "higher_order.cond", pred="c", true_fn=branch, false_fn=branch, operands=names)
    assert list(se_port.find_blocks(write(tmp_path, program(outer)))) == ["se"]


def test_what_only_resembles_a_block_is_named(tmp_path: Path) -> None:
    for name, other in {
        "g": node("g", "aten.softmax.int", self="v", dim=1),
        "u": node("u", "mine.product.default", a="f", b="p_w1"),
        "z": node("z", "aten.mean.dim", self="x", dim=[2], keepdim=True),
    }.items():
        with pytest.raises(LayoutError, match=r"1 parts resemble one; (0\.)?se: "):
            se_port.find_blocks(write(tmp_path, program(*change(name, other))))


def test_quantized_weights_are_dequantized(tmp_path: Path) -> None:
    integers = np.round(ARRAYS["w1"] * 50).astype(np.int64)
    arrays = {f"se.{name}": array for name, array in ARRAYS.items()} | {"se.w1": integers}
    restore = node(
        "w", "quantized_decomposed.dequantize_per_tensor.default", input="p_w1", scale=0.02, zero_point=1,
        quant_min=-128, quant_max=127,
    )  # fmt: skip
    product = node("u", "aten.linear.default", input="f", weight="w", bias="p_b1")
    (path := tmp_path / "net.pt2").write_bytes(archive(program(*change("u", restore, product)), arrays))
    np.testing.assert_allclose(
        se_port.find_blocks(path)["se"].parameters["reduce.weight"], (integers - 1) * 0.02, rtol=1e-6
    )


DEEP: Any = {"as_tensor": {"name": "x"}}
for _ in range(300):
    DEEP = {"as_tensor": DEEP}
BRANCHES: Any = program()["graph_module"]["graph"]
for _ in range(40):
    BRANCHES = {"nodes": [node("y", "higher_order.cond", true_fn={"as_graph": {"graph": BRANCHES}})]}
ODD = {
    "no nodes": {"graph_module": {"graph": {}, "signature": None}},
    "nodes that are none": program(*[[], "x", 1, None, {"target": 3}, {"target": "torch.ops.", "outputs": 5}]),  # type: ignore[list-item]
    "a target of one word": program(node("y", "x", self="x")),
    "arguments that are deep": program(node("y", "aten.relu.default", self=DEEP)),
    "arguments of another type": program(
        node("z", "aten.mean.dim", self="x", dim={"as_string": "all"}),
        node("p", "aten.permute.default", self="p_w1", dims=[7, 7, 7]),
        node("c", "aten.convolution.default", input="x", weight=None, groups={"as_string": "x"}),
        node("n", "aten.batch_norm.default", input="x", running_mean=1, running_var=None),
        node("m", "aten.max_pool2d.default", self="x", kernel_size={"as_string": "x"}),
        node("y", "aten.mul.Tensor", self={"as_string": "x"}, other="s"),
        node("l", "aten.clamp.default", self="x", min="x", max={"as_ints": [1, 2]}),
    ),
    "sizes of another type": program(sizes=(1,) * 40),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_graphs_have_no_blocks(tmp_path: Path, case: str) -> None:
    for graph in torch_export.read_graphs(write(tmp_path, ODD[case])):
        match_blocks(graph)


def test_graphs_nested_too_deep_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"graph_module": {"graph": BRANCHES}})
    with pytest.raises(FileFormatError, match="has graphs within graphs"):
        torch_export.read_graphs(path)
    path = write(tmp_path, {"graph_module": {"graph": []}})
    with pytest.raises(FileFormatError, match="has no graph where a graph is"):
        torch_export.read_graphs(path)
    path.write_bytes(path.read_bytes().replace(b'{"graph_module"', b"[" * 15, 1))
    with pytest.raises(FileFormatError, match="is no JSON that can be read"):
        torch_export.read_graphs(path)


def test_mutated_graphs_are_read_or_refused(tmp_path: Path) -> None:
    """A changed program gives another graph or a FileFormatError."""
    text = json.dumps(program())
    words = [
        "as_tensor",
        "as_int",
        "as_ints",
        "as_none",
        "name",
        "null",
        "1",
        "-1",
        "[]",
        "{}",
        "x",
        "aten.relu.default",
    ]
    for number in range(500):
        chance = random.Random(number)
        changed = text
        for _ in range(chance.randrange(1, 4)):
            old, new = chance.sample([*words, "mean.dim", "linear", "p_w1", "2", "self", "input"], 2)
            places = changed.split(old)
            if len(places) > 1:
                place = chance.randrange(1, len(places))
                changed = old.join(places[:place]) + new + old.join(places[place:])
        with contextlib.suppress(ValueError):
            path = write(tmp_path, json.loads(changed))
            if number % 5 == 0:
                path.write_bytes(fuzz.mutate(path.read_bytes(), number))
            with contextlib.suppress(FileFormatError):
                for graph in torch_export.read_graphs(path):
                    match_blocks(graph)


@pytest.mark.framework("torch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_our_own_blocks_are_found(tmp_path: Path, rank: int) -> None:
    specs = torchscript.make_specs()[:: 3 if rank == 2 else 11]
    net = make_blocks(specs)
    exported = torch.export.export(net, (torch.zeros(1, 16, *(5, 4, 3)[:rank]),))
    torch.export.save(exported, tmp_path / "net.pt2")
    check_blocks(tmp_path / "net.pt2", net, specs)


@pytest.mark.framework("torch")
@pytest.mark.filterwarnings("ignore")
def test_our_own_blocks_are_found_after_decompositions_and_for_any_size(tmp_path: Path) -> None:
    specs = torchscript.make_specs()[::9]
    net = make_blocks(specs)
    sizes = {0: torch.export.Dim("n", min=2, max=64), 2: torch.export.Dim("h", min=2, max=64)}
    exported = torch.export.export(net, (torch.zeros(3, 16, 5, 4),), dynamic_shapes=(sizes,))
    torch.export.save(exported, tmp_path / "net.pt2")
    check_blocks(tmp_path / "net.pt2", net, specs)
    torch.export.save(exported.run_decompositions(), tmp_path / "core.pt2")
    assert [block.spec for block in se_port.find_blocks(tmp_path / "core.pt2").values()] == specs


@pytest.mark.framework("torch", "peers")
@pytest.mark.filterwarnings("ignore")
@every_network
def test_blocks_of_networks_are_found(tmp_path: Path, name: str) -> None:
    net = make_network(name)
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 64, 64),)), tmp_path / "net.pt2")
    check_network(tmp_path / "net.pt2", name, net)
