"""Accuracy against cost of early exits: the points of a curve, and their table.

Shape suffixes: E exits, S samples.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dynperceiver_runtime import UserError
from dynperceiver_runtime.files import make_folders, open_atomically
from dynperceiver_runtime.policy.exit_policy import ExitPolicy

from .budget import tradeoff_curve
from .held_out_scores import HeldOutScores, evaluate, random_exit_baseline

__all__ = [
    'DYNAMIC',
    'EXIT',
    'MEASURED',
    'RANDOM',
    'STATIC',
    'TradeoffPoints',
    'TradeoffRow',
    'tradeoff_points',
    'wilson_interval',
    'write_tradeoff_csv',
]

EXIT, DYNAMIC, RANDOM, STATIC, MEASURED = 'one exit for all', 'dynamic', 'random exits', 'backbone-only baseline', 'measured'
NORMAL_95 = 1.959963984540054


def wilson_interval(accuracy: float, num_samples: int, z: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's score interval of a fraction.

    Args:
        accuracy: Fraction of right answers, in [0, 1].
        num_samples: Samples that it was taken on.
        z: Quantile of the normal distribution; default for 95 %.

    Raises:
        UserError: If it is no fraction, or there are no samples.
    """
    if not 0 <= accuracy <= 1 or num_samples < 1:
        raise UserError(f'accuracy={accuracy} on {num_samples} samples: pass a fraction from 0 to 1, taken on 1 or more samples')
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
        accuracy: Fraction of right answers on the test samples, in [0, 1].
        low: Lower end of its 95 % interval (Wilson).
        high: Upper end.
        num_samples: Test samples.
        budget: Largest mean cost on the held-out samples that the policy was solved for, or ``None``.
        budget_unit: ``'gflops'`` or ``'ms'``; empty where there is no budget.
        exit_fractions: Fraction of the test samples that leave at each exit.
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
    exit_fractions: tuple[float, ...] = ()
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
        first = {policy.decision_thresholds: number for number, policy in reversed(list(enumerate(self.policies)))}
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

    Beside the curve there are the exits alone, and for each policy the same fractions of the samples leaving at random. With milliseconds
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
        UserError: If scores, exits or costs do not go together, or there are less than two budgets.
    """
    if held_out.num_exits != test.num_exits or (held_out.score, held_out.temperature) != (test.score, test.temperature):
        raise UserError(
            f'held-out samples with {held_out.score} of {held_out.num_exits} exits at temperature {held_out.temperature}, and test samples '
            f'with {test.score} of {test.num_exits} exits at {test.temperature}: take the same network and score for both'
        )
    rows = []
    for k in range(test.num_exits):
        ms = None if cost_ms is None else float(cost_ms[k])
        fractions = tuple(float(exit_index == k) for exit_index in range(test.num_exits))
        accuracy = float(test.correct_ES[k].mean())
        rows.append(TradeoffRow.of(EXIT, f'exit {k + 1}', float(cost_gflops[k]), ms, accuracy, test.num_samples, exit_fractions=fractions))
    curves: dict[str, Sequence[float]] = {'gflops': cost_gflops} if cost_ms is None else {'gflops': cost_gflops, 'ms': cost_ms}
    for unit, costs in curves.items():
        points = tradeoff_curve(held_out, costs, num_budgets)
        for number, point in enumerate(points, 1):
            found = evaluate(point.policy, test, cost_gflops)
            ms = None if cost_ms is None else float(np.asarray(found.exit_fractions) @ np.asarray(cost_ms))
            same: dict[str, Any] = dict(budget=point.budget, budget_unit=unit, exit_fractions=found.exit_fractions)
            label = f'{number} of {num_budgets}'
            rows.append(
                TradeoffRow.of(
                    DYNAMIC, label, found.mean_cost, ms, found.accuracy, test.num_samples, thresholds=point.policy.thresholds, **same
                )
            )
            chance = random_exit_baseline(test, cost_gflops, found.exit_fractions)
            rows.append(TradeoffRow.of(RANDOM, label, chance.mean_cost, ms, chance.accuracy, test.num_samples, **same))
    return TradeoffPoints(
        tuple(rows), tuple(point.policy for point in points), tuple(point.evaluation.accuracy for point in points), list(curves)[-1]
    )


def write_tradeoff_csv(rows: Sequence[TradeoffRow], path: str | os.PathLike[str]) -> None:
    """Write points as CSV, whole or not at all; fractions and thresholds are joined by blanks."""
    make_folders(Path(path).parent)
    with open_atomically(path, 'w', what='table', newline='') as file:
        writer = csv.DictWriter(file, [entry.name for entry in fields(TradeoffRow)])
        writer.writeheader()
        for row in rows:
            cells = {name: ' '.join(map(repr, value)) if isinstance(value, tuple) else value for name, value in asdict(row).items()}
            writer.writerow(cells)
