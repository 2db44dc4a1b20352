"""Thresholds, held-out scores, temperatures, and calibration for each goal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference_scores import GFLOPS, GoldenThresholds, golden_thresholds, network_logits, network_scores

from dynperceiver.calibration import (
    HeldOutScores,
    calibrate,
    evaluate,
    fit_temperature,
    random_exit_baseline,
    solve_thresholds,
)
from dynperceiver.calibration.exit_fractions import ALL_LEAVE, NONE_LEAVES, as_policy_thresholds
from dynperceiver.calibration.risk_control import split_samples
from dynperceiver_runtime import UserError
from dynperceiver_runtime.policy import NEVER, ExitPolicy, first_exit

MS = (3.0, 6.5, 7.0, 9.0)


@pytest.fixture(scope='module')
def golden() -> GoldenThresholds:
    return golden_thresholds()


def _reference_gflops(fractions: tuple[float, ...]) -> float:
    """The mean cost as the golden file has it: summed in float32."""
    total = np.float32(0)
    for fraction, cost in zip(fractions, GFLOPS, strict=True):
        total += np.float32(fraction) * np.float32(cost)
    return float(total)


def test_golden_thresholds(golden: GoldenThresholds) -> None:
    assert len(golden.rows) == 33
    halves = {'val': slice(0, 300), 'test': slice(300, 600)}
    held_out = {half: HeldOutScores(golden.score_ES[:, part], golden.correct_ES[:, part]) for half, part in halves.items()}
    for row in golden.rows:
        threshold_E = solve_thresholds(held_out['val'].score_ES, row['exit_fraction'])
        assert threshold_E.dtype == np.float32
        assert threshold_E.astype(float).tolist() == row['thresholds']
        policy = ExitPolicy(as_policy_thresholds(threshold_E))
        for half, samples in held_out.items():
            for thresholds in (policy, threshold_E):
                evaluation = evaluate(thresholds, samples, GFLOPS)
                assert evaluation.accuracy * 100 == pytest.approx(row[f'{half}_accuracy'], rel=1e-14)
                assert _reference_gflops(evaluation.exit_fractions) == row[f'{half}_gflops']
                assert evaluation.mean_cost == pytest.approx(row[f'{half}_gflops'], rel=3e-7)


def test_golden_scores_are_ours(golden: GoldenThresholds) -> None:
    held_out = HeldOutScores.from_logits(golden.logits_ESK, golden.labels_S)
    np.testing.assert_allclose(held_out.score_ES, golden.score_ES, rtol=5e-7)
    np.testing.assert_array_equal(held_out.correct_ES, golden.correct_ES)
    policy = calibrate(golden.logits_ESK[:, :300], golden.labels_S[:300], exit_fractions=golden.rows[5]['exit_fraction'])
    assert policy.thresholds == pytest.approx(golden.rows[5]['thresholds'][:3], rel=5e-7)
    assert (np.bincount(policy.replay_scores(golden.score_ES[:, :300]), minlength=4)[:3] == [146, 93, 20]).all()


def test_golden_decisions_are_those_of_log_odds(golden: GoldenThresholds) -> None:
    """Of all rows: policies solved on logits send the samples of both halves where the reference's float32 thresholds send them."""
    for row in golden.rows:
        policy = calibrate(golden.logits_ESK[:, :300], golden.labels_S[:300], exit_fractions=row['exit_fraction'])
        exit_S, _ = policy.replay(golden.logits_ESK)
        np.testing.assert_array_equal(exit_S, first_exit(golden.score_ES, row['thresholds']))
        for half, part in (('val', slice(0, 300)), ('test', slice(300, 600))):
            right = golden.correct_ES[exit_S[part], np.arange(600)[part]].mean()
            assert right * 100 == pytest.approx(row[f'{half}_accuracy'], rel=1e-14)
            fractions = np.bincount(exit_S[part], minlength=4) / 300
            assert _reference_gflops(tuple(fractions.tolist())) == row[f'{half}_gflops']


