"""Judges blocks of other libraries: ``python -m evidence.peer_blocks`` prints docs/PEERS.md.

Each framework, and each backend of Keras, runs in a process of its own; what is not installed has no row. In half
precision intermediates may be in half precision, as frameworks compute. The page holds no rounding errors, which would
differ from processor to processor.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from se_conformance.cases import DTYPES
from se_conformance.files import write_atomically
from se_parity.implementations import IMPLEMENTATIONS, Worker
from se_spec import SESpec


@dataclass(frozen=True)
class Peer:
    """A block of another library.

    Args:
        name: the path by which its users import it.
        modules: modules that must be importable; the first is that of its distribution.
        target: the name in ``IMPLEMENTATIONS`` in whose process it runs.
        preset: the preset of ``SESpec`` that it should be.
        make: ``(dtype) -> block``.
        channels: channels of the preset.
        fields: other fields of the preset.
        ranks: numbers of spatial axes that it supports.
        data_format: its layout, where that is not its framework's.
        finding: an explanation of what is wrong with it; empty where nothing is.
    """

    name: str
    modules: tuple[str, ...]
    target: str
    preset: str
    make: Callable[[str], Any]
    channels: int = 64
    fields: dict[str, Any] = field(default_factory=dict)
    ranks: tuple[int, ...] = (2,)
    data_format: str | None = None
    finding: str = ""

    @property
    def spec(self) -> SESpec:
        """The spec that it should implement."""
        return SESpec.preset(self.preset, self.channels, **self.fields)

    @property
    def title(self) -> str:
        """Its name, and for Keras the backend."""
        return f"{self.name} on {self.target.split()[1]}" if self.target.startswith("keras") else self.name

    @property
    def installed(self) -> bool:
        """Whether it can run here."""
        return all(importlib.util.find_spec(module) for module in (*self.modules, *IMPLEMENTATIONS[self.target].needs))

    @property
    def version(self) -> str:
        """The version of its distribution."""
        module = self.modules[0]
        return f"{module} {importlib.metadata.version(module.replace('_', '-'))}"


class PeerVerdict(NamedTuple):
    """The verdict on a peer in one dtype; ``failed`` holds names of trials, and ``ran`` counts all trials."""

    passed: bool
    ratio: float
    cause: str
    failed: tuple[str, ...]
    ran: int
    message: str

    @property
    def cell(self) -> str:
        """The text in the table."""
        return "right" if self.passed else f"FAILS: {self.cause}"


def judge_peer(peer: Peer, dtype: str) -> PeerVerdict:
    """Judge a peer in this process, which must be that of its target."""
    from se_conformance import adapt, check

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the libraries
        block = adapt(peer.make(dtype), data_format=peer.data_format)
    verdict = check(block, peer.spec, dtype=dtype, ranks=peer.ranks)
    failed = {failure.trial for failure in verdict.failures}
    names = tuple(dict.fromkeys(trial for _, trial in verdict.ran if trial in failed))
    found, cause = verdict.diagnosis, ""
    if found is not None and not verdict.passed:
        cause = "none of the catalogue" + (f", departs at {found.stage}" if found.stage != "unknown" else "")
        if found.agrees:  # a fault that it only resembles is no cause
            cause = " and ".join(fault.name for fault in found.causes[: 2 if found.together else 1])
    has_numbers = any(failure.comparison is not None for failure in verdict.failures)
    message = verdict.failures[0].message if verdict.failures and not has_numbers else ""
    return PeerVerdict(verdict.passed, verdict.worst_ratio, cause, names, len(verdict.ran), message)


def judge_named(name: str, target: str, dtype: str) -> PeerVerdict:
    """Judge a peer by its name, which can be sent to another process."""
    return judge_peer(next(peer for peer in PEERS if (peer.name, peer.target) == (name, target)), dtype)


def format_page(peers: Iterable[Peer]) -> str:
    """Format docs/PEERS.md for the installed peers, which run in one process per target."""
    workers: dict[str, Worker] = {}
    table: list[tuple[Peer, list[PeerVerdict]]] = []
    try:
        for peer in peers:
            if peer.installed:
                worker = workers.setdefault(
                    peer.target, workers.get(peer.target) or Worker(IMPLEMENTATIONS[peer.target])
                )
                table.append((peer, [worker.call(judge_named, peer.name, peer.target, dtype) for dtype in DTYPES]))
        versions = [worker.versions() for worker in workers.values()]
    finally:
        for worker in workers.values():
            worker.close()
    return "\n".join([*_head(versions), *(_line(*row) for row in table), *_findings(table)]) + "\n"


def _head(versions: list[str]) -> list[str]:
    return [
        "# Blocks of other libraries, judged",
        "",
        "`python -m evidence.peer_blocks --out docs/PEERS.md` wrote this page. It has the verdict of `check` on each",
        "block in four dtypes, for outputs and gradients: `right` if every error is within the bound of rounding. Each",
        "block is compared with the spec that its own library documents, and in half precision each of its",
        "intermediates may be rounded. Versions: " + "; ".join(dict.fromkeys(versions)) + ".",
        "",
        f"| block | version | judged as | {' | '.join(DTYPES)} |",
        f"|{'---|' * (3 + len(DTYPES))}",
    ]


def _line(peer: Peer, rows: list[PeerVerdict]) -> str:
    fields = "".join(f", {name}={value!r}" for name, value in peer.fields.items())
    judged_as = f"`{peer.preset}`, {peer.channels} channels{fields}"
    return f"| {peer.title} | {peer.version} | {judged_as} | {' | '.join(row.cell for row in rows)} |"


def _findings(table: list[tuple[Peer, list[PeerVerdict]]]) -> list[str]:
    text = ["", "## Findings"]
    for peer, rows in table:
        failed = [(dtype, row) for dtype, row in zip(DTYPES, rows, strict=True) if not row.passed]
        if failed:
            verdicts = "; ".join(
                f"{dtype}: {len(row.failed)} of {row.ran} trials fail ({_trials(row)}){_message(row)}, {row.cause}"
                for dtype, row in failed
            )
            text += ["", f"**{peer.title}.** {peer.finding or 'Not explained yet.'} The judge: {verdicts}."]
    return text


def _trials(row: PeerVerdict) -> str:
    return ", ".join(row.failed) if len(row.failed) < 4 else f"{', '.join(row.failed[:2])}, ..."


def _message(row: PeerVerdict) -> str:
    return f", {row.message}" if row.message else ""


def import_object(path: str) -> Any:
    """Import an object by its dotted path."""
    module, _, name = path.rpartition(".")
    if module.partition(".")[0] in _ON_TORCHVISION:
        _declare_operators_of_torchvision()
    return getattr(importlib.import_module(module), name)


_ON_TORCHVISION = (
    "torchvision",
    "timm",
    "transformers",
    "monai",
    "pytorchcv",
    "geffnet",
    "pretrainedmodels",
    "segmentation_models_pytorch",
    "mmpretrain",
)
_declared: list[Any] = []


def _declare_operators_of_torchvision() -> None:
    """Make torchvision importable beside a torch for which its compiled library was not built.

    The wheel in the package index is built for CUDA, and beside a CPU build of torch its library does not load. Its
    blocks do not need the library, but its import refers to two operators that only the library declares.
    """
    found = importlib.util.find_spec("torchvision")
    if _declared or found is None or found.origin is None:
        return
    import torch

    try:
        torch.ops.load_library(Path(found.origin).with_name("_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)


def _torch(
    path: str,
    preset: str,
    *arguments: Any,
    role: str = "",
    channels: int = 64,
    fields: dict[str, Any] | None = None,
    ranks: tuple[int, ...] = (2,),
    data_format: str | None = None,
    finding: str = "",
    **options: Any,
) -> Peer:
    """Make a peer from a PyTorch class and its arguments; an option such as ``"nn.SiLU"`` names a class of torch."""

    def make(dtype: str) -> Any:
        named = {
            name: import_object(f"torch.{value}") if str(value).startswith("nn.") else value
            for name, value in options.items()
        }
        return import_object(path)(*arguments, **named)

    package = path.partition(".")[0]
    modules = ("timm", "torchvision") if package == "timm" else (package,)
    return Peer(path + role, modules, "torch", preset, make, channels, fields or {}, ranks, data_format, finding)


def _mobilenet_v3_of_timm(dtype: str) -> Any:
    width = import_object("timm.models._efficientnet_builder.round_channels")
    return import_object(_EFFICIENTNET_OF_TIMM)(
        72, rd_round_fn=width, force_act_layer=import_object("torch.nn.ReLU"), gate_layer="hard_sigmoid"
    )


def _efficientnet_of_transformers(dtype: str) -> Any:
    config = import_object("transformers.EfficientNetConfig")(hidden_act="silu")
    return import_object("transformers.models.efficientnet.modeling_efficientnet.EfficientNetSqueezeExciteLayer")(
        config, 64, 64
    )


def _keras_mobilenet_v3(backend: str, *, finding: str = "") -> Peer:
    def make(dtype: str) -> Any:
        x = _map_of_keras(72, dtype)
        return import_object("keras.Model")(
            x, import_object("keras.src.applications.mobilenet_v3._se_block")(x, 72, 0.25, "")
        )

    name = "keras.applications.mobilenet_v3._se_block"
    return Peer(name, ("keras",), f"keras {backend}", "keras.mobilenet_v3", make, 72, finding=finding)


def _keras_efficientnet(backend: str, *, finding: str = "") -> Peer:
    """Cut squeeze to product out of a block of B0's second stage: 16 channels made 96, hidden a quarter of 16."""

    def make(dtype: str) -> Any:
        x = _map_of_keras(16, dtype)
        y = import_object("keras.src.applications.efficientnet.block")(x, filters_in=16, expand_ratio=6, se_ratio=0.25)
        net = import_object("keras.Model")(x, y)
        return import_object("keras.Model")(net.get_layer("se_squeeze").input, net.get_layer("se_excite").output)

    name, fields = "keras.applications.efficientnet.block", {"basis": 16}
    return Peer(name, ("keras",), f"keras {backend}", "keras.efficientnet", make, 96, fields, finding=finding)


