"""Detection: which layout, network and SE blocks a file has, from names and shapes alone."""

from .blocks import find as find
from .found import Found as Found
from .networks import LayoutMatch as LayoutMatch
from .networks import NetworkMatch as NetworkMatch
from .networks import match_network as match_network
from .networks import match_networks as match_networks
