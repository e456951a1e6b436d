"""PyTorch on the device: memory, autocast, CUDA graphs, streams, memory formats, and two devices mixed up."""

import pytest

from ..conftest import COMPILED_FULLY
from .calls import call_check

pytestmark = [pytest.mark.framework("torch"), pytest.mark.xdist_group("torch")]


@pytest.fixture
def check(workers):
    """Runs a check in PyTorch's process."""
    return lambda *arguments: workers("torch", **COMPILED_FULLY).call(call_check, "torch_checks", *arguments)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", ["small", "large", "volume"])
def test_channels_last_stays_channels_last_and_changes_nothing(check, shape: str, dtype: str, squeeze: str) -> None:
    check("check_channels_last", shape, dtype, squeeze)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_n4_autocast_changes_no_bit_on_the_device(check, dtype: str, stored: str) -> None:
    check("check_autocast", dtype, stored)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_network_trains_under_autocast_with_a_scaler(check, dtype: str) -> None:
    check("check_training_with_scaler", dtype)


def test_map_and_parameters_on_two_devices_are_an_error_that_names_both(check) -> None:
    check("check_mixed_devices")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_needs_no_more_memory_than_a_plain_block(check, dtype: str) -> None:
    check("check_memory", dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", ["small", "large"])
def test_call_is_captured_in_a_cuda_graph(check, shape: str, dtype: str, layout: str) -> None:
    check("check_inference_graph", shape, dtype, layout)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["small", "large"])
def test_step_of_training_is_captured_in_a_cuda_graph(check, shape: str, dtype: str) -> None:
    check("check_training_graph", shape, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_runs_on_a_stream_of_its_own(check, dtype: str) -> None:
    check("check_streams", dtype)


@pytest.mark.gpu
def test_compiler_captures_it_in_cuda_graphs(check) -> None:
    check("check_compiled_with_graphs")


@pytest.mark.gpu
def test_moves_to_the_device_and_back(check) -> None:
    check("check_pinned_and_moved")
