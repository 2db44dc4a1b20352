"""Temperature scaling of every exit (Guo et al., ICML 2017, section 4.2).

Shape suffixes: E exits, S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynperceiver_runtime.policy.scores import CHUNK_NUMBERS, score_samples

from .held_out_scores import check_logits_and_labels

__all__ = ['fit_temperature']

TEMPERATURES = (0.02, 50.0)
MAX_STEPS = 40
ACCURACY = 1e-6  # relative


def _slope_and_curvature(logits_SK: np.ndarray, labels_S: np.ndarray, inverse: float) -> tuple[float, float]:
    """First and second derivative of the negative log-likelihood by the inverse temperature, summed over the samples."""
    slope = curvature = 0.0
    num_rows = max(1, CHUNK_NUMBERS // logits_SK.shape[1])
    for start in range(0, len(logits_SK), num_rows):
        chunk_SK = logits_SK[start : start + num_rows].astype(np.float32)
        label_S = labels_S[start : start + num_rows, None]
        chunk_SK -= chunk_SK.max(1, keepdims=True)
        power_SK = np.exp(chunk_SK * np.float32(inverse))
        total_S = power_SK.sum(1)
        power_SK *= chunk_SK
        mean_S = power_SK.sum(1) / total_S
        power_SK *= chunk_SK
        square_S = power_SK.sum(1) / total_S
        slope += float((mean_S - np.take_along_axis(chunk_SK, label_S, 1)[:, 0]).sum(dtype=np.float64))
        curvature += float((square_S - mean_S**2).sum(dtype=np.float64))
    return slope, curvature


def _fit(logits_SK: np.ndarray, labels_S: np.ndarray) -> float:
    """Newton's method for the inverse temperature, in which the likelihood is convex; halving where it would leave the bracket."""
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    inverse = 1.0
    for _ in range(MAX_STEPS):
        slope, curvature = _slope_and_curvature(logits_SK, labels_S, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else -1.0
        new = step if low < step < high else float(np.sqrt(low * high))
        if slope == 0 or abs(new - inverse) < ACCURACY * inverse:
            break
        inverse = new
    return 1 / inverse


def fit_temperature(logits_ESK: np.ndarray | Sequence[np.ndarray], labels_S: np.ndarray) -> tuple[float, ...]:
    """The temperature of every exit with the smallest negative log-likelihood.

    Args:
        logits_ESK: Logits, shape (exits, samples, classes), or a sequence of one array per exit.
        labels_S: Class numbers, shape (samples,).

    Returns:
        Temperature per exit, from 0.02 (an exit that is always right would take 0) to 50 (one that guesses, infinity).

    Raises:
        ValueError: If the shapes do not fit, there are no samples, a label is no class number, or a logit is not finite.
    """
    logits, labels_S = check_logits_and_labels(logits_ESK, labels_S)
    for exit_index, logits_SK in enumerate(logits):
        score_samples(logits_SK, exit_index=exit_index)
    return tuple(_fit(logits_SK, labels_S) for logits_SK in logits)
