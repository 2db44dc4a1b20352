"""What the metrics over exits keep of a batch: little, and all that their figures and messages depend on."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from dynperceiver.metrics import (
    ExitAgreement,
    ExitCalibration,
    ExitFiguresMetric,
    MultiExitAccuracy,
    exit_accuracies,
    exit_agreements,
    exit_calibrations,
)
from dynperceiver.registry import METRICS

CONFIGS: dict[str, dict[str, Any]] = {
    'accuracy': dict(type='dynperceiver.MultiExitAccuracy', topk=(1, 2)),
    'calibration': dict(type='dynperceiver.ExitCalibration', scores='prob'),
    'calibration of logits': dict(type='dynperceiver.ExitCalibration', scores='logit'),
    'agreement': dict(type='dynperceiver.ExitAgreement'),
}
ALL = pytest.mark.parametrize('config', CONFIGS.values(), ids=CONFIGS)
NUM_SAMPLES, NUM_EXITS = 23, 3


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def _samples(num_classes: int = 6, num_samples: int = NUM_SAMPLES) -> list[dict[str, Any]]:
    """Data samples as the evaluator passes them on; some scores are equal, some probabilities are 0."""
    scores_SEK = (torch.randn(num_samples, NUM_EXITS, num_classes) * 20).round().div(4).softmax(-1)
    scores_SEK[::5, 1] = torch.eye(num_classes)[0]
    return [{'exit_scores': scores_EK, 'gt_label': torch.tensor([i % 5])} for i, scores_EK in enumerate(scores_SEK)]


def _joined(samples: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    return torch.stack([sample['exit_scores'] for sample in samples]).numpy(), np.array([int(sample['gt_label']) for sample in samples])


def _processed(config: dict[str, Any], samples: list[dict[str, Any]], batch_size: int = 4) -> Any:
    metric = METRICS.build(config)
    for start in range(0, len(samples), batch_size):
        metric.process(None, samples[start : start + batch_size])
    return metric


def _expected(metric: Any, samples: list[dict[str, Any]]) -> dict[str, float]:
    """What the functions give on all scores at once."""
    scores_SEK, labels_S = _joined(samples)
    if isinstance(metric, ExitAgreement):
        shares = exit_agreements(scores_SEK, labels_S)
        figures = {f'exit{i + 1}_exit{j + 1}': shares.same_EE[i, j] for i in range(NUM_EXITS) for j in range(i + 1, NUM_EXITS)}
        for i, j in zip(*np.where(~np.eye(NUM_EXITS, dtype=bool)), strict=True):
            figures[f'exit{i + 1}_right_exit{j + 1}_wrong'] = shares.right_wrong_EE[i, j]
        return {**figures, 'oracle': shares.oracle}
    if isinstance(metric, MultiExitAccuracy):
        rows = exit_accuracies(scores_SEK, labels_S, metric.topk)
    else:
        rows = exit_calibrations(scores_SEK, labels_S, metric.num_bins, metric.scores)
    return {f'exit{number}_{name}': value for number, row in enumerate(rows, 1) for name, value in row.items()}


@ALL
@pytest.mark.parametrize('batch_size', [1, 4, NUM_SAMPLES])
def test_batches_of_any_size_give_the_same_figures(config: dict[str, Any], batch_size: int) -> None:
    samples = _samples()
    metric = _processed(config, samples, batch_size)
    assert metric.compute_metrics(metric.results) == _expected(metric, samples)


@ALL
def test_what_is_kept_does_not_grow_with_the_classes(config: dict[str, Any]) -> None:
    few, many = (len(pickle.dumps(vars(_processed(config, _samples(num_classes), batch_size=8)))) for num_classes in (10, 1000))
    assert few == many, 'neither among the results nor elsewhere'


@ALL
def test_another_process_sends_all_that_is_needed(config: dict[str, Any]) -> None:
    samples = _samples()
    metric = _processed(config, samples)
    received = pickle.loads(pickle.dumps(metric.results, protocol=2))
    assert METRICS.build(config).compute_metrics(received) == _expected(metric, samples)


@ALL
def test_samples_that_pad_the_last_batch_are_dropped(config: dict[str, Any]) -> None:
    samples = _samples()
    metric = _processed(config, [*samples, *_samples(num_samples=2)])
    evaluated = Evaluator([metric]).evaluate(NUM_SAMPLES)
    assert evaluated == {f'{metric.prefix}/{name}': value for name, value in _expected(metric, samples).items()}
    assert not metric.results


@ALL
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_counted_over_all_batches(config: dict[str, Any], value: float) -> None:
    samples = _samples()
    for number in (2, 3, 17):
        samples[number]['exit_scores'][number % NUM_EXITS, 1] = value
    metric = _processed(config, samples)
    with pytest.raises(ValueError, match=f'^3 of {NUM_SAMPLES} samples have scores that are not finite; the weights have diverged'):
        metric.compute_metrics(metric.results)


@ALL
def test_range_of_the_labels_is_that_of_all_batches(config: dict[str, Any]) -> None:
    samples = _samples()
    samples[1]['gt_label'], samples[-1]['gt_label'], samples[5]['exit_scores'][:] = -3, 6, np.nan
    metric = _processed(config, samples)
    with pytest.raises(ValueError, match=r'^labels run from -3 to 6, but the model has 6 classes; set num_classes'):
        metric.compute_metrics(metric.results)


def test_rows_that_are_no_probabilities_are_found_in_all_batches() -> None:
    samples = _samples()
    samples[9]['exit_scores'][2] = torch.tensor([0.5, 0.25, 0, 0, 0, 0])
    samples[14]['exit_scores'][0] = torch.tensor([1.5, -0.5, 0, 0, 0, 0])
    metric = _processed(CONFIGS['calibration'], samples)
    told = r'at sample 9, exit 3 they run from 0 to 0\.5 and sum up to 0\.75;'
    with pytest.raises(ValueError, match=f'^exit_scores are no probabilities in 2 of {NUM_SAMPLES} samples: {told}'):
        metric.compute_metrics(metric.results)
    logits = ExitCalibration(scores='logit')
    logits.process(None, samples)
    assert len(logits.compute_metrics(logits.results)) == 4 * NUM_EXITS, 'logits may be anything finite'


@ALL
def test_scores_of_several_shapes(config: dict[str, Any]) -> None:
    samples = [*_samples(num_classes=5, num_samples=2), *_samples(num_classes=6, num_samples=2)]
    with pytest.raises(ValueError, match=r'exit_scores have several shapes \(exits, classes\): \(3, 5\), \(3, 6\); .* on its own'):
        METRICS.build(config).process(None, samples)
    metric = _processed(config, samples, batch_size=2)
    with pytest.raises(ValueError, match=r'exit_scores have several shapes \(exits, classes\): \(3, 5\), \(3, 6\)'):
        metric.compute_metrics(metric.results)
    fewer_exits = [{**sample, 'exit_scores': sample['exit_scores'][:2]} for sample in samples[:2]]
    metric = _processed(config, [*samples[:2], *fewer_exits], batch_size=2)
    with pytest.raises(ValueError, match=r'\(2, 5\), \(3, 5\)'):
        metric.compute_metrics(metric.results)


@ALL
def test_a_batch_without_samples_adds_nothing(config: dict[str, Any]) -> None:
    metric = METRICS.build(config)
    metric.process(None, [])
    assert metric.results == []


def test_scores_stay_as_the_model_gave_them() -> None:
    """The metrics share the data samples; none may change what the next one reads."""
    samples = _samples()
    samples[0]['gt_label'] = 99
    before = [sample['exit_scores'].clone() for sample in samples]
    for config in CONFIGS.values():
        _processed(config, samples)
    assert all(torch.equal(sample['exit_scores'], scores_EK) for sample, scores_EK in zip(samples, before, strict=True))


def test_a_metric_of_ones_own() -> None:
    class Surprise(ExitFiguresMetric):
        quantity = 'a surprise'

        def reduce(self, scores_SEK: np.ndarray, labels_S: np.ndarray) -> dict[str, np.ndarray]:
            return {'other': 1 - np.take_along_axis(scores_SEK, labels_S[:, None, None], 2)[..., 0]}

        def measure(self, figures: Any, labels_S: np.ndarray) -> tuple[dict[str, float], str]:
            return {'mean': float(figures['other'].mean()), 'num': len(labels_S)}, ''

    metric = Surprise()
    metric.process(None, [{'exit_scores': torch.tensor([[0.75, 0.25], [0.5, 0.5]]), 'gt_label': label} for label in (0, 1)])
    assert metric.compute_metrics(metric.results) == {'mean': (0.25 + 0.5 + 0.75 + 0.5) / 4, 'num': 2}
    with pytest.raises(ValueError, match='there are no samples to measure a surprise on'):
        metric.compute_metrics([])
