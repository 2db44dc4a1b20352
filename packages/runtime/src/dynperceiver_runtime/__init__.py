"""Serves early-exit networks: exit policies, engines, and a runner that stops computing for samples that have left. NumPy only."""

from .engines import Engine, EngineError, OnnxRuntimeEngine
from .errors import ExistingFileError, FileError, MissingFileError, MissingPackageError, UsageError, UserError
from .policy import ExitPolicy, PolicyError, PolicyRecord
from .results import RunResult, StreamResult, gather
from .runner import DynamicRunner

__all__ = [
    'DynamicRunner',
    'Engine',
    'EngineError',
    'ExistingFileError',
    'ExitPolicy',
    'FileError',
    'MissingFileError',
    'MissingPackageError',
    'OnnxRuntimeEngine',
    'PolicyError',
    'PolicyRecord',
    'RunResult',
    'StreamResult',
    'UsageError',
    'UserError',
    '__version__',
    'gather',
]
__version__ = '0.1.0'
