"""Steps of a pipeline for one image."""

from .loading import LoadImage, decode_image
from .packing import PackInputs
from .random_crops import RandomCrop, RandomFlip, RandomResizedCrop
from .resizing import CenterCrop, Resize

__all__ = ['CenterCrop', 'LoadImage', 'PackInputs', 'RandomCrop', 'RandomFlip', 'RandomResizedCrop', 'Resize', 'decode_image']
