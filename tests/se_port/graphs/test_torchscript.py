"""Blocks in TorchScript archives: code typed out, our own blocks and timm's networks, and hostile code."""

import contextlib
import itertools
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import se_port
from se_port.graphs import Graph, match_blocks, torchscript
from se_spec import FileFormatError, LayoutError, SESpec
from se_spec.nonlinearities import ACTIVATIONS, GATES, HardSigmoid, LeakyReLU

from ...conftest import OnDemand
from ..formats import fuzz
from ..formats.test_torch import storage, tensor
from ..formats.test_torchscript import archive, module

torch = OnDemand("torch")
C, R = 8, 2
RANDOM = np.random.default_rng(0)
SHAPES = {"w1": (R, C), "b1": (R,), "w2": (C, R), "b2": (C,)}
ARRAYS = {name: RANDOM.normal(size=shape).astype("<f4") for name, shape in SHAPES.items()}
BODY = (
    "z = torch.mean(x, [2, 3])",
    "h = torch.relu(torch.linear(z, self.w1, self.b1))",
    "v = torch.linear(h, self.w2, self.b2)",
    "s = torch.unsqueeze(torch.unsqueeze(torch.sigmoid(v), -1), -1)",
    "return torch.mul(x, s)",
)


def encode(name: str) -> bytes:
    """Encode a parameter, whose storage has its name."""
    shape = ARRAYS[name].shape
    strides = (shape[1], 1) if len(shape) == 2 else (1,)
    sizes, steps = (
        b"".join(b"K%c" % n for n in part) + (b"\x86" if len(part) == 2 else b"\x85") for part in (shape, strides)
    )
    return tensor(storage(name, ARRAYS[name].size), shape=sizes, strides=steps)


def write(tmp_path: Path, *body: str, code: str = "", attributes: dict[str, bytes] | None = None) -> Path:
    """Write an archive whose ``forward`` has a body; ``code`` stands before the class."""
    lines = "".join(f"    {line}\n" for line in body or BODY)
    head = "class Net(Module):\n  training : bool\n  def forward(self: __torch__.Net,\n    x: Tensor) -> Tensor:\n"
    source = code + head + lines
    root = module(**{name: encode(name) for name in ARRAYS}, training=b"\x88", **(attributes or {}))
    (path := tmp_path / "net.pt").write_bytes(
        archive(root, {name: array.tobytes() for name, array in ARRAYS.items()}, source)
    )
    return path


def change(old: str, *new: str) -> list[str]:
    """The body with one line replaced."""
    return [line for one in BODY for line in (new if one.startswith(old) else (one,))]


def check(path: Path, **fields: object) -> None:
    (found,) = se_port.find_blocks(path).values()
    assert found.spec == SESpec(C, hidden=R, bias=True, **fields)
    assert found.layouts == ("graph",)
    for name, value in zip(("w1", "b1", "w2", "b2"), found.parameters.values(), strict=True):
        assert np.array_equal(ARRAYS[name], value)


def only_graph(path: Path) -> Graph:
    (graph,) = torchscript.read_graphs(path)
    return graph


def test_a_block_is_read_from_the_code(tmp_path: Path) -> None:
    path = write(tmp_path)
    check(path)
    assert list(se_port.find_blocks(path)["mul"].names.values()) == ["w1", "b1", "w2", "b2"]
    assert se_port.inspect(path).format == "torchscript"


