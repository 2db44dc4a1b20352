"""Videos of several views: test crops and sampled clips that stand one after another in a batch and leave together.

Shape suffixes: S samples, V views, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .engines import Engine
from .errors import UserError

__all__ = ['VIEW_AVERAGES', 'ViewsEngine', 'average_logits', 'check_average_views', 'check_views']

VIEW_AVERAGES = ('prob', 'score')
"""How the views of a video are averaged: their softmax probabilities, or their logits; names as in MMAction2's ``average_clips``."""


def check_average_views(average_views: object) -> str:
    """The name of an average, if it is one of :data:`VIEW_AVERAGES`.

    Raises:
        UserError: If not.
    """
    if not isinstance(average_views, str) or average_views not in VIEW_AVERAGES:
        raise UserError(
            f"average_views={average_views!r}: choose 'prob' (mean of the softmax probabilities) or 'score' (mean of the logits)"
        )
    return average_views


def check_views(views: object) -> int:
    """A number of views, if it is 1 or more.

    Raises:
        UserError: If not.
    """
    if not isinstance(views, int | np.integer) or isinstance(views, bool) or views < 1:
        raise UserError(
            f'views={views!r}: a sample has a whole number of views, 1 or more; pass 1 unless the test pipeline gives several crops or '
            'clips'
        )
    return int(views)


def average_logits(logits_SVK: np.ndarray, average_views: str) -> np.ndarray:
    """One answer from those to several views, computed in float64.

    Args:
        logits_SVK: Logits, shape (samples, views, classes).
        average_views: ``'score'``: the mean of the logits. ``'prob'``: the logarithm of the mean of the softmax probabilities, so that
            softmax gives that mean. One view is left as it is.

    Returns:
        Float32 array of shape (samples, classes).
    """
    if logits_SVK.shape[1] == 1:
        return np.asarray(logits_SVK[:, 0], np.float32)
    logits_SVK = np.ascontiguousarray(logits_SVK, np.float64)
    with np.errstate(invalid='ignore'):  # numbers that are not finite are for the policy to refuse
        if average_views == 'prob':
            return (_log_sum_exp(_log_softmax(logits_SVK), 1) - np.log(logits_SVK.shape[1])).astype(np.float32)
        return logits_SVK.mean(1).astype(np.float32)


def _log_softmax(logits_SVK: np.ndarray) -> np.ndarray:
    return np.asarray(logits_SVK - _log_sum_exp(logits_SVK, 2)[..., None])


def _log_sum_exp(numbers: np.ndarray, axis: int) -> np.ndarray:
    largest = numbers.max(axis, keepdims=True)
    return np.asarray(np.log(np.exp(numbers - largest).sum(axis)) + largest.squeeze(axis))


class ViewsEngine:
    """An engine whose samples are videos of several views each.

    Args:
        engine: Where segments run, on single views.
        views: Views of a sample, which stand one after another in a batch.
        average_views: See :func:`average_logits`.
    """

    def __init__(self, engine: Engine, views: int, average_views: str) -> None:
        self.engine, self.views, self.average_views = engine, views, average_views
        self.num_exits, self.num_classes = engine.num_exits, engine.num_classes
        self.num_frames, self.fingerprint = engine.num_frames, engine.fingerprint

    def start(self, images: Any) -> Any:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return self.engine.start(images)

    def num_samples(self, state: Any) -> int:
        """Videos in a state.

        Raises:
            UserError: If views are missing.
        """
        clips = self.engine.num_samples(state)
        if clips % self.views:
            raise UserError(f'{clips} clips are no whole number of videos of {self.views} views; pass the views of a video together')
        return clips // self.views

    def run(self, exit_index: int, state: Any) -> tuple[np.ndarray, Any]:
        """See :class:`~dynperceiver_runtime.Engine`; the logits are those of a video."""
        logits_BK, state = self.engine.run(exit_index, state)
        return average_logits(logits_BK.reshape(-1, self.views, logits_BK.shape[1]), self.average_views), state

    def select(self, state: Any, index_S: np.ndarray) -> Any:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return self.engine.select(state, (index_S[:, None] * self.views + np.arange(self.views)).ravel())

    def narrow(self, state: Any, start: int, stop: int) -> Any:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return self.engine.narrow(state, start * self.views, stop * self.views)

    def own(self, state: Any) -> Any:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return self.engine.own(state)

    def concat(self, states: Sequence[Any]) -> Any:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return self.engine.concat(states)

    def wrap(self, array: np.ndarray) -> Any:
        """See :class:`~dynperceiver_runtime.Engine`."""
        return self.engine.wrap(array)
