"""Accuracy against cost, as a picture."""

from __future__ import annotations

from typing import Any

import pytest
from inference_scores import GFLOPS, network_scores

from dynperceiver.calibration.tradeoff import DYNAMIC, EXIT, MEASURED, STATIC, TradeoffRow, tradeoff_points
from dynperceiver.viz import draw_tradeoff

MS = (2.0, 3.5, 3.8, 4.0)
HELD_OUT, TEST = network_scores(400, seed=1), network_scores(500, seed=2)


@pytest.fixture(scope='module')
def points() -> Any:
    """Curves of nine budgets in GFLOPs and in milliseconds."""
    return tradeoff_points(HELD_OUT, TEST, GFLOPS, MS, num_budgets=9)


def _rows(points: Any, series: str, unit: str | None = None) -> list[TradeoffRow]:
    return [row for row in points.rows if row.series == series and (unit is None or row.budget_unit == unit)]


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
    assert {'one exit for all', 'backbone-only baseline', 'same fractions at random exits'} <= names[0]


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
