"""Blocks in graphs that are written by hand: each way to write one, and each part that only resembles one."""

import numpy as np
import pytest

from se_port.graphs import Graph, Node, match_blocks
from se_spec import SESpec
from se_spec.nonlinearities import HardSigmoid, LeakyReLU

C, R = 6, 2
RANDOM = np.random.default_rng(0)
W1, B1 = RANDOM.normal(size=(R, C)).astype("f4"), RANDOM.normal(size=R).astype("f4")
W2, B2 = RANDOM.normal(size=(C, R)).astype("f4"), RANDOM.normal(size=C).astype("f4")
CONSTANTS = {
    "fc1.weight": W1[..., None, None],
    "fc1.bias": B1,
    "fc2.weight": W2[..., None, None],
    "fc2.bias": B2,
    "3": np.float32(3),
    "6": np.float32(6),
    "half": np.float32(0.5),
    "one": np.float32(1),
    "two": np.float32(2),
    "slopes": RANDOM.normal(size=R).astype("f4"),
    "scale": np.float32([2, 3]),
    "offset": np.float32([1, -1]),
    "mean": np.float32([0.5, 0.25]),
    "variance": np.float32([3, 8]),
}


def nodes(*lines: str, **attributes) -> tuple[Node, ...]:
    """Nodes from lines such as ``h = relu u``; attributes by the name of the output."""
    parsed = []
    for line in lines:
        output, call = line.split(" = ")
        op, *inputs = call.split()
        parsed.append(Node(op, tuple(inputs), (output,), attributes.get(output, {}), f"node of {output}"))
    return tuple(parsed)


CONV = {"weight": "OI11", "groups": 1}
POOL = {"z": {"kind": "avg"}, "m": {"kind": "max"}, "u": CONV, "v": CONV}


def block(*middle: str, gate=("s = sigmoid v",), after=("y = mul x s",), squeeze=("z = pool x",), **more) -> Graph:
    """A block whose activation, gate, squeeze or end is replaced."""
    lines = (*squeeze, "u = conv z fc1.weight fc1.bias", *(middle or ("h = relu u",)), "v = conv h fc2.weight fc2.bias")
    return Graph(nodes(*lines, *gate, *after, **{**POOL, **more}), CONSTANTS, frozenset({"two"}))


def only_match(graph: Graph):
    (match,), lookalikes = match_blocks(graph)
    assert not lookalikes
    return match


def check_parameters(match, w1=W1, b1=B1, w2=W2, b2=B2):
    for name, value in zip(match.parameters, (w1, b1, w2, b2), strict=True):
        np.testing.assert_allclose(match.parameters[name], value, rtol=1e-6)


def test_a_plain_block_is_moved_to_the_bit():
    match = only_match(block())
    assert match.spec == SESpec(C, hidden=R, bias=True)
    assert (match.path, match.input, match.output, match.changes) == ("node of y", "x", "y", ())
    assert match.names == {"reduce.weight": "fc1.weight", "reduce.bias": "fc1.bias",
                           "expand.weight": "fc2.weight", "expand.bias": "fc2.bias"}  # fmt: skip
    for name, value in zip(match.parameters, (W1, B1, W2, B2), strict=True):
        assert match.parameters[name].tobytes() == value.tobytes()


