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
from .segment_times import ImageSize, image_size

__all__ = ['stream_samples']

_END = object()


def stream_samples(
    engine_for: Callable[[Any], Engine], policy: ExitPolicy, max_exit: int, batches: Iterable[Any], batch_size: int | None
) -> Iterator[StreamResult]:
    """Answer a stream of batches.

    Args:
        engine_for: Gives what runs a batch of images.
        policy: Who leaves where.
        max_exit: Index of the last exit that a sample may take, from 0.
        batches: Batches of images; their samples are numbered through from 0. Images of different sizes wait apart from each other.
        batch_size: Samples that a segment waits for; ``None`` for the size of the first batch.

    Yields:
        Answers to the samples that left together.

    Raises:
        Exception: What a batch raised, or its making did, once the samples of all other batches before it are answered; it names the batch.
    """
    stream, source, num_batches = _Stream(policy, max_exit, batch_size), iter(batches), 0
    while stream.failure is None:
        num_batches += 1
        try:
            images = next(source, _END)
            size = None if images is _END else stream.put(engine_for(images), images, num_batches)
        except Exception as error:
            stream.failure = _of_batches(error, num_batches, num_batches)
            break
        if size is None:
            break
        yield from stream.run_full(size)
    yield from stream.run_all()
    if stream.failure is not None:
        raise stream.failure


class _Stream:
    """Samples on their way, by the size of their images."""

    def __init__(self, policy: ExitPolicy, max_exit: int, batch_size: int | None) -> None:
        self.policy, self.max_exit, self.batch_size = policy, max_exit, batch_size
        self.failure: Exception | None = None
        self.num_started = 0
        self.queues: dict[ImageSize, list[_Queue]] = {}

    def put(self, engine: Engine, images: Any, batch: int) -> ImageSize:
        """Let a batch wait for segment 1; returns the size of its images."""
        state = engine.start(images)
        count, size = engine.num_samples(state), image_size(images)
        self.engine = engine
        if count:
            queues = self.queues.setdefault(size, [_Queue() for _ in range(self.max_exit + 1)])
            self.batch_size = self.batch_size or count
            index_S2 = np.stack([np.arange(self.num_started, self.num_started + count), np.full(count, batch)], 1)
            queues[0].put(index_S2, state)
            self.num_started += count
        return size

    def run_full(self, size: ImageSize) -> Iterator[StreamResult]:
        """Run the segments for which enough samples wait."""
        queues = self.queues.get(size, [])
        for exit_index, queue in enumerate(queues):
            while queue.num_samples >= (self.batch_size or 1):
                yield from self._run(queues, exit_index)
        if queues:
            queues[0].own_last(self.engine)

    def run_all(self) -> Iterator[StreamResult]:
        """Run all segments for which samples wait."""
        for queues in self.queues.values():
            for exit_index, queue in enumerate(queues):
                while queue.num_samples:
                    yield from self._run(queues, exit_index)

    def _run(self, queues: list[_Queue], exit_index: int) -> Iterator[StreamResult]:
        """Run a segment on the first samples of its queue, and put those that stay into the next."""
        engine = self.engine
        index_S2, state = queues[exit_index].take(self.batch_size or 1, engine)
        index_S = index_S2[:, 0]
        try:
            logits_SK, state = engine.run(exit_index, state)
            leaves_S, score_S = self.policy.decide(exit_index, logits_SK, index_S, exit_index == self.max_exit)
            if not leaves_S.all():
                stays_S = ~leaves_S
                state = engine.select(state, np.flatnonzero(stays_S)) if leaves_S.any() else state
                queues[exit_index + 1].put(index_S2[stays_S], state)
        except Exception as error:
            self.failure = self.failure or _of_batches(error, int(index_S2[0, 1]), int(index_S2[-1, 1]))
            return
        if leaves_S.any():
            exit_S = np.full(int(leaves_S.sum()), exit_index)
            yield StreamResult(*map(engine.wrap, (logits_SK[leaves_S], exit_S, score_S[leaves_S], index_S[leaves_S])))


def _of_batches(error: Exception, first: int, last: int) -> Exception:
    """The error, which now says whose it is."""
    where = f'batch {first}' if first == last else f'batches {first} to {last}'
    if len(error.args) == 1 and str(error) == error.args[0]:
        error.args = (f'{where} of the stream, counted from 1: {error}',)
    elif hasattr(error, 'add_note'):  # from Python 3.11 on
        error.add_note(f'in {where} of the stream, counted from 1')
    return error


class _Queue:
    """Samples that wait for a segment."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[np.ndarray, Any]] = deque()
        self.num_samples = 0

    def put(self, index_S2: np.ndarray, state: Any) -> None:
        """Add samples, with the numbers of each and of its batch."""
        self.waiting.append((index_S2, state))
        self.num_samples += len(index_S2)

    def own_last(self, engine: Engine) -> None:
        """Copy what came last, if it still waits: whoever made the images may overwrite them for the next batch."""
        if self.waiting:
            index_S2, state = self.waiting.pop()
            self.waiting.append((index_S2, engine.own(state)))

    def take(self, batch_size: int, engine: Engine) -> tuple[np.ndarray, Any]:
        """The first samples, up to so many, as one batch."""
        taken: list[tuple[np.ndarray, Any]] = []
        missing = batch_size
        while missing and self.waiting:
            index_S2, state = self.waiting.popleft()
            if len(index_S2) > missing:
                self.waiting.appendleft((index_S2[missing:], engine.narrow(state, missing, len(index_S2))))
                index_S2, state = index_S2[:missing], engine.narrow(state, 0, missing)
            taken.append((index_S2, state))
            missing -= len(index_S2)
        self.num_samples -= batch_size - missing
        if len(taken) == 1:
            return taken[0]
        return np.concatenate([index_S2 for index_S2, _ in taken]), engine.concat([state for _, state in taken])
