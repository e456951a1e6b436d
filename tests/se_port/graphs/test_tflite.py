"""Blocks in TensorFlow Lite models that are encoded by hand: fused activations, integers with scales, other shapes."""

import contextlib

import numpy as np
import pytest

import se_port
from se_port.graphs import match_blocks
from se_port.graphs.tflite import read_graphs
from se_spec import FileFormatError, LayoutError, SESpec
from se_spec.nonlinearities import HardSigmoid, LeakyReLU

from ..formats import fuzz
from ..formats.test_tflite import model, save, tensor

R = np.random.default_rng(0)
C, H = 8, 2
NAMES = ("net/se_reduce/kernel", "net/se_reduce/bias", "net/se_expand/kernel", "net/se_expand/bias")
SHAPES = ((H, 1, 1, C), (H,), (C, 1, 1, H), (C,))
WEIGHTS = {name: R.normal(size=shape).astype("f4") for name, shape in zip(NAMES, SHAPES, strict=True)}
ADD, POOL, CONV, DENSE, LOGISTIC, MUL, RELU, LEAKY, MEAN, CUSTOM = 0, 1, 3, 9, 14, 18, 19, 98, 40, 32


def block(arrays=None, pool=MEAN, product=CONV, fused=1, activation=None, gate=LOGISTIC, numbers=(), quantize=None):
    """A model of one block as a table; numbers are constants of the gate, each with the operator that has it."""
    arrays = {**(arrays or WEIGHTS), "axes": np.array([1, 2], "<i4")}
    arrays |= {f"number {place}": np.float32(value) for place, (_, value) in enumerate(numbers)}
    names, more, operators, codes = list(arrays), [], [], []

    def add(code, inputs, options=None, name="", end=None):
        number = len(names) + len(more)
        fields = {"f0": np.array([1, 1, 1, end], "<i4")} if end else {}
        more.append(tensor(name or f"net/{number}", **fields))
        custom = isinstance(code, str)
        codes.append({1: code.encode(), 3: ("i", CUSTOM)} if custom else {3: ("i", code)})
        ends = np.array([names.index(one) if isinstance(one, str) else one for one in inputs], "<i4")
        operators.append({0: ("I", len(codes) - 1), 1: ends, 2: np.array([number], "<i4"), 4: options or {}})
        return number

    x = len(names)
    more.append(tensor("x"))
    window = {3: ("i", 4), 4: ("i", 4)}
    z = add(pool, [x, "axes"] if pool == MEAN else [x], {} if pool == MEAN else window, end=C)
    biased = len(arrays) - len(numbers) == 5
    u = add(product, [z, *names[: 1 + biased]], {3 if product == CONV else 0: ("b", fused)}, end=H)
    h = u if activation is None else add(*activation[:1], [u], *activation[1:], end=H)
    v = add(product, [h, *names[1 + biased : 2 + 2 * biased]], end=C)
    for place, (code, _) in enumerate(numbers):
        v = add(code, [v, f"number {place}"], end=C)
    s = v if gate is None else add(gate, [v], end=C)
    add(MUL, [x, s], name="net/se/mul")
    root = model(arrays, operators, (), more)
    root[1] = codes
    for name, fields in (quantize or {}).items():
        root[2][0][0][names.index(name)] |= {4: fields}
    return root


def find(folder, root):
    (found,) = se_port.find_blocks(save(folder, root)).values()
    return found


def check(found, gate="sigmoid", activation="relu", rtol=0.0):
    assert found.spec == SESpec(C, hidden=H, bias=True, gate=gate, activation=activation)
    assert found.layouts == ("graph",) and found.unknown == ()
    for value, expected in zip(found.parameters.values(), WEIGHTS.values(), strict=True):
        np.testing.assert_allclose(value, expected.reshape(value.shape), rtol=rtol, atol=rtol)


def test_a_block_is_found_to_the_bit_with_its_path_and_names(tmp_path):
    path = save(tmp_path, block())
    (name,) = se_port.find_blocks(path)
    assert name == "net/se"
    found = se_port.find_blocks(path)[name]
    check(found)
    assert tuple(found.names.values()) == NAMES and found.changes == ()
    assert se_port.inspect(path).format == "tflite"
    np.testing.assert_array_equal(se_port.load(path)["expand.bias"], WEIGHTS[NAMES[3]])


