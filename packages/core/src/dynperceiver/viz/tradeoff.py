"""Accuracy against cost of early exits, as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.tradeoff import DYNAMIC, EXIT, MEASURED, RANDOM, STATIC, TradeoffRow
from .files import load_pyplot, save_figure

__all__ = ['draw_tradeoff']

UNITS = {'gflops': 'GFLOPs', 'ms': 'ms'}
CAPTION_WIDTH = 180  # letters
COLOURS = {EXIT: '#000000', DYNAMIC: '#0072b2', RANDOM: '#e69f00', STATIC: '#009e73', MEASURED: '#d55e00'}  # told apart by all eyes


def _panel(axes: Any, rows: Sequence[TradeoffRow], unit: str) -> None:
    def points(series: str) -> list[tuple[float, TradeoffRow]]:
        own = [(getattr(row, unit), row) for row in rows if row.series == series and row.budget_unit in ('', unit)]
        return sorted((pair for pair in own if pair[0] is not None), key=lambda pair: pair[0])

    for series, style, width in ((RANDOM, '--', 1.5), (DYNAMIC, '-', 2.2)):
        curve = points(series)
        if curve:
            costs = [cost for cost, _ in curve]
            label = f'dynamic, {len(curve)} budgets' if series == DYNAMIC else 'same fractions at random exits'
            axes.plot(costs, [100 * row.accuracy for _, row in curve], style, color=COLOURS[series], linewidth=width, label=label)
            if series == DYNAMIC:
                ends = [100 * row.low for _, row in curve], [100 * row.high for _, row in curve]
                axes.fill_between(costs, *ends, color=COLOURS[series], alpha=0.15, linewidth=0, label='its 95 % interval')
    for series, marker, size in ((EXIT, 's', 6), (STATIC, 'D', 7), (MEASURED, 'x', 9)):
        single = points(series)
        if not single or (series == MEASURED and unit != 'ms'):
            continue
        heights = np.array([100 * row.accuracy for _, row in single])
        spans = [heights - [100 * row.low for _, row in single], [100 * row.high for _, row in single] - heights]
        label = 'dynamic, run and timed' if series == MEASURED else series
        axes.errorbar(
            [cost for cost, _ in single],
            heights,
            None if series == MEASURED else np.maximum(spans, 0),
            fmt=marker,
            color=COLOURS[series],
            markersize=size,
            markeredgewidth=2 if marker == 'x' else 1,
            elinewidth=1,
            capsize=2,
            label=label,
            zorder=4,
        )
    exits = points(EXIT)
    span = max(exits[-1][0] - exits[0][0], 1e-12)
    for number, (cost, row) in enumerate(exits):
        near_next = number + 1 < len(exits) and exits[number + 1][0] - cost < 0.2 * span
        offset, align = ((-8, -8), 'right') if near_next else ((8, -8), 'left')
        axes.annotate(
            row.label, (cost, 100 * row.accuracy), xytext=offset, textcoords='offset points', ha=align, va='top', fontsize=9
        )
    axes.margins(x=0.12)
    axes.set_xlabel('GFLOPs per sample, mean (1 MAC = 1 FLOP)' if unit == 'gflops' else 'milliseconds per sample, mean (batch size 1)')
    axes.grid(alpha=0.3)


def draw_tradeoff(rows: Sequence[TradeoffRow], path: str | Path, title: str, caption: str = '') -> None:
    """Draw accuracy against GFLOPs and, where they are known, against milliseconds, side by side.

    Args:
        rows: Points of :func:`tradeoff_points`, with those of the backbone-only baseline and of measurements added.
        path: Picture to write; the ending says the format.
        title: Title.
        caption: Text below.

    Raises:
        ValueError: If there is no exit among the points.
    """
    if not any(row.series == EXIT for row in rows):
        raise ValueError('there are no points of exits to draw; pass the rows of tradeoff_points')
    units = [unit for unit in UNITS if any(getattr(row, unit) is not None for row in rows)]
    figure, grid = load_pyplot().subplots(
        1, len(units), figsize=(6.2 * len(units), 5.6), layout='constrained', sharey=True, squeeze=False
    )
    for axes, unit in zip(grid[0], units, strict=True):
        _panel(axes, rows, unit)
    grid[0][0].set_ylabel('top-1 accuracy on the test samples (%)')
    names = grid[0][-1].get_legend_handles_labels()
    columns = 6 if len(units) > 1 else 2
    figure.legend(*names, title=title, title_fontsize=12, loc='outside upper center', ncols=columns, fontsize=9, frameon=False)
    lines = [textwrap.fill(line, CAPTION_WIDTH) for line in caption.splitlines()]
    figure.supxlabel('\n'.join(lines), fontsize=8.5, x=0.01, ha='left')
    save_figure(figure, path)