def _squeeze_and_excite_of_keras_hub(dtype: str) -> Any:
    x = _map_of_keras(64, dtype)
    layer = import_object("keras_hub.src.models.mobilenet.mobilenet_backbone.SqueezeAndExcite2D")(64, 16, name="se")
    layer(x)
    return layer


def _map_of_keras(channels: int, dtype: str) -> Any:
    import_object("keras.config.set_dtype_policy")(dtype)
    return import_object("keras.Input")((None, None, channels), dtype=dtype)


_SE, _ESE = "timm.layers.SEModule", "timm.layers.EffectiveSEModule"
_CL = "timm.layers.squeeze_excite.SqueezeExciteCl"
_EFFICIENTNET_OF_TIMM = "timm.models._efficientnet_blocks.SqueezeExcite"
_VISION = "torchvision.ops.SqueezeExcitation"
_MONAI = "monai.networks.blocks"
_PYTORCHCV = "pytorchcv.models.common.att.SEBlock"
_REGNET = "transformers.models.regnet.modeling_regnet.RegNetSELayer"
_QWEN = "transformers.models.qwen2_5_omni.modeling_qwen2_5_omni.SqueezeExcitationBlock"

_HARD_SIGMOID_OF_TORCH = (
    "The output is right; the gradients are only as accurate as float32. The backward pass of "
    "`torch.nn.functional.hardsigmoid` on the CPU multiplies by 1/6, and computes this float64 constant as "
    "`1.0f / 6.0f`, which is too large by a relative 3e-8."
)
_MEAN_OF_KERAS = (
    "Keras' `ops.mean`, which the pooling layer calls, casts every dtype to float32 on this backend, also float64: the "
    "squeeze and all later stages have an error of 1e-7. With another mean the block passes."
)
_SIXTH_OF_KERAS = (
    "The block rounds to float32 twice. Keras' `ops.mean` casts every dtype to float32 on this backend, also float64. "
    "`ops.multiply` of a tensor and a Python number makes a float32 tensor of the number, here of the gate's 1/6, "
    "which is too large by a relative 3e-8."
)
_TWO_AXES = (
    "The block is made for images: it averages over axes 1 and 2 whatever the rank, so a volume has a gate for each "
    "position of its last axis, without an error. A comment in its code marks this as to be fixed."
)
_VIEW = "The block is right except on an empty batch: in `w.view(x.size(0), -1)` -1 is ambiguous if N is 0."

