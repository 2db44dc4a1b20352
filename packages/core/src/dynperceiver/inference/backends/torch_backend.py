"""Segments in PyTorch: folded layers, channels-last, fused attention, inference mode.

Shape suffixes: B rows, S samples, T frames, C channels, H/W pixels, K classes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models import DynPerceiver, network_with_exits
from ...structures import NetworkState
from ..fingerprints import fingerprint_of_network
from ..folding import copy_without_hooks, fold, share_hooks
from .base import BackendError

__all__ = ['BUILDING', 'TorchBackend', 'network_with_exits']

BUILDING = threading.RLock()
"""Held while a network is folded or exported: one thread does it, others wait for the result."""

CPU_MAP_BYTES = 32 * 2**20
"""Larger blocks the C library does not keep: every layer would get its memory from the system anew, page by page (glibc's
DEFAULT_MMAP_THRESHOLD_MAX). Less also stays in the caches, and at the peak."""


class TorchBackend:
    """Runs a folded copy of the network; forward hooks on the network that was passed in see the copy's modules of the same
    names, its segments among them.

    The copy is made when the first images come, for their size; images of other sizes run, too, at less speed. Weights that change
    afterwards are not seen.

    Args:
        model: A :class:`~dynperceiver.models.DynPerceiver`, or a model that holds one.
        device: Where to run. Default: where the network is.
        dtype: Type to compute in, for example ``torch.bfloat16`` on a GPU. Default: that of the network.
        folded: Whether to fold; ``False`` runs the layers as they are trained, to compare with.

    Raises:
        NetworkError: If the model holds no network with exits.
    """

    def __init__(
        self, model: nn.Module, device: str | torch.device | None = None, dtype: torch.dtype | None = None, folded: bool = True
    ) -> None:
        self.source = network_with_exits(model)
        parameter = self.source.latent_branch.latent
        self.device = torch.device(device) if device is not None else parameter.device
        self.dtype = dtype or parameter.dtype
        self.folded = folded
        self.num_exits = self.source.num_exits
        self.num_classes = int(self.source.num_classes or 0)
        self.num_frames = self.source.num_frames
        self._network: DynPerceiver | None = None
        self._image_size = (0, 0)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the weights, the same for every backend."""
        return fingerprint_of_network(self.source)

    @property
    def weights_note(self) -> str:
        """What to know where a policy is refused."""
        dtype = self.source.latent_branch.latent.dtype
        if dtype == torch.float32:
            return ''
        return f'. The weights are {dtype}: if they were converted, pass the network as it was trained, and dtype={dtype} to the runner'

    def network(self, image_size: tuple[int, int]) -> DynPerceiver:
        """The network that runs."""
        if self._network is None:
            with BUILDING:
                if self._network is None:
                    network = fold(self.source, image_size) if self.folded else copy_without_hooks(self.source).eval()
                    network = network.to(device=self.device, dtype=self.dtype)
                    share_hooks(network, self.source)
                    self._network = network
        return self._network

    def _computing(self) -> ExitStack:
        """No gradients, and the runner's own type whatever autocast the caller is in: sums are taken in place."""
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(self.device.type, enabled=False))
        return stack

    def start(self, images: Any) -> NetworkState:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        images_BCHW = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
        if images_BCHW.dim() == 5 and images_BCHW.shape[1] == self.num_frames:
            images_BCHW = images_BCHW.flatten(0, 1)
        if images_BCHW.dim() != 4 or images_BCHW.shape[1] != 3 or images_BCHW.shape[0] % self.num_frames:
            clips = '' if self.num_frames == 1 else f', frames of clips as (clips * {self.num_frames}, 3, H, W)'
            raise BackendError(f'input of shape {tuple(images_BCHW.shape)}: pass images as (S, 3, H, W){clips}')
        if not images_BCHW.is_floating_point():
            raise BackendError(
                f'input of type {images_BCHW.dtype}: pass normalised images as floating-point numbers; the data preprocessor of the model '
                'makes them from pixels'
            )
        self._image_size = (images_BCHW.shape[2], images_BCHW.shape[3])
        network = self.network(self._image_size)
        with self._computing():
            return network.start(images_BCHW.to(self.device, self.dtype))

    def num_samples(self, state: NetworkState) -> int:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return state.num_samples

    def run(self, exit_index: int, state: NetworkState) -> tuple[np.ndarray, NetworkState]:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        assert self._network is not None
        segment = self._network.segments[exit_index]
        with self._computing():
            results = [segment(part) for part in state.split(self._samples_at_once(exit_index))]
            if len(results) == 1:
                logits_SK, state = results[0]
            else:
                logits_SK, state = torch.cat([logits for logits, _ in results]), NetworkState.concat([part for _, part in results])
            return logits_SK.float().cpu().numpy(), state

    def _samples_at_once(self, exit_index: int) -> int:
        """Samples that a segment takes at once: on a CPU, as many as keep its largest map within :data:`CPU_MAP_BYTES`."""
        if self.device.type != 'cpu':
            return sys.maxsize
        branch, parts = self.source.feature_branch, self.source.segment_parts
        newest = max(stage for part in parts[: exit_index + 1] for stage in part.stages('cnn'))
        # The first block of a stage still has the map before it, and already the channels after it.
        sizes = ((branch.channels[stage], branch.strides[stage - 1]) for stage in parts[exit_index].stages('cnn') or (newest,))
        largest = max(channels * -(-self._image_size[0] // stride) * -(-self._image_size[1] // stride) for channels, stride in sizes)
        return max(1, CPU_MAP_BYTES // (largest * self.dtype.itemsize * self.num_frames))

    def select(self, state: NetworkState, index_S: np.ndarray) -> NetworkState:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        with self._computing():
            return state.select(torch.from_numpy(index_S).to(self.device))

    def own(self, state: NetworkState) -> NetworkState:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return self.select(state, np.arange(state.num_samples))

    def narrow(self, state: NetworkState, start: int, stop: int) -> NetworkState:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return state.narrow(start, stop)

    def concat(self, states: Sequence[NetworkState]) -> NetworkState:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        with self._computing():
            return NetworkState.concat(states)

    def wrap(self, array: np.ndarray) -> Tensor:
        """See :class:`~dynperceiver.inference.backends.Backend`."""
        return torch.from_numpy(array)
