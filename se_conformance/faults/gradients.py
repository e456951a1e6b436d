"""Faults of the gradients in a block whose output is right; no test of the forward pass alone finds them."""

import numpy as np

from se_numpy.nonlinearities import gate_derivative
from se_spec.nonlinearities import hard_sigmoid_numbers

from ..cases import DTYPES
from .activations import exponential_dtype
from .block import Array, Block, Parameters, broadcast_gate
from .fault import (
    Applies,
    Change,
    Fault,
    FaultyStage,
    always,
    combine,
    has_hard_gate,
    has_two_projections,
    replace_stage,
)


def _change_parameter_gradients(wrong: FaultyStage) -> Change:
    """Change the gradient of each parameter."""

    def change(block: Block, right: FaultyStage, x: Array, dy: Array, p: Parameters) -> tuple[Array, Parameters]:
        dx, found = right(x, dy, p)
        return dx, {name: wrong(name, array, x) for name, array in found.items()}

    return replace_stage("gradients", change)


def _differentiate_as(**changed: object) -> Change:
    """Compute the gradients of another spec."""

    def wrong(block: Block, right: FaultyStage, x: Array, dy: Array, p: Parameters) -> tuple[Array, Parameters]:
        spec = block.spec
        block.spec = spec.replace(**changed)
        try:
            return right(x, dy, p)
        finally:
            block.spec = spec

    return replace_stage("gradients", wrong)


def _keep_first_sample(
    block: Block, right: FaultyStage, x: Array, dy: Array, p: Parameters
) -> tuple[Array, Parameters]:
    dx, _ = right(x, dy, p)
    return dx, right(x[:1], dy[:1], p)[1]


def _constant_slope(block: Block, right: FaultyStage, v: Array) -> Array:
    return np.full_like(v, hard_sigmoid_numbers(block.spec.gate).slope)


def _spread_over_positions(
    block: Block, right: FaultyStage, x: Array, dy: Array, p: Parameters
) -> tuple[Array, Parameters]:
    """Spread the maximum's gradient over all positions, as if it were a mean's."""
    dx, found = right(x, dy, p)
    g = block.run(x, p)[1]
    direct = dy * (block.spec.gain * broadcast_gate(g, x)) + (dy if block.spec.residual else 0.0)
    pooled = dx - direct
    axes = tuple(range(1, x.ndim - 1))
    return direct + np.broadcast_to(pooled.mean(axes, keepdims=True), x.shape), found


def _change_dy(wrong: FaultyStage) -> Change:
    """Compute the gradients of another dy."""
    return replace_stage("gradients", lambda block, right, x, dy, p: right(x, wrong(dy), p))


def _nan_for_zeros(dy: Array) -> Array:
    return dy if dy.any() else np.full_like(dy, np.nan)


def _nan_where_exponential_overflows(argument: FaultyStage) -> Change:
    """Make the gate's derivative NaN where e to the power of ``argument(v)`` overflows."""

    def wrong(block: Block, right: FaultyStage, v: Array) -> Array:
        with np.errstate(over="ignore"):
            overflows = np.isinf(np.exp(argument(v).astype(exponential_dtype(block))))
        return np.where(overflows, np.nan, right(v))

    return replace_stage("gate_slope", wrong)


_SELECT_SLOPE = replace_stage(
    "through_activation", lambda block, right, dh, slope: np.where(slope == 0.0, 0.0, right(dh, slope))
)
"""A relu that selects gives 0 where its slope is 0, also for NaN, as in JAX, TensorFlow and PyTorch."""


def _fault(
    name: str,
    sentence: str,
    source: str,
    remedy: str,
    change: Change,
    applies: Applies = always,
    forms: tuple[Change, ...] = (),
    dtypes: tuple[str, ...] = DTYPES,
) -> Fault:
    return Fault(name, "gradient", sentence, source, remedy, change, applies, dtypes, forms)


def _position_count(x: Array) -> float:
    return float(np.prod(x.shape[1:-1]))


