"""Dyn-Perceiver for MMAction2: TSM-style video recognition with early exits."""

import dynperceiver  # applies the fixes that importing mmaction2 needs, so it comes first

from . import datasets, hooks, models, task, transforms

__all__ = ['__version__', 'datasets', 'hooks', 'models', 'task', 'transforms']
__version__ = dynperceiver.__version__
