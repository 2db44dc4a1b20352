"""Scores of logits, and their log-odds, which neither saturate nor lose digits."""

from __future__ import annotations

import decimal
import math
import tracemalloc
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from inference_scores import network_logits

from dynperceiver.calibration.temperature import TEMPERATURES as FITTED
from dynperceiver_runtime import ExitPolicy, UserError
from dynperceiver_runtime.policy import SCORES, log_odds, to_log_odds, to_probability
from dynperceiver_runtime.policy.scores import LARGEST_LOG_ODDS, TEMPERATURE_LIMITS, score_samples

each_score = pytest.mark.parametrize('score', SCORES)
POLICY = ExitPolicy((0.5, 0.6, 0.7))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _plain_score(score: str, logits_SK: np.ndarray) -> np.ndarray:
    probs_SK = np.sort(_softmax(logits_SK), axis=1)
    if score == 'confidence':
        return np.asarray(probs_SK[:, -1])
    if score == 'margin':
        return np.asarray(probs_SK[:, -1] - (probs_SK[:, -2] if probs_SK.shape[1] > 1 else 0))
    if probs_SK.shape[1] == 1:
        return np.ones(len(probs_SK))
    return np.asarray(1 + (probs_SK * np.log(np.maximum(probs_SK, 1e-300))).sum(1) / math.log(probs_SK.shape[1]))


@pytest.mark.parametrize('num_classes', [1, 2, 10, 1000])
@each_score
def test_scores(score: str, num_classes: int) -> None:
    logits_SK = (3 * np.random.default_rng(0).standard_normal((600, num_classes))).astype(np.float32)
    logits_SK[0] = 0  # uniform
    logits_SK[1] = np.where(np.arange(num_classes) == 0, 1e30, -3e38)  # sure, and too far apart for float32
    policy = ExitPolicy((0.5,), score, (1.0, 2.0))
    for exit_index, temperature in enumerate((1.0, 2.0)):
        plain_S = _plain_score(score, logits_SK / temperature)
        for score_S, digits in (
            (score_samples(logits_SK, score, temperature), 3e-6),
            (policy.score_of(exit_index, logits_SK), 1e-7),
        ):
            assert score_S.dtype == np.float32
            assert ((score_S >= 0) & (score_S <= 1)).all()
            np.testing.assert_allclose(score_S, plain_S, atol=digits)
            assert score_S[1] == 1
    assert {'confidence': 1 / num_classes, 'margin': 0.0, 'entropy': 0.0}[score] == pytest.approx(score_S[0], abs=2e-6) or num_classes == 1


def _exact_log_odds(score: str, logits: np.ndarray, temperature: float) -> float:
    """By the definition, with many digits."""
    with decimal.localcontext() as context:
        context.prec = 400
        scaled = sorted((Decimal(float(logit)) / Decimal(temperature) for logit in logits), reverse=True)
        powers = [(logit - scaled[0]).exp() for logit in scaled]
        probs = [power / sum(powers) for power in powers]
        if score == 'entropy':
            value = 1 + sum(prob * prob.ln() for prob in probs if prob) / Decimal(len(probs)).ln()
        else:
            value = probs[0] - (probs[1] if score == 'margin' else 0)
        return float((value / (1 - value)).ln())


@pytest.mark.parametrize('temperature', [1.0, 0.05, 3.0])
@pytest.mark.parametrize('spread', [1e-4, 1.0, 8.0])
@each_score
def test_log_odds_are_those_of_the_definition(score: str, spread: float, temperature: float) -> None:
    for num_classes in (2, 6):
        logits_SK = (spread * np.random.default_rng(1).standard_normal((4, num_classes))).astype(np.float32)
        found_S = log_odds(logits_SK, score, temperature)
        assert found_S.dtype == np.float64
        expected = [_exact_log_odds(score, logits, temperature) for logits in logits_SK]
        assert found_S.tolist() == pytest.approx(expected, rel=1e-11, abs=1e-11)
    if spread / temperature > 100:
        assert (to_probability(found_S) == 1).any(), 'beyond what a probability holds even in float64'


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
@each_score
def test_sure_samples_are_told_apart(score: str, dtype: Any) -> None:
    """The surer a sample, the larger its log-odds, where all scores are 1 in float32."""
    logits_SK = np.zeros((200, 10), dtype)
    logits_SK[:, 3] = np.linspace(30, 600, 200)
    assert (score_samples(logits_SK, score) == 1).all()
    found_S = log_odds(logits_SK, score)
    assert (np.diff(found_S) > 1).all()
    assert found_S[0] == pytest.approx(30, abs=math.log(400)) and found_S[-1] == pytest.approx(600, abs=math.log(9000))


@each_score
def test_unsure_samples_are_told_apart(score: str) -> None:
    """Of logits that hardly differ, in the order of the first term that is not the same for all."""
    logits_SK = np.random.default_rng(0).standard_normal((500, 10))
    sorted_SK = np.sort(logits_SK, axis=1)
    first_term_S = {
        'confidence': sorted_SK[:, -1] - logits_SK.mean(1),
        'margin': sorted_SK[:, -1] - sorted_SK[:, -2],
        'entropy': logits_SK.var(1),
    }[score]
    found_S = log_odds(1e-7 * logits_SK, score)
    np.testing.assert_array_equal(np.argsort(found_S), np.argsort(first_term_S))
    assert len(set(log_odds((1e-4 * logits_SK).astype(np.float32), score))) == 500


