"""The promise of a largest loss of accuracy, in simulations whose true loss is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from inference_scores import GFLOPS, network_scores

from dynperceiver.calibration import risk_control
from dynperceiver.calibration.held_out_scores import HeldOutScores, evaluate, evaluate_exits
from dynperceiver.calibration.risk_control import control_risk, drop_p_values, split_samples
from dynperceiver_runtime.policy import ExitPolicy, first_exit

NUM_DRAWS = 1000
POPULATION = 20_000


def _p_value(samples: int, lost: int, won: int, drop: float) -> float:
    """Typical p-value: its logarithm's mean over orders of the samples."""
    rng = np.random.default_rng(0)
    loss_S = np.array([1] * lost + [-1] * won + [0] * (samples - lost - won))
    return float(np.exp(np.log(drop_p_values(np.stack([rng.permutation(loss_S) for _ in range(100)]), drop)).mean()))


def test_p_values_by_hand() -> None:
    assert _p_value(1000, 0, 0, 0.01) < 0.01
    assert _p_value(1000, 10, 0, 0.01) > 0.2
    assert _p_value(1000, 100, 0, 0.01) == pytest.approx(1, abs=0.1)
    assert _p_value(1000, 2, 0, 0.01) < _p_value(1000, 6, 0, 0.01) < _p_value(1000, 9, 0, 0.01)
    assert _p_value(1000, 6, 3, 0.01) < _p_value(1000, 6, 0, 0.01)
    assert _p_value(4000, 20, 0, 0.01) < _p_value(1000, 5, 0, 0.01) / 2


@pytest.mark.parametrize(('lost', 'won', 'drop'), [(0.01, 0.0, 0.01), (0.06, 0.05, 0.01), (0.3, 0.25, 0.05), (0.002, 0.0, 0.002)])
@pytest.mark.parametrize('num_samples', [40, 500])
def test_p_values_are_small_as_often_as_they_may_be(lost: float, won: float, drop: float, num_samples: int) -> None:
    """Where the loss is just as large as it must not be, a p-value is p or less with a probability of p at most."""
    draws_DS = np.random.default_rng(1).choice([1, -1, 0], (4000, num_samples), p=[lost, won, 1 - lost - won])
    p_value_D = drop_p_values(draws_DS, drop)
    for level in (0.02, 0.1, 0.3):
        assert (p_value_D <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 4000)


def _naive(held_out: HeldOutScores, max_accuracy_drop: float) -> ExitPolicy:
    """The cheapest policy of the same family that loses no more than allowed on the held-out samples themselves."""
    family_PJ = risk_control._family(held_out, GFLOPS, max_accuracy_drop)
    evaluations = [evaluate_exits(first_exit(held_out.decision_scores, log_odds_J), held_out, GFLOPS) for log_odds_J in family_PJ]
    kept = [i for i, entry in enumerate(evaluations) if entry.accuracy >= held_out.full_accuracy - max_accuracy_drop]
    return held_out.exact_policy(family_PJ[min(kept, key=lambda i: evaluations[i].mean_cost)])


def _draw(population: HeldOutScores, rng: np.random.Generator, num_samples: int) -> HeldOutScores:
    return population.select(rng.integers(0, population.num_samples, num_samples))


def test_the_promise_is_kept_where_a_naive_choice_breaks_it() -> None:
    population, drop, level = network_scores(POPULATION), 0.03, 0.9
    least = population.full_accuracy - drop
    rng = np.random.default_rng(2)
    failures = naive_failures = 0
    saved = []
    for draw in range(NUM_DRAWS):
        held_out = _draw(population, rng, 500)
        promised = evaluate(control_risk(held_out, GFLOPS, drop, level, seed=draw).policy, population, GFLOPS)
        failures += promised.accuracy < least
        saved.append(1 - promised.mean_cost / GFLOPS[-1])
        if draw < NUM_DRAWS // 10:
            naive_failures += evaluate(_naive(held_out, drop), population, GFLOPS).accuracy < least
    allowed = (1 - level) * NUM_DRAWS
    slack = 3 * np.sqrt(allowed * level)
    assert 0 < failures <= allowed + slack  # none at all would be waste
    assert naive_failures * 10 > allowed + 2 * 3 * np.sqrt(10 * allowed * level)  # a tenth of the draws tells less
    assert np.mean(saved) > 0.1


