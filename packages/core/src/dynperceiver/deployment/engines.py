"""Engines for frozen networks, by name."""

from __future__ import annotations

from typing import Any

from dynperceiver_runtime.engines import EngineTable, OnnxRuntimeEngine

from .freezing import FrozenNetwork
from .torch_engine import TorchEngine

__all__ = ['ENGINES']


def _onnx_runtime_engine(frozen: FrozenNetwork, **options: Any) -> OnnxRuntimeEngine:
    """Export to memory; no file is written.

    Raises:
        ImportError: If the packages that export are not installed.
    """
    from .export import make_graphs  # needs onnx and onnxscript, without which everything else runs

    exported = make_graphs(frozen)
    return OnnxRuntimeEngine.from_graphs(exported.manifest, exported.files, **options)


ENGINES = EngineTable('a frozen network', torch=TorchEngine, onnxruntime=_onnx_runtime_engine)
"""What makes an engine of a frozen network, by the name under which users ask for it: called with it and the engine's options."""
