"""The table of feature branches. A new architecture is a new row here, or a call of :func:`register_feature_branch`."""

from __future__ import annotations

from difflib import get_close_matches

import torch

from dynperceiver_runtime import UserError

from .base import FeatureBranchVariant, FeatureShapes
from .efficientnet_lite import EfficientNetLiteVariant
from .mobilenet_v3 import InvertedResidualRow as Row
from .mobilenet_v3 import MobileNetV3Variant
from .regnet import RegNetYVariant
from .resnet import BasicBlock, Bottleneck, ResNetVariant

__all__ = ['FEATURE_BRANCHES', 'feature_shapes', 'find_feature_branch', 'register_feature_branch']

FEATURE_BRANCHES: dict[str, FeatureBranchVariant] = {}


def register_feature_branch(variant: FeatureBranchVariant) -> FeatureBranchVariant:
    """Add a row to the table.

    Raises:
        ValueError: If the name is taken.
    """
    if variant.name in FEATURE_BRANCHES:
        raise ValueError(f'a feature branch named {variant.name!r} exists already; names are unique, choose another')
    FEATURE_BRANCHES[variant.name] = variant
    return variant


def find_feature_branch(name: str) -> FeatureBranchVariant:
    """Look up a row by name.

    Raises:
        ValueError: If there is none; the message lists near names and then all.
    """
    if name in FEATURE_BRANCHES:
        return FEATURE_BRANCHES[name]
    near = get_close_matches(str(name).lower().replace('-', '_'), FEATURE_BRANCHES, n=3, cutoff=0.4)
    hint = f'did you mean {" or ".join(near)}? ' if near else ''
    raise UserError(f'feature_branch={name!r} is unknown; {hint}Choose one of: {", ".join(FEATURE_BRANCHES)}')


def feature_shapes(name: str, width: float = 1.0) -> FeatureShapes:
    """Channels and strides of the maps x_0 .. x_4 of a feature branch, without building it.

    A variant of your own that has no method ``channels`` is built for that, without memory for its weights.

    Args:
        name: Name of the feature branch.
        width: Multiplier of the channels.

    Raises:
        UserError: If the name is unknown, or the architecture does not come in this width.
    """
    variant = find_feature_branch(name)
    if not callable(getattr(variant, 'channels', None)):
        with torch.device('meta'):
            return variant.build(width, None, 0.0).shapes
    return FeatureShapes(tuple(variant.channels(width)), tuple(variant.strides))


for _variant in (
    ResNetVariant('resnet18', BasicBlock, (2, 2, 2, 2)),
    ResNetVariant('resnet34', BasicBlock, (3, 4, 6, 3)),
    ResNetVariant('resnet50', Bottleneck, (3, 4, 6, 3)),
    RegNetYVariant('regnet_y_400mf', widths=(48, 104, 208, 440), depths=(1, 3, 6, 6), group_width=8),
    RegNetYVariant('regnet_y_800mf', widths=(64, 144, 320, 784), depths=(1, 3, 8, 2), group_width=16),
    RegNetYVariant('regnet_y_1_6gf', widths=(48, 120, 336, 888), depths=(2, 6, 17, 2), group_width=24),
    RegNetYVariant('regnet_y_3_2gf', widths=(72, 216, 576, 1512), depths=(2, 5, 13, 1), group_width=24),
    MobileNetV3Variant(
        'mobilenet_v3_large',
        stem=(Row(3, 16, 16, False, False, 1), Row(3, 64, 24, False, False, 2)),
        stages=(
            (Row(3, 72, 24, False, False, 1), Row(5, 72, 40, True, False, 2)),
            (Row(5, 120, 40, True, False, 1), Row(5, 120, 40, True, False, 1), Row(3, 240, 80, False, True, 2)),
            (
                Row(3, 200, 80, False, True, 1),
                Row(3, 184, 80, False, True, 1),
                Row(3, 184, 80, False, True, 1),
                Row(3, 480, 112, True, True, 1),
                Row(3, 672, 112, True, True, 1),
                Row(5, 672, 160, True, True, 2),
            ),
            (Row(5, 960, 160, True, True, 1), Row(5, 960, 160, True, True, 1)),
        ),
    ),
    EfficientNetLiteVariant('efficientnet_lite0', channel_factor=1.0, depth_factor=1.0, image_size=224, dropout=0.2),
    EfficientNetLiteVariant('efficientnet_lite1', channel_factor=1.0, depth_factor=1.1, image_size=240, dropout=0.2),
    EfficientNetLiteVariant('efficientnet_lite2', channel_factor=1.1, depth_factor=1.2, image_size=260, dropout=0.3),
    EfficientNetLiteVariant('efficientnet_lite3', channel_factor=1.2, depth_factor=1.4, image_size=280, dropout=0.3),
    EfficientNetLiteVariant('efficientnet_lite4', channel_factor=1.4, depth_factor=1.8, image_size=300, dropout=0.3),
):
    register_feature_branch(_variant)
