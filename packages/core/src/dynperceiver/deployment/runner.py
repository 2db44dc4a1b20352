"""The runner for people who have the network itself: it is frozen for the first image size that comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import nn

from dynperceiver_runtime import DynamicRunner as EngineRunner
from dynperceiver_runtime import Engine, EngineError, ExitPolicy, PolicyError
from dynperceiver_runtime.engines import ENGINES as FOLDER_ENGINES
from dynperceiver_runtime.engines.base import check_images

from ..models import DynPerceiver, network_with_exits
from .engines import ENGINES
from .fingerprints import fingerprint_of_network
from .freezing import freeze

__all__ = ['DynamicRunner']


class DynamicRunner(EngineRunner):
    """Runs a network segment by segment, and after each exit narrows the batch to the samples that stay.

    This is the convenience for who has the network: it is frozen for the size of the first images (see
    :func:`~dynperceiver.deployment.freeze`), and later changes of its weights are not seen. The same in explicit steps:
    ``dynperceiver_runtime.DynamicRunner(TorchEngine(freeze(network, image_size)), policy)``.

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
        elif isinstance(model, str | PathLike):
            if backend in ENGINES and backend not in FOLDER_ENGINES:
                raise EngineError(
                    f'model={str(model)!r} with backend={backend!r}: an exported folder runs elsewhere; pass '
                    f'backend={" or ".join(map(repr, FOLDER_ENGINES))}, or the network itself'
                )
            super().__init__(FOLDER_ENGINES.find(backend)(model, **options), policy, **settings)
        else:
            self._make_engine, self._options = ENGINES.find(backend), options
            self.network = network_with_exits(model)
            self._freezing = threading.Lock()
            self._engine = None
            self._set_up(_Unfrozen(self.network), policy, **settings)

    @property
    def engine(self) -> Engine:
        """Where segments run.

        Raises:
            EngineError: If no images came yet: it is made for their size.
        """
        if self._engine is None:
            raise EngineError(
                'the network is frozen when the first images come, for their size, and before that there is no engine; call '
                'warm_up(images) first, or freeze the network yourself and pass the engine'
            )
        return self._engine

    def _engine_for(self, images: Any) -> Engine:
        if isinstance(self.served, _Unfrozen):
            with self._freezing:  # first calls from several threads wait for one frozen network
                if self._engine is None:
                    self._engine = self._freeze(check_images(np.shape(images), self.served.num_frames))
        return self.engine

    def _freeze(self, image_size: tuple[int, int]) -> Engine:
        options = dict(self._options)
        frozen = freeze(self.network, image_size, folded=options.pop('folded', True))
        self._check_weights(frozen.fingerprint)
        return self._make_engine(frozen, **options)

    def _check_weights(self, fingerprint: str) -> None:
        try:
            super()._check_weights(fingerprint)
        except PolicyError as error:
            dtype = self.network.latent_branch.latent.dtype if isinstance(self.served, _Unfrozen) else torch.float32
            if dtype == torch.float32:
                raise
            raise PolicyError(
                f'{error}. The weights are {dtype}: if they were converted, pass the network as it was trained, and dtype={dtype} to the '
                'runner'
            ) from None


class _Unfrozen:
    """What is known of a network before it is frozen."""

    def __init__(self, network: DynPerceiver) -> None:
        self.network = network
        self.num_exits = len(network.segments)
        self.num_classes = int(network.num_classes or 0)
        self.num_frames = network.num_frames

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_network(self.network)
