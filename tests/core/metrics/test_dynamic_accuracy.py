"""Accuracy, fractions, cost and time of dynamic inference, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from dynperceiver.metrics import DynamicAccuracy

COSTS = (1.0, 2.0, 3.0, 5.0)


@dataclass
class Run:
    """A run of known figures."""

    batch_ms: float = 0.0
    cost_gflops: tuple[float, ...] = COSTS
    expected: Mapping[str, Any] = field(default_factory=dict)
    backend_name: str = 'torch'


def sample(exit_index: int, answer: int, label: int, num_classes: int = 6) -> dict[str, Any]:
    """A sample whose scores fall from its answer on, in the order of the classes."""
    scores_K = torch.arange(num_classes, 0, -1.0)
    scores_K[answer] = 10
    return {'pred_score': scores_K.softmax(0), 'exit_index': exit_index, 'gt_label': label}


TEN = [  # exit, answer, label
    *[(0, 1, 1)] * 3, (0, 2, 1),  # 3 of 4 right; the wrong one's label is third
    (1, 0, 0), (1, 0, 5),  # 1 of 2; class 5 comes last
    *[(3, 4, 4)] * 2, *[(3, 4, 0)] * 2,  # 2 of 4
]  # fmt: skip


def measured(batches: Sequence[Sequence[Any]], run: Run | None = None, times: Sequence[float] = (), **arguments: Any) -> dict[str, float]:
    metric = DynamicAccuracy(**arguments)
    metric.run = run
    for number, batch in enumerate(batches):
        if run is not None:
            run.batch_ms = times[number]
        metric.process({}, [sample(*one) for one in batch])
    found: dict[str, float] = metric.evaluate(sum(map(len, batches)))
    return found


def test_accuracies_and_shares() -> None:
    found = measured([TEN[:7], TEN[7:]])
    assert found == {
        'dynamic/top1': 0.6,
        'dynamic/top5': 0.9,
        'dynamic/exit1_fraction': 0.4,
        'dynamic/exit1_top1': 0.75,
        'dynamic/exit2_fraction': 0.2,
        'dynamic/exit2_top1': 0.5,
        'dynamic/exit3_fraction': 0.0,
        'dynamic/exit4_fraction': 0.4,
        'dynamic/exit4_top1': 0.5,
    }, 'nothing is known of cost and time without a run, nor of the answers at an exit that nobody took'
    found = measured([TEN], topk=(2, 3), prefix='early')
    assert (found['early/top2'], found['early/top3']) == (0.8, 0.9)
    assert 'early/top1' not in found and found['early/exit1_top1'] == 0.75


def test_cost_is_that_of_the_measured_shares() -> None:
    found = measured([TEN], Run(), [1])
    assert found['dynamic/mean_gflops'] == pytest.approx(0.4 * 1 + 0.2 * 2 + 0.4 * 5)
    assert measured([[(0, 0, 0)]], Run(), [1])['dynamic/exit4_fraction'] == 0, 'every exit has a fraction'


def test_times_are_weighted_by_samples() -> None:
    found = measured([TEN[:8], TEN[8:]], Run(), [80.0, 5.0])
    each = [10.0] * 8 + [2.5] * 2
    assert found['dynamic/mean_ms'] == pytest.approx(8.5)
    assert found['dynamic/median_ms'] == 10
    assert found['dynamic/p95_ms'] == pytest.approx(np.percentile(each, 95))
    assert found['dynamic/batch_size'] == 8
    times = [float(number) for number in range(1, 11)]
    found = measured([[one] for one in TEN], Run(), times)
    assert (found['dynamic/median_ms'], found['dynamic/p95_ms']) == (5.5, pytest.approx(9.55))
    assert found['dynamic/batch_size'] == 1


def test_padded_samples_do_not_count() -> None:
    metric = DynamicAccuracy()
    metric.process({}, [sample(*one) for one in [*TEN, (3, 1, 1), (3, 1, 1)]])
    assert metric.evaluate(10)['dynamic/top1'] == 0.6


EXPECTED = {'accuracy': 0.625, 'full_accuracy': 0.75, 'exit_fractions': [0.5, 0.125, 0.125, 0.25], 'mean_gflops': 2.375}


def table(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr('dynperceiver.metrics.dynamic_accuracy.print_log', lambda text, logger: texts.append(text))
    measured(*arguments)
    (text,) = texts
    return text.splitlines()


def test_table_stands_beside_what_was_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(monkeypatch, [TEN], Run(expected=EXPECTED, backend_name='onnxruntime'), [20.0])
    assert lines[0] == 'dynamic inference on 10 samples (onnxruntime, batch size 10)'
    assert [line.split() for line in lines[1:9]] == [
        ['exit', 'fraction', 'expected', 'accuracy', 'GFLOPs'],
        ['1', '40.00%', '50.00%', '75.00%', '1'],
        ['2', '20.00%', '12.50%', '50.00%', '2'],
        ['3', '0.00%', '12.50%', '-', '3'],
        ['4', '40.00%', '25.00%', '50.00%', '5'],
        ['all', '100.00%', '-', '60.00%', '2.8'],
        ['expected', '-', '-', '62.50%', '2.375'],
        ['no', 'exits', '-', '-', '75.00%', '5'],
    ]
    assert len({len(line) for line in lines[1:9]}) == 1
    assert lines[-1].startswith('ms per sample: mean 2, median 2, 95th percentile 2 (parts of whole batches; ')


def test_table_without_expectations(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(monkeypatch, [[one] for one in TEN], Run(), [20.0] * 10)
    assert len(lines) == 8
    assert lines[1].split() == ['exit', 'fraction', 'accuracy', 'GFLOPs']
    assert lines[-1] == 'ms per sample: mean 20, median 20, 95th percentile 20'
    lines = table(monkeypatch, [TEN])
    assert lines[0] == 'dynamic inference on 10 samples'
    assert len(lines) == 7 and lines[-1].split() == ['all', '100.00%', '60.00%', '-']


@pytest.mark.parametrize('fractions', [[0.5], 'many', 3, None])
def test_records_of_any_kind_do_not_end_a_test(monkeypatch: pytest.MonkeyPatch, fractions: Any) -> None:
    lines = table(monkeypatch, [TEN], Run(expected={'exit_fractions': fractions, 'accuracy': 'high'}), [1.0])
    assert lines[3].split() == ['2', '20.00%', '-', '50.00%', '2']
    assert lines[7].split() == ['expected', '-', '-', '-', '-']


def test_samples_that_did_not_leave_are_refused() -> None:
    other = {'exit_scores': torch.zeros(4, 6), 'pred_score': torch.zeros(6), 'gt_label': 1}
    with pytest.raises(ValueError, match=r'no exit_index, but only exit_scores, pred_score, gt_label; .*--exit-policy, or use MultiExit'):
        DynamicAccuracy().process({}, [other])


def test_labels_and_samples_are_needed() -> None:
    one = sample(0, 1, 1)
    del one['gt_label']
    with pytest.raises(ValueError, match='no gt_label'):
        DynamicAccuracy().process({}, [one])
    with pytest.raises(ValueError, match='labels run from 6 to 6, but the model has 6 classes'):
        DynamicAccuracy().process({}, [sample(0, 1, 6)])
    with pytest.raises(ValueError, match=r'no samples to measure dynamic inference on; .* check its annotation file'):
        DynamicAccuracy().compute_metrics([])


def test_it_is_found_by_name() -> None:
    metric = METRICS.build(dict(type='dynperceiver.DynamicAccuracy', topk=[1]))
    assert isinstance(metric, DynamicAccuracy) and metric.topk == (1,) and metric.run is None
