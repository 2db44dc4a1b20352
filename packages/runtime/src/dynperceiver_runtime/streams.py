"""Streams: survivors of several batches wait until a segment has a full batch.

Shape suffixes: S samples, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .engines import Engine
from .policy import ExitPolicy
from .results import StreamResult
from .stepping import Stepper

__all__ = ['stream_samples']


def stream_samples(
    steps_for: Callable[[Any], Stepper], policy: ExitPolicy, max_exit: int, batches: Iterable[Any], batch_size: int | None
) -> Iterator[StreamResult]:
    """Answer a stream of batches.

    Args:
        steps_for: Gives what runs a batch of images.
        policy: Who leaves where.
        max_exit: Index of the last exit that a sample may take.
        batches: Batches of images; their samples are numbered through from 0.
        batch_size: Samples that a segment waits for; ``None`` for the size of the first batch.

    Yields:
        Answers to the samples that left together.
    """
    queues = [_Queue() for _ in range(max_exit + 1)]
    num_started, steps = 0, None
    for images in batches:
        steps = steps_for(images)
        state = steps.start(images)
        count = steps.num_samples(state)
        if not count:
            continue
        batch_size = batch_size or count
        queues[0].put(np.arange(num_started, num_started + count), state)
        num_started += count
        for exit_index in range(len(queues)):
            while queues[exit_index].num_samples >= batch_size:
                yield from _drain(steps, policy, queues, exit_index, batch_size)
        queues[0].own_last(steps.engine)
    for exit_index in range(len(queues)):
        while queues[exit_index].num_samples:
            assert steps is not None
            yield from _drain(steps, policy, queues, exit_index, batch_size or 1)


def _drain(
    steps: Stepper, policy: ExitPolicy, queues: list[_Queue], exit_index: int, batch_size: int
) -> Iterator[StreamResult]:
    """Run a segment on the first samples of its queue, and put those that stay into the next."""
    index_S, state = queues[exit_index].take(batch_size, steps)
    logits_SK, state = steps.run(exit_index, state)
    leaves_S, score_S = policy.decide(exit_index, logits_SK, index_S, exit_index == len(queues) - 1)
    if not leaves_S.all():
        stays_S = ~leaves_S
        queues[exit_index + 1].put(index_S[stays_S], steps.select(state, np.flatnonzero(stays_S)) if leaves_S.any() else state)
    if leaves_S.any():
        wrap, exit_S = steps.engine.wrap, np.full(int(leaves_S.sum()), exit_index)
        yield StreamResult(wrap(logits_SK[leaves_S]), wrap(exit_S), wrap(score_S[leaves_S]), wrap(index_S[leaves_S]))


class _Queue:
    """Samples that wait for a segment."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[np.ndarray, Any]] = deque()
        self.num_samples = 0

    def put(self, index_S: np.ndarray, state: Any) -> None:
        self.waiting.append((index_S, state))
        self.num_samples += len(index_S)

    def own_last(self, engine: Engine) -> None:
        """Copy what came last, if it still waits: whoever made the images may overwrite them for the next batch."""
        if self.waiting:
            index_S, state = self.waiting.pop()
            self.waiting.append((index_S, engine.own(state)))

    def take(self, batch_size: int, steps: Stepper) -> tuple[np.ndarray, Any]:
        """The first samples, up to so many, as one batch."""
        taken: list[tuple[np.ndarray, Any]] = []
        missing = batch_size
        while missing and self.waiting:
            index_S, state = self.waiting.popleft()
            if len(index_S) > missing:
                self.waiting.appendleft((index_S[missing:], steps.narrow(state, missing, len(index_S))))
                index_S, state = index_S[:missing], steps.narrow(state, 0, missing)
            taken.append((index_S, state))
            missing -= len(index_S)
        self.num_samples -= batch_size - missing
        if len(taken) == 1:
            return taken[0]
        return np.concatenate([index_S for index_S, _ in taken]), steps.concat([state for _, state in taken])
