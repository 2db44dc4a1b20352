"""Find and build a backend by name; it is imported only then.

Backends are named, not imported, because a machine that serves exported graphs has no PyTorch, and because the one that exports a network
in memory stands in ``dynperceiver.export``, which builds on this package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from .base import Backend, BackendError

__all__ = ['BACKENDS', 'BackendEntry', 'build_backend', 'stored_policy']


@dataclass(frozen=True)
class BackendEntry:
    """Where a backend's classes are, each as ``module:class``.

    Attributes:
        for_network: Class for a network in memory.
        for_folder: Class for an exported folder; ``None`` where it cannot run one.
    """

    for_network: str
    for_folder: str | None = None


BACKENDS = {
    'torch': BackendEntry('dynperceiver.inference.backends.torch_backend:TorchBackend'),
    'onnxruntime': BackendEntry(
        'dynperceiver.export.in_memory:ExportingBackend', 'dynperceiver.inference.backends.onnx_runtime:OnnxRuntimeBackend'
    ),
}
"""Backends by the name under which users ask for them."""


def build_backend(model: Any, backend: str | Backend, options: Mapping[str, Any]) -> Backend:
    """The backend of a runner.

    Args:
        model: A network, a model that holds one, or an exported folder.
        backend: Name in :data:`BACKENDS`, or a backend, which is returned.
        options: Keyword arguments of the backend.

    Raises:
        BackendError: If the name is unknown, or the backend cannot run such a model.
    """
    if not isinstance(backend, str):
        return backend
    if backend not in BACKENDS:
        raise BackendError(f'backend={backend!r} is unknown; choose {" or ".join(map(repr, BACKENDS))}')
    entry = BACKENDS[backend]
    place = entry.for_network
    if isinstance(model, str | PathLike):
        if entry.for_folder is None:
            raise BackendError(
                f"model={str(model)!r} with backend={backend!r}: an exported folder runs in ONNX Runtime; pass backend='onnxruntime', or "
                'the network itself'
            )
        place = entry.for_folder
    module, _, name = place.partition(':')
    built: Backend = getattr(importlib.import_module(module), name)(model, **options)
    return built


def stored_policy(backend: Backend) -> Path | None:
    """The policy that came with an exported folder, if there is one."""
    folder = getattr(backend, 'folder', None)
    path = None if folder is None else Path(folder) / 'policy.json'
    return path if path is not None and path.is_file() else None
