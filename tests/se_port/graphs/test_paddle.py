"""Blocks in Paddle's inference models, in both forms, typed out, and hostile programs."""

import contextlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import se_port
from se_port.formats._wire import encode_field as field
from se_port.graphs import match_blocks, paddle
from se_spec import FileFormatError, LayoutError, SESpec
from se_spec.nonlinearities import HardSigmoid, LeakyReLU

from ..formats import fuzz
from ..formats.test_paddle import encode_parameters, encode_program, encode_variable, make_pir, write

C, R = 8, 2
RANDOM = np.random.default_rng(0)
SHAPES = {
    "conv2d_1.w_0": (R, C, 1, 1), "conv2d_1.b_0": (R,), "conv2d_2.w_0": (C, R, 1, 1), "conv2d_2.b_0": (C,),
    "linear_1.w_0": (C, R), "linear_2.w_0": (R, C), "prelu.w_0": (1,),
}  # fmt: skip
ARRAYS = {name: RANDOM.normal(size=shape).astype("<f4") for name, shape in SHAPES.items()}
ARRAYS["prelu.w_0"][:] = 0.25
NAMES = {f"{kind}{place}": f"{layer}_{place}.{leaf}_0" for place in (1, 2)
         for kind, layer, leaf in (("w", "conv2d", "w"), ("b", "conv2d", "b"), ("l", "linear", "w"))}  # fmt: skip
NAMES["p"] = "prelu.w_0"

Operator = tuple[str, str, dict[str, str], dict[str, Any]]
"""Result, type, inputs by name, attributes; the short names of constants are those of ``NAMES``."""


def op(result: str, kind: str, attributes: dict[str, Any] | None = None, **inputs: str) -> Operator:
    return result, kind, inputs, attributes or {}


def encode_attribute(name: str, value: Any) -> bytes:
    content = field(1, name.encode())
    match value:
        case bool():
            return field(4, content + field(2, 6) + field(10, int(value)))
        case int():
            return field(4, content + field(2, 0) + field(3, value % (1 << 64)))
        case float():
            return field(4, content + field(2, 1) + b"\x25" + struct.pack("<f", value))
        case str():
            return field(4, content + field(2, 2) + field(5, value.encode()))
    return field(4, content + field(2, 3) + b"".join(field(6, one % (1 << 64)) for one in value))


def to_old(*operators: Operator) -> bytes:
    """Encode a program of the old form; ``y`` is its result."""
    encoded = []
    for result, kind, inputs, attributes in operators:
        slots = [
            field(1, field(1, slot.encode()) + field(2, NAMES.get(name, name).encode()))
            for slot, name in inputs.items()
        ]
        numbers = [encode_attribute(name, value) for name, value in attributes.items()]
        out = field(2, field(1, b"Out") + field(2, result.encode()))
        encoded.append(field(4, b"".join(slots) + out + field(3, kind.encode()) + b"".join(numbers)))
    return encode_program(ARRAYS, encode_variable("x", (-1, C, -1, -1), persistent=False), *encoded)


def to_pir(*operators: Operator) -> dict[str, Any]:
    """Make a PIR program of operators whose inputs are in its order."""
    numbers = {name: number for number, name in enumerate(ARRAYS, 1)}
    made: list[dict[str, Any]] = []
    for result, kind, inputs, attributes in [op("x", "data"), *operators]:
        used = [{"%": numbers[NAMES.get(name, name)]} for name in inputs.values()]
        numbers[result] = len(numbers) + 1
        content = [{"N": name, "AT": {"#": "0.a", "D": value}} for name, value in attributes.items()]
        content.append({"N": "struct_name", "AT": {"#": "0.a_str", "D": "/net/SE/"}})
        shape = [-1, C, -1, -1] if result == "x" else []
        made.append(
            {"#": f"1.{kind}", "A": content, "I": used,
             "O": [{"%": numbers[result], "TT": {"#": "0.t_dtensor", "D": [{}, shape, "NCHW", [], 0]}}]}
        )  # fmt: skip
    return make_pir(list(ARRAYS), *made)


