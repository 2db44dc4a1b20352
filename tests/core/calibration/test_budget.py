"""The best policy for a budget, and the trade-off curve."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from inference_scores import GFLOPS, network_logits, network_scores

from dynperceiver.calibration import budget as module
from dynperceiver.calibration.budget import GRID_POLICIES, BudgetSearch, CostTable, tradeoff_curve
from dynperceiver.calibration.held_out_scores import HeldOutScores, evaluate
from dynperceiver_runtime.policy.exit_policy import NEVER


def _random(num_exits: int, num_samples: int, seed: int, decimals: int = 7) -> HeldOutScores:
    rng = np.random.default_rng(seed)
    score_ES = rng.random((num_exits, num_samples)).round(decimals)
    return HeldOutScores(score_ES, rng.random((num_exits, num_samples)) < 0.3 + 0.6 * score_ES)


def _best_of_all(held_out: HeldOutScores, costs: tuple[float, ...], budget: float) -> float:
    candidates = [[*np.unique(scores).tolist(), NEVER] for scores in held_out.score_ES[:-1]]
    evaluations = [evaluate(thresholds, held_out, costs) for thresholds in itertools.product(*candidates)]
    return max(evaluation.accuracy for evaluation in evaluations if evaluation.mean_cost <= budget)


@pytest.mark.parametrize('decimals', [1, 7])
@pytest.mark.parametrize('num_exits', [2, 3])
def test_search_comes_close_to_the_best_of_all_thresholds(num_exits: int, decimals: int) -> None:
    costs = (1.0, 2.5, 3.0)[:num_exits]
    found, best = [], []
    for seed in range(4):
        held_out = _random(num_exits, 40, seed, decimals)
        search = BudgetSearch(held_out, costs)
        for budget in (1.3, 1.8, 2.4):
            policy, evaluation = search.solve(budget)
            assert evaluation == evaluate(policy, held_out, costs)
            assert evaluation.mean_cost <= budget
            found.append(evaluation.accuracy)
            best.append(_best_of_all(held_out, costs, budget))
    assert (np.array(found) <= np.array(best) + 1e-12).all()
    assert np.mean(best) - np.mean(found) < (1e-12 if num_exits == 2 else 0.012)


@pytest.mark.parametrize('num_exits', [2, 3, 5])
def test_the_grid_knows_what_its_policies_do(num_exits: int) -> None:
    held_out, costs = _random(num_exits, 300, 9, decimals=2), (0.1, 0.3, 0.7, 0.8, 1.1)[:num_exits]
    search = BudgetSearch(held_out, costs)
    cost_G, threshold_GJ = search._grid_cost_G, search._grid_threshold_GJ
    evaluations = [evaluate(held_out.solved_policy(threshold_J), held_out, costs) for threshold_J in threshold_GJ]
    assert [evaluation.mean_cost for evaluation in evaluations] == pytest.approx(cost_G.tolist())
    assert (np.diff([evaluation.accuracy for evaluation in evaluations]) > 0).all()
    for cost in [*cost_G.tolist(), *(evaluation.mean_cost for evaluation in evaluations)]:
        for refine in (False, True):
            assert search.solve(max(cost, costs[0]), refine=refine)[1].mean_cost <= max(cost, costs[0])
    candidates = itertools.product(*(np.unique(threshold_J).tolist() for threshold_J in threshold_GJ.T))
    some = [evaluate(held_out.solved_policy(thresholds), held_out, costs) for thresholds in itertools.islice(candidates, 500)]
    for evaluation in some:
        assert search.solve(evaluation.mean_cost + 1e-9, refine=False)[1].accuracy >= evaluation.accuracy


@pytest.mark.parametrize('num_exits', [2, 3, 4, 6, 11, 13, 24])
def test_a_curve_never_exceeds_its_budgets_and_beats_geometric_fractions(num_exits: int) -> None:
    held_out = _random(num_exits, 2000, 5)
    costs = np.linspace(1, 2, num_exits)
    search = BudgetSearch(held_out, costs)
    curve = tradeoff_curve(held_out, costs, 9)
    assert [point.budget for point in curve] == pytest.approx(np.linspace(1, 2, 9))
    for point in curve:
        geometric = evaluate(search.geometric_policy(point.budget), held_out, costs)
        assert point.evaluation == evaluate(point.policy, held_out, costs)
        assert max(point.evaluation.mean_cost, geometric.mean_cost) <= point.budget
        assert point.evaluation.accuracy >= geometric.accuracy
    accuracies = [point.evaluation.accuracy for point in curve]
    assert accuracies[0] == held_out.correct_ES[0].mean()
    assert (np.diff(accuracies) > (-0.005 if num_exits < 8 else -0.02)).all()
    assert accuracies[-1] >= held_out.full_accuracy


def test_a_curve_of_a_network_that_gets_better() -> None:
    held_out = network_scores(5000, sharpness=(2, 1, 1.5, 1))
    search = BudgetSearch(held_out, GFLOPS)
    gains, refined = [], []
    for budget in (0.6, 0.8, 1.0, 1.1):
        policy, evaluation = search.solve(budget)
        assert 0.99 * budget < evaluation.mean_cost <= budget
        assert sum(evaluation.exit_fractions) == pytest.approx(1)
        gains.append(evaluation.accuracy - evaluate(search.geometric_policy(budget), held_out, GFLOPS).accuracy)
        refined.append(evaluation.accuracy - search.solve(budget, refine=False)[1].accuracy)
        assert policy.num_exits == 4
    assert np.mean(gains) > 0.003
    assert min(refined) >= 0
    assert max(refined) > 0


def test_the_geometric_family_spends_its_budget() -> None:
    held_out = network_scores(5000)
    search = BudgetSearch(held_out, GFLOPS)
    for budget in (0.6, 0.9, 1.2):
        assert 0.995 * budget < evaluate(search.geometric_policy(budget), held_out, GFLOPS).mean_cost <= budget
    assert evaluate(search.geometric_policy(0.46), held_out, GFLOPS).exit_fractions[0] == 1
    assert evaluate(search.geometric_policy(1.3), held_out, GFLOPS).exit_fractions[3] > 0.99


def test_a_large_budget_is_spent_only_where_it_helps() -> None:
    score_ES = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (3, 1))
    easy_S = score_ES[0] > 0.4
    held_out = HeldOutScores(score_ES, np.stack([easy_S, easy_S, np.ones(200, bool)]))
    policy, evaluation = BudgetSearch(held_out, (1, 2, 3)).solve(5.0)
    assert evaluation.accuracy == 1
    assert evaluation.exit_fractions == pytest.approx((easy_S.mean(), 0, (~easy_S).mean()))
    assert policy.thresholds[0] == pytest.approx(0.4, abs=0.01)
    right_at_the_end = HeldOutScores(score_ES, np.repeat([[False], [False], [True]], 200, axis=1))
    assert BudgetSearch(right_at_the_end, (1, 2, 3)).solve(3)[1].exit_fractions == (0, 0, 1)


@pytest.mark.parametrize(
    ('num_early', 'num_samples', 'expected'),
    [(1, 160, 12), (3, 10, 4), (3, 100, 8), (3, 20_000, 64), (9, 20_000, 4), (10, 20_000, 3), (12, 20_000, 2), (18, 5, 2), (19, 20_000, 1)],
)
def test_levels_of_the_grid(num_early: int, num_samples: int, expected: int) -> None:
    num_levels = module._num_levels(num_early, num_samples)
    assert num_levels == expected
    assert num_levels**num_early <= GRID_POLICIES


@pytest.mark.parametrize('num_exits', [11, 13, 16, 20, 40])
def test_memory_does_not_grow_with_the_power_of_the_exits(num_exits: int) -> None:
    held_out, costs = _random(num_exits, 64, 3), np.linspace(1, 2, num_exits)
    tracemalloc.start()
    try:
        search = BudgetSearch(held_out, costs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * GRID_POLICIES
    for budget in (1.0, 1.5, 2.0):
        geometric = evaluate(search.geometric_policy(budget), held_out, costs)
        coarse, refined = search.solve(budget, refine=False)[1], search.solve(budget)[1]
        assert max(coarse.mean_cost, refined.mean_cost) <= budget
        assert geometric.accuracy <= coarse.accuracy <= refined.accuracy


def test_the_only_level_between_all_and_nobody_is_the_middle() -> None:
    held_out = _random(11, 101, 3)
    search = BudgetSearch(held_out, np.linspace(1, 2, 11))
    middle_J = np.median(held_out.decision_scores[:-1], axis=1)
    for threshold_G, middle in zip(search._grid_threshold_GJ.T, middle_J, strict=True):
        assert set(threshold_G.tolist()) <= {-np.inf, float(middle), np.inf}


def test_one_sample() -> None:
    held_out = HeldOutScores(np.array([[0.4], [0.6]]), np.array([[False], [True]]))
    assert BudgetSearch(held_out, (1, 2)).solve(1)[1].exit_fractions == (1, 0)
    assert BudgetSearch(held_out, (1, 2)).solve(2)[1].exit_fractions == (0, 1)


def test_samples_that_all_score_alike() -> None:
    held_out = HeldOutScores(np.full((4, 500), 1.0), np.random.default_rng(0).random((4, 500)) < 0.5)
    for point in tradeoff_curve(held_out, GFLOPS, 5):
        assert point.evaluation.mean_cost <= point.budget
        assert max(point.evaluation.exit_fractions) == 1


@pytest.mark.parametrize('score', ['confidence', 'margin', 'entropy'])
@pytest.mark.parametrize('scale', [1e-4, 40.0])
def test_networks_that_are_very_sure_or_hardly_sure(scale: float, score: str) -> None:
    """A factor on all logits leaves what a budget buys nearly as it is: samples that score 1.0, or all alike in float32, are told apart."""
    logits_ESK, labels_S = network_logits(2000, sharpness=(scale,) * 4)
    held_out = HeldOutScores.from_logits(logits_ESK, labels_S, score)
    plain = network_scores(2000)
    for budget in (0.6, 0.9):
        policy, evaluation = BudgetSearch(held_out, GFLOPS).solve(budget)
        assert 0.99 * budget < evaluation.mean_cost <= budget
        assert evaluation.accuracy > BudgetSearch(plain, GFLOPS).solve(budget)[1].accuracy - 0.05
        exit_S, _ = policy.replay(logits_ESK)
        assert tuple((np.bincount(exit_S, minlength=4) / 2000).tolist()) == evaluation.exit_fractions


def test_curves_are_quick() -> None:
    held_out = network_scores(20_000)
    start = time.process_time()
    tradeoff_curve(held_out, GFLOPS, 17)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({}, 'neither gflops nor ms; pass one of them'),
        ({'gflops': (1,)}, r'gflops=\(1,\): pass 2 or more numbers'),
        ({'gflops': (1, 2), 'ms': (1, 2, 3)}, r'ms=\(1, 2, 3\): pass 2 numbers'),
        ({'gflops': (0, 1)}, 'costs are finite numbers above 0'),
        ({'ms': (1, np.inf)}, 'costs are finite numbers above 0'),
        ({'ms': (1, 3, 2)}, r'ms=\(1\.0, 3\.0, 2\.0\) fall at exit 3; pass cumulative costs'),
    ],
)
def test_costs_that_mean_nothing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CostTable(**arguments)


def test_cost_table() -> None:
    held_out = _random(3, 100, 0)
    evaluation = evaluate((0.0, 0.5), held_out, (1, 2, 4))
    table = CostTable(gflops=(1, 2, 4), ms=(1, 1, 2))
    assert (table.gflops, table.ms, table.num_exits) == ((1.0, 2.0, 4.0), (1.0, 1.0, 2.0), 3)
    assert table.saving(evaluation) == 0.75
    assert CostTable(ms=(1, 1, 2)).saving(evaluation) == 0.5
    with pytest.raises(ValueError, match='num_budgets=1: a curve has 2 or more points'):
        tradeoff_curve(held_out, (1, 2, 4), 1)
