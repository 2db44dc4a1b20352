"""Building blocks: attention, latent code, fusion of the two branches, temporal shift."""

from .attention import Attention, AttentionMlp, CrossAttentionLayer, SelfAttentionLayer
from .copies import copy_without_hooks, share_hooks, without_global_hooks
from .drop_path import DropPath
from .fusion import FeatureToLatent, LatentToFeature, tokens_from_map
from .latent import ChannelExpander, TokenMixer, self_attention_stack
from .map_reader import IMAGE_LAYOUT, MapLayout, MapReader, pooling_factor
from .recompute import BlockSequence, call_with_cp, set_with_cp
from .squeeze_excitation import SqueezeExcitation
from .temporal import TemporalShift

__all__ = [
    'IMAGE_LAYOUT',
    'Attention',
    'AttentionMlp',
    'BlockSequence',
    'ChannelExpander',
    'CrossAttentionLayer',
    'DropPath',
    'FeatureToLatent',
    'LatentToFeature',
    'MapLayout',
    'MapReader',
    'SelfAttentionLayer',
    'SqueezeExcitation',
    'TemporalShift',
    'TokenMixer',
    'call_with_cp',
    'copy_without_hooks',
    'pooling_factor',
    'self_attention_stack',
    'set_with_cp',
    'share_hooks',
    'tokens_from_map',
    'without_global_hooks',
]
