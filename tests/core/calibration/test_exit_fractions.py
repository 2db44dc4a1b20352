"""Asked fractions of the samples leave at each exit, however sure the network is; where samples tie, the report says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference_scores import network_logits

from dynperceiver.calibration import HeldOutScores, calibrate
from dynperceiver.calibration.report import policy_table
from dynperceiver_runtime import ExitPolicy
from dynperceiver_runtime.policy import SCORES

ASKED = (0.4, 0.3, 0.2, 0.1)
each_score = pytest.mark.parametrize('score', SCORES)


def _counts(policy: ExitPolicy, logits_ESK: np.ndarray) -> list[int]:
    return np.bincount(policy.replay(logits_ESK)[0], minlength=len(logits_ESK)).tolist()


def test_scores_that_float32_rounds_to_1(tmp_path: Path) -> None:
    """A third of the samples have a confidence of 1.0 at exit 1, and yet the asked fractions leave, also after the policy was a file."""
    logits_ESK, labels_S = network_logits(1000, sharpness=(18, 1, 1, 1))
    policy = calibrate(logits_ESK, labels_S, exit_fractions=ASKED)
    assert 0.3 < (policy.score_of(0, logits_ESK[0]) == 1).mean() < 0.4
    assert policy.thresholds[0] > 0.99999
    assert _counts(policy, logits_ESK) == [400, 300, 200, 100]
    assert policy.record is not None and policy.record.expected['exit_fractions'] == pytest.approx(ASKED)
    policy.save(tmp_path / 'policy.json')
    assert _counts(ExitPolicy.load(tmp_path / 'policy.json'), logits_ESK) == [400, 300, 200, 100]
    assert 'asked' not in policy_table(policy, logits_ESK, labels_S)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize(('scale', 'temperature'), [(1.0, 0.05), (40.0, 1.0), (40.0, 30.0), (1e-4, 1.0), (1e-4, 100.0), (1.0, 1.0)])
@each_score
def test_asked_fractions_are_met_exactly(score: str, scale: float, temperature: float, dtype: Any) -> None:
    """Scores that are all 1, or all within 0.000005 of each other, are split like any others."""
    logits_ESK, labels_S = network_logits(997, sharpness=(scale,) * 4)
    logits_ESK = logits_ESK.astype(dtype)
    for asked in (ASKED, (0.1, 0.0, 0.6, 0.3), (0.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0)):
        policy = calibrate(logits_ESK, labels_S, exit_fractions=asked, score=score, temperature=temperature)
        expected = [int(np.float32(997) * np.float32(fraction)) for fraction in asked[:-1]]
        assert _counts(policy, logits_ESK) == [*expected, 997 - sum(expected)]


@each_score
def test_scores_are_as_spread_as_the_tests_need_them(score: str) -> None:
    logits_ESK, labels_S = network_logits(997, sharpness=(40, 1e-4, 1, 1))
    score_ES = HeldOutScores.from_logits(logits_ESK, labels_S, score).score_ES
    assert (score_ES[0] == 1).mean() > 0.5
    middle_S = np.sort(score_ES[1])[250:750]
    assert middle_S[-1] - middle_S[0] < 4e-5


def test_half_precision_and_exact_ties_are_met_as_far_as_they_can_be() -> None:
    logits_ESK, labels_S = network_logits(2000, sharpness=(40, 1, 1, 1))
    half_ESK = logits_ESK.astype(np.float16)
    policy = calibrate(half_ESK, labels_S, exit_fractions=ASKED)
    score_S = policy.decision_scores(0, half_ESK[0])
    ties = np.unique(score_S, return_counts=True)[1].max()
    count = _counts(policy, half_ESK)
    assert 1 < ties < 400 and 800 <= count[0] < 800 + ties
    falling_S = -np.sort(-score_S)
    assert count[0] == (score_S >= falling_S[799]).sum()


def test_the_table_says_where_ties_make_a_request_impossible() -> None:
    logits_ESK, labels_S = network_logits(100)
    plain = calibrate(logits_ESK, labels_S, exit_fractions=ASKED)
    waiting_S = np.flatnonzero(plain.replay(logits_ESK)[0] > 0)
    falling_S = waiting_S[np.argsort(-plain.decision_scores(1, logits_ESK[1, waiting_S]))]
    logits_ESK[1, falling_S[25:37]] = logits_ESK[1, falling_S[30]]  # twelve that answer alike, the 30th among them
    policy = calibrate(logits_ESK, labels_S, exit_fractions=ASKED)
    assert _counts(plain, logits_ESK)[0] == 40 and _counts(policy, logits_ESK) == [40, 37, 20, 3]
    assert policy.record is not None and policy.record.expected['exit_fractions'] == [0.4, 0.37, 0.2, 0.03]
    lines = policy_table(policy, logits_ESK, labels_S).splitlines()
    assert [line for line in lines if 'asked' in line] == ['exit 2: 12 samples tie at the threshold; asked 0.3, reached 0.37']
    assert lines[0] == '100 held-out samples; fractions 0.4 / 0.3 / 0.2 / 0.1 at the exits; by confidence'


def test_the_table_says_where_nobody_is_left_to_leave() -> None:
    logits_ESK, labels_S = network_logits(50)
    logits_ESK[0, 5:] = logits_ESK[0, 5]  # 45 copies, so that 45 to 50 leave
    policy = calibrate(logits_ESK, labels_S, exit_fractions=ASKED)
    first = _counts(policy, logits_ESK)[0]
    lines = policy_table(policy, logits_ESK, labels_S).splitlines()
    left, second = 50 - first, min(50 - first, 15)
    assert lines[-3] == f'exit 1: 45 samples tie at the threshold; asked 0.4, reached {first / 50:.4g}'
    assert lines[-2] == f'exit 2: {left} samples were left; asked 0.3, reached {second / 50:.4g}'
    assert lines[-1] == 'exit 3: 0 samples were left; asked 0.2, reached 0'


def test_thresholds_close_to_1_are_told_apart_in_the_table() -> None:
    logits_ESK, labels_S = network_logits(500, sharpness=(30, 30, 1, 1))
    policy = calibrate(logits_ESK, labels_S, exit_fractions=(0.3, 0.3, 0.0, 0.4))
    rows = [line.split() for line in policy_table(policy, logits_ESK, labels_S).splitlines()]
    first, second, third = (row[1] for row in rows[2:5])
    assert first.startswith('1-') and second.startswith('1-') and third == 'never'
    assert 0 < float(first[2:]) < 1e-12 and float(second[2:]) != float(first[2:])


@each_score
def test_solved_policies_keep_away_from_rounding(score: str) -> None:
    """Who only just leaves, leaves in another batch or engine as well; and whoever stays, stays."""
    rng = np.random.default_rng(0)
    for scale in (1.0, 30.0):
        logits_ESK, labels_S = network_logits(300, sharpness=(scale,) * 4)
        policy = calibrate(logits_ESK, labels_S, exit_fractions=(0.3, 0.3, 0.3, 0.1), score=score)
        found_S, _ = policy.replay(logits_ESK)
        for _ in range(20):
            rounded_ESK = logits_ESK * (1 + rng.uniform(-1e-7, 1e-7, logits_ESK.shape))
            np.testing.assert_array_equal(policy.replay(rounded_ESK)[0], found_S)
        held_out = HeldOutScores.from_logits(logits_ESK, labels_S, score)
        for k, threshold in enumerate(policy.decision_thresholds):
            reaching_S = held_out.decision_scores[k, found_S == k]
            staying_S = held_out.decision_scores[k, found_S > k]
            assert staying_S.max() < threshold < reaching_S.min()
            assert float(held_out.score_ES[k, found_S == k].min()) == policy.thresholds[k]
