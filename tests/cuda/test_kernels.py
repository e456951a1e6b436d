"""The kernels on a GPU: the checks of ``tests/se_torch/test_triton.py``, which runs them by Triton's interpreter."""

import itertools

import pytest

from se_conformance.cases import covering_array
from se_spec import SESpec

from ..conftest import COMPILED_FULLY
from ..se_torch.test_triton import DTYPES, MISTAKES, call_check

pytestmark = [pytest.mark.framework("torch"), pytest.mark.gpu]
LAYOUTS = ("contiguous", "channels_last")
layouts = pytest.mark.parametrize("layout", LAYOUTS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
tiles = pytest.mark.parametrize("small", [True, False], ids=["small tiles", "usual tiles"])
SIZES = ((256, (56, 56)), (512, (28, 28)), (1024, (14, 14)), (2048, (7, 7)), (3, (224, 225)))
"""Channels and extents of maps that have many tiles."""


@pytest.fixture
def check(workers, small):
    """Runs a check in PyTorch's process."""
    worker = workers("torch", **COMPILED_FULLY)
    worker.call(call_check, "use_kernels", (small,), {})
    yield lambda name, *arguments, **options: worker.call(call_check, name, arguments, options)
    worker.call(call_check, "use_kernels", (False,), {})


@tiles
@layouts
@dtypes
def test_cases_of_the_covering_array_match_the_oracle(check, dtype, layout):
    for case in covering_array(2):
        if case.dtype == dtype and case.spec.squeeze == "avg":
            check("check_case", case.spec, layout, rank=case.rank, dtype=dtype, seed=case.seed)


@pytest.mark.parametrize("small", [False], ids=["usual tiles"])
@layouts
@dtypes
@pytest.mark.parametrize(("channels", "spatial"), SIZES, ids=str)
def test_maps_of_networks_match_the_oracle(check, channels, spatial, dtype, layout):
    check("check_case", SESpec(channels, bias=True), layout, dtype=dtype, samples=2, spatial=spatial)


@tiles
@layouts
@dtypes
def test_two_runs_give_the_same_bits_and_counters_are_reset(check, layout, dtype):
    check("check_two_runs", layout, dtype)


@pytest.mark.parametrize("small", [True], ids=["small tiles"])
@pytest.mark.parametrize(("name", "layout"), list(itertools.product(MISTAKES, LAYOUTS)))
def test_mistake_in_the_kernels_is_found(check, name, layout):
    check("check_mistake", name, layout)


@tiles
@pytest.mark.parametrize(
    "name",
    [
        "check_items",
        "check_offsets_of_64_bits",
        "check_gradients_of_some",
        "check_transformations",
        "check_operators",
        "check_in_place",
        "check_fallback",
    ],
)
def test_a_question_of_a_user_is_answered(check, name):
    check(name)


@pytest.mark.parametrize("small", [True], ids=["small tiles"])
@dtypes
def test_maps_that_are_not_aligned_and_dy_in_other_layouts(check, dtype):
    check("check_storage", dtype)


@tiles
@layouts
@dtypes
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiler_calls_the_operators(check, dynamic, dtype, layout):
    check("check_compiled", dtype, layout, dynamic)


@pytest.mark.parametrize("small", [False], ids=["usual tiles"])
@pytest.mark.parametrize("gate", ["sigmoid", "relu", "hard_sigmoid", "identity", "tanh"])
def test_n3_nan_and_inf_stand_where_the_oracle_has_them(check, gate):
    activations = ("relu", "silu", "hard_swish", "gelu", "gelu_tanh", "relu6", "sigmoid", "tanh", "identity")
    check("check_nan_and_inf", [SESpec(12, hidden=17, activation=activation, gate=gate) for activation in activations])


@pytest.mark.parametrize("small", [True, False], ids=["small tiles", "usual tiles"])
def test_many_streams_at_once_neither_block_nor_mix(check):
    check("check_streams")


@pytest.mark.parametrize("small", [False], ids=["usual tiles"])
@layouts
@dtypes
def test_memory_of_a_step_is_two_arrays(check, dtype, layout):
    check("check_memory_of_a_step", dtype, layout)


@pytest.mark.parametrize("small", [False], ids=["usual tiles"])
def test_call_without_gradients_is_one_launch_and_waits_for_nothing(check):
    check("check_no_synchronization")
