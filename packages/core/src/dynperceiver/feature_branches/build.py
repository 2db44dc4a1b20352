"""Build a feature branch by name."""

from __future__ import annotations

from functools import partial

from dynperceiver_runtime import UserError

from ..layers import TemporalShift
from ..registry import MODELS
from .base import FeatureBranch
from .variants import feature_shapes, find_feature_branch

__all__ = ['build_feature_branch']


def build_feature_branch(
    name: str,
    *,
    width: float = 1.0,
    num_frames: int = 1,
    temporal_shift: str | None = None,
    shift_fold_div: int = 8,
    drop_path: float = 0.0,
) -> FeatureBranch:
    """Build a feature branch: the CNN alone, without latent code and exits.

    Args:
        name: ``resnet18``, ``resnet34``, ``resnet50``, ``regnet_y_400mf``, ``regnet_y_800mf``, ``regnet_y_1_6gf``,
            ``regnet_y_3_2gf``, ``mobilenet_v3_large`` or ``efficientnet_lite0`` to ``efficientnet_lite4``.
        width: Multiplier of the channels (ResNet, MobileNet-v3, EfficientNet-Lite).
        num_frames: Frames per clip; only the temporal shift uses it.
        temporal_shift: ``None``, ``'bidirectional'`` or ``'unidirectional'`` (only from the past, for online use).
        shift_fold_div: One part in this many of the channels moves each way.
        drop_path: Stochastic-depth rate of the last block.

    Raises:
        UserError: If the name, the width or the shift is unknown.
    """
    if temporal_shift not in (None, 'bidirectional', 'unidirectional'):
        raise UserError(f"temporal_shift={temporal_shift!r}: choose None, 'bidirectional' or 'unidirectional'")
    make_shift = None
    if temporal_shift is not None:
        make_shift = partial(TemporalShift, num_frames, shift_fold_div, bidirectional=temporal_shift == 'bidirectional')
    variant = find_feature_branch(name)
    branch = variant.build(width, make_shift, drop_path)
    if callable(getattr(variant, 'channels', None)) and branch.shapes != feature_shapes(name, width):
        raise ValueError(
            f'the feature branch {name!r} publishes {feature_shapes(name, width)}, and what it built has {branch.shapes}; let its method '
            'build take them from its method channels and its attribute strides'
        )
    return branch


MODELS.register_module(name='FeatureBranch', module=build_feature_branch)
