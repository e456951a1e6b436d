"""Faults of the activation: another function, or the right one in the wrong place."""

from collections.abc import Callable

import numpy as np

from se_numpy.nonlinearities import activate, sigmoid
from se_spec import LeakyReLU

from .block import Array, Block, Parameters
from .fault import Change, Fault, FaultyStage, change_spec, has_two_projections, replace_stage


def _other_activation(name: str, kind: str | LeakyReLU, source: str) -> Fault:
    return Fault(
        f"activation is {name}",
        "activation",
        f"the hidden activation is {name} instead of what the spec says",
        source,
        "replace it by the spec's activation",
        change_spec(activation=kind),
        lambda spec: has_two_projections(spec) and spec.activation != kind,
        half=lambda spec: {spec.activation, kind} != {"gelu", "gelu_tanh"},  # at most 4.7e-4 apart
    )


def _foreign_activation(name: str, source: str, *functions: Callable[[Array], Array], kind: str = "") -> Fault:
    """Replace the activation by a function that no spec has as an activation."""
    first, *others = (_replace_activation(function) for function in functions)
    return Fault(
        f"activation is {name}",
        "activation",
        f"the hidden activation is {name} instead of what the spec says",
        source,
        "replace it by the spec's activation",
        first,
        lambda spec: has_two_projections(spec) and spec.activation != kind,
        forms=tuple(others),
    )


def _replace_activation(function: Callable[[Array], Array]) -> Change:
    return replace_stage("activation", lambda block, right, u: function(u))


def _clip_activation(limit: float) -> Change:
    return replace_stage("activation", lambda block, right, u: np.minimum(right(u), limit))


def _drop_nan(block: Block, right: FaultyStage, u: Array) -> Array:
    return np.where(np.isnan(u), 0.0, right(u))


def _overflow_tanh(block: Block, right: FaultyStage, u: Array) -> Array:
    e = np.exp((2.0 * u).astype(exponential_dtype(block)))
    return ((e - 1) / (e + 1)).astype(np.float64)


def exponential_dtype(block: Block) -> str:
    """Return the dtype in which a block computes exponentials."""
    return "float64" if block.dtype == "float64" else "float32"


def _elu(u: Array, alpha: float = 1.0) -> Array:
    return np.where(u > 0.0, u, alpha * np.expm1(np.minimum(u, 0.0)))


def _mish(u: Array) -> Array:
    return u * np.tanh(np.logaddexp(0.0, u))


def _selu(u: Array) -> Array:
    return 1.0507009873554805 * _elu(u, 1.6732632423543772)


def _activate_before_bias(block: Block, right: FaultyStage, z: Array, p: Parameters) -> Array:
    u = activate(z @ p["reduce.weight"].T, block.spec.activation) + p["reduce.bias"]
    return block.gate(block.expand(u, p))


_UNBOUNDED = ("relu", "silu", "hard_swish", "gelu", "gelu_tanh", "identity")

