"""Flax on the device: two devices mixed up, TF32 asked for, memory."""

import pytest

from ..conftest import COMPILED_FULLY
from .calls import call_check

pytestmark = [pytest.mark.framework("flax"), pytest.mark.xdist_group("answers")]
TWO_PROCESSORS = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
apis = pytest.mark.parametrize("api", ["nnx", "linen"])


@pytest.fixture
def check(workers):
    """Runs a check in JAX's process."""
    return lambda *arguments: workers("nnx", **COMPILED_FULLY, **TWO_PROCESSORS).call(
        call_check, "flax_checks", *arguments
    )


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@apis
def test_arrays_on_two_devices_are_an_error_that_says_so(check, api: str, jit: bool) -> None:
    check("check_mixed_devices", api, jit)


@pytest.mark.parametrize("precision", ["tensorfloat32", "bfloat16"])
@apis
def test_n4_float32_is_float32_whatever_jax_does_elsewhere(check, api: str, precision: str) -> None:
    check("check_no_tf32", api, precision)


def test_needs_no_more_memory_than_a_plain_block(check) -> None:
    check("check_memory")
