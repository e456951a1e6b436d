"""Faults of the gate; five different functions are called "hard sigmoid"."""

from collections.abc import Callable

import numpy as np

from se_numpy.nonlinearities import activate, apply_gate, sigmoid
from se_spec import HardSigmoid, SESpec
from se_spec.nonlinearities import hard_sigmoid_numbers

from ..cases import DTYPES
from .block import Array, Block
from .fault import Fault, FaultyStage, always, change_spec, has_hard_gate, has_two_projections, replace_stage


def _other_hard_sigmoid(name: str, what: str, **numbers: float) -> Fault:
    other = HardSigmoid(**numbers)
    return Fault(
        name,
        "gate",
        f"the gate is {what}",
        {0.2: "tensorflow/tensorflow#65381, tensorflow/models#9303, mindee/doctr#372, PaddlePaddle/Paddle#44820"}.get(
            other.slope, "open-mmlab/mmcv#1622, iamhankai/ghostnet.pytorch#2, TF-slim MobileNetV3, Paddle"
        ),
        "write the slope and the offset; never rely on a framework's default",
        change_spec(gate=other),
        lambda spec: has_hard_gate(spec) and hard_sigmoid_numbers(spec.gate) != other,
        {0.16667: DTYPES[:2], 0.1666667: DTYPES[:1]}.get(other.slope, DTYPES),  # below what the others resolve
    )


def _other_gate(kind: str, source: str, function: Callable[[Array], Array] | None = None) -> Fault:
    """Replace the gate by another of the spec's gates, or a function that no spec has as a gate."""

    def is_other(spec: SESpec) -> bool:
        return spec.gate != kind and not (kind == "hard_sigmoid" and has_hard_gate(spec))

    return Fault(
        f"gate is {kind}",
        "gate",
        f"the gate is {kind} instead of what the spec says",
        source,
        f"replace {kind} by the spec's gate",
        change_spec(gate=kind) if function is None else replace_stage("gate", lambda block, right, v: function(v)),
        is_other,
    )


def _unclipped(block: Block, v: Array) -> Array:
    numbers = hard_sigmoid_numbers(block.spec.gate)
    return numbers.slope * v + numbers.offset


def _swap_activation_and_gate(block: Block, right: FaultyStage, z: Array, p: dict[str, Array]) -> Array:
    h = apply_gate(block.reduce(z, p), block.spec.gate)
    v = block.expand(h, p)
    return activate(v, block.spec.activation)


