"""Accuracy of every exit.

Shape suffixes: S samples, E exits, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..registry import METRICS
from .collection import ExitFiguresMetric, check_scores, exit_table

__all__ = ['MultiExitAccuracy', 'exit_accuracies', 'label_ranks']


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
        UserError: If there is no sample, a score is not finite, or a label is no class number.
    """
    check_scores(scores_SEK, labels_S, 'an accuracy')
    return _accuracies(label_ranks(scores_SEK, labels_S), labels_S, topk)


def label_ranks(scores_SEK: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """Number of classes that come before the label's: 0 for a right answer.

    Args:
        scores_SEK: Scores, shape (samples, exits, classes).
        labels_S: Class numbers, shape (samples,).

    Returns:
        Ranks, shape (samples, exits); of equal scores the class of the smaller number comes first.
    """
    label_S11 = labels_S[:, None, None]
    own_SE1 = np.take_along_axis(scores_SEK, label_S11, axis=2)
    tied_SEK = (scores_SEK == own_SE1) & (np.arange(scores_SEK.shape[2]) < label_S11)
    return np.asarray(np.count_nonzero((scores_SEK > own_SE1) | tied_SEK, axis=2))


def _accuracies(rank_SE: np.ndarray, labels_S: np.ndarray, topk: Sequence[int]) -> list[dict[str, float]]:
    _, class_S, samples_K = np.unique(labels_S, return_inverse=True, return_counts=True)
    results = []
    for rank_S in rank_SE.T:
        result = {f'top{k}': float((rank_S < k).mean()) for k in topk}
        result['mean_class'] = float((np.bincount(class_S, weights=rank_S == 0) / samples_K).mean())
        results.append(result)
    return results


@METRICS.register_module()
class MultiExitAccuracy(ExitFiguresMetric):
    """Top-1, top-5 and mean-class accuracy of every exit: ``acc/exit1_top1``, ``acc/exit2_mean_class`` .., in [0, 1].

    The model's data samples carry ``exit_scores``, shape (exits, classes), and ``gt_label``.

    Args:
        topk: Values of k.
        collect_device: See MMEngine's ``BaseMetric``.
        prefix: Prefix of the names; default ``acc``.
    """

    default_prefix = 'acc'
    quantity = 'an accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = tuple(topk)

    def reduce(self, scores_SEK: np.ndarray, labels_S: np.ndarray) -> dict[str, np.ndarray]:
        """Rank of the label, from 0."""
        return {'rank': label_ranks(scores_SEK, labels_S)}

    def measure(self, figures: Mapping[str, np.ndarray], labels_S: np.ndarray) -> tuple[dict[str, float], str]:
        """Accuracies over all samples, and a table with a row per exit."""
        rows = _accuracies(figures['rank'], labels_S, self.topk)
        metrics = {f'exit{i}_{name}': value for i, row in enumerate(rows, 1) for name, value in row.items()}
        return metrics, f'accuracy per exit on {len(labels_S)} samples\n{exit_table(rows, {})}'