ACTIVATIONS = {
    "silu": ["g = sigmoid u", "h = mul u g"],
    "silu of a copy": ["c = identity u", "g = sigmoid c", "h = mul u g"],
    "hard_swish": ["a = add u 3", "b = clip a", "c = mul u b", "h = div c 6"],
    "hard_swish from six": ["a = add 3 u", "b = relu6 a", "c = div b 6", "h = mul c u"],
    "gelu": ["a = div u root", "b = erf a", "c = add b one", "d = mul u c", "h = mul d half"],
    "relu6": ["h = clip u"],
    "relu by maximum": ["h = maximum u zero"],
    "identity": ["h = identity u"],
    "tanh": ["h = tanh u"],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_recognised_however_it_is_written(name):
    six = {"low": 0.0, "high": 6.0}
    graph = block(
        *ACTIVATIONS[name], b=six if "swish" in name and "from" not in name else {}, h=six if name == "relu6" else {}
    )
    constants = {**CONSTANTS, "root": np.float32(np.sqrt(2)), "zero": np.float32(0)}
    match = only_match(Graph(graph.nodes, constants))
    assert match.spec.activation == name.split()[0]
    check_parameters(match)


def test_slopes_are_numbers_of_the_spec():
    match = only_match(block("h = leaky_relu u", h={"slope": float(np.float32(0.01))}))
    assert match.spec.activation == LeakyReLU(0.01)
    equal = {**CONSTANTS, "slopes": np.full((R, 1, 1), 0.25, "f4")}
    assert only_match(Graph(block("h = prelu u slopes").nodes, equal)).spec.activation == LeakyReLU(0.25)


GATES = {
    "hard sigmoid of PyTorch": (["a = add v 3", "b = relu6 a", "s = div b 6"], "hard_sigmoid", 1.0, False),
    "hard sigmoid of Keras 2": (["a = mul v fifth", "b = add a half", "s = clip b"], HardSigmoid(0.2, 0.5), 1.0, False),
    "hard sigmoid of TF-slim": (["a = add v 3", "b = relu6 a", "s = mul b sixth"],
                                HardSigmoid(0.16667, 0.50001, 0.0, 1.00002), 1.0, False),
    "gain": (["a = sigmoid v", "s = mul a two"], "sigmoid", 2.0, False),
    "gain of a line": (["s = mul two v"], "identity", 2.0, False),
    "gain of a relu": (["a = relu v", "s = mul a two"], "relu", 2.0, False),
    "gain of a hard sigmoid": (["a = mul v fifth", "b = add a half", "c = minimum b one", "d = maximum c zero",
                                "s = mul d two"], HardSigmoid(0.2, 0.5), 2.0, False),
    "residual": (["a = sigmoid v", "s = add a one"], "sigmoid", 1.0, True),
    "sigmoid written out": (["a = neg v", "b = exp a", "c = add b one", "s = reciprocal c"], "sigmoid", 1.0, False),
    "tanh": (["s = tanh v"], "tanh", 1.0, False),
    "no gate": (["s = identity v"], "identity", 1.0, False),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_recognised_however_it_is_written(name):
    lines, gate, gain, residual = GATES[name]
    constants = {**CONSTANTS, "fifth": np.float32(0.2), "sixth": np.float32(0.16667), "zero": np.float32(0)}
    match = only_match(
        Graph(block(gate=lines, s={"low": 0.0, "high": 1.0} if "Keras" in name else {}).nodes, constants)
    )
    assert (match.spec.gain, match.spec.residual) == (gain, residual)
    assert match.spec.gate == gate
    check_parameters(match)


def test_a_relu_of_a_shifted_argument_is_no_hard_sigmoid():
    match = only_match(block(gate=["a = add v one", "s = relu a"]))
    assert match.spec.gate == "relu"
    check_parameters(match, b2=B2 + 1)


def test_a_gain_that_rounds_to_1_is_1():
    """The factors 6 and 1/6 in float32: one is in the gate and one behind the block."""
    constants = {**CONSTANTS, "sixth": np.float32(1 / 6)}
    graph = block(gate=["a = add v 3", "s = relu6 a"], after=["p = mul x s", "y = mul p sixth"])
    match = only_match(Graph(graph.nodes, constants, frozenset({"sixth"})))
    assert (match.spec.gate, match.spec.gain) == ("hard_sigmoid", 1.0)


def test_a_function_of_a_scaled_argument_is_folded():
    match = only_match(block(gate=["a = mul v two", "b = sub a 3", "s = sigmoid b"]))
    check_parameters(match, w2=2 * W2, b2=2 * B2 - 3)
    assert match.changes == ("2 v + -3 folded into a projection",)


def test_every_squeeze_is_recognised():
    assert only_match(block(squeeze=["z = pool x"], z={"kind": "max"})).spec.squeeze == "max"
    match = only_match(block(squeeze=["a = pool x", "m = pool x", "b = add a m", "z = mul b half"], a={"kind": "avg"}))
    assert match.spec.squeeze == "avg_max"
    check_parameters(match)
    match = only_match(block(squeeze=["a = pool x", "m = pool x", "z = add a m"], a={"kind": "avg"}))
    assert match.spec.squeeze == "avg_max"
    check_parameters(match, w1=2 * W1)
    over_width = block(
        squeeze=["a = pool x", "z = pool a"], a={"kind": "avg", "axes": (3,)}, z={"kind": "avg", "axes": (2,)}
    )
    match = only_match(Graph(over_width.nodes, CONSTANTS, shapes={"x": (-1, C, 7, 7), "a": (-1, C, 7)}))
    assert match.spec.squeeze == "avg"


def test_shapes_and_types_between_the_steps_do_not_matter():
    flat = nodes(
        "w = transpose x", "r = reshape w", "z = pool r", "c = identity z", "f = reshape c", "u = matmul f first",
        "a = add u fc1.bias", "h = relu a", "v = matmul h second", "g = add fc2.bias v", "s = sigmoid g",
        "e = expand s", "y = mul e x", z={"kind": "avg", "axes": (1,)},
    )  # fmt: skip
    match = only_match(Graph(flat, {**CONSTANTS, "first": W1.T, "second": W2.T}))
    assert match.spec == SESpec(C, hidden=R, bias=True)
    check_parameters(match)
    assert match.changes == ()


def test_a_matrix_on_the_left_or_transposed_is_a_projection():
    lines = nodes(
        "z = pool x", "u = matmul first z", "h = relu u", "v = matmul h second", "s = sigmoid v", "y = mul x s",
        z={"kind": "avg"}, v={"transposed": True},
    )  # fmt: skip
    match = only_match(Graph(lines, {"first": W1, "second": W2}))
    assert match.spec == SESpec(C, hidden=R)
    np.testing.assert_array_equal(match.parameters["reduce.weight"], W1)
    np.testing.assert_array_equal(match.parameters["expand.weight"], W2)


def test_batch_norm_is_folded_before_and_behind_the_activation():
    factor = CONSTANTS["scale"] / np.sqrt(CONSTANTS["variance"] + 1.0)
    shift = CONSTANTS["offset"] - CONSTANTS["mean"] * factor
    norm = "batch_norm {} scale offset mean variance"
    match = only_match(block(f"n = {norm.format('u')}", "h = relu n", n={"epsilon": 1.0}))
    check_parameters(match, w1=W1 * factor[:, None], b1=B1 * factor + shift)
    assert match.changes == ("batch norm folded",)
    match = only_match(block("n = relu u", f"h = {norm.format('n')}", h={"epsilon": 1.0}))
    check_parameters(match, w2=W2 * factor, b2=B2 + W2 @ shift)


def test_a_single_projection_and_a_missing_bias_are_recognised():
    square = RANDOM.normal(size=(C, C)).astype("f4")
    lines = nodes("z = pool x", "v = matmul z w", "s = sigmoid v", "y = mul x s", z={"kind": "avg"})
    match = only_match(Graph(lines, {"w": square}))
    assert match.spec == SESpec(C, single_projection=True)
    np.testing.assert_array_equal(match.parameters["expand.weight"], square.T)
    graph = block()
    lines = [node if node.outputs != ("v",) else Node("conv", node.inputs[:2], ("v",), CONV) for node in graph.nodes]
    match = only_match(Graph(tuple(lines), CONSTANTS))
    assert match.spec.bias
    assert "zeros for the bias that one projection lacks" in match.changes
    check_parameters(match, b2=np.zeros(C))


def test_an_added_x_and_a_gain_are_recognised():
    assert only_match(block(after=["p = mul x s", "y = add x p"])).spec.residual
    assert only_match(block(after=["p = mul x s", "y = mul p two"])).spec.gain == 2.0
    # Of the network, not of the block: another map, a learned factor, a product that is used elsewhere.
    assert not only_match(block(after=["p = mul x s", "y = add other p"])).spec.residual
    assert only_match(block(after=["p = mul x s", "y = mul p 3"])).spec.gain == 1.0
    assert not only_match(block(after=["p = mul x s", "y = add x p", "q = relu p"])).spec.residual


def test_quantized_weights_are_dequantized_and_reported():
    integers = np.round(W1 * 50).astype(np.int8)
    lines = list(block().nodes)
    lines[1:2] = nodes(
        "w = dequantize int8 fiftieth zero", "q = quantize z", "u = conv q w fc1.bias", u=CONV, w={"axis": 0}
    )
    constants = {**CONSTANTS, "int8": integers[..., None, None], "fiftieth": np.float32(0.02), "zero": np.int8(1)}
    match = only_match(Graph(tuple(lines), constants, quantized=frozenset({"int8"})))
    check_parameters(match, w1=(integers.astype(np.float64) - 1) * np.float32(0.02))
    assert match.changes == ("int8 dequantized",)


ALIKE = {
    "another map": (block(after=["y = mul other s"]), "another map is multiplied"),
    "two paths": (block(gate=["m = pool x", "k = conv m fc1.weight fc1.bias", "l = relu k",
                              "n = conv l fc2.weight fc2.bias", "a = add v n", "s = sigmoid a"], k=CONV, n=CONV),
                  "two paths"),
    "slopes by channel": (block("h = prelu u slopes"), "PReLU with 2 slopes"),
    "layer norm": (block("n = LayerNormalization u scale", "h = relu n"), "LayerNormalization"),
    "softmax": (block(gate=["s = Softmax v"]), "Softmax"),
    "split": (block(gate=["p = Split v", "s = sigmoid p"]), "Split"),
    "softplus": (block(gate=["s = softplus v"]), "no gate of a spec"),
    "mish": (block("h = mish u"), "no activation of a spec"),
    "a kernel": (block(u={"weight": "OI11", "groups": 2}), "kernel"),
    "three projections": (block(after=["t = matmul s wide", "w = sigmoid t", "y = mul x w"]), "3 projections"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_what_only_resembles_a_block_is_named(name):
    graph, reason = ALIKE[name]
    matches, lookalikes = match_blocks(Graph(graph.nodes, {**CONSTANTS, "wide": np.eye(C, dtype="f4")}))
    assert not matches
    (lookalike,) = lookalikes
    assert reason in lookalike.reason


def test_a_scaled_map_without_projections_and_a_classifier_are_nothing():
    lines = nodes("z = pool x", "y = mul x z", "p = pool y", "u = matmul p w", z={"kind": "avg"}, p={"kind": "avg"})
    assert match_blocks(Graph(lines, {"w": W1.T})) == ([], [])


NAN_KEEPING = {
    "by an addition": ["n = isnan x", "a = identity n", "b = neg a", "c = sqrt b", "z = add m c"],
    "by a choice": ["n = isnan x", "z = where n x m"],
    "by a choice of the opposite": ["n = isnan x", "o = not n", "z = where o m x"],
    "by a count": ["n = isnan x", "a = sum n", "b = greater a zero", "p = pool x", "z = where b p m"],
}


@pytest.mark.parametrize("name", NAN_KEEPING)
def test_what_is_kept_of_nan_does_not_hide_a_block(name):
    graph = block(squeeze=["m = pool x", *NAN_KEEPING[name]], p={"kind": "avg"})
    match = only_match(Graph(graph.nodes, {**CONSTANTS, "zero": np.float32(0)}))
    assert match.spec.squeeze == "max"
    check_parameters(match)
    restored = block("r = relu u", "n = isnan u", "h = where n u r")
    assert only_match(restored).spec.activation == "relu"


def test_a_choice_by_a_comparison_is_a_function():
    graph = block("p = greater u zero", "q = mul u slope", "h = where p u q")
    match = only_match(Graph(graph.nodes, {**CONSTANTS, "zero": np.float32(0), "slope": np.float32(0.01)}))
    assert match.spec.activation == LeakyReLU(0.01)
    graph = block("p = less zero u", "h = where p u zero")
    assert only_match(Graph(graph.nodes, {**CONSTANTS, "zero": np.float32(0)})).spec.activation == "relu"
    _, (lookalike,) = match_blocks(block("p = greater u slopes", "h = where p u one"))
    assert "where is between" in lookalike.reason


def test_numbers_in_float16_are_those_of_the_code():
    half = {**CONSTANTS, "3": np.float16(3), "sixth": np.float16(1 / 6), "slope": np.float16(0.01)}
    gate = ["a = add v 3", "b = relu6 a", "s = mul b sixth"]
    assert only_match(Graph(block(gate=gate).nodes, half)).spec.gate == "hard_sigmoid"
    leaky = block("p = greater u mean0", "q = mul u slope", "h = where p u q")
    spec = only_match(Graph(leaky.nodes, {**half, "mean0": np.float16(0)})).spec
    assert spec.activation == LeakyReLU(0.01)
    single = {**CONSTANTS, "sixth": np.float32(np.float16(1 / 6))}
    assert only_match(Graph(block(gate=gate).nodes, single)).spec.gate != "hard_sigmoid"


@pytest.mark.parametrize("op", ["identity", "add"])
def test_constants_that_many_nodes_compute_are_refused_in_bounded_time(op):
    """A chain of 5,000 nodes, and one in which each node doubles those before it."""
    chain = ["w0 = identity fc2.bias"]
    chain += [f"w{i} = {op} w{i - 1}" + (f" w{i - 1}" if op == "add" else "") for i in range(1, 5000)]
    last = Node("conv", ("h", "fc2.weight", "w4999"), ("v",), CONV)
    tail = [last if node.outputs == ("v",) else node for node in block().nodes]
    matches, (lookalike,) = match_blocks(Graph((*nodes(*chain), *tail), CONSTANTS))
    assert not matches
    assert "computed by more than 100 nodes" in lookalike.reason


@pytest.mark.parametrize("count", [199, 480])
def test_long_chains_of_functions_do_not_exhaust_the_stack(count):
    chain = [f"h{i} = relu {'u' if not i else f'h{i - 1}'}" for i in range(count)]
    matches, lookalikes = match_blocks(block(*chain, f"h = relu h{count - 1}"))
    assert len(matches) + len(lookalikes) == 1


def test_every_graph_ends_in_an_answer():
    """No order of nodes, no shape and no chain of functions makes another error than a lookalike."""
    long = [f"h{i} = relu {'u' if not i else f'h{i - 1}'}" for i in range(5000)]
    _, (lookalike,) = match_blocks(block(*long, "h = relu h4999"))
    assert "more than 200 functions" in lookalike.reason
    odd = {**CONSTANTS, "fc1.weight": np.ones((2, 5, 1, 1), "f4")}
    _, (lookalike,) = match_blocks(Graph(block().nodes, odd))
    assert "from 5 to 6 channels" in lookalike.reason
    for index in range(len(block().nodes)):
        shuffled = (*block().nodes[index:], *block().nodes[:index])
        match_blocks(Graph(shuffled, CONSTANTS))
        match_blocks(Graph(block().nodes, {name: np.ones((0, 3), "f4") for name in CONSTANTS}))
