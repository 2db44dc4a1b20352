"""Calibration of every exit, by hand, against a slow implementation in fractions, and against scikit-learn."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement
from sklearn.metrics import log_loss

from dynperceiver.metrics import ExitCalibration, exit_calibrations, expected_calibration_error


def _softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(-1).numpy()


def _slow_error(confidences: list[float], rights: list[bool], num_bins: int) -> float:
    """Bin by bin, in exact numbers."""
    total = Fraction(0)
    for number in range(num_bins):
        low, high = Fraction(number, num_bins), Fraction(number + 1, num_bins)
        members = [i for i, value in enumerate(confidences) if low < Fraction(value) <= high or (value == 0 and number == 0)]
        if members:
            accuracy = Fraction(sum(rights[i] for i in members), len(members))
            confidence = sum((Fraction(confidences[i]) for i in members), Fraction(0)) / len(members)
            total += Fraction(len(members), len(confidences)) * abs(accuracy - confidence)
    return float(total)


def test_error_by_hand() -> None:
    # bin (0.5, 0.75]: confidences 0.6 and 0.7, one right: |0.5 - 0.65|; bin (0.75, 1]: 0.8 and 1, both right: |1 - 0.9|
    error = expected_calibration_error(np.array([0.6, 0.7, 0.8, 1.0]), np.array([True, False, True, True]), num_bins=4)
    assert error == pytest.approx((2 * 0.15 + 2 * 0.1) / 4)


def test_a_bin_ends_with_its_upper_edge() -> None:
    confidence, right = np.array([0.5, 0.25, 0.75]), np.array([True, False, False])
    # 0.5 belongs to (0.25, 0.5], alone; so do the others to the bin that they end
    assert expected_calibration_error(confidence, right, num_bins=4) == pytest.approx((0.5 + 0.25 + 0.75) / 3)
    above = np.nextafter(confidence, 1)
    assert expected_calibration_error(np.append(confidence, above[0]), np.append(right, False), 4) == pytest.approx(
        (0.5 + 0.25 + abs(-0.75 - above[0])) / 4
    ), 'a little more than 0.5 shares the bin of 0.75'


def test_confidence_at_the_ends() -> None:
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
    assert expected_calibration_error(np.array([1 + 1e-7]), np.array([False])) == pytest.approx(1), 'a mean of softmaxes, rounded up'


@pytest.mark.parametrize('num_bins', [1, 2, 10, 15])
def test_error_against_fractions(num_bins: int) -> None:
    confidence = np.concatenate([np.random.rand(200), np.arange(9) / 8])  # eighths are edges of some bins, and exact
    right = np.random.rand(len(confidence)) < confidence**2
    expected = _slow_error(confidence.tolist(), right.tolist(), num_bins)
    assert expected_calibration_error(confidence, right, num_bins) == pytest.approx(expected, abs=1e-12)
    assert expected > 0.01


def test_over_and_underconfidence_do_not_cancel_between_bins() -> None:
    confidence = np.array([0.6, 0.6, 0.9, 0.9])
    assert expected_calibration_error(confidence, np.array([True, True, True, False]), 2) == pytest.approx(0), 'but within one they do'
    assert expected_calibration_error(confidence, np.array([True, True, True, False]), 10) == pytest.approx(0.4)


def test_all_figures_by_hand() -> None:
    probabilities = np.array([[[0.8, 0.2], [0.5, 0.5]], [[0.6, 0.4], [0.0, 1.0]]])
    first, second = exit_calibrations(probabilities, np.array([0, 1]))
    assert first['ece'] == pytest.approx((0.2 + 0.6) / 2)  # 0.8 and right, 0.6 and wrong, in bins of their own
    assert first['confidence'] == pytest.approx(0.7)
    assert first['nll'] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert first['brier'] == pytest.approx((0.04 + 0.04 + 0.36 + 0.36) / 2)
    assert second == pytest.approx(dict(ece=0.25, confidence=0.75, nll=np.log(2) / 2, brier=0.25))


def test_likelihood_and_brier_against_scikit_learn() -> None:
    logits, labels = 2 * np.random.randn(300, 3, 6), np.random.randint(0, 6, 300)
    probabilities, one_hot = _softmax(logits), np.eye(6)[labels]
    for number, row in enumerate(exit_calibrations(probabilities, labels)):
        assert row['nll'] == pytest.approx(log_loss(labels, probabilities[:, number], labels=np.arange(6)))
        assert row['brier'] == pytest.approx(((probabilities[:, number] - one_hot) ** 2).sum(1).mean())
        assert row['confidence'] == pytest.approx(probabilities[:, number].max(1).mean())
        hit = probabilities[:, number].argmax(1) == labels
        assert row['ece'] == pytest.approx(_slow_error(probabilities[:, number].max(1).tolist(), hit.tolist(), 15))


def test_logits_are_softmaxed() -> None:
    logits, labels = 3 * np.random.randn(50, 2, 4), np.random.randint(0, 4, 50)
    for given, expected in zip(exit_calibrations(logits, labels, scores='logit'), exit_calibrations(_softmax(logits), labels), strict=True):
        assert given == pytest.approx(expected)


def test_a_label_of_no_probability() -> None:
    """A softmax in float32 rounds down to 0; the logarithm must stay finite, and logits must keep their own."""
    (row,) = exit_calibrations(np.array([[[1.0, 0.0]]]), np.array([1]))
    assert row['nll'] == pytest.approx(87.3, abs=0.1) and row['brier'] == 2
    (row,) = exit_calibrations(np.array([[[500.0, -500.0]]]), np.array([1]), scores='logit')
    assert row['nll'] == pytest.approx(1000)


def test_means_of_several_softmaxes_in_half_precision_pass() -> None:
    probabilities = torch.randn(20, 3, 4, 50).softmax(-1).bfloat16().mean(1)
    figures = exit_calibrations(probabilities.float().numpy(), np.zeros(20, dtype=int))
    confidences = probabilities.float().amax(-1).mean(0).tolist()
    assert [one['confidence'] for one in figures] == pytest.approx(confidences, rel=1e-6)


@pytest.mark.parametrize(
    ('row', 'told'),
    [([0.5, 0.2], 'run from 0.2 to 0.5 and sum up to 0.7'), ([1.5, -0.5], 'run from -0.5 to 1.5 and sum up to 1')],
)
def test_rows_that_are_no_probabilities(row: list[float], told: str) -> None:
    scores = np.full((3, 4, 2), 0.5)
    scores[1, 2] = row
    with pytest.raises(ValueError, match=rf"no probabilities in 1 of 3 samples: at sample 1, exit 3 they {told}; .*set scores='logit'"):
        exit_calibrations(scores, np.zeros(3, dtype=int))


def test_nothing_to_measure_or_nothing_finite() -> None:
    with pytest.raises(ValueError, match=r'there are no samples to measure a calibration on; .*check its annotation file'):
        ExitCalibration().compute_metrics([])
    with pytest.raises(ValueError, match='1 of 2 samples have scores that are not finite'):
        exit_calibrations(np.array([[[0.5, 0.5]], [[np.nan, 0.5]]]), np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match='labels run from 0 to 2, but the model has 2 classes'):
        exit_calibrations(np.full((2, 1, 2), 0.5), np.array([0, 2]))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_bins=0), 'num_bins=0: confidences are sorted into 1 or more bins'),
        (dict(scores='score'), "scores='score': choose 'prob' .* or 'logit'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExitCalibration(**arguments)


def test_through_mmengines_evaluator(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[str] = []
    monkeypatch.setattr('dynperceiver.metrics.collection.print_log', lambda text, **_: tables.append(text))
    evaluator = Evaluator({'type': 'dynperceiver.ExitCalibration', 'num_bins': 2, 'scores': 'logit'})
    odds = torch.tensor([[[0.9, 0.1], [0.6, 0.4]], [[0.3, 0.7], [0.8, 0.2]]]).log() + 7
    for scores_EK, label in zip(odds, (torch.tensor([0]), 0), strict=True):
        evaluator.process([BaseDataElement(exit_scores=scores_EK, gt_label=label)])
    metrics = evaluator.evaluate(2)
    names = [f'calibration/exit{i}_{name}' for i in (1, 2) for name in ('ece', 'confidence', 'nll', 'brier')]
    assert list(metrics) == names
    expected = [0.3, 0.8, -np.log([0.9, 0.3]).mean(), (0.02 + 0.98) / 2, 0.3, 0.7, -np.log([0.6, 0.8]).mean(), (0.32 + 0.08) / 2]
    assert [metrics[name] for name in names] == pytest.approx(expected, abs=1e-6)
    (table,) = tables
    lines = table.splitlines()
    assert lines[0] == 'calibration per exit on 2 samples (ECE over 2 bins)'
    assert lines[1].split() == ['exit', 'ece', 'confidence', 'nll', 'brier']
    assert lines[2].split() == ['1', '30.00%', '80.00%', '0.6547', '0.5000']
    assert len(lines) == 4 and len(set(map(len, lines[1:]))) == 1
