"""Faults of normalization: layer or batch norm at a place of the block where the spec has none."""

import numpy as np

from se_spec import SESpec

from .block import Array, Block
from .fault import Applies, Change, Fault, FaultyStage, always, has_two_projections, replace_stage

EPSILONS = (1e-5, 1e-6, 1e-3)
"""The defaults of torch, of Flax and of Keras."""


def _normalize(values: Array, axis: int, epsilon: float) -> Array:
    centered = values - values.mean(axis, keepdims=True)
    return centered / np.sqrt((centered * centered).mean(axis, keepdims=True) + epsilon)


def _normalize_layer(stage: str, epsilon: float) -> Change:
    """Normalize over the last axis, without scale and shift."""
    return replace_stage(stage, lambda block, right, *arguments: _normalize(right(*arguments), -1, epsilon))


def _normalize_batch(stage: str, epsilon: float, *, refuses_one: bool = False) -> Change:
    """Normalize by the statistics of the batch, without scale and shift."""

    def wrong(block: Block, right: FaultyStage, *arguments: Array) -> Array:
        values = right(*arguments)
        if refuses_one and len(values) == 1:
            raise ValueError("expected more than 1 value per channel")
        return _normalize(values, 0, epsilon) if len(values) else values

    return replace_stage(stage, wrong)


def _use_fresh_statistics(stage: str) -> Change:
    """Divide by sqrt(1 + 1e-3), as batch norm with its first running statistics does in Keras."""
    return replace_stage(stage, lambda block, right, *arguments: right(*arguments) / np.sqrt(1.0 + 1e-3))


def _fault(kind: str, place: str, stage: str, source: str, change: Change, applies: Applies, *forms: Change) -> Fault:
    sentences = {
        "layer norm": "normalized over the units of each sample",
        "batch norm": "normalized by the statistics of the batch: y of a sample depends on the others",
    }
    return Fault(
        f"{kind} {place}",
        stage,
        sentences[kind],
        source,
        "drop it: the spec has no normalization",
        change,
        applies,
        forms=forms,
    )


PLACES = (
    ("of the squeezed values", "squeeze", "squeeze", "transformer habits in SE blocks"),
    ("in the bottleneck", "reduce", "reduce", "xvjiarui/GCNet: layer norm; xiaolai-sqlai/mobilenetv3#15: batch norm"),
    ("after the activation", "activation", "activation", "norm layers placed after each activation"),
    ("of the logits", "expand", "expand", "a norm layer after each convolution"),
)


def _has_place(stage: str) -> Applies:
    def applies(spec: SESpec) -> bool:
        width = spec.channels if stage in ("squeeze", "expand") else spec.hidden
        return (stage in ("squeeze", "expand") or has_two_projections(spec)) and width is not None and width > 2

    return applies


def _list_batch_forms(stage: str) -> list[Change]:
    return [_normalize_batch(stage, epsilon, refuses_one=refuses) for refuses in (False, True) for epsilon in EPSILONS][
        1:
    ]


NORMS = (
    *(
        _fault(
            "layer norm",
            place,
            stage,
            source,
            _normalize_layer(name, EPSILONS[0]),
            _has_place(name),
            *(_normalize_layer(name, epsilon) for epsilon in (*EPSILONS[1:], 1e-12)),
        )
        for place, stage, name, source in PLACES
    ),
    *(
        _fault(
            "batch norm",
            place,
            stage,
            source,
            _normalize_batch(name, EPSILONS[0]),
            always if name in ("squeeze", "expand") else has_two_projections,
            *_list_batch_forms(name),
        )
        for place, stage, name, source in PLACES
    ),
    Fault(
        "batch norm with its first statistics in the bottleneck",
        "reduce",
        "reduce's sums are divided by sqrt(1 + 1e-3): mean 0 and variance 1, which no training has changed",
        "xiaolai-sqlai/mobilenetv3#15; Keras' epsilon",
        "drop it: the spec has no normalization",
        _use_fresh_statistics("reduce"),
        has_two_projections,
        ("float64", "float32"),
    ),
)
