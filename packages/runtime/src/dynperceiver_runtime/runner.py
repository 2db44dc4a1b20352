"""Dynamic inference: every sample leaves at the first exit that is confident enough, and nothing more is computed for it.

Shape suffixes: S samples, E exits, K classes; a sample is an image, or a clip, or all views of a video.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any

import numpy as np

from .engines import Engine, OnnxRuntimeEngine
from .engines.base import Served
from .policy import NEVER, ExitPolicy
from .results import RunResult, StreamResult
from .segment_times import SegmentTimes
from .stepping import Stepper
from .streams import stream_samples

__all__ = ['DynamicRunner']

class DynamicRunner:
    """Runs a network segment by segment, and after each exit narrows the batch to the samples that stay.

    Args:
        engine: Where segments run: an engine, or a folder that ``tools/export.py`` wrote, which ONNX Runtime serves.
        policy: Who leaves where: an :class:`~dynperceiver_runtime.policy.ExitPolicy` or its JSON file. Default: the policy in the
            exported folder, otherwise all samples go to the last exit.
        max_exit: Exit cap: index of the last exit that a sample may take, from 0. Default: all exits.
        views: Views of a video (test crops times sampled clips) that stand one after another in a batch and leave together; their logits
            are averaged.
        clock: Seconds, for ``deadline_ms``.
        options: For the engine of a folder, for example ``num_threads``.

    Raises:
        UserError: If the folder cannot be served, or the policy was made for another checkpoint.
        ValueError: If the policy has another number of exits, or an argument breaks its rule.
    """

    def __init__(
        self,
        engine: Engine | str | PathLike[str],
        policy: ExitPolicy | str | PathLike[str] | None = None,
        *,
        max_exit: int | None = None,
        views: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ) -> None:
        if isinstance(engine, str | PathLike):
            engine = OnnxRuntimeEngine(engine, **options)
        elif options:
            given = ', '.join(f'{key}={value!r}' for key, value in options.items())
            raise TypeError(f'{given} with a ready {type(engine).__name__}: pass such options where the engine is made')
        self._engine: Engine | None = engine
        self._set_up(engine, policy, max_exit, views, clock)

    def _set_up(
        self,
        served: Served,
        policy: ExitPolicy | str | PathLike[str] | None,
        max_exit: int | None,
        views: int,
        clock: Callable[[], float],
    ) -> None:
        """Take in the settings, and check that they go with the network."""
        self.served = served
        if policy is None:
            policy = getattr(served, 'stored_policy', None)
        if policy is None:
            policy = ExitPolicy(thresholds=(NEVER,) * (served.num_exits - 1))
        self.policy = policy if isinstance(policy, ExitPolicy) else ExitPolicy.load(policy)
        if self.policy.num_exits != served.num_exits:
            raise ValueError(
                f'the policy has {len(self.policy.thresholds)} thresholds, for {self.policy.num_exits} exits, but the network has '
                f'{served.num_exits} exits; pass {served.num_exits - 1} thresholds (the last exit takes all that are left)'
            )
        if self.policy.record is not None and self.policy.record.checkpoint is not None:
            self._check_weights(served.fingerprint)
        if views < 1:
            raise ValueError(f'views={views}: a sample has at least one view; pass 1 unless the test pipeline gives several crops or clips')
        self.max_exit = self._check_exit(max_exit)
        self.views = views
        self.clock = clock
        self.times = SegmentTimes(served.num_exits)

    @property
    def engine(self) -> Engine:
        """Where segments run."""
        assert self._engine is not None
        return self._engine

    def _engine_for(self, images: Any) -> Engine:
        """The engine that runs these images."""
        return self.engine

    def _check_weights(self, fingerprint: str) -> None:
        self.policy.check_checkpoint(fingerprint)

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
        steps = self._steps(images)
        state = steps.start(images)
        index_S = np.arange(steps.num_samples(state))
        answers = _Answers(len(index_S), self.served.num_classes)
        for exit_index in range(last + 1):
            if not len(index_S):
                break
            logits_SK, state = steps.run(exit_index, state)
            is_last = exit_index == last or (
                deadline_ms is not None
                and (self.clock() - started) * 1e3 + self.times.expect(exit_index + 1, len(index_S)) > deadline_ms
            )
            leaves_S, score_S = self.policy.decide(exit_index, logits_SK, index_S, is_last)
            answers.put(index_S[leaves_S], logits_SK[leaves_S], exit_index, score_S[leaves_S])
            if leaves_S.any():
                index_S = index_S[~leaves_S]
                state = steps.select(state, np.flatnonzero(~leaves_S)) if len(index_S) else None
        wrap = self.engine.wrap
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
        return stream_samples(self._steps, self.policy, self.max_exit, batches, batch_size)

    def full_logits(self, images: Any) -> np.ndarray:
        """Logits of all exits, whatever the policy: what policies are calibrated on, and replayed against.

        Args:
            images: As for a call.

        Returns:
            Float32 array of shape (E, S, K).
        """
        steps = self._steps(images)
        state = steps.start(images)
        if not steps.num_samples(state):
            return np.empty((self.served.num_exits, 0, self.served.num_classes), np.float32)
        logits = []
        for exit_index in range(self.served.num_exits):
            logits_SK, state = steps.run(exit_index, state)
            logits.append(logits_SK)
        return np.stack(logits)

    def warm_up(self, images: Any, rounds: int = 3) -> None:
        """Run all segments on a batch, so that everything is loaded and the time of each is known before a deadline counts."""
        for _ in range(rounds):
            self.full_logits(images)

    def _steps(self, images: Any) -> Stepper:
        return Stepper(self._engine_for(images), self.views, self.times, self.clock)

    def _check_exit(self, max_exit: int | None) -> int:
        last = self.served.num_exits - 1
        if max_exit is None:
            return last
        if not isinstance(max_exit, int | np.integer) or not 0 <= max_exit <= last:
            raise ValueError(f'max_exit={max_exit}: pass the index of an exit, 0 to {last}, or None for no cap')
        return int(max_exit)


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
