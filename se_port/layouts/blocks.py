"""Layouts of SE blocks: how each system names the parameters behind the block's own path.

Versions and commits are those of the presets in ``se_spec.presets``. Several systems may have the same names; where
they differ in the activation or the gate, a file does not determine it.
"""

from dataclasses import replace
from typing import Any

from .base import FRAMEWORK, PEER, REFERENCE, TYPED, BlockLayout

_PLAIN: dict[str, Any] = {"activation": "relu", "gate": "sigmoid"}
_KERAS = ("/kernel", "/bias")
_TIMM, _TORCHVISION, _TRANSFORMERS = "timm 1.0.31", "torchvision 0.28.0", "transformers 4.57.6"
_PADDLE = "PaddleClas d178931"


def _linear(source: str, reduce: str, expand: str, verified: str = TYPED) -> BlockLayout:
    """Make the row of two PyTorch ``Linear`` without biases, with ReLU and sigmoid."""
    return BlockLayout(source, verified, reduce, expand, "OI", "", narrow=True, **_PLAIN)


def _make_numbered_row(
    source: str, layer: str, weight: str, bias: str = "O", verified: str = TYPED, **fields: Any
) -> BlockLayout:
    """Make the row of Keras layers without names of their own, which Keras numbers by order of creation."""
    return BlockLayout(
        f"{source}: layers by order of creation",
        verified,
        f"{layer}{{_k}}",
        f"{layer}{{_k+1}}",
        weight,
        bias,
        leaves=_KERAS,
        separator="/",
        narrow=True,
        **fields,
    )


def _make_unnamed_row(reduce: str, expand: str, source: str) -> BlockLayout:
    """Make the row of convolutions that a Sequential numbers; only its own name tells that it is a block."""
    return BlockLayout(source, TYPED, reduce, expand, "OI11", optional=True, parents=("se", "se_layer"), narrow=True)


_CONV = BlockLayout(_TIMM, PEER, "fc1", "fc2", "OI11", optional=True, narrow=True)
_KERAS_CONV = BlockLayout("keras 3.15.1", PEER, "reduce", "expand", "11IO", leaves=_KERAS, separator="_")
_FLAX = BlockLayout("", TYPED, "reduce", "expand", "11IO", leaves=_KERAS, separator="/")
_KECAM = replace(
    _KERAS_CONV, source="kecam 1.4.3", verified=PEER, reduce="1_conv", expand="2_conv", optional=True, parents=("se",)
)
_SE_KERAS = BlockLayout("se_keras", PEER, "reduce", "expand", "IO", optional=True, leaves=_KERAS, separator="/")
_SE_FLAX = replace(_FLAX, source="se_flax, NNX and linen", verified=PEER, weight="IO", optional=True)

