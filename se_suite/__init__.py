"""What is installed of se-suite; it imports no framework.

>>> import se_suite
>>> se_suite.installed()["se_numpy"].startswith("numpy ")
True
"""

from se_spec import __version__ as __version__

from .installation import installed as installed

__all__ = ["__version__", "installed"]
