"""Where segments run: PyTorch, or ONNX Runtime on exported graphs. Each backend is imported when it is asked for."""

from .base import Backend, BackendError
from .build import BACKENDS, build_backend, stored_policy

__all__ = ['BACKENDS', 'Backend', 'BackendError', 'build_backend', 'stored_policy']