OLD = [
    op("z", "pool2d", {"pooling_type": "avg", "adaptive": True, "ksize": [1, 1]}, X="x"),
    op("u0", "conv2d", {"groups": 1}, Input="z", Filter="w1"),
    op("u", "elementwise_add", {"axis": 1}, X="u0", Y="b1"),
    op("h", "relu", X="u"),
    op("v0", "conv2d", {"groups": 1}, Input="h", Filter="w2"),
    op("v", "elementwise_add", {"axis": 1}, X="v0", Y="b2"),
    op("s", "hard_sigmoid", {"slope": 0.2, "offset": 0.5}, X="v"),
    op("y", "elementwise_mul", {"axis": -1}, X="x", Y="s"),
]
PIR = [
    op("k", "full_int_array", {"value": [{"D": 1}, {"D": 1}]}),
    op("z", "pool2d", {"pooling_type": "avg", "adaptive": True}, X="x", K="k"),
    op("u0", "conv2d", {"groups": 1}, Input="z", Filter="w1"),
    op("r", "full_int_array", {"value": [{"D": n} for n in (1, -1, 1, 1)]}),
    op("a1", "reshape", X="b1", S="r"),
    op("u", "add", X="u0", Y="a1"),
    op("h", "relu_", X="u"),
    op("v0", "conv2d", {"groups": 1}, Input="h", Filter="w2"),
    op("v", "add", X="v0", Y="b2"),
    op("s", "hardsigmoid", {"slope": 0.2, "offset": 0.5}, X="v"),
    op("y", "multiply", X="x", Y="s"),
]
FORMS: dict[str, tuple[list[Operator], Callable[..., Any]]] = {"old": (OLD, to_old), "PIR": (PIR, to_pir)}
both = pytest.mark.parametrize("form", FORMS)


def change(operators: list[Operator], result: str, *new: Operator) -> list[Operator]:
    """The operators with one replaced."""
    return [part for one in operators for part in (new if one[0] == result else (one,))]


PADDLE = HardSigmoid(0.2, 0.5)


def check(path: Path, gate: Any = PADDLE, names: str = "wbwb", **fields: Any) -> None:
    (found,) = se_port.find_blocks(path).values()
    assert found.spec == SESpec(C, hidden=R, bias="b" in names, gate=gate, **fields)
    places = (1, 1, 2, 2) if len(names) == 4 else (1, 2)
    for name, place, value in zip(names, places, found.parameters.values(), strict=True):
        expected = ARRAYS[NAMES[f"{name}{place}"]]
        assert np.array_equal((expected.T if name == "l" else expected).ravel(), value.ravel())


@both
def test_a_block_is_found(tmp_path: Path, form: str) -> None:
    operators, encode = FORMS[form]
    path = write(tmp_path, encode(*operators), encode_parameters(ARRAYS))
    check(path)
    check(tmp_path / "net.pdiparams")
    assert list(se_port.find_blocks(path)) == ["y" if form == "old" else "net.SE"]
    assert se_port.inspect(path).format == "paddle"


