"""Faults of the activation: another function, or the right one in the wrong place."""

import numpy as np

from se_numpy.nonlinearities import activate
from se_spec import LeakyReLU

from .block import Array, Block, Parameters
from .fault import Fault, FaultyStage, change_spec, has_two_projections, replace_stage


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


def _activate_before_bias(block: Block, right: FaultyStage, z: Array, p: Parameters) -> Array:
    u = activate(z @ p["reduce.weight"].T, block.spec.activation) + p["reduce.bias"]
    return block.gate(block.expand(u, p))


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
