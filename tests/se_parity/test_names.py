"""Every public name exists in every module and means the same."""

import importlib

import numpy as np
import pytest

import se_numpy
from se_spec import SESpec

TABLE = {
    "se_numpy": ["squeeze_excitation", "excitation", "senet", "initialize", "vjp"],
    "se_torch": ["SqueezeExcitation", "SENet", "set_parameters", "get_parameters"],
    "se_keras": [
        "SqueezeExcitation",
        "squeeze_excitation",
        "excitation",
        "SENet",
        "senet",
        "set_parameters",
        "get_parameters",
    ],
    "se_flax": ["SqueezeExcitation", "SENet", "set_parameters", "get_parameters"],
    "se_flax.nnx": ["SqueezeExcitation", "SENet", "set_parameters", "get_parameters"],
    "se_flax.linen": ["SqueezeExcitation", "SENet", "set_parameters", "get_parameters"],
}
FAMILY = {"se_torch": "torch", "se_keras": "keras", "se_flax": "flax"}


def module_rows(*, with_block: bool = False) -> list:
    rows = [name for name in TABLE if not with_block or "SqueezeExcitation" in TABLE[name]]
    families = {name: FAMILY.get(name.partition(".")[0]) for name in rows}
    return [
        pytest.param(name, marks=[pytest.mark.framework(family)] if family else []) for name, family in families.items()
    ]


@pytest.mark.parametrize("name", module_rows())
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    for public in TABLE[name]:
        assert getattr(module, public).__doc__, f"{name}.{public}"


@pytest.mark.parametrize("name", module_rows(with_block=True))
def test_a_block_is_made_from_a_spec_or_from_channels_and_fields(name: str) -> None:
    module = importlib.import_module(name)
    rngs = {"rngs": importlib.import_module("flax.nnx").Rngs(0)} if name in ("se_flax", "se_flax.nnx") else {}
    spec = SESpec(64, reduction=8, bias=True, gate="hard_sigmoid")
    for block in (
        module.SqueezeExcitation(spec, **rngs),
        module.SqueezeExcitation(64, reduction=8, bias=True, gate="hard_sigmoid", **rngs),
    ):
        assert block.spec == spec
        assert callable(block.excitation)


@pytest.mark.parametrize("name", module_rows(with_block=True))
def test_k1_parameters_are_set_and_read_by_the_same_two_functions(name: str) -> None:
    module = importlib.import_module(name)
    spec = SESpec(12, hidden=5, bias=True)
    parameters = se_numpy.initialize(spec, seed=0)
    rngs = {"rngs": importlib.import_module("flax.nnx").Rngs(0)} if name in ("se_flax", "se_flax.nnx") else {}
    block = module.SqueezeExcitation(spec, **rngs)
    if name == "se_keras":
        block.build((None, None, 12))
    held = module.set_parameters(block, parameters)  # linen keeps its state outside, the others in the block
    back = module.get_parameters(block if held is None else held)
    assert list(back) == list(parameters)
    assert all(np.array_equal(back[key], parameters[key]) for key in parameters)
