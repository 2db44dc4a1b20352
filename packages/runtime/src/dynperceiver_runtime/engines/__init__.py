"""Where segments run: one file per engine, and a table of those that serve exported folders."""

from .base import Engine, EngineError, EngineTable
from .onnx_runtime import OnnxRuntimeEngine

__all__ = ['ENGINES', 'Engine', 'EngineError', 'EngineTable', 'OnnxRuntimeEngine']

ENGINES = EngineTable('an exported folder', onnxruntime=OnnxRuntimeEngine)
"""What serves an exported folder, by name: called with the folder and the engine's options."""
