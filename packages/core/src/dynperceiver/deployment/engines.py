"""Engines for frozen networks, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dynperceiver_runtime import Engine, OnnxRuntimeEngine

from .export import export
from .freezing import FrozenNetwork
from .torch_engine import TorchEngine

__all__ = ['ENGINES']


def _in_onnx_runtime(frozen: FrozenNetwork, **options: Any) -> OnnxRuntimeEngine:
    """Export into memory."""
    with TemporaryDirectory(prefix='dynperceiver-export-') as folder:
        manifest = export(frozen, folder).manifest
        graphs = {graph.file: Path(folder, graph.file).read_bytes() for graph in manifest.segments}
    return OnnxRuntimeEngine.from_graphs(manifest, graphs, **options)


ENGINES: dict[str, Callable[..., Engine]] = {'torch': TorchEngine, 'onnxruntime': _in_onnx_runtime}
"""What makes an engine of a frozen network, by the name under which users ask for it."""