def _walk(score_ES: np.ndarray, fractions: list[float]) -> list[float]:
    """The rule, sample by sample."""
    out: set[int] = set()
    thresholds = []
    for scores, fraction in zip(score_ES[:-1].tolist(), fractions, strict=False):
        count, threshold = 0, float(NONE_LEAVES)
        for sample in sorted(range(len(scores)), key=lambda s: -scores[s]):
            if sample not in out and count < int(np.float32(len(scores)) * np.float32(fraction)):
                count, threshold = count + 1, scores[sample]
        out |= {sample for sample, score in enumerate(scores) if score >= threshold}
        thresholds.append(threshold)
    return [*thresholds, float(ALL_LEAVE)]


@pytest.mark.parametrize('decimals', [1, 2, 7])  # few decimals: many ties
def test_thresholds_follow_the_walk(decimals: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        num_exits, num_samples = int(rng.integers(2, 6)), int(rng.integers(1, 60))
        score_ES = rng.random((num_exits, num_samples)).round(decimals).astype(np.float32)
        fractions = rng.dirichlet(np.full(num_exits, 0.4)).tolist()
        assert solve_thresholds(score_ES, fractions).astype(float).tolist() == _walk(score_ES, fractions)


def test_degenerate_fractions() -> None:
    score_ES = np.float32([[0.5, 0.5, 0.5, 0.1], [0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1]])
    cases: dict[tuple[float, ...], list[float]] = {
        (0.2, 0.8, 0.0): [NONE_LEAVES, 0.7, ALL_LEAVE],  # 0.8 samples are none
        (0.25, 0.75, 0.0): [0.5, 0.6, ALL_LEAVE],  # ties leave together; then there are less than three
        (1.0, 0.0, 0.0): [0.1, NONE_LEAVES, ALL_LEAVE],
        (0.9999, 0.0, 0.0): [0.5, NONE_LEAVES, ALL_LEAVE],
        (0.0, 0.0, 1.0): [NONE_LEAVES, NONE_LEAVES, ALL_LEAVE],
    }
    for fractions, expected in cases.items():
        assert solve_thresholds(score_ES, fractions).tolist() == np.float32(expected).tolist()
    assert solve_thresholds(score_ES[[0, 0, 0]], (0.25, 0.5, 0.25)).tolist() == np.float32([0.5, 0.1, ALL_LEAVE]).tolist()
    assert solve_thresholds(score_ES[[2, 0, 0]], (0.5, 0.25, 0.25)).tolist() == np.float32([1, NONE_LEAVES, ALL_LEAVE]).tolist()
    assert as_policy_thresholds(np.float32([NONE_LEAVES, ALL_LEAVE, 0.5, ALL_LEAVE])) == (NEVER, 0.0, 0.5)
    hundred = np.linspace(0, 1, 200, dtype=np.float32).reshape(2, 100)
    assert solve_thresholds(hundred, (0.29, 0.71))[0] == np.sort(hundred[0])[-29]  # 0.29 in float32, times 100, is 29


@pytest.mark.parametrize(
    ('fractions', 'message'),
    [((0.5, 0.5), 'pass 3 numbers of 0 or more'), ((0.5, 0.7, -0.2), 'of 0 or more'), ((0.5, 0.3, 0.1), r'sum up to 0\.9;.*divide them')],
)
def test_fractions_that_do_not_fit(fractions: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        solve_thresholds(np.ones((3, 4), np.float32), fractions)


def test_thresholds_keep_the_type_of_the_scores() -> None:
    log_odds_ES = np.array([[1 + 1e-12, 1.0, 1 - 1e-12, -1e300], [1e300, 0.5, 0.25, 0.0]])
    found_E = solve_thresholds(log_odds_ES, (0.25, 0.75))
    assert found_E.dtype == np.float64 and found_E.tolist() == [1 + 1e-12, -np.inf]
    assert solve_thresholds(log_odds_ES, (0.0, 1.0)).tolist() == [np.inf, -np.inf]
    assert solve_thresholds(np.float32([[1, 0.5], [0, 0]]), (0.5, 0.5)).tolist() == [1, -1e8]
    assert solve_thresholds([[2, 1], [0, 0]], (0.5, 0.5)).tolist() == [2, -np.inf]  # type: ignore[arg-type]


def test_evaluate_by_hand() -> None:
    held_out = HeldOutScores(
        np.float32([[0.9, 0.2, 0.3, 0.4], [0.1, 0.8, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]]),
        np.array([[True, False, False, False], [False, False, True, True], [False, True, True, False]]),
    )
    evaluation = evaluate((0.9, 0.4), held_out, (1, 2, 4))
    assert evaluation.exit_fractions == (0.25, 0.5, 0.25)
    assert evaluation.accuracy == 0.75  # samples 0, 2 and 3
    assert evaluation.mean_cost == 0.25 * 1 + 0.5 * 2 + 0.25 * 4
    assert evaluate((1.5, 0.0), held_out, (1, 2, 4)).exit_fractions == (0, 1, 0)
    sure = HeldOutScores(np.ones((2, 3)), np.ones((2, 3), bool))
    for thresholds in ((1 + 1e-7,), ExitPolicy((1 + 1e-7,))):
        assert evaluate(thresholds, sure, (1, 2)).exit_fractions == (0, 1)
    baseline = random_exit_baseline(held_out, (1, 2, 4), (0.25, 0.5, 0.25))
    assert baseline.accuracy == 0.25 * 0.25 + 0.5 * 0.5 + 0.25 * 0.5
    assert baseline.mean_cost == evaluation.mean_cost
    with pytest.raises(ValueError, match=r'decides by margin .* the samples have confidence'):
        evaluate(ExitPolicy((0.5, 0.5), 'margin'), held_out, (1, 2, 4))
    with pytest.raises(ValueError, match='do not go with 3 exits; pass 2 or 3 numbers'):
        evaluate((0.5,), held_out, (1, 2, 4))


def test_scores_beat_random_exits() -> None:
    held_out = network_scores(4000)
    evaluation = evaluate((0.6, 0.7, 0.7), held_out, GFLOPS)
    baseline = random_exit_baseline(held_out, GFLOPS, evaluation.exit_fractions)
    assert baseline.mean_cost == pytest.approx(evaluation.mean_cost)
    assert evaluation.accuracy > baseline.accuracy + 0.05


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'labels_S': np.array([0, 1, 2, 3, 10])}, r'label 10 of sample 4: class numbers run from 0 to 9 .*count from 1, subtract 1'),
        ({'labels_S': np.array([0, -1, 2, 3, 9])}, 'label -1 of sample 1'),
        ({'labels_S': np.arange(4)}, r'labels of shape \(4,\) do not go with 5 samples'),
        ({'labels_S': np.arange(5.0)}, 'float64 labels'),
        ({'logits_ESK': np.zeros((1, 5, 10))}, 'pass 2 or more exits'),
        ({'logits_ESK': np.zeros((4, 0, 10)), 'labels_S': np.zeros(0, int)}, '0 held-out samples of 10 classes'),
        ({'logits_ESK': [np.zeros((5, 10)), np.zeros((5, 9))]}, r'\(5, 10\), \(5, 9\) do not belong together'),
        ({'logits_ESK': np.full((4, 5, 10), np.nan)}, 'exit 1: the logits of 5 of 5 samples are not finite'),
        ({'score': 'x'}, "score='x' is unknown"),
        ({'temperature': (1, 2)}, '2 temperatures do not go with 4 exits'),
    ],
)
def test_samples_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    arguments = {'logits_ESK': np.zeros((4, 5, 10)), 'labels_S': np.arange(5), **change}
    with pytest.raises(ValueError, match=message):
        HeldOutScores.from_logits(**arguments)


