"""Detection backbones for tests: the narrowest of every feature branch."""

from __future__ import annotations

from typing import Any

import torch
from core_models import DEPTHS, NARROW_WIDTHS

from dynperceiver_det.models import DynPerceiverBackbone, FeatureBranchBackbone, PyramidBackbone

__all__ = ['BACKBONES', 'backbone_settings', 'empty_backbone', 'narrow_backbone']

BACKBONES = (DynPerceiverBackbone, FeatureBranchBackbone)


def backbone_settings(kind: type[PyramidBackbone], feature_branch: str = 'resnet18', **changes: Any) -> dict[str, Any]:
    """Arguments of the narrowest backbone of a kind on a feature branch."""
    settings: dict[str, Any] = {'feature_branch': feature_branch, 'width': NARROW_WIDTHS.get(feature_branch, 1.0)}
    if kind is DynPerceiverBackbone:
        settings |= {'num_latents': 16, 'depth_factors': (DEPTHS[0] / 3, DEPTHS[1] / 3, DEPTHS[2] / 9, DEPTHS[3] / 3)}
    return settings | changes


def narrow_backbone(kind: type[PyramidBackbone], feature_branch: str = 'resnet18', **changes: Any) -> PyramidBackbone:
    """The narrowest backbone of a kind, float64, in training mode, with the same random weights every time."""
    torch.manual_seed(1)
    return kind(**backbone_settings(kind, feature_branch, **changes)).double().train()


def empty_backbone(kind: type[PyramidBackbone], feature_branch: str, **changes: Any) -> PyramidBackbone:
    """As :func:`narrow_backbone`, in eval mode, with zeros for weights: quick, even for the widest CNN."""
    with torch.device('meta'):
        backbone = kind(**backbone_settings(kind, feature_branch, **changes))
    backbone.to_empty(device='cpu')
    for value in backbone.state_dict().values():
        value.zero_()
    return backbone.eval()
