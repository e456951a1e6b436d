"""Files as names and arrays, whatever their format; a file from a stranger is data and never runs.

One module per format, each with the same four names:

    NEEDS                      modules beside NumPy without which it can do nothing
    matches(path, head)        whether a path is such a file (or folder), from its first bytes and names alone
    read(path)                 names to arrays, in the file's order, each read or mapped when it is asked for
    write(path, tensors)       the inverse, bit for bit; the folder exists, the path does not

``read`` checks every size, offset and shape against the file before it allocates anything. A broken file is a
``FileFormatError`` that names it. Modules with an underscore are what several formats share.
"""

from ._base import Tensors as Tensors
from ._base import bfloat16 as bfloat16
from ._base import import_optional as import_optional
from ._files import FORMATS as FORMATS
from ._files import WRITABLE as WRITABLE
from ._files import format_by_name as format_by_name
from ._files import format_of as format_of
from ._files import read as read
from ._files import read_metadata as read_metadata
from ._files import write as write
from ._parts import select_part as select_part
