"""CNN feature branches: ResNet, RegNetY, MobileNet-v3, EfficientNet-Lite, one table, one builder."""

from .base import FeatureBranch, FeatureBranchVariant, FeatureShapes, ResidualBlock, check_levels, pyramid_levels
from .build import build_feature_branch
from .efficientnet_lite import EfficientNetLiteVariant
from .mobilenet_v3 import InvertedResidual, InvertedResidualRow, MobileNetV3Variant
from .regnet import RegNetYVariant
from .resnet import BasicBlock, Bottleneck, ResNetVariant
from .variants import FEATURE_BRANCHES, feature_shapes, find_feature_branch, register_feature_branch

__all__ = [
    'FEATURE_BRANCHES',
    'BasicBlock',
    'Bottleneck',
    'EfficientNetLiteVariant',
    'FeatureBranch',
    'FeatureBranchVariant',
    'FeatureShapes',
    'InvertedResidual',
    'InvertedResidualRow',
    'MobileNetV3Variant',
    'RegNetYVariant',
    'ResNetVariant',
    'ResidualBlock',
    'build_feature_branch',
    'check_levels',
    'feature_shapes',
    'find_feature_branch',
    'pyramid_levels',
    'register_feature_branch',
]
