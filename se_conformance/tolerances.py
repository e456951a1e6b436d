"""How far a right implementation may be from the oracle: one table, each row with its reason.

Relative to the largest magnitude of the array compared, on the cases of ``cases``, whose sums are short. Measured is
the worst of eight implementations on the covering array.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """Bounds in one dtype: of the gate, which is never rounded to it; of y; of gradients."""

    gate: float
    output: float
    gradient: float
    reason: str


TABLE = {
    # measured: 2e-15, 1e-15, 3e-14
    "float64": Row(1e-12, 1e-12, 1e-12, "no rounding to hide behind, so that a slip of meaning shows"),
    # measured: 5e-7, 3e-7, 2e-6
    "float32": Row(3e-6, 3e-6, 1e-5, "sums of up to 35, 17 and 12 terms with unit roundoff 6e-8; gradients chain five"),
    # measured: 7e-7, 0.82 and 0.93 of 2^-8
    "bfloat16": Row(3e-6, 2**-8 + 3e-6, 2**-8 + 1e-5, "exact inputs, computed in float32, rounded once: 2^-8"),
    # measured: 4e-7, 0.82 and 0.97 of 2^-11
    "float16": Row(3e-6, 2**-11 + 3e-6, 2**-11 + 1e-5, "the same with 2^-11"),
}


def allowed(quantity: str, dtype: str) -> float:
    """The bound for ``y``, ``g``, ``dx`` or ``d <parameter>``.

    >>> allowed("y", "float64")
    1e-12
    """
    row = TABLE[dtype]
    return {"g": row.gate, "y": row.output}.get(quantity, row.gradient)
