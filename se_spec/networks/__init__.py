"""Whole networks, described once: ``NetworkSpec``, the named ones, and the flat list of layers that builders walk.

>>> from se_spec import network
>>> net = network("se_resnet50")
>>> net.parameter_count(), net.macs((224, 224))
(28088024, 3860488192)
"""

from .catalogue import NETWORKS as NETWORKS
from .catalogue import network as network
from .counts import last_uses as last_uses
from .counts import output_length as output_length
from .counts import output_sizes as output_sizes
from .counts import resolve_padding as resolve_padding
from .counts import same_padding as same_padding
from .families import Inception as Inception
from .families import Residual as Residual
from .families import Shortcut as Shortcut
from .families import Stage as Stage
from .parts import ConvStep as ConvStep
from .parts import Head as Head
from .parts import PoolStep as PoolStep
from .parts import SEFields as SEFields
from .parts import Stem as Stem
from .spec import NetworkSpec as NetworkSpec
