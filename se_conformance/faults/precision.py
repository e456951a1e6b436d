"""Faults of precision: half where float32 is required, undeclared TF32, float32 in place of float64."""

import dataclasses
import math

import numpy as np

from se_numpy.error_bounds import round_values
from se_spec import HardSigmoid, LeakyReLU, SESpec
from se_spec.nonlinearities import hard_sigmoid_numbers

from .block import Array, Block, Parameters
from .fault import (
    Applies,
    Change,
    Fault,
    FaultyStage,
    always,
    has_hard_gate,
    has_mean,
    has_two_projections,
    replace_stage,
)

WIDE = ("float64", "float32")


def _accumulate_in(dtype: str) -> Change:
    """Add the terms of the mean one after the other and rounds each partial sum."""

    def wrong(block: Block, right: FaultyStage, x: Array) -> Array:
        if block.spec.squeeze == "max":
            return right(x)
        flat = round_values(x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1]), dtype)
        total = np.zeros((len(x), x.shape[-1]))
        for position in range(flat.shape[1]):
            total = round_values(total + flat[:, position], dtype)
        mean = round_values(total / flat.shape[1], dtype)
        return mean if block.spec.squeeze == "avg" else 0.5 * mean + 0.5 * flat.max(1)

    return replace_stage("squeeze", wrong)


def _accumulate_rows_in(dtype: str) -> Change:
    """Add rows in ``dtype``, and the sums of the columns in float32."""

    def wrong(block: Block, right: FaultyStage, x: Array) -> Array:
        if block.spec.squeeze == "max":
            return right(x)
        total = np.zeros((len(x), *x.shape[2:]))
        for row in range(x.shape[1]):
            total = round_values(total + round_values(x[:, row], dtype), dtype)
        return _join_maximum(block, x, total.mean(tuple(range(1, x.ndim - 2))) / x.shape[1])

    return replace_stage("squeeze", wrong)


def _round_sum(dtype: str) -> Change:
    """Round the sum over the positions once, before it is divided."""

    def wrong(block: Block, right: FaultyStage, x: Array) -> Array:
        if block.spec.squeeze == "max":
            return right(x)
        axes = tuple(range(1, x.ndim - 1))
        total = round_values(round_values(x, dtype).sum(axes), dtype)
        return _join_maximum(block, x, round_values(total / math.prod(x.shape[1:-1]), dtype))

    return replace_stage("squeeze", wrong)


def _join_maximum(block: Block, x: Array, mean: Array) -> Array:
    return mean if block.spec.squeeze == "avg" else 0.5 * mean + 0.5 * x.max(tuple(range(1, x.ndim - 1)))


def _compute_squeeze_in(dtype: str) -> Change:
    return replace_stage("squeeze", lambda block, right, x: round_values(right(round_values(x, dtype)), dtype))


def _project_in(dtype: str, *, gate: bool) -> Change:
    """Round weights, squeezed and hidden values and logits, as autocast around the projections does."""

    def change(block: Block) -> None:
        _round_weights(dtype)(block)
        for name in ("squeeze", "reduce", "activation", "expand", *(("gate",) if gate else ())):
            _round_stage(name, dtype)(block)

    return change


def _multiply_in(dtype: str) -> Change:
    """Round both factors and the product."""

    def wrong(block: Block, right: FaultyStage, x: Array, g: Array, z: Array) -> Array:
        return round_values(right(round_values(x, dtype), round_values(g, dtype), z), dtype)

    return replace_stage("scale", wrong)


def _round_constants(block: Block) -> None:
    """Round the numbers of a leaky ReLU and of a hard sigmoid to float32."""
    spec = block.spec
    if isinstance(spec.activation, LeakyReLU):
        block.spec = block.spec.replace(activation=LeakyReLU(slope=float(np.float32(spec.activation.slope))))
    if has_hard_gate(spec):
        numbers = hard_sigmoid_numbers(spec.gate)
        block.spec = block.spec.replace(
            gate=HardSigmoid(
                *(float(np.float32(getattr(numbers, field.name))) for field in dataclasses.fields(numbers))
            )
        )


