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
from .manifest import MANIFEST, POLICY, Manifest, file_sha256

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
        backend: Name in :data:`BACKENDS`, or a backend, which is returned; then ``model`` is ``None`` or what it was made of.
        options: Keyword arguments of the backend.

    Raises:
        BackendError: If the name is unknown, or the backend cannot run such a model; or a backend comes with options, or with a model that
            it was not made of.
    """
    if not isinstance(backend, str):
        _check_ready_made(model, backend, options)
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


def _check_ready_made(model: Any, backend: Backend, options: Mapping[str, Any]) -> None:
    name = type(backend).__name__
    if options:
        raise BackendError(
            f'backend is a {name}, which is made already, and {", ".join(f"{key}={value!r}" for key, value in options.items())} would do '
            'nothing; pass such options where the backend is made, or name the backend'
        )
    if model is not None and not _is_made_of(backend, model):
        given = repr(str(model)) if isinstance(model, str | PathLike) else f'a {type(model).__name__}'
        raise BackendError(
            f'model is {given}, which the {name} passed as backend was not made of, and it would not run; pass model=None, or name the '
            'backend to run this model'
        )


def _is_made_of(backend: Backend, model: Any) -> bool:
    """Whether a backend runs this network, one within this model, or the graphs in this folder."""
    source, folder = getattr(backend, 'source', None), getattr(backend, 'folder', None)
    if isinstance(model, str | PathLike):
        return folder is not None and Path(model).resolve() == Path(folder).resolve()
    parts = model.modules() if hasattr(model, 'modules') else (model,)
    return source is not None and any(part is source for part in parts)


def stored_policy(backend: Backend) -> Path | None:
    """The policy that came with an exported folder, if there is one.

    Raises:
        BackendError: If the folder has lost it, or has another one than was exported.
    """
    folder, manifest = getattr(backend, 'folder', None), getattr(backend, 'manifest', None)
    if folder is None or not isinstance(manifest, Manifest):
        return None
    path = Path(folder) / POLICY
    remedy = 'pass policy=, or export the checkpoint anew with tools/export.py --policy'
    if manifest.policy is None:
        if path.exists():
            raise BackendError(f'{path} was not exported with the graphs: {MANIFEST} lists no policy. Remedy: {remedy}, or remove the file')
        return None
    if not path.is_file():
        raise BackendError(f'{path} is missing, which {MANIFEST} lists; copy the whole folder, or {remedy}')
    if file_sha256(path) != manifest.policy.sha256:
        raise BackendError(
            f'{path} is not the policy that was exported: its SHA-256 is not that in {MANIFEST}; copy the folder again, or {remedy}'
        )
    return path
