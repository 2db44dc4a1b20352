"""Held-out scores to policies: for given fractions per exit, for a budget, or for a largest loss of accuracy."""

from .budget import BudgetSearch, CostTable, TradeoffPoint, tradeoff_curve
from .calibrate import calibrate
from .exit_fractions import solve_thresholds
from .held_out_scores import Evaluation, HeldOutScores, evaluate, random_exit_baseline
from .temperature import fit_temperature

__all__ = [
    'BudgetSearch',
    'CostTable',
    'Evaluation',
    'HeldOutScores',
    'TradeoffPoint',
    'calibrate',
    'evaluate',
    'fit_temperature',
    'random_exit_baseline',
    'solve_thresholds',
    'tradeoff_curve',
]