GRADIENTS = (
    _fault(
        "gradient: gate detached",
        "dx lacks the path through the gate",
        "a detach or stop_gradient around the gate",
        "differentiate through the gate",
        replace_stage("through_gate", lambda block, right, direct, pooled: direct),
        forms=(replace_stage("gate_slope", lambda block, right, v: np.zeros_like(v)),),
    ),
    _fault(
        "gradient: direct path missing",
        "dx lacks dy times the gate",
        "a custom backward pass",
        "add dy times the gate",
        replace_stage("through_gate", lambda block, right, direct, pooled: pooled + 0.0 * direct),
    ),
    _fault(
        "gradient: path through the gate subtracted",
        "its sign is wrong",
        "a custom backward pass",
        "add both paths",
        replace_stage("through_gate", lambda block, right, direct, pooled: direct - pooled),
    ),
    _fault(
        "gradient: gate's derivative is 1",
        "the gate is passed straight through",
        "straight-through estimators",
        "multiply by the gate's derivative",
        replace_stage("gate_slope", lambda block, right, v: np.ones_like(v)),
        lambda spec: spec.gate != "identity",
    ),
    _fault(
        "gradient: hard_sigmoid not cut off",
        "1/6 beyond both ends",
        "pytorch#51438: right forward, wrong backward",
        "0 where the gate is clipped",
        replace_stage("gate_slope", _constant_slope),
        has_hard_gate,
    ),
    _fault(
        "gradient: sigmoid's derivative for the hard sigmoid",
        "g (1 - g)",
        "a fused backward pass",
        "the slope inside, 0 outside",
        replace_stage("gate_slope", lambda block, right, v: gate_derivative(v, "sigmoid")),
        has_hard_gate,
        forms=(replace_stage("gate_slope", lambda block, right, v: block.gate(v) * (1.0 - block.gate(v))),),
    ),
    _fault(
        "gradient: activation's derivative is 1",
        "the activation is passed straight through",
        "a custom backward pass",
        "multiply by the activation's derivative",
        replace_stage("activation_slope", lambda block, right, u: np.ones_like(u)),
        lambda spec: has_two_projections(spec) and spec.activation != "identity",
    ),
    _fault(
        "gradient: first sample only",
        "the parameters' gradients are not summed over the batch",
        "a custom backward pass",
        "sum over the batch",
        replace_stage("gradients", _keep_first_sample),
    ),
    _fault(
        "gradient: parameters' averaged over the batch",
        "divided by N",
        "a loss's mean taken twice",
        "sum over the batch",
        _change_parameter_gradients(lambda name, d, x: d / len(x)),
    ),
    _fault(
        "gradient: biases' is zero",
        "biases are not trained",
        "a buffer for a parameter",
        "make them parameters",
        _change_parameter_gradients(lambda name, d, x: 0.0 * d if name.endswith("bias") else d),
        lambda spec: spec.bias,
    ),
    _fault(
        "gradient: reduce.weight's is zero",
        "frozen",
        "requires_grad off",
        "train it",
        _change_parameter_gradients(lambda name, d, x: 0.0 * d if name == "reduce.weight" else d),
        has_two_projections,
    ),
    _fault(
        "gradient: expand.weight's is zero",
        "frozen",
        "requires_grad off",
        "train it",
        _change_parameter_gradients(lambda name, d, x: 0.0 * d if name == "expand.weight" else d),
    ),
    _fault(
        "gradient: parameters' times the positions",
        "not divided by H W, or summed over them",
        "a custom backward pass",
        "the gate is one per sample",
        _change_parameter_gradients(lambda name, d, x: d * _position_count(x)),
    ),
    _fault(
        "gradient: twice as large",
        "accumulated twice",
        "a hook that adds once more",
        "accumulate once",
        replace_stage("gradients", lambda block, right, x, dy, p: right(x, 2.0 * dy, p)),
    ),
    _fault(
        "gradient: dy ignored",
        "the gradient of sum(y)",
        "a custom backward pass",
        "multiply by dy",
        replace_stage("gradients", lambda block, right, x, dy, p: right(x, np.ones_like(dy), p)),
    ),
    _fault(
        "gradient: gain missing",
        "the forward pass has it",
        "a custom backward pass",
        "multiply by the gain",
        _differentiate_as(gain=1.0),
        lambda spec: spec.gain != 1.0,
    ),
    _fault(
        "gradient: residual missing",
        "the forward pass has it",
        "a custom backward pass",
        "add dy",
        _differentiate_as(residual=False),
        lambda spec: spec.residual,
    ),
    _fault(
        "gradient: maximum's spread over all positions",
        "as a mean's",
        "a custom backward pass",
        "give it to the maximum",
        replace_stage("gradients", _spread_over_positions),
        lambda spec: spec.squeeze == "max",
    ),
    _fault(
        "gradient: not divided by the positions",
        "the mean's gradient lacks 1 / (H W)",
        "a custom backward pass",
        "divide by H W",
        replace_stage("through_gate", lambda block, right, direct, pooled: direct + pooled * _position_count(direct)),
        lambda spec: spec.squeeze == "avg",
    ),
    _fault(
        "gradient: float64 computed in float32",
        "a constant or a step of the backward pass is in float32",
        "torch's hardsigmoid on the CPU multiplies by 1.0f / 6.0f; keras.ops.mean on the jax and torch backends",
        "compute in float64",
        replace_stage("gate_slope", lambda block, right, v: right(v).astype(np.float32).astype(np.float64)),
        lambda spec: spec.gate not in ("relu", "identity"),
        dtypes=("float64",),
    ),
    _fault(
        "gradient: NaN in dy dropped",
        "NaN in dy is taken for 0",
        "torch.nan_to_num in custom backward passes",
        "let NaN through",
        _change_dy(lambda dy: np.where(np.isnan(dy), 0.0, dy)),
    ),
    _fault(
        "gradient: dy clipped",
        "dy beyond a limit is cut off",
        "gradient clipping by value, moved into the layer",
        "clip outside the block",
        _change_dy(lambda dy: np.clip(dy, -1.0, 1.0)),
        forms=tuple(_change_dy(lambda dy, limit=limit: np.clip(dy, -limit, limit)) for limit in (5.0, 6.0, 10.0)),
    ),
    _fault(
        "gradient: NaN for dy of zeros",
        "dy is divided by its largest value, which is 0",
        "dynamic loss scaling",
        "divide by what is not 0",
        _change_dy(_nan_for_zeros),
    ),
    _fault(
        "gradient: NaN where a hidden value is 0",
        "the derivative of the activation is a quotient of the hidden sum by itself",
        "a sign function written as a quotient",
        "give the kink any subgradient",
        replace_stage("activation_slope", lambda block, right, u: np.where(u == 0.0, np.nan, right(u))),
        lambda spec: has_two_projections(spec) and spec.squeeze == "avg" and spec.activation == "relu",
    ),
    _fault(
        "gradient: NaN for large logits",
        "a where of two forms has the gradient of both, and e^v overflows in one of them",
        "jax-ml/jax: gradients of where",
        "use the framework's sigmoid, or make both arguments safe",
        _nan_where_exponential_overflows(lambda v: v),
        lambda spec: spec.gate == "sigmoid",
        forms=(
            _nan_where_exponential_overflows(lambda v: np.abs(v)),
            combine(_nan_where_exponential_overflows(lambda v: v), _SELECT_SLOPE),
            combine(_nan_where_exponential_overflows(lambda v: np.abs(v)), _SELECT_SLOPE),
        ),
    ),
)