ACTIVATIONS = (
    Fault(
        "activation missing",
        "activation",
        "two linear maps in a row, which are one",
        "a hidden layer without activation=...",
        "apply the spec's activation between the projections",
        replace_stage("activation", lambda block, right, u: u),
        lambda spec: has_two_projections(spec) and spec.activation != "identity",
    ),
    _other_activation("relu", "relu", "the default of most blocks"),
    _other_activation("silu", "silu", "EfficientNet code used for another net"),
    _other_activation("hard_swish", "hard_swish", "MobileNetV3 code; at most 0.14 from silu"),
    _other_activation("gelu", "gelu", "google/gemma_pytorch#33: exact and tanh forms under one name"),
    _other_activation("gelu_tanh", "gelu_tanh", "google/gemma_pytorch#33: at most 4.7e-4 from the exact form"),
    _other_activation("relu6", "relu6", "MobileNet code; hidden values above 6 show it"),
    _other_activation("leaky_relu(0.01)", LeakyReLU(slope=0.01), "torch's default slope"),
    _other_activation("leaky_relu(0.2)", LeakyReLU(slope=0.2), "Keras ops' default slope"),
    _other_activation("leaky_relu(0.3)", LeakyReLU(slope=0.3), "Keras layers' default slope"),
    _other_activation("sigmoid", "sigmoid", "one name for both nonlinearities"),
    _other_activation("tanh", "tanh", "recurrent habit"),
    _foreign_activation("mish", "digantamisra98/Mish; YOLOv4 code", _mish),
    _foreign_activation("softplus", "Keras' activation strings", lambda u: np.logaddexp(0.0, u)),
    _foreign_activation("elu", "Keras' activation strings", _elu),
    _foreign_activation("selu", "Keras' activation strings", _selu),
    _foreign_activation("log_sigmoid", "the wrong name completed", lambda u: -np.logaddexp(0.0, -u)),
    _foreign_activation("softsign", "Keras' activation strings", lambda u: u / (1.0 + np.abs(u))),
    _foreign_activation("hard_tanh", "tanh by a cheaper function", lambda u: np.clip(u, -1.0, 1.0)),
    _foreign_activation(
        "hard_sigmoid",
        "Bisonai/mobilenetv3-tensorflow#11: h-swish and h-sigmoid confused",
        lambda u: np.clip(u / 6.0 + 0.5, 0.0, 1.0),
        lambda u: np.clip(0.2 * u + 0.5, 0.0, 1.0),
    ),
    _foreign_activation("quick_gelu", "CLIP code: u sigmoid(1.702 u)", lambda u: u * sigmoid(1.702 * u)),
    _foreign_activation("squared relu", "transformer code", lambda u: np.maximum(u, 0.0) ** 2),
    _other_activation("leaky_relu(0.1)", LeakyReLU(slope=0.1), "darknet's slope"),
    _other_activation("leaky_relu(0.25)", LeakyReLU(slope=0.25), "the first slope of torch's PReLU"),
    Fault(
        "activation clipped",
        "activation",
        "hidden values are cut off at a limit that the spec lacks, such as 20",
        "clipped ReLU of Deep Speech, mozilla/DeepSpeech",
        "drop the limit",
        _clip_activation(20.0),
        lambda spec: has_two_projections(spec) and spec.activation in _UNBOUNDED,
        forms=tuple(_clip_activation(limit) for limit in (10.0, 1.0)),
    ),
    Fault(
        "activation drops NaN",
        "activation",
        "u > 0 ? u : 0 is 0 for NaN, and so is fmax(u, 0): NaN in x does not reach y",
        "apache/mxnet#11115",
        "u < 0 ? 0 : u, or a maximum that keeps NaN",
        replace_stage("activation", _drop_nan),
        lambda spec: has_two_projections(spec) and spec.activation in ("relu", "relu6"),
    ),
    Fault(
        "tanh overflows",
        "activation",
        "(e^2u - 1) / (e^2u + 1) is NaN for large u",
        "NervanaSystems/ngraph#3118",
        "use tanh itself",
        replace_stage("activation", _overflow_tanh),
        lambda spec: has_two_projections(spec) and spec.activation == "tanh",
    ),
    Fault(
        "activation before the bias",
        "activation",
        "activation(W z) + b",
        "a layer's fused activation, and the bias added after it",
        "add the bias first",
        replace_stage("excite", _activate_before_bias),
        lambda spec: has_two_projections(spec) and spec.bias and spec.activation != "identity",
    ),
    Fault(
        "activation applied twice",
        "activation",
        "activation(activation(u))",
        "a fused activation and a layer of its own",
        "apply it once",
        replace_stage("activation", lambda block, right, u: right(right(u))),
        lambda spec: has_two_projections(spec) and spec.activation not in ("relu", "relu6", "identity"),
    ),
    Fault(
        "activation on the squeezed values too",
        "squeeze",
        "reduce sees activation(z)",
        "an activation before each layer",
        "activate after reduce only",
        replace_stage("squeeze", lambda block, right, x: activate(right(x), block.spec.activation)),
        lambda spec: has_two_projections(spec) and spec.activation != "identity",
    ),
    Fault(
        "activation on the logits too",
        "expand",
        "gate(activation(v))",
        "an activation after each layer",
        "activate after reduce only",
        replace_stage("expand", lambda block, right, h, p: activate(right(h, p), block.spec.activation)),
        lambda spec: (
            has_two_projections(spec)
            and spec.activation != "identity"
            and (spec.activation, spec.gate) != ("relu", "relu")
        ),
    ),
    Fault(
        "activation on the feature map",
        "squeeze",
        "the block works on activation(x), as where an in-place activation overwrites x",
        "in-place activations; d-li14/mobilenetv3.pytorch#18: SE before or after the activation",
        "keep x as it came",
        replace_stage("input", lambda block, right, x: activate(x, block.spec.activation)),
        lambda spec: has_two_projections(spec) and spec.activation != "identity",
    ),
    Fault(
        "absolute value as activation",
        "activation",
        "|u|",
        "a sign lost in fixed-point code",
        "apply the spec's activation",
        replace_stage("activation", lambda block, right, u: np.abs(u)),
        has_two_projections,
    ),
)
