"""The families of networks: a file holds a family's frozen parts, and how its layers follow from them.

A family is a frozen dataclass with a ``name``, ``from_dict(data)`` and ``add_layers(graph, x)``. ``NetworkSpec`` has
the fields that all families share: stem, head, SE, batch norm, padding.
"""

from .inception import Inception as Inception
from .residual import Residual as Residual
from .residual import Shortcut as Shortcut
from .residual import Stage as Stage

Family = Residual | Inception
FAMILIES = {family.name: family for family in (Residual, Inception)}
"""The class of each family, by the name that JSON has."""
