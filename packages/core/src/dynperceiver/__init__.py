"""Dyn-Perceiver for OpenMMLab: a dual-branch early-exit network (Han et al., ICCV 2023, arXiv 2306.11248).

Importing this package puts the repairs of :mod:`dynperceiver.compat` in place, and registers what configs name by the prefix
``dynperceiver.``. Exported networks are served by the package ``dynperceiver_runtime``, which needs neither PyTorch nor this one.
"""

try:
    import mmengine.runner  # noqa: F401
    import numpy  # noqa: F401
    import torch  # noqa: F401
except Exception as error:  # missing or broken, in whatever way: python -m dynperceiver.doctor must run all the same
    _fault = error

    def __getattr__(name: str) -> object:
        """Say why there is nothing but the doctor and what it reads."""
        if name.startswith('__') or name in ('compat', 'doctor'):
            raise AttributeError(name)
        raise ImportError(
            f'dynperceiver.{name} needs NumPy, PyTorch and MMEngine, and importing them failed ({type(_fault).__name__}: {_fault}); '
            'python -m dynperceiver.doctor says what to type'
        ) from _fault

else:
    from . import checkpoint, compat, data, hooks, losses, metrics, models, optim
    from .feature_branches import build_feature_branch
    from .models import DynPerceiver, build_model, build_static_trunk
    from .structures import NetworkState

    compat.apply()

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
