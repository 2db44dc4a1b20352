"""Dyn-Perceiver for MMAction2: TSM-style video recognition with early exits."""

import dynperceiver

from . import compat

compat.apply()  # before anything of mmaction2 is imported

from . import datasets, hooks, models, task, transforms  # noqa: E402

__all__ = ['__version__', 'compat', 'datasets', 'hooks', 'models', 'task', 'transforms']
__version__ = dynperceiver.__version__
