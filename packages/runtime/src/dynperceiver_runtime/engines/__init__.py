"""Where segments run: one file per engine."""

from .base import Engine, EngineError
from .onnx_runtime import OnnxRuntimeEngine

__all__ = ['Engine', 'EngineError', 'OnnxRuntimeEngine']