DENSE = [
    op("z", "reduce_mean", {"dim": [2, 3], "keep_dim": False, "reduce_all": False}, X="x"),
    op("u", "mul", {"x_num_col_dims": 1}, X="z", Y="l1"),
    op("h", "swish", {"beta": 1.0}, X="u"),
    op("v", "matmul_v2", {"trans_x": False, "trans_y": False}, X="h", Y="l2"),
    op("g", "sigmoid", X="v"),
    op("s", "unsqueeze2", {"axes": [2, 3]}, X="g"),
    op("y", "elementwise_mul", {"axis": -1}, X="x", Y="s"),
]
WAYS_OLD: dict[str, tuple[list[Operator], dict[str, Any]]] = {
    "dense layers": (DENSE, {"gate": "sigmoid", "names": "ll", "activation": "silu"}),
    "a variable that is written again": (
        change(change(OLD, "u", op("u0", "elementwise_add", {"axis": 1}, X="u0", Y="b1")), "h",
               op("h", "relu", X="u0")), {}),
    "global pooling": (
        change(OLD, "z", op("z", "pool2d", {"pooling_type": "max", "global_pooling": True, "ksize": [7, 7]}, X="x")),
        {"squeeze": "max"}),
    "a dropout of today": (
        change(DENSE, "h", op("h0", "swish", X="u"),
               op("h", "dropout", {"dropout_implementation": "upscale_in_train"}, X="h0")),
        {"gate": "sigmoid", "names": "ll", "activation": "silu"}),
    "a scale behind the gate": (
        change(OLD, "s", op("s0", "sigmoid", X="v"),
               op("s", "scale", {"scale": 2.0, "bias": 0.0, "bias_after_scale": True}, X="s0")),
        {"gate": "sigmoid", "gain": 2.0}),
    "hard sigmoid written out": (
        change(OLD, "s", op("a", "scale", {"scale": 1.0, "bias": 3.0}, X="v"),
               op("b", "relu6", {"threshold": 6.0}, X="a"), op("c", "fill_constant", {"shape": [1], "value": 6.0}),
               op("s", "elementwise_div", X="b", Y="c")), {"gate": "hard_sigmoid"}),
    "PReLU of one slope": (
        change(OLD, "h", op("h", "prelu", {"mode": "all"}, X="u", Alpha="p")), {"activation": LeakyReLU(0.25)}),
    "x is added": (
        change(OLD, "y", op("y0", "elementwise_mul", X="x", Y="s"), op("y", "elementwise_add", X="x", Y="y0")),
        {"residual": True}),
}  # fmt: skip
WAYS_PIR: dict[str, tuple[list[Operator], dict[str, Any]]] = {
    "mean over axes": (
        change(PIR, "z", op("k2", "full_int_array", {"value": [{"D": 2}, {"D": 3}]}),
               op("z", "mean", X="x", A="k2")), {}),
    "maximum with places": (
        change(PIR, "z", op("z", "max_pool2d_with_index", {"adaptive": True, "kernel_size": [{"D": 1}]}, X="x")),
        {"squeeze": "max"}),
    "GELU": (change(PIR, "h", op("h", "gelu", {"approximate": True}, X="u")), {"activation": "gelu_tanh"}),
    "clip by constants": (
        change(PIR, "s", op("a", "scale", {"bias": 3.0}, X="v", S="n1"), op("b", "clip", X="a", Min="n2", Max="n3"),
               op("s", "scale", {"bias": 0.0}, X="b", S="n4")), {"gate": "hard_sigmoid"}),
    "hardtanh": (
        change(PIR, "s", op("s", "hardtanh", {"t_min": 0.0, "t_max": 1.0}, X="v")), {"gate": HardSigmoid(1.0, 0.0)}),
    "leaky ReLU": (
        change(PIR, "h", op("h", "leaky_relu", {"negative_slope": 0.2}, X="u")), {"activation": LeakyReLU(0.2)}),
}  # fmt: skip
NUMBERS = [
    op(name, "full", {"shape": [1], "value": value})
    for name, value in zip(("n1", "n2", "n3", "n4"), (1.0, 0.0, 6.0, 0.1666666716337204), strict=True)
]


@pytest.mark.parametrize("way", WAYS_OLD)
def test_a_block_is_found_however_an_old_program_writes_it(tmp_path: Path, way: str) -> None:
    operators, fields = WAYS_OLD[way]
    check(write(tmp_path, to_old(*operators), encode_parameters(ARRAYS)), **fields)


@pytest.mark.parametrize("way", WAYS_PIR)
def test_a_block_is_found_however_pir_writes_it(tmp_path: Path, way: str) -> None:
    operators, fields = WAYS_PIR[way]
    check(write(tmp_path, to_pir(*NUMBERS, *operators), encode_parameters(ARRAYS)), **fields)


def test_a_block_in_a_branch_of_pir_is_found(tmp_path: Path) -> None:
    program = to_pir(*PIR)
    block = program["program"]["regions"][0]["blocks"][0]
    first = len(ARRAYS) + 1
    branch = {"#": "1.if", "A": [], "I": [], "O": [], "regions": [{"blocks": [{"ops": block["ops"][first:]}]}]}
    block["ops"][first:] = [branch]
    check(write(tmp_path, program, encode_parameters(ARRAYS)))


