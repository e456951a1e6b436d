"""The libraries whose networks are searched: how their networks are made, and the classes of their SE modules."""

import importlib.metadata
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..peer_blocks import import_object
from . import of_keras, of_torch
from .network import Network
from .of_torch import Kind, Kinds


@dataclass(frozen=True)
class System:
    """A library with networks.

    Args:
        name: the name of the distribution.
        modules: modules that must be importable.
        names: the function that lists its networks.
        make: the function that builds a network by its name.
        note: which of its networks are searched.
        environment: environment variables of the process that builds them.
        limit: the largest relative error of a gate that is accepted.
    """

    name: str
    modules: tuple[str, ...]
    names: Callable[[], Iterable[str]]
    make: Callable[[str], Network]
    note: str = "every network"
    environment: tuple[tuple[str, str], ...] = ()
    limit: float = 1e-10

    @property
    def installed(self) -> bool:
        """Whether its modules are installed."""
        return all(importlib.util.find_spec(module) for module in self.modules)

    def network(self, name: str) -> Network:
        """Build one of its networks."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own warnings
            return self.make(name)

    @property
    def version(self) -> str:
        """Name and version of the distribution."""
        return f"{self.name} {importlib.metadata.version(self.name)}"


def _torch(
    name: str,
    modules: tuple[str, ...],
    names: Callable[[], Iterable[str]],
    make: Callable[[str], Any],
    kinds: Kinds,
    note: str = "every network",
) -> System:
    def network(network_name: str) -> Network:
        return of_torch.read_network(of_torch.build(lambda: make(network_name)), kinds)

    return System(name, ("torch", *modules), names, network, note, (("HF_HUB_OFFLINE", "1"),))


def _keras(
    name: str, modules: tuple[str, ...], names: Callable[[], Iterable[str]], make: Callable[[str], Any], note: str
) -> System:
    def network(network_name: str) -> Network:
        with of_keras.use_float64(), import_object("keras.StatelessScope")(initialize_variables=False):
            return of_keras.read_network(make(network_name))

    return System(name, ("tensorflow", *modules), names, network, note, (("KERAS_BACKEND", "tensorflow"),))


def _channels_last(module: Any, x: Any) -> tuple[Any, Any]:
    return x, module(x.movedim(1, -1)).movedim(-1, 1)


def _residual(module: Any, x: Any) -> tuple[Any, Any]:
    return x, module(x) - x


def _channel_branch(module: Any, x: Any) -> tuple[Any, Any]:
    """Run the channel branch, one of two that are added."""
    return x, x * module.cSE(x)


def _mb_conv(module: Any, x: Any) -> tuple[Any, Any]:
    """Run a whole unit, and return the maps before and after its SE, which follows the second activation."""
    for name in ("_expand_conv", "_depthwise_conv", "_project_conv", "_bn2"):
        setattr(module, name, import_object("torch.nn.Identity")())
    maps: list[Any] = []
    module._swish.register_forward_hook(lambda module, inputs, output: maps.append(output))
    module._project_conv.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    module(x)
    before, _, after = maps[-3:]
    return before, after


def _nonlinearities_of_geffnet(module: Any) -> list[str]:
    gate = "hard_sigmoid" if "hard" in str(module.gate_fn) else "sigmoid"
    return [of_torch.NONLINEARITIES[type(module.act1).__name__], gate]


TIMM: Kinds = {
    "timm.layers.squeeze_excite.SEModule": Kind(),
    "timm.layers.squeeze_excite.EffectiveSEModule": Kind(),
    "timm.layers.squeeze_excite.SqueezeExciteCl": Kind(run=_channels_last),
    "timm.models._efficientnet_blocks.SqueezeExcite": Kind(),
    "timm.models.senet.SEModule": Kind(),
    "timm.models.hgnet.EseModule": Kind(),
}
TORCHVISION: Kinds = {
    "torchvision.ops.SqueezeExcitation": Kind(),
    "torchvision.models.quantization.mobilenetv3.QuantizableSqueezeExcitation": Kind(),
}
MONAI: Kinds = {
    "monai.networks.blocks.ChannelSELayer": Kind(),
    "monai.networks.blocks.ResidualSELayer": Kind(run=_residual),
}
PYTORCHCV: Kinds = {"pytorchcv.models.common.att.SEBlock": Kind(), "pytorchcv.models.sinet.SEBlock": Kind()}
TRANSFORMERS: Kinds = {
    "transformers.models.efficientnet.modeling_efficientnet.EfficientNetSqueezeExciteLayer": Kind(),
    "transformers.models.align.modeling_align.AlignVisionSqueezeExciteLayer": Kind(),
    "transformers.models.regnet.modeling_regnet.RegNetSELayer": Kind(),
    "transformers.models.qwen2_5_omni.modeling_qwen2_5_omni.SqueezeExcitationBlock": Kind(),
}
PRETRAINEDMODELS: Kinds = {"pretrainedmodels.models.senet.SEModule": Kind()}
GEFFNET: Kinds = {"geffnet.efficientnet_builder.SqueezeExcite": Kind(nonlinearities=_nonlinearities_of_geffnet)}
MB_CONV = Kind(("_se_reduce", "_se_expand"), _mb_conv, lambda module: ["silu", "sigmoid"])
EFFICIENTNET_PYTORCH: Kinds = {"efficientnet_pytorch.model.MBConvBlock": MB_CONV}
SMP: Kinds = {
    "segmentation_models_pytorch.base.modules.SCSEModule": Kind(("cSE",), _channel_branch),
    "segmentation_models_pytorch.encoders._senet.SEModule": Kind(),
    "segmentation_models_pytorch.encoders._efficientnet.MBConvBlock": MB_CONV,
    "segmentation_models_pytorch.encoders.mobileone.SEBlock": Kind(nonlinearities=lambda module: ["relu", "sigmoid"]),
    **TIMM,
}
MMPRETRAIN: Kinds = {"mmpretrain.models.utils.SELayer": Kind()}


def _make_torchvision(name: str) -> Any:
    build = import_object("torchvision.models.get_model_builder")(name)
    weights = [option for option in ("weights", "weights_backbone") if option in inspect.signature(build).parameters]
    return build(**dict.fromkeys(weights))


_MONAI_NETWORKS = {
    **{
        f"{name} {rank}-D": (f"networks.nets.{name}", {"spatial_dims": rank, "in_channels": 3, "num_classes": 10})
        for name in ("SENet154", "SEResNet50", "SEResNet101", "SEResNet152", "SEResNext50", "SEResNext101")
        for rank in (2, 3)
    },
    "ChannelSELayer": ("networks.blocks.ChannelSELayer", {"spatial_dims": 2, "in_channels": 24}),
    "ResidualSELayer": ("networks.blocks.ResidualSELayer", {"spatial_dims": 2, "in_channels": 24}),
}


def _make_monai(name: str) -> Any:
    path, options = _MONAI_NETWORKS[name]
    return import_object(f"monai.{path}")(**options)


_AUTO = "transformers.models.auto.modeling_auto"


def _make_transformers(name: str) -> Any:
    config = import_object("transformers.CONFIG_MAPPING")[name]()
    if name == "qwen2_5_omni":
        return import_object("transformers.Qwen2_5OmniToken2WavModel")(config.token2wav_config)
    return import_object("transformers.AutoModel").from_config(config)


def _list_geffnet() -> list[str]:
    return [
        name
        for name, make in vars(import_object("geffnet.model_factory")).items()
        if inspect.isfunction(make) and name != "create_model" and "pretrained" in inspect.signature(make).parameters
    ]


def _make_segmentation_model(encoder: str) -> Any:
    make = import_object("segmentation_models_pytorch.Unet")
    return make(encoder, encoder_weights=None, decoder_attention_type="scse")


def _list_applications() -> list[str]:
    return sorted(name for name, make in vars(import_object("keras.applications")).items() if inspect.isfunction(make))


def _make_application(name: str) -> Any:
    return import_object(f"keras.applications.{name}")(weights=None, include_top=False, input_shape=(None, None, 3))


_EFFICIENTNET: dict[str, Any] = {
    "stackwise_kernel_sizes": [3, 3, 5],
    "stackwise_num_repeats": [1, 2, 2],
    "stackwise_input_filters": [16, 16, 24],
    "stackwise_output_filters": [16, 24, 32],
    "stackwise_expansion_ratios": [1, 4, 6],
    "stackwise_squeeze_and_excite_ratios": [0.25, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2],
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}
_KERAS_HUB_NETWORKS: dict[str, dict[str, Any]] = {
    "EfficientNetBackbone": {**_EFFICIENTNET, "stackwise_block_types": ["v1", "fused", "unfused"]},
    "MobileNetBackbone": {
        "stackwise_expansion": [[40, 56], [64, 144, 144]],
        "stackwise_num_blocks": [2, 3],
        "stackwise_num_filters": [[16, 16], [24, 24, 24]],
        "stackwise_kernel_size": [[3, 3], [5, 5, 5]],
        "stackwise_num_strides": [[2, 1], [2, 1, 1]],
        "stackwise_se_ratio": [[None, 0.25], [0.25, 0.3, 0.25]],
        "stackwise_activation": [["relu", "relu"], ["hard_swish"] * 3],
        "stackwise_padding": [[1, 1], [2, 2, 2]],
        "output_num_filters": 288,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "squeeze_and_excite": 0.5,
        "last_layer_filter": 1024,
    },
}
_KERAS_CV_NETWORKS: dict[str, dict[str, Any]] = {
    "EfficientNetV1Backbone": {**_EFFICIENTNET, "include_rescaling": False},
    "MobileNetV3Backbone": {
        "stackwise_expansion": [1, 4, 6],
        "stackwise_filters": [16, 24, 40],
        "stackwise_kernel_size": [3, 3, 5],
        "stackwise_stride": [2, 2, 2],
        "stackwise_se_ratio": [0.25, None, 0.25],
        "stackwise_activation": ["relu", "relu", "hard_swish"],
        "include_rescaling": False,
    },
}


_KECAM_NETWORKS = {
    "coatnet": "CoAtNet0",
    "efficientnet": "EfficientNetV1B0 EfficientNetV2B0",
    "efficientvit.efficientvit_m": "EfficientViT_M0",
    "fastvit": "FastViT_T8",
    "gcvit": "GCViT_XXTiny",
    "ghostnet": "GhostNet_050 GhostNetV2_100",
    "maxvit": "MaxViT_Tiny",
    "mobilenetv3_family.fbnetv3": "FBNetV3B",
    "mobilenetv3_family.lcnet": "LCNet050",
    "mobilenetv3_family.mobilenetv3": "MobileNetV3Small050",
    "mobilenetv3_family.tinynet": "TinyNetE",
    "repvit": "RepViT_M09",
    "resnest": "ResNest50",
    "resnet_family.regnet": "RegNetY040 RegNetZB16",
    "resnet_family.resnet_deep": "ResNet50D",
    "vanillanet": "VanillaNet5",
}


def _make_kecam(name: str) -> Any:
    import_object("tf_keras.backend.set_floatx")("float64")
    return import_object(f"keras_cv_attention_models.{name}")(pretrained=None)


def _kecam(name: str) -> Network:
    return of_keras.read_network(_make_kecam(name))


SYSTEMS = (
    _torch(
        "timm",
        ("timm", "torchvision"),
        lambda: import_object("timm.list_models")(),
        lambda n: import_object("timm.create_model")(n),
        TIMM,
    ),
    _torch(
        "torchvision",
        ("torchvision",),
        lambda: import_object("torchvision.models.list_models")(),
        _make_torchvision,
        TORCHVISION,
    ),
    _torch(
        "pytorchcv",
        ("pytorchcv",),
        lambda: import_object("pytorchcv.model_provider._models"),
        lambda name: import_object("pytorchcv.model_provider.get_model")(name),
        PYTORCHCV,
    ),
    _torch("monai", ("monai",), lambda: _MONAI_NETWORKS, _make_monai, MONAI, "networks with SE, and the layers alone"),
    _torch(
        "transformers",
        ("transformers", "torchvision"),
        lambda: [*import_object(f"{_AUTO}.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"), "align", "qwen2_5_omni"],
        _make_transformers,
        TRANSFORMERS,
        "image classifiers, ALIGN and the speaker encoder of Qwen2.5-Omni, as configured by default",
    ),
    _torch(
        "pretrainedmodels",
        ("pretrainedmodels", "torchvision"),
        lambda: import_object("pretrainedmodels.model_names"),
        lambda name: import_object(f"pretrainedmodels.{name}")(num_classes=1000, pretrained=None),
        PRETRAINEDMODELS,
    ),
    _torch(
        "efficientnet_pytorch",
        ("efficientnet_pytorch",),
        lambda: import_object("efficientnet_pytorch.model.VALID_MODELS"),
        lambda name: import_object("efficientnet_pytorch.EfficientNet").from_name(name),
        EFFICIENTNET_PYTORCH,
    ),
    _torch(
        "geffnet",
        ("geffnet",),
        _list_geffnet,
        lambda name: import_object("geffnet.create_model")(name),
        GEFFNET,
    ),
    _torch(
        "segmentation_models_pytorch",
        ("segmentation_models_pytorch", "timm", "torchvision"),
        lambda: import_object("segmentation_models_pytorch.encoders.get_encoder_names")(),
        _make_segmentation_model,
        SMP,
        "a Unet with scse on every encoder",
    ),
    _torch(
        "mmpretrain",
        ("mmpretrain", "mmcv", "torchvision"),
        lambda: import_object("mmpretrain.list_models")(),
        lambda name: import_object("mmpretrain.get_model")(name, pretrained=False),
        MMPRETRAIN,
    ),
    _keras("keras", ("keras",), _list_applications, _make_application, "keras.applications"),
    _keras(
        "keras-hub",
        ("keras_hub",),
        lambda: _KERAS_HUB_NETWORKS,
        lambda name: import_object(f"keras_hub.models.{name}")(**_KERAS_HUB_NETWORKS[name]),
        "a small backbone of each kind with SE",
    ),
    _keras(
        "keras-cv",
        ("keras_cv",),
        lambda: _KERAS_CV_NETWORKS,
        lambda name: import_object(f"keras_cv.src.models.{name}")(**_KERAS_CV_NETWORKS[name]),
        "a small backbone of each kind with SE",
    ),
    System(
        "kecam",
        ("tensorflow", "tf_keras", "keras_cv_attention_models"),
        lambda: [f"{module}.{name}" for module, names in _KECAM_NETWORKS.items() for name in names.split()],
        _kecam,
        "the smallest of each family with SE, on Keras 2, whose GELU divides by a float32 root of 2",
        (("TF_USE_LEGACY_KERAS", "1"),),
        limit=1e-8,
    ),
)