def test_held_out_scores_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r'int64 answers .* pass score_ES and the booleans'):
        HeldOutScores(np.zeros((2, 3)), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match='score nan of sample 2 at exit 2'):
        HeldOutScores(np.array([[0, 0, 0], [0, 0, np.nan]]), np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match='2 exits and 0 held-out samples'):
        HeldOutScores(np.zeros((2, 0)), np.zeros((2, 0), bool))
    right_ES, half_ES = np.zeros((2, 3), bool), np.full((2, 3), 0.5)
    with pytest.raises(ValueError, match=r'score 1\.5 of sample 0 at exit 1; scores are numbers from 0 to 1.*HeldOutScores\.from_logits'):
        HeldOutScores(half_ES + 1, right_ES)
    for wrong_ES in (np.zeros((2, 4)), np.full((2, 3), np.inf)):
        with pytest.raises(ValueError, match=r'log_odds_ES of shape \(2, .\) for scores of shape \(2, 3\): pass as many finite'):
            HeldOutScores(half_ES, right_ES, log_odds_ES=wrong_ES)
    with pytest.raises(ValueError, match='log_odds_ES are not those of score_ES; pass log_odds_ES=None'):
        replace(HeldOutScores(half_ES, right_ES), score_ES=half_ES / 2)


def _likelihood(logits_SK: np.ndarray, labels_S: np.ndarray, temperature: float) -> float:
    scaled_SK = logits_SK.astype(np.float64) / temperature
    return float(np.mean(np.log(np.exp(scaled_SK).sum(1)) - scaled_SK[np.arange(len(labels_S)), labels_S]))