FUNCTIONS = {
    "fused relu6": ({"fused": 3}, "relu6", "sigmoid"),
    "fused tanh": ({"fused": 4}, "tanh", "sigmoid"),
    "relu": ({"fused": 0, "activation": (RELU,)}, "relu", "sigmoid"),
    "leaky relu": ({"fused": 0, "activation": (LEAKY, {0: ("f", 0.1)})}, LeakyReLU(0.1), "sigmoid"),
    "gelu": ({"fused": 0, "activation": (150,)}, "gelu", "sigmoid"),
    "gelu by tanh": ({"fused": 0, "activation": (150, {0: ("?", True)})}, "gelu_tanh", "sigmoid"),
    "hard swish": ({"fused": 0, "activation": (117,)}, "hard_swish", "sigmoid"),
    "a window": ({"pool": POOL}, "relu", "sigmoid"),
    "limits from 0 to 1": ({"gate": 152}, "relu", HardSigmoid(1.0, 0.0)),
    "a line and limits": ({"gate": 152, "numbers": ((MUL, 0.2), (ADD, 0.5))}, "relu", HardSigmoid(0.2, 0.5)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_pools_are_recognised(tmp_path, name):
    options, activation, gate = FUNCTIONS[name]
    check(find(tmp_path, block(**options)), gate, activation, rtol=1e-6)


def test_dense_layers_without_biases_are_projections(tmp_path):
    dense = {name: value.reshape(value.shape[0], -1) if "kernel" in name else value for name, value in WEIGHTS.items()}
    check(find(tmp_path, block(dense, product=DENSE)))
    plain = {name: value for name, value in dense.items() if "kernel" in name}
    found = find(tmp_path, block(plain, product=DENSE))
    assert found.spec == SESpec(C, hidden=H)


def test_integers_are_dequantized_and_said(tmp_path):
    arrays, fields = {}, {}
    for name, value in WEIGHTS.items():
        scale = np.abs(value).reshape(value.shape[0], -1).max(1) / 127 if "kernel" in name else np.array([1e-4])
        column = scale.reshape(-1, 1, 1, 1) if "kernel" in name else scale
        arrays[name] = np.round(value / column).astype(np.int8 if "kernel" in name else np.int32)
        fields[name] = {2: scale.astype("<f4"), 3: np.zeros(len(scale), "<i8")}
    found = find(tmp_path, block(arrays, quantize=fields))
    check(found, rtol=0.02)
    assert found.changes == tuple(f"{name} dequantized" for name in NAMES)
    expected = arrays[NAMES[0]].reshape(H, C) * fields[NAMES[0]][2].astype("f8")[:, None]
    np.testing.assert_array_equal(found.parameters["reduce.weight"], expected.astype("f4"))
    blocks = {NAMES[0]: {**fields[NAMES[0]], 4: ("B", 2), 5: {}}}
    with pytest.raises(LayoutError, match="constants are computed by dequantize by blocks"):
        find(tmp_path, block(arrays, quantize={**fields, **blocks}))


def test_float16_is_kept_as_it_is(tmp_path):
    found = find(tmp_path, block({name: value.astype("f2") for name, value in WEIGHTS.items()}))
    assert {value.dtype.name for value in found.parameters.values()} == {"float16"}
    check(found, rtol=1e-3)


@pytest.mark.parametrize(
    ("code", "name"), [(4, "DEPTHWISE_CONV_2D"), (25, "SOFTMAX"), (48, "operator 48"), ("Custom", "Custom")]
)
def test_other_operators_are_between_and_named(tmp_path, code, name):
    with pytest.raises(LayoutError, match=f"1 parts resemble one; net: {name} is between"):
        find(tmp_path, block(fused=0, activation=(code,)))


def test_groups_and_kernels_are_no_projections(tmp_path):
    wide = {**WEIGHTS, NAMES[0]: R.normal(size=(H, 1, 1, C // 2)).astype("f4")}
    with pytest.raises(LayoutError, match="a convolution of kernel"):
        find(tmp_path, block(wide))


def test_two_subgraphs_are_two_graphs(tmp_path):
    root = block()
    root[2] *= 2
    assert len(read_graphs(save(tmp_path, root))) == 2


def test_mutated_graphs_are_read_or_refused(tmp_path):
    data = save(tmp_path, block()).read_bytes()
    path, found = tmp_path / "mutated.tflite", 0
    for number in range(500):
        path.write_bytes(fuzz.mutate(data, number))
        with contextlib.suppress(FileFormatError):
            found += sum(len(match_blocks(graph)[0]) for graph in read_graphs(path))
    assert found
