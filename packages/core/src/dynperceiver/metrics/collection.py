"""What the metrics over exits share: reducing scores to a few figures per sample, checking them, and tables.

Shape suffixes: S samples, E exits, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from dynperceiver_runtime import UserError

__all__ = ['ExitFiguresMetric', 'ExitScoresMetric', 'check_scores', 'exit_table', 'matrix_table']


def check_scores(scores_SEK: np.ndarray, labels_S: np.ndarray, quantity: str) -> None:
    """Check what a metric is to be computed from.

    Args:
        scores_SEK: Scores or logits, shape (samples, exits, classes).
        labels_S: Class numbers, shape (samples,).
        quantity: What is to be measured, with its article, for the message.

    Raises:
        UserError: If there is no sample, a score is not finite, or a label is no class number.
    """
    _check_any(len(labels_S), quantity)
    _check_samples(labels_S, _finite(scores_SEK), scores_SEK.shape[2])


def _check_any(num_samples: int, quantity: str) -> None:
    if not num_samples:
        raise UserError(f'there are no samples to measure {quantity} on; the test set is empty, check its annotation file')


def _check_samples(labels_S: np.ndarray, finite_S: np.ndarray, num_classes: int) -> None:
    if labels_S.min() < 0 or labels_S.max() >= num_classes:
        raise UserError(
            f'labels run from {labels_S.min()} to {labels_S.max()}, but the model has {num_classes} classes; set num_classes, or correct '
            'the labels'
        )
    if not finite_S.all():
        raise UserError(
            f'{int((~finite_S).sum())} of {len(finite_S)} samples have scores that are not finite; the weights have diverged, use an '
            'earlier checkpoint'
        )


def _check_shapes(shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        raise UserError(
            f'exit_scores have several shapes (exits, classes): {", ".join(map(str, sorted(shapes)))}; a metric compares samples of one '
            'model, evaluate every model on its own'
        )


def _finite(scores_SEK: np.ndarray) -> np.ndarray:
    return np.asarray(np.isfinite(scores_SEK).all(axis=(1, 2)))


def exit_table(rows: Sequence[Mapping[str, float]], formats: Mapping[str, str]) -> str:
    """Lines of a table with a row per exit.

    Args:
        rows: Values by name, one dict per exit, all with the same names.
        formats: Format of a name's values, if these are not fractions, which are written in percent.
    """
    names = list(rows[0])
    lines = ['exit  ' + '  '.join(f'{name:>10}' for name in names)]
    for number, row in enumerate(rows, 1):
        cells = [format(row[name], formats[name]) if name in formats else f'{100 * row[name]:.2f}%' for name in names]
        lines.append(f'{number:>4}  ' + '  '.join(f'{cell:>10}' for cell in cells))
    return '\n'.join(lines)


def matrix_table(fractions_EE: np.ndarray, diagonal: bool = True) -> str:
    """Lines of a table with a row and a column per exit.

    Args:
        fractions_EE: Fractions in [0, 1], written in percent.
        diagonal: Whether the diagonal says something.
    """
    numbers = range(len(fractions_EE))
    lines = ['      ' + '  '.join(f'{f"exit {j + 1}":>8}' for j in numbers)]
    for i in numbers:
        cells = [f'{100 * fractions_EE[i, j]:.2f}%' if diagonal or i != j else '-' for j in numbers]
        lines.append(f'exit {i + 1}' + '  '.join(f'{cell:>8}' for cell in cells))
    return '\n'.join(lines)


class ExitScoresMetric(BaseMetric):
    """Base of the metrics over all exits: reads scores and label of every sample.

    The model's data samples carry ``exit_scores``, shape (exits, classes), and ``gt_label``. A metric says in :meth:`keep`, or for a
    batch at once in :meth:`keep_batch`, what it needs of them.
    """

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep what is needed of every sample of a batch.

        Raises:
            UserError: If a sample has no scores per exit, or no label, or the scores differ in shape.
        """
        scores, labels = [], []
        for sample in data_samples:
            if 'exit_scores' not in sample:
                raise UserError(
                    f'a data sample has no exit_scores, but only {", ".join(sample)}; {type(self).__name__} needs a model with early '
                    "exits, use the task's own accuracy metric for others"
                )
            if 'gt_label' not in sample:
                raise UserError(
                    f'a data sample has no gt_label, but only {", ".join(sample)}; {type(self).__name__} needs a labelled data set, choose '
                    'another split, or check the annotation file'
                )
            label = sample['gt_label']
            label = label.get('item', label) if isinstance(label, Mapping) else label
            scores.append(sample['exit_scores'])
            labels.append(int(label))
        if scores:
            _check_shapes({tuple(scores_EK.shape) for scores_EK in scores})
            self.keep_batch(data_samples, torch.stack(scores).float().cpu().numpy(), np.array(labels, dtype=np.int64))

    def keep_batch(self, data_samples: Sequence[Mapping[str, Any]], scores_SEK: np.ndarray, labels_S: np.ndarray) -> None:
        """Add the samples of a batch to ``results``, one item each: MMEngine drops padded samples by counting the items."""
        for sample, scores_EK, label in zip(data_samples, scores_SEK, labels_S.tolist(), strict=True):
            self.keep(sample, scores_EK, label)

    def keep(self, sample: Mapping[str, Any], scores_EK: np.ndarray, label: int) -> None:
        """Add a sample to ``results``."""
        raise NotImplementedError


