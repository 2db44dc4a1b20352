"""What the runner needs of the place where segments run.

NumPy and the standard library only: a machine that serves exported graphs has no PyTorch.

Shape suffixes: S samples, K classes; a sample is an image, or a clip of ``num_frames`` frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import UserError

__all__ = ['Engine', 'EngineError', 'EngineTable', 'Served', 'check_images']


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


def check_images(shape: Sequence[int], num_frames: int) -> tuple[int, int]:
    """Check the shape of what an engine is to start with.

    Args:
        shape: Of the array: (S * num_frames, 3, H, W), or (S, num_frames, 3, H, W).
        num_frames: Frames per sample, 1 for images.

    Returns:
        Height and width in pixels.

    Raises:
        EngineError: If it is neither.
    """
    sizes = tuple(int(size) for size in shape)
    rows = (sizes[0] * num_frames, *sizes[2:]) if len(sizes) == 5 and sizes[1] == num_frames else sizes
    if len(rows) != 4 or rows[1] != 3 or rows[0] % num_frames:
        clips = '' if num_frames == 1 else f', frames of clips as (clips * {num_frames}, 3, H, W) or (clips, {num_frames}, 3, H, W)'
        raise EngineError(f'input of shape {sizes}: pass images as (S, 3, H, W){clips}')
    return rows[2], rows[3]


class EngineTable(dict[str, Callable[..., Engine]]):
    """Functions that make engines, by the names under which users ask for them.

    Args:
        served: What the engines of this table are made of, for messages.
        engines: Functions by name; each takes what is served, and the engine's options as keywords.
    """

    def __init__(self, served: str, **engines: Callable[..., Engine]) -> None:
        super().__init__(engines)
        self.served = served

    def register(self, name: str, make: Callable[..., Engine]) -> None:
        """Add an engine.

        Raises:
            EngineError: If the name is taken.
        """
        if name in self:
            raise EngineError(f'an engine named {name!r} serves {self.served} already; names are unique, choose another')
        self[name] = make

    def find(self, name: str) -> Callable[..., Engine]:
        """The function of a name.

        Raises:
            EngineError: If there is none.
        """
        if name not in self:
            raise EngineError(f'backend={name!r} is unknown; choose {" or ".join(map(repr, self))}')
        return self[name]