ALIKE = {
    "softmax": change(OLD, "s", op("s", "softmax", {"axis": 1}, X="v")),
    "a hard swish with other numbers": change(OLD, "h", op("h", "hard_swish", {"threshold": 5.0}, X="u")),
    "a transposed convolution": change(OLD, "v0", op("v0", "conv2d_transpose", Input="h", Filter="w2")),
    "a product that is scaled": change(
        DENSE, "v", op("v", "matmul", {"transpose_X": False, "transpose_Y": False, "alpha": 2.0}, X="h", Y="l2")),
    "a part of the axes": change(DENSE, "z", op("z", "reduce_mean", {"dim": [2]}, X="x")),
}  # fmt: skip


@pytest.mark.parametrize("case", ALIKE)
def test_what_only_resembles_a_block_is_named(tmp_path: Path, case: str) -> None:
    path = write(tmp_path, to_old(*ALIKE[case]), encode_parameters(ARRAYS))
    with pytest.raises(LayoutError, match="1 parts resemble one"):
        se_port.find_blocks(path)


def test_a_dropout_of_the_past_scales(tmp_path: Path) -> None:
    dropout = op("d", "dropout", {"dropout_prob": 0.5, "dropout_implementation": "downgrade_in_infer"}, X="u")
    path = write(tmp_path, to_old(*change(OLD, "h", dropout, op("h", "relu", X="d"))), encode_parameters(ARRAYS))
    (found,) = se_port.find_blocks(path).values()
    np.testing.assert_allclose(2 * found.parameters["reduce.weight"], ARRAYS["conv2d_1.w_0"][:, :, 0, 0], rtol=1e-6)


ODD = [
    op("a", "pool2d", {"ksize": "x", "adaptive": True}, X="x"),
    op("b", "fill_constant", {"shape": [1 << 40, 1 << 40], "value": 1.0}),
    op("c", "fill_constant", {"shape": [-1], "value": 1.0}),
    op("d", "scale", {"scale": "x"}, X="x"),
    op("e", "conv2d", {}, Input="x"),
    op("f", "batch_norm", {}, X="x"),
    op("g", "transpose2", {"axis": "ab"}, X="conv2d_1.w_0"),
    op("h", "reshape2", {}, Y="x"),
    op("i", "clip", {}, X="x"),
    op("", "", {}),
]


def test_odd_programs_have_no_blocks(tmp_path: Path) -> None:
    for program in (to_old(*ODD), to_pir(*(one for one in ODD if "x" in one[2].values() or not one[2]))):
        for graph in paddle.read_graphs(write(tmp_path, program, encode_parameters(ARRAYS))):
            assert not match_blocks(graph)[0]


def test_programs_of_many_blocks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paddle, "MAX_BLOCKS", 5)
    blocks = to_old(*OLD) + field(1, field(1, 1)) * 6
    with pytest.raises(FileFormatError, match="more blocks than a network"):
        paddle.read_graphs(write(tmp_path, blocks, encode_parameters(ARRAYS)))
    program = to_pir(*PIR)
    program["program"]["regions"][0]["blocks"][0]["ops"] += [{"regions": [{"blocks": [{"ops": []}] * 6}]}]
    with pytest.raises(FileFormatError, match="more blocks than a network"):
        paddle.read_graphs(write(tmp_path, program, encode_parameters(ARRAYS)))


@both
def test_mutated_programs_are_read_or_refused(tmp_path: Path, form: str) -> None:
    """A changed program gives another graph or a FileFormatError."""
    operators, encode = FORMS[form]
    path = write(tmp_path, encode(*operators), encode_parameters(ARRAYS))
    whole = path.read_bytes()
    words = [b"null", b"[]", b"{}", b"-1", b"1", b'"D"', b'"I"', b'"%"', b'"O"', b'"x"', b"1.add"]
    for number in range(500):
        chance = random.Random(number)
        changed = fuzz.mutate(whole, number)
        if form == "PIR" and number % 2:  # valid JSON of another shape
            old, new = chance.sample([*words, b"conv2d", b"3", b"2"], 2)
            places = whole.split(old)
            place = chance.randrange(1, len(places)) if len(places) > 1 else 0
            changed = old.join(places[:place]) + new + old.join(places[place:]) if place else whole
            with contextlib.suppress(ValueError):
                changed = json.dumps(json.loads(changed), separators=(",", ":")).encode()
        path.write_bytes(changed)
        with contextlib.suppress(FileFormatError):
            for graph in paddle.read_graphs(path):
                match_blocks(graph)
