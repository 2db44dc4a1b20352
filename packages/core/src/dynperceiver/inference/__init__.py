"""Dynamic inference: policies, their calibration, and the runner that stops computing. Nothing here imports PyTorch before it is needed."""

from .backends import BACKENDS, Backend, BackendError
from .calibration import calibrate
from .policies import ExitPolicy, PolicyError, PolicyRecord
from .runner import DynamicRunner, RunResult, StreamResult, gather

__all__ = [
    'BACKENDS',
    'Backend',
    'BackendError',
    'DynamicRunner',
    'ExitPolicy',
    'PolicyError',
    'PolicyRecord',
    'RunResult',
    'StreamResult',
    'calibrate',
    'gather',
]
