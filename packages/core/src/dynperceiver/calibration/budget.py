"""The best policy for a budget: costs per exit, and the search.

Shape suffixes: E exits, J exits but the last, S samples, G policies of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynperceiver_runtime import UserError
from dynperceiver_runtime.policy.exit_policy import ExitPolicy
from dynperceiver_runtime.policy.exit_rule import first_exit, num_reached, num_reaching, reaches

from .exit_fractions import solve_thresholds
from .held_out_scores import Evaluation, HeldOutScores, check_costs, evaluate_exits

__all__ = ['BudgetSearch', 'CostTable', 'TradeoffPoint', 'tradeoff_curve']

GRID_POLICIES = 2**18
MIN_LEVELS = 4  # per exit, where the grid has room for them
SAMPLES_PER_LEVEL = 16  # a grid that is finer than the samples tells nothing
COARSE_BUDGETS = (0.75, 0.5, 0.25)  # of the budget above exit 1's cost, for geometric fractions in the place of a fine grid
MAX_SWEEPS = 6
BISECTIONS = 24
ROUNDING = 1e-12  # of sums of costs, relative
LARGEST_LOG_RATIO = 12.0  # of successive fractions of the geometric family


@dataclass(frozen=True)
class CostTable:
    """What a sample costs that leaves at an exit, all segments up to it included.

    Attributes:
        gflops: GFLOPs per exit (1 MAC = 1 FLOP), or ``None``.
        ms: Milliseconds per exit, or ``None``.
        machine: Where the milliseconds were taken, or ``None``.

    Raises:
        UserError: If there is neither, they are for different numbers of exits, one is not positive and finite, or they fall.
    """

    gflops: tuple[float, ...] | None = None
    ms: tuple[float, ...] | None = None
    machine: str | None = None

    def __post_init__(self) -> None:
        if self.gflops is None and self.ms is None:
            raise UserError('CostTable has neither gflops nor ms; pass one of them, or both')
        if self.gflops is not None:
            object.__setattr__(self, 'gflops', check_costs(self.gflops, name='gflops'))
        if self.ms is not None:
            object.__setattr__(self, 'ms', check_costs(self.ms, None if self.gflops is None else len(self.gflops), 'ms'))

    @property
    def num_exits(self) -> int:
        """Number of exits, the last included."""
        return len(self.gflops or self.ms or ())

    def saving(self, evaluation: Evaluation) -> float:
        """Fraction of the full network's cost that is saved where samples leave as in ``evaluation``; in GFLOPs, if they are known."""
        cost_E = np.asarray(self.gflops or self.ms)
        return 1 - float(np.asarray(evaluation.exit_fractions) @ cost_E) / float(cost_E[-1])


@dataclass(frozen=True)
class TradeoffPoint:
    """The best policy for one budget.

    Attributes:
        budget: Largest mean cost.
        policy: The policy.
        evaluation: What it does on the held-out samples.
    """

    budget: float
    policy: ExitPolicy
    evaluation: Evaluation


