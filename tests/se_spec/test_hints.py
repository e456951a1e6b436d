"""What an error suggests: the name that a user probably meant, or nothing."""

import pytest

from se_spec import SESpec, SpecError, network


def message(make) -> str:
    with pytest.raises(SpecError) as error:
        make()
    return str(error.value)


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"r": 8}, "reduction"),
        ({"reduction_ratio": 8}, "reduction"),
        ({"squeeze_factor": 8}, "reduction"),
        ({"use_bias": True}, "bias"),
        ({"hiden": 8}, "hidden"),
        ({"gate_layer": "sigmoid"}, "gate"),
    ],
)
def test_field_of_another_library_or_misspelled(fields: dict, meant: str) -> None:
    assert message(lambda: SESpec(64, **fields)).endswith(f"did you mean {meant}?")


class Hardswish:
    """A class as frameworks have it."""


def relu() -> None:
    """A function as frameworks have it."""


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("activation", "hardswish", "'hard_swish'"),
        ("activation", "Swish", "'silu'"),
        ("activation", Hardswish, "'hard_swish'"),
        ("activation", Hardswish(), "'hard_swish'"),
        ("activation", relu, "'relu'"),
        ("activation", "leakyrelu", "LeakyReLU(slope=...), with its slope"),
        ("activation", "sigmiod", "'sigmoid'"),
        ("gate", "hardsigmoid", "'hard_sigmoid'"),
        ("gate", "hard-sigmoid", "'hard_sigmoid'"),
        ("squeeze", "mean", "'avg'"),
        ("squeeze", "Average", "'avg'"),
    ],
)
def test_function_of_another_library(field: str, value: object, meant: str) -> None:
    assert message(lambda: SESpec(64, **{field: value})).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("value", [max, 3, None, "zzz", ["relu"]])
def test_nothing_is_suggested_where_nothing_is_near(value: object) -> None:
    assert "did you mean" not in message(lambda: SESpec(64, activation=value))


@pytest.mark.parametrize(
    ("name", "meant"),
    [("SEModule", "timm.SEModule"), ("torchvision.mobilenetv3", "torchvision.mobilenet_v3"), ("papers", "paper")],
)
def test_preset(name: str, meant: str) -> None:
    assert f"did you mean {meant}" in message(lambda: SESpec.preset(name, 64))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("se_resnet_50", "se_resnet50"),
        ("SE-ResNet-50", "se_resnet50"),
        ("resnext50", "se_resnext50_32x4d"),
        ("senet", "senet154"),
        ("seresnet50", "se_resnet50"),
    ],
)
def test_network(name: str, meant: str) -> None:
    assert meant in message(lambda: network(name)).partition("did you mean ")[2]


def test_missing_channels_and_a_ratio_without_its_name() -> None:
    assert message(lambda: SESpec(activation="relu")).startswith("channels is missing")
    assert "write reduction=16" in message(lambda: SESpec(64, 16))
