"""Points and table of accuracy against cost."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference_scores import GFLOPS, network_scores

from dynperceiver.calibration import evaluate
from dynperceiver.calibration.tradeoff import DYNAMIC, EXIT, RANDOM, TradeoffRow, tradeoff_points, wilson_interval, write_tradeoff_csv
from dynperceiver_runtime import ExitPolicy

MS = (2.0, 3.5, 3.8, 4.0)
HELD_OUT, TEST = network_scores(400, seed=1), network_scores(500, seed=2)


@pytest.fixture(scope='module')
def points() -> Any:
    """Curves of nine budgets in GFLOPs and in milliseconds."""
    return tradeoff_points(HELD_OUT, TEST, GFLOPS, MS, num_budgets=9)


def _rows(points: Any, series: str, unit: str | None = None) -> list[TradeoffRow]:
    return [row for row in points.rows if row.series == series and (unit is None or row.budget_unit == unit)]


@pytest.mark.parametrize(
    ('accuracy', 'count', 'low', 'high'),
    [(0.5, 100, 0.403832, 0.596168), (0.0, 10, 0.0, 0.277533), (1.0, 10, 0.722467, 1.0)],
)
def test_wilson_interval(accuracy: float, count: int, low: float, high: float) -> None:
    assert wilson_interval(accuracy, count) == (pytest.approx(low, abs=2e-6), pytest.approx(high, abs=2e-6))


def test_wilson_interval_ends_where_the_fraction_is_two_standard_errors_away() -> None:
    for end in wilson_interval(0.7, 400, z=2.0):
        assert abs(end - 0.7) == pytest.approx(2 * (end * (1 - end) / 400) ** 0.5)


@pytest.mark.parametrize(('accuracy', 'count'), [(-0.1, 5), (1.1, 5), (0.5, 0)])
def test_wilson_interval_needs_a_fraction(accuracy: float, count: int) -> None:
    with pytest.raises(ValueError, match=r'pass a fraction from 0 to 1, taken on 1 or more samples'):
        wilson_interval(accuracy, count)


def test_exits_are_judged_on_test_samples(points: Any) -> None:
    rows = _rows(points, EXIT)
    assert [row.label for row in rows] == ['exit 1', 'exit 2', 'exit 3', 'exit 4']
    assert [(row.gflops, row.ms) for row in rows] == list(zip(GFLOPS, MS, strict=True))
    assert [row.accuracy for row in rows] == pytest.approx(TEST.correct_ES.mean(1).tolist())
    assert [row.num_samples for row in rows] == [500] * 4
    assert all((row.low, row.high) == wilson_interval(row.accuracy, 500) and row.low < row.accuracy < row.high for row in rows)
    assert rows[2].exit_fractions == (0, 0, 1, 0)


@pytest.mark.parametrize(('unit', 'costs'), [('gflops', GFLOPS), ('ms', MS)])
def test_curve_is_solved_on_held_out_and_judged_on_test_samples(points: Any, unit: str, costs: tuple[float, ...]) -> None:
    rows = _rows(points, DYNAMIC, unit)
    assert len(rows) == 9
    assert [row.budget for row in rows] == pytest.approx(np.linspace(costs[0], costs[-1], 9).tolist())
    for row in rows:
        policy = HELD_OUT.policy(row.thresholds)
        assert evaluate(policy, HELD_OUT, costs).mean_cost <= row.budget + 1e-9
        judged = evaluate(policy, TEST, GFLOPS)
        assert (row.accuracy, row.gflops, row.exit_fractions) == (judged.accuracy, pytest.approx(judged.mean_cost), judged.exit_fractions)
        assert row.ms == pytest.approx(float(np.dot(row.exit_fractions, MS)))


def test_policies_of_the_last_curve_are_kept(points: Any) -> None:
    assert points.budget_unit == 'ms'
    assert [policy.thresholds for policy in points.policies] == [row.thresholds for row in _rows(points, DYNAMIC, 'ms')]
    assert list(points.held_out_accuracies) == [evaluate(policy, HELD_OUT, MS).accuracy for policy in points.policies]


def test_random_exits_have_the_same_fractions_and_cost_and_are_worse(points: Any) -> None:
    for chosen, chance in zip(_rows(points, DYNAMIC), _rows(points, RANDOM), strict=True):
        assert chance.exit_fractions == chosen.exit_fractions and chance.budget == chosen.budget
        assert (chance.gflops, chance.ms) == (pytest.approx(chosen.gflops), chosen.ms)
        assert chance.accuracy == pytest.approx(float(np.dot(chosen.exit_fractions, TEST.correct_ES.mean(1))), abs=1e-6)
    inner = list(zip(_rows(points, DYNAMIC), _rows(points, RANDOM), strict=True))[2:6]
    assert all(chosen.accuracy > chance.accuracy for chosen, chance in inner)


def test_without_milliseconds_there_is_one_curve() -> None:
    points = tradeoff_points(HELD_OUT, TEST, GFLOPS, num_budgets=3)
    assert points.budget_unit == 'gflops' and {row.budget_unit for row in points.rows} == {'', 'gflops'}
    assert all(row.ms is None for row in points.rows) and len(points.rows) == 4 + 2 * 3


def test_scores_must_be_alike() -> None:
    other = replace(TEST, score='margin')
    with pytest.raises(ValueError, match=r'held-out samples with confidence of 4 .* test samples with margin .*same network and score'):
        tradeoff_points(HELD_OUT, other, GFLOPS)


def test_choice_of_policies(points: Any) -> None:
    chosen = points.spread(3)
    assert len({points.policies[number].thresholds for number in chosen}) == 3
    assert chosen == sorted(chosen) and chosen[0] == 0
    same = replace(points, policies=points.policies[:1] * 9)
    assert same.spread(4) == [0] and points.spread(0) == []
    sure = replace(points, policies=tuple(ExitPolicy((1.0,), log_odds=(log_odds,)) for log_odds in (20.0, 20.0, 30.0)))
    assert sure.spread(4) == [0, 2], 'thresholds that look alike are not'
    accuracies = replace(points, held_out_accuracies=(0.5, 0.6, 0.694, 0.695, 0.7, 0.7, 0.69, 0.7, 0.7))
    assert accuracies.nearly_full(0.7) == 3
    assert accuracies.nearly_full(0.7, drop=0.1) == 1
    assert accuracies.nearly_full(0.99) == 8


def test_table_holds_every_point(points: Any, tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'points.csv'
    write_tradeoff_csv(points.rows, path)
    assert [entry.name for entry in path.parent.iterdir()] == ['points.csv']
    with path.open(newline='') as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(points.rows)
    for line, row in zip(lines, points.rows, strict=True):
        assert (line['series'], float(line['accuracy']), float(line['gflops']), float(line['ms'])) == (
            row.series, row.accuracy, row.gflops, row.ms,
        )  # fmt: skip
        assert tuple(map(float, line['thresholds'].split())) == row.thresholds
        assert tuple(map(float, line['exit_fractions'].split())) == row.exit_fractions
    assert lines[0]['budget'] == '' and float(lines[4]['budget']) == GFLOPS[0]
