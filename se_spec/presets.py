"""Presets: the block as each system builds it, with the width that the system itself gives (SPEC P-1 to P-3).

A preset is named after the class, or after the network where only the caller decides the width, activation or gate.
``docs/PRESETS.md`` is printed from this table by ``python -m se_spec``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import SpecError
from .hints import suggest_name
from .nonlinearities import HardSigmoid, LeakyReLU
from .texts import quote
from .validation import positive_integer
from .widths import floor_width, make_divisible, rounded_width, truncated_width

Rule = Callable[[int, int], int]
"""Hidden width from the width that the ratio is taken of, and the reduction."""


def _floor(basis: int, reduction: int) -> int:
    return floor_width(basis, reduction)


def _floor_min1(basis: int, reduction: int) -> int:
    return floor_width(basis, reduction, minimum=1)


def _truncate(basis: int, reduction: int) -> int:
    return truncated_width(basis, 1 / reduction)


def _truncate_min1(basis: int, reduction: int) -> int:
    return truncated_width(basis, 1 / reduction, minimum=1)


def _half_even(basis: int, reduction: int) -> int:
    return rounded_width(basis, 1 / reduction)


def _div8(basis: int, reduction: int) -> int:
    return make_divisible(basis / reduction)


def _div8_of_floor(basis: int, reduction: int) -> int:
    return make_divisible(basis // reduction)


def _div8_never_bumped(basis: int, reduction: int) -> int:
    return make_divisible(basis / reduction, limit=0.0)


def _div1(basis: int, reduction: int) -> int:
    return make_divisible(basis / reduction, 1)


@dataclass(frozen=True)
class Preset:
    """One system's block.

    Args:
        source: where it was read.
        reduction: the system's default ratio; None where the caller gives the hidden width.
        rule: the system's width rule; None for a single projection.
        fields: the other fields of the spec, where they are not the default.
    """

    source: str
    reduction: int | None
    rule: Rule | None
    fields: dict[str, Any]


def _preset(source: str, reduction: int | None = None, rule: Rule | None = None, /, **fields: Any) -> Preset:
    return Preset(source, reduction, rule, fields)


_KERAS2 = HardSigmoid(slope=0.2, offset=0.5)
_PADDLE = HardSigmoid(slope=0.1666667, offset=0.5)
_OLD_MMCV = HardSigmoid(slope=0.5, offset=0.5)
_CLIP = HardSigmoid(slope=1.0, offset=0.0)
_TF_SLIM = HardSigmoid(slope=0.16667, offset=0.50001, high=1.00002)
_TORCHVISION = "torchvision 0.28.0"
_TIMM = "timm 1.0.31"

PRESETS: dict[str, Preset] = {
    # The authors, and those who followed them closely.
    "paper": _preset("arXiv 1709.01507, section 6", 16, _floor),
    "caffe": _preset("hujie-frank/SENet 0262d43", 16, _floor, bias=True),
    "shicai": _preset("shicai/SENet-Caffe d577a92", 16, _floor, bias=True),
    "tensorpack": _preset("tensorpack 1547a54, examples/ResNet", 16, _floor, bias=True),
    "taki0112.resnext": _preset("taki0112/SENet-Tensorflow 41b12c4", 4, _floor),
    "taki0112.inception": _preset("taki0112/SENet-Tensorflow 41b12c4", 4, _floor, bias=True),
    "bruinxiong": _preset("bruinxiong/SENet.mxnet 5f0b469", 16, _truncate, bias=True),
    "moskomule": _preset("moskomule/senet.pytorch 8cb2669", 16, _floor),
    "nutszebra": _preset("nutszebra/SENets 2a5a0b3", 4, _floor, bias=True),
    "xmu": _preset("xmu-xiaoma666/External-Attention-pytorch d75848e", 16, _floor),
    # The five tutorials.
    "tutorial.SqueezeAndExcitation": _preset("tutorial 1, PyTorch and Keras", 8, _floor),
    "tutorial.SEAttention": _preset("tutorial 2", 16, _floor),
    "tutorial.SE": _preset("tutorial 3", 16, _floor),
    "tutorial.SELayer": _preset("tutorial 4", 16, _floor),
    "tutorial.SEBlock": _preset("tutorial 5", 4, _floor),
    # timm.
    "timm.SEModule": _preset(_TIMM, 16, _div8_never_bumped, bias=True),
    "timm.SEModule.add_maxpool": _preset(_TIMM, 16, _div8_never_bumped, bias=True, squeeze="avg_max"),
    "timm.SqueezeExciteCl": _preset(_TIMM, 16, _div8_never_bumped, bias=True),
    "timm.EffectiveSEModule": _preset(_TIMM, bias=True, single_projection=True, gate="hard_sigmoid"),
    "timm.hgnet": _preset(_TIMM, bias=True, single_projection=True),
    "timm.SqueezeExcite": _preset(_TIMM, 4, _half_even, bias=True),
    "timm.efficientnet": _preset(_TIMM, 4, _half_even, bias=True, activation="silu"),
    "timm.mobilenetv3": _preset(_TIMM, 4, _div8, bias=True, gate="hard_sigmoid"),
    "timm.fbnetv3": _preset(_TIMM, 4, _div8, bias=True, activation="hard_swish", gate="hard_sigmoid"),
    "timm.legacy": _preset(_TIMM, 16, _floor, bias=True),
    "timm.regnet": _preset(_TIMM, 4, _half_even, bias=True),
    "timm.nfnet": _preset(_TIMM, 2, _div8_never_bumped, bias=True, gain=2.0),
    # torchvision.
    "torchvision.SqueezeExcitation": _preset(_TORCHVISION, bias=True),
    "torchvision.efficientnet": _preset(_TORCHVISION, 4, _floor_min1, bias=True, activation="silu"),
    "torchvision.maxvit": _preset(_TORCHVISION, 4, _truncate, bias=True, activation="silu"),
    "torchvision.mobilenet_v3": _preset(_TORCHVISION, 4, _div8_of_floor, bias=True, gate="hard_sigmoid"),
    "torchvision.regnet": _preset(_TORCHVISION, 4, _half_even, bias=True),
    # Other PyTorch.
    "cadene": _preset("pretrainedmodels 0.7.4", 16, _floor, bias=True),
    "deepvision": _preset("DavidLandup0/deepvision f45e928", 4, _truncate_min1, bias=True, activation="silu"),
    "efficientnet_pytorch": _preset("efficientnet_pytorch 0.7.1", 4, _truncate_min1, bias=True, activation="silu"),
    "hf.efficientnet": _preset("transformers 4.57.6", 4, _truncate_min1, bias=True, activation="silu"),
    "hf.regnet": _preset("transformers 4.57.6, PyTorch, TensorFlow and Flax", 4, _half_even, bias=True),
    "hf.qwen2_5_omni": _preset("transformers 4.57.6", bias=True),
    "mmpretrain": _preset("mmpretrain 1.2.0", 16, _div8_of_floor, bias=True),
    "mmpretrain.mobilenet_v3": _preset("mmpretrain 1.2.0", 4, _div8_of_floor, bias=True, gate="hard_sigmoid"),
    "mmcls.mobilenet_v3.old_mmcv": _preset("mmcls with mmcv < 1.4.4", 4, _div8_of_floor, bias=True, gate=_OLD_MMCV),
    "monai.ChannelSELayer": _preset("MONAI 1.6.1", 2, _floor, bias=True),
    "monai.ResidualSELayer": _preset(
        "MONAI 1.6.1", 2, _floor, bias=True, activation=LeakyReLU(slope=0.01), gate="relu", residual=True
    ),
    "pycls": _preset("facebookresearch/pycls 5719de6", 4, _half_even, bias=True),
    "pytorchcv": _preset("pytorchcv 0.0.74", 16, _floor, bias=True),
    "smp.cSE": _preset("segmentation_models_pytorch 0.6.0, channel branch of SCSEModule", 16, _floor, bias=True),
    "speechbrain.ecapa": _preset("SpeechBrain 9c826ef, without lengths", bias=True),
    # Keras and TensorFlow.
    "keras.efficientnet": _preset("keras 3.15.1", 4, _truncate_min1, bias=True, activation="silu"),
    "keras.mobilenet_v3": _preset("keras 3.15.1", 4, _div8, bias=True, gate="hard_sigmoid"),
    "keras2.mobilenet_v3": _preset("Dense(activation='hard_sigmoid') in Keras 2", 4, _div8, bias=True, gate=_KERAS2),
    "keras_cv": _preset("keras-cv 0.9.0", 4, _floor, bias=True),
    "keras_hub": _preset("keras-hub 0.32.0", bias=True),
    "keras_hub.mobilenet_v3": _preset("keras-hub 0.32.0", bias=True, gate="hard_sigmoid"),
    "keras_hub.mbconv": _preset("keras-hub 0.32.0", 4, _truncate_min1, bias=True, activation="silu"),
    "tf_models": _preset("tf official nn_layers, divisible_by=1", 4, _truncate_min1, bias=True),
    "automl": _preset("google/automl 6a54c87", 4, _truncate_min1, bias=True, activation="silu"),
    "tf_slim": _preset("TF-slim squeeze_excite", 3, _div8, bias=True),
    "tf_slim.mobilenet_v3": _preset("TF-slim mobilenet_v3", 4, _div8, bias=True, gate=_TF_SLIM),
    "titu1994": _preset("titu1994/keras-squeeze-excite-network fc5345b", 16, _floor),
    "qubvel": _preset("qubvel/classification_models a0f006e", 16, _floor, bias=True),
    "kecam": _preset("leondgarse/keras_cv_attention_models 687943d", 4, _div8, bias=True),
    # JAX.
    "efficientnet_jax": _preset("rwightman/efficientnet-jax 06d7ed6", 4, _div1, bias=True),
    "scenic": _preset("google-research/scenic 4a38d47", 4, _floor, bias=True),
    "nfnets": _preset("deepmind nfnets (haiku), gain by the caller", 2, _truncate_min1, bias=True, gain=2.0),
    "eqxvision": _preset("eqxvision 7da790c", bias=True),
    # Paddle.
    "paddleclas.mobilenet_v3": _preset("PaddleClas d178931", 4, _floor, bias=True, gate=_KERAS2),
    "paddleclas.pp_lcnet": _preset("PaddleClas d178931", 4, _floor, bias=True, gate=_PADDLE),
    "paddleclas.pp_lcnet_v2": _preset("PaddleClas d178931, 'hardsigmoid' is a sigmoid", 4, _floor, bias=True),
    "paddleclas.se_resnet": _preset("PaddleClas d178931", 16, _floor, bias=True),
    "paddleclas.ghostnet": _preset("PaddleClas d178931, as GhostNet v1", 4, _floor, bias=True, gate=_CLIP),
    "paddleclas.adaface": _preset("PaddleClas d178931", 16, _floor),
}


def preset(name: str, channels: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the fields for ``SESpec.preset``: the system's, its width included, replaced by the caller's overrides.

    Two overrides are no fields: ``reduction`` replaces the ratio *in the system's own rule*, and ``basis`` replaces
    ``channels`` in it (EfficientNet and RegNet apply the ratio to the width of the block's input) (P-2).

    Raises:
        SpecError: no such preset; the rule gives 0; or the system leaves the width to its caller and none is given.

    >>> preset("xmu", 64, {"reduction": 3})
    {'hidden': 21}
    >>> preset("keras.efficientnet", 96, {"basis": 16})["hidden"]
    4
    """
    if name not in PRESETS:
        raise SpecError(
            f"preset {quote(name)} is not known; it must be one of {', '.join(PRESETS)}{suggest_name(name, PRESETS)}"
        )
    system = PRESETS[name]
    overrides = dict(overrides)
    basis = positive_integer("basis", overrides.pop("basis", channels))
    reduction = overrides.pop("reduction", system.reduction)
    given = {**system.fields, **overrides}
    if "hidden" in given or given.get("single_projection"):
        return given
    if system.rule is None:
        raise SpecError(f"preset {name!r} leaves the width to its caller; give hidden=...")
    try:
        return {"hidden": system.rule(basis, positive_integer("reduction", reduction)), **given}
    except SpecError as error:
        raise SpecError(f"preset {name!r} on {basis} channels: {error}") from None


def table() -> str:
    """Format ``PRESETS`` as the Markdown of docs/PRESETS.md."""
    lines = [
        "# Presets",
        "",
        "`SESpec.preset(name, channels)` makes the spec of a named system; `python -m se_spec` prints this page.",
        "Fields that are not listed have the defaults of `SESpec`. Where a width is –, the caller gives it",
        "(`hidden=...`).",
        "",
        "| preset | read from | widths at 64, 72, 100 | fields |",
        "|---|---|---|---|",
    ]
    for name, system in PRESETS.items():
        if system.rule is None:
            widths = "one projection" if system.fields.get("single_projection") else "–"
        else:
            widths = ", ".join(str(preset(name, channels, {})["hidden"]) for channels in (64, 72, 100))
        fields = ", ".join(f"{key}={value!r}" for key, value in system.fields.items())
        lines.append(f"| `{name}` | {system.source} | {widths} | {f'`{fields}`' if fields else ''} |")
    return "\n".join(lines)