def _has_inexact_constants(spec: SESpec) -> bool:
    numbers = [spec.activation.slope] if isinstance(spec.activation, LeakyReLU) else []
    if has_hard_gate(spec):
        found = hard_sigmoid_numbers(spec.gate)
        numbers += [getattr(found, field.name) for field in dataclasses.fields(found)]
    return any(float(np.float32(number)) != number for number in numbers)


def _round_to_tf32(values: Array) -> Array:
    """Round to TF32, which has ten bits after the leading one."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(mantissa, 11)), exponent - 11)


def _truncate_to_tf32(values: Array) -> Array:
    """Truncate to TF32."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.trunc(np.ldexp(mantissa, 11)), exponent - 11)


def _round_operands(round_operand: FaultyStage) -> Change:
    """Round the operands of both products."""

    def product(name: str) -> FaultyStage:
        def wrong(block: Block, right: FaultyStage, h: Array, p: Parameters) -> Array:
            w, b = p[f"{name}.weight"], p.get(f"{name}.bias", 0.0)
            return round_operand(h) @ round_operand(w).T + b

        return wrong

    def change(block: Block) -> None:
        replace_stage("reduce", product("reduce"))(block)
        replace_stage("expand", product("expand"))(block)

    return change


def _round_stage(name: str, dtype: str) -> Change:
    """Round the result of one stage."""
    return replace_stage(name, lambda block, right, *arguments: round_values(right(*arguments), dtype))


def _round_weights(dtype: str) -> Change:
    return replace_stage(
        "parameters", lambda block, right, p: {name: round_values(array, dtype) for name, array in right(p).items()}
    )


def round_all_stages(dtype: str) -> Change:
    def change(block: Block) -> None:
        _round_weights(dtype)(block)
        for name in ("input", "squeeze", "reduce", "activation", "expand", "gate", "scale"):
            _round_stage(name, dtype)(block)

    return change


def _fault(
    name: str,
    where: str,
    sentence: str,
    source: str,
    remedy: str,
    change: Change,
    dtypes: tuple[str, ...] = WIDE,
    applies: Applies = always,
    forms: tuple[Change, ...] = (),
) -> Fault:
    return Fault(name, where, sentence, source, remedy, change, applies, dtypes, forms, rounds=True)


_HALF = "pytorch#43992, NVIDIA/NeMo#2030, huggingface/candle#3719, ROCm/MIOpen#2109, Tencent/ncnn#2698"

