"""Faults of the gate; five different functions are called "hard sigmoid"."""

from collections.abc import Callable

import numpy as np

from se_numpy.nonlinearities import activate, apply_gate, sigmoid
from se_spec import HardSigmoid, SESpec
from se_spec.nonlinearities import hard_sigmoid_numbers

from ..cases import DTYPES
from .activations import exponential_dtype
from .block import Array, Block
from .fault import Change, Fault, FaultyStage, always, change_spec, has_hard_gate, has_two_projections, replace_stage


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


def _compute_line(block: Block, v: Array) -> Array:
    numbers = hard_sigmoid_numbers(block.spec.gate)
    return numbers.slope * v + numbers.offset


def _swap_activation_and_gate(block: Block, right: FaultyStage, z: Array, p: dict[str, Array]) -> Array:
    h = apply_gate(block.reduce(z, p), block.spec.gate)
    v = block.expand(h, p)
    return activate(v, block.spec.activation)


def _softmax(block: Block, right: FaultyStage, v: Array) -> Array:
    e = np.exp(v - v.max(-1, keepdims=True, initial=-np.inf))
    return e / e.sum(-1, keepdims=True)


def _omit_offset(block: Block, right: FaultyStage, v: Array) -> Array:
    numbers = hard_sigmoid_numbers(block.spec.gate)
    return np.clip(numbers.slope * v, numbers.low, numbers.high)


def _drop_nan_at_low(block: Block, right: FaultyStage, v: Array) -> Array:
    return np.where(np.isnan(v), hard_sigmoid_numbers(block.spec.gate).low, right(v))


def _drop_nan_at_high(block: Block, right: FaultyStage, v: Array) -> Array:
    return np.where(np.isnan(v), hard_sigmoid_numbers(block.spec.gate).high, right(v))


def _overflow_sigmoid(block: Block, right: FaultyStage, v: Array) -> Array:
    e = np.exp(v.astype(exponential_dtype(block)))
    return (e / (1 + e)).astype(np.float64)


def _keep_largest(share: float) -> Change:
    """Keep that share of a sample's gates, rounded up."""

    def wrong(block: Block, right: FaultyStage, v: Array) -> Array:
        g = right(v).copy()
        others = np.argsort(g, -1, kind="stable")[..., : int(g.shape[-1] * (1.0 - share))]
        np.put_along_axis(g, others, 0.0, -1)
        return g

    return replace_stage("gate", wrong)


