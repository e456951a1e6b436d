"""Names: those that the caller gives, weights in parts, what is beside the projections, and why nothing was found."""

import re

import numpy as np
import pytest

import se_port
from se_port.__main__ import main
from se_spec import LayoutError, SESpec
from se_spec.nonlinearities import LeakyReLU

RANDOM = np.random.default_rng(0)
C, R = 16, 4
W1, B1 = RANDOM.normal(size=(R, C)).astype("f4"), RANDOM.normal(size=R).astype("f4")
W2, B2 = RANDOM.normal(size=(C, R)).astype("f4"), RANDOM.normal(size=C).astype("f4")


def block(prefix="net.se.", first="fc1", second="fc2", axes=2, bias=True):
    """A block of PyTorch's convolutions."""
    ones = (1,) * axes
    tensors = {f"{prefix}{first}.weight": W1.reshape(R, C, *ones), f"{prefix}{first}.bias": B1,
               f"{prefix}{second}.weight": W2.reshape(C, R, *ones), f"{prefix}{second}.bias": B2}  # fmt: skip
    return tensors if bias else {name: value for name, value in tensors.items() if name.endswith("weight")}


def norm(module, width):
    return {f"{module}.{leaf}": RANDOM.random(width).astype("f4") + 0.5
            for leaf in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip


def only(tensors, **options):
    (found,) = se_port.find_blocks(tensors, **options).values()
    return found


def test_given_names_find_every_block():
    theirs = block("a.1.att.", "narrow", "widen") | block("b.att.", "narrow", "widen")
    names = {"reduce.weight": "{path}.att.narrow.weight", "expand.weight": "{path}.att.widen.weight",
             "reduce.bias": "{path}.att.narrow.bias", "expand.bias": "{path}.att.widen.bias"}  # fmt: skip
    found = se_port.find_blocks(theirs, names=names, activation="silu")
    assert list(found) == ["a.1", "b"]
    assert found["b"].spec == SESpec(C, hidden=R, bias=True, activation="silu")
    assert (found["b"].unknown, found["b"].layouts) == (("gate",), ("names",))
    np.testing.assert_array_equal(found["a.1"].parameters["expand.weight"], W2)
    single = only({"x.w": np.eye(5, dtype="f4")}, names={"expand.weight": "x.w"})
    assert single.spec == SESpec(5, single_projection=True)


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
@pytest.mark.parametrize("inputs_first", [False, True])
def test_given_names_match_in_any_orientation(axes, inputs_first):
    ones = (1,) * axes
    first, second = (W1.T, W2.T) if inputs_first else (W1, W2)
    shape = (lambda w: (*ones, *w.shape)) if inputs_first else (lambda w: (*w.shape, *ones))
    theirs = {"a": first.reshape(shape(first)), "c": B1, "b": second.reshape(shape(second))}
    found = only(theirs, names={"reduce.weight": "a", "reduce.bias": "c", "expand.weight": "b"})
    np.testing.assert_array_equal(found.parameters["reduce.weight"], W1)
    np.testing.assert_array_equal(found.parameters["expand.weight"], W2)
    assert found.changes == ("zeros for expand.bias, which the file does not have",)


WRONG_NAMES = {
    "no name is canonical": ({"fc1": "a"}, "names= has 'fc1'; expected 'expand.weight' and any of"),
    "no second projection": ({"reduce.weight": "a"}, "expected 'expand.weight'"),
    "a path in one": ({"reduce.weight": "{path}.x", "expand.weight": "y"}, "some of names= have {path}"),
    "no such name": ({"expand.weight": "{path}.other"}, "no tensor of these 4 is named '{path}.other'"),
    "a tensor is missing": ({"reduce.weight": "{path}.fc1.weight", "expand.weight": "{path}.fc3.weight"},
                            "net.se lacks net.se.fc3.weight"),
    "shapes": ({"reduce.weight": "{path}.fc1.weight", "expand.weight": "{path}.fc1.weight"}, "are not those of 4"),
    "a vector": ({"reduce.weight": "{path}.fc1.bias", "expand.weight": "{path}.fc2.weight"}, "expected matrices"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_NAMES)
def test_wrong_names_are_one_clear_error(case):
    names, text = WRONG_NAMES[case]
    with pytest.raises(LayoutError, match=re.escape(text)):
        se_port.find_blocks(block(), names=names)


def test_the_command_takes_names(tmp_path, capsys):
    np.savez(tmp_path / "net.npz", **block("a.att.", "narrow", "widen", bias=False))
    options = ["--name", "reduce.weight={path}.att.narrow.weight", "--name", "expand.weight={path}.att.widen.weight"]
    assert main(["inspect", str(tmp_path / "net.npz"), *options]) == 0
    assert "a: 16 channels, hidden 4, activation and gate unknown [names]" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "net.npz"), "--name", "reduce.weight"]) == 2
    assert "has no '='" in capsys.readouterr().err


