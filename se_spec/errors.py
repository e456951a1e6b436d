"""One family of errors for every mistake a caller can make; all are ``ValueError``.

A message names what was wrong, what was expected and what to do, with the same facts in every implementation.
"""


class SEError(ValueError):
    """Base of every error that se-suite raises on purpose."""


class SpecError(SEError):
    """A field of a spec has a value that is not allowed."""


class ShapeError(SEError):
    """A feature map has the wrong rank, the wrong number of channels or no spatial extent."""


class InputError(SEError):
    """A feature map is not a floating-point array of the framework that was asked."""


class ParameterError(SEError):
    """Parameters are missing, left over, of the wrong shape, or not arrays of floats."""


class LayoutError(SEError):
    """A file or mapping is not in a layout that is known, or not in the one that was named."""


class FileFormatError(SEError):
    """A file is broken, of no known format, or cannot be read or written as it was asked."""
