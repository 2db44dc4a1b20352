"""Dyn-Perceiver for OpenMMLab: a dual-branch early-exit network (Han et al., ICCV 2023, arXiv 2306.11248)."""

from typing import Any

from . import compat

__all__ = [
    'DynPerceiver',
    'NetworkState',
    '__version__',
    'build_feature_branch',
    'build_model',
    'build_static_trunk',
    'checkpoint',
    'compat',
    'data',
    'hooks',
    'losses',
    'metrics',
    'optim',
]
__version__ = '0.1.0'

compat.apply()

try:
    from . import checkpoint, data, hooks, losses, metrics, optim
    from .feature_branches import build_feature_branch
    from .models import DynPerceiver, build_model, build_static_trunk
    from .structures import NetworkState
except ModuleNotFoundError as error:
    if (error.name or '').partition('.')[0] not in ('torch', 'numpy', 'mmengine'):
        raise
    _missing = error.name

    # `python -m dynperceiver.doctor` imports this package first, and must be able to say what is missing.
    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise ImportError(f'dynperceiver.{name} needs {_missing}, which is missing; python -m dynperceiver.doctor says what to type')
        raise AttributeError(f'module dynperceiver has no attribute {name}')
