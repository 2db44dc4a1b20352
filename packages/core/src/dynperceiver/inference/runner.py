"""Dynamic inference: every sample leaves at the first exit that is sure enough of it, and nothing more is computed for it.

NumPy and the standard library only, so that exported graphs are served without PyTorch; a backend brings the rest.

Shape suffixes: S samples, E exits, K classes; a sample is an image, or a clip, or all views of a video.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from .backends import Backend, build_backend, stored_policy
from .policies import NEVER, ExitPolicy, PolicyError
from .timing import SegmentTimes

__all__ = ['DynamicRunner', 'RunResult', 'StreamResult', 'gather']


@dataclass(frozen=True)
class RunResult:
    """Answers to a batch, in its order. Arrays are of the backend's kind: tensors from PyTorch, NumPy arrays from ONNX Runtime.

    Attributes:
        logits: Logits of the exit where each sample left, shape (S, K).
        exit_index: That exit, 0 to 3, shape (S,).
        confidence: The policy's score there (for ``score='confidence'`` the largest softmax probability), shape (S,).
    """

    logits: Any
    exit_index: Any
    confidence: Any


@dataclass(frozen=True)
class StreamResult(RunResult):
    """Answers to samples of a stream, in the order in which they left.

    Attributes:
        sample_index: Numbers of the samples in the stream, shape (S,).
    """

    sample_index: Any


class DynamicRunner:
    """Runs a network segment by segment, and after each exit narrows the batch to the samples that stay.

    Args:
        model: A :class:`~dynperceiver.models.DynPerceiver`, or any model that holds one; for ``'onnxruntime'`` also the folder that
            ``tools/export.py`` wrote, which needs no PyTorch.
        policy: Who leaves where: an :class:`~dynperceiver.inference.policies.ExitPolicy` or its JSON file. Default: the policy in the
            exported folder, otherwise all samples go to the last exit.
        backend: ``'torch'`` or ``'onnxruntime'``, or a :class:`~dynperceiver.inference.backends.Backend`.
        max_exit: Exit cap: the last exit, 0 to 3, that a sample may take. Default: all exits.
        views: Views of a video (test crops times sampled clips) that stand one after another in a batch and leave together; their logits
            are averaged.
        clock: Seconds, for ``deadline_ms``.
        options: For the backend, for example ``num_threads`` (ONNX Runtime), ``device`` and ``dtype`` (PyTorch).

    Raises:
        ValueError: If the policy has another number of exits or was made for another checkpoint, or an argument breaks its rule.
    """

    def __init__(
        self,
        model: Any,
        policy: ExitPolicy | str | PathLike[str] | None = None,
        backend: str | Backend = 'torch',
        *,
        max_exit: int | None = None,
        views: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ) -> None:
        self.backend = build_backend(model, backend, options)
        if policy is None:
            policy = stored_policy(self.backend)
        if policy is None:
            policy = ExitPolicy(thresholds=(NEVER,) * (self.backend.num_exits - 1))
        self.policy = policy if isinstance(policy, ExitPolicy) else ExitPolicy.load(policy)
        if self.policy.num_exits != self.backend.num_exits:
            raise ValueError(
                f'the policy has {len(self.policy.thresholds)} thresholds, for {self.policy.num_exits} exits, but the network has '
                f'{self.backend.num_exits} exits; pass {self.backend.num_exits - 1} thresholds (the last exit takes all that are left)'
            )
        self._check_weights()
        self._weights_are_read = False
        if views < 1:
            raise ValueError(f'views={views}: a sample has at least one view; pass 1 unless the test pipeline gives several crops or clips')
        self.max_exit = self._check_exit(max_exit)
        self.views = views
        self.clock = clock
        self.times = SegmentTimes(self.backend.num_exits)

    def __call__(self, images: Any, *, deadline_ms: float | None = None, max_exit: int | None = None) -> RunResult:
        """Answer a batch.

        Args:
            images: Normalised images, shape (S, 3, H, W); frames of clips as (S * views * T, 3, H, W) or (S * views, T, 3, H, W).
            deadline_ms: Milliseconds from now: no segment is started that would end later, judging by how long it took before (see
                :meth:`warm_up`), and who has not left takes the best exit reached. The first segment always runs.
            max_exit: Exit cap of this call.

        Raises:
            ValueError: If the input does not suit the network, a score is not finite, or an argument breaks its rule.
        """
        started = self.clock()
        if deadline_ms is not None and not deadline_ms > 0:
            raise ValueError(f'deadline_ms={deadline_ms}: pass a positive number of milliseconds, or None for no deadline')
        last = self.max_exit if max_exit is None else self._check_exit(max_exit)
        state = self._start(images)
        index_S = np.arange(self._num_samples(state))
        answers = _Answers(len(index_S), self.backend.num_classes)
        for exit_index in range(last + 1):
            if not len(index_S):
                break
            logits_SK, state = self._run(exit_index, state)
            is_last = exit_index == last or (
                deadline_ms is not None
                and (self.clock() - started) * 1e3 + self.times.expect(exit_index + 1, len(index_S)) > deadline_ms
            )
            leaves_S, score_S = self._decide(exit_index, logits_SK, index_S, is_last)
            answers.put(index_S[leaves_S], logits_SK[leaves_S], exit_index, score_S[leaves_S])
            if leaves_S.any():
                index_S = index_S[~leaves_S]
                state = self._select(state, np.flatnonzero(~leaves_S)) if len(index_S) else None
        wrap = self.backend.wrap
        return RunResult(wrap(answers.logits_SK), wrap(answers.exit_S), wrap(answers.score_S))

    def stream(self, batches: Iterable[Any], batch_size: int | None = None) -> Iterator[StreamResult]:
        """Answer a stream of batches: survivors of several batches are gathered, so that every segment sees full batches to the end.

        Args:
            batches: Batches as for a call, of any sizes; they are numbered through from 0.
            batch_size: Samples that a segment waits for. Default: the size of the first batch.

        Yields:
            Answers to the samples that left together; :func:`gather` puts them into order.

        Raises:
            ValueError: As for a call.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f'batch_size={batch_size}: pass at least 1, or None for the size of the first batch')
        queues = [_Queue() for _ in range(self.max_exit + 1)]
        num_started = 0
        for images in batches:
            state = self._start(images)
            count = self._num_samples(state)
            if not count:
                continue
            batch_size = batch_size or count
            queues[0].put(np.arange(num_started, num_started + count), state)
            num_started += count
            for exit_index in range(len(queues)):
                while queues[exit_index].num_samples >= batch_size:
                    yield from self._drain(queues, exit_index, batch_size)
            queues[0].own_last(self.backend)
        for exit_index in range(len(queues)):
            while queues[exit_index].num_samples:
                yield from self._drain(queues, exit_index, batch_size or 1)

    def full_logits(self, images: Any) -> np.ndarray:
        """Logits of all exits, whatever the policy: what policies are calibrated on, and replayed against.

        Args:
            images: As for a call.

        Returns:
            Float32 array of shape (E, S, K).
        """
        state = self._start(images)
        if not self._num_samples(state):
            return np.empty((self.backend.num_exits, 0, self.backend.num_classes), np.float32)
        logits = []
        for exit_index in range(self.backend.num_exits):
            logits_SK, state = self._run(exit_index, state)
            logits.append(logits_SK)
        return np.stack(logits)

    def warm_up(self, images: Any, rounds: int = 3) -> None:
        """Run all segments on a batch, so that everything is loaded and the time of each is known before a deadline counts."""
        for _ in range(rounds):
            self.full_logits(images)

    def _check_weights(self) -> None:
        if self.policy.record is None or self.policy.record.checkpoint is None:
            return
        try:
            self.policy.check_checkpoint(self.backend.fingerprint)
        except PolicyError as error:
            raise PolicyError(f'{error}{getattr(self.backend, "weights_note", "")}') from error

    def _start(self, images: Any) -> Any:
        state = self.backend.start(images)
        if not self._weights_are_read:
            self._check_weights()  # the backend reads them when the first images come, and they may have changed meanwhile
            self._weights_are_read = True
        return state

    def _check_exit(self, max_exit: int | None) -> int:
        last = self.backend.num_exits - 1
        if max_exit is None:
            return last
        if not isinstance(max_exit, int | np.integer) or not 0 <= max_exit <= last:
            raise ValueError(f'max_exit={max_exit}: pass the index of an exit, 0 to {last}, or None for no cap')
        return int(max_exit)

    def _num_samples(self, state: Any) -> int:
        clips = self.backend.num_samples(state)
        if clips % self.views:
            raise ValueError(f'{clips} clips are no whole number of videos of {self.views} views; pass the views of a video together')
        return clips // self.views

    def _run(self, exit_index: int, state: Any) -> tuple[np.ndarray, Any]:
        started = self.clock()
        logits_SK, state = self.backend.run(exit_index, state)
        if self.views > 1:
            logits_SK = logits_SK.reshape(-1, self.views, logits_SK.shape[1]).mean(1)
        self.times.add(exit_index, len(logits_SK), (self.clock() - started) * 1e3)
        return logits_SK, state

    def _decide(self, exit_index: int, logits_SK: np.ndarray, index_S: np.ndarray, is_last: bool) -> tuple[np.ndarray, np.ndarray]:
        score_S = self.policy.score_of(exit_index, logits_SK, index_S)
        return np.ones(len(score_S), bool) if is_last else self.policy.leaves(exit_index, score_S), score_S

    def _select(self, state: Any, index_S: np.ndarray) -> Any:
        if self.views > 1:
            index_S = (index_S[:, None] * self.views + np.arange(self.views)).ravel()
        return self.backend.select(state, index_S)

    def _drain(self, queues: list[_Queue], exit_index: int, batch_size: int) -> Iterator[StreamResult]:
        """Run a segment on the first samples of its queue, and put those that stay into the next."""
        index_S, state = self._take(queues[exit_index], batch_size)
        logits_SK, state = self._run(exit_index, state)
        leaves_S, score_S = self._decide(exit_index, logits_SK, index_S, exit_index == self.max_exit)
        if not leaves_S.all():
            stays_S = ~leaves_S
            queues[exit_index + 1].put(index_S[stays_S], self._select(state, np.flatnonzero(stays_S)) if leaves_S.any() else state)
        if leaves_S.any():
            wrap, exit_S = self.backend.wrap, np.full(int(leaves_S.sum()), exit_index)
            yield StreamResult(wrap(logits_SK[leaves_S]), wrap(exit_S), wrap(score_S[leaves_S]), wrap(index_S[leaves_S]))


    def _take(self, queue: _Queue, batch_size: int) -> tuple[np.ndarray, Any]:
        """The first samples of a queue, as one batch."""
        taken: list[tuple[np.ndarray, Any]] = []
        missing = batch_size
        while missing and queue.waiting:
            index_S, state = queue.pop()
            if len(index_S) > missing:
                queue.put_back(index_S[missing:], self._narrow(state, missing, len(index_S)))
                index_S, state = index_S[:missing], self._narrow(state, 0, missing)
            taken.append((index_S, state))
            missing -= len(index_S)
        if len(taken) == 1:
            return taken[0]
        return np.concatenate([index_S for index_S, _ in taken]), self.backend.concat([state for _, state in taken])

    def _narrow(self, state: Any, start: int, stop: int) -> Any:
        return self.backend.narrow(state, start * self.views, stop * self.views)


