"""``se_spec``: accepted and refused fields of a spec, and the widths that systems have."""

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import se_spec
from se_spec import PRESETS, HardSigmoid, LeakyReLU, SESpec, SpecError, widths

WIDTHS = """
C                                    3  8 10 14 16 18 22 24 40 64 72 96 100 120 144 200 256 480 672
C//16                                0  0  0  0  1  1  1  1  2  4  4  6   6   7   9  12  16  30  42
timm SEModule 1/16 div8 limit 0      8  8  8  8  8  8  8  8  8  8  8  8   8   8   8  16  16  32  40
mmcls make_divisible(C//16,8)        8  8  8  8  8  8  8  8  8  8  8  8   8   8  16  16  16  32  40
C//4                                 0  2  2  3  4  4  5  6 10 16 18 24  25  30  36  50  64 120 168
max(1,int(.25C))                     1  2  2  3  4  4  5  6 10 16 18 24  25  30  36  50  64 120 168
round(.25C)                          1  2  2  4  4  4  6  6 10 16 18 24  25  30  36  50  64 120 168
make_div(.25C,8,.9)                  8  8  8  8  8  8  8  8 16 16 24 24  24  32  40  48  64 120 168
tf-slim C/3 div 8                    8  8  8  8  8  8  8  8 16 24 24 32  32  40  48  64  88 160 224
"""
"""Widths that are read from the systems' sources; no code has these numbers."""

SYSTEMS = {
    "C//16": [
        *(
            "paper",
            "caffe",
            "shicai",
            "tensorpack",
            "bruinxiong",
            "moskomule",
            "xmu",
            "timm.legacy",
            "cadene",
            "titu1994",
        ),
        *("pytorchcv", "smp.cSE", "qubvel", "paddleclas.se_resnet", "paddleclas.adaface"),
        *("tutorial.SEAttention", "tutorial.SE", "tutorial.SELayer"),
    ],
    "timm SEModule 1/16 div8 limit 0": ["timm.SEModule", "timm.SEModule.add_maxpool", "timm.SqueezeExciteCl"],
    "mmcls make_divisible(C//16,8)": ["mmpretrain"],
    "C//4": [
        *("taki0112.resnext", "taki0112.inception", "nutszebra", "tutorial.SEBlock", "keras_cv", "scenic"),
        *("paddleclas.mobilenet_v3", "paddleclas.pp_lcnet", "paddleclas.pp_lcnet_v2", "paddleclas.ghostnet"),
        "torchvision.maxvit",
    ],
    "max(1,int(.25C))": [
        *("torchvision.efficientnet", "deepvision", "efficientnet_pytorch", "hf.efficientnet"),
        *("keras.efficientnet", "keras_hub.mbconv", "tf_models", "automl"),
    ],
    "round(.25C)": [
        "timm.SqueezeExcite",
        "timm.efficientnet",
        "timm.regnet",
        "torchvision.regnet",
        "hf.regnet",
        "pycls",
    ],
    "make_div(.25C,8,.9)": [
        *("timm.mobilenetv3", "timm.fbnetv3", "keras.mobilenet_v3", "keras2.mobilenet_v3"),
        *("kecam", "tf_slim.mobilenet_v3"),
    ],
    "tf-slim C/3 div 8": ["tf_slim"],
}


def width_table() -> tuple[list[int], dict[str, list[int]]]:
    head, *rows = WIDTHS.strip().splitlines()
    split = {row[:36].strip(): [int(width) for width in row[36:].split()] for row in rows}
    return [int(channels) for channels in head[36:].split()], split


@pytest.mark.parametrize(("row", "name"), [(row, name) for row, names in SYSTEMS.items() for name in names])
def test_p1_p3_preset_gives_the_width_that_the_system_gives(row: str, name: str) -> None:
    columns, table = width_table()
    for channels, width in zip(columns, table[row], strict=True):
        if width:
            assert SESpec.preset(name, channels).hidden == width, channels
        else:
            with pytest.raises(SpecError, match=f"{name}.* {channels} channels.*width is 0"):
                SESpec.preset(name, channels)