@pytest.mark.parametrize('sharpness', [(1, 1, 1, 1), (2, 1, 1.5, 1)])
def test_many_samples_save_much(sharpness: tuple[float, ...]) -> None:
    population = network_scores(POPULATION, sharpness=sharpness)
    held_out = network_scores(20_000, seed=1, sharpness=sharpness)
    loose, tight = (control_risk(held_out, GFLOPS, drop) for drop in (0.01, 0.002))
    evaluation = evaluate(loose.policy, population, GFLOPS)
    assert evaluation.accuracy >= population.full_accuracy - 0.01
    assert evaluation.mean_cost < 0.87 * GFLOPS[-1]
    assert evaluation.mean_cost < evaluate(tight.policy, population, GFLOPS).mean_cost < GFLOPS[-1]
    assert 0 < loose.num_accepted < loose.num_policies
    assert 0 < loose.p_value <= 0.1
    assert loose.num_test_samples == 14_000


@pytest.mark.parametrize('scale', [1.0, 6.0, 40.0])
def test_networks_that_are_very_sure_save_as_well(scale: float) -> None:
    """Thresholds do not end where scores are rounded to 1."""
    population = network_scores(POPULATION, sharpness=(scale,) * 4)
    held_out = network_scores(5000, seed=1, sharpness=(scale,) * 4)
    found = control_risk(held_out, GFLOPS, 0.02)
    evaluation = evaluate(found.policy, population, GFLOPS)
    assert evaluation.accuracy >= population.full_accuracy - 0.02
    assert evaluation.mean_cost < 0.8 * GFLOPS[-1]


def test_few_samples_promise_nothing() -> None:
    for num_samples in (1, 3, 60):
        held_out = network_scores(num_samples)
        found = control_risk(held_out, GFLOPS, 0.005)
        assert evaluate(found.policy, held_out, GFLOPS).exit_fractions == (0, 0, 0, 1)
        assert (found.num_accepted, found.p_value) == (0, 0)


def test_the_family_never_sees_the_samples_that_test_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    original = risk_control._family
    monkeypatch.setattr(risk_control, '_family', lambda *arguments: seen.append(original(*arguments)) or seen[-1])
    held_out = network_scores(2000)
    control_risk(held_out, GFLOPS, 0.02)
    changed_ES = held_out.correct_ES.copy()
    building_S, testing_S = split_samples(2000)
    changed_ES[:, testing_S] ^= True
    control_risk(replace(held_out, correct_ES=changed_ES), GFLOPS, 0.02)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert sorted([*building_S, *testing_S]) == list(range(2000))
    changed_ES[:, building_S] ^= True
    control_risk(replace(held_out, correct_ES=changed_ES), GFLOPS, 0.02)
    assert not np.array_equal(seen[2], seen[0])


def test_families_run_from_the_full_network_to_ever_cheaper_policies() -> None:
    held_out = network_scores(2000)
    family = risk_control._family(held_out, GFLOPS, 0.02)
    exits_PS = np.stack([first_exit(held_out.decision_scores, log_odds_J) for log_odds_J in family])
    assert (exits_PS[0] == 3).all()
    assert (np.diff(exits_PS, axis=0) <= 0).all()
    assert exits_PS[-1].mean() < 0.2
    harmful = HeldOutScores(held_out.score_ES, np.stack([np.zeros(2000, bool)] * 3 + [np.ones(2000, bool)]))
    common = risk_control._family(harmful, GFLOPS, 0.0001)
    assert all(len(set(log_odds_J)) == 1 for log_odds_J in common.tolist())
    assert control_risk(harmful, GFLOPS, 0.01).num_accepted == 0


def test_a_sequence_stops_at_its_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    p_values = [0.0, 0.01, 0.01, 0.5]
    monkeypatch.setattr(risk_control, 'drop_p_values', lambda loss_PS, *_: np.array(p_values + [0.01] * (len(loss_PS) - 4)))
    held_out = network_scores(2000)
    found = control_risk(held_out, GFLOPS, 0.02)
    assert found.num_accepted == 2
    assert found.p_value == 0.01


def test_draws_of_a_seed_are_the_same() -> None:
    held_out = network_scores(2000)
    assert control_risk(held_out, GFLOPS, 0.02, seed=3) == control_risk(held_out, GFLOPS, 0.02, seed=3)
    assert control_risk(held_out, GFLOPS, 0.02, seed=3) != control_risk(held_out, GFLOPS, 0.02, seed=4)
