"""Exits for a network that is trained already: cuts, cached maps, and the latent branch trained on them."""

from .cached_maps import CachedMaps, CacheForm, cache_form, fill_cache, open_cache, trunk_outputs
from .cuts import Cut, CutNetwork, cut_network, find_cuts
from .from_configs import build_cut_network, network_from_function
from .proposals import Proposal, choose_cuts, proposal_table, propose_cuts
from .tracing import GraftError
from .training import GraftTraining, exit_logits, train_on_maps

__all__ = [
    'CacheForm',
    'CachedMaps',
    'Cut',
    'CutNetwork',
    'GraftError',
    'GraftTraining',
    'Proposal',
    'build_cut_network',
    'cache_form',
    'choose_cuts',
    'cut_network',
    'exit_logits',
    'fill_cache',
    'find_cuts',
    'network_from_function',
    'open_cache',
    'proposal_table',
    'propose_cuts',
    'train_on_maps',
    'trunk_outputs',
]