BLOCK_LAYOUTS: dict[str, BlockLayout] = {
    # se-suite.
    "canonical": BlockLayout("docs/SPEC.md, K-1", PEER, "reduce", "expand", "OI", optional=True),
    "canonical.single": BlockLayout("docs/SPEC.md, K-1", PEER, None, "expand", "OI", optional=True),
    "se_keras": _SE_KERAS,
    "se_keras.single": replace(_SE_KERAS, reduce=None),
    "se_flax": _SE_FLAX,
    "se_flax.single": replace(_SE_FLAX, reduce=None),
    # The authors, and networks of the first years.
    "caffe": BlockLayout(
        "hujie-frank/SENet 0262d43",
        FRAMEWORK,
        "1x1_down",
        "1x1_up",
        "OI11",
        leaves=(":0", ":1"),
        separator="_",
        **_PLAIN,
    ),
    "shicai": BlockLayout(
        "shicai/SENet-Caffe d577a92", FRAMEWORK, "sqz", "exc", "OI", leaves=(":0", ":1"), separator="/", **_PLAIN
    ),
    "matconvnet": BlockLayout(
        "albanie/mcnSENets 75d8294",
        TYPED,
        "1x1_down",
        "1x1_up",
        "11IO",
        "O1",
        leaves=("_filter", "_bias"),
        separator="_",
        **_PLAIN,
    ),
    "tensorpack": BlockLayout(
        "tensorpack 1547a54", FRAMEWORK, "fc1", "fc2", "IO", leaves=("/W", "/b"), separator="/", narrow=True, **_PLAIN
    ),
    "mxnet": BlockLayout(
        "bruinxiong/SENet.mxnet 5f0b469",
        FRAMEWORK,
        "excitation1",
        "excitation2",
        "OI",
        leaves=("_weight", "_bias"),
        separator="_",
        **_PLAIN,
    ),
    "chainer": BlockLayout(
        "nutszebra/SENets 2a5a0b3", REFERENCE, "f1", "f2", "OI", leaves=("/W", "/b"), separator="/", **_PLAIN
    ),
    "chainer.Linear": BlockLayout(
        "Chainer 1.24, links.Linear",
        TYPED,
        "fc1",
        "fc2",
        "OI",
        optional=True,
        leaves=("/W", "/b"),
        separator="/",
        narrow=True,
    ),
    "moskomule": _linear("moskomule/senet.pytorch 8cb2669", "fc.0", "fc.2", REFERENCE),
    "xmu": _linear("xmu-xiaoma666/External-Attention-pytorch d75848e", "fc.0", "fc.2", REFERENCE),
    # The five tutorials; the first has a Keras block, too.
    "tutorial.SqueezeAndExcitation": _linear("tutorial 1, PyTorch", "network.0", "network.2"),
    "tutorial.SqueezeAndExcitation.keras": _make_numbered_row("tutorial 1, Keras", "dense", "IO", "", **_PLAIN),
    "tutorial.SEAttention": _linear("tutorial 2", "fc.0", "fc.2"),
    "tutorial.SE": _linear("tutorial 3", "l1", "l2"),
    "tutorial.SELayer": _linear("tutorial 4", "fc.0", "fc.2"),
    "tutorial.SEBlock": _linear("tutorial 5", "fc1", "fc2"),
    # PyTorch.
    "timm.SEModule": _CONV,
    "timm.SqueezeExciteCl": replace(_CONV, weight="OI"),
    "timm.SqueezeExcite": replace(_CONV, reduce="conv_reduce", expand="conv_expand", narrow=False),
    "timm.EffectiveSEModule": replace(_CONV, reduce=None, expand="fc", optional=False),
    "timm.hgnet": replace(
        _CONV, reduce=None, expand="conv", parents=("att", "1"), activation="identity", gate="sigmoid", optional=False
    ),
    "timm.legacy": replace(_CONV, parents=("se_module",), optional=False, **_PLAIN),
    "timm.rexnet": replace(_CONV, parents=("se",), norm=("bn", 1e-5), optional=False, **_PLAIN),
    "cadene": replace(_CONV, source="pretrainedmodels 0.7.4", parents=("se_module",), optional=False, **_PLAIN),
    "torchvision": replace(_CONV, source=_TORCHVISION, optional=False),
    "efficientnet_pytorch": BlockLayout(
        "efficientnet_pytorch 0.7.1", PEER, "_se_reduce", "_se_expand", "OI11", activation="silu", gate="sigmoid"
    ),
    "pycls": BlockLayout("facebookresearch/pycls 5719de6", TYPED, "f_ex.0", "f_ex.2", "OI11", gate="sigmoid"),
    "monai": BlockLayout("MONAI 1.6.1, ChannelSELayer and ResidualSELayer", PEER, "fc.0", "fc.2", "OI", narrow=True),
    "mmpretrain": replace(
        _CONV, source="mmpretrain 1.2.0", reduce="conv1.conv", expand="conv2.conv", parents=("se", "se_layer")
    ),
    "pytorchcv": replace(_CONV, source="pytorchcv 0.0.74", reduce="conv1", expand="conv2", parents=("se",)),
    "pytorchcv.Linear": replace(_CONV, source="pytorchcv 0.0.74", weight="OI", parents=("se",)),
    "hf.efficientnet": BlockLayout(
        _TRANSFORMERS, PEER, "reduce", "expand", "OI11", parents=("squeeze_excite",), gate="sigmoid"
    ),
    "hf.regnet": BlockLayout(_TRANSFORMERS, PEER, "0", "2", "OI11", parents=("attention",), **_PLAIN),
    "hf.qwen2_5_omni": BlockLayout(_TRANSFORMERS, PEER, "conv1", "conv2", "OI1", parents=("se_block",), **_PLAIN),
    "smp.cSE": BlockLayout(
        "segmentation_models_pytorch 0.6.0, channel branch", PEER, "1", "3", "OI11", parents=("cSE",), **_PLAIN
    ),
    "smp.mobileone": BlockLayout(
        "segmentation_models_pytorch 0.6.0, MobileOne", PEER, "reduce", "expand", "OI11", parents=("se",), **_PLAIN
    ),
    "speechbrain.ecapa": BlockLayout(
        "SpeechBrain 9c826ef", TYPED, "conv1.conv", "conv2.conv", "OI1", parents=("se_block",), **_PLAIN
    ),
    # More systems of PyTorch, by their names; batch norms beside the projections are folded wherever they are.
    "efficientdet": BlockLayout(
        "zylo117/Yet-Another-EfficientDet-Pytorch",
        TYPED,
        "_se_reduce.conv",
        "_se_expand.conv",
        "OI11",
        activation="silu",
        gate="sigmoid",
    ),
    "pooled": _make_unnamed_row("1", "3", "TaoRuijie/ECAPA-TDNN, and Sequential(pool, conv, activation, conv, gate)"),
    "pooled.norm": _make_unnamed_row(
        "1", "4", "clovaai/voxceleb_trainer, xiaolai-sqlai/mobilenetv3, with a batch norm in the Sequential"
    ),
    "unpooled": _make_unnamed_row("0", "2", "Sequential(conv, activation, conv, gate)"),
    "unpooled.norm": _make_unnamed_row("0", "3", "NVIDIA NeMo's MaskedSEModule, with a batch norm in the Sequential"),
    "esanet": BlockLayout("TUI-NICR/ESANet", TYPED, "fc.0", "fc.2", "OI11", gate="sigmoid", optional=True, narrow=True),
    "excite": BlockLayout("Sequential excite", TYPED, "excite.0", "excite.2", "OI11", optional=True, narrow=True),
    "excite.Linear": BlockLayout("Sequential excite", TYPED, "excite.0", "excite.2", "OI", optional=True, narrow=True),
    "nvidia": BlockLayout(
        "NVIDIA DeepLearningExamples, image classification", TYPED, "squeeze", "expand", "OI", gate="sigmoid"
    ),
    "nvidia.conv": BlockLayout(
        "NVIDIA DeepLearningExamples, image classification", TYPED, "squeeze", "expand", "OI11", gate="sigmoid"
    ),
    "fastai": BlockLayout(
        "fastai 2, SEModule", TYPED, "1.0", "2.0", "OI11", optional=True, parents=("layers", "layers.0"), gate="sigmoid"
    ),
    "wespeaker": BlockLayout(
        "wespeaker, SE_Connect", TYPED, "linear1", "linear2", "OI", parents=("se_res2block.3",), **_PLAIN
    ),
    "deepvision": BlockLayout(
        "DavidLandup0/deepvision f45e928", TYPED, "se_conv1", "se_conv2", "OI11", activation="silu", gate="sigmoid"
    ),
    # Keras and TensorFlow, where an underscore joins a path's last element to the projection's name.
    "keras.efficientnet": replace(_KERAS_CONV, activation="silu", gate="sigmoid"),
    "keras.mobilenet_v3": replace(
        _KERAS_CONV,
        reduce="squeeze_excite_conv",
        expand="squeeze_excite_conv_1",
        activation="relu",
        gate="hard_sigmoid",
    ),
    "keras2.mobilenet_v3": replace(
        _KERAS_CONV,
        source="tf_keras 2.21, MobileNetV3",
        verified=TYPED,
        reduce="Conv",
        expand="Conv_1",
        separator="/",
        parents=("squeeze_excite",),
        activation="relu",
        gate="hard_sigmoid",
    ),
    "keras_vggface": replace(
        _KERAS_CONV,
        source="rcmalli/keras-vggface",
        verified=TYPED,
        reduce="1x1_down",
        expand="1x1_up",
        optional=True,
        **_PLAIN,
    ),
    "keras_cv": _make_numbered_row("keras-cv 0.9.0, SqueezeAndExcite2D", "conv2d", "11IO", verified=PEER),
    "keras_hub": replace(_KERAS_CONV, source="keras-hub 0.32.0", reduce="conv_reduce", expand="conv_expand"),
    "kecam.Conv": _KECAM,
    "kecam.Dense": replace(_KECAM, reduce="1_dense", expand="2_dense", weight="IO"),
    "kecam.MaxViT": replace(_KECAM, separator="/"),
    "titu1994": _make_numbered_row("titu1994/keras-squeeze-excite-network fc5345b", "dense", "IO", "", **_PLAIN),
    "qubvel": _make_numbered_row("qubvel/classification_models a0f006e", "conv2d", "11IO", **_PLAIN),
    "automl": replace(
        _KERAS_CONV,
        source="google/automl 6a54c87",
        verified=TYPED,
        reduce="conv2d",
        expand="conv2d_1",
        parents=("se",),
        separator="/",
        activation="silu",
        gate="sigmoid",
    ),
    "tf_slim": replace(
        _KERAS_CONV,
        source="TF-slim squeeze_excite",
        verified=TYPED,
        reduce="Conv",
        expand="Conv_1",
        leaves=("/weights", "/biases"),
        parents=("squeeze_excite",),
        separator="/",
    ),
    # JAX.
    "efficientnet_jax": replace(_FLAX, source="rwightman/efficientnet-jax 06d7ed6"),
    "scenic": replace(
        _FLAX,
        source="google-research/scenic 4a38d47",
        reduce="Dense_0",
        expand="Dense_1",
        weight="IO",
        narrow=True,
        **_PLAIN,
    ),
    "hf.flax_regnet": replace(_FLAX, source=_TRANSFORMERS, reduce="0", expand="2", parents=("attention",), **_PLAIN),
    "nfnets": BlockLayout(
        "deepmind nfnets (haiku), gain by the caller",
        TYPED,
        "squeeze_excite/~/linear",
        "squeeze_excite/~/linear_1",
        "IO",
        leaves=("/w", "/b"),
        gain=2.0,
        gate="sigmoid",
        separator="/",
        narrow=True,
    ),
    "eqxvision": BlockLayout("eqxvision 7da790c", TYPED, "fc1", "fc2", "OI11", "O11", narrow=True),
    # Paddle, whose Linear is (in, out).
    "paddleclas.conv": replace(
        _CONV, source=_PADDLE, verified=TYPED, reduce="conv1", expand="conv2", parents=("se", "mid_se"), optional=False
    ),
    "paddleclas.linear": BlockLayout(_PADDLE, TYPED, "squeeze", "excitation", "IO", activation="relu"),
    "paddleclas.adaface": BlockLayout(
        _PADDLE, TYPED, "fc1", "fc2", "OI11", "", parents=("se_block",), narrow=True, **_PLAIN
    ),
}

BLOCK_ALIASES = {
    **dict.fromkeys(("torch", "se_torch"), ("canonical",)),
    **dict.fromkeys(("flax", "nnx", "linen", "se_flax.linen"), ("se_flax",)),
    "keras": ("se_keras", "keras"),
    "kecam": ("kecam.Conv", "kecam"),
}
"""Families of layouts by a short name; the first is the one that is written."""
