"""Blocks in TensorFlow's graphs that are encoded by hand: frozen ones, and SavedModels with functions and variables."""

import contextlib
import time

import numpy as np
import pytest

import se_port
from se_port import formats
from se_port.formats._wire import encode_field as field
from se_port.graphs import match_blocks, read_graphs
from se_spec import FileFormatError, LayoutError, SESpec
from se_spec.nonlinearities import LeakyReLU

from ..formats import fuzz
from ..formats.graphdefs import called, function, graph, node, saved_model, text

R = np.random.default_rng(0)
C, H = 8, 2
NAMES = ("net/se_reduce/kernel", "net/se_reduce/bias", "net/se_expand/kernel", "net/se_expand/bias")
SHAPES = ((1, 1, C, H), (H,), (1, 1, H, C), (C,))
WEIGHTS = {name: R.normal(size=shape).astype("f4") for name, shape in zip(NAMES, SHAPES, strict=True)}
AXES = node("axes", "Const", value=np.array([1, 2], np.int32))
X = node("x", "Placeholder", shape=field(7, b"".join(field(2, field(1, n % 2**64)) for n in (-1, -1, -1, C))))


def constants(arrays=WEIGHTS):
    return [node(name, "Const", value=array) for name, array in arrays.items()]


def layers(names=NAMES, x="x", activation=("Relu",), gate="Sigmoid", conv="Conv2D", **layout):
    """Nodes of a block from x to ``net/se/mul``; names are those of the four weights."""
    activations = [node(f"h{i}", op, f"h{i - 1}" if i else "b1") for i, op in enumerate(activation)]
    return [
        node("z", "Mean", x, "axes", keep_dims=True),
        node("u", conv, "z", names[0], **layout), node("b1", "BiasAdd", "u", names[1]), *activations,
        node("v", conv, f"h{len(activation) - 1}", names[2], **layout), node("b2", "BiasAdd", "v", names[3]),
        node("s", gate, "b2"), node("net/se/mul", "Mul", x, "s"),
    ]  # fmt: skip


