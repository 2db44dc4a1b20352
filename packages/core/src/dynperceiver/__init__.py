"""Dyn-Perceiver for OpenMMLab: a dual-branch early-exit network (Han et al., ICCV 2023, arXiv 2306.11248)."""

from . import checkpoint, compat, hooks, losses, metrics
from .feature_branches import build_feature_branch
from .models import DynPerceiver, build_model
from .structures import NetworkState

__all__ = [
    'DynPerceiver',
    'NetworkState',
    '__version__',
    'build_feature_branch',
    'build_model',
    'checkpoint',
    'compat',
    'hooks',
    'losses',
    'metrics',
]
__version__ = '0.1.0'

compat.apply()
