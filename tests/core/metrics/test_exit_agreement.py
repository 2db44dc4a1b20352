"""How alike the exits answer, by hand and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

from dynperceiver.metrics import ExitAgreement, exit_agreements

# Answers of three exits to four samples of label 0, 0, 1, 1.
ANSWERS = [[0, 0, 0], [1, 0, 0], [0, 2, 1], [2, 2, 0]]
LABELS = [0, 0, 1, 1]


def _scores(answers: list[list[int]]) -> np.ndarray:
    return np.eye(3)[np.array(answers)]


def test_by_hand() -> None:
    shares = exit_agreements(_scores(ANSWERS), np.array(LABELS))
    assert shares.same_EE.tolist() == [[1, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 1]]
    assert shares.right_wrong_EE.tolist() == [[0, 0, 0], [0.25, 0, 0], [0.5, 0.25, 0]]
    assert shares.oracle == 0.75


def test_against_loops() -> None:
    scores, labels = np.random.randn(60, 4, 3), np.random.randint(0, 3, 60)
    shares = exit_agreements(scores, labels)
    same, right_wrong, some_right = np.zeros((4, 4)), np.zeros((4, 4)), 0
    for sample, label in zip(scores, labels, strict=True):
        answers = [int(np.argmax(row)) for row in sample]
        some_right += label in answers
        for i in range(4):
            for j in range(4):
                same[i, j] += answers[i] == answers[j]
                right_wrong[i, j] += answers[i] == label and answers[j] != label
    assert shares.same_EE == pytest.approx(same / 60)
    assert shares.right_wrong_EE == pytest.approx(right_wrong / 60)
    assert shares.oracle == some_right / 60


def test_shares_are_consistent_with_accuracies() -> None:
    """acc_i - acc_j is the share where only i is right less the share where only j is."""
    scores, labels = np.random.randn(80, 4, 5), np.random.randint(0, 5, 80)
    matrix = exit_agreements(scores, labels).right_wrong_EE
    accuracy_E = (scores.argmax(2) == labels[:, None]).mean(0)
    assert matrix - matrix.T == pytest.approx(accuracy_E[:, None] - accuracy_E[None])


def test_nothing_to_measure_or_nothing_finite() -> None:
    with pytest.raises(ValueError, match='there are no samples to measure an agreement on'):
        ExitAgreement().compute_metrics([])
    with pytest.raises(ValueError, match='2 of 2 samples have scores that are not finite'):
        exit_agreements(np.full((2, 4, 3), np.inf), np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match='labels run from -1 to 0, but the model has 3 classes'):
        exit_agreements(np.zeros((2, 4, 3)), np.array([-1, 0]))


def test_through_mmengines_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[str] = []
    monkeypatch.setattr('dynperceiver.metrics.collection.print_log', lambda text, **_: tables.append(text))
    evaluator = Evaluator({'type': 'dynperceiver.ExitAgreement'})
    for scores_EK, label in zip(torch.from_numpy(_scores(ANSWERS)), LABELS, strict=True):
        evaluator.process([BaseDataElement(exit_scores=scores_EK, gt_label=label)])
    assert evaluator.evaluate(4) == {
        'agreement/exit1_exit2': 0.5,
        'agreement/exit1_exit3': 0.25,
        'agreement/exit2_exit3': 0.5,
        'agreement/exit1_right_exit2_wrong': 0,
        'agreement/exit1_right_exit3_wrong': 0,
        'agreement/exit2_right_exit1_wrong': 0.25,
        'agreement/exit2_right_exit3_wrong': 0,
        'agreement/exit3_right_exit1_wrong': 0.5,
        'agreement/exit3_right_exit2_wrong': 0.25,
        'agreement/oracle': 0.75,
    }
    lines = tables[0].splitlines()
    assert lines[0] == 'same answer of two exits, fraction of 4 samples'
    assert lines[1].split() == ['exit', '1', 'exit', '2', 'exit', '3']
    assert lines[2].split() == ['exit', '1', '100.00%', '50.00%', '25.00%']
    assert lines[5] == 'exit of the row right, exit of the column wrong'
    assert lines[9].split() == ['exit', '3', '50.00%', '25.00%', '-']
    assert lines[10] == 'some exit right: 75.00%'
    assert len({len(line) for line in (*lines[1:5], *lines[6:10])}) == 1


def test_samples_without_scores_or_label() -> None:
    with pytest.raises(ValueError, match=r'a data sample has no exit_scores, but only pred_score; ExitAgreement needs a model with early'):
        ExitAgreement().process(None, [{'pred_score': 0}])
    with pytest.raises(ValueError, match=r'a data sample has no gt_label, but only exit_scores; ExitAgreement needs a labelled data set'):
        ExitAgreement().process(None, [{'exit_scores': torch.zeros(4, 3)}])
