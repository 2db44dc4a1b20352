"""Thresholds for chosen shares of samples per exit.

Shape suffixes: E exits, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynperceiver_runtime.policy.exit_policy import NEVER

from .held_out_scores import check_fractions

__all__ = ['ALL_LEAVE', 'NONE_LEAVES', 'as_policy_thresholds', 'solve_thresholds']

ALL_LEAVE = np.float32(-1e8)
NONE_LEAVES = np.float32(1e8)


def solve_thresholds(
    score_ES: np.ndarray, exit_fractions: Sequence[float] | np.ndarray, order_ES: np.ndarray | None = None
) -> np.ndarray:
    """Thresholds at which a given share of the samples leaves at each exit.

    For exit k the samples not yet out are walked in order of falling score; the score of the floor(n * p_k)-th is the threshold, and all
    that reach it leave. The product is taken in float32.

    Args:
        score_ES: Scores, shape (exits, samples).
        exit_fractions: Share p_k of all n samples per exit; they sum up to 1.
        order_ES: Samples by falling score per exit, where they are at hand.

    Returns:
        Thresholds, float32, shape (exits,); :data:`ALL_LEAVE` at the last exit, and :data:`NONE_LEAVES` where floor(n * p_k) is 0, or
        nobody is left. Where less than floor(n * p_k) are left, since ties left with an earlier exit, all of them leave.

    Raises:
        ValueError: If the shape is another, or the fractions do not fit.
    """
    score_ES = np.asarray(score_ES, np.float32)
    if score_ES.ndim != 2 or score_ES.shape[0] < 2 or score_ES.shape[1] == 0 or not np.isfinite(score_ES).all():
        raise ValueError(f'score_ES of shape {score_ES.shape}: pass finite scores of 2 or more exits and 1 or more samples')
    num_exits, num_samples = score_ES.shape
    count_E = np.floor(np.float32(num_samples) * check_fractions(exit_fractions, num_exits)).astype(np.int64)
    threshold_E = np.full(num_exits, NONE_LEAVES, np.float32)
    threshold_E[-1] = ALL_LEAVE
    out_S = np.zeros(num_samples, bool)
    for k in range(num_exits - 1):
        order_S = np.argsort(-score_ES[k], kind='stable') if order_ES is None else order_ES[k]
        waiting_S = order_S[~out_S[order_S]]
        count = min(count_E[k], len(waiting_S))
        if count:
            threshold_E[k] = score_ES[k, waiting_S[count - 1]]
            out_S |= score_ES[k] >= threshold_E[k]
    return threshold_E


def as_policy_thresholds(threshold_E: np.ndarray) -> tuple[float, ...]:
    """Thresholds of :func:`solve_thresholds` as a policy takes them: one per exit but the last, 0 for all and 2.0 for none."""
    return tuple(NEVER if threshold > 1 else max(float(threshold), 0.0) for threshold in threshold_E[:-1])
