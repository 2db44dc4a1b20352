"""ONNX Runtime for a network in memory: its graphs are exported when the first images come."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from ..inference.backends.base import BackendError
from ..inference.backends.onnx_runtime import OnnxRuntimeBackend
from ..inference.backends.torch_backend import BUILDING, network_with_exits
from ..inference.fingerprints import fingerprint_of_network
from .segments import export_segments

__all__ = ['ExportingBackend']


class ExportingBackend:
    """Exports a network into a temporary folder, for the size of the first images, and runs it from there.

    To serve without PyTorch, and without exporting at every start, export once: ``tools/export.py``.

    Args:
        model: A :class:`~dynperceiver.models.DynPerceiver`, or a model that holds one.
        options: For :class:`~dynperceiver.inference.backends.onnx_runtime.OnnxRuntimeBackend`.

    Raises:
        BackendError: If an option is unknown.
        NetworkError: If the model holds no network with exits.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self.source = network_with_exits(model)
        if unknown := set(options) - {'num_threads', 'shared_pool'}:
            raise BackendError(
                f"backend='onnxruntime' knows no option {', '.join(sorted(unknown))}; pass num_threads or shared_pool, or leave it out"
            )
        self.options = options
        self.num_exits = self.source.num_exits
        self.num_classes = int(self.source.num_classes or 0)
        self.num_frames = self.source.num_frames
        self._exported: OnnxRuntimeBackend | None = None
        self._folder: TemporaryDirectory[str] | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the weights, the same for every backend."""
        return fingerprint_of_network(self.source)

    @property
    def exported(self) -> OnnxRuntimeBackend:
        """The backend on the exported graphs; it is there after the first images."""
        assert self._exported is not None
        return self._exported

    def start(self, images: Any) -> Any:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        if self._exported is None and len(np.shape(images)) in (4, 5):
            with BUILDING:
                if self._exported is None:
                    self._export(*np.shape(images)[-2:])
        return self.exported.start(images)

    def _export(self, height: int, width: int) -> None:
        folder = TemporaryDirectory(prefix='dynperceiver-export-')
        with torch.autocast(self.source.latent_branch.latent.device.type, enabled=False):
            export_segments(self.source, folder.name, (height, width))
        self._folder, self._exported = folder, OnnxRuntimeBackend(folder.name, **self.options)

    def num_samples(self, state: Any) -> int:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return self.exported.num_samples(state)

    def run(self, exit_index: int, state: Any) -> tuple[np.ndarray, Any]:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return self.exported.run(exit_index, state)

    def select(self, state: Any, index_S: np.ndarray) -> Any:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return self.exported.select(state, index_S)

    def own(self, state: Any) -> Any:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return self.exported.own(state)

    def narrow(self, state: Any, start: int, stop: int) -> Any:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return self.exported.narrow(state, start, stop)

    def concat(self, states: Sequence[Any]) -> Any:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return self.exported.concat(states)

    def wrap(self, array: np.ndarray) -> np.ndarray:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return array
