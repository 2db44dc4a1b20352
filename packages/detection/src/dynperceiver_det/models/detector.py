"""Any detector of MMDetection on one of our backbones, without typing channels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from dynperceiver_runtime import UserError

from ..registry import MODELS
from .backbones import DynPerceiverBackbone, FeatureBranchBackbone, published_shapes

__all__ = ['build_detector', 'fill_neck_channels']


def _published_channels(backbone: Mapping[str, Any]) -> tuple[int, ...]:
    with MMENGINE_MODELS.switch_scope_and_registry('mmdet') as registry:
        name = backbone.get('type')
        kind = registry.get(name) if isinstance(name, str) else name
    # A subclass that builds something of its own is asked what came out of it, and so is any other backbone.
    ours = getattr(kind, '__init__', None) in (DynPerceiverBackbone.__init__, FeatureBranchBackbone.__init__)
    if ours and 'feature_branch' in backbone:
        return published_shapes(**{key: backbone[key] for key in ('feature_branch', 'width', 'out_indices') if key in backbone}).channels
    with torch.device('meta'):  # names and shapes without memory or time
        built = MMENGINE_MODELS.build(dict(backbone, _scope_='mmdet'))
    channels = getattr(built, 'out_channels', None)
    if not isinstance(channels, tuple | list) or not all(isinstance(count, int) for count in channels):
        raise UserError(
            f'backbone of type {backbone.get("type")!r} publishes no out_channels, so that neck.in_channels cannot be filled; take '
            "dynperceiver_det.DynPerceiverBackbone or FeatureBranchBackbone, or name the detector itself as the model's type and write "
            'neck.in_channels'
        )
    return tuple(channels)


def fill_neck_channels(model: Mapping[str, Any]) -> dict[str, Any]:
    """Fill ``neck.in_channels`` of a detector's config with what its backbone publishes.

    Args:
        model: Config with ``backbone`` and perhaps ``neck`` (a dict, or a list of which the first follows the backbone); it is not
            changed.

    Returns:
        Copy with the channels filled in; what a base config had there before is logged.

    Raises:
        UserError: If the backbone publishes no channels, or the neck takes one map and the backbone gives several.
    """
    model = copy.deepcopy(dict(model))
    necks = model.get('neck')
    neck = necks[0] if isinstance(necks, list | tuple) and necks else necks
    if not neck:
        return model
    channels = _published_channels(model['backbone'])
    before = neck.get('in_channels')
    if isinstance(before, int) and len(channels) > 1:
        raise UserError(
            f'neck {neck.get("type")} takes one map (in_channels={before}), but the backbone gives {len(channels)} with {channels} '
            'channels; choose one by backbone.out_indices, for example (3,)'
        )
    neck['in_channels'] = channels[0] if isinstance(before, int) else list(channels)
    if before is not None and (before if isinstance(before, int) else list(before)) != neck['in_channels']:
        print_log(f'neck.in_channels: {before} of the config becomes {neck["in_channels"]}, as the backbone publishes', logger='current')
    return model


def build_detector(detector: str, backbone: dict[str, Any], **settings: Any) -> nn.Module:
    """Build a detector of MMDetection with ``neck.in_channels`` filled from the backbone.

    In a config: ``model = dict(type='dynperceiver_det.Detector', detector='RetinaNet', backbone=dict(...), ...)``; everything else
    stays as MMDetection's own config has it. Names without a scope are MMDetection's, whatever the default scope of the config is.

    Args:
        detector: Name of the detector, with or without scope.
        backbone: Config of the backbone.
        settings: All else that the detector takes. ``neck``, where there is one, is its config, or a list of which the first follows the
            backbone; its ``in_channels`` may be left out.

    Raises:
        UserError: See :func:`fill_neck_channels`.
    """
    model = fill_neck_channels(dict(settings, backbone=backbone))
    built: nn.Module = MMDET_MODELS.build(dict(model, type=detector, _scope_='mmdet'))
    return built


MODELS.register_module(name='Detector', module=build_detector)
MMDET_MODELS.register_module(name='DynPerceiverDetector', module=build_detector)