TRUE, FALSE, TEXT = b"\x88", b"\x89", b"X\3\0\0\0max"
FUNCTION = """def activate(x: Tensor, name: str="relu", inplace: bool=False) -> Tensor:
  if torch.eq(name, "relu"):
    if inplace:
      y = torch.relu_(x)
    else:
      y = torch.relu(x)
  else:
    y = torch.silu(x)
  return y
"""
MAXIMUM = ("  z = torch.amax(x, [2, 3])", "else:", "  z = torch.mean(x, [2, 3])")
WAYS = {
    "an attribute decides": (
        change("z", "if torch.eq(self.kind, \"max\"):", *MAXIMUM),
        {"attributes": {"kind": TEXT}}, {"squeeze": "max"}),
    "training is false": (
        change("z", "if self.training:", *MAXIMUM), {}, {}),
    "a function": (change("h", "h = __torch__.activate(torch.linear(z, self.w1, self.b1), )"), {"code": FUNCTION}, {}),
    "a function by another name": (
        change("h", "_0 = __torch__.activate", "h = _0(torch.linear(z, self.w1, self.b1), \"silu\", )"),
        {"code": FUNCTION}, {"activation": "silu"}),
    "a keyword, and an operator that writes in place": (
        change("h", "u = torch.linear(z, self.w1, self.b1)", "_0 = __torch__.activate(u, inplace=True)", "h = u"),
        {"code": FUNCTION}, {}),
    "a loop over the axes": (
        change("z", "axes = annotate(List[int], [])", "for i in range(torch.__range_length(2, torch.dim(x), 1)):",
               "  _1 = torch.append(axes, torch.__derive_index(i, 2, 1))", "z = torch.mean(x, axes)"), {}, {}),
    "an unknown condition whose branches agree": (
        change("z", "if torch.eq(ops.prim.dtype(x), 5):", "  wide = torch.to(x, 6)", "else:", "  wide = x",
               "z = torch.mean(wide, [2, 3])"), {}, {}),
    "an exception in one branch": (
        change("z", "if torch.gt((torch.size(x))[1], 8):", "  ops.prim.RaiseException(\"wide\")",
               "  z = uninitialized(Tensor)", "else:", "  z = torch.mean(x, [2, 3])"), {}, {}),
    "an exception for images": (
        change("z", "if torch.eq(torch.dim(x), 4):", "  ops.prim.RaiseException(\"images\")", "else:", "  pass",
               "z = torch.mean(x, [2])"), {}, {}),
    "a pair of results": (
        change("z", "z0, places, = torch.adaptive_max_pool2d(x, [1, 1])", "z = torch.flatten(z0, 1)"), {},
        {"squeeze": "max"}),
    "numbers that the code computes": (
        change("s", "s0 = torch.mul(torch.sigmoid(v), torch.add(1., torch.div(4, 4)))",
               "s = torch.view(s0, [(torch.size(x))[0], -1, 1, 1])"), {}, {"gain": 2.0}),
    "products written otherwise": (
        change("h", "u = torch.addmm(self.b1, z, torch.t(self.w1))", "h = torch.hardtanh(u, 0., 6.)"), {},
        {"activation": "relu6"}),
    "a negative axis and a dropout": (
        change("z", "z = torch.dropout(torch.mean(x, [-1, -2]), 0.5, False)"), {}, {}),
    "x is added": (change("return", "y = torch.mul(x, s)", "return torch.add(y, x, alpha=1)"), {}, {"residual": True}),
    "PReLU of one slope": (
        change("h", "h = torch.leaky_relu(torch.linear(z, self.w1, self.b1), 0.25)"), {},
        {"activation": LeakyReLU(0.25)}),
    "hard sigmoid written out": (
        change("s", "s0 = torch.div(torch.relu6(torch.add(v, 3)), 6)", "s = torch.view(s0, [-1, 8, 1, 1])"), {},
        {"gate": "hard_sigmoid"}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_block_is_found_however_its_code_is_written(tmp_path: Path, way: str) -> None:
    body, options, fields = WAYS[way]
    check(write(tmp_path, *body, **options), **fields)


ALIKE = {
    "branches that differ": change(
        "h", "if torch.gt((torch.size(x))[1], 8):", "  h = torch.relu(torch.linear(z, self.w1, self.b1))", "else:",
        "  h = torch.tanh(torch.linear(z, self.w1, self.b1))"),
    "an operator that writes in place in one branch": change(
        "h", "h = torch.linear(z, self.w1, self.b1)", "if torch.gt((torch.size(x))[1], 8):", "  _1 = torch.relu_(h)",
        "else:", "  pass"),
    "an attribute that one branch sets": change(
        "h", "u = torch.linear(z, self.w1, self.b1)", "self.u = u", "if torch.gt((torch.size(x))[1], 8):",
        "  self.u = torch.relu(u)", "else:", "  pass", "h = self.u"),
    "a loop of unknown length": change(
        "h", "h = torch.linear(z, self.w1, self.b1)", "for i in range(torch.size(x, 1)):", "  h = torch.relu(h)"),
    "an operator that is unknown": change("s", "s = torch.softmax(v, 1)"),
    "a padded transposed convolution": change(
        "h", "h = torch._convolution(z, self.w1, self.b1, [1], [0], [1], True, [0], 1)"),
}  # fmt: skip


@pytest.mark.parametrize("way", ALIKE)
def test_what_only_resembles_a_block_is_named(tmp_path: Path, way: str) -> None:
    path = write(tmp_path, *ALIKE[way])
    with pytest.raises(LayoutError, match="1 parts resemble one"):
        se_port.find_blocks(path)


def test_other_methods_are_read_where_there_is_no_forward(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = path.read_bytes().replace(b"def forward", b"def encodes")
    path.write_bytes(data)
    check(path)


BOMB = "".join(
    f"def f{i}(x: Tensor) -> Tensor:\n  return __torch__.f{i + 1}(__torch__.f{i + 1}(x))\n" for i in range(40)
)
HOSTILE = {
    "calls that double": (["return __torch__.f0(x)"], BOMB, "more than 50,000 steps"),
    "a function that calls itself": (
        ["return __torch__.f(x)"], "def f(x: Tensor) -> Tensor:\n  return __torch__.f(x)\n", "has calls within calls"),
    "a module that calls itself": (["return (self).forward(x)"], "", "has calls within calls"),
    "a loop that does not end": (["for i in range(1000000000000):", "  pass", "return x"], "", "50,000 steps"),
    "a list that grows": (
        ["l = [1]", "for i in range(100):", "  l = torch.add(l, l)", "for i in l:", "  pass", "return x"], "", ""),
    "a list in itself": (["l = [x]", "_1 = torch.append(l, l)", "return torch.cat(l, 1)"], "", ""),
    "a number that grows": (["n = 3", "for i in range(100):", "  n = torch.mul(n, n)", "return x"], "", ""),
    "a text": (["return torch.mul(\"a\", 1000000000)"], "", ""),
    "no code": (["return"], "", ""),
    "brackets within brackets": (["return " + "(" * 90 + "x" + ")" * 90], "", "nested too deep"),
    "a chain": (["return x" + ".y" * 300], "", "nested too deep"),
    "a chain of signs": (["return " + "-" * 3000 + "1"], "", "nested too deep"),
    "branches in a chain": (["if a:", "  pass", *["elif a:", "  pass"] * 9999, "return x"], "", "nested too deep"),
    "sums": (["return " + "x+" * 9999 + "x"], "", "nested too deep"),
    "another language": (["return x ? y : z"], "", "cannot be parsed"),
    "NUL": (["return x\0"], "", "cannot be parsed"),
    "Python's own functions": (["return __import__(\"os\").system(\"false\")"], "", ""),
    "an operator that writes in place, with a keyword": (["y = torch.relu_(self=x)", "return y"], "", ""),
    "parameters by position alone": (
        ["return __torch__.f()"], "def f(x: Tensor=1, /, y: int=2) -> Tensor:\n  return x\n", ""),
    "a power": (["return torch.pow(10, 1000000000)"], "", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_code_ends_in_a_graph_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(torchscript, "MAX_STEPS", 50_000)
    body, code, words = HOSTILE[case]
    path = write(tmp_path, *body, code=code)
    if not words or (case == "sums" and sys.version_info >= (3, 14)):  # whose parser has no such limit
        assert not match_blocks(only_graph(path))[0]
        return
    with pytest.raises(FileFormatError) as caught:
        torchscript.read_graphs(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


DOUBLED = b")" + b"q\1h\1\x86" * 200  # a pair of the last pair, and so on
LONG = b"]](" + b"K\1" * 2000 + b"eq\1a(" + b"h\1" * 2000 + b"e"
LISTS = {
    "pairs that take for ever to compare": (["if torch.eq(self.a, self.b):", "  pass", "return x"], DOUBLED, ""),
    "pairs that are returned": (["return torch.cat([x, self.a], 1)"], DOUBLED, ""),
    "a list of long lists": (["return torch.cat(self.a, 1)"], LONG, "50,000 steps"),
}


@pytest.mark.parametrize("case", LISTS)
def test_hostile_attributes_end_in_a_graph_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(torchscript, "MAX_STEPS", 50_000)
    body, value, words = LISTS[case]
    path = write(tmp_path, *body, attributes={"a": value, "b": value.replace(b"q\1", b"q\2").replace(b"h\1", b"h\2")})
    if not words:
        assert not match_blocks(only_graph(path))[0]
        return
    with pytest.raises(FileFormatError, match=words):
        torchscript.read_graphs(path)


def test_code_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("se_port.formats.torchscript.MAX_CODE_BYTES", 99)
    with pytest.raises(FileFormatError, match="has more than 99 bytes of code"):
        torchscript.read_graphs(write(tmp_path))


def test_mutated_archives_are_read_or_refused(tmp_path: Path) -> None:
    """Changed code and pickles give another graph or a FileFormatError."""
    path = write(tmp_path, *WAYS["a loop over the axes"][0], code=FUNCTION)
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    tokens = [
        b"torch.mul",
        b"self",
        b"x",
        b"(",
        b")",
        b"[",
        b"]",
        b"2",
        b"-1",
        b"None",
        b"torch.append",
        b"__torch__.Net",
        b"\n",
    ]
    for number in range(500):
        chance = random.Random(number)
        changed = dict(members)
        name = chance.choice(["net/code/__torch__.py"] * 3 + list(members))
        if chance.random() < 0.5 and name.endswith(".py"):
            start = chance.randrange(len(changed[name]))
            changed[name] = changed[name][:start] + chance.choice(tokens) + changed[name][start + chance.randrange(9) :]
        else:
            changed[name] = fuzz.mutate(changed[name], number)
        with zipfile.ZipFile(path, "w") as made:
            for key, data in changed.items():
                made.writestr(key, data)
        with contextlib.suppress(FileFormatError):
            for graph in torchscript.read_graphs(path):
                match_blocks(graph)


def make_specs() -> list[SESpec]:
    """Specs of every activation with every gate, and of one projection; every squeeze, gain and residual."""
    activations = [*ACTIVATIONS, LeakyReLU(0.01), LeakyReLU(0.2)]
    gates = [*GATES, HardSigmoid(0.2, 0.5), HardSigmoid(1.0, 0.0), HardSigmoid(0.16667, 0.50001, 0.0, 1.00002)]
    specs = []
    for number, (activation, gate) in enumerate(itertools.product(activations, gates)):
        # A gain behind a gate with other limits than 0 and 1 is a gate with further limits.
        gain = (1.0, 2.0, 0.5)[number // 2 % 3] if gate is not gates[-1] else 1.0
        specs.append(
            SESpec(
                16, hidden=4, activation=activation, gate=gate, bias=bool(number % 2), gain=gain,
                squeeze=("avg", "max", "avg_max")[number % 3], residual=bool(number // 4 % 2),
            )
        )  # fmt: skip
    single = zip(gates, itertools.cycle([True, False]), itertools.cycle(["avg", "max", "avg_max"]), strict=False)
    return specs + [SESpec(16, single_projection=True, gate=g, bias=b, squeeze=s) for g, b, s in single]


def make_blocks(specs: list[SESpec]):
    import se_torch

    return torch.nn.Sequential(*[se_torch.SqueezeExcitation(spec) for spec in specs]).eval()


def check_blocks(path: Path, net, specs: list[SESpec]) -> None:
    """Every block is found with its spec, and its parameters to the bit."""
    import se_torch

    found = se_port.find_blocks(path)
    assert list(found) == [str(number) for number in range(len(specs))]
    for block, spec, ours in zip(found.values(), specs, net, strict=True):
        assert block.spec == spec
        assert block.unknown == ()
        for name, value in se_torch.get_parameters(ours).items():
            assert np.array_equal(block.parameters[name], value), (spec, name)


@pytest.mark.framework("torch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("way", ["traced", "scripted"])
def test_our_own_blocks_are_found(tmp_path: Path, way: str, rank: int) -> None:
    specs = make_specs() if rank == 2 else make_specs()[::5]
    net, x = make_blocks(specs), torch.zeros(1, 16, *(5, 4, 3)[:rank])
    made = torch.jit.trace(net, x, check_trace=False) if way == "traced" else torch.jit.script(net)
    made.save(str(tmp_path / "net.pt"))
    check_blocks(tmp_path / "net.pt", net, specs)


@pytest.mark.framework("torch")
@pytest.mark.filterwarnings("ignore")
def test_a_frozen_module_has_its_parameters_as_constants(tmp_path: Path) -> None:
    specs = make_specs()[::9]
    net = make_blocks(specs)
    torch.jit.freeze(torch.jit.script(net)).save(str(tmp_path / "net.pt"))
    found = se_port.find_blocks(tmp_path / "net.pt")
    assert [block.spec for block in found.values()] == specs
    assert all(name.startswith("CONSTANTS.c") for block in found.values() for name in block.names.values())


NETWORKS = {
    "mobilenetv3_small_050": 9, "efficientnet_b0": 16, "seresnet18": 8, "nf_regnet_b0": 16, "fbnetv3_b": 18,
    "ese_vovnet19b_slim": 4, "resnet18": 0,
}  # fmt: skip
SHORT = ("mobilenetv3_small_050", "resnet18")
every_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.slow) for name in NETWORKS]
)


def make_network(name: str):
    from evidence.peer_blocks import _declare_operators_of_torchvision

    _declare_operators_of_torchvision()
    import timm

    return timm.create_model(name, pretrained=False).eval()


def check_network(path: Path, name: str, net) -> None:
    """The blocks of a network are all found, by the paths and with the parameters of its state dict."""
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    if not NETWORKS[name]:
        with pytest.raises(LayoutError, match="no SE block in the graph's"):
            se_port.find_blocks(path)
        return
    found = se_port.find_blocks(path)
    assert len(found) == NETWORKS[name]
    for block_path, block in found.items():
        assert all(key.startswith(f"{block_path}.") for key in block.names.values())
        for key, stored in block.names.items():
            assert np.array_equal(block.parameters[key].ravel(), state[stored].ravel())
        assert block.spec.gain == (2.0 if name == "nf_regnet_b0" else 1.0)


@pytest.mark.framework("torch", "peers")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["traced", "scripted"])
@every_network
def test_blocks_of_networks_are_found(tmp_path: Path, name: str, way: str) -> None:
    net = make_network(name)
    made = torch.jit.trace(net, torch.zeros(1, 3, 64, 64)) if way == "traced" else torch.jit.script(net)
    made.save(str(tmp_path / "net.pt"))
    check_network(tmp_path / "net.pt", name, net)
