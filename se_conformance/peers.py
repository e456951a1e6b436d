"""What the judge says of other people's blocks: ``python -m se_conformance.peers`` prints docs/PEERS.md.

Each framework, and each backend of Keras, is asked in a process of its own; what is not installed is listed as that.
Half precision is judged with its intermediates in half precision, as frameworks compute.
"""

import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from se_spec import SESpec

from .cases import DTYPES
from .targets import TARGETS, Worker


@dataclass(frozen=True)
class Peer:
    """Somebody's block.

    Args:
        name: as its users import it.
        modules: that must be importable; the first is of the distribution whose version is told.
        target: of ``TARGETS``, in whose process it is asked.
        spec: what it should be.
        make: ``(dtype) -> block``.
        ranks: of the maps that it is for.
        data_format: where it is not its framework's.
        finding: what is wrong with it, for people; empty where nothing is.
    """

    name: str
    modules: tuple[str, ...]
    target: str
    spec: SESpec
    make: Callable[[str], Any]
    ranks: tuple[int, ...] = (2,)
    data_format: str | None = None
    finding: str = ""

    @property
    def installed(self) -> bool:
        """Whether it can be asked here."""
        return all(importlib.util.find_spec(module) for module in (*self.modules, *TARGETS[self.target].needs))

    @property
    def version(self) -> str:
        """Of its distribution."""
        return importlib.metadata.version(_DISTRIBUTIONS.get(self.modules[0], self.modules[0]))


_DISTRIBUTIONS = {"keras_cv": "keras-cv", "keras_hub": "keras-hub"}


class Row(NamedTuple):
    """What was said of a peer in one dtype."""

    passed: bool
    ratio: float
    cause: str
    failed: tuple[str, ...]
    ran: int


def judge(peer: Peer, dtype: str) -> Row:
    """Ask in this process, which must be one for its target."""
    from . import adapt, check

    block = adapt(_quietly(peer.make, dtype), data_format=peer.data_format)
    verdict = check(block, peer.spec, dtype=dtype, ranks=peer.ranks)
    failed = {(one.rank, one.trial) for one in verdict.failures}
    names = tuple(trial for rank, trial in verdict.ran if (rank, trial) in failed)
    cause = ""
    if verdict.diagnosis is not None and verdict.failures:
        told = "" if verdict.diagnosis.agrees else "resembles "
        cause = told + verdict.causes[0] if verdict.causes else f"none of the catalogue, departs at {verdict.stage}"
    return Row(verdict.passed, verdict.worst_ratio, cause, names, len(verdict.ran))


def judge_named(name: str, target: str, dtype: str) -> Row:
    """``judge``, by what may be sent to another process."""
    return judge(next(peer for peer in PEERS if (peer.name, peer.target) == (name, target)), dtype)


def asked(peers: Iterable[Peer], dtypes: tuple[str, ...] = DTYPES) -> Iterator[tuple[Peer, str, Row]]:
    """Every installed peer in every dtype, one process per target."""
    workers: dict[str, Worker] = {}
    try:
        for peer in peers:
            if not peer.installed:
                continue
            worker = workers.setdefault(peer.target, workers.get(peer.target) or Worker(TARGETS[peer.target]))
            for dtype in dtypes:
                yield peer, dtype, worker.call(judge_named, peer.name, peer.target, dtype)
    finally:
        for worker in workers.values():
            worker.close()


