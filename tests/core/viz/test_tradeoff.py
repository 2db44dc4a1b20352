"""Points, picture and table of accuracy against cost."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model
from inference_scores import GFLOPS, network_logits, network_scores
from torch import nn

from dynperceiver.benchmark.speed import static_trunk_of
from dynperceiver.calibration import evaluate
from dynperceiver.calibration.held_out_logits import HeldOutLogits, SampleForm, collect_logits
from dynperceiver.deployment.fingerprints import fingerprint_of_network
from dynperceiver.viz import TradeoffRow, draw_tradeoff, plot_tradeoff, tradeoff_points, wilson_interval, write_tradeoff_csv
from dynperceiver.viz.tradeoff import DYNAMIC, EXIT, MEASURED, RANDOM, STATIC
from dynperceiver.viz.tradeoff_report import trunk_accuracy

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


def test_wilson_interval_ends_where_the_share_is_two_standard_errors_away() -> None:
    for end in wilson_interval(0.7, 400, z=2.0):
        assert abs(end - 0.7) == pytest.approx(2 * (end * (1 - end) / 400) ** 0.5)


@pytest.mark.parametrize(('accuracy', 'count'), [(-0.1, 5), (1.1, 5), (0.5, 0)])
def test_wilson_interval_needs_a_share(accuracy: float, count: int) -> None:
    with pytest.raises(ValueError, match=r'pass a share from 0 to 1, taken on 1 or more samples'):
        wilson_interval(accuracy, count)


def test_exits_are_judged_on_test_samples(points: Any) -> None:
    rows = _rows(points, EXIT)
    assert [row.label for row in rows] == ['exit 1', 'exit 2', 'exit 3', 'exit 4']
    assert [(row.gflops, row.ms) for row in rows] == list(zip(GFLOPS, MS, strict=True))
    assert [row.accuracy for row in rows] == pytest.approx(TEST.correct_ES.mean(1).tolist())
    assert [row.num_samples for row in rows] == [500] * 4
    assert all((row.low, row.high) == wilson_interval(row.accuracy, 500) and row.low < row.accuracy < row.high for row in rows)
    assert rows[2].exit_shares == (0, 0, 1, 0)


@pytest.mark.parametrize(('unit', 'costs'), [('gflops', GFLOPS), ('ms', MS)])
def test_curve_is_solved_on_held_out_and_judged_on_test_samples(points: Any, unit: str, costs: tuple[float, ...]) -> None:
    rows = _rows(points, DYNAMIC, unit)
    assert len(rows) == 9
    assert [row.budget for row in rows] == pytest.approx(np.linspace(costs[0], costs[-1], 9).tolist())
    for row in rows:
        policy = HELD_OUT.policy(row.thresholds)
        assert evaluate(policy, HELD_OUT, costs).mean_cost <= row.budget + 1e-9
        judged = evaluate(policy, TEST, GFLOPS)
        assert (row.accuracy, row.gflops, row.exit_shares) == (judged.accuracy, pytest.approx(judged.mean_cost), judged.exit_shares)
        assert row.ms == pytest.approx(float(np.dot(row.exit_shares, MS)))


def test_policies_of_the_last_curve_are_kept(points: Any) -> None:
    assert points.budget_unit == 'ms'
    assert [policy.thresholds for policy in points.policies] == [row.thresholds for row in _rows(points, DYNAMIC, 'ms')]
    assert list(points.held_out_accuracies) == [evaluate(policy, HELD_OUT, MS).accuracy for policy in points.policies]


def test_random_exits_have_the_same_shares_and_cost_and_are_worse(points: Any) -> None:
    for chosen, chance in zip(_rows(points, DYNAMIC), _rows(points, RANDOM), strict=True):
        assert chance.exit_shares == chosen.exit_shares and chance.budget == chosen.budget
        assert (chance.gflops, chance.ms) == (pytest.approx(chosen.gflops), chosen.ms)
        assert chance.accuracy == pytest.approx(float(np.dot(chosen.exit_shares, TEST.correct_ES.mean(1))), abs=1e-6)
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
        assert tuple(map(float, line['exit_shares'].split())) == row.exit_shares
    assert lines[0]['budget'] == '' and float(lines[4]['budget']) == GFLOPS[0]


def _figure(monkeypatch: pytest.MonkeyPatch, rows: Any, caption: str = '') -> Any:
    kept = {}
    monkeypatch.setattr('dynperceiver.viz.tradeoff.save_figure', lambda figure, path: kept.update(figure=figure))
    draw_tradeoff(rows, 'unused.png', 'A title', caption)
    return kept['figure']


def test_picture_has_a_panel_per_unit(points: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [TradeoffRow.of(STATIC, STATIC, 0.8, 2.2, 0.6, 500), TradeoffRow.of(MEASURED, '3 of 9', 0.9, 2.9, 0.65, 100)]
    figure = _figure(monkeypatch, [*points.rows, *more], 'below')
    left, right = figure.axes
    assert 'GFLOPs' in left.get_xlabel() and 'milliseconds' in right.get_xlabel() and '%' in left.get_ylabel()
    assert figure.legends[0].get_title().get_text() == 'A title' and figure.get_supxlabel() == 'below'
    for axes, unit in ((left, 'gflops'), (right, 'ms')):
        curve = next(line for line in axes.lines if line.get_label().startswith('dynamic, 9'))
        expected = sorted((getattr(row, unit), 100 * row.accuracy) for row in _rows(points, DYNAMIC, unit))
        assert curve.get_xydata().tolist() == [pytest.approx(pair) for pair in expected]
    names = [set(axes.get_legend_handles_labels()[1]) for axes in (left, right)]
    assert names[1] - names[0] == {'dynamic, run and timed'}
    assert {'one exit for all', 'static trunk', 'same shares at random exits'} <= names[0]


def test_labels_of_exits_do_not_overlap(points: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where the last two exits are alike in cost and accuracy."""
    alike = zip((0.0083, 0.0113, 0.0134, 0.0136), (1.1, 1.6, 2.3, 2.4), (0.687, 0.7, 0.702, 0.702), strict=True)
    close = [TradeoffRow.of(EXIT, f'exit {k}', gflops, ms, accuracy, 4000) for k, (gflops, ms, accuracy) in enumerate(alike, 1)]
    for rows in (points.rows, close):
        figure = _figure(monkeypatch, rows)
        figure.canvas.draw()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            assert len(boxes) == 4
            assert not [1 for i, one in enumerate(boxes) for other in boxes[:i] if one.overlaps(other)]


