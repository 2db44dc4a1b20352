"""Thresholds in the form that people read and write, and the log-odds that decide.

People write a threshold as a score in [0, 1]. Scores that they copy have been rounded to float32, and the same sample's logits differ by
rounding between batch sizes and engines; so a threshold is met from a little below it on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scores import to_log_odds, to_probability

__all__ = [
    'NEVER',
    'TIE_TOLERANCE',
    'decision_thresholds',
    'largest_decision_thresholds',
    'log_odds_below',
    'log_odds_between',
    'log_odds_of_scores',
]

NEVER = 2.0
"""Threshold at which nobody leaves."""

TIE_TOLERANCE = 5e-6
"""How far below a threshold, in probability, a score may be that of the same sample, rounded differently."""

LOG_ODDS_TOLERANCE = 2e-5  # the same at a score of one half, where a step in log-odds is four steps in probability


def _half_step(score: np.ndarray, towards: float) -> np.ndarray:
    """Half the way from scores to the next float32."""
    single = np.asarray(score, np.float32)
    return np.abs(np.nextafter(single, np.float32(towards)).astype(np.float64) - single) / 2


def _lowest(score: np.ndarray) -> np.ndarray:
    """The lowest log-odds whose score rounds to these float32 scores."""
    return to_log_odds(np.maximum(np.asarray(score, np.float64) - _half_step(score, -1), 0))


def log_odds_of_scores(score: np.ndarray) -> np.ndarray:
    """Log-odds of scores of which only the probability form is known.

    Args:
        score: Scores in [0, 1], any shape. Those in float32 (or less) are taken as the lowest number that is rounded to them.

    Returns:
        Float64 of the same shape: finite, and larger for a larger score.
    """
    score = np.asarray(score)
    return to_log_odds(score) if score.dtype == np.float64 else _lowest(score)


def log_odds_below(log_odds: np.ndarray | float) -> np.ndarray:
    """Down to where other log-odds may be those of the same sample, computed in another batch or by another engine.

    It is 0.000005 less in probability up to one half. Above, it is 0.00002 less in log-odds, or that part of them where they are larger
    than 1: there a step in probability would take in samples that are told apart well. Float32's rounding of logits is as fine.
    """
    log_odds = np.asarray(log_odds, np.float64)
    unsure = to_log_odds(np.maximum(to_probability(np.minimum(log_odds, 0)) - TIE_TOLERANCE, 0))
    return np.asarray(np.where(log_odds <= 0, unsure, log_odds - LOG_ODDS_TOLERANCE * np.maximum(1, log_odds)))


def log_odds_between(reaching: float, missing: float) -> float:
    """The threshold that a sample reaches and the next one misses: halfway between, or :func:`log_odds_below` the first if that is nearer.

    Args:
        reaching: The lowest log-odds that are to reach it.
        missing: The highest that are not to, lower than that; ``-inf`` where there are none.
    """
    middle = max(float(log_odds_below(reaching)), reaching / 2 + missing / 2)
    return middle if middle > missing else reaching


def decision_thresholds(thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """The log-odds that decide for thresholds in the form of scores: ``-inf`` at 0, ``inf`` above 1, between them a little less."""
    threshold_J = np.asarray(thresholds, np.float64)
    inner_J = log_odds_below(_lowest(np.clip(threshold_J, 0, 1)))
    return np.where(threshold_J > 1, np.inf, np.where(threshold_J > 0, inner_J, -np.inf))


def largest_decision_thresholds(thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """The largest log-odds that a sample can have whose score is rounded to a threshold."""
    threshold_J = np.asarray(thresholds, np.float64)
    inner_J = to_log_odds(np.minimum(threshold_J + _half_step(threshold_J, 2), 1))
    return np.where(threshold_J > 1, np.inf, inner_J)
