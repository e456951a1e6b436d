"""Faults of a factor between the stages; each block that has one has a number of its own, which ``fitting`` finds."""

import numpy as np

from se_spec import SESpec

from .block import Array
from .fault import Change, Fault, FaultyStage, has_two_projections, replace_stage

TEMPERATURE = "logits multiplied by a constant (temperature)"
HIDDEN_SCALE = "hidden values multiplied by a constant"
FIXED_DROPOUT = "dropout with a fixed mask"


def multiply_logits(by: FaultyStage) -> Change:
    """Multiply the logits by ``by(channels)``."""
    return replace_stage("expand", lambda block, right, h, p: right(h, p) * by(block.spec.channels))


def multiply_hidden(factors: FaultyStage) -> Change:
    """Multiply the hidden values by ``factors(hidden)``, one number for all or one for each unit."""
    return replace_stage("activation", lambda block, right, u: right(u) * factors(u.shape[-1]))


def _mask_of_dropout(hidden: int) -> Array:
    """Drop every third unit, from the second one, and double the others."""
    return 2.0 * (np.arange(hidden) % 3 != 1)


def _has_logits_of_a_curved_gate(spec: SESpec) -> bool:
    return spec.channels > 1 and spec.gate not in ("relu", "identity")


FACTORS = (
    Fault(
        TEMPERATURE,
        "expand",
        "the logits are the right ones times a constant: a temperature, sqrt(C) as in attention, a branch added twice",
        "MenghaoGuo/Awesome-Vision-Attentions#32; scaled dot products of attention",
        "use the logits as they are",
        multiply_logits(lambda channels: channels**-0.5),
        _has_logits_of_a_curved_gate,
        forms=(multiply_logits(lambda channels: 2.0), multiply_logits(lambda channels: channels)),
    ),
    Fault(
        HIDDEN_SCALE,
        "activation",
        "a factor stands between the projections, such as dropout's 1 / (1 - p) or a bottleneck that is counted twice",
        "braindecode#955: another width of the bottleneck",
        "use the hidden values as they are",
        multiply_hidden(lambda hidden: 2.0),
        lambda spec: has_two_projections(spec) and spec.bias,
        forms=(multiply_hidden(lambda hidden: 0.5),),
    ),
    Fault(
        FIXED_DROPOUT,
        "activation",
        "the same hidden units are 0 at each call, and the others are scaled",
        "variational dropout without its scope; a seed that is set at each call",
        "switch dropout off",
        multiply_hidden(_mask_of_dropout),
        lambda spec: has_two_projections(spec) and spec.hidden > 1,
    ),
)
