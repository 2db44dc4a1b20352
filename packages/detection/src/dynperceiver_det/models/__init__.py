"""Backbones, and the builder that fits a detector's neck to them."""

from .backbones import DynPerceiverBackbone, FeatureBranchBackbone, PyramidBackbone, published_shapes
from .detector import build_detector, fill_neck_channels

__all__ = ['DynPerceiverBackbone', 'FeatureBranchBackbone', 'PyramidBackbone', 'build_detector', 'fill_neck_channels', 'published_shapes']
