"""Layouts: tables of how each system names, orients and transforms its tensors, and the mappings made from them."""

from .base import BlockLayout as BlockLayout
from .base import Layout as Layout
from .block_mapping import BlockMapping as BlockMapping
from .block_mapping import map_block as map_block
from .blocks import BLOCK_LAYOUTS as BLOCK_LAYOUTS
from .mapping import NetworkMapping as NetworkMapping
from .mapping import map_network as map_network
from .networks import NETWORK_LAYOUTS as NETWORK_LAYOUTS