def _num_levels(num_early: int, num_samples: int) -> int:
    """Thresholds per exit of a grid of at most :data:`GRID_POLICIES`, those for all and for nobody included; below 2 there is no grid."""
    return min(int(GRID_POLICIES ** (1 / num_early) + 1e-9), max(MIN_LEVELS, num_samples // SAMPLES_PER_LEVEL + 2))


class BudgetSearch:
    """Search of the thresholds with the highest held-out accuracy at a mean cost within a budget.

    All combinations of some quantiles of each exit's scores are tried at once, by cumulative sums over a histogram of the samples. From the
    best of them, and from the best of the family of geometric exit fractions p_k ~ q^k, one threshold after the other is set to the best
    among all samples' scores, as long as that helps. So no policy is worse on the held-out samples than the best geometric fractions. Where
    accuracies are equal, the cheaper policy is taken; a large budget is not spent where spending it gains nothing.

    The grid is coarser the more exits there are; for 20 exits and more there is none.

    Thresholds are log-odds in here: those of a sample, ``-inf`` where all leave, or ``inf`` where nobody does.

    Args:
        held_out: The samples.
        costs: Cumulative cost per exit, in any unit.

    Raises:
        UserError: If the costs do not fit.
    """

    def __init__(self, held_out: HeldOutScores, costs: Sequence[float] | np.ndarray) -> None:
        self.held_out = held_out
        self.costs = check_costs(costs, held_out.num_exits)
        self._log_odds_ES = held_out.decision_scores
        self._order_JS = np.argsort(-self._log_odds_ES[:-1], axis=1, kind='stable')
        self._falling_JS = np.take_along_axis(self._log_odds_ES[:-1], self._order_JS, 1)
        self._evaluations: dict[bytes, Evaluation] = {}
        self._fill_grid()

    def _fill_grid(self) -> None:
        """Thresholds of the grid's policies that are cheaper than all that are as accurate, by rising cost and accuracy."""
        num_early, num_samples = self.held_out.num_exits - 1, self.held_out.num_samples
        num_levels = _num_levels(num_early, num_samples)
        self._is_coarse = num_levels < MIN_LEVELS
        if num_levels < 2:
            self._grid_cost_G, self._grid_threshold_GJ = np.empty(0), np.empty((0, num_early))
            return
        pick_L = np.linspace(0, num_samples - 1, num_levels - 2).round().astype(np.int64)
        if num_levels == 3:
            pick_L = np.array([(num_samples - 1) // 2])
        levels = [np.unique([-np.inf, *falling_S[pick_L].tolist(), np.inf]) for falling_S in self._falling_JS]
        reached = [num_reached(log_odds_S, level) - 1 for level, log_odds_S in zip(levels, self._log_odds_ES[:-1], strict=True)]
        shape = tuple(map(len, levels))
        right = np.zeros(shape)
        cost = np.zeros(shape)
        for k, exit_cost in enumerate(self.costs):
            depth = min(k + 1, num_early)
            cell_S = np.ravel_multi_index(tuple(reached[:depth]), shape[:depth])
            size = int(np.prod(shape[:depth]))
            for total, weight_S, scale in ((right, self.held_out.correct_ES[k].astype(np.float64), 1.0), (cost, None, exit_cost)):
                mass = np.bincount(cell_S, weight_S, size).reshape(shape[:depth]).astype(np.float64)
                for axis in range(min(k, num_early)):
                    mass = np.cumsum(mass, axis) - mass
                if k < num_early:
                    mass = np.flip(np.cumsum(np.flip(mass, k), k), k)
                total += scale * mass.reshape(mass.shape + (1,) * (num_early - depth))
        self._keep_frontier(levels, right.reshape(-1), cost.reshape(-1) / num_samples)

    def _keep_frontier(self, levels: list[np.ndarray], right_G: np.ndarray, cost_G: np.ndarray) -> None:
        order_G = np.lexsort((-right_G, cost_G))
        right_G = right_G[order_G].round()
        best_G = np.concatenate([[True], right_G[1:] > np.maximum.accumulate(right_G)[:-1]])
        self._grid_cost_G = cost_G[order_G][best_G]
        index = np.unravel_index(order_G[best_G], tuple(map(len, levels)))
        self._grid_threshold_GJ = np.stack([level[index_G] for level, index_G in zip(levels, index, strict=True)], 1)

    def _check_budget(self, budget: float, unit: str) -> None:
        if not np.isfinite(budget):
            raise UserError(f'a budget of {budget}: budgets are finite; the full network costs {self.costs[-1]:.6g}{unit} per sample')
        if budget < self.costs[0]:
            raise UserError(
                f'a budget of {budget:.6g}{unit} is below the cost of exit 1, {self.costs[0]:.6g}{unit}, and every sample pays that. '
                f'Take a budget from {self.costs[0]:.6g} to {self.costs[-1]:.6g}{unit} (the full network), or a smaller network'
            )

    def solve(self, budget: float, unit: str = '', refine: bool = True) -> tuple[ExitPolicy, Evaluation]:
        """The best policy whose mean cost on the held-out samples does not exceed a budget.

        Args:
            budget: Largest mean cost, in the unit of the costs.
            unit: Name of the unit, with a space before it, for messages.
            refine: Whether to go on from the best policies of grid and family; without, those of neighbouring budgets are more alike.

        Returns:
            The policy, and what it does on the held-out samples.

        Raises:
            UserError: If the budget is below the cost of exit 1.
        """
        threshold_J, evaluation = self.find_thresholds(budget, unit, refine)
        return self.held_out.solved_policy(threshold_J), evaluation

    def find_thresholds(self, budget: float, unit: str = '', refine: bool = True) -> tuple[np.ndarray, Evaluation]:
        """As :meth:`solve`, with log-odds in place of the policy, one per exit but the last."""
        self._check_budget(budget, unit)
        starts = [np.full(self.held_out.num_exits - 1, -np.inf)]  # all leave at exit 1
        last = int(np.searchsorted(self._grid_cost_G, budget, side='right')) - 1
        if last >= 0:
            starts.append(self._grid_threshold_GJ[last])
        if refine or self._is_coarse:
            starts.append(self._geometric(budget))
        if self._is_coarse:
            span = min(budget, self.costs[-1]) - self.costs[0]
            starts += [self._geometric(self.costs[0] + part * span) for part in COARSE_BUDGETS]
        if refine:
            starts += [self._refine(start_J, budget) for start_J in starts[1:]]
        solved = [(start_J, self._evaluate(start_J)) for start_J in starts]
        fitting = [(start_J, evaluation) for start_J, evaluation in solved if evaluation.mean_cost <= budget]
        return max(fitting, key=lambda entry: (entry[1].accuracy, -entry[1].mean_cost))

    def _evaluate(self, threshold_J: np.ndarray) -> Evaluation:
        """What the same few policies of the grid do is asked for many budgets."""
        key = threshold_J.tobytes()
        if key not in self._evaluations:
            self._evaluations[key] = evaluate_exits(first_exit(self._log_odds_ES, threshold_J), self.held_out, self.costs)
        return self._evaluations[key]

    def geometric_policy(self, budget: float) -> ExitPolicy:
        """The best policy of the family of geometric exit fractions for a budget, for comparison."""
        self._check_budget(budget, '')
        return self.held_out.solved_policy(self._geometric(budget))

    def _geometric(self, budget: float) -> np.ndarray:
        """Thresholds for fractions p_k ~ q^k with the largest q whose mean cost is within the budget."""
        low, high = -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO
        best_J = np.full(self.held_out.num_exits - 1, -np.inf)
        for step in range(BISECTIONS):
            log_ratio = (low + high) / 2 if step else high
            weight_E = np.exp(log_ratio * np.arange(self.held_out.num_exits) - max(0.0, log_ratio * (self.held_out.num_exits - 1)))
            threshold_J = solve_thresholds(self._log_odds_ES, weight_E / weight_E.sum(), self._order_JS)[:-1]
            if self._mean_cost(threshold_J) <= budget:
                best_J, low = threshold_J, log_ratio
                if step == 0:
                    break
            else:
                high = log_ratio
        return best_J

    def _mean_cost(self, threshold_J: np.ndarray) -> float:
        waiting_S = np.ones(self.held_out.num_samples, bool)
        num_waiting = [self.held_out.num_samples]
        for k, threshold in enumerate(threshold_J):
            waiting_S &= ~reaches(self._log_odds_ES[k], threshold)
            num_waiting.append(int(np.count_nonzero(waiting_S)))
        fraction_E = -np.diff([*num_waiting, 0]) / self.held_out.num_samples
        return float(fraction_E @ np.asarray(self.costs))

    def _refine(self, threshold_J: np.ndarray, budget: float) -> np.ndarray:
        """Set one threshold after the other to the best one, the others being as they are, until nothing changes."""
        threshold_J = threshold_J.copy()
        leaves_JS = np.stack([reaches(self._log_odds_ES[k], threshold) for k, threshold in enumerate(threshold_J)])
        value = (-1, 0.0)
        for _ in range(MAX_SWEEPS):
            before = value
            for k in range(len(threshold_J)):
                threshold_J[k], value = self._best_threshold(k, leaves_JS, budget * self.held_out.num_samples * (1 - ROUNDING))
                leaves_JS[k] = reaches(self._log_odds_ES[k], threshold_J[k])
            if value == before:
                break
        return threshold_J

    def _best_threshold(self, k: int, leaves_JS: np.ndarray, total_budget: float) -> tuple[float, tuple[int, float]]:
        """The threshold of exit k with most right answers within the budget, and those and minus the cost, both summed over the samples."""
        correct_ES, num_samples = self.held_out.correct_ES, self.held_out.num_samples
        right_S, cost_S = correct_ES[-1].astype(np.int8), np.full(num_samples, self.costs[-1])
        for j in reversed(range(k + 1, len(leaves_JS))):
            right_S = np.where(leaves_JS[j], correct_ES[j], right_S)
            cost_S[leaves_JS[j]] = self.costs[j]
        waiting_S = ~leaves_JS[:k].any(0)
        gain_S = (correct_ES[k].astype(np.int8) - right_S) * waiting_S
        saving_S = (self.costs[k] - cost_S) * waiting_S
        right, cost = int(right_S[waiting_S].sum(dtype=np.int64)), float(cost_S[waiting_S].sum())
        for j in range(k):
            leaves_S = leaves_JS[j] & ~leaves_JS[:j].any(0)
            right += int(np.count_nonzero(correct_ES[j] & leaves_S))
            cost += self.costs[j] * int(np.count_nonzero(leaves_S))
        order_S, falling_S = self._order_JS[k], self._falling_JS[k]
        reach_S = num_reaching(falling_S, falling_S) - 1
        right_S = np.concatenate([[right], right + np.cumsum(gain_S[order_S], dtype=np.int64)[reach_S]])
        cost_S = np.concatenate([[cost], cost + np.cumsum(saving_S[order_S])[reach_S]])
        right_S = np.where(cost_S <= total_budget, right_S, -1)
        best_S = np.flatnonzero(right_S == right_S.max())
        best = int(best_S[cost_S[best_S].argmin()])
        return (np.inf if best == 0 else float(falling_S[best - 1])), (int(right_S[best]), -float(cost_S[best]))


def tradeoff_curve(held_out: HeldOutScores, costs: Sequence[float] | np.ndarray, num_budgets: int = 33) -> list[TradeoffPoint]:
    """The best policies for budgets from the first exit's cost to the last one's.

    Args:
        held_out: The samples.
        costs: Cumulative cost per exit, in any unit.
        num_budgets: Number of budgets, evenly spaced.

    Raises:
        UserError: If the costs do not fit, or there are less than two budgets.
    """
    if num_budgets < 2:
        raise UserError(f'num_budgets={num_budgets}: a curve has 2 or more points; 33 is usual')
    search = BudgetSearch(held_out, costs)
    budgets = np.linspace(search.costs[0], search.costs[-1], num_budgets).tolist()
    return [TradeoffPoint(budget, *search.solve(budget)) for budget in budgets]
