"""What the runner needs of the place where segments run.

NumPy and the standard library only: a machine that serves exported graphs has no PyTorch.

Shape suffixes: S samples, K classes; a sample is an image, or a clip of ``num_frames`` frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import UserError

__all__ = ['Engine', 'EngineError']


class EngineError(UserError):
    """An engine cannot run what it was given; the message says what was expected and what to try."""


class Served(Protocol):
    """What a runner asks of a network before the first image comes; engines answer it, and networks that are still to be frozen."""

    @property
    def num_exits(self) -> int:
        """Segments, each with its exit."""

    @property
    def num_classes(self) -> int:
        """Classes of every exit."""

    @property
    def num_frames(self) -> int:
        """Frames per sample, 1 for images."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the weights, which policies are bound to."""


class Engine(Served, Protocol):
    """Runs one segment at a time on a state that it alone understands."""

    def start(self, images: Any) -> Any:
        """The state before segment 1.

        Args:
            images: Images or frames, shape (S * num_frames, 3, H, W), or clips of shape (S, num_frames, 3, H, W).

        Raises:
            EngineError: If this is no such array, or its size is not one that the backend can run.
        """

    def num_samples(self, state: Any) -> int:
        """Samples in a state."""

    def run(self, exit_index: int, state: Any) -> tuple[np.ndarray, Any]:
        """Run segment ``exit_index + 1``.

        Returns:
            Logits of its exit as float32 (S, K), and the state for the next segment.
        """

    def select(self, state: Any, index_S: np.ndarray) -> Any:
        """The state of some samples only, numbers of int64, in that order; a clip stays whole."""

    def narrow(self, state: Any, start: int, stop: int) -> Any:
        """The state of the consecutive samples from ``start`` to before ``stop``, without copying."""

    def own(self, state: Any) -> Any:
        """The state in memory of its own: the images of a batch may be overwritten by whoever made them."""

    def concat(self, states: Sequence[Any]) -> Any:
        """One state of the samples of several, all after the same segment."""

    def wrap(self, array: np.ndarray) -> Any:
        """A result in the kind of array that this backend's users work with."""
