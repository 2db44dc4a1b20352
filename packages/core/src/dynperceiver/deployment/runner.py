"""The runner for people who have the network itself: it is frozen for the first image size that comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
from torch import nn

from dynperceiver_runtime import DynamicRunner as EngineRunner
from dynperceiver_runtime import Engine, EngineError, ExitPolicy

from ..models import network_with_exits
from .engines import ENGINES
from .fingerprints import fingerprint_of_network
from .freezing import freeze

__all__ = ['DynamicRunner']


class DynamicRunner(EngineRunner):
    """Runs a network segment by segment, and after each exit narrows the batch to the samples that stay.

    A network is frozen for the size of the first images (see :func:`~dynperceiver.deployment.freeze`); later changes of its weights are
    not seen.

    Args:
        model: A :class:`~dynperceiver.models.DynPerceiver`, or any model that holds one; for ``'onnxruntime'`` also the folder that
            ``tools/export.py`` wrote; ``None`` where ``backend`` is an engine.
        policy: See :class:`dynperceiver_runtime.DynamicRunner`.
        backend: Where to run: a name in :data:`~dynperceiver.deployment.ENGINES`, or an engine.
        max_exit: See :class:`dynperceiver_runtime.DynamicRunner`.
        views: See there.
        clock: See there.
        options: For the engine, for example ``num_threads`` (ONNX Runtime), ``device`` and ``dtype`` (PyTorch), ``folded``.

    Raises:
        UserError: If the model cannot be run, or the policy was made for another checkpoint.
        ValueError: If the policy has another number of exits, or an argument breaks its rule.
    """

    def __init__(
        self,
        model: nn.Module | str | PathLike[str] | None,
        policy: ExitPolicy | str | PathLike[str] | None = None,
        backend: str | Engine = 'torch',
        *,
        max_exit: int | None = None,
        views: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ) -> None:
        settings: dict[str, Any] = dict(max_exit=max_exit, views=views, clock=clock)
        if not isinstance(backend, str):
            if model is not None:
                raise EngineError(f'backend is a {type(backend).__name__}, which is made already; pass model=None, or name the backend')
            super().__init__(backend, policy, **settings, **options)
        elif backend not in ENGINES:
            raise EngineError(f'backend={backend!r} is unknown; choose {" or ".join(map(repr, ENGINES))}')
        elif isinstance(model, str | PathLike):
            if backend != 'onnxruntime':
                raise EngineError(
                    f"model={str(model)!r} with backend={backend!r}: an exported folder runs in ONNX Runtime; pass backend='onnxruntime', "
                    'or the network itself'
                )
            super().__init__(model, policy, **settings, **options)
        else:
            self.network = network_with_exits(model)
            self._make_engine, self._options = ENGINES[backend], options
            self._freezing = threading.Lock()
            self._engine = None
            self._set_up(_Unfrozen(self.network), policy, **settings)

    def _engine_for(self, images: Any) -> Engine:
        with self._freezing:  # first calls from several threads wait for one frozen network
            if self._engine is None:
                shape = np.shape(images)
                size = (int(shape[-2]), int(shape[-1])) if len(shape) in (4, 5) else (224, 224)
                options = dict(self._options)
                frozen = freeze(self.network, size, folded=options.pop('folded', True))
                self._check_weights(frozen.fingerprint)
                self._engine = self._make_engine(frozen, **options)
        return self._engine


class _Unfrozen:
    """What is known of a network before it is frozen."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.num_exits = network.num_exits
        self.num_classes = int(network.num_classes)
        self.num_frames = network.num_frames

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_network(self.network)
