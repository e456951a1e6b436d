"""The independent set of blocks is well formed, every block runs, and every right block matches the oracle."""

import importlib.util
from collections import Counter

import ml_dtypes
import numpy as np
import pytest

import se_numpy

from .independent import FRAMEWORKS, STAGES, load_blocks

FAMILIES = {"numpy": (), "torch": ("torch",), "keras": ("keras",), "jax": ("flax",)}
SELECTED = [
    pytest.param(name, marks=[pytest.mark.framework(*families)] if families else [], id=name)
    for name, families in FAMILIES.items()
]
SHAPES = {1: (6,), 2: (6, 4), 3: (2, 4, 6)}
DTYPES = {"bfloat16": ml_dtypes.bfloat16}
TOLERANCES = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}
RAISES = {"gate has no spatial axes", "axes of channels first"}


@pytest.fixture
def blocks(request, name):
    """Import the framework of the test and list its blocks."""
    if name == "keras":
        request.getfixturevalue("tf")
    return load_blocks(name)


def make_inputs(block):
    """Draw x, dy and the parameters of one block."""
    rng, dtype, c = np.random.default_rng(7), np.dtype(DTYPES.get(block.dtype, block.dtype)), block.spec.channels
    space = SHAPES[block.ranks[0]]
    shape = (2, *space, c) if block.data_format == "channels_last" else (2, c, *space)
    parameters = {key: rng.normal(size=size).astype(dtype) for key, size in block.spec.parameter_shapes().items()}
    return rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype), parameters


@pytest.mark.parametrize("name", SELECTED)
def test_every_block_runs_and_right_blocks_match_the_oracle(name, blocks):
    for block in blocks:
        x, dy, parameters = make_inputs(block)
        tolerance = TOLERANCES[block.dtype]
        if block.name in RAISES:
            with pytest.raises(Exception, match=r"size|shape|dim"):
                block.function(x.copy(), parameters)
            continue
        y = block.function(x.copy(), parameters)
        if block.is_right:
            want = se_numpy.squeeze_excitation(x, block.spec, parameters, data_format=block.data_format)
            assert y.dtype == x.dtype, block.name
            np.testing.assert_allclose(y.astype(float), want, tolerance, tolerance, err_msg=block.name)
        if block.vjp is not None:
            dx, gradients = block.vjp(x, dy, parameters)
            assert dx.shape == x.shape and gradients.keys() == parameters.keys(), block.name
            if block.is_right:
                want, expected = se_numpy.vjp(x, dy, block.spec, parameters, data_format=block.data_format)
                np.testing.assert_allclose(dx, want, tolerance, tolerance, err_msg=block.name)
                for key, gradient in gradients.items():
                    np.testing.assert_allclose(gradient, expected[key], tolerance, tolerance, err_msg=block.name)


def test_set_has_seventy_wrong_and_twenty_five_right_blocks_of_every_framework():
    installed = [name for name in FRAMEWORKS if importlib.util.find_spec({"jax": "flax"}.get(name, name))]
    if set(installed) != set(FRAMEWORKS):
        pytest.skip("a framework is not installed")
    pytest.importorskip("tensorflow")
    blocks = [block for name in FRAMEWORKS for block in load_blocks(name)]
    assert max(Counter(block.name for block in blocks).values()) == 1
    assert sum(not block.is_right for block in blocks) >= 70
    assert sum(block.is_right for block in blocks) >= 25
    for block in blocks:
        assert (block.stage == "") == block.is_right and (block.is_right or block.stage in STAGES), block.name
        assert block.description.endswith(".") and block.source, block.name
    assert {block.stage for block in blocks if not block.is_right} == set(STAGES)
