"""The network, its parts, and the builder."""

from ..feature_branches import build_feature_branch  # registers dynperceiver.FeatureBranch
from .build import build_model
from .dyn_perceiver import DynPerceiver, Segment
from .exits import (
    EarlyFeatureExit,
    ExitHeads,
    FeatureExit,
    ForwardKnowledgeTransfer,
    JoinedExit,
    LatentExit,
    MergedExit,
    ProbeExit,
)
from .finding import NetworkError, find_network, find_networks, network_with_exits
from .latent_branch import LatentBranch
from .segment_parts import PAPER_SEGMENTS, SegmentParts, Step
from .static_trunk import StaticTrunk, build_static_trunk

__all__ = [
    'PAPER_SEGMENTS',
    'DynPerceiver',
    'EarlyFeatureExit',
    'ExitHeads',
    'FeatureExit',
    'ForwardKnowledgeTransfer',
    'JoinedExit',
    'LatentBranch',
    'LatentExit',
    'MergedExit',
    'NetworkError',
    'ProbeExit',
    'Segment',
    'SegmentParts',
    'StaticTrunk',
    'Step',
    'build_feature_branch',
    'build_model',
    'build_static_trunk',
    'find_network',
    'find_networks',
    'network_with_exits',
]
