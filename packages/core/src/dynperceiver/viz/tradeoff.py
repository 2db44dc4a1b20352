"""Accuracy against cost of early exits: the points of a curve, the picture, and the table behind it.

Shape suffixes: E exits, S samples.
"""

from __future__ import annotations

import csv
import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dynperceiver_runtime import UserError
from dynperceiver_runtime.policy.exit_policy import ExitPolicy

from ..calibration import HeldOutScores, evaluate, random_exit_baseline, tradeoff_curve
from .files import load_pyplot, save_figure

__all__ = [
    'DYNAMIC',
    'EXIT',
    'MEASURED',
    'RANDOM',
    'STATIC',
    'TradeoffPoints',
    'TradeoffRow',
    'draw_tradeoff',
    'tradeoff_points',
    'wilson_interval',
    'write_tradeoff_csv',
]

EXIT, DYNAMIC, RANDOM, STATIC, MEASURED = 'one exit for all', 'dynamic', 'random exits', 'static trunk', 'measured'
UNITS = {'gflops': 'GFLOPs', 'ms': 'ms'}
NORMAL_95 = 1.959963984540054
CAPTION_WIDTH = 180  # letters
COLOURS = {EXIT: '#000000', DYNAMIC: '#0072b2', RANDOM: '#e69f00', STATIC: '#009e73', MEASURED: '#d55e00'}  # told apart by all eyes