def test_fitted_temperatures_are_the_most_likely() -> None:
    logits_ESK, labels_S = network_logits(3000)
    temperatures = fit_temperature(logits_ESK, labels_S)
    for logits_SK, temperature in zip(logits_ESK, temperatures, strict=True):
        least = _likelihood(logits_SK, labels_S, temperature)
        assert least < min(_likelihood(logits_SK, labels_S, temperature * factor) for factor in (0.99, 1.01))
    scaled = fit_temperature([logits_SK * factor for logits_SK, factor in zip(logits_ESK, (7, 0.2, 1, 3), strict=True)], labels_S)
    assert scaled == pytest.approx(np.multiply(temperatures, (7, 0.2, 1, 3)), rel=1e-4)


def test_temperatures_stay_in_their_range() -> None:
    labels_S = np.arange(10) % 5
    right_SK = np.eye(5, dtype=np.float32)[labels_S]
    always_right, always_wrong = fit_temperature([right_SK, -right_SK], labels_S)
    assert 0.02 <= always_right < 0.03
    assert always_wrong == pytest.approx(50, rel=1e-3)
    assert np.isfinite(fit_temperature(np.zeros((2, 10, 5)), labels_S)).all()
    with pytest.raises(ValueError, match='exit 2: the logits of 10 of 10'):
        fit_temperature([right_SK, right_SK * np.nan], labels_S)


@pytest.mark.parametrize('score', ['confidence', 'margin', 'entropy'])
@pytest.mark.parametrize(
    'goal',
    [{'exit_fractions': (0.4, 0.3, 0.2, 0.1)}, {'budget_gflops': 0.8}, {'budget_ms': 5.0}, {'max_accuracy_drop': 0.05}],
)
def test_policies_come_with_a_record(goal: dict[str, Any], score: str, tmp_path: Path) -> None:
    logits_ESK, labels_S = network_logits(2000)
    names = {'checkpoint': 'sha256:w', 'calibration_set': 'sha256:s', 'machine': 'desk'}
    policy = calibrate(logits_ESK, labels_S, **goal, score=score, temperature=(1, 2, 1, 1), cost_gflops=GFLOPS, cost_ms=MS, **names)
    assert (policy.score, policy.temperatures) == (score, (1, 2, 1, 1))
    record = policy.record
    assert record is not None
    assert {name: getattr(record, name) for name in names} == names
    assert (record.num_samples, record.cost_gflops, record.cost_ms) == (2000, GFLOPS, MS)
    extra = {'confidence_level': 0.9} if 'max_accuracy_drop' in goal else {}
    assert record.solved_for == {**{name: list(value) if isinstance(value, tuple) else value for name, value in goal.items()}, **extra}
    exit_S, _ = policy.replay(logits_ESK)
    correct_ES = logits_ESK.argmax(2) == labels_S
    expected = {
        'accuracy': correct_ES[exit_S, np.arange(2000)].mean(),
        'full_accuracy': correct_ES[3].mean(),
        'mean_gflops': np.asarray(GFLOPS)[exit_S].mean(),
        'mean_ms': np.asarray(MS)[exit_S].mean(),
    }
    assert {name: record.expected[name] for name in expected} == pytest.approx(expected)
    assert record.expected['exit_fractions'] == pytest.approx(np.bincount(exit_S, minlength=4) / 2000)
    assert len(record.expected) == 5
    if 'exit_fractions' in goal:
        assert record.expected['exit_fractions'] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=1e-3)
    assert record.expected['mean_gflops'] <= goal.get('budget_gflops', np.inf)
    assert record.expected['mean_ms'] <= goal.get('budget_ms', np.inf)
    if 'max_accuracy_drop' in goal:
        assert record.expected['mean_gflops'] < 0.9 * GFLOPS[-1]
    policy.save(tmp_path / 'policy.json')
    assert ExitPolicy.load(tmp_path / 'policy.json', checkpoint='sha256:w') == policy