@pytest.mark.parametrize(
    ("name", "channels", "width"),
    [
        ("torchvision.mobilenet_v3", 72, 24),
        ("torchvision.mobilenet_v3", 30, 8),  # 30 // 4 = 7, not 7.5
        ("mmpretrain.mobilenet_v3", 72, 24),
        ("timm.nfnet", 256, 128),
        ("nfnets", 3, 1),
        ("monai.ChannelSELayer", 9, 4),
        ("monai.ResidualSELayer", 9, 4),
        ("tutorial.SqueezeAndExcitation", 100, 12),
        ("efficientnet_jax", 10, 3),  # half up, unlike round()
    ],
)
def test_p1_preset_widths_at_other_channels(name: str, channels: int, width: int) -> None:
    assert SESpec.preset(name, channels).hidden == width


def test_w6_every_preset_has_a_width_or_requires_one() -> None:
    for name, system in PRESETS.items():
        if system.rule is None and not system.fields.get("single_projection"):
            with pytest.raises(SpecError, match=r"give hidden=\.\.\."):
                SESpec.preset(name, 64)
            assert SESpec.preset(name, 64, hidden=5).hidden == 5
        else:
            assert SESpec.preset(name, 64).channels == 64


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("paper", {"bias": False, "activation": "relu", "gate": "sigmoid"}),
        ("caffe", {"bias": True}),
        ("moskomule", {"bias": False}),
        ("titu1994", {"bias": False}),
        ("taki0112.resnext", {"bias": False}),
        ("timm.EffectiveSEModule", {"single_projection": True, "hidden": 64, "gate": "hard_sigmoid"}),
        ("timm.hgnet", {"single_projection": True, "gate": "sigmoid"}),
        ("timm.SEModule.add_maxpool", {"squeeze": "avg_max"}),
        ("timm.nfnet", {"gain": 2.0}),
        ("keras.efficientnet", {"activation": "silu", "bias": True}),
        ("torchvision.mobilenet_v3", {"gate": "hard_sigmoid", "activation": "relu"}),
        ("keras2.mobilenet_v3", {"gate": HardSigmoid(slope=0.2, offset=0.5)}),
        ("paddleclas.pp_lcnet", {"gate": HardSigmoid(slope=0.1666667, offset=0.5)}),
        ("mmcls.mobilenet_v3.old_mmcv", {"gate": HardSigmoid(slope=0.5, offset=0.5)}),
        ("paddleclas.ghostnet", {"gate": HardSigmoid(slope=1, offset=0)}),
        ("tf_slim.mobilenet_v3", {"gate": HardSigmoid(slope=0.16667, offset=0.50001, high=1.00002)}),
        ("monai.ResidualSELayer", {"activation": LeakyReLU(slope=0.01), "gate": "relu", "residual": True}),
    ],
)
def test_p1_presets_have_the_fields_of_their_systems(name: str, fields: dict[str, object]) -> None:
    spec = SESpec.preset(name, 64)
    assert {field: getattr(spec, field) for field in fields} == fields


def test_p2_overrides_go_through_the_systems_own_rule() -> None:
    assert SESpec.preset("xmu", 64, reduction=3).hidden == 21
    assert SESpec.preset("timm.SEModule", 64, reduction=4).hidden == 16
    assert SESpec.preset("keras.efficientnet", 96, basis=16).hidden == 4
    assert SESpec.preset("caffe", 64, gate="tanh").gate == "tanh"
    with pytest.raises(SpecError, match="'nobody' is not known"):
        SESpec.preset("nobody", 64)


def test_w1_hidden_is_always_the_integer() -> None:
    assert SESpec(64).hidden == 4
    assert SESpec(64, reduction=8).hidden == 8
    assert SESpec(64, hidden=12).hidden == 12
    assert SESpec(100).hidden == 6
    assert SESpec(3).hidden == 1
    assert SESpec(3, hidden=8).hidden == 8


def test_w2_w3_w4_width_rules_at_edge_cases() -> None:
    assert widths.floor_width(31, 16) == 1
    assert widths.truncated_width(31, 1 / 16) == 1
    assert [widths.rounded_width(channels, 0.25) for channels in (6, 10, 14, 18)] == [2, 2, 4, 4]
    for rule in (lambda: widths.floor_width(8, 16), lambda: widths.truncated_width(3, 0.25)):
        with pytest.raises(SpecError, match="hidden width is 0 by"):
            rule()


