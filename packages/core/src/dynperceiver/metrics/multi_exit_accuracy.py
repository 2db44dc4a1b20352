"""Accuracy of every exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ..registry import METRICS

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
    if not len(labels_S):
        raise ValueError('there are no samples to measure an accuracy on; the test set is empty, check its annotation file')
    num_classes = scores_SEK.shape[2]
    if labels_S.min() < 0 or labels_S.max() >= num_classes:
        raise ValueError(
            f'labels run from {labels_S.min()} to {labels_S.max()}, but the model has {num_classes} classes; set num_classes, or correct '
            'the labels'
        )
    bad = ~np.isfinite(scores_SEK).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f'{int(bad.sum())} of {len(bad)} samples have scores that are not finite; the weights have diverged, use an earlier checkpoint'
        )
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
class MultiExitAccuracy(BaseMetric):
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

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep scores and label of every sample of a batch."""
        for sample in data_samples:
            if 'exit_scores' not in sample:
                raise ValueError(
                    f'a data sample has no exit_scores, but only {", ".join(sample)}; MultiExitAccuracy needs a model with early exits, '
                    "use the task's own accuracy metric for others"
                )
            label = sample['gt_label']
            label = label.get('item', label) if isinstance(label, Mapping) else label
            self.results.append((sample['exit_scores'].float().cpu().numpy(), int(label)))

    def compute_metrics(self, results: list[tuple[np.ndarray, int]]) -> dict[str, float]:
        """Accuracies over all samples; also logs them as a table, one row per exit."""
        scores = np.stack([score for score, _ in results]) if results else np.zeros((0, 1, 1))
        accuracies = exit_accuracies(scores, np.array([label for _, label in results], dtype=np.int64), self.topk)
        names = list(accuracies[0])
        lines = ['exit  ' + '  '.join(f'{name:>10}' for name in names)]
        lines += [f'{i:>4}  ' + '  '.join(f'{100 * row[name]:>9.2f}%' for name in names) for i, row in enumerate(accuracies, 1)]
        print_log(f'accuracy per exit on {len(results)} samples\n' + '\n'.join(lines), logger='current')
        return {f'exit{i}_{name}': row[name] for i, row in enumerate(accuracies, 1) for name in names}
