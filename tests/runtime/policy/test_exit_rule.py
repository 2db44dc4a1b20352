"""The one rule: the first exit whose score reaches its threshold, exactly; the last takes the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynperceiver_runtime.policy.exit_rule import first_exit, num_reached, num_reaching, reaches


def _first(scores: list[float], thresholds: list[float]) -> int:
    """The rule for one sample, in Python's own comparisons."""
    for index, threshold in enumerate(thresholds):
        if threshold != float('inf') and float(scores[index]) >= threshold:
            return index
    return len(scores) - 1


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
@pytest.mark.parametrize('num_exits', [1, 2, 3, 7])
def test_first_exit_follows_the_rule(num_exits: int, dtype: Any) -> None:
    rng = np.random.default_rng(num_exits)
    score_ES = rng.integers(-3, 4, (num_exits, 500)).astype(dtype)  # many are equal to a threshold
    for _ in range(20):
        thresholds = rng.choice([-np.inf, -1.0, 0.0, 1.0, 2.0, np.inf], num_exits - 1).tolist()
        exit_S = first_exit(score_ES, thresholds)
        assert exit_S.dtype == np.int64
        assert exit_S.tolist() == [_first(scores, thresholds) for scores in score_ES.T.tolist()]
        for last in (-np.inf, np.nan, np.inf):  # of the last exit, neither threshold nor scores are looked at
            np.testing.assert_array_equal(first_exit(score_ES, [*thresholds, last]), exit_S)
    unknown_ES = score_ES.copy()
    unknown_ES[-1] = np.nan
    np.testing.assert_array_equal(first_exit(unknown_ES, thresholds), exit_S)


def test_there_is_no_tolerance() -> None:
    for score in (0.5, 1.0, 1e-300, -7.25, 1e300):
        score_S = np.array([np.nextafter(score, -np.inf), score, np.nextafter(score, np.inf)])
        assert reaches(score_S, score).tolist() == [False, True, True]
        assert first_exit(np.stack([score_S, score_S]), [score]).tolist() == [1, 0, 0]
    third = np.float32([1 / 3])  # larger than 1/3 in float64, whatever NumPy would cast the threshold to
    assert reaches(third, 1 / 3).all() and not reaches(third, np.nextafter(float(third[0]), 1)).any()
    assert not reaches(np.float32([0.7]), 0.7).any(), '0.7 is less in float32'


def test_ends() -> None:
    score_S = np.array([-np.inf, -1e300, 0.0, 1e300, np.inf])
    assert reaches(score_S, -np.inf).all() and not reaches(score_S, np.inf).any()
    assert reaches(np.zeros((2, 3)), 0).shape == (2, 3)
    assert first_exit(np.empty((3, 0)), (0.5, 0.5)).shape == (0,)


def test_what_cannot_be_compared_is_named() -> None:
    score_ES = np.zeros((3, 5))
    score_ES[1, 3] = np.nan
    with pytest.raises(ValueError, match='exit 2: the score of sample 3 is NaN, and NaN cannot be compared'):
        first_exit(score_ES, (1.0, 1.0))
    with pytest.raises(ValueError, match='exit 1: the threshold is NaN'):
        first_exit(np.zeros((3, 5)), (np.nan, 1.0))
    for shape in ((5,), (0, 5), (2, 3, 4)):
        with pytest.raises(ValueError, match=r'pass an array of shape \(exits, samples\)'):
            first_exit(np.zeros(shape), (1.0,))
    for thresholds in ((), (1.0,), (1.0,) * 4, 1.0):
        with pytest.raises(ValueError, match='do not go with 3 exits; pass 2 or 3 numbers'):
            first_exit(np.zeros((3, 5)), thresholds)  # type: ignore[arg-type]


def test_counts_follow_the_rule() -> None:
    rng = np.random.default_rng(0)
    score_S = rng.integers(-3, 4, 200).astype(float)
    rising_T = np.array([-np.inf, -2.0, 0.0, 1.0, np.inf])
    reached_TS = np.stack([reaches(score_S, threshold) for threshold in rising_T])
    assert num_reached(score_S, rising_T).tolist() == reached_TS.sum(0).tolist()
    assert num_reached(score_S, rising_T[:-1]).tolist() == reached_TS[:-1].sum(0).tolist()
    assert num_reached(np.array([np.inf]), rising_T).tolist() == [4]
    assert num_reaching(-np.sort(-score_S), rising_T).tolist() == reached_TS.sum(1).tolist()
