"""Policies that promise to lose little accuracy on future samples: Learn then Test (Angelopoulos et al., arXiv 2110.01052).

The held-out samples are split at random. The first part builds a family of policies, from the full network to ever cheaper ones; the second
tests, one after the other, whether a policy's loss of accuracy exceeds what is allowed, and stops at the first where that cannot be
excluded (fixed-sequence testing). Since the family does not depend on the samples of the test, and a sequence that stops at its first
failure needs no correction for the number of tests, all accepted policies keep the promise together with the stated confidence.

The family is a ray: on the first part the cheapest policy is searched that loses no more than is allowed there, and the distance of all its
thresholds from 1 is scaled from 0 (nobody leaves) over 1 (that policy) to more. Where a network is so sure that most scores are close to 1,
the distance is that of scores at a temperature at which they are not. In simulations this saved more than the policies that are
best for falling budgets on the first part, which follow its noise, and where the exits' scores are not equally calibrated also more than
one common threshold for all exits, though a common threshold needs no first part.

The promise assumes that held-out and future samples are drawn independently from the same distribution.

Shape suffixes: P policies of the family, J exits but the last, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynperceiver_runtime import UserError
from dynperceiver_runtime.policy.exit_policy import ExitPolicy
from dynperceiver_runtime.policy.exit_rule import first_exit
from dynperceiver_runtime.policy.scores import to_log_odds, to_probability
from dynperceiver_runtime.policy.thresholds import NEVER

from .budget import BudgetSearch
from .held_out_scores import HeldOutScores, check_costs

__all__ = ['RiskControl', 'control_risk', 'drop_p_values', 'split_samples']

FAMILY_FRACTION = 0.3  # of the held-out samples; the rest tests
NUM_BUDGETS = 64  # at which the first part is searched
SCALES = (*np.linspace(0, 1, 33)[:-1].tolist(), *np.geomspace(1, 8, 20).tolist())
USUAL_LOG_ODDS = 3.0  # median of networks that are not too sure: a score of 0.95
LARGEST_STAKE = 0.9  # fraction of the money that a sample can cost at most


@dataclass(frozen=True)
class RiskControl:
    """A policy that keeps a promise, and how it was found.

    Attributes:
        policy: The cheapest accepted policy; where none was accepted, nobody leaves early.
        num_accepted: Accepted policies of the family, the full network not counted.
        num_policies: Policies in the family, the full network not counted.
        p_value: p-value of the hypothesis that ``policy`` loses more than is allowed; 0 for the full network, which loses nothing.
        num_test_samples: Samples that tested.
    """

    policy: ExitPolicy
    num_accepted: int
    num_policies: int
    p_value: float
    num_test_samples: int


def drop_p_values(loss_PS: np.ndarray, max_accuracy_drop: float, confidence_level: float = 0.9) -> np.ndarray:
    """p-values of the hypotheses that policies lose more accuracy than allowed.

    The loss of a sample, D = right(full network) - right(policy), is -1, 0 or 1. A bettor who puts the fraction b of his money on a sample
    multiplies it by 1 + b (max_accuracy_drop - D), which on average is no gain if the mean of D is ``max_accuracy_drop`` or more. So one
    over the most money he ever has is a p-value, at any number of samples (Ville's inequality; Waudby-Smith and Ramdas, arXiv 2010.09686,
    section 4). His stakes follow the variance of the samples before, which is small where D is mostly 0: bounds that know only the range of
    D would need many times the samples.

    Args:
        loss_PS: D per policy and sample, shape (policies, samples), the samples in random order.
        max_accuracy_drop: Largest mean of D, in (0, 1).
        confidence_level: The stakes are made for a test at this level; the p-values hold at any.

    Returns:
        p-values in [0, 1], shape (policies,).
    """
    loss_PS = np.asarray(loss_PS, np.float64)
    num_samples = loss_PS.shape[1]
    count_S = np.arange(1, num_samples + 1)
    mean_PS = np.cumsum(loss_PS, 1) / (count_S + 1)
    variance_PS = (0.25 + np.cumsum((loss_PS - mean_PS) ** 2, 1)) / (count_S + 1)
    known_PS = np.concatenate([np.full((len(loss_PS), 1), 0.25), variance_PS[:, :-1]], 1)  # before the sample is seen
    stake_PS = np.sqrt(2 * np.log(1 / (1 - confidence_level)) / (num_samples * known_PS))
    stake_PS = np.minimum(stake_PS, LARGEST_STAKE / (1 - max_accuracy_drop))
    log_money_P = np.cumsum(np.log1p(stake_PS * (max_accuracy_drop - loss_PS)), 1).max(1)
    return np.asarray(np.exp(-np.maximum(log_money_P, 0)))


def split_samples(num_samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the samples that build the family of policies, and of those that test it, in random order."""
    order_S = np.random.default_rng(seed).permutation(num_samples)
    num_building = int(FAMILY_FRACTION * num_samples)
    return order_S[:num_building], order_S[num_building:]


