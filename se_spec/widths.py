"""Width rules: functions by which systems compute the hidden width R from the channels (SPEC W-1 to W-6).

Each rule returns the integer, since a checkpoint fixes the integer and not the ratio. A rule that gives 0 raises an
error, unless ``minimum=1`` is given, as ``SESpec(reduction=...)`` does.
"""

from .errors import SpecError
from .validation import not_negative, positive_integer, positive_number


def floor_width(channels: int, reduction: int, *, minimum: int = 0) -> int:
    """Compute ``channels // reduction``, as in the paper, Caffe, Cadene, senet.pytorch, smp and MONAI (W-2).

    Args:
        channels: C, at least 1.
        reduction: the ratio r, at least 1.
        minimum: the least width; ``SESpec(reduction=...)`` has 1.

    Returns:
        The hidden width R, at least 1.

    Raises:
        SpecError: an argument is not a positive integer, or the width comes out as 0.

    >>> floor_width(100, 16), floor_width(8, 16, minimum=1)
    (6, 1)
    """
    width = positive_integer("channels", channels) // positive_integer("reduction", reduction)
    return _at_least_one(max(minimum, width), f"floor: {channels} // {reduction}")


def truncated_width(channels: int, ratio: float, *, minimum: int = 0) -> int:
    """Compute ``int(channels * ratio)``, as Keras EfficientNet, nfnets and MXNet do (W-3).

    Args:
        channels: C, at least 1.
        ratio: a number above 0.
        minimum: the least width: 1 in Keras, nfnets and efficientnet_pytorch, 0 in MXNet.

    Returns:
        The hidden width R, at least 1.

    Raises:
        SpecError: ``ratio`` is not a positive number, or the width comes out as 0.

    >>> truncated_width(14, 0.25), truncated_width(3, 0.25, minimum=1)
    (3, 1)
    """
    width = int(positive_integer("channels", channels) * positive_number("ratio", ratio))
    return _at_least_one(max(minimum, width), f"truncation: int({channels} * {ratio})")


def rounded_width(channels: int, ratio: float, *, minimum: int = 0) -> int:
    """Compute ``round(channels * ratio)``, halves to even: timm EfficientNet, pycls, torchvision RegNet (W-4).

    Args:
        channels: C, at least 1.
        ratio: a number above 0.
        minimum: the least width.

    Returns:
        The hidden width R, at least 1.

    Raises:
        SpecError: ``ratio`` is not a positive number, or the width comes out as 0.

    >>> rounded_width(14, 0.25), rounded_width(18, 0.25)
    (4, 4)
    """
    width = round(positive_integer("channels", channels) * positive_number("ratio", ratio))
    return _at_least_one(max(minimum, width), f"half-even rounding: round({channels} * {ratio})")


def make_divisible(value: float, divisor: int = 8, *, minimum: int | None = None, limit: float = 0.9) -> int:
    """Round to the nearest multiple of ``divisor``, plus ``divisor`` if that is below ``limit * value`` (W-5).

    This is MobileNet's rule, and with ``limit=0`` that of timm's ``SEModule``.

    Args:
        value: the width before rounding, at least 0.
        divisor: at least 1.
        minimum: the least width, at least 1; None is ``divisor``.
        limit: the least share of ``value`` that rounding may leave, at least 0.

    Returns:
        The width, a multiple of ``divisor`` or ``minimum``.

    Raises:
        SpecError: ``divisor`` or ``minimum`` is not a positive integer, ``value`` or ``limit`` is negative.

    >>> make_divisible(72 * 0.25), make_divisible(72 / 16, limit=0.0)
    (24, 8)
    """
    not_negative("value", value), not_negative("limit", limit)
    minimum = positive_integer("divisor", divisor) if minimum is None else positive_integer("minimum", minimum)
    width = max(minimum, int(value + divisor / 2) // divisor * divisor)
    return width + divisor if width < limit * value else width


def _at_least_one(width: int, rule: str) -> int:
    if width < 1:
        raise SpecError(f"hidden width is 0 by {rule}; give hidden=... explicitly, or more channels")
    return width
