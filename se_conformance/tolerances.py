"""How far a right implementation may be from the oracle, until it is derived per case: one table, with reasons.

Errors are relative to the largest magnitude of the array compared. ``U`` is the unit roundoff of float32. A mean over n
positions is off by about U √n of the values' size, roundings being of either sign, and the cases amplify it to hidden
values and logits of rms 4 and 2.5; the products and the nonlinearities add a constant.
"""

from typing import NamedTuple

U = 2.0**-24


class Row(NamedTuple):
    """One dtype: what storing in it costs, whether it is computed in float32, and why."""

    storage: float
    computed_in_float32: bool
    reason: str


# Measured beside each: the worst of eight implementations on the covering array, as gate / y / gradients.
TABLE = {
    # 2e-15 / 1e-15 / 3e-14
    "float64": Row(1e-12, False, "no rounding to hide behind, so that a slip of meaning shows"),
    # 5e-7 / 3e-7 / 2e-6, where 3e-6, 3e-6 and 1e-5 are allowed
    "float32": Row(0.0, True, "stored in what it is computed in"),
    # 7e-7 / 0.82 of 2^-8 / 0.93 of it
    "bfloat16": Row(2.0**-8, True, "exact inputs, computed in float32, rounded once"),
    # 4e-7 / 0.82 of 2^-11 / 0.97 of it
    "float16": Row(2.0**-11, True, "exact inputs, computed in float32, rounded once"),
}


def allowed(quantity: str, dtype: str, positions: int) -> float:
    """The bound for ``y``, ``g``, ``dx`` or ``d <parameter>`` of a map with so many positions.

    >>> allowed("y", "float64", 35)
    1e-12
    >>> f"{allowed('g', 'bfloat16', 35):.0e} {allowed('g', 'float32', 4240):.0e} {allowed('y', 'bfloat16', 35):.4f}"
    '3e-06 2e-05 0.0039'
    """
    row = TABLE[dtype]
    if not row.computed_in_float32:
        return row.storage
    computing = (20 + 6 * positions**0.5) * U
    if quantity == "g":
        return computing  # N-7: never rounded to storage
    return row.storage + computing * (1 if quantity == "y" else 3)
