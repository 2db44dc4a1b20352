"""Segments in PyTorch: folded layers, channels-last, fused attention, inference mode.

Shape suffixes: B rows, S samples, T frames, C channels, H/W pixels, K classes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynperceiver_runtime.engines.base import EngineError, check_images

from ..layers import copy_without_hooks, share_hooks
from ..structures import NetworkState
from .freezing import FrozenNetwork

__all__ = ['TorchEngine']

CPU_MAP_BYTES = 32 * 2**20
"""Larger blocks the C library does not keep: every layer would get its memory from the system anew, page by page (glibc's
DEFAULT_MMAP_THRESHOLD_MAX). Less also stays in the caches, and at the peak."""


class TorchEngine:
    """Runs a frozen network in PyTorch; forward hooks on the network that was frozen see the frozen one's modules of the same
    names, its segments among them.

    Images of other sizes than the one it was frozen for run, too, at less speed.

    Args:
        frozen: See :func:`~dynperceiver.deployment.freeze`.
        device: Where to run. Default: where the network is.
        dtype: Type to compute in, for example ``torch.bfloat16`` on a GPU. Default: that of the network.
    """

    def __init__(self, frozen: FrozenNetwork, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        parameter = frozen.network.latent_branch.latent
        self.frozen = frozen
        self.device = torch.device(device) if device is not None else parameter.device
        self.dtype = dtype or parameter.dtype
        if (self.device, self.dtype) == (parameter.device, parameter.dtype):
            self.network = copy_without_hooks(frozen.network, lambda tensor: tensor)  # modules of its own, for the hooks; the same weights
        else:
            self.network = copy_without_hooks(frozen.network).to(device=self.device, dtype=self.dtype)
        share_hooks(self.network, frozen.source)
        self.num_exits = self.network.num_exits
        self.num_classes = int(self.network.num_classes or 0)
        self.num_frames = self.network.num_frames
        self.fingerprint = frozen.fingerprint

    def _computing(self) -> ExitStack:
        """No gradients, and the runner's own type whatever autocast the caller is in: sums are taken in place."""
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(self.device.type, enabled=False))
        return stack

    def start(self, images: Any) -> NetworkState:
        """See :class:`~dynperceiver_runtime.Engine`."""
        images_BCHW = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
        check_images(images_BCHW.shape, self.num_frames)
        if images_BCHW.dim() == 5:
            images_BCHW = images_BCHW.flatten(0, 1)
        if not images_BCHW.is_floating_point():
            raise EngineError(
                f'input of type {images_BCHW.dtype}: pass normalised images as floating-point numbers; the data preprocessor of the model '
                'makes them from pixels'
            )
        with self._computing():
            return self.network.start(images_BCHW.to(self.device, self.dtype))

    def num_samples(self, state: NetworkState) -> int:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return state.num_samples

    def run(self, exit_index: int, state: NetworkState) -> tuple[np.ndarray, NetworkState]:
        """See :class:`~dynperceiver_runtime.Engine`."""
        segment = self.network.segments[exit_index]
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
        branch, parts, (height, width) = self.network.feature_branch, self.network.segment_parts, self.frozen.image_size
        newest = max((stage for part in parts[: exit_index + 1] for stage in part.stages('cnn')), default=0)
        # The first block of a stage still has the map before it, and already the channels after it.
        stages = parts[exit_index].stages('cnn') or (newest,)
        sizes = ((branch.channels[stage], branch.strides[stage - 1] if stage else max(1, branch.strides[0] // 2)) for stage in stages)
        largest = max(channels * -(-height // stride) * -(-width // stride) for channels, stride in sizes)
        return max(1, CPU_MAP_BYTES // (largest * self.dtype.itemsize * self.num_frames))

    def select(self, state: NetworkState, index_S: np.ndarray) -> NetworkState:
        """See :class:`~dynperceiver_runtime.Engine`."""
        with self._computing():
            return state.select(torch.from_numpy(index_S).to(self.device))

    def own(self, state: NetworkState) -> NetworkState:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return self.select(state, np.arange(state.num_samples))

    def narrow(self, state: NetworkState, start: int, stop: int) -> NetworkState:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return state.narrow(start, stop)

    def concat(self, states: Sequence[NetworkState]) -> NetworkState:
        """See :class:`~dynperceiver_runtime.Engine`."""
        with self._computing():
            return NetworkState.concat(states)

    def wrap(self, array: np.ndarray) -> Tensor:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return torch.from_numpy(array)