@each_score
def test_log_odds_end_at_a_finite_number(score: str) -> None:
    low, high = -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS
    assert log_odds(np.zeros((2, 1)), score).tolist() == [high, high]  # one class
    uniform = -math.log(4) + math.log(4 / 3) if score == 'confidence' else low
    for value in (0.0, 3e38, -1e308):
        assert log_odds(np.full((1, 4), value), score)[0] == pytest.approx(uniform, abs=1e-12)
    far_SK = np.array([[1e308, -1e308, 0], [3e38, -3e38, 0], [1, 0, -1e308]])
    for temperature in TEMPERATURE_LIMITS:
        far_S = log_odds(far_SK, score, temperature)
        assert (far_S[:2] > 1e34).all() and np.isfinite(far_S).all()
    (two,) = log_odds(np.array([[5.0, 5.0, -1e308]]), score).tolist()
    entropy = math.log(math.log(3) - math.log(2)) - math.log(math.log(2))
    assert two == pytest.approx({'confidence': 0, 'margin': low, 'entropy': entropy}[score])


@each_score
def test_a_score_does_not_depend_on_the_batch(score: str) -> None:
    logits_SK = network_logits(700, 1000)[0][0]
    for function in (log_odds, score_samples, lambda logits, name: ExitPolicy((0.5,), name).score_of(0, logits)):
        together_S = function(logits_SK, score)
        np.testing.assert_array_equal(together_S, np.concatenate([function(logits_SK[i : i + 1], score) for i in range(700)]))
        np.testing.assert_array_equal(together_S, function(np.asfortranarray(logits_SK), score))
        np.testing.assert_array_equal(together_S, function(logits_SK.astype(np.float64), score))


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_logits_stay_as_they_are(dtype: Any) -> None:
    logits_SK = network_logits(50)[0][0].astype(dtype)
    before_SK = logits_SK.copy()
    for score in SCORES:
        log_odds(logits_SK, score, 2.0)
        score_samples(logits_SK, score, 2.0)
    np.testing.assert_array_equal(logits_SK, before_SK)


def test_scores_of_many_samples_take_little_memory() -> None:
    logits_SK = np.zeros((20_000, 500), np.float32)
    tracemalloc.start()
    try:
        POLICY.score_of(0, logits_SK)
        score_samples(logits_SK)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < logits_SK.nbytes / 8


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value: float) -> None:
    logits_SK = np.zeros((500, 1000), np.float32)
    logits_SK[[300, 450], 7] = value
    match = r'exit 2: the logits of 2 of 500 samples are not finite \(the first is sample 300\).*input of these samples.*have diverged'
    with pytest.raises(UserError, match=match):
        POLICY.score_of(1, logits_SK)
    with pytest.raises(ValueError, match='the first is sample 1300'):
        POLICY.score_of(1, logits_SK, np.arange(1000, 1500))


def test_temperatures_are_blamed_where_they_are_at_fault() -> None:
    logits_SK = np.zeros((2, 3), np.float32)
    for function in (log_odds, score_samples):
        with pytest.raises(ValueError, match=r'temperature 1e-300 of exit 3: temperatures are numbers from 0\.001 to 1000'):
            function(logits_SK, temperature=1e-300, exit_index=2)
    low, high = TEMPERATURE_LIMITS
    assert low < min(FITTED) and max(FITTED) < high
    for score in SCORES:
        far_SK = np.array([[1e30, -3e38, 0], [0, 1, 2]], np.float32)
        for temperature in TEMPERATURE_LIMITS:
            assert ((scores := ExitPolicy((0.5,), score, temperature).score_of(0, far_SK)) >= 0).all() and scores[0] == 1


def test_large_finite_logits_are_fine() -> None:
    assert POLICY.score_of(0, np.full((2, 4), 3e38, np.float32)).tolist() == [0.25, 0.25]  # their sum is not finite


def test_log_odds_and_probabilities_are_each_others_inverse() -> None:
    chances = np.array([0, 1e-300, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-9, 1])
    found = to_log_odds(chances)
    assert found.tolist() == pytest.approx(
        [-LARGEST_LOG_ODDS, -690.7755278982137, -20.72326583594641, -math.log(9), 0, math.log(9), 20.72326583, LARGEST_LOG_ODDS], rel=1e-8
    )
    assert to_probability(found).tolist() == pytest.approx(chances.tolist(), rel=1e-13)
    assert to_probability(np.array([-np.inf, -800, 800, np.inf])).tolist() == [0, 0, 1, 1]
    odds = np.linspace(-300, 30, 100)
    assert to_log_odds(to_probability(odds)).tolist() == pytest.approx(odds.tolist(), rel=1e-3)
    assert (np.diff(to_log_odds(np.linspace(0, 1, 1001))) > 0).all()
