"""What the metrics over exits share: collecting scores and labels, checking them, and tables.

Shape suffixes: S samples, E exits, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

__all__ = ['ExitScoresMetric', 'check_scores', 'exit_table', 'matrix_table']


def check_scores(scores_SEK: np.ndarray, labels_S: np.ndarray, quantity: str) -> None:
    """Check what a metric is to be computed from.

    Args:
        scores_SEK: Scores or logits, shape (samples, exits, classes).
        labels_S: Class numbers, shape (samples,).
        quantity: What is to be measured, with its article, for the message.

    Raises:
        ValueError: If there is no sample, a score is not finite, or a label is no class number.
    """
    if not len(labels_S):
        raise ValueError(f'there are no samples to measure {quantity} on; the test set is empty, check its annotation file')
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


def exit_table(rows: Sequence[Mapping[str, float]], formats: Mapping[str, str]) -> str:
    """Lines of a table with a row per exit.

    Args:
        rows: Values by name, one dict per exit, all with the same names.
        formats: Format of a name's values where they are no shares, which are written in percent.
    """
    names = list(rows[0])
    lines = ['exit  ' + '  '.join(f'{name:>10}' for name in names)]
    for number, row in enumerate(rows, 1):
        cells = [format(row[name], formats[name]) if name in formats else f'{100 * row[name]:.2f}%' for name in names]
        lines.append(f'{number:>4}  ' + '  '.join(f'{cell:>10}' for cell in cells))
    return '\n'.join(lines)


def matrix_table(shares_EE: np.ndarray, diagonal: bool = True) -> str:
    """Lines of a table with a row and a column per exit.

    Args:
        shares_EE: Shares in [0, 1], written in percent.
        diagonal: Whether the diagonal says something.
    """
    numbers = range(len(shares_EE))
    lines = ['      ' + '  '.join(f'{f"exit {j + 1}":>8}' for j in numbers)]
    for i in numbers:
        cells = [f'{100 * shares_EE[i, j]:.2f}%' if diagonal or i != j else '-' for j in numbers]
        lines.append(f'exit {i + 1}' + '  '.join(f'{cell:>8}' for cell in cells))
    return '\n'.join(lines)


class ExitScoresMetric(BaseMetric):
    """Base of the metrics over all exits: keeps scores and label of every sample.

    The model's data samples carry ``exit_scores``, shape (exits, classes), and ``gt_label``. A metric says in :meth:`measure` what it
    makes of them.
    """

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep scores and label of every sample of a batch.

        Raises:
            ValueError: If a sample has no scores per exit, or no label.
        """
        for sample in data_samples:
            if 'exit_scores' not in sample:
                raise ValueError(
                    f'a data sample has no exit_scores, but only {", ".join(sample)}; {type(self).__name__} needs a model with early '
                    "exits, use the task's own accuracy metric for others"
                )
            if 'gt_label' not in sample:
                raise ValueError(
                    f'a data sample has no gt_label, but only {", ".join(sample)}; {type(self).__name__} needs a labelled data set, choose '
                    'another split, or check the annotation file'
                )
            label = sample['gt_label']
            label = label.get('item', label) if isinstance(label, Mapping) else label
            self.keep(sample, sample['exit_scores'].float().cpu().numpy(), int(label))

    def keep(self, sample: Mapping[str, Any], scores_EK: np.ndarray, label: int) -> None:
        """Add a sample to ``results``."""
        self.results.append((scores_EK, label))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics over all samples; also logs them as a table."""
        scores_SEK = np.stack([score for score, _ in results]) if results else np.zeros((0, 1, 1))
        metrics, table = self.measure(scores_SEK, np.array([label for _, label in results], dtype=np.int64))
        print_log(table, logger='current')
        return metrics

    def measure(self, scores_SEK: np.ndarray, labels_S: np.ndarray) -> tuple[dict[str, float], str]:
        """Metrics by name without their prefix, and a table of them for the log.

        Args:
            scores_SEK: Scores or logits, shape (samples, exits, classes).
            labels_S: Class numbers, shape (samples,).
        """
        raise NotImplementedError
