"""Exit policies: what they decide, and what they refuse."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from inference_scores import network_logits

from dynperceiver_runtime.policy import NEVER, SCORES, ExitPolicy, PolicyRecord, log_odds, to_log_odds
from dynperceiver_runtime.policy.exit_policy import TIE_TOLERANCE

POLICY = ExitPolicy((0.5, 0.6, 0.7))


def test_leaves() -> None:
    scores = np.array([0.4, 0.5 - 2 * TIE_TOLERANCE, 0.5 - TIE_TOLERANCE / 2, 0.5, 0.9], np.float64)
    assert POLICY.leaves(0, scores).tolist() == [False, False, True, True, True]
    assert POLICY.leaves(3, scores).all()
    ends = ExitPolicy((0, 1 + 1e-7, 1.0))
    assert ends.leaves(0, np.zeros(2)).all()
    assert not ends.leaves(1, np.ones(2)).any()
    assert ends.leaves(2, np.ones(2)).all()
    with pytest.raises(ValueError, match=r'exit 1: 1 of 2 scores are not finite \(the first is that of sample 1\).*score_of'):
        POLICY.leaves(0, np.array([0.5, np.nan]))
    for wrong in (1.5, -0.1, 40.0):
        with pytest.raises(ValueError, match=r'exit 1: 1 of 2 scores are not from 0 to 1 \(the first is that of sample 1\)'):
            POLICY.leaves(0, np.array([0.5, wrong]))
    with pytest.raises(ValueError, match=r'exit_index=4: the policy has 4 exits; pass 0 to 3'):
        POLICY.leaves(4, scores)


def _two_classes(probabilities: Any) -> np.ndarray:
    """Float64 logits of two classes, of which the first has such probabilities."""
    odds_S = to_log_odds(probabilities)
    return np.stack([odds_S, np.zeros_like(odds_S)], 1)


def test_a_threshold_that_people_write_has_a_small_tolerance() -> None:
    """It is 0.000005 in probability; close to 1, where that would be much, it is little in log-odds."""
    for threshold in (0.6, 0.75, 0.9, 0.99):
        policy = ExitPolicy((threshold,))
        leaves_S, _ = policy.decide(0, _two_classes(threshold + np.array([-6e-6, -1e-7, 0, 1e-3])))
        assert leaves_S.tolist() == [False, True, True, True]
        low = to_log_odds(threshold) - policy.decision_thresholds[0]
        assert 0 < low < 1e-4 and low * threshold * (1 - threshold) < TIE_TOLERANCE * 1.02
    sure_SK = _two_classes(1 - np.array([1e-5, 4e-6, 1e-7, 2e-8, 1e-12]))
    assert ExitPolicy((1.0,)).decide(0, sure_SK)[0].tolist() == [False, False, False, True, True], 'what float32 rounds to 1'
    assert ExitPolicy((1.0,), scale='probability').decide(0, sure_SK)[0].tolist() == [False, True, True, True, True]


@pytest.mark.parametrize('temperature', [1.0, 0.5, 4.0])
@pytest.mark.parametrize('sharpness', [1e-3, 1.0, 30.0])
@pytest.mark.parametrize('score', SCORES)
def test_a_sample_whose_score_is_the_threshold_leaves_with_any_rounding(score: str, sharpness: float, temperature: float) -> None:
    """Another batch size or engine gives logits that differ by rounding, relative to the logits; of sharp ones, those with a score of 1."""
    rng = np.random.default_rng(0)
    logits_SK = (sharpness * network_logits(300)[0][0]).astype(np.float32)
    score_S = ExitPolicy((0.5,), score, temperature).score_of(0, logits_SK)
    samples = np.flatnonzero(score_S == 1) if sharpness == 30 else range(0, 300, 3)
    assert len(samples) > 5
    for sample in samples:
        policy = ExitPolicy((float(score_S[sample]),), score, temperature)
        assert policy.decide(0, logits_SK[[sample]])[0].all() and policy.leaves(0, score_S[[sample]]).all()
        noise_SK = rng.uniform(-4e-7, 4e-7, (20, 10)) * np.abs(logits_SK[sample]).max()
        assert policy.decide(0, (logits_SK[sample] + noise_SK).astype(np.float32))[0].all()


def test_log_odds_tell_apart_what_thresholds_do_not() -> None:
    logits_SK = _two_classes([0.5, 0.9]).astype(np.float32)
    logits_SK = np.concatenate([logits_SK, [[18, 0], [19, 0], [40, 0], [41, 0], [400, 0]]])
    policy = ExitPolicy((1.0,), log_odds=(40.0,))
    leaves_S, score_S = policy.decide(0, logits_SK)
    assert score_S.tolist()[2:] == [1] * 5
    assert leaves_S.tolist() == [False, False, False, False, True, True, True]
    assert policy.replay(np.stack([logits_SK] * 2))[0].tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert policy.decision_thresholds == policy.log_odds == (40.0,)
    np.testing.assert_array_equal(policy.decision_scores(0, logits_SK), log_odds(logits_SK))
    assert policy.threshold_in_words(0) == '1-4e-18'
    assert ExitPolicy((0.71234, NEVER, 1.0)).threshold_in_words(0) == '0.7123'
    assert [ExitPolicy((0.5, NEVER, 1.0)).threshold_in_words(k) for k in (1, 2)] == ['never', '1.0000']


def test_ends_of_decision_thresholds() -> None:
    policy = ExitPolicy((0.0, 1 + 1e-9, NEVER, 1.0))
    assert policy.decision_thresholds[:3] == (-math.inf, math.inf, math.inf) and math.isfinite(policy.decision_thresholds[3])
    given = ExitPolicy((0.0, NEVER), log_odds=(-math.inf, math.inf))
    assert given.decide(0, np.zeros((2, 3)))[0].all() and not given.decide(1, np.array([[3e38, 0, 0]]))[0].any()
    assert given.decide(1, np.zeros((2, 3)), is_last=True)[0].all() and given.decide(2, np.zeros((2, 3)))[0].all()
    one_class = np.zeros((2, 1))
    assert ExitPolicy((1.0,)).decide(0, one_class)[0].all() and not ExitPolicy((NEVER,)).decide(0, one_class)[0].any()
    assert ExitPolicy((0.0,), 'margin').decide(0, np.zeros((1, 3)))[0].all(), 'a margin of 0'


@pytest.mark.parametrize(
    ('thresholds', 'values', 'message'),
    [
        ((0.5, 0.5), (0.0, 1.0), r'log_odds 1 of exit 2 .* threshold 0\.5, which are -2\.0\d+e-05 to 1\.\d+e-07; pass log_odds=None'),
        ((0.5,), (-1e-4,), 'log_odds -0.0001 of exit 1'),
        ((1.0,), (10.0,), 'log_odds 10 of exit 1 are not those of its threshold 1, which are 17.3'),
        ((0.99,), (40.0,), 'log_odds 40 of exit 1'),
        ((0.5,), (math.inf,), 'log_odds inf of exit 1'),
        ((0.5,), (-math.inf,), 'log_odds -inf of exit 1'),
        ((NEVER,), (50.0,), 'log_odds 50 of exit 1'),
        ((0.0,), (0.0,), 'log_odds 0 of exit 1'),
        ((0.5,), (math.nan,), 'log_odds nan of exit 1'),
        ((0.5,), (0.0, 0.0), '2 log_odds do not go with 1 thresholds; pass log_odds=None to decide by the thresholds alone'),
        ((0.5,), 'x', 'is no sequence of numbers; pass log_odds=None'),
    ],
)
def test_log_odds_belong_to_the_thresholds(thresholds: Any, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExitPolicy(thresholds, log_odds=values)


def test_a_changed_policy_does_not_keep_its_old_log_odds() -> None:
    solved = ExitPolicy((0.5, 1.0), log_odds=(-1e-5, 30.0))
    assert replace(solved, record=PolicyRecord()).log_odds == solved.log_odds
    with pytest.raises(ValueError, match=r'log_odds -1e-05 of exit 1 are not those of its threshold 0.7.*pass log_odds=None'):
        replace(solved, thresholds=(0.7, 1.0))
    assert replace(solved, thresholds=(0.7, 1.0), log_odds=None) == ExitPolicy((0.7, 1.0))
    assert replace(ExitPolicy((0.5,)), thresholds=(0.6,)).decision_thresholds == ExitPolicy((0.6,)).decision_thresholds
    with pytest.raises(ValueError, match=r"log_odds=.* do not go with scale='probability'"):
        replace(solved, scale='probability')
    with pytest.raises(ValueError, match="scale='logits' is unknown; choose one of log_odds, probability"):
        ExitPolicy((0.5,), scale='logits')
    for same in (copy.deepcopy(solved), pickle.loads(pickle.dumps(solved))):
        assert same == solved and same.decision_thresholds == solved.decision_thresholds and hash(same) == hash(solved)


@pytest.mark.parametrize('last_exit', [None, 0, 2, 3])
@pytest.mark.parametrize('score', SCORES)
def test_replay(score: str, last_exit: int | None) -> None:
    logits_ESK, _ = network_logits(5000)
    policy = ExitPolicy((0.6, 0.5, 0.55), score, (1.0, 1.5, 0.8, 1.0))
    exit_index_S, score_S = policy.replay(logits_ESK, last_exit)
    score_ES = np.stack([policy.score_of(k, logits_ESK[k]) for k in range(4)])
    last = 3 if last_exit is None else last_exit
    expected = [next((k for k in range(last) if s[k] >= policy.thresholds[k] - 1e-6), last) for s in score_ES.T]
    assert exit_index_S.dtype == np.int64
    assert exit_index_S.tolist() == expected
    assert len(set(expected)) == last + 1
    np.testing.assert_array_equal(score_S, score_ES[exit_index_S, np.arange(5000)])
    np.testing.assert_array_equal(policy.replay_scores(score_ES, last_exit), exit_index_S)
    np.testing.assert_array_equal(policy.replay(list(logits_ESK[: last + 1]), last_exit)[0], exit_index_S)


def test_replay_looks_at_no_exit_behind_the_samples() -> None:
    logits_ESK = np.zeros((4, 6, 3), np.float32)
    logits_ESK[0, :3, 0] = 9  # these leave at exit 1
    logits_ESK[1:, :3] = np.nan
    assert POLICY.replay(logits_ESK)[0].tolist() == [0, 0, 0, 3, 3, 3]
    logits_ESK[2, 4] = np.nan
    with pytest.raises(ValueError, match=r'exit 3: the logits of 1 of 3 samples are not finite \(the first is sample 4\)'):
        POLICY.replay(logits_ESK)
    assert POLICY.replay(logits_ESK, last_exit=1)[0].tolist() == [0, 0, 0, 1, 1, 1]


def test_replay_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match='logits of 3 exits do not go with a policy for 4; pass one array per exit'):
        POLICY.replay(np.zeros((3, 2, 5)))
    with pytest.raises(ValueError, match=r'\(2, 5\), \(2, 5\), \(2, 5\), \(3, 5\) do not belong together'):
        POLICY.replay([*np.zeros((3, 2, 5)), np.zeros((3, 5))])
    with pytest.raises(ValueError, match=r'pass an array of shape \(exits, samples\)'):
        POLICY.replay_scores(np.zeros(4))
    with pytest.raises(ValueError, match=r'exit 1: logits of shape \(5,\) have no score'):
        POLICY.score_of(0, np.zeros(5))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'thresholds': ()}, 'is empty; pass one per exit but the last'),
        ({'thresholds': 0.5}, 'thresholds=0.5 is no sequence'),
        ({'thresholds': ('a',)}, r"thresholds=\('a',\) are not all numbers"),
        ({'thresholds': (0.5, np.nan)}, r'threshold nan of exit 2: .*set 2\.0'),
        ({'thresholds': (np.inf,)}, r'threshold inf of exit 1: .*to let nobody leave, set 2\.0'),
        ({'thresholds': (-0.1,)}, r'threshold -0\.1 of exit 1: .*0 \(all leave\) or more'),
        ({'thresholds': (0.5,), 'score': 'x'}, "score='x' is unknown; choose one of confidence, margin, entropy"),
        ({'thresholds': (0.5, 10**400)}, 'thresholds has a whole number of more than 308 digits, which no float holds; pass one per exit'),
        ({'thresholds': (0.5,), 'temperature': 10**400}, 'temperature has a whole number of more than 308 digits'),
        ({'thresholds': (0.5,), 'temperature': 0}, 'temperature 0.0 of exit 1: temperatures are numbers from 0.001 to 1000; 1.0 '),
        ({'thresholds': (0.5,), 'temperature': (1, 1e-300)}, 'temperature 1e-300 of exit 2: .*tools/calibrate.py --fit-temperature'),
        ({'thresholds': (0.5,), 'temperature': 9.9e-4}, 'temperature 0.00099 of exit 1'),
        ({'thresholds': (0.5,), 'temperature': (1001, 1)}, r'temperature 1001\.0 of exit 1'),
        ({'thresholds': (0.5,), 'temperature': np.inf}, 'temperature inf of exit 1'),
        ({'thresholds': (0.5,), 'temperature': (1, np.nan)}, 'temperature nan of exit 2'),
        ({'thresholds': (0.5,), 'temperature': (1, 1, 1)}, '3 temperatures do not go with 2 exits'),
        ({'thresholds': (0.5,), 'record': PolicyRecord(cost_ms=(1, 2, 3))}, '3 cost_ms for 2 exits'),
    ],
)
def test_policies_that_mean_nothing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExitPolicy(**arguments)


def test_policy_keeps_tuples_of_floats() -> None:
    policy = ExitPolicy(np.float32([0.1, 0.2]), temperature=2)  # type: ignore[arg-type]
    assert policy.thresholds == (float(np.float32(0.1)), float(np.float32(0.2)))
    assert policy.temperature == policy.temperatures == (2.0, 2.0, 2.0)
    assert policy.num_exits == 3
    assert policy == ExitPolicy(list(policy.thresholds), temperature=[2, 2, 2])  # type: ignore[arg-type]
    assert hash(policy) == hash(ExitPolicy(policy.thresholds, temperature=2, record=PolicyRecord(num_samples=3)))
