"""Results of dynamic inference: accuracy, fraction of every exit, GFLOPs and milliseconds.

Shape suffixes: S samples, E exits, K classes; a sample is an image, or all views of a video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import numpy as np
from mmengine.logging import print_log

from dynperceiver_runtime import UserError

from ..registry import METRICS
from .collection import ExitScoresMetric, check_scores
from .multi_exit_accuracy import label_ranks

__all__ = ['DynamicAccuracy', 'TimedRun']

RECORD = np.dtype([('rank', np.int64), ('exit', np.int64), ('ms', np.float64), ('batch_size', np.int64)])


class TimedRun(Protocol):
    """What the metric needs to know of the run that it measures; :class:`~dynperceiver.hooks.TimedRunner` is one."""

    @property
    def batch_ms(self) -> float:
        """Milliseconds that the latest batch took."""

    @property
    def cost_gflops(self) -> tuple[float, ...]:
        """Cost of a sample that leaves at the exit, per exit, in GFLOPs (1 MAC = 1 FLOP)."""

    @property
    def expected(self) -> Mapping[str, Any]:
        """What the policy expects, see :class:`~dynperceiver.inference.PolicyRecord`; empty if that is not known."""

    @property
    def backend_name(self) -> str:
        """Name of the backend that runs the network."""


@METRICS.register_module()
class DynamicAccuracy(ExitScoresMetric):
    """Accuracy, exit fractions, cost and time of a test with an exit policy, all measured in that test.

    Accuracies and fractions are in [0, 1]: ``dynamic/top1`` .. over all samples, ``dynamic/exit1_fraction`` .. of the samples that leave at
    each exit, and ``dynamic/exit1_top1`` .. over those samples (absent if there are none). ``dynamic/mean_gflops`` is the cost of the
    exits, weighted with their fractions. ``dynamic/mean_ms``, ``dynamic/median_ms`` and ``dynamic/p95_ms`` are over samples; the time of a
    sample is that of its batch divided by the number of samples in it, so that percentiles are latencies only if ``dynamic/batch_size`` is
    1. Cost and times need :class:`~dynperceiver.hooks.ExitPolicyHook`, which sets :attr:`run`.

    The model's data samples carry ``pred_score`` (K,), ``exit_index`` and ``gt_label``.

    Args:
        topk: Values of k.
        collect_device: See MMEngine's ``BaseMetric``.
        prefix: Prefix of the names; default ``dynamic``.

    Attributes:
        run: What is measured; ``None`` for saved predictions, of which neither cost nor time is known.
    """

    default_prefix = 'dynamic'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = tuple(topk)
        self.run: TimedRun | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep what is needed of every sample of a batch.

        Raises:
            UserError: If a sample did not leave at an exit, or has no label.
        """
        for sample in data_samples:
            if 'exit_index' not in sample:
                raise UserError(
                    f'a data sample has no exit_index, but only {", ".join(sample)}; {type(self).__name__} needs dynamic inference: test '
                    'with --exit-policy, or use MultiExitAccuracy for a model that gives the scores of all exits'
                )
        super().process(data_batch, [{**sample, 'exit_scores': sample['pred_score'][None]} for sample in data_samples])

    def keep_batch(self, data_samples: Sequence[Mapping[str, Any]], scores_SEK: np.ndarray, labels_S: np.ndarray) -> None:
        """Add rank of the label, exit and time of each sample to ``results``.

        Raises:
            UserError: If a score is not finite, or a label is no class number.
        """
        check_scores(scores_SEK, labels_S, 'an accuracy')
        records_S = np.empty(len(labels_S), RECORD)
        records_S['rank'] = label_ranks(scores_SEK, labels_S)[:, 0]
        records_S['exit'] = [int(sample['exit_index']) for sample in data_samples]
        records_S['ms'] = np.nan if self.run is None else self.run.batch_ms / len(labels_S)
        records_S['batch_size'] = len(labels_S)
        self.results.extend(records_S)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics over all samples; also logs them as a table.

        Raises:
            UserError: If there is no sample.
        """
        if not results:
            raise UserError('there are no samples to measure dynamic inference on; the test set is empty, check its annotation file')
        records_S = np.array(results, RECORD)
        costs = () if self.run is None else self.run.cost_gflops
        counts_E = np.bincount(records_S['exit'], minlength=len(costs))
        fractions_E = counts_E / len(records_S)
        metrics = {f'top{k}': float((records_S['rank'] < k).mean()) for k in self.topk}
        for number, count in enumerate(counts_E, 1):
            metrics[f'exit{number}_fraction'] = float(fractions_E[number - 1])
            if count:
                metrics[f'exit{number}_top1'] = float((records_S['rank'][records_S['exit'] == number - 1] == 0).mean())
        if self.run is not None:
            metrics['mean_gflops'] = float(fractions_E @ np.asarray(costs))
            metrics['mean_ms'] = float(records_S['ms'].mean())
            metrics['median_ms'], metrics['p95_ms'] = np.percentile(records_S['ms'], (50, 95)).tolist()
            metrics['batch_size'] = float(records_S['batch_size'].max())  # MMEngine's log files leave whole numbers out
        accuracy = float((records_S['rank'] == 0).mean())
        print_log(_report(metrics, accuracy, len(records_S), counts_E.size, self.run), logger='current')
        return metrics


def _number(values: Any, place: int | str) -> float:
    """A number of a record, NaN where there is none."""
    try:
        value = values[place]
    except (LookupError, TypeError):
        return float('nan')
    return float(value) if isinstance(value, Real) else float('nan')


def _report(metrics: Mapping[str, float], accuracy: float, num_samples: int, num_exits: int, run: TimedRun | None) -> str:
    """Table for people: a row per exit and for all samples, what the policy expected, and the times."""
    expected = {} if run is None else run.expected
    costs = () if run is None else run.cost_gflops
    exits = range(num_exits)
    hoped_E = expected.get('exit_fractions')
    rows = [
        (str(k + 1), metrics[f'exit{k + 1}_fraction'], _number(hoped_E, k), _number(metrics, f'exit{k + 1}_top1'), cost)
        for k, cost in zip(exits, costs or [float('nan')] * num_exits, strict=True)
    ]
    nan = float('nan')
    rows.append(('all', 1.0, nan, accuracy, _number(metrics, 'mean_gflops')))
    if expected:
        rows.append(('expected', nan, nan, _number(expected, 'accuracy'), _number(expected, 'mean_gflops')))
        rows.append(('no exits', nan, nan, _number(expected, 'full_accuracy'), costs[-1]))
    place = f' ({run.backend_name}, batch size {metrics["batch_size"]:g})' if run is not None else ''
    lines = [
        f'dynamic inference on {num_samples} samples{place}',
        f'{"exit":>8}  {"fraction":>10}' + (f'  {"expected":>10}' if expected else '') + f'  {"accuracy":>10}  {"GFLOPs":>10}',
    ]
    for name, fraction, hoped, right, cost in rows:
        cells = [_percent(fraction), *([_percent(hoped)] if expected else []), _percent(right), '-' if np.isnan(cost) else f'{cost:.4g}']
        lines.append(f'{name:>8}  ' + '  '.join(f'{cell:>10}' for cell in cells))
    if expected:
        lines.append("expected: on the policy's calibration set; no exits: the whole network, also on that set")
    if run is not None:
        lines.append(
            f'ms per sample: mean {metrics["mean_ms"]:.4g}, median {metrics["median_ms"]:.4g}, 95th percentile {metrics["p95_ms"]:.4g}'
            + ('' if metrics['batch_size'] == 1 else ' (parts of whole batches; for latencies, test_dataloader.batch_size=1)')
        )
    return '\n'.join(lines)


def _percent(fraction: float) -> str:
    return '-' if np.isnan(fraction) else f'{100 * fraction:.2f}%'
