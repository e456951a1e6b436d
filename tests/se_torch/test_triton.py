"""The kernels for GPUs, run by Triton's interpreter on a processor; ``tests/cuda`` runs the same checks on a GPU.

The interpreter runs one program after the other, in the order of their tickets, so waiting ends at once.
"""

import importlib
import math

import pytest

from se_conformance.cases import FACTORS, covering_array
from se_spec import HardSigmoid, LeakyReLU, SESpec

from ..conftest import OnDemand

pytestmark = pytest.mark.framework("torch", "triton")
gpu = OnDemand("se_torch.fast.gpu")
DTYPES = ("float32", "bfloat16", "float16")
SPEC = SESpec(12, hidden=5, bias=True)
MISTAKES = (
    "a tile that is not written",
    "a tile that is not summed",
    "a gradient tile that is not written",
    "no wait for the sums",
    "a part that is left out",
)
layouts = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
dtypes = pytest.mark.parametrize(
    "dtype", [DTYPES[0], *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES[1:])]
)


@pytest.fixture(scope="module")
def check(workers):
    """Runs a check in a process whose Triton interprets kernels."""
    worker = workers("torch", TRITON_INTERPRET="1")
    worker.call(call_check, "use_kernels", (), {})
    return lambda name, *arguments, **options: worker.call(call_check, name, arguments, options)


def call_check(name: str, arguments: tuple, options: dict) -> None:
    getattr(importlib.import_module("tests.se_torch.kernel_checks"), name)(*arguments, **options)


@layouts
@pytest.mark.parametrize("strength", [2, pytest.param(3, marks=pytest.mark.slow)], ids=["pairs", "triples"])
def test_cases_of_the_covering_array_match_the_oracle(check, strength, layout):
    cases = [case for case in covering_array(strength) if case.dtype in DTYPES and case.spec.squeeze == "avg"]
    for case in cases:
        check("check_case", case.spec, layout, rank=case.rank, dtype=case.dtype, seed=case.seed)
    assert {case.rank for case in cases} == {1, 2, 3} and {case.dtype for case in cases} == set(DTYPES)


@pytest.mark.parametrize("activation", [one for one in FACTORS["activation"] if one != "single projection"], ids=str)
def test_every_activation_matches_the_oracle(check, activation):
    check("check_case", SPEC.replace(activation=activation), dtype="float32")


@pytest.mark.parametrize("gate", [*FACTORS["gate"], HardSigmoid(slope=1.0, offset=0.0, low=-0.5, high=0.75)], ids=str)
def test_every_gate_matches_the_oracle(check, gate):
    check("check_case", SPEC.replace(gate=gate, gain=2.0, residual=True), dtype="float32")


@layouts
@pytest.mark.parametrize(
    ("spec", "case"),
    [
        (SPEC, {"samples": 1}),
        (SPEC, {"samples": 0}),
        (SPEC, {"samples": 7, "spatial": (2, 3)}),
        (SPEC, {"spatial": (1, 7)}),
        (SESpec(1, hidden=1, bias=True), {}),
        (SESpec(1, hidden=3), {"spatial": (1, 1)}),
        (SESpec(3, hidden=2, bias=True), {"samples": 2, "spatial": (40, 41)}),
        (SESpec(130, hidden=33, bias=True), {"samples": 2, "spatial": (3, 4)}),
        (SESpec(17, single_projection=True, bias=True), {"samples": 5, "spatial": (6, 7)}),
        (SPEC, {"rank": 1, "spatial": (97,)}),
        (SPEC, {"rank": 3, "spatial": (2, 5, 13)}),
    ],
    ids=str,
)
def test_extreme_sizes_match_the_oracle(check, spec, case, layout):
    check("check_case", spec, layout, **{"rank": len(case.get("spatial", "hw")), **case})


