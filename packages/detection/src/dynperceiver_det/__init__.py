"""Dyn-Perceiver for MMDetection: a backbone for every detector."""

import dynperceiver  # applies the fixes that importing OpenMMLab on today's torch needs, so it comes first

from . import compat, datasets, evaluation, models, task
from .models import fill_neck_channels

__all__ = ['__version__', 'compat', 'datasets', 'evaluation', 'fill_neck_channels', 'models', 'task']
__version__ = dynperceiver.__version__

compat.apply()