def save(folder, data, name="net.pb"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def find(folder, nodes, functions=()):
    (found,) = se_port.find_blocks(save(folder, graph(nodes, functions))).values()
    return found


def check(found, gate="sigmoid", activation="relu", bias=True):
    assert found.spec == SESpec(C, hidden=H, bias=bias, gate=gate, activation=activation)
    assert found.layouts == ("graph",) and found.unknown == ()
    for name, value in found.parameters.items():
        stored = WEIGHTS[
            dict(zip(("reduce.weight", "reduce.bias", "expand.weight", "expand.bias"), NAMES, strict=True))[name]
        ]
        expected = stored if stored.ndim == 1 else stored.reshape(stored.shape[-2:]).T
        np.testing.assert_array_equal(value, expected)


def test_a_block_of_a_frozen_graph_is_found_to_the_bit(tmp_path):
    path = save(tmp_path, graph([X, AXES, *constants(), *layers()]))
    (name,) = se_port.find_blocks(path)
    assert name == "net/se"
    found = se_port.find_blocks(path)[name]
    check(found)
    assert tuple(found.names.values()) == NAMES and found.changes == ()
    assert se_port.inspect(path).format == "graphdef"


def test_the_order_of_nodes_does_not_matter(tmp_path):
    check(find(tmp_path, [X, AXES, *constants(), *layers()][::-1]))


def test_a_block_of_maps_with_channels_first_is_found(tmp_path):
    first = node("axes", "Const", value=np.array([2, 3], np.int32))
    check(find(tmp_path, [node("x", "Relu", "i"), first, *constants(), *layers(data_format="NCHW")]))


WAYS = {
    "dense layers": [
        node("z", "Mean", "x", "axes"), node("w", "Reshape", NAMES[0], "two"), node("u", "MatMul", "z", "w"),
        node("b1", "AddV2", "u", NAMES[1]), node("h", "Relu", "b1"),
        node("q", "Squeeze", NAMES[2], squeeze_dims=[0, 1]),
        node("v", "MatMul", "h", "q"), node("b2", "AddV2", NAMES[3], "v"), node("s", "Sigmoid", "b2"),
        node("e", "ExpandDims", "s", "zero"), node("net/se/mul", "Mul", "e", "x"),
        node("two", "Const", value=np.array([C, H], np.int32)), node("zero", "Const", value=np.int32(1)),
    ],
    "sums of products": [
        node("z", "Mean", "x", "axes", keep_dims=True), node("w", "Squeeze", NAMES[0]), node("q", "Squeeze", NAMES[2]),
        node("u", "Einsum", "z", "w", equation="...c,cr->...r"), node("b1", "AddV2", "u", NAMES[1]),
        node("h", "Relu", "b1"), node("v", "Einsum", "h", "q", equation="...c,cr->...r"),
        node("b2", "AddV2", "v", NAMES[3]), node("s", "Sigmoid", "b2"), node("net/se/mul", "Mul", "x", "s"),
    ],
    "fused": [
        node("z", "Mean", "x", "axes", keep_dims=True),
        node("h", "_FusedConv2D", "z", NAMES[0], NAMES[1], fused_ops=["BiasAdd", "Relu"]),
        node("v", "_FusedConv2D", "h", NAMES[2], NAMES[3], fused_ops=["BiasAdd"]), node("s", "Sigmoid", "v"),
        node("net/se/mul", "Mul", "x", "s"),
    ],
    "kept NaN": [
        *layers(activation=())[:3], node("r", "Relu", "b1"), node("n", "NotEqual", "b1", "b1"),
        node("h-1", "SelectV2", "n", "b1", "r"), *layers(activation=())[3:],
    ],
    "copies": layers(activation=("Identity", "Relu", "StopGradient", "IdentityN", "CheckNumerics")),
}  # fmt: skip


LENGTHS = [
    node("shape", "Shape", "x"), node("at1", "Const", value=np.array([1], np.int32)),
    node("at2", "Const", value=np.array([2], np.int32)), node("one", "Const", value=np.int32(1)),
    node("h", "StridedSlice", "shape", "at1", "at2", "at1", shrink_axis_mask=1),
    node("w", "StridedSlice", "shape", "at2", "at2", "at1", shrink_axis_mask=1),
    node("first", "Mul", "one", "h"), node("count", "Mul", "first", "w"),
]  # fmt: skip


def mean(total, *count):
    """A block whose mean is a sum, divided by the tensor ``cast``."""
    sums = [node("sum", "Sum", total, "axes", keep_dims=True), *count, node("z", "RealDiv", "sum", "cast")]
    return [X, AXES, *constants(), *sums, *layers()[1:]]


def test_a_mean_may_be_a_sum_that_is_divided(tmp_path):
    cast = node("cast", "Cast", "count")
    check(find(tmp_path, mean("x", *LENGTHS, cast)))
    fixed = node("x", "Placeholder", shape=field(7, b"".join(field(2, field(1, n)) for n in (1, 5, 4, C))))
    number = [node("count", "Const", value=np.int32(20)), cast]
    check(find(tmp_path, [fixed, *mean("x", *number)[1:]]))


@pytest.mark.parametrize(
    "count",
    [
        [*LENGTHS, node("cast", "Cast", "first")],
        [*LENGTHS, node("twice", "Mul", "count", "w"), node("cast", "Cast", "twice")],
        [node("cast", "Const", value=np.float32(20))],
    ],
    ids=["one axis", "one axis twice", "unknown lengths"],
)
def test_another_quotient_is_no_mean(tmp_path, count):
    with pytest.raises(LayoutError, match="no SE block"):
        find(tmp_path, mean("x", *count))


@pytest.mark.parametrize("way", WAYS)
def test_a_block_is_found_in_whatever_way_it_is_written(tmp_path, way):
    check(find(tmp_path, [X, AXES, *constants(), *WAYS[way]]))


@pytest.mark.parametrize(
    ("op", "numbers", "activation"),
    [
        ("LeakyRelu", {"alpha": 0.25}, LeakyReLU(0.25)),
        ("LeakyRelu", {}, LeakyReLU(0.2)),
        ("Relu6", {}, "relu6"),
        ("Tanh", {}, "tanh"),
    ],
)
def test_activations_and_gates_are_recognised_by_their_operators(tmp_path, op, numbers, activation):
    nodes = [one if one != node("h0", "Relu", "b1") else node("h0", op, "b1", **numbers) for one in layers()]
    check(find(tmp_path, [X, AXES, *constants(), *nodes]), activation=activation)


def test_batch_norm_is_folded_and_that_of_training_is_named(tmp_path):
    numbers = {"scale": 2.0, "offset": 1.0, "mean": 0.5, "variance": 3.0}
    arrays = {name: np.full(H, number, "f4") for name, number in numbers.items()}
    for training in (False, True):
        norm = node("n", "FusedBatchNormV3", "b1", *arrays, epsilon=1.0, is_training=training)
        lines = [one if one != node("h0", "Relu", "b1") else node("h0", "Relu", "n") for one in layers()]
        nodes = [X, AXES, *constants(WEIGHTS | arrays), norm, *lines]
        if training:
            with pytest.raises(LayoutError, match="FusedBatchNormV3 in training is between"):
                find(tmp_path, nodes)
        else:
            found = find(tmp_path, nodes)
            np.testing.assert_allclose(found.parameters["reduce.bias"], WEIGHTS[NAMES[1]] + 0.5, rtol=1e-6)
            assert found.changes == ("batch norm folded",)


def test_the_mean_over_channels_is_no_squeeze(tmp_path):
    last = node("axes", "Const", value=np.array([-1], np.int32))
    with pytest.raises(LayoutError, match="no SE block"):
        find(tmp_path, [X, last, *constants(), *layers()])


# Functions and SavedModels

ARGUMENTS = ("x", "w1", "b_1", "w2", "b_2")


def body(name="block", read=True):
    """A function of x and four resources, as ``tf.function`` makes it."""
    reads = [node(f"read {one}", "ReadVariableOp", one) for one in ARGUMENTS[1:]]
    names = [f"read {one}:value:0" if read else one for one in ARGUMENTS[1:]]
    nodes = [AXES.replace(b"axes", b"axis"), *reads, *layers(names)]
    return function(name, ARGUMENTS, nodes, {"y": "net/se/mul:z:0"}).replace(b"\x04axes", b"\x04axis")


def handles(names=NAMES):
    return [node(name, "VarHandleOp", shared_name=name) for name in names]


def texts(*values):
    """An AttrValue with a tensor of text."""
    return field(8, field(1, 7) + b"".join(text(8, value) for value in values))


KEYS = tuple(f"_ops/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i in range(4))


def saver(names=NAMES, keys=KEYS):
    """A function that saves the variables, and its call."""
    arguments = ["file", *(f"v{i}" for i in range(len(names)))]
    nodes = [node("names", "Const", value=texts(*keys)), node("slices", "Const", value=texts(*[""] * len(keys)))]
    nodes += [node(f"r{i}", "ReadVariableOp", f"v{i}") for i in range(len(names))]
    copies = [node(f"i{i}", "Identity", f"r{i}:value:0") for i in range(len(names))]
    inputs = ["file", "names:output:0", "slices:output:0", *(f"i{i}:output:0" for i in range(len(names)))]
    saving = function("save", arguments, [*nodes, *copies, node("SaveV2", "SaveV2", *inputs)], {"file": "file"})
    return saving, [
        node("file", "Placeholder"),
        node("saved", "StatefulPartitionedCall", "file", *names, f=called("save")),
    ]


def save_model(folder, nodes, functions, signatures=None, objects=b"", keys=KEYS):
    save(folder, saved_model(graph(nodes, functions), signatures, objects), "saved_model.pb")
    tensors = {key: WEIGHTS[name] for key, name in zip(keys, NAMES, strict=True)}
    formats.write(folder / "variables" / "variables.index", tensors, "tensorflow", force=True)
    return folder


def test_calls_are_put_in_place_and_variables_are_the_checkpoints(tmp_path):
    saving, saved = saver()
    outer = [node("inner", "PartitionedCall", *ARGUMENTS, f=called("block"))]
    wrapper = function("wrapper", ARGUMENTS, outer, {"out": "inner:output:0"})
    call = node("call", "StatefulPartitionedCall", "x", *NAMES, f=called("wrapper"))
    signatures = {"serving_default": ["call:0"]}
    folder = save_model(tmp_path / "saved", [X, *handles(), call, *saved], [body(), wrapper, saving], signatures)
    for path in (folder, folder / "saved_model.pb"):
        (name,) = se_port.find_blocks(path)
        found = se_port.find_blocks(path)[name]
        check(found)
        assert tuple(found.names.values()) == KEYS
    assert se_port.inspect(folder).format == "tensorflow"


def test_signatures_that_share_their_variables_give_each_block_once(tmp_path):
    saving, saved = saver()
    calls = [node(f"call{i}", "StatefulPartitionedCall", "x", *NAMES, f=called("block")) for i in range(3)]
    signatures = {"other": ["call0:0"], "serving_default": ["call1:0"], "third": ["call2:0"]}
    folder = save_model(tmp_path / "saved", [X, *handles(), *calls, *saved], [body(), saving], signatures)
    assert len(se_port.find_blocks(folder)) == 1


def test_signatures_that_share_some_variables_give_each_block_once(tmp_path):
    """The second signature has a variable more, and is read for it."""
    saving, saved = saver((*NAMES, "scale"), (*KEYS, "scale"))
    calls = [node(f"call{i}", "StatefulPartitionedCall", "x", *NAMES, f=called("block")) for i in range(2)]
    scaled = [node("read", "ReadVariableOp", "scale"), node("scaled", "Mul", "call1:0", "read")]
    nodes = [X, *handles((*NAMES, "scale")), *calls, *scaled, *saved]
    signatures = {"serving_default": ["call0:0"], "other": ["scaled:0"]}
    folder = save_model(tmp_path / "saved", nodes, [body(), saving], signatures)
    tensors = {key: WEIGHTS[name] for key, name in zip(KEYS, NAMES, strict=True)} | {"scale": np.ones(C, "f4")}
    formats.write(folder / "variables" / "variables.index", tensors, "tensorflow", force=True)
    assert len(read_graphs(folder, "tensorflow")) == 2
    assert len(se_port.find_blocks(folder)) == 1


def test_functions_that_no_signature_calls_have_their_variables_by_the_object_graph(tmp_path):
    """The root has ``_ops``, that has four variables; the function captures them in another order of objects."""
    reference = [field(1, field(1, i + 2) + text(2, str(i))) for i in range(4)]
    objects = field(1, field(1, field(1, 1) + text(2, "_ops"))) + field(1, b"".join(reference))
    objects += b"".join(field(1, field(7, text(6, name))) for name in NAMES)
    captures = b"".join(field(2, i + 2) for i in range(4))
    objects += field(2, text(1, "block") + field(2, captures))
    saving, saved = saver()
    folder = save_model(tmp_path / "saved", [*handles(), *saved], [body(), saving], objects=objects)
    (found,) = se_port.find_blocks(folder).values()
    check(found)


BRANCHED = {
    "If": ("StatelessIf", {"then_branch": called("block"), "else_branch": called("nothing")}, ["condition", "x"]),
    "Case": ("Case", {"branches": field(1, field(9, text(1, "nothing")) + field(9, text(1, "block")))}, ["index", "x"]),
    "While": ("While", {"cond": called("nothing"), "body": called("block")}, ["x"]),
}


@pytest.mark.parametrize("kind", BRANCHED)
def test_blocks_in_branches_and_loops_are_found(tmp_path, kind):
    op, attributes, inputs = BRANCHED[kind]
    saving, saved = saver()
    nothing = function("nothing", ARGUMENTS, [], {"y": "x"})
    call = node("branch", op, *inputs, *NAMES, **attributes)
    after = node("after", "Identity", "branch:0")
    signatures = {"serving_default": ["after:0"]}
    nodes = [X, *handles(), call, after, *saved]
    folder = save_model(tmp_path / "saved", nodes, [body(), nothing, saving], signatures)
    (found,) = se_port.find_blocks(folder).values()
    check(found)


def test_variables_of_tensorflow_1_are_read(tmp_path):
    variables = [node(name, "VariableV2", shared_name="") for name in NAMES]
    reads = [node(f"{name}/read", "Identity", name) for name in NAMES]
    save_node = [node("names", "Const", value=texts(*NAMES)), node("slices", "Const", value=texts(*[""] * 4))]
    save_node.append(node("save", "SaveV2", "file", "names", "slices", *NAMES))
    nodes = [X, AXES, *variables, *reads, *save_node, *layers([f"{name}/read" for name in NAMES])]
    signatures = {"serving_default": ["net/se/mul:0"]}
    folder = save_model(tmp_path / "saved", nodes, [], signatures, keys=NAMES)
    (found,) = se_port.find_blocks(folder).values()
    check(found)
    assert tuple(found.names.values()) == NAMES


def test_a_function_in_place_of_an_operator_is_read(tmp_path):
    call = node("call", "block", "x", *NAMES)
    check(find(tmp_path, [X, *constants(), call], [body(read=False)]))


# Hostile files


def test_functions_that_call_functions_end_in_bounded_time(tmp_path):
    """Each of 60 functions calls the next one twice; one calls itself."""
    functions = []
    for i in range(60):
        calls = [node(f"c{k}", "PartitionedCall", "a", f=called(f"f{i + 1}")) for k in range(2)]
        functions.append(function(f"f{i}", ["a"], calls, {"y": "c1:output:0"}))
    start = time.process_time()
    with pytest.raises(FileFormatError, match="calls its functions too often"):
        read_graphs(save(tmp_path, graph([X, node("c", "f0", "x")], functions)), "graphdef")
    assert time.process_time() - start < 5
    again = function("f", ["a"], [node("c", "f", "a")], {"y": "c:output:0"})
    (result,) = read_graphs(save(tmp_path, graph([X, node("c", "f", "x")], [again])), "graphdef")
    assert len(result.nodes) < 100


def test_circles_of_nodes_are_read(tmp_path):
    circle = [node("a", "Relu", "b"), node("b", "Relu", "a"), node("c", "Relu", "c")]
    (result,) = read_graphs(save(tmp_path, graph([*circle, X, AXES, *constants(), *layers()])), "graphdef")
    assert len(match_blocks(result)[0]) == 1


def test_long_chains_of_objects_are_read(tmp_path):
    objects = b"".join(field(1, field(1, field(1, i + 1) + text(2, "a"))) for i in range(20_000))
    start = time.process_time()
    save(tmp_path, saved_model(graph([X, AXES, *constants(), *layers()]), {}, objects), "saved_model.pb")
    assert len(read_graphs(tmp_path, "tensorflow")) == 1
    variables = b"".join(
        field(1, field(1, field(1, i + 1) + text(2, "a")) + field(7, text(6, "v"))) for i in range(20_000)
    )
    save(tmp_path, saved_model(graph([X]), {}, variables), "saved_model.pb")
    with pytest.raises(FileFormatError, match="objects within objects"):
        read_graphs(tmp_path, "tensorflow")
    assert time.process_time() - start < 10


def test_mutated_graphs_are_read_or_refused(tmp_path):
    saving, saved = saver()
    call = node("call", "StatefulPartitionedCall", "x", *NAMES, f=called("block"))
    folder = save_model(
        tmp_path / "saved", [X, *handles(), call, *saved], [body(), saving], {"serving_default": ["call:0"]}
    )
    frozen = save(tmp_path, graph([X, AXES, *constants(), *layers()]))
    for path, whole in ((folder / "saved_model.pb", folder), (frozen, frozen)):
        data, found = path.read_bytes(), 0
        for number in range(500):
            path.write_bytes(fuzz.mutate(data, number))
            with contextlib.suppress(FileFormatError):
                graphs = read_graphs(whole, "graphdef" if whole == frozen else "tensorflow")
                found += sum(len(match_blocks(one)[0]) for one in graphs)
        assert found
