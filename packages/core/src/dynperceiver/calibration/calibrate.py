"""Policies made from held-out samples: for given fractions per exit, for a budget, or for a largest loss of accuracy.

Shape suffixes: E exits, S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dynperceiver_runtime import UserError
from dynperceiver_runtime.policy.exit_policy import ExitPolicy, PolicyRecord

from .budget import BudgetSearch, CostTable
from .exit_fractions import solve_thresholds
from .held_out_scores import HeldOutScores, check_logits_and_labels, evaluate
from .risk_control import control_risk, split_samples
from .temperature import fit_temperature

__all__ = ['calibrate']

GOALS = ('exit_fractions', 'budget_gflops', 'budget_ms', 'max_accuracy_drop')


def _goal(**goals: Any) -> tuple[str, Any]:
    given = [name for name in GOALS if goals[name] is not None]
    if len(given) != 1:
        raise UserError(f'{len(given)} goals given{": " if given else ""}{", ".join(given)}; give exactly one of {", ".join(GOALS)}')
    return given[0], goals[given[0]]


def _costs_of(unit: str, table: CostTable | None) -> tuple[float, ...]:
    costs: tuple[float, ...] | None = None if table is None else getattr(table, unit)
    if costs is None:
        tools = {'gflops': 'count them with tools/get_flops.py', 'ms': 'measure them with tools/benchmark.py on the machine that serves'}
        raise UserError(f'budget_{unit} needs cost_{unit}, what a sample costs that leaves at each exit; {tools[unit]}')
    return costs


def calibrate(
    logits_ESK: np.ndarray | Sequence[np.ndarray],
    labels_S: np.ndarray,
    *,
    exit_fractions: Sequence[float] | None = None,
    budget_gflops: float | None = None,
    budget_ms: float | None = None,
    max_accuracy_drop: float | None = None,
    confidence_level: float = 0.9,
    cost_gflops: Sequence[float] | None = None,
    cost_ms: Sequence[float] | None = None,
    score: str = 'confidence',
    temperature: float | Sequence[float] | str = 1.0,
    checkpoint: str | None = None,
    calibration_set: str | None = None,
    machine: str | None = None,
) -> ExitPolicy:
    """Make a policy from the full network's logits of held-out samples, for exactly one goal.

    The samples must not be those of training, nor those that the accuracy is reported on: thresholds are fitted to them.

    Args:
        logits_ESK: Logits, shape (exits, samples, classes), or a sequence of one array per exit.
        labels_S: Class numbers, shape (samples,).
        exit_fractions: Goal: fraction of the samples to leave at each exit; they sum up to 1. Samples that answer exactly alike leave
            together, so that the fractions may not be met; the record says what was reached. See
            :func:`~dynperceiver.calibration.exit_fractions.solve_thresholds`.
        budget_gflops: Goal: the highest accuracy at a mean cost within so many GFLOPs. At the full network's cost or above, whoever would
            be answered as well earlier still leaves early: the most accurate policy is taken, and of equal ones the cheapest.
        budget_ms: Goal: the same in milliseconds.
        max_accuracy_drop: Goal: the lowest cost at a loss of at most this fraction of the samples on future ones (0.01 is one point),
            promised with ``confidence_level``; see :func:`~dynperceiver.calibration.risk_control.control_risk`. Needs no costs; without,
            every segment counts alike. Where nothing can be promised, nobody leaves early.
        confidence_level: Probability of that promise.
        cost_gflops: Cumulative GFLOPs per exit.
        cost_ms: Cumulative milliseconds per exit.
        score: See :class:`~dynperceiver_runtime.policy.exit_policy.ExitPolicy`.
        temperature: See there; or ``'fit'``, see :func:`~dynperceiver.calibration.temperature.fit_temperature`; for ``max_accuracy_drop``
            it is fitted on the samples that do not test.
        checkpoint: Fingerprint of the weights, for the record.
        calibration_set: Fingerprint of the samples, for the record; default that of the labels.
        machine: Where ``cost_ms`` was taken, for the record.

    Returns:
        The policy with a full record.

    Raises:
        UserError: If there is no or more than one goal, or cannot be reached, or needs costs that are missing; or an input does not fit.
    """
    goal, value = _goal(
        exit_fractions=exit_fractions, budget_gflops=budget_gflops, budget_ms=budget_ms, max_accuracy_drop=max_accuracy_drop
    )
    table = None
    if cost_gflops is not None or cost_ms is not None:
        table = CostTable(_as_tuple(cost_gflops), _as_tuple(cost_ms), machine)
    if goal.startswith('budget_'):
        _costs_of(goal.removeprefix('budget_'), table)
    if isinstance(temperature, str):
        if temperature != 'fit':
            raise UserError(f"temperature={temperature!r}: pass a number, one number per exit, or 'fit'")
        temperature = _fitted(logits_ESK, labels_S, goal)
    held_out = HeldOutScores.from_logits(logits_ESK, labels_S, score, temperature)
    if table is not None and table.num_exits != held_out.num_exits:
        raise UserError(f'costs of {table.num_exits} exits do not go with logits of {held_out.num_exits}; pass one cost per exit')
    policy = _solve(goal, value, held_out, table, confidence_level)
    record = PolicyRecord(
        checkpoint=checkpoint,
        calibration_set=calibration_set or held_out.labels,
        num_samples=held_out.num_samples,
        solved_for={goal: value, **({'confidence_level': confidence_level} if goal == 'max_accuracy_drop' else {})},
        cost_gflops=None if table is None else table.gflops,
        cost_ms=None if table is None else table.ms,
        machine=machine,
        expected=_expected(policy, held_out, table),
    )
    return replace(policy, record=record)


def _fitted(logits_ESK: np.ndarray | Sequence[np.ndarray], labels_S: np.ndarray, goal: str) -> float | tuple[float, ...]:
    """Temperatures that leave the samples of a test untouched."""
    if goal != 'max_accuracy_drop':
        return fit_temperature(logits_ESK, labels_S)
    logits, labels_S = check_logits_and_labels(logits_ESK, labels_S)
    building_S, _ = split_samples(len(labels_S))
    return fit_temperature([logits_SK[building_S] for logits_SK in logits], labels_S[building_S]) if len(building_S) else 1.0


def _solve(goal: str, value: Any, held_out: HeldOutScores, table: CostTable | None, confidence_level: float) -> ExitPolicy:
    if goal == 'exit_fractions':
        return held_out.solved_policy(solve_thresholds(held_out.decision_scores, value)[:-1])
    if goal == 'max_accuracy_drop':
        return control_risk(held_out, _any_costs(table, held_out.num_exits), value, confidence_level).policy
    unit = goal.removeprefix('budget_')
    policy, _ = BudgetSearch(held_out, _costs_of(unit, table)).solve(float(value), ' GFLOPs' if unit == 'gflops' else ' ms')
    return policy


def _as_tuple(costs: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if costs is None else tuple(costs)


def _any_costs(table: CostTable | None, num_exits: int) -> tuple[float, ...]:
    costs = None if table is None else table.gflops or table.ms
    return tuple(float(number) for number in range(1, num_exits + 1)) if costs is None else costs


def _expected(policy: ExitPolicy, held_out: HeldOutScores, table: CostTable | None) -> dict[str, Any]:
    """Figures on the held-out samples, for the record."""
    evaluation = evaluate(policy, held_out, _any_costs(table, held_out.num_exits))
    expected: dict[str, Any] = {
        'accuracy': evaluation.accuracy,
        'full_accuracy': held_out.full_accuracy,
        'exit_fractions': evaluation.exit_fractions,
    }
    for unit in ('gflops', 'ms'):
        costs = None if table is None else getattr(table, unit)
        if costs is not None:
            expected[f'mean_{unit}'] = evaluate(policy, held_out, costs).mean_cost
    return expected