def _family(building: HeldOutScores, costs: tuple[float, ...], max_accuracy_drop: float) -> np.ndarray:
    """Log-odds of policies along the ray from nobody leaves through the cheapest one that loses no more than allowed, shape (P, J)."""
    search = BudgetSearch(building, costs)
    solved = [search.find_thresholds(budget, refine=False) for budget in np.linspace(costs[0], costs[-1], NUM_BUDGETS).tolist()]
    least = building.full_accuracy - max_accuracy_drop
    log_odds_J, _ = min((entry for entry in solved if entry[1].accuracy >= least), key=lambda entry: entry[1].mean_cost)
    if np.isposinf(log_odds_J).all():  # nobody leaves: a common threshold
        log_odds_J = np.full(len(log_odds_J), -np.inf)
    spread = max(1.0, float(np.median(np.abs(building.decision_scores[:-1]))) / USUAL_LOG_ODDS)
    distance_PJ = np.array(SCALES)[:, None] * to_probability(-log_odds_J / spread)
    inner_PJ = -to_log_odds(np.minimum(distance_PJ, 1)) * spread
    return np.where(distance_PJ >= 1, -np.inf, np.where(distance_PJ > 0, inner_PJ, np.inf))


def control_risk(
    held_out: HeldOutScores,
    costs: Sequence[float] | np.ndarray,
    max_accuracy_drop: float,
    confidence_level: float = 0.9,
    seed: int = 0,
) -> RiskControl:
    """The cheapest policy that loses at most ``max_accuracy_drop`` of the full network's accuracy on future samples.

    With probability ``confidence_level`` or more over the draw of the held-out samples, the promise holds. It assumes that they and the
    future samples are drawn independently from the same distribution. Where nothing can be promised, nobody leaves early.

    Args:
        held_out: The samples.
        costs: Cumulative cost per exit, in any unit.
        max_accuracy_drop: Largest loss, as a fraction of the samples: 0.01 is a point of a percent.
        confidence_level: Probability of the promise, in (0, 1).
        seed: Of the split of the samples.

    Raises:
        UserError: If a number is out of its range.
        ValueError: If the costs do not fit.
    """
    if not 0 < max_accuracy_drop < 1:
        raise UserError(f'max_accuracy_drop={max_accuracy_drop}: it is a fraction of the samples in (0, 1); 0.01 is one point of accuracy')
    if not 0 < confidence_level < 1:
        raise UserError(f'confidence_level={confidence_level}: it is a probability in (0, 1); 0.9 is usual, and 1 cannot be had')
    costs = check_costs(costs, held_out.num_exits)
    building_S, testing_S = split_samples(held_out.num_samples, seed)
    testing = held_out.select(testing_S)
    if len(building_S) == 0:
        return RiskControl(held_out.policy((NEVER,) * (held_out.num_exits - 1)), 0, 0, 0.0, testing.num_samples)
    family_PJ = _family(held_out.select(building_S), costs, max_accuracy_drop)
    exit_PS = np.stack([first_exit(testing.decision_scores, log_odds_J) for log_odds_J in family_PJ])
    loss_PS = testing.correct_ES[-1].astype(np.int8) - testing.correct_ES[exit_PS, np.arange(testing.num_samples)]
    p_value_P = drop_p_values(loss_PS, max_accuracy_drop, confidence_level)
    p_value_P[0] = 0  # the full network loses nothing, whatever the samples
    accepted_P = np.cumprod(p_value_P <= 1 - confidence_level).astype(bool)
    mean_cost_P = np.asarray(costs)[exit_PS].mean(1)
    best = int(np.where(accepted_P, mean_cost_P, np.inf).argmin())
    policy = held_out.exact_policy(family_PJ[best])
    return RiskControl(policy, int(accepted_P.sum()) - 1, len(family_PJ) - 1, float(p_value_P[best]), testing.num_samples)
