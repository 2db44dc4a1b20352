"""Accuracy of every exit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..registry import METRICS
from .collection import ExitScoresMetric, check_scores, exit_table

__all__ = ['MultiExitAccuracy', 'exit_accuracies']


def exit_accuracies(scores_SEK: np.ndarray, labels_S: np.ndarray, topk: Sequence[int] = (1, 5)) -> list[dict[str, float]]:
    """Top-k and mean-class accuracy per exit.

    A sample counts for top-k if fewer than k classes score higher than its label's, and among equals those with a smaller number
    come first.

    Args:
        scores_SEK: Scores or logits, shape (samples, exits, classes).
        labels_S: Class numbers, shape (samples,).
        topk: Values of k; larger ones than the number of classes give 1.

    Returns:
        Per exit a dict with ``top1``, ``top5`` .. and ``mean_class`` (mean over the classes that occur), each in [0, 1].

    Raises:
        ValueError: If there is no sample, a score is not finite, or a label is no class number.
    """
    check_scores(scores_SEK, labels_S, 'an accuracy')
    num_classes = scores_SEK.shape[2]
    rows = np.arange(len(labels_S))
    results = []
    for scores_SK in scores_SEK.transpose(1, 0, 2):
        own = scores_SK[rows, labels_S][:, None]
        before = np.arange(num_classes)[None] < labels_S[:, None]
        rank_S = (scores_SK > own).sum(1) + ((scores_SK == own) & before).sum(1)
        hit_S = rank_S == 0
        result = {f'top{k}': float((rank_S < k).mean()) for k in topk}
        result['mean_class'] = float(np.mean([hit_S[labels_S == label].mean() for label in np.unique(labels_S)]))
        results.append(result)
    return results


@METRICS.register_module()
class MultiExitAccuracy(ExitScoresMetric):
    """Top-1, top-5 and mean-class accuracy of every exit: ``acc/exit1_top1`` .. ``acc/exit4_mean_class``, in [0, 1].

    The model's data samples carry ``exit_scores``, shape (exits, classes), and ``gt_label``.

    Args:
        topk: Values of k.
        collect_device: See MMEngine's ``BaseMetric``.
        prefix: Prefix of the names; default ``acc``.
    """

    default_prefix = 'acc'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = tuple(topk)

    def measure(self, scores_SEK: np.ndarray, labels_S: np.ndarray) -> tuple[dict[str, float], str]:
        """Accuracies over all samples, and a table with a row per exit."""
        rows = exit_accuracies(scores_SEK, labels_S, self.topk)
        metrics = {f'exit{i}_{name}': value for i, row in enumerate(rows, 1) for name, value in row.items()}
        return metrics, f'accuracy per exit on {len(labels_S)} samples\n{exit_table(rows, {})}'
