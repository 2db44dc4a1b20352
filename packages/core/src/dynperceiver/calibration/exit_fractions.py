"""Thresholds for chosen fractions of the samples per exit.

Shape suffixes: E exits, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynperceiver_runtime.policy.exit_rule import reaches
from dynperceiver_runtime.policy.thresholds import NEVER

from .held_out_scores import check_fractions

__all__ = ['ALL_LEAVE', 'NONE_LEAVES', 'as_policy_thresholds', 'solve_thresholds', 'wanted_counts']

ALL_LEAVE = np.float32(-1e8)
NONE_LEAVES = np.float32(1e8)


def wanted_counts(exit_fractions: Sequence[float] | np.ndarray, num_exits: int, num_samples: int) -> np.ndarray:
    """Samples that are to leave at each exit, floor(n * p_k) with the product in float32, int64, shape (exits,).

    Raises:
        ValueError: If the fractions do not fit.
    """
    return np.floor(np.float32(num_samples) * check_fractions(exit_fractions, num_exits)).astype(np.int64)


def solve_thresholds(
    score_ES: np.ndarray, exit_fractions: Sequence[float] | np.ndarray, order_ES: np.ndarray | None = None
) -> np.ndarray:
    """Thresholds at which given fractions of the samples leave at each exit.

    For exit k the samples not yet out are walked in order of falling score; the score of the floor(n * p_k)-th is the threshold, and all
    that reach it leave. The product is taken in float32.

    Args:
        score_ES: Scores, shape (exits, samples), on any scale: log-odds, or float32 probabilities as the reference has them.
        exit_fractions: Fraction p_k of all n samples per exit; they sum up to 1.
        order_ES: Samples by falling score per exit, where they are at hand.

    Returns:
        Thresholds in the scores' floating type, shape (exits,); minus infinity at the last exit, and infinity where floor(n * p_k) is 0, or
        nobody is left; in float32, in their place :data:`ALL_LEAVE` and :data:`NONE_LEAVES`, the reference's numbers. Where less than
        floor(n * p_k) are left, since ties left with an earlier exit, all of them leave.

    Raises:
        ValueError: If the shape is another, or the fractions do not fit.
    """
    score_ES = np.asarray(score_ES)
    if score_ES.dtype not in (np.float32, np.float64):
        score_ES = score_ES.astype(np.float64)
    if score_ES.ndim != 2 or score_ES.shape[0] < 2 or score_ES.shape[1] == 0 or not np.isfinite(score_ES).all():
        raise ValueError(f'score_ES of shape {score_ES.shape}: pass finite scores of 2 or more exits and 1 or more samples')
    num_exits, num_samples = score_ES.shape
    all_leave, none_leaves = (ALL_LEAVE, NONE_LEAVES) if score_ES.dtype == np.float32 else (-np.inf, np.inf)
    count_E = wanted_counts(exit_fractions, num_exits, num_samples)
    threshold_E = np.full(num_exits, none_leaves, score_ES.dtype)
    threshold_E[-1] = all_leave
    out_S = np.zeros(num_samples, bool)
    for k in range(num_exits - 1):
        order_S = np.argsort(-score_ES[k], kind='stable') if order_ES is None else order_ES[k]
        waiting_S = order_S[~out_S[order_S]]
        count = min(count_E[k], len(waiting_S))
        if count:
            threshold_E[k] = score_ES[k, waiting_S[count - 1]]
            out_S |= reaches(score_ES[k], threshold_E[k])
    return threshold_E


def as_policy_thresholds(threshold_E: np.ndarray) -> tuple[float, ...]:
    """Thresholds of :func:`solve_thresholds` on scores as a policy takes them: one per exit but the last, 0 for all and 2.0 for none."""
    return tuple(NEVER if threshold > 1 else max(float(threshold), 0.0) for threshold in threshold_E[:-1])