def test_budgets_count_in_their_unit() -> None:
    logits_ESK, labels_S = network_logits(2000)
    policy = calibrate(logits_ESK, labels_S, budget_ms=5.0, cost_gflops=GFLOPS, cost_ms=MS)
    assert policy.record is not None
    assert policy.record.expected['mean_ms'] == pytest.approx(5.0, abs=0.01)
    assert 'mean_ms' not in calibrate(logits_ESK, labels_S, exit_fractions=(1, 0, 0, 0), cost_gflops=GFLOPS).record.expected  # type: ignore[union-attr]


def test_temperatures_are_fitted_on_request() -> None:
    logits_ESK, labels_S = network_logits(1000, sharpness=(3, 1, 1, 1))
    policy = calibrate(logits_ESK, labels_S, exit_fractions=(0.4, 0.3, 0.2, 0.1), temperature='fit')
    assert policy.temperatures == fit_temperature(logits_ESK, labels_S)
    building_S, testing_S = split_samples(1000)
    labels_S = labels_S.copy()
    promised = calibrate(logits_ESK, labels_S, max_accuracy_drop=0.1, temperature='fit')
    assert promised.temperatures == fit_temperature(logits_ESK[:, building_S], labels_S[building_S])
    labels_S[testing_S] = 0  # of the samples that test
    assert calibrate(logits_ESK, labels_S, max_accuracy_drop=0.1, temperature='fit').temperatures == promised.temperatures


@pytest.mark.parametrize(
    ('goal', 'message'),
    [
        ({}, '0 goals given; give exactly one of exit_fractions, budget_gflops, budget_ms, max_accuracy_drop'),
        ({'budget_gflops': 1, 'budget_ms': 1}, '2 goals given: budget_gflops, budget_ms; give exactly one'),
        ({'budget_gflops': 1}, r'budget_gflops needs cost_gflops.*tools/get_flops\.py'),
        ({'budget_ms': 1, 'cost_gflops': GFLOPS}, r'budget_ms needs cost_ms.*measure them'),
        ({'budget_gflops': 0.4, 'cost_gflops': GFLOPS}, r'a budget of 0\.4 GFLOPs is below the cost of exit 1, 0\.46 GFLOPs.*smaller'),
        ({'budget_ms': 2, 'cost_ms': MS}, r'a budget of 2 ms is below the cost of exit 1, 3 ms'),
        ({'budget_ms': np.inf, 'cost_ms': MS}, 'a budget of inf: budgets are finite'),
        ({'budget_ms': 1, 'cost_ms': (1, 2)}, 'costs of 2 exits do not go with logits of 4'),
        ({'exit_fractions': (0.5, 0.5, 0.5, 0.5)}, 'sum up to 2'),
        ({'max_accuracy_drop': 1.0}, 'a fraction of the samples in .*one point of accuracy'),
        ({'max_accuracy_drop': 0.1, 'confidence_level': 1}, 'a probability in .*1 cannot be had'),
        ({'exit_fractions': (1, 0, 0, 0), 'temperature': 'x'}, "temperature='x': pass a number, one number per exit, or 'fit'"),
    ],
)
def test_goals_that_cannot_be_reached(goal: dict[str, Any], message: str) -> None:
    logits_ESK, labels_S = network_logits(50)
    with pytest.raises(ValueError, match=message):
        calibrate(logits_ESK, labels_S, **goal)