def _normalize_gates(divisor: Callable[[Array], Array]) -> Change:
    return replace_stage("gate", lambda block, right, v: right(v) / divisor(right(v)))


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
        replace_stage("gate", lambda block, right, v: _compute_line(block, v)),
        has_hard_gate,
    ),
    Fault(
        "hard_sigmoid clipped above only",
        "gate",
        "min(slope v + offset, high)",
        "logits beyond both ends show it",
        "clip at low too",
        replace_stage(
            "gate",
            lambda block, right, v: np.minimum(_compute_line(block, v), hard_sigmoid_numbers(block.spec.gate).high),
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
            "gate",
            lambda block, right, v: np.maximum(_compute_line(block, v), hard_sigmoid_numbers(block.spec.gate).low),
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
    _other_gate("gelu", "one name for both nonlinearities", lambda v: activate(v, "gelu")),
    _other_gate("relu6", "MobileNet code", lambda v: np.clip(v, 0.0, 6.0)),
    _other_gate("leaky_relu(0.01)", "one name for both nonlinearities", lambda v: np.where(v > 0.0, v, 0.01 * v)),
    _other_gate("log_sigmoid", "the wrong name completed", lambda v: -np.logaddexp(0.0, -v)),
    _other_gate("exp", "attention weights before they are normalised", np.exp),
    Fault(
        "gate is hard_sigmoid with slope 0.2 (Keras 2)",
        "gate",
        "the gate is clip(0.2 v + 0.5, 0, 1), where the spec has no hard sigmoid",
        "mindee/doctr#372, tensorflow/tensorflow#65381",
        "use the spec's gate",
        change_spec(gate=HardSigmoid(slope=0.2, offset=0.5)),
        lambda spec: not has_hard_gate(spec),
    ),
    Fault(
        "hard_sigmoid without its division by 6: relu6(v + 3)",
        "gate",
        "relu6(v + 3), a gate of 0 to 6",
        "MobileNetV3 code written by hand",
        "relu6(v + 3) / 6",
        replace_stage("gate", lambda block, right, v: np.clip(v + 3.0, 0.0, 6.0)),
        has_hard_gate,
    ),
    Fault(
        "hard_sigmoid drops NaN",
        "gate",
        "fmin(fmax(v, low), high) and comparisons of that order turn NaN into an end: NaN in x does not reach y",
        "apache/mxnet#11115, for the gate",
        "use a minimum and a maximum that keep NaN",
        replace_stage("gate", _drop_nan_at_low),
        has_hard_gate,
        forms=(replace_stage("gate", _drop_nan_at_high),),
    ),
    Fault(
        "sigmoid overflows",
        "gate",
        "e^v / (1 + e^v) is NaN for large v",
        "NervanaSystems/ngraph#3118",
        "1 / (1 + e^-v), or the framework's sigmoid",
        replace_stage("gate", _overflow_sigmoid),
        lambda spec: spec.gate == "sigmoid",
    ),
    Fault(
        "gate rounded to 0 or 1",
        "gate",
        "a hard decision: 1 where the logit is positive, else 0",
        "dynamic channel selection",
        "use the gate itself",
        replace_stage("gate", lambda block, right, v: np.where(np.isnan(v), v, v > 0.0)),
        lambda spec: spec.gate != "identity",
        forms=(replace_stage("gate", lambda block, right, v: (v > 0.0) * 1.0),),
        jumps=True,
    ),
    Fault(
        "only the largest gates kept (top-k)",
        "gate",
        "the other gates of a sample are 0",
        "top-k channel selection",
        "keep every gate",
        _keep_largest(0.5),
        lambda spec: spec.channels > 4 and spec.gate != "relu",
        forms=(
            *(_keep_largest(share) for share in (0.25, 0.75, 0.125, 0.8, 0.2)),
            replace_stage("gate", lambda block, right, v: right(v) * (right(v) >= right(v).mean(-1, keepdims=True))),
            replace_stage(
                "gate", lambda block, right, v: right(v) * (right(v) >= np.median(right(v), -1, keepdims=True))
            ),
            replace_stage("gate", lambda block, right, v: right(v) * (right(v) > 0.5)),
        ),
        jumps=True,
    ),
    Fault(
        "gates normalised over the channels",
        "gate",
        "the gates of a sample are divided by their mean, sum or norm",
        "attention maps that should keep the magnitude",
        "use each gate as it is",
        _normalize_gates(lambda g: g.mean(-1, keepdims=True)),
        lambda spec: spec.channels > 1 and spec.gate not in ("tanh", "identity", "relu"),
        forms=(
            _normalize_gates(lambda g: g.sum(-1, keepdims=True)),
            _normalize_gates(lambda g: np.sqrt((g * g).sum(-1, keepdims=True))),
            replace_stage("gate", lambda block, right, v: v.shape[-1] * _softmax(block, right, v)),
        ),
    ),
    Fault(
        "softmax over the batch as gate",
        "gate",
        "gates sum to one over the samples",
        "nn.Softmax(dim=0), the wrong axis",
        "gate each channel by itself",
        replace_stage("gate", lambda block, right, v: _softmax(block, right, v.swapaxes(0, -1)).swapaxes(0, -1)),
    ),
    Fault(
        "gates sorted over the channels",
        "gate",
        "the gates are sorted, and no longer belong to their channels",
        "channel pruning by the gates of SE",
        "keep the order of the channels",
        replace_stage("gate", lambda block, right, v: np.sort(right(v), -1)),
        lambda spec: spec.channels > 1,
        forms=(replace_stage("gate", lambda block, right, v: np.sort(right(v), -1)[..., ::-1]),),
    ),
    Fault(
        "hard_sigmoid without its 3: relu6(v) / 6",
        "gate",
        "clip(slope v, low, high): the offset is not added",
        "MobileNetV3 code written by hand",
        "relu6(v + 3) / 6, or the offset of the spec",
        replace_stage("gate", lambda block, right, v: np.clip(v / 6.0, 0.0, 1.0)),
        has_hard_gate,
        forms=(replace_stage("gate", _omit_offset),),
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