class ExitFiguresMetric(ExitScoresMetric):
    """Base of the metrics that reduce the scores of a batch at once to figures per sample and exit, and keep only these.

    A metric says in :meth:`reduce` which figures, in :meth:`measure` what it makes of them, and in ``quantity`` what that is, with its
    article. Scores that are not finite, and labels that are no class numbers, are reported when all samples are known.
    """

    quantity: str

    def keep_batch(self, data_samples: Sequence[Mapping[str, Any]], scores_SEK: np.ndarray, labels_S: np.ndarray) -> None:
        """Add the figures of a batch to ``results``: per sample a record of a structured array."""
        finite_S = _finite(scores_SEK)
        sound_S = finite_S & (labels_S >= 0) & (labels_S < scores_SEK.shape[2])  # all others have no figures, and need none
        columns = {
            'label': labels_S,
            'finite': finite_S,
            'shape': np.array([scores_SEK.shape[1:]] * len(labels_S)),
            **self.reduce(np.where(sound_S[:, None, None], scores_SEK, 0), np.where(sound_S, labels_S, 0)),
        }
        records_S = np.empty(len(labels_S), dtype=[(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
        for name, column in columns.items():
            records_S[name] = column
        self.results.extend(records_S)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics over all samples; also logs them as a table.

        Raises:
            UserError: If there is no sample, a score is not finite, a label is no class number, or the scores differ in shape.
        """
        _check_any(len(results), self.quantity)
        _check_shapes({tuple(record['shape'].tolist()) for record in results})
        records_S = np.array(results, dtype=results[0].dtype)
        figures = {name: np.ascontiguousarray(records_S[name]) for name in results[0].dtype.names}
        labels_S, finite_S, shape_S2 = (figures.pop(name) for name in ('label', 'finite', 'shape'))
        _check_samples(labels_S, finite_S, shape_S2[0, 1])
        metrics, table = self.measure(figures, labels_S)
        print_log(table, logger='current')
        return metrics

    def reduce(self, scores_SEK: np.ndarray, labels_S: np.ndarray) -> dict[str, np.ndarray]:
        """Figures by name, each of shape (samples, exits): what is needed of the samples of a batch.

        Args:
            scores_SEK: Finite scores or logits, shape (samples, exits, classes).
            labels_S: Class numbers, shape (samples,).
        """
        raise NotImplementedError

    def measure(self, figures: Mapping[str, np.ndarray], labels_S: np.ndarray) -> tuple[dict[str, float], str]:
        """Metrics by name without their prefix, and a table of them for the log.

        Args:
            figures: What :meth:`reduce` gave, of all samples.
            labels_S: Class numbers, shape (samples,).
        """
        raise NotImplementedError
