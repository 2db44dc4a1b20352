"""An engine whose logits come from a table and whose time passes on a clock of its own: tests of the runner without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynperceiver_runtime import EngineError

__all__ = ['FakeClock', 'FakeEngine', 'FakeState', 'fake_images']

Milliseconds = Callable[[int, int, tuple[int, int]], float]


def fake_images(numbers: Sequence[int] | np.ndarray, size: tuple[int, int] = (2, 2)) -> np.ndarray:
    """Images that are rows of an engine's table: each holds its row's number."""
    images = np.empty((len(numbers), 3, *size), np.float32)
    images[:] = np.asarray(numbers)[:, None, None, None]
    return images


class FakeClock:
    """Seconds that pass when they are spent."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, milliseconds: float) -> None:
        self.now += milliseconds / 1e3


@dataclass(frozen=True)
class FakeState:
    """Images on their way: what is in them, and how many segments they went through."""

    images_BCHW: np.ndarray
    num_run: int


class FakeEngine:
    """Gives every image the logits of its row.

    Args:
        logits_ERK: Logits per exit and row of the table.
        milliseconds: What a segment takes, by its index, the images that run together, and their height and width.
        clock: Where the time passes.

    Attributes:
        ran: Index of the segment and images of every run.
    """

    num_frames, fingerprint = 1, 'sha256:fake'

    def __init__(self, logits_ERK: np.ndarray, milliseconds: Milliseconds | None = None, clock: FakeClock | None = None) -> None:
        self.logits_ERK = np.asarray(logits_ERK, np.float32)
        self.num_exits, _, self.num_classes = self.logits_ERK.shape
        self.milliseconds, self.clock = milliseconds, clock or FakeClock()
        self.ran: list[tuple[int, int]] = []

    def start(self, images: Any) -> FakeState:
        if np.ndim(images) != 4:
            raise EngineError(f'input of shape {np.shape(images)}: pass images as (S, 3, H, W)')
        return FakeState(np.asarray(images), 0)

    def num_samples(self, state: FakeState) -> int:
        return len(state.images_BCHW)

    def run(self, exit_index: int, state: FakeState) -> tuple[np.ndarray, FakeState]:
        assert state.num_run == exit_index, 'segments run in their order'
        images_BCHW = state.images_BCHW
        self.ran.append((exit_index, len(images_BCHW)))
        if self.milliseconds is not None:
            self.clock.spend(self.milliseconds(exit_index, len(images_BCHW), images_BCHW.shape[2:]))
        return self.logits_ERK[exit_index, images_BCHW[:, 0, 0, 0].astype(int)], FakeState(images_BCHW, exit_index + 1)

    def select(self, state: FakeState, index_S: np.ndarray) -> FakeState:
        return FakeState(state.images_BCHW[index_S], state.num_run)

    def narrow(self, state: FakeState, start: int, stop: int) -> FakeState:
        return FakeState(state.images_BCHW[start:stop], state.num_run)

    def own(self, state: FakeState) -> FakeState:
        return FakeState(state.images_BCHW.copy(), state.num_run)

    def concat(self, states: Sequence[FakeState]) -> FakeState:
        assert len({state.num_run for state in states}) == 1, 'states of one segment belong together'
        return FakeState(np.concatenate([state.images_BCHW for state in states]), states[0].num_run)

    def wrap(self, array: np.ndarray) -> np.ndarray:
        return array
