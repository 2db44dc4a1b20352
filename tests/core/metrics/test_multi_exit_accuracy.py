"""Accuracy of every exit, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from dynperceiver.metrics import MultiExitAccuracy, exit_accuracies


def test_against_scikit_learn() -> None:
    scores = np.random.randn(200, 4, 10).astype(np.float32)
    labels = np.random.randint(0, 9, 200)  # class 9 never occurs
    scores[np.arange(200), 2, labels] += 1
    for k, row in enumerate(exit_accuracies(scores, labels, topk=(1, 3, 5))):
        predictions = scores[:, k].argmax(1)
        assert list(row) == ['top1', 'top3', 'top5', 'mean_class']
        assert row['top1'] == pytest.approx(accuracy_score(labels, predictions))
        for n in (3, 5):
            assert row[f'top{n}'] == pytest.approx(top_k_accuracy_score(labels, scores[:, k], k=n, labels=np.arange(10)))
        recalls = [(predictions[labels == label] == label).mean() for label in range(9)]
        assert row['mean_class'] == pytest.approx(np.mean(recalls))
    with_all = np.arange(200) % 10
    assert exit_accuracies(scores, with_all)[0]['mean_class'] == pytest.approx(balanced_accuracy_score(with_all, scores[:, 0].argmax(1)))


def test_mean_class_weighs_classes_alike() -> None:
    scores = np.array([[[1.0, 0, 0]]] * 3 + [[[0, 0, 1.0]]])  # three samples of class 0 right, the one of class 1 wrong
    (row,) = exit_accuracies(scores, np.array([0, 0, 0, 1]))
    assert (row['top1'], row['mean_class']) == (0.75, 0.5)


def test_among_equal_scores_the_smaller_class_comes_first() -> None:
    scores = np.array([[[0.5, 0.5, 0.1]], [[0.5, 0.5, 0.1]], [[0.0, 0.0, 0.0]]])
    (row,) = exit_accuracies(scores, np.array([0, 1, 2]), topk=(1, 2, 3))
    assert (row['top1'], row['top2'], row['top3']) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    predictions = scores[:, 0].argmax(1)
    assert row['top1'] == pytest.approx(accuracy_score([0, 1, 2], predictions)), 'as argmax does'


def test_k_larger_than_the_number_of_classes() -> None:
    (row,) = exit_accuracies(np.zeros((4, 1, 3)), np.array([0, 1, 2, 2]), topk=(1, 5))
    assert row['top5'] == 1


def test_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match=r'there are no samples to measure an accuracy on; .*check its annotation file'):
        exit_accuracies(np.zeros((0, 4, 10)), np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match='there are no samples'):
        MultiExitAccuracy().compute_metrics([])


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite(value: float) -> None:
    scores = np.zeros((5, 4, 3))
    scores[1, 2, 0] = scores[3, 0, 1] = scores[3, 3, 1] = value
    with pytest.raises(ValueError, match='2 of 5 samples have scores that are not finite; the weights have diverged'):
        exit_accuracies(scores, np.zeros(5, dtype=int))


@pytest.mark.parametrize('label', [-1, 3])
def test_labels_that_are_no_classes(label: int) -> None:
    with pytest.raises(ValueError, match=r'labels run from .* to .*, but the model has 3 classes; set num_classes'):
        exit_accuracies(np.zeros((2, 4, 3)), np.array([0, label]))


def test_through_mmengines_evaluator() -> None:
    evaluator = Evaluator({'type': 'dynperceiver.MultiExitAccuracy', 'topk': [1, 2]})
    scores = torch.tensor([[[3.0, 1, 0], [0, 3, 1]], [[0, 3, 1], [0, 3, 1]], [[1, 0, 3], [3, 0, 1]]])
    for batch in (scores[:2], scores[2:]):
        start = 0 if len(batch) == 2 else 2
        evaluator.process(
            [
                BaseDataElement(exit_scores=one, gt_label=label)
                for one, label in zip(batch, (torch.tensor([0]), 1, torch.tensor(2))[start:], strict=False)
            ]
        )
    assert evaluator.evaluate(3) == {
        'acc/exit1_top1': 1.0,
        'acc/exit1_top2': 1.0,
        'acc/exit1_mean_class': 1.0,
        'acc/exit2_top1': pytest.approx(1 / 3),
        'acc/exit2_top2': pytest.approx(2 / 3),
        'acc/exit2_mean_class': pytest.approx(1 / 3),
    }


def test_half_precision_scores_and_labels_as_elements() -> None:
    metric = MultiExitAccuracy(topk=(1,))
    metric.process(None, [{'exit_scores': torch.tensor([[0.0, 1]], dtype=torch.bfloat16), 'gt_label': {'item': torch.tensor([1])}}])
    assert metric.compute_metrics(metric.results) == {'exit1_top1': 1.0, 'exit1_mean_class': 1.0}


def test_a_model_without_early_exits() -> None:
    with pytest.raises(ValueError, match=r'a data sample has no exit_scores, but only pred_score, gt_label; .*early exits'):
        MultiExitAccuracy().process(None, [{'pred_score': 0, 'gt_label': 1}])