def _softmax(block: Block, right: FaultyStage, v: Array) -> Array:
    e = np.exp(v - v.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


GATES = (
    _other_hard_sigmoid(
        "hard_sigmoid slope 0.2 (Keras 2) instead of 1/6", "clip(0.2 v + 0.5, 0, 1)", slope=0.2, offset=0.5
    ),
    _other_hard_sigmoid("hard_sigmoid slope 1/2 (mmcv before 1.4.4)", "clip(0.5 v + 0.5, 0, 1)", slope=0.5, offset=0.5),
    _other_hard_sigmoid("hard_sigmoid is clamp(v, 0, 1) (GhostNet)", "clip(v, 0, 1)", slope=1.0, offset=0.0),
    _other_hard_sigmoid(
        "hard_sigmoid times 0.16667 (TF-slim)", "relu6(v + 3) 0.16667", slope=0.16667, offset=0.50001, high=1.00002
    ),
    _other_hard_sigmoid(
        "hard_sigmoid slope 0.1666667 (Paddle)", "clip(0.1666667 v + 0.5, 0, 1)", slope=0.1666667, offset=0.5
    ),
    _other_hard_sigmoid(
        "hard_sigmoid slope 1/6 instead of the spec's", "clip(v / 6 + 0.5, 0, 1)", slope=1 / 6, offset=0.5
    ),
    Fault(
        "hard_sigmoid not clipped",
        "gate",
        "slope v + offset, and no clip",
        "logits beyond both ends show it",
        "clip to [low, high]",
        replace_stage("gate", lambda block, right, v: _unclipped(block, v)),
        has_hard_gate,
    ),
    Fault(
        "hard_sigmoid clipped above only",
        "gate",
        "min(slope v + offset, high)",
        "logits beyond both ends show it",
        "clip at low too",
        replace_stage(
            "gate", lambda block, right, v: np.minimum(_unclipped(block, v), hard_sigmoid_numbers(block.spec.gate).high)
        ),
        has_hard_gate,
    ),
    Fault(
        "hard_sigmoid clipped below only",
        "gate",
        "max(slope v + offset, low)",
        "logits beyond both ends show it",
        "clip at high too",
        replace_stage(
            "gate", lambda block, right, v: np.maximum(_unclipped(block, v), hard_sigmoid_numbers(block.spec.gate).low)
        ),
        has_hard_gate,
    ),
    _other_gate("sigmoid", "torchvision and Keras MobileNetV3 ports"),
    _other_gate("hard_sigmoid", "MobileNetV3 code used for a sigmoid net; the difference is 0.07 at most"),
    _other_gate("tanh", "attention blocks by habit"),
    _other_gate("relu", "Project-MONAI/MONAI residual blocks"),
    _other_gate("identity", "the gate forgotten"),
    _other_gate("hard_swish", "Bisonai/mobilenetv3-tensorflow#11", lambda v: activate(v, "hard_swish")),
    _other_gate("silu", "one name for both nonlinearities of an EfficientNet", lambda v: activate(v, "silu")),
    _other_gate("hardtanh", "tanh by a cheaper function, torch's default ends", lambda v: np.clip(v, -1.0, 1.0)),
    _other_gate("softplus", "a gate that must be positive", lambda v: np.logaddexp(0.0, v)),
    _other_gate("elu", "attention blocks by habit", lambda v: np.where(v > 0.0, v, np.expm1(np.minimum(v, 0.0)))),
    _other_gate("mish", "YOLOv4 code, whose every function is Mish", lambda v: v * np.tanh(np.logaddexp(0.0, v))),
    Fault(
        "hard_sigmoid without its 3: relu6(v) / 6",
        "gate",
        "clip(v / 6, 0, 1): the 3 is not added",
        "MobileNetV3 code written by hand",
        "relu6(v + 3) / 6",
        replace_stage("gate", lambda block, right, v: np.clip(v / 6.0, 0.0, 1.0)),
        has_hard_gate,
    ),
    Fault(
        "softmax over the channels as gate",
        "gate",
        "gates sum to one over the channels",
        "attention blocks by habit",
        "gate each channel by itself",
        replace_stage("gate", _softmax),
        always,
    ),
    Fault(
        "gate applied twice in a row",
        "gate",
        "gate(gate(v)): once in a fused layer, once after it",
        "Dense(activation=...) followed by the activation",
        "apply it once",
        replace_stage("gate", lambda block, right, v: right(right(v))),
        lambda spec: spec.gate not in ("relu", "identity"),
    ),
    Fault(
        "1 - gate",
        "gate",
        "the complement of the gate",
        "sign of the logits lost",
        "use the gate itself",
        replace_stage("gate", lambda block, right, v: 1.0 - right(v)),
    ),
    Fault(
        "activation and gate swapped",
        "activation",
        "the gate's function on the hidden values, the activation's on the logits",
        "braindecode and others; arguments of a config in the wrong order",
        "activation first, gate last",
        replace_stage("excite", _swap_activation_and_gate),
        lambda spec: has_two_projections(spec) and spec.activation != spec.gate,
    ),
    Fault(
        "gain inside the gate",
        "gate",
        "gate(gain v) instead of gain gate(v)",
        "NFNet ports",
        "multiply the gate, not its argument",
        lambda block: (
            replace_stage("gate", lambda block, right, v: right(block.spec.gain * v))(block),
            replace_stage("scale", lambda block, right, x, g, z: right(x, g / block.spec.gain, z))(block),
        )[0],
        lambda spec: spec.gain != 1.0 and spec.gate != "identity" and (spec.gate != "relu" or spec.gain < 0.0),
    ),
    Fault(
        "sigmoid of the logits in base 2",
        "gate",
        "1 / (1 + 2^-v)",
        "fixed-point and accelerator code",
        "use base e",
        replace_stage("gate", lambda block, right, v: sigmoid(np.log(2.0) * v)),
        lambda spec: spec.gate == "sigmoid",
    ),
)
