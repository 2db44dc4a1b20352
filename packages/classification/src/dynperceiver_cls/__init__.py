"""Dyn-Perceiver for image classification on MMEngine: the ImageNet recipe, data sets, and early exits."""

import dynperceiver  # applies the fixes that MMEngine needs on today's torch, so it comes first

from . import batch_augments, datasets, hooks, models, task, transforms
from .structures import ClsDataSample

__all__ = ['ClsDataSample', '__version__', 'batch_augments', 'datasets', 'hooks', 'models', 'task', 'transforms']
__version__ = dynperceiver.__version__
