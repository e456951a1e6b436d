"""The independent set of blocks is well formed, every block runs, and every right block matches the oracle."""

from collections import Counter

import ml_dtypes
import numpy as np
import pytest

import se_numpy
from evidence.independent_blocks import judge_block
from se_conformance.faults import CATALOGUE

from .independent import FRAMEWORKS, STAGES, load_blocks
from .independent.causes import CAUSES

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
        if block.is_right and block.vjp is not None:
            dx, gradients = block.vjp(x, dy, parameters)
            want, expected = se_numpy.vjp(x, dy, block.spec, parameters, data_format=block.data_format)
            assert gradients.keys() == expected.keys(), block.name
            np.testing.assert_allclose(dx, want, tolerance, tolerance, err_msg=block.name)
            for key, gradient in gradients.items():
                np.testing.assert_allclose(gradient, expected[key], tolerance, tolerance, err_msg=block.name)


def departs(block, x, dy, parameters):
    """Return whether a call departs from the oracle in its result, its effects, a second call or its gradients."""
    given = x.copy(order="K") if x.flags.writeable else x
    try:
        y = block.function(given, parameters)
        first = y.copy()
        if not np.array_equal(given, x, equal_nan=True) or not matches(block, y, x, parameters):
            return True
        if given.flags.writeable and given.flags.c_contiguous:
            given[::-1] = x
            if not matches(block, block.function(given, parameters), x[::-1], parameters):
                return True
    except Exception:
        return True
    if not np.array_equal(first, y, equal_nan=True):
        return True
    if block.vjp is None:
        return False
    dx, gradients = block.vjp(x, dy, parameters)
    due, expected = se_numpy.vjp(x, dy, block.spec, parameters, data_format=block.data_format)
    pairs = [(dx, due), *((gradients[key], expected[key]) for key in expected)]
    tolerance = 10 * TOLERANCES[block.dtype]
    # Frameworks' relu gives a gradient of 0 where u < 0 even if dy is NaN, so that NaN is compared in dy's own place.
    drops_nan = np.isfinite(dx[np.isnan(dy)]).any()
    finite = [(have[np.isfinite(want)], want[np.isfinite(want)]) for have, want in pairs]
    return drops_nan or not all(np.allclose(have, want, tolerance, tolerance) for have, want in finite)


def matches(block, y, x, parameters):
    """Return whether y is the oracle's, of x's shape and dtype."""
    want = se_numpy.squeeze_excitation(x, block.spec, parameters, data_format=block.data_format)
    tolerance = TOLERANCES[block.dtype]
    return (
        y.shape == x.shape
        and y.dtype == x.dtype
        and np.allclose(y.astype(float), want, tolerance, tolerance, equal_nan=True)
    )


def witnesses(block):
    """Yield inputs (x, dy, parameters) that show mistakes, the ordinary one first and those for state last."""
    x, dy, parameters = make_inputs(block)
    yield x, dy, parameters
    for special in (0, np.nan, -np.inf):
        changed = x.copy()
        changed[(0, 1) if block.data_format == "channels_last" else (0, slice(None), 1)] = special
        yield changed, dy, parameters
    yield x - x.dtype.type(5), dy, parameters
    yield x, dy * 0, parameters
    yield x, dy * 100, parameters
    yield x, np.where(dy > 1, np.nan, dy).astype(dy.dtype), parameters
    yield x * 0, dy, parameters
    yield x, dy, {key: (array * 20).astype(array.dtype) for key, array in parameters.items()}
    yield x, dy, {key: (array * 200).astype(array.dtype) for key, array in parameters.items()}
    axes = (1, 2) if block.data_format == "channels_last" else (2, -1)
    yield x.swapaxes(*axes), dy.swapaxes(*axes), parameters
    yield np.broadcast_to(x[..., :1], x.shape), dy, parameters
    if len(block.ranks) == 1 and block.ranks[0] == 2:
        c, rng = block.spec.channels, np.random.default_rng(8)
        for n, *space in ((9, 3, 5), (2, 16, 16), (1, c, c), (1, 66, 66), (1, 6000, 1)):
            shape = (n, *space, c) if block.data_format == "channels_last" else (n, c, *space)
            larger = ((n == 1) + rng.normal(size=shape)).astype(x.dtype)
            yield larger, larger, parameters
    for scale in (*(1, 2, 3) * 5, 50):  # blocks that keep state
        yield x * x.dtype.type(scale), dy, {key: array * array.dtype.type(scale) for key, array in parameters.items()}


@pytest.mark.parametrize("name", SELECTED)
def test_every_wrong_block_departs_from_the_oracle(name, blocks):
    wrong = [block for block in blocks if not block.is_right]
    assert [b.name for b in wrong if not any(departs(b, *inputs) for inputs in witnesses(b))] == []


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)], ids=["a ninth", "all"])
@pytest.mark.parametrize("name", SELECTED)
def test_judge_fails_and_names_wrong_blocks_and_passes_right_ones(name, blocks, step):
    outcomes = [judge_block(block, diagnose=bool(block.cause)) for block in blocks[::step]]
    assert [outcome.name for outcome in outcomes if not outcome.as_expected] == []
    known = [outcome for outcome in outcomes if outcome.expected_cause]
    misnamed = [outcome.name for outcome in known if not outcome.is_named]
    assert len(misnamed) <= max(1, 0.05 * len(known)), misnamed


@pytest.mark.framework("torch", "keras", "flax")
def test_set_has_seventy_wrong_and_twenty_five_right_blocks(tf):
    blocks = [block for name in FRAMEWORKS for block in load_blocks(name)]
    assert max(Counter(block.name for block in blocks).values()) == 1
    assert sum(not block.is_right for block in blocks) >= 70
    assert sum(block.is_right for block in blocks) >= 25
    for block in blocks:
        assert (block.stage == "") == block.is_right and (block.is_right or block.stage in STAGES), block.name
        assert block.description.endswith(".") and block.source, block.name
    assert {block.stage for block in blocks if not block.is_right} == set(STAGES)
    assert CAUSES.keys() <= {block.name for block in blocks if not block.is_right}
    assert set(CAUSES.values()) <= CATALOGUE.keys()
