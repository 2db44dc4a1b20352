"""Dynamic inference: every sample leaves at the first exit that is confident enough, and nothing more is computed for it.

Shape suffixes: S samples, E exits, K classes; a sample is an image, or a clip, or all views of a video.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

from .deadlines import Deadlines
from .engines import Engine, OnnxRuntimeEngine
from .engines.base import Served
from .errors import UserError
from .policy import NEVER, ExitPolicy
from .results import RunResult, StreamResult
from .segment_times import image_size
from .streams import stream_samples
from .views import ViewsEngine, check_average_views, check_views

__all__ = ['DynamicRunner']


class DynamicRunner:
    """Runs a network segment by segment, and after each exit narrows the batch to the samples that stay.

    It may be called from several threads.

    Args:
        engine: Where segments run: an engine, or a folder that ``tools/export.py`` wrote, which ONNX Runtime serves.
        policy: Who leaves where: an :class:`~dynperceiver_runtime.policy.ExitPolicy` or its JSON file. Default: the policy in the
            exported folder, otherwise all samples go to the last exit.
        max_exit: Exit cap: index of the last exit that a sample may take, from 0 as in arrays (exit 1 has index 0; ``--max-exit`` of
            ``tools/test.py`` counts from 1). Default: all exits.
        views: Views of a video (test crops times sampled clips) that stand one after another in a batch and leave together.
        average_views: How views are averaged at an exit: ``'prob'``, their softmax probabilities, or ``'score'``, their logits; see
            :func:`~dynperceiver_runtime.views.average_logits`. Default: as the exported folder says, otherwise ``'score'``.
        clock: Seconds, for ``deadline_ms``.
        options: For the engine of a folder, for example ``num_threads``.

    Raises:
        UserError: If the folder cannot be served, or the policy was made for another checkpoint.
        UserError: If the policy has another number of exits, or an argument is not one of those above.
    """

    def __init__(
        self,
        engine: Engine | str | PathLike[str],
        policy: ExitPolicy | str | PathLike[str] | None = None,
        *,
        max_exit: int | None = None,
        views: int = 1,
        average_views: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ) -> None:
        if isinstance(engine, str | PathLike):
            engine = OnnxRuntimeEngine(engine, **options)
        elif options:
            given = ', '.join(f'{key}={value!r}' for key, value in options.items())
            raise TypeError(f'{given} with a ready {type(engine).__name__}: pass such options where the engine is made')
        self._engine: Engine | None = engine
        self._set_up(engine, policy, max_exit, views, average_views, clock)

    def _set_up(
        self,
        served: Served,
        policy: ExitPolicy | str | PathLike[str] | None,
        max_exit: int | None,
        views: int,
        average_views: str | None,
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
            raise UserError(
                f'the policy has {len(self.policy.thresholds)} thresholds, for {self.policy.num_exits} exits, but the network has '
                f'{served.num_exits} exits; pass {served.num_exits - 1} thresholds (the last exit takes all that are left)'
            )
        if self.policy.record is not None and self.policy.record.checkpoint is not None:
            self._check_weights(served.fingerprint)
        self.max_exit = self._check_exit(max_exit)
        self.views = check_views(views)
        self.average_views = check_average_views(average_views or getattr(served, 'average_views', None) or 'score')
        self.clock = clock
        self._deadlines = Deadlines(served.num_exits)

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

    def __call__(
        self, images: Any, *, deadline_ms: float | None = None, max_exit: int | None = None, views: int | None = None
    ) -> RunResult:
        """Answer a batch.

        Args:
            images: Normalised images, shape (S, 3, H, W); frames of clips as (S * views * T, 3, H, W) or (S * views, T, 3, H, W).
            deadline_ms: Milliseconds from now for the whole call: a segment is not begun if it would probably end later, judging by how
                long it took before (see :meth:`warm_up`), and who has not left takes the best exit reached. Segment 1 always runs, and a
                segment that never ran before is begun. See :mod:`~dynperceiver_runtime.deadlines` for how many answers may be late.
            max_exit: Exit cap of this call; index from 0.
            views: Views of a video in this call.

        Raises:
            UserError: If the input does not suit the network, a score is not finite, or an argument is not one of those above.
        """
        started = self.clock()
        if deadline_ms is not None and not deadline_ms > 0:
            raise UserError(f'deadline_ms={deadline_ms}: pass a positive number of milliseconds, or None for no deadline')
        last = self.max_exit if max_exit is None else self._check_exit(max_exit)
        views = self._views(views)
        engine = self._samples_engine(images, views)
        state = engine.start(images)
        call = self._deadlines.call(self.clock, started, deadline_ms, image_size(images))
        index_S = np.arange(engine.num_samples(state))
        answers = _Answers(len(index_S), self.served.num_classes)
        for exit_index in range(last + 1):
            if not len(index_S):
                break
            logits_SK, state = engine.run(exit_index, state)
            leaves_S, score_S = self.policy.decide(exit_index, logits_SK, index_S, exit_index == last)
            call.ran(exit_index, len(index_S) * views)
            num_staying = len(index_S) - int(leaves_S.sum())
            if num_staying and not call.may_begin(exit_index + 1, num_staying * views):
                leaves_S = np.ones(len(index_S), bool)
            answers.put(index_S[leaves_S], logits_SK[leaves_S], exit_index, score_S[leaves_S])
            if leaves_S.any():
                index_S = index_S[~leaves_S]
                state = engine.select(state, np.flatnonzero(~leaves_S)) if len(index_S) else None
        call.ended()
        wrap = engine.wrap
        return RunResult(wrap(answers.logits_SK), wrap(answers.exit_S), wrap(answers.score_S))

    def stream(
        self, batches: Iterable[Any], batch_size: int | None = None, *, max_exit: int | None = None, views: int | None = None
    ) -> Iterator[StreamResult]:
        """Answer a stream of batches: survivors of several batches are gathered, so that every segment sees full batches to the end.

        Args:
            batches: Batches as for a call, of any number of samples; samples are numbered through from 0. Images of one size are gathered.
            batch_size: Samples that a segment waits for. Default: the size of the first batch.
            max_exit: Exit cap of this stream; index from 0.
            views: Views of a video in this stream.

        Yields:
            Answers to the samples that left together; :func:`gather` puts them into order.

        Raises:
            UserError: As for a call. Where a batch cannot be made or run, its error is raised once all other samples that came before it
                are answered, and names the batch.
        """
        if batch_size is not None and batch_size < 1:
            raise UserError(f'batch_size={batch_size}: pass at least 1, or None for the size of the first batch')
        last = self.max_exit if max_exit is None else self._check_exit(max_exit)
        engine_for = partial(self._samples_engine, views=self._views(views))
        return stream_samples(engine_for, self.policy, last, batches, batch_size)

    def full_logits(self, images: Any, *, views: int | None = None) -> np.ndarray:
        """Logits of all exits, whatever the policy: what policies are calibrated on, and replayed against.

        Args:
            images: As for a call.
            views: Views of a video in this call; their logits are averaged.

        Returns:
            Float32 array of shape (E, S, K).
        """
        started = self.clock()
        views = self._views(views)
        engine = self._samples_engine(images, views)
        state = engine.start(images)
        call = self._deadlines.call(self.clock, started, None, image_size(images))
        logits_ESK = np.empty((self.served.num_exits, engine.num_samples(state), self.served.num_classes), np.float32)
        for exit_index, logits_SK in enumerate(logits_ESK if logits_ESK.shape[1] else ()):
            logits_SK[:], state = engine.run(exit_index, state)
            call.ran(exit_index, len(logits_SK) * views)
        return logits_ESK

    def warm_up(self, images: Any, rounds: int = 3, *, views: int | None = None) -> None:
        """Run all segments on a batch, so that everything is loaded and the time of each is known before a deadline counts.

        Times of other batch sizes and image sizes follow from these until they were measured themselves.
        """
        for _ in range(rounds):
            self.full_logits(images, views=views)

    def _samples_engine(self, images: Any, views: int) -> Engine:
        """What runs whole samples of these images."""
        engine = self._engine_for(images)
        return engine if views == 1 else ViewsEngine(engine, views, self.average_views)

    def _views(self, views: int | None) -> int:
        return self.views if views is None else check_views(views)

    def _check_exit(self, max_exit: int | None) -> int:
        last = self.served.num_exits - 1
        if max_exit is None:
            return last
        if not isinstance(max_exit, int | np.integer) or not 0 <= max_exit <= last:
            raise UserError(
                f'max_exit={max_exit}: pass the index of an exit, 0 to {last} (exit 1 has index 0, exit {last + 1} has index {last}), or '
                'None for no cap'
            )
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
