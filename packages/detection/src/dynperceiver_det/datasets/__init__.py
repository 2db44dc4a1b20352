"""mmdet's COCO data set, with everything that can be wrong with a file said before the first training step."""

from .coco import CocoDataset

__all__ = ['CocoDataset']