def test_no_block_says_which_tensors_look_like_one():
    with pytest.raises(LayoutError) as error:
        se_port.find_blocks(block("a.att.", "narrow", "widen") | {"head.weight": np.ones((10, C), "f4")})
    text = str(error.value)
    assert (
        "1 pairs have the shapes of two projections: a.att.narrow.weight (4, 16, 1, 1) and a.att.widen.weight" in text
    )
    assert "give names=, as {'reduce.weight': 'a.att.narrow.weight'" in text
    with pytest.raises(LayoutError) as error:
        se_port.find_blocks({"conv.weight": np.ones((4, 16, 3, 3)), "head.weight": np.ones((10, 4))})
    assert "pairs" not in str(error.value)


# Weights in parts


def pruned(w):
    mask = (np.arange(w.size).reshape(w.shape) % 3 > 0).astype(w.dtype)
    return {"weight_orig": w, "weight_mask": mask}, w * mask


def weight_normed(w):
    g = RANDOM.random((len(w), 1, 1, 1)).astype(w.dtype)
    return {"weight_g": g, "weight_v": w}, g * w / np.sqrt((w.astype("f8") ** 2).sum((1, 2, 3), keepdims=True))


def spectral_normed(w):
    u, v = RANDOM.normal(size=len(w)), RANDOM.normal(size=w.size // len(w))
    return {"weight_orig": w, "weight_u": u, "weight_v": v}, w / (u @ w.reshape(len(w), -1).astype("f8") @ v)


def as_parametrization(parts, number):
    names = {"weight_g": "original0", "weight_v": "original1"} if number == 2 else {
        "weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}  # fmt: skip
    return {f"parametrizations.weight.{names[name]}": value for name, value in parts.items()}


@pytest.mark.parametrize("way", [pruned, weight_normed, spectral_normed])
@pytest.mark.parametrize("new", [False, True], ids=["hook", "parametrization"])
def test_weights_in_parts_are_computed_and_said(way, new):
    tensors = block()
    parts, expected = way(tensors.pop("net.se.fc1.weight"))
    if new and way is not pruned:
        parts = as_parametrization(parts, 2 if way is weight_normed else 3)
    tensors |= {f"net.se.fc1.{name}": value for name, value in parts.items()}
    found = only(tensors)
    np.testing.assert_allclose(found.parameters["reduce.weight"], expected.reshape(R, C), rtol=1e-6)
    (change,) = found.changes
    assert change.startswith("net.se.fc1.weight: the ")


@pytest.mark.framework("torch")
@pytest.mark.parametrize("way", ["prune", "weight_norm", "spectral_norm", "old spectral_norm"])
def test_weights_in_parts_of_pytorch_itself(way):
    torch = pytest.importorskip("torch")
    from torch.nn.utils import parametrizations, prune, spectral_norm

    block = torch.nn.ModuleDict({"fc1": torch.nn.Conv2d(C, R, 1), "fc2": torch.nn.Conv2d(R, C, 1)})
    apply = {
        "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
        "weight_norm": parametrizations.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "old spectral_norm": spectral_norm,
    }[way]
    for layer in block.values():
        apply(layer)
    with torch.no_grad():  # old spectral_norm needs a step in training mode: before, its estimate may be near zero
        block["fc1"](torch.zeros(1, C, 1, 1))
    block.eval()
    block["fc1"](torch.zeros(1, C, 1, 1))  # hooks compute the weight at a call
    found = only({f"se.{name}": value for name, value in block.state_dict().items()})
    expected = block["fc1"].weight.detach().numpy().reshape(R, C)
    np.testing.assert_allclose(found.parameters["reduce.weight"], expected, rtol=1e-5, atol=1e-7)


def test_changed_weights_that_cannot_be_computed_are_named():
    for name, text in {
        "net.se.fc1.lora_A": "net.se.fc1.lora_A is an adapter beside net.se.fc1's weight",
        "net.se.fc1.zero_point": "says that net.se.fc1 is quantized",
        "net.se.fc1.parametrizations.bias.original": "of a parametrization that is not known",
    }.items():
        tensors = block()
        if "parametrizations" in name:
            del tensors["net.se.fc1.bias"]
        with pytest.raises(LayoutError, match=text):
            se_port.find_blocks(tensors | {name: np.ones((2, C), "f4")})
        assert re.search(text, se_port.inspect(tensors | {name: np.ones((2, C), "f4")}).problem)
    tensors = block()
    tensors["net.se.fc1.base_layer.weight"] = tensors.pop("net.se.fc1.weight")
    with pytest.raises(LayoutError, match=r"net\.se\.fc1\.lora_A\.default\.weight is an adapter"):
        se_port.find_blocks(tensors | {"net.se.fc1.lora_A.default.weight": np.ones((2, C), "f4")})


# Beside the projections


def fold(w, b, tensors, module):
    scale, offset, mean, variance = (tensors[f"{module}.{leaf}"].astype("f8")
                                     for leaf in ("weight", "bias", "running_mean", "running_var"))  # fmt: skip
    factor = scale / np.sqrt(variance + 1e-5)
    return factor[:, None] * w, factor * (b - mean) + offset, factor, offset - mean * factor


BEFORE = {  # names of projections and of a norm in front of the activation
    "numbers": ("1", "4", "2"), "first numbers": ("0", "3", "1"), "bn": ("fc1", "fc2", "bn"),
    "bn1": ("conv_reduce", "conv_expand", "bn1"), "unit": ("conv1.conv", "conv2.conv", "conv1.bn"),
}  # fmt: skip


@pytest.mark.parametrize("names", BEFORE)
def test_norm_in_front_of_the_activation_is_folded(names):
    first, second, module = BEFORE[names]
    tensors = block(first=first, second=second) | norm(f"net.se.{module}", R)
    tensors[f"net.se.{module}.num_batches_tracked"] = np.array(7)
    w, b, _, _ = fold(W1, B1, tensors, f"net.se.{module}")
    found = only(tensors)
    np.testing.assert_allclose(found.parameters["reduce.weight"], w, rtol=1e-6)
    np.testing.assert_allclose(found.parameters["reduce.bias"], b, rtol=1e-5)
    if names != "bn":  # that is a layout of timm's
        assert found.changes == (f"batch norm net.se.{module} in front of the activation folded into the first "
                                 "projection, epsilon 1e-05",)  # fmt: skip


def test_a_norm_behind_the_activation_or_in_front_of_the_gate_is_folded():
    tensors = block(first="1", second="4", axes=1) | norm("net.se.3", R)
    _, _, factor, shift = fold(W1, B1, tensors, "net.se.3")
    found = only(tensors)
    np.testing.assert_allclose(found.parameters["expand.weight"], W2 * factor, rtol=1e-6)
    np.testing.assert_allclose(found.parameters["expand.bias"], B2 + W2.astype("f8") @ shift, rtol=1e-5)
    for first, second, module in (("0", "3", "4"), ("conv1.conv", "conv2.conv", "conv2.bn"), ("fc1", "fc2", "bn2")):
        tensors = block(first=first, second=second, bias=False) | norm(f"net.se.{module}", C)
        w, b, _, _ = fold(W2, 0.0, tensors, f"net.se.{module}")
        found = only(tensors)
        np.testing.assert_allclose(found.parameters["expand.weight"], w, rtol=1e-6)
        np.testing.assert_allclose(found.parameters["expand.bias"], b, rtol=1e-5)
        assert not found.parameters["reduce.bias"].any()


def test_slope_of_a_prelu_is_the_specs():
    tensors = {"se.fc.0.weight": W1, "se.fc.1.weight": np.float32([0.25]), "se.fc.2.weight": W2}
    assert only(tensors).spec.activation == LeakyReLU(0.25)
    tensors["se.fc.1.weight"] = np.linspace(0, 1, R).astype("f4")
    with pytest.raises(LayoutError, match=r"se\.fc\.1\.weight is of a PReLU with 4 slopes"):
        se_port.find_blocks(tensors)


def test_what_no_spec_describes_is_reported_and_not_dropped():
    other = block("whole.se.")
    for name, shape in {"net.se.ln.weight": (R,), "net.se.temperature": (1,)}.items():
        tensors = block() | {name: np.ones(shape, "f4"), name.replace("weight", "bias"): np.ones(shape, "f4")}
        with pytest.raises(LayoutError, match=r"net.se resembles one, but net.se.* no spec has a place"):
            se_port.find_blocks(tensors)
        assert list(se_port.find_blocks(tensors | other)) == ["whole.se"]
        assert list(se_port.inspect(tensors | other).lookalikes) == ["net.se"]


def test_norms_of_the_unit_around_a_block_are_not_the_blocks():
    unit = {"_blocks.0._depthwise.weight": np.ones((C, 1, 3, 3), "f4"), **norm("_blocks.0._bn1", C)}
    found = only(block("_blocks.0.", "_se_reduce", "_se_expand") | unit)
    assert found.changes == ()
    np.testing.assert_array_equal(found.parameters["expand.weight"], W2)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_projections_may_be_convolutions_of_every_rank(axes):
    for prefix, first, second in (("se.", "fc1", "fc2"), ("b.", "_se_reduce", "_se_expand"), ("se.", "1", "3")):
        np.testing.assert_array_equal(only(block(prefix, first, second, axes)).parameters["reduce.weight"], W1)
    mixed = block(axes=1) | {"net.se.fc2.weight": W2.reshape(C, R, 1, 1)}
    with pytest.raises(LayoutError):
        se_port.find_blocks(mixed)
