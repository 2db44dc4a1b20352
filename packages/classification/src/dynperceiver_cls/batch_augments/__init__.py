"""Augmentation of whole batches on the model's device: the ImageNet recipe's RandAugment, random erasing, mixup and cutmix."""

from .mixing import MixupCutmix
from .rand_augment import OPERATIONS, RandAugment
from .random_erasing import RandomErasing

__all__ = ['OPERATIONS', 'MixupCutmix', 'RandAugment', 'RandomErasing']