PRECISION = (
    _fault(
        "squeeze accumulated in bfloat16",
        "squeeze",
        "28 x 28 ones have a mean of 0.326",
        "flax.nnx.avg_pool in bfloat16",
        "accumulate in float32",
        _accumulate_in("bfloat16"),
        (*WIDE, "bfloat16"),
        has_mean,
        (_accumulate_rows_in("bfloat16"),),
    ),
    _fault(
        "squeeze accumulated in float16",
        "squeeze",
        "64 x 64 ones have a mean of 0.5, and 32 x 32 times 500 overflow",
        _HALF,
        "accumulate in float32",
        _accumulate_in("float16"),
        (*WIDE, "float16"),
        has_mean,
        (_round_sum("float16"),),
    ),
    *(
        _fault(
            f"squeeze computed in {dtype}",
            "squeeze",
            "x is rounded for the squeeze, and so is the mean; the product has x itself",
            f"{dtype} activations, though x is wider",
            "squeeze in float32",
            _compute_squeeze_in(dtype),
        )
        for dtype in ("bfloat16", "float16")
    ),
    *(
        _fault(
            f"projections computed in {dtype}",
            "reduce",
            "weights, squeezed and hidden values and logits are rounded, and the product is not",
            "autocast, or a policy of mixed precision, around the projections",
            "leave autocast in the block",
            _project_in(dtype, gate=True),
            forms=(_project_in(dtype, gate=False),),
        )
        for dtype in ("bfloat16", "float16")
    ),
    _fault(
        "constant of a nonlinearity in float32",
        "activation",
        "the slope of a leaky ReLU, or a number of the hard sigmoid, is a float32 in a float64 block",
        "tensorflow/tensorflow, attribute alpha of LeakyRelu; torch's hardsigmoid on the CPU",
        "compute it in float64",
        _round_constants,
        ("float64",),
        _has_inexact_constants,
    ),
    _fault(
        "feature map rounded to bfloat16",
        "squeeze",
        "x is rounded on its way in",
        "autocast",
        "keep x",
        _round_stage("input", "bfloat16"),
    ),
    _fault(
        "feature map rounded to float16",
        "squeeze",
        "x is rounded on its way in",
        "autocast",
        "keep x",
        _round_stage("input", "float16"),
    ),
    _fault(
        "squeezed values rounded to bfloat16",
        "squeeze",
        "z is rounded",
        "autocast's linear layers",
        "keep z",
        _round_stage("squeeze", "bfloat16"),
    ),
    _fault(
        "squeezed values rounded to float16",
        "squeeze",
        "z is rounded",
        "autocast's linear layers",
        "keep z",
        _round_stage("squeeze", "float16"),
    ),
    _fault(
        "weights rounded to bfloat16",
        "reduce",
        "parameters are stored in half",
        "mixed precision",
        "keep float32 weights",
        _round_weights("bfloat16"),
    ),
    _fault(
        "weights rounded to float16",
        "reduce",
        "parameters are stored in half",
        "mixed precision",
        "keep float32 weights",
        _round_weights("float16"),
    ),
    _fault(
        "products in TF32",
        "reduce",
        "both products round their operands to 11 bits",
        "google/flax#963, jax#7010",
        "set the matmul precision to highest, or declare products='tf32'",
        _round_operands(_round_to_tf32),
        forms=(_round_operands(_truncate_to_tf32),),
    ),
    _fault(
        "products in bfloat16",
        "reduce",
        "both products round their operands to 8 bits",
        "jax#10413: TPU's default",
        "set the matmul precision to highest, or declare products='bfloat16'",
        _round_operands(lambda values: round_values(values, "bfloat16")),
    ),
    _fault(
        "hidden values rounded to bfloat16",
        "activation",
        "h is rounded",
        "autocast",
        "keep h",
        _round_stage("activation", "bfloat16"),
        applies=has_two_projections,
    ),
    _fault(
        "logits rounded to bfloat16",
        "expand",
        "v is rounded",
        "autocast",
        "keep the logits",
        _round_stage("expand", "bfloat16"),
    ),
    _fault(
        "gate rounded to bfloat16",
        "gate",
        "an error of up to 2^-9 of the gate, though x is float32",
        "autocast around the gate alone",
        "keep the gate in x's precision",
        _round_stage("gate", "bfloat16"),
    ),
    _fault(
        "gate rounded to float16",
        "gate",
        "an error of up to 2^-12 of the gate, though x is float32",
        "autocast around the gate alone",
        "keep the gate in x's precision",
        _round_stage("gate", "float16"),
    ),
    _fault(
        "gate quantised to 8 bits",
        "gate",
        "g in steps of 1/255",
        "quantised models",
        "keep the gate in x's precision",
        replace_stage("gate", lambda block, right, v: np.rint(right(v) * 255.0) / 255.0),
        (*WIDE, "float16"),
        lambda spec: spec.gate != "identity",
    ),
    _fault(
        "output rounded to bfloat16",
        "scale",
        "y is rounded, though its type is wider",
        "a cast in the wrong place",
        "round once, to the output's type",
        _round_stage("scale", "bfloat16"),
        forms=(_multiply_in("bfloat16"),),
    ),
    _fault(
        "output rounded to float16",
        "scale",
        "y is rounded, though its type is wider",
        "a cast in the wrong place",
        "round once, to the output's type",
        _round_stage("scale", "float16"),
        forms=(_multiply_in("float16"),),
    ),
    _fault(
        "float64 computed in float32",
        "squeeze",
        "float64 goes in and comes out, and float32 is between: in the block, in one of its stages, or in a constant",
        "JAX without jax_enable_x64; keras.ops.mean on the jax and torch backends",
        "compute in float64",
        round_all_stages("float32"),
        ("float64",),
    ),
    _fault(
        "computed in bfloat16",
        "squeeze",
        "every stage is rounded",
        "autocast over the whole block",
        "leave autocast in the block",
        round_all_stages("bfloat16"),
    ),
    _fault(
        "computed in float16",
        "squeeze",
        "every stage is rounded",
        "autocast over the whole block",
        "leave autocast in the block",
        round_all_stages("float16"),
    ),
)
