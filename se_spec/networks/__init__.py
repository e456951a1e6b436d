"""Whole networks, described once: ``NetworkSpec``, the named ones, and the flat list of layers that builders walk.

>>> from se_spec import network
>>> net = network("se_resnet50")
>>> net.parameter_count(), net.macs((224, 224))
(28088024, 3860488192)
"""

from .catalogue import NETWORKS as NETWORKS
from .catalogue import network as network
from .counts import output_length as output_length
from .counts import pads as pads
from .counts import same_pads as same_pads
from .counts import sizes as sizes
from .counts import spent as spent
from .parts import ConvStep as ConvStep
from .parts import Head as Head
from .parts import Inception as Inception
from .parts import PoolStep as PoolStep
from .parts import SEFields as SEFields
from .parts import Shortcut as Shortcut
from .parts import Stage as Stage
from .parts import Stem as Stem
from .spec import NetworkSpec as NetworkSpec
