"""What a policy does on held-out samples, as a table.

Shape suffixes: E exits, S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dynperceiver_runtime import UserError
from dynperceiver_runtime.policy.exit_policy import ExitPolicy

from .exit_fractions import wanted_counts

__all__ = ['goal_in_words', 'policy_table']


def goal_in_words(solved_for: dict[str, Any]) -> str:
    """The goal of a policy's record."""
    name, value = next(iter(solved_for.items()))
    if name == 'exit_fractions':
        return f'fractions {" / ".join(f"{fraction:g}" for fraction in value)} at the exits'
    if name == 'max_accuracy_drop':
        return f'at most {100 * value:g} points lost, promised with probability {solved_for["confidence_level"]:g}'
    return f'at most {value:g} {"GFLOPs" if name == "budget_gflops" else "ms"} per sample on average'


def policy_table(policy: ExitPolicy, logits_ESK: np.ndarray | Sequence[np.ndarray], labels_S: np.ndarray) -> str:
    """Thresholds, fractions, accuracies and costs per exit, with the whole network below; for people, who count exits from 1.

    Where samples that tie make the asked fractions impossible, lines at the end say so.

    Args:
        policy: A policy with a record; see :func:`~dynperceiver.calibration.calibrate.calibrate`.
        logits_ESK: Logits of all exits for the samples that it was solved on.
        labels_S: Their class numbers.

    Raises:
        UserError: If the policy has no record.
    """
    record = policy.record
    if record is None:
        raise UserError('the policy has no record, and so no goal to report on; make it with calibrate')
    exit_S, _ = policy.replay(logits_ESK)
    right_ES = np.stack([np.asarray(logits_SK).argmax(1) == labels_S for logits_SK in logits_ESK])
    units = [(unit, costs) for unit, costs in (('GFLOPs', record.cost_gflops), ('ms', record.cost_ms)) if costs is not None]
    warm = any(temperature != 1 for temperature in policy.temperatures)
    temperatures = ' / '.join(f'{temperature:.3g}' for temperature in policy.temperatures)
    decision = policy.score + (f' at temperatures {temperatures}' if warm else '')
    lines = [f'{record.num_samples} held-out samples; {goal_in_words(record.solved_for)}; by {decision}']
    lines.append(_row('exit', 'threshold', 'fraction', 'accuracy', [unit for unit, _ in units]))
    for exit_index in range(policy.num_exits):
        leaves_S = exit_S == exit_index
        last = exit_index == policy.num_exits - 1
        threshold = 'the rest' if last else policy.threshold_in_words(exit_index)
        accuracy = f'{right_ES[exit_index, leaves_S].mean():.2%}' if leaves_S.any() else '-'
        costs = [f'{cost[exit_index]:.4g}' for _, cost in units]
        lines.append(_row(str(exit_index + 1), threshold, f'{leaves_S.mean():.1%}', accuracy, costs))
    right_S = right_ES[exit_S, np.arange(len(exit_S))]
    means = [f'{np.asarray(cost)[exit_S].mean():.4g}' for _, cost in units]
    lines.append(_row('policy', '', '', f'{right_S.mean():.2%}', means))
    lines.append(_row('full', '', '', f'{right_ES[-1].mean():.2%}', [f'{cost[-1]:.4g}' for _, cost in units]))
    saved = [f'{1 - np.asarray(cost)[exit_S].mean() / cost[-1]:.1%} of the {unit}' for unit, cost in units]
    points = 100 * (right_S.mean() - right_ES[-1].mean())
    lines.append(f'beside the full network: {points:+.2f} points of accuracy' + (f', {" and ".join(saved)} saved' if saved else ''))
    if 'exit_fractions' in record.solved_for:
        lines += _missed_fractions(policy, exit_S, logits_ESK, record.solved_for['exit_fractions'])
    return '\n'.join(lines)


def _missed_fractions(
    policy: ExitPolicy, exit_S: np.ndarray, logits_ESK: np.ndarray | Sequence[np.ndarray], asked: Sequence[float]
) -> list[str]:
    """A line for each exit at which other than the asked number of samples leaves."""
    lines = []
    for exit_index, count in enumerate(wanted_counts(asked, policy.num_exits, len(exit_S))[:-1].tolist()):
        leaves_S, waiting_S = exit_S == exit_index, exit_S >= exit_index
        reached = int(leaves_S.sum())
        if reached == count:
            continue
        if waiting_S.sum() < count:
            reason = f'{int(waiting_S.sum())} samples were left'
        else:
            score_S = policy.decision_scores(exit_index, np.asarray(logits_ESK[exit_index])[leaves_S])
            reason = f'{int((score_S == score_S.min(initial=np.inf)).sum())} samples tie at the threshold'
        lines.append(f'exit {exit_index + 1}: {reason}; asked {asked[exit_index]:.4g}, reached {reached / len(exit_S):.4g}')
    return lines


def _row(name: str, threshold: str, fraction: str, accuracy: str, costs: Sequence[str]) -> str:
    return f'{name:>8}  {threshold:>9}  {fraction:>8}  {accuracy:>8}' + ''.join(f'  {cost:>9}' for cost in costs)
