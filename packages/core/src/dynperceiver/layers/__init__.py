"""Building blocks: attention, latent code, fusion of the two branches, temporal shift."""

from .attention import Attention, AttentionMlp, CrossAttentionLayer, SelfAttentionLayer
from .copies import copy_without_hooks, share_hooks, without_global_hooks
from .drop_path import DropPath
from .fusion import FeatureToLatent, LatentToFeature, tokens_from_map
from .latent import ChannelExpander, TokenMixer, self_attention_stack
from .recompute import BlockSequence, call_with_cp, set_with_cp
from .squeeze_excitation import SqueezeExcitation
from .temporal import TemporalShift

__all__ = [
    'Attention',
    'AttentionMlp',
    'BlockSequence',
    'ChannelExpander',
    'CrossAttentionLayer',
    'DropPath',
    'FeatureToLatent',
    'LatentToFeature',
    'SelfAttentionLayer',
    'SqueezeExcitation',
    'TemporalShift',
    'TokenMixer',
    'call_with_cp',
    'copy_without_hooks',
    'self_attention_stack',
    'set_with_cp',
    'share_hooks',
    'tokens_from_map',
    'without_global_hooks',
]
