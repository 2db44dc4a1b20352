"""Dyn-Perceiver for OpenMMLab: a dual-branch early-exit network (Han et al., ICCV 2023, arXiv 2306.11248).

Importing this package imports neither torch nor MMEngine, so that exported networks can be served without them. Its parts come when they
are first used: ``dynperceiver.DynPerceiver`` and ``dynperceiver.models`` on access, and what configs name as ``dynperceiver.X`` when
MMEngine looks the name up. The repairs of :mod:`dynperceiver.compat` are in place from here on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import compat

if TYPE_CHECKING:
    from . import analysis as analysis
    from . import checkpoint, data, hooks, losses, metrics, optim
    from . import doctor as doctor
    from . import export as export
    from . import feature_branches as feature_branches
    from . import inference as inference
    from . import launch as launch
    from . import layers as layers
    from . import models as models
    from . import registry as registry
    from . import structures as structures
    from . import viz as viz
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
    'optim',
]
__version__ = '0.1.0'

_HOMES = {
    'DynPerceiver': 'models',
    'NetworkState': 'structures',
    'build_feature_branch': 'feature_branches',
    'build_model': 'models',
    'build_static_trunk': 'models',
}
_PARTS = (
    'analysis', 'checkpoint', 'compat', 'data', 'doctor', 'export', 'feature_branches', 'hooks', 'inference', 'launch', 'layers', 'losses',
    'metrics', 'models', 'optim', 'registry', 'structures', 'viz',
)  # fmt: skip

compat.prepare()

if not TYPE_CHECKING:  # type checkers would take any name for granted

    def __getattr__(name: str) -> object:
        """Import a part, or what a part defines, when it is first used (PEP 562)."""
        from importlib import import_module

        if name not in _HOMES and name not in _PARTS:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        try:
            part = import_module(f'.{_HOMES.get(name, name)}', __name__)
        except ModuleNotFoundError as error:
            if (error.name or '').partition('.')[0] not in ('torch', 'numpy', 'mmengine'):
                raise
            remedy = 'python -m dynperceiver.doctor says what to type'
            raise ImportError(f'dynperceiver.{name} needs {error.name}, which is missing; {remedy}') from error
        value = getattr(part, name) if name in _HOMES else part
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PARTS})