def test_w5_make_divisible_rounds_up_below_its_limit() -> None:
    assert widths.make_divisible(11) == 16  # 8 would be below 0.9 * 11
    assert widths.make_divisible(11, limit=0.0) == 8
    assert widths.make_divisible(3) == 8
    assert widths.make_divisible(3, minimum=1, limit=0.0) == 1
    assert widths.make_divisible(0) == 8


@given(st.integers(1, 5000), st.integers(1, 64))
def test_w5_make_divisible_is_near_and_divisible(value: int, divisor: int) -> None:
    width = widths.make_divisible(value, divisor)
    assert width % divisor == 0
    assert 0.9 * value <= width <= max(divisor, value + divisor)


def test_e4_single_projection_has_no_activation_and_the_width_of_its_channels() -> None:
    spec = SESpec(64, single_projection=True, activation="silu")
    assert (spec.hidden, spec.activation, spec.reduction) == (64, "identity", None)
    with pytest.raises(SpecError, match="hidden=64 is not allowed"):
        SESpec(64, single_projection=True, hidden=64)


def test_e5_bias_is_off_by_default() -> None:
    assert SESpec(64).bias is False


def test_g5_the_name_hard_sigmoid_is_one_function_and_its_numbers_are_the_same_spec() -> None:
    assert SESpec(64, gate=HardSigmoid(slope=1 / 6, offset=0.5)) == SESpec(64, gate="hard_sigmoid")
    assert SESpec(64, gate=HardSigmoid(slope=1 / 6, offset=0.5)).gate == "hard_sigmoid"
    assert SESpec(64, gate=HardSigmoid(slope=0.1666667, offset=0.5)) != SESpec(64, gate="hard_sigmoid")


BAD = [
    ("channels", {"channels": 0}, "integer of at least 1"),
    ("channels", {"channels": 64.0}, "integer of at least 1"),
    ("channels", {"channels": True}, "integer of at least 1"),
    ("channels", {"channels": "64"}, "integer of at least 1"),
    ("reduction", {"reduction": 0}, "integer of at least 1"),
    ("reduction", {"reduction": None}, "integer of at least 1"),
    ("hidden", {"hidden": 0}, "integer of at least 1"),
    ("hidden", {"hidden": None}, "integer of at least 1"),
    ("hidden", {"hidden": 2.5}, "integer of at least 1"),
    ("single_projection", {"single_projection": 1}, "True or False"),
    ("bias", {"bias": "yes"}, "True or False"),
    ("residual", {"residual": None}, "True or False"),
    ("activation", {"activation": "swish"}, "'silu'"),
    ("activation", {"activation": "leaky_relu"}, r"LeakyReLU\(slope=\.\.\.\)"),
    ("activation", {"activation": "hard_sigmoid"}, "'hard_swish'"),
    ("activation", {"activation": max}, "'relu'"),
    ("gate", {"gate": "softmax"}, "'hard_sigmoid'"),
    ("gate", {"gate": LeakyReLU(slope=0.1)}, "'sigmoid'"),
    ("squeeze", {"squeeze": "mean"}, "'avg', 'max', 'avg_max'"),
    ("gain", {"gain": float("nan")}, "finite number"),
    ("gain", {"gain": "2"}, "finite number"),
]


@pytest.mark.parametrize(("field", "fields", "allowed"), BAD, ids=[f"{field}={value}" for field, value, _ in BAD])
def test_x6_wrong_value_is_a_spec_error_that_lists_the_allowed_values(field: str, fields: dict, allowed: str) -> None:
    with pytest.raises(SpecError, match=f"^{field}=.* is not allowed; it must be .*{allowed}"):
        SESpec(**{"channels": 64, **fields})


