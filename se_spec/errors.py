"""The errors for every mistake of a caller; all are ``ValueError``.

A message names the mistake, the expectation and the remedy, with the same facts in every implementation. What it shows
of a file is cut and escaped: a message never has more than ``texts.MAX_MESSAGE`` characters, and none that a terminal
would obey.
"""

from .texts import MAX_MESSAGE, shorten


class SEError(ValueError):
    """Base of every error that se-suite raises on purpose.

    Args:
        message: of one line or several.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shorten(message, MAX_MESSAGE, keep_lines=True))


class SpecError(SEError):
    """A field of a spec has a value that is not allowed."""


class ShapeError(SEError):
    """A feature map has the wrong rank, the wrong number of channels or no spatial extent."""


class InputError(SEError):
    """A feature map is not a floating-point array of the implementation's framework."""


class ParameterError(SEError):
    """Parameters are missing, left over, of the wrong shape, or not arrays of floats."""


class LayoutError(SEError):
    """A file or mapping is not in a known layout, or not in the named one."""


class FileFormatError(SEError):
    """A file is damaged, of no known format, or cannot be read or written as requested."""
