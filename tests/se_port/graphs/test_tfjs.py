"""Blocks in TensorFlow.js' models: graphs as JSON, fused operators, and models that have names alone."""

import base64
import contextlib

import numpy as np
import pytest

import se_port
from se_port.formats.tfjs import parse_topology, read_json
from se_port.graphs import match_blocks, read_graphs
from se_spec import FileFormatError, SESpec

from ..formats import fuzz
from ..formats.test_tfjs import WEIGHTS, entry, save

NAMES = tuple(WEIGHTS)
AXES = {"axes": np.array([1, 2], np.int32)}


def node(name, op, *inputs, **attributes):
    """A node in protobuf's JSON."""
    return {"name": name, "op": op, "input": list(inputs), "attr": {k: _value(v) for k, v in attributes.items()}}


def _value(value):
    match value:
        case bool():
            return {"b": value}
        case int():
            return {"i": str(value)}
        case float():
            return {"f": value}
        case list():
            return {"list": {"s": [_text(one) for one in value]}}
    return {"s": _text(value)}


def _text(value):
    return base64.b64encode(value.encode()).decode()


def topology(*nodes, functions=()):
    constants = [{"name": name, "op": "Const", "attr": {"dtype": {"type": "DT_FLOAT"}}} for name in (*NAMES, "axes")]
    return {"node": [*constants, node("x", "Placeholder"), *nodes], "library": {"function": list(functions)}}


PLAIN = (
    node("z", "Mean", "x", "axes", keep_dims=True), node("u", "Conv2D", "z", NAMES[0], data_format="NHWC"),
    node("b1", "BiasAdd", "u", NAMES[1]), node("t", "Sigmoid", "b1"), node("h", "Mul", "b1", "t"),
    node("v", "Conv2D", "h", NAMES[2]), node("b2", "BiasAdd", "v", NAMES[3]), node("s", "Sigmoid", "b2"),
    node("net/se/mul", "Mul", "x", "s"),
)  # fmt: skip
FUSED = (
    node("z", "Mean", "x", "axes", keep_dims=True),
    node("u", "_FusedConv2D", "z", NAMES[0], NAMES[1], fused_ops=["BiasAdd", "_FusedSwish"]),
    node("v", "_FusedConv2D", "u", NAMES[2], NAMES[3], fused_ops=["BiasAdd", "Sigmoid"]),
    node("net/se/mul", "Mul", "v", "x"),
)


def check(path, rtol=0.0):
    ((name, found),) = se_port.find_blocks(path).items()
    assert name == "block1a_se"
    assert found.spec == SESpec(8, hidden=2, bias=True, activation="silu")
    for value, (key, stored) in zip(found.parameters.values(), WEIGHTS.items(), strict=True):
        expected = stored if "bias" in key else stored.reshape(stored.shape[-2:]).T
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol)
    return found


@pytest.mark.parametrize("nodes", [PLAIN, FUSED], ids=["plain", "fused"])
def test_a_block_of_a_graph_model_is_found_to_the_bit(tmp_path, nodes):
    path = save(tmp_path, WEIGHTS | AXES, topology=topology(*nodes), form="graph-model")
    found = check(path)
    assert found.layouts == ("graph",) and tuple(found.names.values()) == NAMES
    assert se_port.inspect(tmp_path).format == "tfjs"


def test_functions_of_the_library_are_read(tmp_path):
    inner = [{**one, "input": [_in_function(name) for name in one["input"]]} for one in PLAIN]
    function = {
        "signature": {"name": "f", "inputArg": [{"name": "x"}, *({"name": f"w{i}"} for i in range(5))],
                      "outputArg": [{"name": "y"}]},
        "nodeDef": inner, "ret": {"y": "net/se/mul:z:0"},
    }  # fmt: skip
    call = {
        "name": "c",
        "op": "PartitionedCall",
        "input": ["x", *NAMES, "axes"],
        "attr": {"f": {"func": {"name": "f"}}},
    }
    check(save(tmp_path, WEIGHTS | AXES, topology=topology(call, functions=[function]), form="graph-model"))


def _in_function(name):
    arguments = {one: f"w{i}" for i, one in enumerate((*NAMES, "axes"))} | {"x": "x"}
    return arguments.get(name, f"{name}:output:0")


def test_integers_are_dequantized_and_said(tmp_path):
    arrays, entries = dict(AXES), [entry("axes", AXES["axes"])]
    for name, array in WEIGHTS.items():
        scale, low = float(np.ptp(array)) / 255, float(array.min())
        arrays[name] = np.round((array - low) / scale).astype("u1")
        way = {"dtype": "uint8", "scale": scale, "min": low}
        entries.append(entry(name, array, quantization=way))
    found = check(save(tmp_path, arrays, entries, topology(*PLAIN), form="graph-model"), rtol=0.01)
    assert found.changes == tuple(f"{name} dequantized" for name in NAMES)


def test_names_are_used_where_there_is_no_graph(tmp_path):
    for number, topology_of_layers in enumerate((None, {"keras_version": "2.15.0", "model_config": {}}, {"node": []})):
        found = check(save(tmp_path / str(number), topology=topology_of_layers))
        assert found.layouts == ("keras.efficientnet",)


@pytest.mark.parametrize(
    "nodes", [3, [3], [{"name": 3}], [{"attr": [1]}], [{"input": "x"}], [{"attr": {"alpha": {"f": "x"}}}]], ids=str
)
def test_broken_nodes_are_refused(tmp_path, nodes):
    with pytest.raises(FileFormatError, match=r"model\.json: has"):
        se_port.find_blocks(save(tmp_path, topology={"node": nodes}))


def test_text_that_is_no_base64_is_refused(tmp_path):
    path = save(tmp_path, topology={"node": [{"name": "a", "attr": {"data_format": {"s": "*"}}}]})
    with pytest.raises(FileFormatError, match="base64"):
        parse_topology(path, read_json(path))


def test_mutated_graphs_are_read_or_refused(tmp_path):
    path = save(tmp_path, WEIGHTS | AXES, topology=topology(*PLAIN), form="graph-model")
    data, found = path.read_bytes(), 0
    for number in range(500):
        path.write_bytes(fuzz.mutate(data, number))
        with contextlib.suppress(FileFormatError):
            found += sum(len(match_blocks(graph)[0]) for graph in read_graphs(path, "tfjs"))
    assert found