def _quietly(make: Callable[[str], Any], dtype: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        return make(dtype)


def _get(path: str) -> Any:
    """An object by its dotted path, imported."""
    module, _, name = path.rpartition(".")
    if module.partition(".")[0] in ("timm", "torchvision"):
        _declare_operators_of_torchvision()
    return getattr(importlib.import_module(module), name)


_declared: list[Any] = []


def _declare_operators_of_torchvision() -> None:
    """Let torchvision be imported beside a torch for which its compiled library was not built.

    The wheel in the package index is built for CUDA, and beside a CPU build of torch its library does not load. Its
    blocks need none of it, but its import says something of two operators that only the library would declare.
    """
    import torch

    found = importlib.util.find_spec("torchvision")
    if _declared or found is None or found.origin is None:
        return
    try:
        torch.ops.load_library(Path(found.origin).with_name("_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)


def _torch(path: str, *arguments: Any, **options: str) -> Callable[[str], Any]:
    """A class and its arguments; an option that is a string of torch.nn names a class of it."""

    def make(dtype: str) -> Any:
        import torch

        resolved = {
            name: getattr(torch.nn, value.removeprefix("nn.")) if str(value).startswith("nn.") else value
            for name, value in options.items()
        }
        return _get(path)(*arguments, **resolved)

    return make


def _mobilenet_v3_of_timm(dtype: str) -> Any:
    from torch import nn

    block = _get("timm.models._efficientnet_blocks.SqueezeExcite")
    width = _get("timm.models._efficientnet_builder.round_channels")
    return block(72, rd_round_fn=width, force_act_layer=nn.ReLU, gate_layer="hard_sigmoid")


def _efficientnet_of_transformers(dtype: str) -> Any:
    config = _get("transformers.EfficientNetConfig")(hidden_act="silu")
    return _get("transformers.models.efficientnet.modeling_efficientnet.EfficientNetSqueezeExciteLayer")(config, 64, 64)


def _regnet_of_transformers_in_flax(dtype: str) -> Any:
    import jax.numpy as jnp

    layer = _get("transformers.models.regnet.modeling_flax_regnet.FlaxRegNetSELayer")
    return layer(in_channels=64, reduced_channels=16, dtype=jnp.dtype(dtype))


def _mobilenet_v3_of_keras(dtype: str) -> Any:
    keras = _keras(dtype)
    x = keras.Input((None, None, 72), dtype=dtype)
    return keras.Model(x, _get("keras.src.applications.mobilenet_v3._se_block")(x, 72, 0.25, ""))


def _efficientnet_of_keras(dtype: str) -> Any:
    """From the squeeze to the product of the second stage's first block: 96 channels, a quarter of 16 hidden."""
    keras = _keras(dtype)
    net = keras.applications.EfficientNetB0(weights=None, include_top=False, input_shape=(None, None, 3))
    squeeze, product = net.get_layer("block2a_se_squeeze"), net.get_layer("block2a_se_excite")
    return keras.Model(squeeze.input, product.output)


def _squeeze_and_excite_of_keras_cv(dtype: str) -> Any:
    keras = _keras(dtype)
    layer = _get("keras_cv.src.layers.regularization.squeeze_excite.SqueezeAndExcite2D")(64)
    layer(keras.Input((None, None, 64), dtype=dtype))
    return layer


def _squeeze_and_excite_of_keras_hub(dtype: str) -> Any:
    keras = _keras(dtype)
    layer = _get("keras_hub.src.models.mobilenet.mobilenet_backbone.SqueezeAndExcite2D")(64, 16, name="se")
    layer(keras.Input((None, None, 64), dtype=dtype))
    return layer


def _keras(dtype: str) -> Any:
    import keras

    keras.config.set_dtype_policy(dtype)
    return keras


def _of(name: str, channels: int = 64, **fields: Any) -> SESpec:
    return SESpec.preset(name, channels, **fields)


_TIMM = ("timm", "torchvision")
_EFFICIENTNET_BLOCKS = "timm.models._efficientnet_blocks.SqueezeExcite"

PEERS = (
    Peer("timm.layers.SEModule", _TIMM, "torch", _of("timm.SEModule"), _torch("timm.layers.SEModule", 64)),
    Peer(
        "timm.layers.SEModule(add_maxpool=True)",
        _TIMM,
        "torch",
        _of("timm.SEModule.add_maxpool"),
        _torch("timm.layers.SEModule", 64, add_maxpool=True),
    ),
    Peer(
        "timm.layers.SqueezeExcite(bias=False)",
        _TIMM,
        "torch",
        _of("timm.SEModule", bias=False),
        _torch("timm.layers.SqueezeExcite", 64, bias=False),
    ),
    Peer(
        "timm.layers.EffectiveSEModule",
        _TIMM,
        "torch",
        _of("timm.EffectiveSEModule"),
        _torch("timm.layers.EffectiveSEModule", 64),
    ),
    Peer(
        "timm.layers.EffectiveSEModule(add_maxpool=True)",
        _TIMM,
        "torch",
        _of("timm.EffectiveSEModule", squeeze="avg_max"),
        _torch("timm.layers.EffectiveSEModule", 64, add_maxpool=True),
    ),
    Peer(
        "timm.layers.squeeze_excite.SqueezeExciteCl",
        _TIMM,
        "torch",
        _of("timm.SqueezeExciteCl"),
        _torch("timm.layers.squeeze_excite.SqueezeExciteCl", 64),
        data_format="channels_last",
    ),
    Peer(
        "timm.layers.squeeze_excite.SqueezeExciteCl, 3-D maps",
        _TIMM,
        "torch",
        _of("timm.SqueezeExciteCl"),
        _torch("timm.layers.squeeze_excite.SqueezeExciteCl", 64),
        ranks=(3,),
        data_format="channels_last",
    ),
    Peer(
        _EFFICIENTNET_BLOCKS,
        _TIMM,
        "torch",
        _of("timm.SqueezeExcite"),
        _torch(_EFFICIENTNET_BLOCKS, 64),
    ),
    Peer(
        f"{_EFFICIENTNET_BLOCKS} in EfficientNet",
        _TIMM,
        "torch",
        _of("timm.efficientnet"),
        _torch(_EFFICIENTNET_BLOCKS, 64, act_layer="nn.SiLU"),
    ),
    Peer(f"{_EFFICIENTNET_BLOCKS} in MobileNetV3", _TIMM, "torch", _of("timm.mobilenetv3", 72), _mobilenet_v3_of_timm),
    Peer("timm.models.hgnet.EseModule", _TIMM, "torch", _of("timm.hgnet"), _torch("timm.models.hgnet.EseModule", 64)),
    Peer(
        "timm.models.senet.SEModule", _TIMM, "torch", _of("timm.legacy"), _torch("timm.models.senet.SEModule", 64, 16)
    ),
    Peer(
        "torchvision.ops.SqueezeExcitation",
        ("torchvision",),
        "torch",
        _of("torchvision.SqueezeExcitation", hidden=16),
        _torch("torchvision.ops.SqueezeExcitation", 64, 16),
    ),
    Peer(
        "torchvision.ops.SqueezeExcitation in EfficientNet",
        ("torchvision",),
        "torch",
        _of("torchvision.efficientnet"),
        _torch("torchvision.ops.SqueezeExcitation", 64, 16, activation="nn.SiLU"),
    ),
    Peer(
        "torchvision.ops.SqueezeExcitation in MobileNetV3",
        ("torchvision",),
        "torch",
        _of("torchvision.mobilenet_v3", 72),
        _torch("torchvision.ops.SqueezeExcitation", 72, 24, scale_activation="nn.Hardsigmoid"),
    ),
    *(
        Peer(
            f"monai.networks.blocks.ChannelSELayer, {rank}-D maps",
            ("monai",),
            "torch",
            _of("monai.ChannelSELayer"),
            _torch("monai.networks.blocks.ChannelSELayer", rank, 64),
            ranks=(rank,),
        )
        for rank in (1, 2, 3)
    ),
    Peer(
        "monai.networks.blocks.ResidualSELayer",
        ("monai",),
        "torch",
        _of("monai.ResidualSELayer"),
        _torch("monai.networks.blocks.ResidualSELayer", 2, 64),
    ),
    Peer(
        "pytorchcv.models.common.att.SEBlock",
        ("pytorchcv",),
        "torch",
        _of("pytorchcv"),
        _torch("pytorchcv.models.common.att.SEBlock", 64),
    ),
    Peer(
        "pytorchcv.models.common.att.SEBlock(use_conv=False)",
        ("pytorchcv",),
        "torch",
        _of("pytorchcv"),
        _torch("pytorchcv.models.common.att.SEBlock", 64, use_conv=False),
    ),
    Peer(
        "transformers, EfficientNetSqueezeExciteLayer",
        ("transformers",),
        "torch",
        _of("hf.efficientnet"),
        _efficientnet_of_transformers,
    ),
    Peer(
        "transformers, RegNetSELayer",
        ("transformers",),
        "torch",
        _of("hf.regnet"),
        _torch("transformers.models.regnet.modeling_regnet.RegNetSELayer", 64, 16),
    ),
    Peer(
        "transformers, SqueezeExcitationBlock of Qwen2.5-Omni",
        ("transformers",),
        "torch",
        _of("hf.qwen2_5_omni", hidden=16),
        _torch("transformers.models.qwen2_5_omni.modeling_qwen2_5_omni.SqueezeExcitationBlock", 64, 16, 64),
        ranks=(1,),
    ),
    Peer(
        "transformers, FlaxRegNetSELayer",
        ("transformers",),
        "linen",
        _of("hf.regnet"),
        _regnet_of_transformers_in_flax,
    ),
    *(
        Peer(name, modules, target, spec, make)
        for target in ("keras tensorflow", "keras jax", "keras torch")
        for name, modules, spec, make in (
            (
                "keras.applications MobileNetV3, _se_block",
                ("keras",),
                _of("keras.mobilenet_v3", 72),
                _mobilenet_v3_of_keras,
            ),
            (
                "keras.applications EfficientNetB0, block2a_se",
                ("keras",),
                _of("keras.efficientnet", 96, basis=16),
                _efficientnet_of_keras,
            ),
            ("keras_cv.layers.SqueezeAndExcite2D", ("keras_cv",), _of("keras_cv"), _squeeze_and_excite_of_keras_cv),
            (
                "keras_hub, SqueezeAndExcite2D of MobileNet",
                ("keras_hub",),
                _of("keras_hub", hidden=16),
                _squeeze_and_excite_of_keras_hub,
            ),
        )
    ),
)
