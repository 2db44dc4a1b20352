"""Exits for a network that is trained already: cuts, cached maps, and the latent branch trained on them."""

from .cuts import Cut, CutNetwork, cut_network, find_cuts
from .tracing import GraftError

__all__ = ['Cut', 'CutNetwork', 'GraftError', 'cut_network', 'find_cuts']