def wilson_interval(accuracy: float, num_samples: int, z: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Args:
        accuracy: Share of right answers, in [0, 1].
        num_samples: Samples that it was taken on.
        z: Quantile of the normal distribution; default for 95 %.

    Raises:
        ValueError: If it is no share, or there are no samples.
    """
    if not 0 <= accuracy <= 1 or num_samples < 1:
        raise ValueError(f'accuracy={accuracy} on {num_samples} samples: pass a share from 0 to 1, taken on 1 or more samples')
    scale = 1 + z * z / num_samples
    middle = (accuracy + z * z / (2 * num_samples)) / scale
    half = z * math.sqrt(accuracy * (1 - accuracy) / num_samples + z * z / (4 * num_samples**2)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class TradeoffRow:
    """A point of the picture.

    Attributes:
        series: What it belongs to: one of the names of this module.
        label: Its name in the series, for example ``exit 1``.
        gflops: Mean GFLOPs per sample (1 MAC = 1 FLOP).
        ms: Mean milliseconds per sample, or ``None``.
        accuracy: Share of right answers on the test samples, in [0, 1].
        low: Lower end of its 95 % interval (Wilson).
        high: Upper end.
        num_samples: Test samples.
        budget: Largest mean cost on the held-out samples that the policy was solved for, or ``None``.
        budget_unit: ``'gflops'`` or ``'ms'``; empty where there is no budget.
        exit_shares: Share of the test samples that leave at each exit.
        thresholds: Of the policy; empty where there is none.
    """

    series: str
    label: str
    gflops: float
    ms: float | None
    accuracy: float
    low: float
    high: float
    num_samples: int
    budget: float | None = None
    budget_unit: str = ''
    exit_shares: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()

    @classmethod
    def of(cls, series: str, label: str, gflops: float, ms: float | None, accuracy: float, num_samples: int, **more: Any) -> TradeoffRow:
        """A point with its interval."""
        return cls(series, label, gflops, ms, accuracy, *wilson_interval(accuracy, num_samples), num_samples, **more)


@dataclass(frozen=True)
class TradeoffPoints:
    """A curve.

    Attributes:
        rows: The points of all series.
        policies: Those of the budgets, as the dynamic rows have them.
        held_out_accuracies: What each of them does on the samples that it was solved on.
        budget_unit: Unit of the budgets of these policies.
    """

    rows: tuple[TradeoffRow, ...]
    policies: tuple[ExitPolicy, ...]
    held_out_accuracies: tuple[float, ...]
    budget_unit: str

    def spread(self, count: int) -> list[int]:
        """Numbers of up to ``count`` policies that differ, spread evenly over the budgets; small and large ones have often the same."""
        first = {policy.thresholds: number for number, policy in reversed(list(enumerate(self.policies)))}
        numbers = sorted(first.values())
        return [numbers[place] for place in sorted(set(np.linspace(0, len(numbers) - 1, count).round().astype(int).tolist()))]

    def nearly_full(self, full_accuracy: float, drop: float = 0.005) -> int:
        """Number of the cheapest policy whose held-out accuracy is at most ``drop`` below the full network's."""
        good = [number for number, accuracy in enumerate(self.held_out_accuracies) if accuracy >= full_accuracy - drop - 1e-9]
        return min(good, default=len(self.policies) - 1)


def tradeoff_points(
    held_out: HeldOutScores,
    test: HeldOutScores,
    cost_gflops: Sequence[float],
    cost_ms: Sequence[float] | None = None,
    num_budgets: int = 33,
) -> TradeoffPoints:
    """Solve policies for evenly spaced budgets on held-out samples, and judge them on test samples.

    Beside the curve there are the exits alone, and for each policy the same shares of the samples leaving at random. With milliseconds
    there is a second curve, whose budgets are milliseconds.

    Args:
        held_out: Samples that policies are solved on.
        test: Other samples, that they are judged on.
        cost_gflops: Cumulative GFLOPs per exit.
        cost_ms: Cumulative milliseconds per exit.
        num_budgets: Budgets of a curve.

    Returns:
        The points; the policies are those of the last curve.

    Raises:
        ValueError: If scores, exits or costs do not go together, or there are less than two budgets.
    """
    if held_out.num_exits != test.num_exits or (held_out.score, held_out.temperature) != (test.score, test.temperature):
        raise UserError(
            f'held-out samples with {held_out.score} of {held_out.num_exits} exits at temperature {held_out.temperature}, and test samples '
            f'with {test.score} of {test.num_exits} exits at {test.temperature}: take the same network and score for both'
        )
    rows = []
    for k in range(test.num_exits):
        ms = None if cost_ms is None else float(cost_ms[k])
        shares = tuple(float(exit_index == k) for exit_index in range(test.num_exits))
        accuracy = float(test.correct_ES[k].mean())
        rows.append(TradeoffRow.of(EXIT, f'exit {k + 1}', float(cost_gflops[k]), ms, accuracy, test.num_samples, exit_shares=shares))
    curves: dict[str, Sequence[float]] = {'gflops': cost_gflops} if cost_ms is None else {'gflops': cost_gflops, 'ms': cost_ms}
    for unit, costs in curves.items():
        points = tradeoff_curve(held_out, costs, num_budgets)
        for number, point in enumerate(points, 1):
            found = evaluate(point.policy, test, cost_gflops)
            ms = None if cost_ms is None else float(np.asarray(found.exit_shares) @ np.asarray(cost_ms))
            same: dict[str, Any] = dict(budget=point.budget, budget_unit=unit, exit_shares=found.exit_shares)
            label = f'{number} of {num_budgets}'
            rows.append(
                TradeoffRow.of(
                    DYNAMIC, label, found.mean_cost, ms, found.accuracy, test.num_samples, thresholds=point.policy.thresholds, **same
                )
            )
            chance = random_exit_baseline(test, cost_gflops, found.exit_shares)
            rows.append(TradeoffRow.of(RANDOM, label, chance.mean_cost, ms, chance.accuracy, test.num_samples, **same))
    return TradeoffPoints(
        tuple(rows), tuple(point.policy for point in points), tuple(point.evaluation.accuracy for point in points), list(curves)[-1]
    )


def write_tradeoff_csv(rows: Sequence[TradeoffRow], path: str | os.PathLike[str]) -> None:
    """Write points as CSV, whole or not at all; shares and thresholds are joined by blanks."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.partial-{path.name}')
    with partial.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, [entry.name for entry in fields(TradeoffRow)])
        writer.writeheader()
        for row in rows:
            cells = {name: ' '.join(map(repr, value)) if isinstance(value, tuple) else value for name, value in asdict(row).items()}
            writer.writerow(cells)
    os.replace(partial, path)


def _panel(axes: Any, rows: Sequence[TradeoffRow], unit: str) -> None:
    def points(series: str) -> list[tuple[float, TradeoffRow]]:
        own = [(getattr(row, unit), row) for row in rows if row.series == series and row.budget_unit in ('', unit)]
        return sorted((pair for pair in own if pair[0] is not None), key=lambda pair: pair[0])

    for series, style, width in ((RANDOM, '--', 1.5), (DYNAMIC, '-', 2.2)):
        curve = points(series)
        if curve:
            costs = [cost for cost, _ in curve]
            label = f'dynamic, {len(curve)} budgets' if series == DYNAMIC else 'same shares at random exits'
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
        rows: Points of :func:`tradeoff_points`, with those of the static trunk and of measurements added.
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
