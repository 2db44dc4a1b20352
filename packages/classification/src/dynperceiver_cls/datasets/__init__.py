"""Data sets of images."""

from .base import ImageDataset
from .cifar import CIFAR10, CIFAR100
from .collate import stack_samples
from .folders import ImageFolder
from .imagenet import ImageNet
from .lists import CSVImages
from .packed import PackedImages

__all__ = ['CIFAR10', 'CIFAR100', 'CSVImages', 'ImageDataset', 'ImageFolder', 'ImageNet', 'PackedImages', 'stack_samples']
