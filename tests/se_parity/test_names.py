"""Every public name exists in every module and means the same."""

import importlib

import numpy as np
import pytest

import se_numpy
from se_spec import SESpec, SpecError, network

IN_FRAMEWORKS = [
    "SqueezeExcitation",
    "SENet",
    "squeeze_excitation",
    "excitation",
    "senet",
    "set_parameters",
    "get_parameters",
]
TABLE = {
    "se_numpy": ["squeeze_excitation", "excitation", "senet", "initialize", "vjp"],
    **dict.fromkeys(("se_torch", "se_keras", "se_flax", "se_flax.nnx", "se_flax.linen"), IN_FRAMEWORKS),
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
        assert public in module.__all__
    assert set(module.__all__) <= set(dir(module)) | {"networks", "senet"}  # which are imported when first used


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


IMPORTS = {
    "se_numpy": "import se_numpy as se; from numpy import asarray",
    "se_torch": "import se_torch as se; from torch import as_tensor as asarray",
    "se_keras": "import se_keras as se; from keras.ops import convert_to_tensor as asarray",
    "se_flax": "import se_flax as se; from jax.numpy import asarray",
    "se_flax.linen": "import se_flax.linen as se; from jax.numpy import asarray",
}
SCRIPT = """
y = se.squeeze_excitation(asarray(x), spec, parameters, data_format="channels_last")
g = se.excitation(asarray(x), spec, parameters, data_format="channels_last")
first = se.squeeze_excitation(asarray(moved), spec, parameters, data_format="channels_first")
logits = se.senet(asarray(images), "se_resnet20", weights, data_format="channels_last")
"""


@pytest.mark.parametrize("name", [row for row in module_rows() if row.values[0] in IMPORTS])
def test_one_script_runs_in_every_framework_with_another_import_alone(name: str) -> None:
    spec = SESpec(8, hidden=3, bias=True, squeeze="avg_max", activation="silu", gain=2.0, residual=True)
    net = network("se_resnet20")
    rng = np.random.default_rng(0)
    x, images = rng.standard_normal((2, 5, 4, 8), "float32"), rng.standard_normal((1, 32, 32, 3), "float32")
    given = {
        "x": x,
        "moved": np.ascontiguousarray(np.moveaxis(x, -1, 1)),
        "images": images,
        "spec": spec,
        "parameters": se_numpy.initialize(spec, seed=0),
        "weights": se_numpy.initialize(net, seed=0),
    }
    exec(IMPORTS[name] + SCRIPT, given)
    wanted = {
        "y": se_numpy.squeeze_excitation(x, spec, given["parameters"], data_format="channels_last"),
        "g": se_numpy.excitation(x, spec, given["parameters"], data_format="channels_last"),
        "logits": se_numpy.senet(images, net, given["weights"], data_format="channels_last"),
    }
    wanted["first"] = np.moveaxis(wanted["y"], -1, 1)
    for key, want in wanted.items():
        got = np.asarray(given[key])
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-5 * np.abs(want).max(), key


@pytest.mark.parametrize("name", module_rows(with_block=True))
def test_a_network_has_a_name_and_a_block_needs_nothing_but_channels(name: str) -> None:
    module = importlib.import_module(name)
    assert module.SENet("se_resnet20").spec == module.senet("se_resnet20").spec == network("se_resnet20")
    assert module.SqueezeExcitation(64).spec == SESpec(64)
    assert module.SqueezeExcitation(64, dtype="float32").spec.hidden == 4


@pytest.mark.parametrize("name", module_rows(with_block=True))
def test_what_a_user_meant_is_in_the_error(name: str) -> None:
    block = importlib.import_module(name).SqueezeExcitation
    for make, hint in {
        "a ratio without its name": (lambda: block(64, 16), "write reduction=16"),
        "a misspelled field": (lambda: block(64, reductoin=16), "did you mean reduction?"),
        "another library's field": (lambda: block(64, ratio=16), "did you mean reduction?"),
        "another library's function": (lambda: block(64, activation="swish"), "did you mean 'silu'?"),
        "a network": (lambda: importlib.import_module(name).SENet("se_resnet_20"), "did you mean se_resnet20?"),
    }.values():
        with pytest.raises(SpecError) as error:
            make()
        assert hint in str(error.value)


@pytest.mark.parametrize("name", module_rows(with_block=True))
def test_k2_a_function_refuses_parameters_that_do_not_fit(name: str) -> None:
    module = importlib.import_module(name)
    given = {"x": np.ones((1, 4, 8), "float32"), "spec": SESpec(8, hidden=2), "parameters": {}}
    with pytest.raises(ValueError, match=r"missing reduce.weight \(2, 8\); missing expand.weight"):
        exec(IMPORTS[name.removesuffix(".nnx")] + SCRIPT, given)
    with pytest.raises(SpecError, match="needs the network and its parameters"):
        module.senet(given["x"])
