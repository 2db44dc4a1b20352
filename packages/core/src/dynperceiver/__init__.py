"""Dyn-Perceiver for OpenMMLab: a dual-branch early-exit network (Han et al., ICCV 2023, arXiv 2306.11248).

Importing this package puts the repairs of :mod:`dynperceiver.compat` in place, and registers what configs name as ``dynperceiver.X``.
Exported networks are served by the package ``dynperceiver_runtime``, which needs neither PyTorch nor this one.
"""

from . import checkpoint, compat, data, hooks, losses, metrics, models, optim
from .feature_branches import build_feature_branch
from .models import DynPerceiver, build_model, build_static_trunk
from .structures import NetworkState

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
    'models',
    'optim',
]
__version__ = '0.1.0'

compat.apply()
