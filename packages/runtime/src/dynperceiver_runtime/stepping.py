"""One segment at a time on samples, which are images, clips, or all views of a video.

Shape suffixes: S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .engines import Engine
from .segment_times import SegmentTimes

__all__ = ['Stepper']


class Stepper:
    """Runs an engine's segments on samples of one or more views each, and notes how long they take.

    Args:
        engine: Where segments run.
        views: Views of a sample, which stand one after another in a batch.
        times: Where milliseconds are noted.
        clock: Seconds.
    """

    def __init__(self, engine: Engine, views: int, times: SegmentTimes, clock: Callable[[], float]) -> None:
        self.engine, self.views, self.times, self.clock = engine, views, times, clock

    def start(self, images: Any) -> Any:
        """The state before segment 1."""
        return self.engine.start(images)

    def num_samples(self, state: Any) -> int:
        """Samples in a state.

        Raises:
            ValueError: If views are missing.
        """
        clips = self.engine.num_samples(state)
        if clips % self.views:
            raise ValueError(f'{clips} clips are no whole number of videos of {self.views} views; pass the views of a video together')
        return clips // self.views

    def run(self, exit_index: int, state: Any) -> tuple[np.ndarray, Any]:
        """Run segment ``exit_index + 1``: logits of its exit per sample, float32 (S, K), and the next state."""
        started = self.clock()
        logits_SK, state = self.engine.run(exit_index, state)
        if self.views > 1:
            logits_SK = logits_SK.reshape(-1, self.views, logits_SK.shape[1]).mean(1)
        self.times.add(exit_index, len(logits_SK), (self.clock() - started) * 1e3)
        return logits_SK, state

    def select(self, state: Any, index_S: np.ndarray) -> Any:
        """The state of some samples only, in that order."""
        if self.views > 1:
            index_S = (index_S[:, None] * self.views + np.arange(self.views)).ravel()
        return self.engine.select(state, index_S)

    def narrow(self, state: Any, start: int, stop: int) -> Any:
        """The state of consecutive samples, without copying."""
        return self.engine.narrow(state, start * self.views, stop * self.views)

    def concat(self, states: Sequence[Any]) -> Any:
        """One state of the samples of several."""
        return self.engine.concat(states)
