"""The floating-point formats of SPEC K-1, each described by two integers."""

from typing import NamedTuple


class Format(NamedTuple):
    """A binary floating-point format of IEEE 754's form.

    Args:
        bits: all bits of a number.
        digits: significant bits, the leading one included.

    Example:
        >>> half = FORMATS["float16"]
        >>> half.unit, half.lowest, half.highest, half.largest
        (0.00048828125, -14, 15, 65504.0)
    """

    bits: int
    digits: int

    @property
    def unit(self) -> float:
        """Unit roundoff: the relative error of one rounding."""
        return 2.0**-self.digits

    @property
    def lowest(self) -> int:
        """Exponent of the smallest normal number, 2**lowest."""
        return 2 - 2 ** (self.bits - self.digits - 1)

    @property
    def highest(self) -> int:
        """Exponent of the largest number, which is below 2**(highest + 1)."""
        return 1 - self.lowest

    @property
    def largest(self) -> float:
        """The largest number."""
        return (2.0 - 2.0 * self.unit) * 2.0**self.highest


FORMATS = {
    "float64": Format(64, 53),
    "float32": Format(32, 24),
    "bfloat16": Format(16, 8),
    "float16": Format(16, 11),
}