def gather(results: Iterable[StreamResult]) -> RunResult:
    """Answers of a whole stream in the order of its samples.

    Args:
        results: What :meth:`DynamicRunner.stream` yields.

    Returns:
        NumPy arrays, whatever the backend.

    Raises:
        ValueError: If there are none.
    """
    parts = [tuple(map(np.asarray, (part.sample_index, part.logits, part.exit_index, part.confidence))) for part in results]
    if not parts:
        raise ValueError('the stream had no samples; check the data set')
    index_S, *arrays = (np.concatenate(column) for column in zip(*parts, strict=True))
    order_S = np.argsort(index_S)
    return RunResult(*(array[order_S] for array in arrays))


class _Answers:
    """Places for the answers to a batch, filled as samples leave."""

    def __init__(self, num_samples: int, num_classes: int) -> None:
        self.logits_SK = np.empty((num_samples, num_classes), np.float32)
        self.exit_S = np.empty(num_samples, np.int64)
        self.score_S = np.empty(num_samples, np.float32)

    def put(self, index_S: np.ndarray, logits_SK: np.ndarray, exit_index: int, score_S: np.ndarray) -> None:
        self.logits_SK[index_S] = logits_SK
        self.exit_S[index_S] = exit_index
        self.score_S[index_S] = score_S


class _Queue:
    """Samples that wait for a segment."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[np.ndarray, Any]] = deque()
        self.num_samples = 0

    def put(self, index_S: np.ndarray, state: Any) -> None:
        self.waiting.append((index_S, state))
        self.num_samples += len(index_S)

    def own_last(self, backend: Backend) -> None:
        """Copy what came last, if it still waits: whoever made the images may overwrite them for the next batch."""
        if self.waiting:
            index_S, state = self.waiting.pop()
            self.waiting.append((index_S, backend.own(state)))

    def put_back(self, index_S: np.ndarray, state: Any) -> None:
        self.waiting.appendleft((index_S, state))
        self.num_samples += len(index_S)

    def pop(self) -> tuple[np.ndarray, Any]:
        index_S, state = self.waiting.popleft()
        self.num_samples -= len(index_S)
        return index_S, state
