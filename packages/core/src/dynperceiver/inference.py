"""Dynamic inference in one place: freezing, engines, policies, their calibration, and the runner that stops computing."""

from dynperceiver_runtime import (
    Engine,
    EngineError,
    ExitPolicy,
    OnnxRuntimeEngine,
    PolicyError,
    PolicyRecord,
    RunResult,
    StreamResult,
    gather,
)

from .calibration import calibrate
from .deployment import ENGINES, DynamicRunner, FreezeError, FrozenNetwork, TorchEngine, freeze

BACKENDS, Backend, BackendError = ENGINES, Engine, EngineError

__all__ = [
    'BACKENDS',
    'ENGINES',
    'Backend',
    'BackendError',
    'DynamicRunner',
    'Engine',
    'EngineError',
    'ExitPolicy',
    'FreezeError',
    'FrozenNetwork',
    'OnnxRuntimeEngine',
    'PolicyError',
    'PolicyRecord',
    'RunResult',
    'StreamResult',
    'TorchEngine',
    'calibrate',
    'freeze',
    'gather',
]
