"""The network, its parts, and the builder."""

from ..feature_branches import build_feature_branch  # registers dynperceiver.FeatureBranch
from .build import build_model
from .dyn_perceiver import DynPerceiver, Segment
from .exits import ExitHeads, FeatureExit, ForwardKnowledgeTransfer, LatentExit, MergedExit
from .latent_branch import LatentBranch

__all__ = [
    'DynPerceiver',
    'ExitHeads',
    'FeatureExit',
    'ForwardKnowledgeTransfer',
    'LatentBranch',
    'LatentExit',
    'MergedExit',
    'Segment',
    'build_feature_branch',
    'build_model',
]