@pytest.mark.parametrize(
    ("dtype", "stored"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "float64")]
)
def test_n1_parameters_stored_in_another_type(check, dtype, stored):
    check("check_parameters_of_another_type", dtype, stored)


@pytest.mark.parametrize(
    ("spec", "expected", "case"),
    [
        (SPEC, "kernels", {}),
        (SPEC, None, {"dtype": "float64"}),
        (SPEC.replace(squeeze="max"), None, {}),
        (SPEC.replace(squeeze="max"), None, {"dtype": "float16"}),
        (SPEC.replace(squeeze="avg_max", residual=True), None, {"dtype": "bfloat16"}),
        (SESpec(12, hidden=5), None, {"spatial": (1, 1)}),
        (SESpec(12, hidden=5), "narrow", {"spatial": (1, 1), "dtype": "bfloat16"}),
    ],
    ids=str,
)
def test_rule_chooses_the_way(check, spec, expected, case):
    check("check_way", spec, expected, **case)


@pytest.mark.parametrize("squeeze", ["max", "avg_max"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_formula_matches_the_oracle(check, dtype, squeeze):
    check("check_narrow", SPEC.replace(squeeze=squeeze), dtype=dtype)


@layouts
@dtypes
def test_two_runs_give_the_same_bits_and_counters_are_reset(check, layout, dtype):
    check("check_two_runs", layout, dtype)


def test_no_item_waits_for_a_later_ticket(check):
    check("check_items")


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_the_kernels_is_found(check, name):
    check("check_mistake", name, "contiguous")


@pytest.mark.parametrize(
    "activation",
    [
        "relu",
        "hard_swish",
        *(pytest.param(one, marks=pytest.mark.slow) for one in (LeakyReLU(slope=0.1), "relu6", "gelu", "silu")),
    ],
    ids=str,
)
def test_n3_nan_and_inf_stand_where_the_oracle_has_them(check, activation):
    gates = ("sigmoid", "relu", "hard_sigmoid", "identity", "tanh")
    check("check_nan_and_inf", [SESpec(12, hidden=17, activation=activation, gate=gate) for gate in gates])


@pytest.mark.parametrize(
    "name",
    [
        "check_offsets_of_64_bits",
        "check_gradients_of_some",
        "check_transformations",
        "check_operators",
        "check_in_place",
        "check_fallback",
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_question_of_a_user_is_answered(check, name):
    check(name)


@dtypes
def test_maps_that_are_not_aligned_and_dy_in_other_layouts(check, dtype):
    check("check_storage", dtype)


@layouts
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiler_calls_the_operators(check, dynamic, layout):
    check("check_compiled", "float32", layout, dynamic)


def test_kernels_compile_for_gpus_that_are_not_here(workers):
    workers("torch").call(call_check, "check_compiled_for_gpus", (), {})


@layouts
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("maps", [1, 2])
def test_tiles_cover_every_map_with_little_waste(itemsize, maps, layout):
    for channels in (1, 3, 12, 64, 256, 2048, 5000):
        for positions in (1, 2, 7, 49, 196, 784, 1000, 3136, 50176, 1 << 22):
            tile = gpu.choose_tile(channels, positions, itemsize, maps, layout == "channels_last")
            for extent in tile[:2]:
                assert extent == 1 << (extent - 1).bit_length()
            elements = tile.channels * tile.positions
            assert elements * itemsize * maps <= gpu.LOADS * gpu.LOAD_BYTES or elements <= gpu.MIN_TILE_ELEMENTS
            assert tile.stride <= tile.positions and (tile.rows == 1 or tile.stride % 16 == 0)
            assert (tile.rows - 1) * tile.stride < positions <= tile.rows * tile.stride
            assert tile.tiles == math.ceil(channels / tile.channels) * tile.rows
            assert tile.channels < 2 * channels and tile.positions < 2 * positions
            if channels * positions >= 1 << 16 and channels >= 64:
                assert tile.tiles * elements <= 1.55 * channels * positions
