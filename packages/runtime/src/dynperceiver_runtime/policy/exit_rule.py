"""The one rule of early exiting: a sample leaves at the first exit whose score reaches that exit's threshold, the last exit takes the rest.

Every comparison of scores with thresholds is one of these functions, whatever the scores are: log-odds, probabilities, or a script.

Shape suffixes: E exits, S samples, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ['first_exit', 'num_reached', 'num_reaching', 'reaches']


def reaches(score_S: np.ndarray, threshold: float) -> np.ndarray:
    """Whether scores reach a threshold: ``score >= threshold``, as real numbers, without any tolerance.

    Args:
        score_S: Scores, any shape and floating type.
        threshold: The threshold; all reach ``-inf``, and none ``inf``.

    Returns:
        Booleans of the scores' shape.

    Raises:
        ValueError: If a score or the threshold is NaN.
    """
    score_S, threshold = np.asarray(score_S, np.float64), float(threshold)
    if np.isnan(threshold) or np.isnan(score_S).any():
        what = 'threshold' if np.isnan(threshold) else f'score of sample {int(np.isnan(score_S).argmax())}'
        raise ValueError(f'the {what} is NaN, and NaN cannot be compared; pass numbers')
    return np.zeros(score_S.shape, bool) if threshold == np.inf else np.asarray(score_S >= threshold)


def first_exit(score_ES: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """The exit at which each sample leaves: the first whose score reaches its threshold (see :func:`reaches`), otherwise the last.

    Args:
        score_ES: Scores at all exits, shape (exits, samples); those of the last exit are not looked at.
        thresholds: One per exit but the last, on the same scale as the scores; one for the last may follow, and is not looked at.

    Returns:
        Index of the exit, from 0, int64, shape (samples,).

    Raises:
        ValueError: If the shapes do not fit, or a threshold or a score that is looked at is NaN.
    """
    score_ES, threshold_E = np.asarray(score_ES), np.asarray(thresholds, np.float64)
    if score_ES.ndim != 2 or not len(score_ES):
        raise ValueError(f'scores of shape {score_ES.shape} are not those of exits and samples; pass an array of shape (exits, samples)')
    last = len(score_ES) - 1
    if threshold_E.shape not in ((last,), (last + 1,)):
        raise ValueError(f'thresholds of shape {threshold_E.shape} do not go with {last + 1} exits; pass {last} or {last + 1} numbers')
    exit_S = np.full(score_ES.shape[1], last, np.int64)
    for exit_index in reversed(range(last)):
        try:
            exit_S[reaches(score_ES[exit_index], threshold_E[exit_index])] = exit_index
        except ValueError as error:
            raise ValueError(f'exit {exit_index + 1}: {error}') from None
    return exit_S


def num_reached(score_S: np.ndarray, rising_T: np.ndarray) -> np.ndarray:
    """How many of some rising thresholds each score reaches, int64, shape (samples,)."""
    finite_T = rising_T[: int(np.searchsorted(rising_T, np.inf))]
    return np.asarray(np.searchsorted(finite_T, score_S, side='right'))


def num_reaching(falling_S: np.ndarray, threshold_T: np.ndarray) -> np.ndarray:
    """How many of some falling scores reach each threshold, int64, shape (thresholds,)."""
    return np.where(threshold_T == np.inf, 0, np.searchsorted(-falling_S, -threshold_T, side='right'))