def test_without_milliseconds_there_is_one_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(_figure(monkeypatch, tradeoff_points(HELD_OUT, TEST, GFLOPS, num_budgets=3).rows).axes) == 1
    with pytest.raises(ValueError, match='there are no points of exits to draw'):
        draw_tradeoff([], 'unused.png', '')


class Images:
    """A data set, its loader, and the data preprocessor of a model, in one."""

    def __init__(self, count: int) -> None:
        self.dataset = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(number)) for number in range(count)]
        self.labels = [number % 5 for number in range(count)]

    def collate_fn(self, images: list[torch.Tensor]) -> dict[str, Any]:
        numbers = [next(i for i, kept in enumerate(self.dataset) if kept is image) for image in images]
        return {'inputs': torch.stack(images), 'data_samples': [{'gt_label': self.labels[number]} for number in numbers]}

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        half = len(self.dataset) // 2
        return iter([self.collate_fn(self.dataset[:half]), self.collate_fn(self.dataset[half:])])


class Classifier(nn.Module):
    """A model around a network."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def data_preprocessor(self, batch: dict[str, Any], training: bool) -> dict[str, Any]:
        assert not training
        return batch


def test_report_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = narrow_model('resnet18', num_classes=5).float().eval()
    model, loader = Classifier(network), Images(24)
    test = collect_logits(model, loader, 'test')
    held_out = replace(test, calibration_set='held out')
    trunk = Classifier(static_trunk_of(network)).eval()
    assert test.form == SampleForm(32, 32, 1)
    text = plot_tradeoff(
        model, loader, held_out, test, tmp_path / 'out' / 'a.png', backend='torch', num_budgets=3, num_crosses=2, num_cross_samples=6,
        batch_sizes=(1, 2), rounds=3, static=trunk, title='narrow',
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.csv', 'a.png']
    with (tmp_path / 'out' / 'a.csv').open(newline='') as file:
        lines = list(csv.DictReader(file))
    (static,) = (line for line in lines if line['series'] == STATIC)
    exit3 = next(line for line in lines if line['label'] == 'exit 3')
    right = (test.logits_ESK[2].argmax(1) == test.labels_S).mean()
    assert float(exit3['accuracy']) == pytest.approx(right) and 0 < float(static['gflops']) < float(exit3['gflops'])
    assert float(static['accuracy']) == trunk_accuracy(trunk, loader)
    crosses = [line for line in lines if line['series'] == MEASURED]
    assert 1 <= len(crosses) <= 2 and {line['num_samples'] for line in crosses} == {'6'}
    assert [float(line['ms']) > 0 for line in crosses] and text.count(' ms measured, ') == len(crosses)
    assert 'exit 4: ' in text and 'Crossover: faster than the ' in text and 'static trunk: ' in text
    assert [line['series'] for line in lines].count(DYNAMIC) == 6
    other = Classifier(static_trunk_of(narrow_model('resnet18', num_classes=7)))
    with pytest.raises(ValueError, match=r'parameters have other shapes than .*pass config and checkpoint of the same CNN'):
        plot_tradeoff(model, loader, held_out, test, tmp_path / 'b.png', backend='torch', static=other)
    larger = replace(held_out, form=SampleForm(64, 64, 1))
    with pytest.raises(ValueError, match=r'held-out samples \(64, 64, 1\) and test samples \(32, 32, 1\) differ'):
        plot_tradeoff(model, loader, larger, test, tmp_path / 'b.png', backend='torch')


def test_crosses_are_of_the_samples_that_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are made up: 1 ms at exit 1 to 4 ms at exit 4; samples that ran are those that accuracy is taken on."""
    import dynperceiver.viz.tradeoff_report as report

    logits_ESK, labels_S = network_logits(40, num_classes=5, seed=4)
    network = narrow_model('resnet18', num_classes=5).float().eval()
    logits = HeldOutLogits(logits_ESK, labels_S, SampleForm(32, 32, 1), fingerprint_of_network(network), 'x', 'torch')
    loader, seen = Images(40), []

    def fake_times(runner: Any, samples: Any, policies: Any) -> Any:
        seen.extend(samples)
        exits = np.stack([np.arange(len(samples)) % 4 for _ in policies])
        return np.full(len(policies), 2.5), exits

    def fake_speed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        rows = [dict(name=f'exit {k}', batch_size=1, ms=float(k)) for k in (1, 2, 3, 4)]
        return dict(rows=rows, gmacs={}, machine='a machine', crossovers={'torch': ['faster than X']})

    monkeypatch.setattr(report, 'time_policies', fake_times)
    monkeypatch.setattr(report, 'measure_speed', fake_speed)
    rows: list[TradeoffRow] = []
    monkeypatch.setattr(report, 'draw_tradeoff', lambda given, *rest: rows.extend(given))
    text = plot_tradeoff(
        Classifier(network), loader, logits, logits, tmp_path / 'a.png', backend='torch', num_budgets=5, num_crosses=1, num_cross_samples=4
    )
    (cross,) = [row for row in rows if row.series == MEASURED]
    index_S = np.array([0, 13, 26, 39])
    assert all(torch.equal(image[0], loader.dataset[number]) for image, number in zip(seen, index_S, strict=True))
    answers = [logits_ESK[k, number].argmax() == labels_S[number] for k, number in enumerate(index_S)]
    assert (cross.accuracy, cross.ms, cross.exit_shares) == (np.mean(answers), 2.5, (0.25,) * 4)
    assert '2.500 ms measured, 2.500 ms by the exits (1.00)' in text and 'a machine' in text and 'faster than X' in text


def test_static_trunk_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match='there are no samples to judge the static trunk on'):
        trunk_accuracy(Classifier(nn.Identity()), [])