def test_x6_values_check_their_own_numbers() -> None:
    for make in (
        lambda: LeakyReLU(slope=float("inf")),
        lambda: HardSigmoid(slope="0.2", offset=0.5),
        lambda: HardSigmoid(slope=0.2, offset=0.5, low=1.0, high=0.0),
        lambda: SESpec.coerce(SESpec(64), reduction=4),
        lambda: SESpec.coerce("64"),
        lambda: SESpec(64, 16),  # fields are named
    ):
        with pytest.raises(SpecError):
            make()
    assert issubclass(SpecError, ValueError)


ACTIVATIONS = st.sampled_from([*se_spec.nonlinearities.ACTIVATIONS, LeakyReLU(slope=0.3)])
GATES = st.sampled_from([*se_spec.nonlinearities.GATES, HardSigmoid(slope=0.2, offset=0.5), HardSigmoid(1, 0, -1, 2)])


@st.composite
def specs(draw: st.DrawFn) -> SESpec:
    fields = {
        "bias": draw(st.booleans()),
        "activation": draw(ACTIVATIONS),
        "gate": draw(GATES),
        "squeeze": draw(st.sampled_from(["avg", "max", "avg_max"])),
        "gain": draw(st.floats(-4, 4)),
        "residual": draw(st.booleans()),
    }
    width = draw(st.sampled_from(["default", "reduction", "hidden", "single_projection"]))
    if width == "single_projection":
        fields[width] = True
    elif width != "default":
        fields[width] = draw(st.integers(1, 99))
    return SESpec(draw(st.integers(1, 999)), **fields)


@given(specs())
def test_j1_round_trips_through_json_and_repr_are_exact(spec: SESpec) -> None:
    assert SESpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json()) == spec.to_dict()
    names = {"SESpec": SESpec, "HardSigmoid": HardSigmoid, "LeakyReLU": LeakyReLU}
    assert eval(repr(spec), names) == spec


@given(specs())
def test_j2_equal_specs_have_equal_hashes_and_ratios_are_ignored(spec: SESpec) -> None:
    same = SESpec.from_dict(spec.to_dict())
    assert hash(same) == hash(spec)
    assert SESpec(64, reduction=16) == SESpec(64, hidden=4) != SESpec(64, hidden=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.channels = 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"channels": 64, "ratio": 16}', '{"channels": 0}', '{"channels": 8, "gate": {}}']
)
def test_j1_data_of_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        SESpec.from_json(text)


def test_w1_replace_derives_the_width_anew_where_it_came_from_the_ratio() -> None:
    assert SESpec(64).replace(channels=128).hidden == 8
    assert SESpec(64, hidden=4).replace(channels=128).hidden == 4
    assert SESpec(64, hidden=4).replace(reduction=8).hidden == 8
    assert SESpec(64).replace(single_projection=True).hidden == 64
    assert SESpec(64, single_projection=True).replace(bias=True).hidden == 64


def test_k1_names_and_shapes_of_parameters() -> None:
    shapes = se_spec.parameters.shapes
    assert list(shapes(SESpec(12, hidden=5, bias=True)).items()) == [
        ("reduce.weight", (5, 12)),
        ("reduce.bias", (5,)),
        ("expand.weight", (12, 5)),
        ("expand.bias", (12,)),
    ]
    assert shapes(SESpec(12, hidden=5)) == {"reduce.weight": (5, 12), "expand.weight": (12, 5)}
    assert shapes(SESpec(7, single_projection=True, bias=True)) == {"expand.weight": (7, 7), "expand.bias": (7,)}


def test_imports_the_standard_library_alone_and_takes_under_50_ms_itself() -> None:
    loaded = "import sys; before = set(sys.modules); import se_spec; print(*(set(sys.modules) - before))"
    modules = subprocess.check_output([sys.executable, "-c", loaded], text=True).split()
    others = {name for name in modules if name.partition(".")[0] != "se_spec"}
    assert not {name for name in others if name.partition(".")[0] not in sys.stdlib_module_names}
    code = (  # how long the standard library takes depends on Python: 20 ms on 3.11, 50 ms on 3.13
        "import importlib, time\n"
        f"for name in {sorted(others)}: importlib.import_module(name)\n"
        "start = time.process_time(); import se_spec; print(time.process_time() - start)"
    )
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(10)]
    assert min(map(float, runs)) < 0.05
