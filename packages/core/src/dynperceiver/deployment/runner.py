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
from .torch_engine import TorchEngine

__all__ = ['DynamicRunner', 'average_views_of']

DEFAULT_SIZE = (224, 224)  # as freeze() has it


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
        average_views: See there. Default: as the model averages in a plain test, by its attribute of this name (see
            :func:`average_views_of`).
        clock: See there.
        options: For the engine, for example ``num_threads`` (ONNX Runtime), ``device`` and ``dtype`` (PyTorch), ``folded``.

    Raises:
        UserError: If the model cannot be run, or the policy was made for another checkpoint.
        ValueError: If the policy has another number of exits, or an argument is not one of those above.
    """

    def __init__(
        self,
        model: nn.Module | str | PathLike[str] | None,
        policy: ExitPolicy | str | PathLike[str] | None = None,
        backend: str | Engine = 'torch',
        *,
        max_exit: int | None = None,
        views: int = 1,
        average_views: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ) -> None:
        settings: dict[str, Any] = dict(max_exit=max_exit, views=views, average_views=average_views, clock=clock)
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
            settings['average_views'] = average_views or average_views_of(model)
            self._set_up(_Unfrozen(self.network), policy, **settings)

    @property
    def engine(self) -> Engine:
        """Where segments run. Before the first images, PyTorch's is made for the default size of :func:`~dynperceiver.deployment.freeze`.

        Raises:
            EngineError: If no images have come yet, and the engine can run images of one size alone.
        """
        if not isinstance(self.served, _Unfrozen):
            return super().engine
        if self._engine is None and self._make_engine is not TorchEngine:
            raise EngineError(
                'there is no engine yet: the network is exported for the size of the first images; run a batch first, or export the '
                'network for the size of your images, and pass the folder in its place'
            )
        return self._engine_of_size(DEFAULT_SIZE)

    def _engine_for(self, images: Any) -> Engine:
        if not isinstance(self.served, _Unfrozen):
            return super()._engine_for(images)
        return self._engine_of_size(check_images(np.shape(images), self.served.num_frames))

    def _engine_of_size(self, image_size: tuple[int, int]) -> Engine:
        """The engine, made for this size if there is none yet."""
        with self._freezing:  # first calls from several threads wait for one frozen network
            if self._engine is None:
                self._engine = self._freeze(image_size)
            return self._engine

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


def average_views_of(model: object) -> str:
    """How a model averages the views of a video in a plain test: its attribute ``average_views``, or ``'score'``, their mean logits."""
    return str(getattr(model, 'average_views', 'score'))


class _Unfrozen:
    """What is known of a network before it is frozen."""

    def __init__(self, network: DynPerceiver) -> None:
        self.network = network
        self.num_exits = network.num_exits
        self.num_classes = int(network.num_classes or 0)
        self.num_frames = network.num_frames

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_network(self.network)
