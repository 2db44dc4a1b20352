"""What tests of the runner compare with: the full network's logits, replayed under a policy."""

from __future__ import annotations

import numpy as np
import torch
from core_models import standard_normal

from dynperceiver import DynPerceiver
from dynperceiver.inference import ExitPolicy, RunResult

__all__ = ['SIZE', 'assert_replayed', 'full_logits', 'make_images', 'spread_policy']

SIZE = 56


def make_images(count: int, seed: int = 1) -> torch.Tensor:
    """Images of random numbers, float64."""
    return standard_normal((count, 3, SIZE, SIZE), seed)


def full_logits(model: DynPerceiver, images: torch.Tensor) -> np.ndarray:
    """Logits of all exits of the network as it was trained, shape (exits, samples, classes)."""
    with torch.no_grad():
        return torch.stack(model(images)).float().numpy()


def spread_policy(logits_ESK: np.ndarray, score: str = 'confidence', temperature: float = 1.0, *, between: bool = False) -> ExitPolicy:
    """A policy under which samples leave everywhere.

    Args:
        logits_ESK: Logits, shape (exits, samples, classes).
        score: See :class:`~dynperceiver.inference.ExitPolicy`.
        temperature: See there.
        between: Thresholds in the middle between two samples' scores, for what rounds differently; otherwise they are samples' scores.
    """
    probe = ExitPolicy((0.5,) * (len(logits_ESK) - 1), score, temperature)
    stay_S = np.arange(logits_ESK.shape[1])
    thresholds = []
    for exit_index in range(len(logits_ESK) - 1):
        score_S = probe.score_of(exit_index, logits_ESK[exit_index][stay_S])
        middle = len(score_S) // 2
        thresholds.append(float(np.sort(score_S)[middle - between : middle + 1].mean()))
        stay_S = stay_S[score_S < thresholds[-1]]
    return ExitPolicy(tuple(thresholds), score, temperature)


def assert_replayed(
    result: RunResult, policy: ExitPolicy, logits_ESK: np.ndarray, max_exit: int | None = None, tolerance: float = 1e-5
) -> None:
    """Exits equal those of a replay, and logits and scores are close."""
    exit_S, score_S = policy.replay(logits_ESK, max_exit)
    np.testing.assert_array_equal(np.asarray(result.exit_index), exit_S)
    expected_SK = logits_ESK[exit_S, np.arange(len(exit_S))]
    np.testing.assert_allclose(np.asarray(result.logits), expected_SK, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(np.asarray(result.confidence), score_S, rtol=tolerance, atol=tolerance)