_TORCH = (
    _torch(_SE, "timm.SEModule", 64),
    _torch(_SE, "timm.SEModule.add_maxpool", 64, add_maxpool=True, role="(add_maxpool=True)"),
    _torch(_SE, "timm.SEModule", 64, bias=False, role="(bias=False)", fields={"bias": False}),
    _torch(_ESE, "timm.EffectiveSEModule", 64, finding=_HARD_SIGMOID_OF_TORCH),
    _torch(
        _ESE,
        "timm.EffectiveSEModule",
        64,
        add_maxpool=True,
        role="(add_maxpool=True)",
        fields={"squeeze": "avg_max"},
        finding=_HARD_SIGMOID_OF_TORCH,
    ),
    _torch(_CL, "timm.SqueezeExciteCl", 64, data_format="channels_last"),
    _torch(
        _CL, "timm.SqueezeExciteCl", 64, role=", volumes", ranks=(3,), data_format="channels_last", finding=_TWO_AXES
    ),
    _torch(_EFFICIENTNET_OF_TIMM, "timm.SqueezeExcite", 64),
    _torch(_EFFICIENTNET_OF_TIMM, "timm.efficientnet", 64, act_layer="nn.SiLU", role=" in EfficientNet"),
    Peer(
        f"{_EFFICIENTNET_OF_TIMM} in MobileNetV3",
        ("timm", "torchvision"),
        "torch",
        "timm.mobilenetv3",
        _mobilenet_v3_of_timm,
        72,
        finding=_HARD_SIGMOID_OF_TORCH,
    ),
    _torch("timm.models.hgnet.EseModule", "timm.hgnet", 64),
    _torch("timm.models.senet.SEModule", "timm.legacy", 64, 16),
    _torch(_VISION, "torchvision.SqueezeExcitation", 64, 16, fields={"hidden": 16}),
    _torch(_VISION, "torchvision.efficientnet", 64, 16, activation="nn.SiLU", role=" in EfficientNet"),
    _torch(
        _VISION,
        "torchvision.mobilenet_v3",
        72,
        24,
        scale_activation="nn.Hardsigmoid",
        role=" in MobileNetV3",
        channels=72,
        finding=_HARD_SIGMOID_OF_TORCH,
    ),
    *(
        _torch(f"{_MONAI}.ChannelSELayer", "monai.ChannelSELayer", rank, 64, role=f", {rank}-D", ranks=(rank,))
        for rank in (1, 2, 3)
    ),
    _torch(f"{_MONAI}.ResidualSELayer", "monai.ResidualSELayer", 2, 64),
    _torch(_PYTORCHCV, "pytorchcv", 64),
    _torch(_PYTORCHCV, "pytorchcv", 64, use_conv=False, role="(use_conv=False)", finding=_VIEW),
    Peer(
        "transformers.models.efficientnet.modeling_efficientnet.EfficientNetSqueezeExciteLayer",
        ("transformers",),
        "torch",
        "hf.efficientnet",
        _efficientnet_of_transformers,
    ),
    _torch(_REGNET, "hf.regnet", 64, 16),
    _torch(_QWEN, "hf.qwen2_5_omni", 64, 16, 64, fields={"hidden": 16}, ranks=(1,)),
)
_KERAS = (
    _keras_mobilenet_v3("tensorflow"),
    _keras_mobilenet_v3("jax", finding=_MEAN_OF_KERAS),
    _keras_mobilenet_v3("torch", finding=_SIXTH_OF_KERAS),
    _keras_efficientnet("tensorflow"),
    _keras_efficientnet("jax", finding=_MEAN_OF_KERAS),
    _keras_efficientnet("torch", finding=_MEAN_OF_KERAS),
    Peer(
        "keras_hub.src.models.mobilenet.mobilenet_backbone.SqueezeAndExcite2D",
        ("keras_hub",),
        "keras tensorflow",
        "keras_hub",
        _squeeze_and_excite_of_keras_hub,
        fields={"hidden": 16},
    ),
)
PEERS = (*_TORCH, *_KERAS)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("python -m evidence.peer_blocks", description="judge blocks of other libraries")
    parser.add_argument("--out", type=Path, help="a file to write instead of printing")
    out: Path | None = parser.parse_args(arguments).out
    missing = dict.fromkeys(peer.modules[0] for peer in PEERS if not peer.installed)
    if out is not None and missing:
        sys.exit(f"{out} would lack rows: {', '.join(missing)} is not installed; without --out the others are printed")
    text = format_page(PEERS)
    if out is None:
        print(text, end="")
        return
    with write_atomically(out) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    from evidence.peer_blocks import main as run  # not __main__'s PeerVerdict, which no other process could send

    run()
